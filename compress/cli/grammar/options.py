"""Options that commands share, spelled once."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ...siblings import export, runtimes
from ..completion import data_sources, networks
from . import generated
from .parameters import DATA, NETWORK, OUTPUT, TELLING, TRAINING, Command, ListOption, NetworkArgument, Option

SCHEMES = (
    *("int8", "w4a8", "w8a16", "w8", "w4", "fp16", "bf16"),
    *("binary", "abc", "horq", "bwn", "w1a8", "ternary", "ttq", "w2a8", "w2a2", "w4a4", "pow2", "inq"),
)
TARGETS = tuple(runtimes.facts.targets())
FORMATS = tuple(export.facts.formats())
BUILDERS = tuple(name for name, form in export.facts.formats().items() if form.gpus)
"""Formats whose builder needs no device."""
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


class Percent(Finite):
    """A number of percent, with or without its sign: "5%" and "5" are the same."""

    name = "percent"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(value.strip().removesuffix("%") if isinstance(value, str) else value, param, ctx)


class Words(click.Choice[str]):
    """Some of several words; the configuration refuses others, which it names with their place in the list."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value


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


LISTS = {"targets": TARGETS, "formats": FORMATS}
"""Choices that engines make, by their name in :class:`compress.core.settings.Setting`."""

TYPES = {"int": click.INT, "float": click.FLOAT, "path": PATH}


def settings(name: str, group: str = "") -> Callable[[F], F]:
    """The options of a configuration, as :mod:`compress.cli.generate` found them; what is not typed is None.

    Args:
        group: the heading of all of them, where it is not that of the configuration.
    """
    entries = generated.settings(name)
    return _all(*(_of_setting({**entry, "group": group} if group else entry) for entry in entries))


def _of_setting(entry: generated.Entry) -> Callable[[F], F]:
    shape = entry["type"]
    keywords: dict[str, Any] = {"default": None, "help": entry["help"], "metavar": entry.get("metavar")}
    flags = list(entry["flags"])
    if shape == "flag":
        keywords["is_flag"] = True
        flags[-1] += f"/{entry['off']}" if "off" in entry else ""
    elif "parts" in entry:
        keywords["type"] = Words(names := generated.parts(entry["parts"]))
        keywords |= {"names": names, "metavar": entry.get("metavar", "NAME")}
    elif isinstance(choices := entry.get("choices"), str):
        keywords["type"] = click.Choice(LISTS[choices])
    elif "choices" in entry:
        keywords["type"] = Words(entry["choices"]) if shape.startswith("list") else click.Choice(entry["choices"])
    else:
        keywords["type"] = TYPES.get(shape)
    return click.option(
        *flags,
        cls=ListOption if shape.startswith("list") or shape == "mapping" else Option,
        setting=entry["name"],
        group=entry.get("group", ""),
        common=entry.get("common", False),
        default_told=entry.get("default", ""),
        **keywords,
    )


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
    click.argument("network", cls=NetworkArgument, required=False, shell_complete=networks),
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
    option(
        "--task",
        group=DATA,
        common=True,
        metavar="TASK",
        help=f"What a batch means: {', '.join(generated.parts('tasks/built_in'))} (outputs needs no labels: to give "
        "what the network gave), or file.py:task of your own; left out, the one that fits.",
    ),
    option("--std", group=DATA, help="The standard deviation of each channel, likewise."),
    settings("data", group=DATA),
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


logged = _all(
    option(
        "--log",
        group=OUTPUT,
        type=PATH,
        metavar="FILE.jsonl",
        help="Add the measurements to this log, for compress compare --log. What is in it stays.",
    ),
    option("--label", group=OUTPUT, help="What the log is to call this state of the files, as main or v1.2."),
)


def _lift_limits(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    """Read files of any size until the command ends."""
    if wanted:
        context.with_resource(runtimes.files.untrusted.limits_lifted())


device = _all(
    listed(
        "--on",
        common=True,
        metavar="DEVICE",
        help="Where files run: local, ssh://user@board, adb:SERIAL, or a name in devices.yaml; several in turn.",
    ),
    option(
        "--devices-file",
        type=PATH,
        metavar="FILE.yaml",
        help="Where devices are named; devices.yaml in the current folder if left out.",
    ),
)

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


teacher = option(
    "--teacher",
    group=TRAINING,
    common=True,
    shell_complete=networks,
    help="A network to distil from, as --model takes it.",
)
exclude = listed("--exclude", help="Layers to leave alone, by name or pattern (layer1.*).")
