"""compress run"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..presets import PRESETS, path
from .completion import networks, recipes
from .grammar import options

if TYPE_CHECKING:
    from ..recipe import Recipe

RANDOM = (
    "its weights are random: sizes and speeds mean something, accuracy does not; give --weights FILE, or train it "
    "first with --set train.epochs=10"
)


@options.command("run", short_help="Run a recipe from a network to measured files.")
@click.argument("recipe", required=False, type=options.PATH, shell_complete=recipes)
@click.argument("network", required=False, shell_complete=networks)
@click.option("--model", help="Use this network instead of the recipe's; or name it after the recipe.")
@click.option("--weights", help="Fill the network with these weights instead of the recipe's.")
@click.option("--data", help="Use this data instead of the recipe's.")
@click.option("--set", "overrides", multiple=True, metavar="KEY.KEY=VALUE", help="Change a setting of the recipe.")
@click.option("--trust", is_flag=True, help="Run code that the recipe, or weights in a pickle, name.")
@click.option("--schema", is_flag=True, help="Print the JSON schema of recipes, for editors, and stop.")
@click.option("-o", "--output", type=options.PATH, help="Where to write; must not exist.")
@options.logged
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), help="Use this seed instead of the recipe's.")
@options.listed(
    "--on",
    metavar="DEVICE",
    help="Take latencies on these devices instead of the recipe's; those of the first decide. See bench --on.",
)
@click.option("--devices-file", type=options.PATH, metavar="FILE.yaml", help="Where devices are named.")
@options.telling
def command(
    recipe: Path | None,
    network: str | None,
    model: str | None,
    weights: str | None,
    data: str | None,
    overrides: tuple[str, ...],
    trust: bool,
    schema: bool,
    seed: int | None,
    on: tuple[str, ...],
    log: Path | None,
    label: str | None,
    **values: Any,
) -> None:
    """Run a recipe: train or load, compress stage by stage, export, measure, report. Start it again to resume.

    The recipe is a YAML file, or the name of one that comes with the package, for a trained NETWORK and data: fast
    (pruned a little and in int8 without training, in minutes) or best (with fine-tuning, in hours).

    \b
    Example:
      compress run fast out/base --data digits -o out/fast
      compress run recipes/demo.yaml -o out/demo
      compress run recipes/demo.yaml --set stages.0.prune.macs=2 -o out/half
      compress run fast out/base --data digits --on ssh://pi@board -o out/board
    """
    if schema:
        _print_schema()
        return
    from .grammar.refusals import one_network

    model = one_network(network, model) if network else model
    recipe = _preset_file(recipe, model, data)
    recipe = _require_recipe(recipe, values["output"], overwrite=values["overwrite"])
    named = {"model": model, "weights": weights, "data.source": data, "seed": seed}
    changes = [*overrides, *(f"{key}={value}" for key, value in named.items() if value is not None)]
    if on:
        changes.append(f"device={json.dumps(on[0] if len(on) == 1 else on)}")
    if log is not None:
        from ..compare.log import require_log

        require_log(log)
    _run(recipe, changes, trust, values, log, label)


def _run(
    recipe: Path, changes: list[str], trust: bool, values: dict[str, Any], log: Path | None, label: str | None
) -> None:
    """Run the recipe, and tell what came of it."""
    from rich.text import Text

    from .. import deploy
    from ..errors import GateFailed
    from ..pipeline import run
    from ..recipe import read
    from ..report import read as read_report
    from ..report import terminal
    from .session import Options, progress_bars

    call = Options(**values)
    assert call.output is not None, "it was asked for"
    failure: GateFailed | None = None
    with progress_bars(call) as progress:
        try:
            wanted = read(recipe, changes)
            if _is_random(wanted):
                call.console.print(Text(f"{wanted.model}: {RANDOM}"))
            run(
                wanted, call.output, overwrite=call.overwrite, progress=progress, trust=trust, devices=call.devices_file
            )
        except GateFailed as error:
            failure = error
            if not call.output.exists():
                raise
    report = read_report(call.output)
    call.console.print(terminal(report))
    call.console.print(Text(f"written: {call.output / 'report.html'}"))
    call.tell(report)
    if log is not None:
        from ..compare.log import append
        from ..compare.read import records_of

        append(log, records_of(report, label))
    if failure is not None:
        raise failure
    if wanted.benchmark.strict:
        deploy.require_valid(report.benchmarks)


def _print_schema() -> None:
    from ..recipe import schema

    click.echo(json.dumps(schema(), indent=1))


def _require_recipe(recipe: Path | None, output: Path | None, *, overwrite: bool) -> Path:
    """The file of the recipe, looked at with ``output`` before torch is imported.

    Raises:
        InvalidInput: one of the two is not given, there is no such file, or the output is there already.
    """
    from ..errors import InvalidInput
    from ..files.outputs import require_free
    from ..files.untrusted import require_file

    if recipe is None:
        raise InvalidInput("run: no recipe given; name a YAML file, as recipes/demo.yaml, or fast or best")
    require_file(recipe, "recipe")
    if output is None:
        raise InvalidInput("run: no output folder given; add -o FOLDER")
    require_free(output, overwrite=overwrite)
    return recipe


def _preset_file(recipe: Path | None, model: str | None, data: str | None) -> Path | None:
    """The recipe's file, be it that of a preset.

    Raises:
        InvalidInput: a preset without a network or data.
    """
    if recipe is None or str(recipe) not in PRESETS or recipe.is_file():
        return recipe
    from ..errors import InvalidInput
    from ..sources.specification import parse, require_data
    from .grammar import generated

    usage = f"compress run {recipe} NETWORK --data DATA -o FOLDER"
    if model is None:
        raise InvalidInput(f"run {recipe}: no network given; {usage}")
    if data is None:
        raise InvalidInput(f"run {recipe}: no data given, which it calibrates on; {usage}")
    require_data(data)
    if not Path(model).is_dir():
        parse(model, zoo=generated.table()["zoo"])
    return path(str(recipe))


def _is_random(recipe: Recipe) -> bool:
    """Whether the baseline is a network of the zoo that nothing fills or trains."""
    from ..sources.specification import parse

    named = recipe.weights is not None or recipe.train is not None or Path(recipe.model).is_dir()
    return not named and parse(recipe.model).kind == "zoo"
