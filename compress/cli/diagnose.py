"""compress diagnose"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .grammar import options

if TYPE_CHECKING:
    from torch import Tensor

    from ..data import Data
    from ..deploy import Deployed
    from ..sources.load import Network
    from .session import Options

BATCH = 8
"""Samples that are compared at a time."""


@options.command("diagnose", short_help="Show which layers of a file lose accuracy, and what would mend it.")
@options.network
@click.option("--file", type=options.PATH, help="That was exported from the network; left out, it is exported anew.")
@click.option("--format", "form", type=click.Choice(options.FORMATS), help="That it is exported to; ONNX if left out.")
@options.data
@click.option("--samples", type=click.IntRange(1, 10_000), default=32, show_default=True, help="That are compared.")
@options.option("--threads", common=True, type=options.THREADS, default=1, show_default=True, help="Of the engine.")
@click.option("--rows", type=click.IntRange(1, 10_000), default=20, show_default=True, help="That are shown.")
@options.common
def command(file: Path | None, form: str | None, samples: int, threads: int, rows: int, **values: Any) -> None:
    """What each layer of a file gives in its engine, beside what it gives in the network in float.

    A file in integers is near the network, or not; this tells where it departs. Of each layer there is the signal to
    noise ratio of what it gives, and the noise that it adds itself; the numbers that it ran in, and its time. The
    layers that add most are tried in float, each alone, and the outputs' gain is told, with the setting for it. Samples
    are of the validation split, or of the calibration split where there is none; without data the example inputs.

    \b
    Example:
      compress diagnose out/int8 --data digits
      compress diagnose out/int8 --file out/files/model.onnx --data digits --samples 128
    """
    import tempfile

    from ..deploy.diagnosis import diagnose
    from ..pipeline import fold_for_export
    from .output.diagnosis_table import diagnosis_table, lines
    from .session import Options

    call = Options(**values)
    data = call.load_data()
    network = fold_for_export(call.open(data))
    with tempfile.TemporaryDirectory() as folder:
        deployed = _deployed(call, network, file, form, Path(folder))
        found = diagnose(deployed, network, _batches(call, network, data, samples), threads)
    call.console.print(diagnosis_table(found, rows))
    for line in lines(found):
        call.console.print(f"  {line}", markup=False, highlight=False)
    call.tell(found)


def _deployed(call: Options, network: Network, file: Path | None, form: str | None, folder: Path) -> Deployed:
    """The file that was named, or the one that the network is exported to."""
    from .. import deploy
    from ..errors import InvalidInput
    from ..quantize.detect import detected
    from ..siblings import runtimes

    if file is None:
        wanted = deploy.Wanted(form)
        return deploy.export(network, call.specification(), folder / f"file{deploy.suffix_of(wanted)}", wanted)[1]
    if form is not None:
        raise InvalidInput(
            "diagnose: --file is a file that is there, and --format is for one to write; give one of them"
        )
    runtimes.runtime.existing(file)
    return deploy.Deployed(str(file), file, network, detected().target)


def _batches(call: Options, network: Network, data: Data | None, samples: int) -> list[tuple[Tensor, ...]]:
    """Inputs of the network, as many in each batch; its example inputs where there is no data."""
    from ..quantize.budget.sensitivity import batches_of, scored_split
    from ..stage import Context

    if data is None:
        return [network.example_inputs]
    context = Context(network.example_inputs, data, seed=call.seed, task=call.wanted_task).of(network.model)
    split, _ = scored_split(context)
    taken = [part for inputs, _ in batches_of(split, context, samples) for part in _parts(inputs)]
    return [inputs for inputs in taken if len(inputs[0]) == len(taken[0][0])]


def _parts(inputs: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(x.split(BATCH) for x in inputs), strict=True)
