"""Files of the networks of a run, written and timed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from .. import deploy
from ..data import Data
from ..errors import InvalidInput
from ..fold import Fold
from ..graph.trace import one_sample
from ..preprocessing import bake
from ..quantize import TargetName
from ..recipe import Export, Recipe
from ..report.schema import BenchmarkRecord, ExportRecord
from ..siblings import runtimes
from ..sources.load import Network
from ..stage import Context, Progress
from ..tasks.task import Task

Device = runtimes.devices.device.Device


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


def require_devices(recipe: Recipe, data: Data | None, devices: Sequence[Device]) -> None:
    """Reach every device that is not this machine, and see that it can run and tell what the recipe's files give.

    Connections are closed again: there may be hours until they are needed.

    Raises:
        DeviceError: one cannot be reached, lacks an engine, or tells times alone where there is data to score.
    """
    for device in devices:
        if device.name == runtimes.devices.device.LOCAL:
            continue
        device.conditions()
        for export in recipe.exports:
            engine = deploy.engine_of(wanted(export, data).on(device))
            device.require(recipe.benchmark.request, outputs_of=[] if data is None else [engine])
            device.version(engine)
        device.close()


@dataclass(frozen=True)
class OnDevice:
    """What was measured on a device: for each export of a recipe, in its order, the file for it and how it did there.

    Args:
        device: what it is called.
        failure: of a device that was lost: what was measured before is there, and is not valid.
    """

    device: str
    exports: list[ExportRecord]
    benchmarks: list[BenchmarkRecord]
    failure: runtimes.errors.DeviceError | None = None

    @property
    def whole(self) -> list[BenchmarkRecord]:
        """The benchmarks that an outcome can be told from: none of a device that was lost."""
        return [] if self.failure is not None else self.benchmarks


def write_files(
    recipe: Recipe,
    networks: Mapping[str, Network],
    work: Path,
    data: Data | None,
    task: Task,
    announce: Callable[[int, str], None],
    progress: Progress,
    devices: Sequence[Device],
) -> tuple[list[ExportRecord], list[OnDevice]]:
    """The files that the recipe asks for, written to ``exports`` in ``work``, and how they do on each device.

    The folder is one that ``compress check`` reads. A device that fails does not keep the others from their turn.

    Args:
        networks: by the names of the steps that made them.
        task: what a batch of the data means.
        announce: told what is done next, by its number.
        progress: told how far the measuring is.
        devices: that the files are for, and timed on, one after the other.

    Raises:
        DeviceError: the only device fails.
    """
    folder = work / "exports"
    folder.mkdir(exist_ok=True)
    announce(0, "export")
    if not recipe.exports:
        return [], []
    asked, files_of = _asked(recipe, networks, data, devices)
    samples = max(each.check_samples for each in recipe.exports)
    made = {each[0].name: each for each in deploy.write_files(folder, asked, data, samples, progress, task)}
    sized = any(each.dynamic_size for each in recipe.exports)  # what a file leaves open, the samples tell
    inputs = one_sample(asked[0].network.example_inputs) if sized else None
    measured = []
    for number, (device, names) in enumerate(zip(devices, files_of, strict=True)):
        announce(len(recipe.exports) + number, "benchmark" + (f" on {device.name}" if len(devices) > 1 else ""))
        files = [(made[name][0], replace(made[name][1], target=target)) for name, target in names]
        measured.append(_measured(recipe, files, data, task, inputs, progress, device))
    failures = [each.failure for each in measured if each.failure is not None]
    if len(failures) == len(devices):
        raise failures[0]
    return [_placed(record) for record, _ in made.values()], measured


def _asked(
    recipe: Recipe, networks: Mapping[str, Network], data: Data | None, devices: Sequence[Device]
) -> tuple[list[deploy.Asked], list[list[tuple[str, TargetName]]]]:
    """The files to write, and for each device the name and the target of its file for each export.

    Devices share a file where its format is the same and, if the network has integers, their target.

    Raises:
        InvalidInput: the name of a file for another target is that of an export.
    """
    asked: dict[tuple[str, str, str], deploy.Asked] = {}
    files_of: list[list[tuple[str, TargetName]]] = [[] for _ in devices]
    names = {each.name for each in recipe.exports}
    for export in recipe.exports:
        network = ready_for_export(networks[export.after], export, data)
        for number, device in enumerate(devices):
            how = wanted(export, data).on(device)
            form, target = how.resolved()
            key = (export.name, form, target if network.encodings else "")
            if key not in asked:
                first = not any(other == export.name for other, _, _ in asked)
                name = export.name if first else f"{export.name}-{target}"
                if not first and name in names:
                    raise InvalidInput(
                        f"export {name}: {device.name} has a file of that name; call the export otherwise"
                    )
                asked[key] = deploy.Asked(name, network, how)
            files_of[number].append((asked[key].name, target))
    return list(asked.values()), files_of


def _measured(
    recipe: Recipe,
    files: Sequence[tuple[ExportRecord, deploy.Deployed]],
    data: Data | None,
    task: Task,
    inputs: tuple[Tensor, ...] | None,
    progress: Progress,
    device: Device,
) -> OnDevice:
    """How files do on a device; where it is lost, what was measured before."""
    deployed = [file for _, file in files]
    timing = recipe.benchmark
    failure = None
    try:
        benchmarks = deploy.measure(
            deployed,
            request=timing.request,
            data=data,
            task=task,
            inputs=inputs,
            progress=progress,
            device=device,
            profile=timing.profile,
        )
    except runtimes.errors.DeviceError as error:
        benchmarks, failure = deploy.broken_off(deployed, error, device.name), error
    exports = [_placed(record) for record, _ in files]
    placed = [
        record.model_copy(update={"file": export.file}) for record, export in zip(benchmarks, exports, strict=False)
    ]
    return OnDevice(device.name, exports, placed, failure)


def _placed(record: ExportRecord) -> ExportRecord:
    """The record with the file's place in the run's folder."""
    return record.model_copy(update={"file": f"exports/{record.file}"})
