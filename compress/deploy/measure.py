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
    device: runtimes.devices.device.Device | None = None,
) -> list[BenchmarkRecord]:
    """Each file's latency, memory, accuracy on the test split and agreement with its network, timed interleaved.

    Args:
        request: how they are timed; left out, by the quick preset in one thread.
        device: that runs them; left out, this machine.

    Raises:
        DeviceError: the device cannot be reached, or fails; ``measurements`` of it are what was measured before.
    """
    timing = request or runtimes.measure.request.Request(runtimes.measure.presets.PRESETS["quick"])
    for file in files:
        if data is not None and file.network is not None:
            require_classifier(file.network.model, data, ["test"])
    where = device or runtimes.devices.local.LocalDevice()
    measured = where.benchmark(
        [file.path for file in files],
        timing,
        engine=[file.engine for file in files],
        inputs=None if inputs is None else [_feed(file, inputs, timing.threads, where) for file in files],
        progress=progress,
    )
    records = []
    try:
        for number, (file, measurement) in enumerate(zip(files, measured, strict=True)):
            progress("test the files", number, len(files), file.name)
            timed = _record(file, measurement, where.name)
            nodes = _executed(file, inputs, timing.threads, where)
            records.append(_tested(file, timed.model_copy(update={"nodes": nodes}), data, parity_samples, where))
    except runtimes.errors.DeviceError as error:  # the times are whole all the same
        error.measurements = error.measurements or measured
        raise
    progress("test the files", len(files), len(files))
    return records


NODE_RUNS = 5
"""Of a file, after it was timed, for who ran its nodes and how long."""


def require_valid(records: Sequence[BenchmarkRecord]) -> None:
    """Raise InvalidMeasurement where some of the measurements broke a rule, with the reasons."""
    invalid = [record for record in records if record.valid is False]
    if invalid:
        reasons = "; ".join(dict.fromkeys(note for record in invalid for note in record.notes))
        raise runtimes.errors.InvalidMeasurement(
            f"{len(invalid)} of {len(records)} measurements are invalid ({reasons}); "
            "quiet the machine, or leave out --strict"
        )


def broken_off(files: Sequence[Deployed], error: runtimes.errors.DeviceError, device: str) -> list[BenchmarkRecord]:
    """What was measured of these files before a device was lost: records that are not valid, and say why."""
    return [_record(file, measurement, device) for file, measurement in zip(files, error.measurements, strict=False)]


def _record(file: Deployed, measurement: runtimes.measure.measurement.Measurement, device: str) -> BenchmarkRecord:
    """What was measured of a file."""
    is_local = device == runtimes.devices.device.LOCAL
    told = measurement.to_json()
    return BenchmarkRecord.of(
        told, name=file.name, device=None if is_local else device, versions=versions() if is_local else {}
    )


def _tested(
    file: Deployed,
    record: BenchmarkRecord,
    data: Data | None,
    parity_samples: int,
    device: runtimes.devices.device.Device,
) -> BenchmarkRecord:
    """The record with the file's accuracy on ``data`` and its agreement with its network."""
    top1, samples, parity = None, None, None
    if data is not None and "test" in data.splits:
        samples = len(data.splits["test"])
        top1 = accuracy(file, data, record.threads or 1, device)
        if file.network is not None:
            batches = [(taken(file.network, x),) for (x,) in some(data, parity_samples)[0]]
            parity = parity_on(file, batches, device=device)
    elif file.network is not None:
        parity = parity_on(file, [file.network.example_inputs], device=device)
    found = {"top1": top1, "samples": samples, "parity": parity, "in_reference": not file.is_exact(device)}
    return record.model_copy(update=found)


def _executed(
    file: Deployed,
    inputs: tuple[Tensor, ...] | None,
    threads: int,
    device: runtimes.devices.device.Device,
) -> NodeCounts | None:
    """How many nodes the engine really runs by the type they compute in; None where it does not tell."""
    network_inputs = inputs or (file.network.example_inputs if file.network is not None else None)
    try:
        engine = _as_it_is(file, threads, device)
        try:
            arrays = None if network_inputs is None else [x.numpy() for x in network_inputs]
            feed = None if arrays is None else runtimes.bound.one_feed(engine, file.binding, arrays)
            graph = engine.executed_graph(feed, runs=NODE_RUNS)
        finally:
            engine.close()
    except runtimes.errors.DeviceError:
        raise
    except runtimes.errors.RuntimesError:  # the file was timed: what it ran is not known
        return None
    if graph is None:
        return None
    told = graph.to_json()
    return NodeCounts.model_validate({name: told[name] for name in NodeCounts.model_fields})


def _feed(
    file: Deployed, inputs: tuple[Tensor, ...], threads: int, device: runtimes.devices.device.Device
) -> runtimes.runtime.Arrays:
    engine = _as_it_is(file, threads, device)
    try:
        return runtimes.bound.feed(engine, file.binding, [x.numpy() for x in inputs])
    finally:
        engine.close()


def _as_it_is(file: Deployed, threads: int, device: runtimes.devices.device.Device) -> runtimes.runtime.Runtime:
    """The file as it was timed, also where the device computes its integers otherwise than its target's."""
    engine = file.engine or runtimes.facts.engine_of(file.path)
    return device.load(file.path, engine, runtimes.runtime.Options(threads))
