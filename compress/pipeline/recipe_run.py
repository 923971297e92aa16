"""A recipe's stages in order, each measured before and after, then the files, then the report."""

from __future__ import annotations

import json
import logging
import shlex
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from shutil import rmtree
from typing import Any

from torch import Tensor, nn

from .. import deploy
from ..data import Data
from ..data import load as load_data
from ..errors import GateFailed, InvalidInput
from ..files.outputs import require_apart, resumable_folder
from ..recipe import Recipe
from ..recipe import read as read_recipe
from ..report import write as write_report
from ..report.schema import DataRecord, DeviceOutcome, Gate, Layers, Report, StageRecord, Summary
from ..siblings import runtimes
from ..sources import artifact
from ..sources.load import Network, require_named
from ..stage import Context, Progress, silent
from ..tasks.resolve import read_task, require_fits
from ..tasks.task import Task
from .files import OnDevice, fold_for_export, require_devices, write_files
from .gates import check_gates, layers, require_scores, restoration_gates, summary
from .images import sized
from .resume import ORIGIN, Origin, fingerprint, origin
from .source import open_network
from .step import advance, train

RESUME = "resume"
"""The folder, in that of an unfinished run, of what its steps go on from."""

Device = runtimes.devices.device.Device

_LOG = logging.getLogger(__name__)


def run(
    recipe: Recipe | Path | str,
    output: Path | str,
    *,
    overwrite: bool = False,
    progress: Progress = silent,
    trust: bool = False,
    devices: Path | None = None,
) -> Report:
    """Run a recipe from beginning to end and write everything to the folder ``output``.

    The folder holds an artifact per step, ``exports/``, ``report.json`` and ``report.html``. A run that was interrupted
    goes on after the last complete step (and within a training after the last epoch) when it is started again. Steps
    whose settings, data, code, versions or networks before them have changed since then are begun anew.

    Args:
        trust: run code that the recipe's file, an artifact or a pickle of weights names, though the user did not.
        devices: the file that names devices; left out, ``devices.yaml`` in the current folder.

    Raises:
        InvalidInput: the recipe, network or data cannot be used, or its file names code that the user did not name.
        DeviceError: the recipe's device cannot be reached, or fails.
        GateFailed: a gate of the recipe does not hold; everything was written all the same.
    """
    recipe = recipe if isinstance(recipe, Recipe) else read_recipe(Path(recipe))
    for code, option in () if trust else recipe.code_of_its_file():
        require_named(code, f"recipe {recipe.file}", named_by=option)
    output = Path(output)
    inputs = (recipe.model, recipe.weights, recipe.data and recipe.data.source, recipe.file)
    require_apart(output, [words for words in inputs if words])
    with resumable_folder(output, overwrite=overwrite) as work:
        data = _data(recipe)
        try:
            with deploy.opened(recipe.devices, devices, progress) as opened:
                for device in opened:
                    device.require(recipe.benchmark.request, deploy.needs(recipe.benchmark.profile))
                report, lost = _run(recipe, work, data, progress, trust, opened)
        except BaseException as error:
            if not _begun(work):
                _empty(work, ())
            elif isinstance(error, KeyboardInterrupt):
                error.add_note("the same command goes on from there")
            raise
        rmtree(work / RESUME)
    if lost:
        raise type(lost[0])(f"{lost[0]} ({len(lost)} of {len(recipe.devices)} devices; {output} has the others)")
    failed = [gate for gate in report.gates if not gate.passed]
    if failed:
        reasons = "; ".join(f"{gate.title}: expected {gate.expected}, got {gate.got}" for gate in failed)
        raise GateFailed(f"{output}: {len(failed)} of {len(report.gates)} gates failed: {reasons}")
    return report


def _data(recipe: Recipe) -> Data | None:
    shapes = recipe.input_shapes
    return load_data(sized(recipe.data, [recipe.model], shapes), recipe.seed) if recipe.data else None


def _begun(work: Path) -> bool:
    """Whether there is something in ``work`` to go on from: a whole step, or a checkpoint of one."""
    marks = (path for path in work.glob(f"{RESUME}/*/*") if path.name != ORIGIN)
    return any(artifact.is_artifact(path) for path in work.iterdir()) or any(marks)


