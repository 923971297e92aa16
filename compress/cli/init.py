"""compress init"""

from __future__ import annotations

from typing import Any

import click

from ..presets import PRESETS
from .grammar import options


@options.command("init", short_help="Write a recipe for a network, to run or to change.")
@options.network
@options.option("--target", common=True, type=click.Choice(options.TARGETS), help="The engine and processor to end on.")
@options.option("--preset", common=True, type=click.Choice(PRESETS), help="Take the stages of this preset, to change.")
@options.data
@options.output
@options.common
def command(target: str | None, preset: str | None, **values: Any) -> None:
    """Write a recipe that runs: each stage that the network and its data allow, with a comment on what it does.

    A network that is trained already (an artifact, an ONNX file, or one with --weights) is not trained first; without
    labelled data nothing is trained, and without data the weights alone are quantized.

    \b
    Example:
      compress init resnet20 --data digits -o recipe.yaml
      compress init out/base --data digits --target ort-arm -o recipe.yaml
      compress run recipe.yaml -o out/small
      compress init out/base --data digits --preset best -o best.yaml
    """
    from rich.text import Text

    from ..files.outputs import write_text
    from .recipe_draft import Draft
    from .session import Options

    call = Options(**values)
    assert call.output is not None, "click requires --output"
    call.claim_output()
    data = call.load_data()
    network = call.open(data)
    draft = Draft(call, network, data, target, preset)
    write_text(call.output, draft.text(), overwrite=call.overwrite)
    call.console.print(Text(f"written: {call.output}"))
    call.console.print(Text(f"run it: {draft.run_line()}"))
    call.tell({"recipe": str(call.output), "stages": list(draft.stages()), "run": draft.run_line()})
