"""compress quantize"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from . import options

if TYPE_CHECKING:
    from ..quantize.mixed import Mixed


@options.command("quantize", short_help="Find the integers for weights and activations.")
@options.network
@options.data
@click.option(
    "--scheme",
    type=click.Choice(options.SCHEMES),
    default="int8",
    show_default=True,
    help="Bits of weights (w) and activations (a); w8, w4, fp16 and bf16 store the weights alone in fewer bits. From "
    "binary on, weights of few levels, which want --epochs.",
)
@click.option(
    "--ends",
    type=click.Choice(["float", "w8", "same"]),
    default="float",
    show_default=True,
    help="The first and the last layer, where weights have few levels.",
)
@click.option(
    "--calibration",
    type=click.Choice(["minmax", "moving_average", "percentile", "entropy", "mse"]),
    default="minmax",
    show_default=True,
    help="How the range of an activation follows from its values.",
)
@click.option("--percentile", type=float, default=99.99, show_default=True, help="Of the values, for that calibration.")
@click.option(
    "--range-momentum", type=float, default=0.9, show_default=True, help="Of the averages, for moving_average."
)
@click.option(
    "--weight-calibration",
    type=click.Choice(["minmax", "mse"]),
    default="minmax",
    show_default=True,
    help="The range of a weight: all its values, or the least squared error of rounding.",
)
@click.option("--size", type=float, help="Store so many times fewer bytes than float: bits are chosen for each layer.")
@click.option(
    "--latency", type=float, help="Divide the latency by this: int8 or float for each layer, as measured here."
)
@click.option(
    "--sensitivity",
    type=click.Choice(["snr", "top1", "hessian"]),
    default="snr",
    show_default=True,
    help="What tells which layers need their bits: output noise, accuracy, or the curvature of the loss.",
)
@click.option(
    "--scan", type=options.PATH, help="What compress sensitivity --of quantize wrote, for --size or --latency."
)
@click.option("--per-channel/--per-tensor", default=True, show_default=True, help="Ranges of a weight.")
@click.option("--samples", type=int, default=256, show_default=True, help="Calibration samples at most.")
@click.option("--reestimate", is_flag=True, help="Measure batch norms again, on calibration samples, before folding.")
@click.option("--equalize", is_flag=True, help="Even out the ranges of channels between consecutive layers.")
@click.option("--absorb", is_flag=True, help="Move high biases into the next layer.")
@click.option("--smooth", help="SmoothQuant's alpha, 0 to 1, between layer norms and linear layers; or search.")
@click.option(
    "--bias-correction",
    type=click.Choice(["none", "empirical", "analytic"]),
    default="none",
    show_default=True,
    help="Take the mean error of rounding off the biases: as measured, or as batch norms tell.",
)
@click.option(
    "--rounding",
    type=click.Choice(["nearest", "adaround", "brecq"]),
    default="nearest",
    show_default=True,
    help="Of weights: adaround and brecq learn it from calibration samples, layer by layer or block by block.",
)
@click.option("--rounding-iterations", type=int, default=2000, show_default=True, help="Steps for a layer or block.")
@click.option(
    "--learned",
    type=click.Choice(["lsq", "lsq+", "pact"]),
    default="lsq",
    show_default=True,
    help="What a training (--epochs) learns besides weights: scales, zero points too, or clips of ReLUs.",
)
@click.option(
    "--target",
    type=click.Choice(options.TARGETS),
    help="The engine and processor that the result is for; left out, any.",
)
@click.option(
    "--revert-slower/--keep-slower",
    default=None,
    help="Compute in float what is slower in integers in ONNX Runtime here, as measured; left out, where --target is "
    "this machine's.",
)
@click.option("--fastest", is_flag=True, help="As --revert-slower, and all in float where that is faster still.")
@options.exclude
@click.option("--results", is_flag=True, help="Round results too, for files that give integers (export --interface).")
@options.teacher
@options.settings("quantize")
@options.output
@options.common
def command(exclude: tuple[str, ...], smooth: str | None, range_momentum: float, **values: Any) -> None:
    """Quantize to 8-bit integers after training: batch norms are folded, ranges observed on the calibration split.

    \b
    Example:
      compress quantize out/pruned --data digits -o out/int8
      compress quantize --model net.onnx --data calib.npz -o out/int8
      compress quantize out/pruned --data digits --scheme w4a8 --rounding adaround -o out/w4a8
      compress quantize out/pruned --data digits --size 6 -o out/mixed
      compress quantize out/pruned --data digits --epochs 5 --teacher out/base -o out/int8
      compress quantize out/base --scheme ternary --data digits --epochs 10 --lr 1e-3 --teacher out/base -o out/ternary
    """
    from ..quantize import Quantize
    from ..quantize.scheme import SCHEMES
    from .session import Options, apply_stage, configured, settings_of

    training = settings_of("quantize", values, Quantize).get("training")
    mixed = _mixed(values)
    names = [name for name in Quantize.model_fields if name in values]
    taken = {name: values.pop(name) for name in names}
    stage = configured(
        Quantize,
        {"momentum": "range_momentum"},
        exclude=exclude,
        momentum=range_momentum,
        smooth=_alpha(smooth),
        training=training,
        mixed=mixed,
        **taken,
    )
    scored = mixed is not None and mixed.scan is None
    needs_data = SCHEMES[stage.scheme].activation_bits is not None or training is not None or scored
    apply_stage(Options(**values), stage, "quantize", needs_data=needs_data)


def _mixed(values: dict[str, Any]) -> Mixed | None:
    """What --size, --latency, --sensitivity and --scan ask for; they are taken out of ``values``."""
    from ..errors import InvalidInput
    from ..quantize.mixed import Mixed
    from .session import configured

    taken = {name: values.pop(name) for name in ("size", "latency", "scan")}
    by = values.pop("sensitivity")
    if taken["size"] is None and taken["latency"] is None:
        if taken["scan"] is not None:
            raise InvalidInput("--scan: it tells what layers cost under a budget; give --size or --latency too")
        return None
    return configured(Mixed, {"by": "sensitivity"}, by=by, **taken)


def _alpha(text: str | None) -> float | str | None:
    """The number that ``text`` is, or what it says; the stage refuses what it does not know."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text
