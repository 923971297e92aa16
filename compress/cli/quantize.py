"""compress quantize"""

from __future__ import annotations

from typing import Any

from .grammar import options


@options.command("quantize", short_help="Find the integers for weights and activations.")
@options.network
@options.settings("quantize")
@options.device
@options.data
@options.teacher
@options.output
@options.common
def command(**values: Any) -> None:
    """Quantize to 8-bit integers after training: batch norms are folded, ranges observed on the calibration split.

    \b
    Example:
      compress quantize out/pruned --data digits -o out/int8
      compress quantize --model net.onnx --data calib.npz -o out/int8
      compress quantize out/pruned --data digits --scheme w4a8 --recover adaround -o out/w4a8
      compress quantize out/pruned --data digits --size 6 -o out/mixed
      compress quantize out/pruned --data digits --epochs 5 --teacher out/base -o out/int8
      compress quantize out/base --scheme ternary --data digits --epochs 10 --teacher out/base -o out/ternary
    """
    from ..quantize import Quantize
    from .session import run_stage

    run_stage(Quantize, "quantize", values)
