"""Files of the networks of a run, written and timed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from .. import deploy
from ..data import Data
from ..fold import Fold
from ..load import Network
from ..recipe import Export, Recipe
from ..report.schema import BenchmarkRecord, ExportRecord
from ..stage import Context, Progress


def _export(wanted: Export, network: Network, work: Path) -> tuple[ExportRecord, deploy.Deployed]:
    asked = deploy.Wanted(**wanted.model_dump(exclude={"name", "after"}))
    path = work / "exports" / f"{wanted.name}{deploy.suffix_of(asked)}"
    return deploy.export(fold_for_export(network), wanted.name, path, asked, shown=f"exports/{path.name}")


def fold_for_export(network: Network) -> Network:
    """The network with its batch norms folded, as engines do on their own; a quantized one is folded already."""
    if network.encodings:
        return network
    folded = Fold().apply(network.model, Context(network.example_inputs))
    return replace(network, model=folded.model)


def write_files(
    recipe: Recipe,
    networks: Mapping[str, Network],
    work: Path,
    data: Data | None,
    announce: Callable[[int, str], None],
    progress: Progress,
) -> tuple[list[ExportRecord], list[BenchmarkRecord], Network | None]:
    """The files that the recipe asks for, written to ``exports`` in ``work`` and timed; and the last one's network.

    Args:
        networks: by the names of the steps that made them.
        announce: told what is done next, by its number.
        progress: told how far the measuring is.
    """
    (work / "exports").mkdir(exist_ok=True)
    exports: list[ExportRecord] = []
    files: list[deploy.Deployed] = []
    for number, wanted in enumerate(recipe.exports):
        announce(number, f"export {wanted.name}")
        exported, file = _export(wanted, networks[wanted.after], work)
        exports.append(exported)
        files.append(file)
    announce(len(files), "benchmark")
    if not files:
        return exports, [], None
    timing = recipe.benchmark
    records = deploy.measure(files, threads=timing.threads, preset=timing.preset, data=data, progress=progress)
    benchmarks = [
        record.model_copy(update={"file": f"exports/{file.path.name}"})
        for record, file in zip(records, files, strict=True)
    ]
    return exports, benchmarks, files[-1].network
