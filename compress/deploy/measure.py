"""Deployed files timed side by side, with their accuracy and agreement."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from ..data import Data
from ..data.split import Slice
from ..report.schema import BenchmarkRecord, NodeCounts, Profile
from ..siblings import runtimes
from ..stage import Progress, silent
from ..tasks.record import ScoreRecord
from ..tasks.resolve import require_fits, resolve
from ..tasks.task import Task
from .deployed import Deployed
from .facts import versions
from .parity import parity_on, scores, taken
from .profile import RUNS, executed_graph, needs, profile_file, roofline_of

_LOG = logging.getLogger(__name__)


def measure(
    files: Sequence[Deployed],
    *,
    request: runtimes.measure.request.Request | None = None,
    data: Data | None = None,
    task: Task | str | None = None,
    inputs: tuple[Tensor, ...] | None = None,
    progress: Progress = silent,
    parity_samples: int = 1024,
    device: runtimes.devices.device.Device | None = None,
    profile: bool = False,
) -> list[BenchmarkRecord]:
    """Each file's latency, memory, scores on the test split and agreement with its network, timed interleaved.

    Args:
        task: what a batch of the data means, or its name; left out, the one that fits. Without labels files are scored
            against the first network that one of them was made from.
        request: how they are timed; left out, by the quick preset in one thread.
        device: that runs them; left out, this machine.
        profile: tell where the time of each file goes as well, layer by layer.

    Raises:
        DeviceError, Interrupted: the device cannot be reached, or fails; the user wants no more. ``measurements`` of it
            are what was measured before.
    """
    timing = request or runtimes.measure.request.Request(runtimes.measure.presets.PRESETS["quick"])
    if data is not None:
        task = resolved = _task(files, data, task)
        for file in files:
            if file.network is not None and isinstance(resolved, Task):
                require_fits(resolved, file.network.model, data, ["test"])
    where = device or runtimes.devices.local.LocalDevice()
    where.require(timing, needs(profile), [] if data is None else [file.runs_in for file in files])
    measured = where.benchmark(
        [file.path for file in files],
        timing,
        engine=[file.engine for file in files],
        inputs=None if inputs is None else [file.feed(inputs, timing.threads, where) for file in files],
        progress=progress,
    )
    look = _Look(where, timing.threads, inputs, profile)
    records = []
    with runtimes.errors.keeping(lambda _: measured):  # the times are whole all the same
        for number, (file, measurement) in enumerate(zip(files, measured, strict=True)):
            progress("test the files", number, len(files), file.name)
            timed = _record(file, measurement, where.name).model_copy(update=look.into(file))
            records.append(_tested(file, timed, data, task, parity_samples, where))
    progress("test the files", len(files), len(files))
    return records


def _task(files: Sequence[Deployed], data: Data, task: Task | str | None) -> Task | str | None:
    """The task of the files, where one of them has a network that tells it."""
    network = next((file.network for file in files if file.network is not None), None)
    if network is None:
        return task
    resolved = resolve(task, network.model, data, network.example_inputs)
    return resolved.against(network.model)


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


def broken_off(
    files: Sequence[Deployed], error: runtimes.errors.DeviceError | runtimes.errors.Interrupted, device: str
) -> list[BenchmarkRecord]:
    """What was measured of these files before a device was lost, or the user wanted no more.

    Records of a loop that was not whole are not valid, and say why.
    """
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
    task: Task | str | None,
    parity_samples: int,
    device: runtimes.devices.device.Device,
) -> BenchmarkRecord:
    """The record with the file's scores on ``data`` and its agreement with its network."""
    scored: tuple[ScoreRecord, ...] = ()
    samples, parity = None, None
    if data is not None and "test" in data.splits:
        samples = len(data.splits["test"])
        scored = scores(file, data, task, record.threads or 1, device)
        if file.network is not None:
            resolved = resolve(task, file.network.model, data, file.network.example_inputs)
            first = Slice(data.split("test"), parity_samples)
            batches = [taken(file.network, resolved.read(each)) for each in first.batches(min(256, parity_samples))]
            parity = parity_on(file, batches, device=device, classes=resolved.classes is not None)
    elif file.network is not None and device.tells_outputs(file.runs_in):
        parity = parity_on(file, [file.network.example_inputs], device=device)
    found = {"scores": scored, "samples": samples, "parity": parity, "in_reference": not file.is_exact(device)}
    return record.model_copy(update=found)


@dataclass(frozen=True)
class _Look:
    """What is asked of the engine after files were timed: who ran their nodes, and how long each took."""

    device: runtimes.devices.device.Device
    threads: int
    inputs: tuple[Tensor, ...] | None
    profile: bool
    rooflines: list[runtimes.measure.modes.roofline.Roofline] = field(default_factory=list)

    def into(self, file: Deployed) -> dict[str, NodeCounts | Profile]:
        """The fields of a record that the executed nodes of a file tell; none where the engine does not tell them."""
        if not self.device.tells_outputs(file.runs_in):
            return {}
        inputs = self.inputs or (file.network.example_inputs if file.network is not None else None)
        runs = RUNS if self.profile else NODE_RUNS
        try:
            graph = executed_graph(file, inputs, self.threads, self.device, runs, by_layer=self.profile)
        except runtimes.errors.DeviceError:
            raise
        except runtimes.errors.RuntimesError:  # the file was timed: what it ran is not known
            graph = None
        told: dict[str, NodeCounts | Profile] = {}
        if graph is not None:
            values = graph.to_json()
            told["nodes"] = NodeCounts.model_validate({name: values[name] for name in NodeCounts.model_fields})
        if self.profile:
            roofline = self._roofline(file.runs_in)
            profile = profile_file(file, graph, file.network, roofline, self.threads, self.device)
            if profile is not None:
                told["profile"] = profile
            else:
                title = runtimes.facts.title_of(file.runs_in)
                _LOG.warning("profile %s: %s tells no time of single nodes", file.name, title)
        return told

    def _roofline(self, engine: str) -> runtimes.measure.modes.roofline.Roofline:
        """What the device can do at most, measured once."""
        if not self.rooflines:
            self.rooflines.append(roofline_of(self.device, engine, self.threads))
        return self.rooflines[0]
