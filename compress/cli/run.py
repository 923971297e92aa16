"""compress run"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .grammar import options


@options.command("run", short_help="Run a recipe from a network to measured files.")
@click.argument("recipe", required=False, type=options.PATH)
@click.option("--model", help="Use this network instead of the recipe's.")
@click.option("--data", help="Use this data instead of the recipe's.")
@click.option("--set", "overrides", multiple=True, metavar="KEY.KEY=VALUE", help="Change a setting of the recipe.")
@click.option("--trust", is_flag=True, help="Run code that the recipe, or weights in a pickle, name.")
@click.option("--schema", is_flag=True, help="Print the JSON schema of recipes, for editors, and stop.")
@click.option("-o", "--output", type=options.PATH, help="Where to write; must not exist.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), help="Use this seed instead of the recipe's.")
@options.telling
def command(
    recipe: Path | None,
    model: str | None,
    data: str | None,
    overrides: tuple[str, ...],
    trust: bool,
    schema: bool,
    seed: int | None,
    **values: Any,
) -> None:
    """Run a recipe: train or load, compress stage by stage, export, measure, report. Start it again to resume.

    \b
    Example:
      compress run recipes/demo.yaml -o out/demo
      compress run recipes/demo.yaml --set stages.0.prune.macs=2 -o out/half
    """
    if schema:
        _print_schema()
        return
    recipe = _require_recipe(recipe, values["output"], overwrite=values["overwrite"])
    from rich.text import Text

    from ..errors import GateFailed
    from ..pipeline import run
    from ..recipe import read
    from ..report import read as read_report
    from ..report import terminal
    from .session import Options, progress_bars

    call = Options(**values)
    assert call.output is not None, "it was asked for"
    changes = [*overrides]
    changes += [f"model={model}"] if model is not None else []
    changes += [f"data.source={data}"] if data is not None else []
    changes += [f"seed={seed}"] if seed is not None else []
    failure: GateFailed | None = None
    with progress_bars(call) as progress:
        try:
            wanted = read(recipe, changes)
            run(wanted, call.output, overwrite=call.overwrite, progress=progress, trust=trust)
        except GateFailed as error:
            failure = error
            if not call.output.exists():
                raise
    report = read_report(call.output)
    call.console.print(terminal(report))
    call.console.print(Text(f"written: {call.output / 'report.html'}"))
    call.tell(report)
    if failure is not None:
        raise failure


def _print_schema() -> None:
    import json

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
        raise InvalidInput("run: no recipe given; name a YAML file, as recipes/demo.yaml")
    require_file(recipe, "recipe")
    if output is None:
        raise InvalidInput("run: no output folder given; add -o FOLDER")
    require_free(output, overwrite=overwrite)
    return recipe
