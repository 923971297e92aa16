"""Options that commands share, spelled once."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ..siblings import export, runtimes
from .completion import data_sources, networks
from .parameters import DATA, NETWORK, OUTPUT, TELLING, Command, ListOption, Option

SCHEMES = (
    *("int8", "w4a8", "w8a16", "w8", "w4", "fp16", "bf16"),
    *("binary", "abc", "horq", "bwn", "w1a8", "ternary", "ttq", "w2a8", "w2a2", "w4a4", "pow2", "inq"),
)
TARGETS = tuple(runtimes.facts.targets())
FORMATS = tuple(export.facts.formats())
F = TypeVar("F", bound=Callable[..., Any])
PATH = click.Path(path_type=Path)
THREADS = click.IntRange(1, 1024)


class Finite(click.FloatRange):
    """A number in a range; NaN, which is neither above nor below, is in none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is no finite number.", param, ctx)
        return number


def _all(*decorators: Callable[[Any], Any]) -> Callable[[F], F]:
    def apply(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


def command(name: str, short_help: str) -> Callable[[Callable[..., Any]], Command]:
    """The decorator of a command of ours."""
    return click.command(name, cls=Command, short_help=short_help)


def option(*names: str, group: str = "", common: bool = False, **told: Any) -> Callable[[F], F]:
    """An option under a heading; ``common`` ones are shown by ``--help``."""
    return click.option(*names, cls=Option, group=group, common=common, **told)


def listed(*names: str, group: str = "", common: bool = False, **told: Any) -> Callable[[F], F]:
    """An option for several values, with commas or given several times."""
    return click.option(*names, cls=ListOption, group=group, common=common, **told)


input_shape = option(
    "--input-shape",
    "input_shapes",
    group=NETWORK,
    common=True,
    multiple=True,
    help="As 128, 3,224,224 or 1,3,224,224; once for each input. A batch of 1 is put in front where the network needs "
    "one.",
)
source = option(
    "--source",
    group=NETWORK,
    metavar="FILE.py:NAME",
    help="The code that builds an artifact's network, where it lies now.",
)
network = _all(
    click.argument("network", required=False, shell_complete=networks),
    option(
        "--model",
        group=NETWORK,
        shell_complete=networks,
        help="The network, where it is not the first argument: a zoo name (resnet20:width=32), file.py:callable, "
        "package.module:callable, an artifact folder, or a .onnx file.",
    ),
    option(
        "--weights",
        group=NETWORK,
        common=True,
        type=PATH,
        help="Safetensors, a state dict or a checkpoint to fill the network with; checkpoint.pt:model_ema for one of "
        "several state dicts in it.",
    ),
    option("--trust", group=NETWORK, is_flag=True, help="Run code that weights in a pickle, or an artifact, name."),
    source,
    input_shape,
)
data = _all(
    option(
        "--data",
        group=DATA,
        common=True,
        shell_complete=data_sources,
        help="digits, an image folder, an .npz, or file.py:callable that returns loaders.",
    ),
    option(
        "--mean",
        group=DATA,
        help="Of each channel on the scale 0..1, as 0.485,0.456,0.406; measured when left out.",
    ),
    option("--std", group=DATA, help="The standard deviation of each channel, likewise."),
)
output = option(
    "-o",
    "--output",
    group=OUTPUT,
    common=True,
    type=PATH,
    required=True,
    help="Where to write; must not exist.",
)


def _lift_limits(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    """Read files of any size until the command ends."""
    if wanted:
        context.with_resource(runtimes.untrusted.limits_lifted())


telling = _all(
    option("--overwrite", group=OUTPUT, common=True, is_flag=True, help="Replace what is at --output or --json-file."),
    option("--json", group=TELLING, common=True, is_flag=True, help="Tell the result as JSON, on stdout."),
    option("--json-file", group=TELLING, type=PATH, metavar="FILE.json", help="Write the result as JSON to this file."),
    option("-v", "--verbose", group=TELLING, is_flag=True, help="Tell every edit and every skipped layer."),
    option("-q", "--quiet", group=TELLING, is_flag=True, help="Tell errors only."),
    option(
        "--large-files",
        group=TELLING,
        is_flag=True,
        expose_value=False,
        callback=_lift_limits,
        help="Read arrays of more than 2 GiB, and other files of any size.",
    ),
    option("--debug", group=TELLING, is_flag=True, help="Show a traceback on errors."),
)
common = _all(
    option(
        "--seed",
        group=TELLING,
        type=click.IntRange(0, 2**32 - 1),
        default=0,
        show_default=True,
        help="Of everything random.",
    ),
    telling,
)


def training(
    epochs: int,
    learning_rate: float = 0.1,
    optimizer: str = "sgd",
    weight_decay: float = 5e-4,
    precision: str = "auto",
) -> Callable[[F], F]:
    """The options of a training, with the defaults of how long it lasts and how it learns."""
    return _all(
        option("--epochs", type=int, default=epochs, show_default=True, help="0 leaves the weights as they are."),
        option("--batch-size", type=int, default=128, show_default=True),
        option(
            "--lr", "learning_rate", type=float, default=learning_rate, show_default=True, help="Highest learning rate."
        ),
        option("--optimizer", type=click.Choice(["sgd", "adamw"]), default=optimizer, show_default=True),
        option("--weight-decay", type=float, default=weight_decay, show_default=True),
        option("--label-smoothing", type=float, default=0.0, show_default=True),
        option("--ema", type=float, help="Decay of a moving average of the weights, as 0.999."),
        option("--augment", help="flip, crop and cutout, with commas."),
        option(
            "--precision",
            type=click.Choice(["auto", "fp32", "bf16"]),
            default=precision,
            show_default=True,
            help="Of training; auto is bf16 where the processor or GPU has it.",
        ),
        option("--compiled", is_flag=True, help="By torch.compile: pays for few bits."),
        option("--accelerator", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True),
        option("--devices", type=int, default=1, show_default=True, help="Processes or GPUs."),
    )


teacher = _all(
    option("--teacher", help="A network to distil from, as --model takes it."),
    option("--temperature", type=float, default=4.0, show_default=True, help="Of the teacher's soft targets."),
    option("--teacher-weight", type=float, default=0.9, show_default=True, help="Of the soft targets in the loss."),
)
exclude = listed("--exclude", help="Layers to leave alone, by name or pattern (layer1.*).")