def _empty(folder: Path, keep: Collection[str]) -> None:
    """Remove all that is in ``folder`` but the names in ``keep``."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name not in keep:
            rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _kept(work: Path, step: str, now: Origin, trust: bool) -> Network | None:
    """The network of a step that an earlier attempt completed from the same origin.

    Where there is none, what is kept of the step are checkpoints from the same origin, and nothing else.
    """
    folder, marks = work / step, work / RESUME / step
    reason = ""
    if folder.exists() or marks.exists():
        other = now.other_than(marks)
        reason = f"{other} changed since then" if other else ""
        if not reason and folder.exists():
            try:
                return artifact.load(folder, trust=trust)
            except InvalidInput as error:
                reason = str(error)
    if reason:
        lost = folder.exists() or any(path.name != ORIGIN for path in marks.iterdir())
        if lost:
            _LOG.warning("step %s, from an interrupted run, is begun anew: %s", step, reason)
        _empty(work, {path.name for path in work.iterdir()} - {step})
        _empty(marks, ())
    marks.mkdir(parents=True, exist_ok=True)
    now.write(marks)
    return None


def _run(
    recipe: Recipe, work: Path, data: Data | None, progress: Progress, trust: bool, devices: Sequence[Device]
) -> tuple[Report, list[runtimes.errors.DeviceError]]:
    """The report, and what devices failed with that were lost while others were not."""
    require_devices(recipe, data, devices)
    steps = _Steps(recipe, work, data, progress, trust, deploy.MachineClock(device=_far(devices[0])), len(devices))
    steps.prepare()
    for number in range(len(steps.names)):
        steps.take(number)

    def announce(number: int, note: str) -> None:
        progress("recipe", len(steps.names) + number, steps.total, note)

    exports, measured = write_files(recipe, steps.networks, work, data, steps.task, announce, progress, devices)
    progress("recipe", steps.total - 1, steps.total, "report")
    first, last = steps.networks["baseline"], steps.last
    assert last is not None, "the first step makes the baseline"
    if recipe.exports:
        last = fold_for_export(steps.networks[recipe.exports[-1].after])
    reached, outcomes, gates = _outcome(recipe, measured, first, last)
    lost = {each.device: each.failure for each in measured if each.failure is not None}
    report = Report(
        created=datetime.now(UTC),
        command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        recipe=recipe.model_dump(mode="json", exclude_unset=True),
        recipe_digest=recipe.digest,
        seed=recipe.seed,
        machine=deploy.machine() | _facts(devices, lost),
        versions=deploy.versions(),
        model=str(first.source),
        data=DataRecord(name=data.name, samples={k: len(v) for k, v in data.splits.items()}) if data else None,
        stages=tuple(steps.records),
        exports=tuple(exports),
        benchmarks=tuple(record for each in measured for record in each.benchmarks),
        layers=Layers(before=layers(first), after=layers(last)),
        summary=reached,
        devices=outcomes,
        gates=(*restoration_gates(steps.records), *gates),
    )
    write_report(report, work)
    progress("recipe", steps.total, steps.total, "done")
    return report, list(lost.values())


def _far(device: Device) -> Device | None:
    """A device that is not this machine; else None."""
    return None if device.name == runtimes.devices.device.LOCAL else device


def _facts(devices: Sequence[Device], lost: Collection[str]) -> dict[str, Any]:
    """Of the devices that are not this machine and were not lost."""
    far = [device for device in devices if _far(device) is not None and device.name not in lost]
    facts = [runtimes.devices.device.facts_of(device) for device in far]
    if len(devices) > 1:
        return {"devices": facts}
    return {"device": facts[0]} if facts else {}


def _outcome(
    recipe: Recipe, measured: Sequence[OnDevice], first: Network, last: Network
) -> tuple[Summary, tuple[DeviceOutcome, ...], tuple[Gate, ...]]:
    """The outcome on the first device, on each where there are several, and the gates on each."""
    if not measured:
        reached = summary([], [], first, last)
        return reached, (), check_gates(recipe.gates, reached, [], [])
    several = len(measured) > 1
    outcomes: list[DeviceOutcome] = []
    gates: list[Gate] = []
    for number, each in enumerate(measured):
        reached = summary(each.exports, each.whole, first, last)
        failure = str(each.failure) if each.failure is not None else None
        outcomes.append(DeviceOutcome(device=each.device, summary=reached, failure=failure))
        wanted = recipe.gates.model_copy(update={"macs_ratio": None}) if number else recipe.gates  # of no device
        told = check_gates(wanted, reached, each.exports, each.whole)
        gates += [gate.model_copy(update={"device": each.device}) for gate in told] if several else told
    return outcomes[0].summary, tuple(outcomes) if several else (), tuple(gates)


@dataclass
class _Steps:
    """The steps of a run, the baseline first: the networks so far, by step, the last one, and accounts of stages."""

    recipe: Recipe
    work: Path
    data: Data | None
    progress: Progress
    trust: bool
    clock: deploy.MachineClock
    devices: int = 1
    networks: dict[str, Network] = field(default_factory=dict)
    records: list[StageRecord] = field(default_factory=list)
    last: Network | None = None

    @cached_property
    def names(self) -> list[str]:
        return ["baseline", *self.recipe.step_names]

    @cached_property
    def folders(self) -> list[str]:
        return [f"{number}-{name}" for number, name in enumerate(self.names)]

    @property
    def total(self) -> int:
        """Of all that progress is told of: the steps, the files, measuring them on each device, the report."""
        return len(self.names) + len(self.recipe.exports) + self.devices + 1

    @cached_property
    def _samples(self) -> str:
        return fingerprint(self.data)

    def prepare(self) -> None:
        """Leave in the folder what belongs to these steps alone, and the recipe."""
        _empty(self.work, {RESUME, *self.folders})
        _empty(self.work / RESUME, self.folders)
        (self.work / "recipe.json").write_text(
            json.dumps({"digest": self.recipe.digest, "recipe": self.recipe.model_dump(mode="json")}, indent=1),
            encoding="utf-8",
        )

    def take(self, number: int) -> None:
        """Take a step, or go on from what an earlier attempt made of it."""
        name, folder = self.names[number], self.folders[number]
        self.progress("recipe", number, self.total, name)
        marks = self.work / RESUME / folder
        network = self.last
        teacher = self.networks["baseline"] if number and self.recipe.teacher == "baseline" else None
        now = origin(_settings(self.recipe, number), self.recipe.seed, self._samples, network, teacher)
        made = _kept(self.work, folder, now, self.trust)
        if made is not None:
            recorded = artifact.read_manifest(self.work / folder)["metrics"]
            self.records += [StageRecord.model_validate(recorded["stage"])] if "stage" in recorded else []
        else:
            made, record = self._made(number, network, teacher, marks)
            now.write(marks)
            metrics = {"stage": record.model_dump(mode="json")} if record is not None else {}
            artifact.save(made, self.work / folder, metrics=metrics)
            self.records += [record] if record is not None else []
        _empty(marks, {ORIGIN})
        if self.data is not None and self.recipe.exports and number == 0:
            context = self._context(None, made.example_inputs, marks)
            require_fits(context.task_of(made.model), made.model, self.data, ["test"])
        self.networks[name] = self.last = made

    def _made(
        self, number: int, network: Network | None, teacher: Network | None, marks: Path
    ) -> tuple[Network, StageRecord | None]:
        """The network of a step, and the account of it where it was a stage."""
        recipe, data = self.recipe, self.data
        if network is None:
            return _baseline(recipe, data, self._context(None, (), marks), self.trust)
        model = teacher.model if teacher is not None else None
        context = self._context(model, network.example_inputs, marks)
        if teacher is not None:
            context = replace(context, edits=network.edits_since(teacher))
        before = self.records[-1].after if self.records else None
        return advance(network, recipe.stages[number - 1].stage, context, name=self.names[number], before=before)

    def _context(self, teacher: nn.Module | None, example_inputs: tuple[Tensor, ...], checkpoints: Path) -> Context:
        return Context(
            example_inputs,
            self.data,
            teacher,
            self.recipe.seed,
            self.progress,
            str(checkpoints),
            self.clock,
            self.task if self.networks else self.wanted_task,
        )

    @cached_property
    def wanted_task(self) -> Task | str | None:
        """The task of the user's that the recipe names, read once, or the name of one of the project's."""
        return read_task(self.recipe.task)

    @cached_property
    def task(self) -> Task:
        """What a batch means, for all steps: where it has no labels, it is measured against the baseline."""
        baseline = self.networks["baseline"]
        return Context(baseline.example_inputs, self.data, task=self.wanted_task).task_of(baseline.model)


def _settings(recipe: Recipe, number: int) -> dict[str, Any]:
    """What the recipe says of a step: of the baseline (0), or of a stage."""
    if number == 0:
        return recipe.model_dump(mode="json", include={"model", "weights", "input_shape", "task", "train"})
    step = recipe.stages[number - 1]
    where = {"device": recipe.devices[0]} if recipe.devices else {}  # the others take no part in the steps
    return {"name": step.name, "task": recipe.task, **where, **step.model_dump(mode="json", exclude_none=True)}


def _baseline(recipe: Recipe, data: Data | None, context: Context, trust: bool) -> tuple[Network, StageRecord | None]:
    network = open_network(
        recipe.model,
        weights=Path(recipe.weights) if recipe.weights else None,
        data=data,
        input_shapes=recipe.input_shapes,
        trust=trust,
        seed=recipe.seed,
        task=context.task,
    )
    require_scores(recipe.gates, replace(context, example_inputs=network.example_inputs).task_of(network.model))
    if recipe.train is None or recipe.weights is not None:
        return network, None
    if data is None:
        raise InvalidInput("recipe: 'train' needs 'data' to train on")
    return train(network, data, recipe.train, context)
