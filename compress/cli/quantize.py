"""compress quantize"""

from __future__ import annotations

from typing import Any

import click

from . import options


@click.command("quantize", short_help="Find the integers for weights and activations.")
@options.network
@options.data
@click.option("--scheme", type=click.Choice(["int8"]), default="int8", show_default=True)
@click.option("--calibration", type=click.Choice(["minmax", "percentile"]), default="minmax", show_default=True)
@click.option("--percentile", type=float, default=99.99, show_default=True, help="Of the values, for that calibration.")
@click.option("--samples", type=int, default=256, show_default=True, help="Calibration samples at most.")
@options.exclude
@options.output
@options.common
def command(
    scheme: str, calibration: str, percentile: float, samples: int, exclude: tuple[str, ...], **values: Any
) -> None:
    """Quantize to 8-bit integers after training: batch norms are folded, ranges observed on the calibration split.

    \b
    Example:
      compress quantize out/pruned --data digits -o out/int8
      compress quantize --model net.onnx --data calib.npz -o out/int8
    """
    from ..quantize import Quantize
    from .session import Options, apply_stage, configured

    stage = configured(
        Quantize, scheme=scheme, calibration=calibration, percentile=percentile, samples=samples, exclude=exclude
    )
    apply_stage(Options(**values), stage, "quantize", needs_data=True)
