"""Files of the networks of a run, written and timed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from .. import deploy
from ..data import Data
from ..errors import InvalidInput
from ..fold import Fold
from ..graph.trace import one_sample
from ..preprocessing import bake
from ..recipe import Export, Recipe
from ..report.schema import BenchmarkRecord, ExportRecord
from ..siblings import runtimes
from ..sources.load import Network
from ..stage import Context, Progress


def fold_for_export(network: Network) -> Network:
    """The network with its batch norms folded, as engines do on their own; a quantized one is folded already."""
    if network.encodings:
        return network
    folded = Fold().apply(network.model, Context(network.example_inputs))
    return replace(network, model=folded.model)


def wanted(export: Export, data: Data | None) -> deploy.Wanted:
    """How a file is to be written, with the labels that the data has."""
    names = (
        *("format", "target", "simplify", "opset", "dynamic_batch", "dynamic_size", "interface", "layout"),
        *("gpus", "dla_core"),
    )
    settings = {name: getattr(export, name) for name in names}
    return deploy.Wanted(**settings, packed=export.pack, labels=data.classes if data is not None else ())


def ready_for_export(network: Network, export: Export, data: Data | None) -> Network:
    """The network as its file has it: batch norms folded, with the data's preprocessing and for one sample if asked.

    Raises:
        InvalidInput: the preprocessing is to be in the file, and there is no data that tells it.
    """
    ready = fold_for_export(network)
    if export.bake_preprocessing:
        if data is None:
            raise InvalidInput("--bake-preprocessing: give --data, whose scale, mean and std go into the file")
        ready = bake(ready, data.preprocessing)
    return ready if export.dynamic_batch else replace(ready, example_inputs=one_sample(ready.example_inputs))


def write_files(
    recipe: Recipe,
    networks: Mapping[str, Network],
    work: Path,
    data: Data | None,
    announce: Callable[[int, str], None],
    progress: Progress,
    device: runtimes.devices.device.Device | None = None,
) -> tuple[list[ExportRecord], list[BenchmarkRecord], Network | None]:
    """The files that the recipe asks for, written to ``exports`` in ``work`` and timed; and the last one's network.

    The folder is one that ``compress check`` reads.

    Args:
        networks: by the names of the steps that made them.
        announce: told what is done next, by its number.
        progress: told how far the measuring is.
        device: that the files are for, and timed on; left out, this machine.
    """
    folder = work / "exports"
    folder.mkdir(exist_ok=True)
    if not recipe.exports:
        announce(0, "benchmark")
        return [], [], None
    announce(0, "export")
    asked = [
        deploy.Asked(each.name, ready_for_export(networks[each.after], each, data), wanted(each, data).on(device))
        for each in recipe.exports
    ]
    samples = max(each.check_samples for each in recipe.exports)
    made = deploy.write_files(folder, asked, data, samples, progress)
    announce(len(made), "benchmark")
    sized = any(each.dynamic_size for each in recipe.exports)  # what a file leaves open, the samples tell
    benchmarks = deploy.measure(
        [file for _, file in made],
        request=recipe.benchmark.request,
        data=data,
        inputs=one_sample(asked[0].network.example_inputs) if sized else None,
        progress=progress,
        device=device,
        profile=recipe.benchmark.profile,
    )
    exports = [record.model_copy(update={"file": f"exports/{record.file}"}) for record, _ in made]
    timed = [
        record.model_copy(update={"file": export.file}) for record, export in zip(benchmarks, exports, strict=True)
    ]
    return exports, timed, fold_for_export(networks[recipe.exports[-1].after])
