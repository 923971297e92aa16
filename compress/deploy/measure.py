"""Deployed files timed side by side, with their accuracy and agreement."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..data import Data
from ..report.schema import BenchmarkRecord, NodeCounts
from ..siblings import runtimes
from ..stage import Progress, silent
from ..tasks.classification import require_classifier
from .deployed import Deployed
from .facts import versions
from .parity import accuracy, parity_on, some, taken


def measure(
    files: Sequence[Deployed],
    *,
    request: runtimes.measure.request.Request | None = None,
    data: Data | None = None,
    inputs: tuple[Tensor, ...] | None = None,
    progress: Progress = silent,
    parity_samples: int = 1024,
) -> list[BenchmarkRecord]:
    """Each file's latency, memory, accuracy on the test split and agreement with its network, timed interleaved.

    Args:
        request: how they are timed; left out, by the quick preset in one thread.
    """
    timing = request or runtimes.measure.request.Request(runtimes.measure.presets.PRESETS["quick"])
    for file in files:
        if data is not None and file.network is not None:
            require_classifier(file.network.model, data, ["test"])
    measured = runtimes.measure.benchmark.benchmark(
        [file.path for file in files],
        timing,
        engine=[file.engine for file in files],
        inputs=None if inputs is None else [_feed(file, inputs, timing.options) for file in files],
        progress=progress,
    )
    records = []
    for number, (file, measurement) in enumerate(zip(files, measured, strict=True)):
        progress("test the files", number, len(files), file.name)
        nodes = _executed(file, inputs, timing.options)
        records.append(_record(file, measurement, nodes, data, parity_samples))
    progress("test the files", len(files), len(files))
    return records


def require_valid(records: Sequence[BenchmarkRecord]) -> None:
    """Raise InvalidMeasurement where some of the measurements broke a rule, with the reasons."""
    invalid = [record for record in records if record.valid is False]
    if invalid:
        reasons = "; ".join(dict.fromkeys(note for record in invalid for note in record.notes))
        raise runtimes.errors.InvalidMeasurement(
            f"{len(invalid)} of {len(records)} measurements are invalid ({reasons}); "
            "quiet the machine, or leave out --strict"
        )


def _record(
    file: Deployed,
    measurement: runtimes.measure.measurement.Measurement,
    nodes: NodeCounts | None,
    data: Data | None,
    parity_samples: int,
) -> BenchmarkRecord:
    """What was measured of a file, with its accuracy on ``data`` and its agreement with its network."""
    top1, samples, parity = None, None, None
    if data is not None and "test" in data.splits:
        samples = len(data.splits["test"])
        top1 = accuracy(file, data, measurement.threads)
        if file.network is not None:
            parity = parity_on(file, [(taken(file.network, x),) for (x,) in some(data, parity_samples)[0]])
    elif file.network is not None:
        parity = parity_on(file, [file.network.example_inputs])
    return BenchmarkRecord.of(
        measurement.to_json(),
        name=file.name,
        versions=versions(),
        nodes=nodes,
        top1=top1,
        samples=samples,
        parity=parity,
        in_reference=not file.is_exact,
    )


def _executed(
    file: Deployed, inputs: tuple[Tensor, ...] | None, options: runtimes.runtime.Options
) -> NodeCounts | None:
    """How many nodes the engine really runs by the type they compute in; None where it does not tell."""
    network_inputs = inputs or (file.network.example_inputs if file.network is not None else None)
    try:
        engine = runtimes.runtime.load(file.path, file.engine, options)
        try:
            arrays = None if network_inputs is None else [x.numpy() for x in network_inputs]
            feed = None if arrays is None else runtimes.bound.one_feed(engine, file.binding, arrays)
            graph = engine.executed_graph(feed)
        finally:
            engine.close()
    except runtimes.errors.RuntimesError:  # the file was timed: what it ran is not known
        return None
    return None if graph is None else NodeCounts(integer=graph.integer, float=graph.float, other=graph.other)


def _feed(file: Deployed, inputs: tuple[Tensor, ...], options: runtimes.runtime.Options) -> runtimes.runtime.Arrays:
    engine = runtimes.runtime.load(file.path, file.engine, options)
    try:
        return runtimes.bound.feed(engine, file.binding, [x.numpy() for x in inputs])
    finally:
        engine.close()
