"""What a report holds: the values that ``report.json`` keeps, and that the page and the terminal tables show.

A stage's ``scores`` are of the network on the *validation* split; a benchmark's ``scores`` are of the deployed file on
the *test* split. A value that was not measured is None.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from ..core.restoration import Restoration
from ..tasks.record import ScoreRecord

SCHEMA_VERSION: Final = 1


def _frozen(value: object) -> object:
    return tuple(_frozen(item) for item in value) if isinstance(value, (list, tuple)) else value


def _to_nanoseconds(value: object) -> object:
    return round(float(value), 6) if isinstance(value, (int, float)) else value


Plain = Annotated[object, BeforeValidator(_frozen)]
"""Any value that JSON can hold; lists become tuples, so that a report read back equals the one written."""

Sample = Annotated[float, BeforeValidator(_to_nanoseconds)]
"""A latency in milliseconds, kept to the nanosecond."""


class Record(BaseModel):
    """A frozen part of a report: an unknown key is an error. Infinities are written as the string "Infinity"."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


def _former_top1(values: Any) -> Any:
    """What a record of an earlier version called ``top1``, as the score that it is."""
    if not isinstance(values, Mapping) or "top1" not in values:
        return values
    percent = values["top1"]
    scores = [] if percent is None else [{"name": "top-1", "value": percent, "unit": " %"}]
    return {key: value for key, value in values.items() if key != "top1"} | {"scores": scores}


class Cost(Record):
    """What a network costs; ``scores`` are on the validation split, the task's first one first."""

    params: int | None = None
    macs: int | None = None
    bit_operations: int | None = None
    size_bytes: int | None = None
    scores: tuple[ScoreRecord, ...] = ()

    _former = model_validator(mode="before")(_former_top1)

    @property
    def score(self) -> ScoreRecord | None:
        """The task's first score."""
        return next(iter(self.scores), None)


class EditRecord(Record):
    """One thing that a stage changed; the fields are those of :class:`compress.stage.Edit`."""

    layer: str
    what: str
    before: Plain = None
    after: Plain = None
    kind: str = "attribute"
    axis: int | None = None
    kept: tuple[int, ...] | None = None


class SkipRecord(Record):
    """A layer that a stage left alone, and why."""

    layer: str
    reason: str


class OutputParity(Record):
    """How near one output is; ``part_snr_db`` is of the channels that are far smaller than the others."""

    name: str
    max_abs_error: float | None = None
    relative_error: float | None = None
    snr_db: float | None = None
    part_snr_db: float | None = None
    top1_agreement: float | None = None


class StageRecord(Record):
    """What a stage was asked, what it did and what the network cost before and after.

    ``history`` has a record per epoch with ``epoch``, ``loss`` and, where the task has a score, ``validation_score``;
    ``measured`` a line for each choice by latency, with where that was measured; ``warnings`` what the user is to know;
    ``restored`` what was given back in precision so that no more of a score is lost than was allowed; ``outputs`` how
    near each output of a quantized network is to that of the network before, on samples of the validation split.
    """

    name: str
    config: Mapping[str, object] = {}
    seconds: float | None = None
    edits: tuple[EditRecord, ...] = ()
    skipped: tuple[SkipRecord, ...] = ()
    before: Cost = Cost()
    after: Cost = Cost()
    history: tuple[Mapping[str, float | None], ...] = ()
    measured: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    restored: Restoration | None = None
    outputs: tuple[OutputParity, ...] = ()


Share = float
"""Of a whole, 0 to 1."""


class NodeCounts(Record):
    """Nodes of the graph that the runtime really executes, by the type they compute in, and by who ran them.

    ``fallen_back`` are those that ran elsewhere than the engine was to run them; ``fallback_share`` is of the time.
    """

    integer: int = 0
    float: int = 0
    other: int = 0
    providers: Mapping[str, int] = {}
    fallen_back: int = 0
    fallback_share: Share | None = None


class Parity(Record):
    """How near a file's outputs are to those of the network it was made from; ``top1_agreement`` in percent.

    The figures are those of the worst output, and of the worst part of one; ``outputs`` has each apart.
    """

    samples: int | None = None
    max_abs_error: float | None = None
    relative_error: float | None = None
    snr_db: float | None = None
    top1_agreement: float | None = None
    outputs: tuple[OutputParity, ...] = ()


class ExportRecord(Record):
    """A written file for a ``target``. ``bytes_by_dtype`` are its weights; ``graph_bytes`` is everything else in it.

    ``packed_bytes`` is what its packed form takes to download, where one was written; the device holds ``size_bytes``.
    """

    name: str
    format: str
    file: str
    size_bytes: int | None = None
    opset: int | None = None
    target: str | None = None
    engine: str | None = None
    parity: Parity | None = None
    nodes: NodeCounts | None = None
    operators: Mapping[str, int] = {}
    bytes_by_dtype: Mapping[str, int] = {}
    graph_bytes: int | None = None
    sha256: str | None = None
    notes: tuple[str, ...] = ()
    packed_bytes: int | None = None


class Latency(Record):
    """Statistics of the raw samples, in milliseconds; p99 is None where the runs are too few for it.

    ``p50_interval`` holds the median at 95 %; ``p90_bound`` and ``p99_bound`` are percentiles by MLPerf's early
    stopping.
    """

    p50: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None
    min: float | None = None
    mean: float | None = None
    std: float | None = None
    p50_interval: tuple[float, float] | None = None
    p90_bound: float | None = None
    p99_bound: float | None = None


class EnergyRecord(Record):
    """What runs took on a power rail of the machine, with what it takes at rest, and beyond that; see
    :class:`runtimes.sensors.power.Energy`.
    """

    rail: str
    source: str
    joules: float
    seconds: float
    runs: int
    idle_watts: float | None = None
    per_run_mj: float | None = None
    per_run_above_idle_mj: float | None = None


class ProfileRow(Record):
    """A layer of the network as an engine ran it, or nodes of one operator that belong to none that is known.

    Args:
        layer: its name; "" for nodes that could not be joined.
        nodes: that it was run as, by the engine's names.
        ops: of these, in order.
        kind: the arithmetic of the one that took longest.
        providers: that ran them.
        joined: by what the two were found to belong together.
        fallen_back: those of the nodes that ran elsewhere than the engine was to run them.
        fallback_ms: of these.
        moved_bytes: that the layer reads and writes, in the arithmetic it ran in.
        intensity: operations for each byte; a multiply-add is two.
        roofline_share: of the time, what the work takes at least on this device.
    """

    layer: str
    nodes: tuple[str, ...]
    ops: tuple[str, ...]
    kind: Literal["integer", "float", "other"]
    providers: tuple[str, ...]
    duration_ms: float
    joined: Literal["name", "order", ""] = ""
    fallen_back: tuple[str, ...] = ()
    fallback_ms: float = 0.0
    macs: int | None = None
    moved_bytes: int | None = None
    intensity: float | None = None
    roofline_share: float | None = None


class Roofline(Record):
    """The most that a device did in a probe, a second; see :class:`runtimes.measure.modes.roofline.Roofline`."""

    threads: int
    float_ops: float
    integer_ops: float | None
    bytes_per_s: float


class Profile(Record):
    """Where the time of a file goes: its rows, the slowest first.

    Args:
        name: of the file.
        device: that ran it; None for this machine.
        total_ms: of all nodes.
        left_layers: with multiply-adds, that no node was found for.
        roofline: of the device; None where it was not measured.
    """

    name: str
    engine: str
    threads: int
    total_ms: float
    rows: tuple[ProfileRow, ...]
    left_layers: tuple[str, ...] = ()
    roofline: Roofline | None = None
    device: str | None = None

    @property
    def left_nodes(self) -> tuple[str, ...]:
        """The nodes that were joined with no layer, the slowest first."""
        return tuple(node for row in self.rows if not row.layer for node in row.nodes)


class LayerNoise(Record):
    """What a layer of a file gives, beside what it gives in the network in float.

    Args:
        layer: its name.
        operations: as the file calls them, in order.
        snr_db: of the last of them: the power of the float values by that of the difference, in dB.
        added_db: the noise that it adds itself, by the power of its values, in dB: what it has beyond the noisiest
            of the values that it reads. Minus infinity where it adds none.
        kind: the arithmetic that the engine ran it in; None where it does not tell.
        duration_ms: that the engine took for it; None where it does not tell.
        fallen_back: whether a part of it ran elsewhere than the engine was to run it.
    """

    layer: str
    operations: tuple[str, ...]
    snr_db: float
    added_db: float
    kind: Literal["integer", "float", "other"] | None = None
    duration_ms: float | None = None
    fallen_back: bool = False


class Remedy(Record):
    """A setting that mends a layer, and what it was tried to give.

    Args:
        layer: that computes in float by it.
        setting: as it is typed after ``compress quantize``.
        snr_db: of the worst output, by simulation.
    """

    layer: str
    setting: str
    snr_db: float


class Diagnosis(Record):
    """Where a file loses what the network in float gives, and where its time goes: its layers in their order.

    Args:
        name: of the file.
        samples: that were compared.
        outputs: how near each is.
        worst: the layers that add most noise, the worst first.
        remedies: of these, the best first; none where the network is in float.
        unmatched: layers whose values could not be compared.
        changed: whether the engine fuses the copy that gives inner values otherwise than the file, so that they are not
            exactly those of the file.
    """

    name: str
    engine: str
    samples: int
    outputs: tuple[OutputParity, ...]
    layers: tuple[LayerNoise, ...]
    total_ms: float | None = None
    worst: tuple[str, ...] = ()
    remedies: tuple[Remedy, ...] = ()
    unmatched: tuple[str, ...] = ()
    changed: bool = False


class BenchmarkRecord(Record):
    """A file measured in a runtime. ``scores`` are on ``samples`` items of the test split.

    ``in_reference`` says that ``scores`` and ``parity`` are those of the file with its integers evaluated in floats,
    since the processor that measured computes them otherwise than the device of the file's target. ``valid`` says
    whether the measurement broke no rule, and ``notes`` which it broke; older files call it ``stable``.

    Fields of :class:`runtimes.measure.measurement.Measurement` have the same names. Files with the same ``loop`` were
    run in turn: their samples with the same index are of one round. ``conditions`` and ``conditions_after`` are
    those of the device around the loop. ``label`` is what the user calls the state that was measured ("main", "v1.2").
    ``device`` is the one that it was measured on, None this machine.
    """

    name: str
    file: str | None = None
    sha256: str | None = None
    label: str | None = None
    device: str | None = None
    runtime: str
    runtime_version: str | None = None
    versions: Mapping[str, str] = {}
    threads: int | None = None
    preset: str | None = None
    began: str | None = None
    loop: str | None = None
    interleaved: int | None = None
    loadings: int = 1
    loaded_at: tuple[int, ...] = ()
    warmup_runs: int | None = None
    duration_s: float | None = None
    runs: int | None = None
    size_bytes: int | None = None
    latency_ms: Latency = Latency()
    samples_ms: tuple[Sample, ...] = ()
    load_ms: float | None = None
    peak_memory_bytes: int | None = None
    baseline_memory_bytes: int | None = None
    conditions: Mapping[str, Plain] = {}
    conditions_after: Mapping[str, Plain] = {}
    pinned: tuple[int, ...] | None = None
    watched: Mapping[str, Plain] = {}
    nodes: NodeCounts | None = None
    profile: Profile | None = None
    valid: bool | None = Field(None, validation_alias=AliasChoices("valid", "stable"))
    notes: tuple[str, ...] = ()
    scores: tuple[ScoreRecord, ...] = ()
    samples: int | None = None
    energy: EnergyRecord | None = None
    parity: Parity | None = None
    in_reference: bool = False

    _former = model_validator(mode="before")(_former_top1)

    @property
    def score(self) -> ScoreRecord | None:
        """The task's first score."""
        return next(iter(self.scores), None)

    @property
    def emulated(self) -> bool:
        """Whether the processor was emulated, so that times say nothing of a real one and are not ranked."""
        return bool(self.conditions.get("emulated"))

    @property
    def machine(self) -> str | None:
        """The board or processor that the file was measured on, with its architecture; None where that is unknown."""
        name = self.conditions.get("board") or self.conditions.get("cpu")
        parts = [str(part) for part in (name, self.conditions.get("architecture")) if part]
        return ", ".join(parts) or None

    @classmethod
    def of(cls, measurement: Mapping[str, Any], **known: Any) -> BenchmarkRecord:
        """The record of a measurement, as ``Measurement.to_json`` tells it, with what else is ``known`` of the file.

        Raises:
            ValidationError: a value is not what it is to be.
        """
        validity, executed = measurement.get("validity"), measurement.get("executed")
        facts = {name: measurement[name] for name in cls.model_fields if name in measurement}
        facts |= {"runtime": measurement.get("engine"), "runtime_version": measurement.get("engine_version")}
        facts |= {"name": measurement.get("file")}
        if isinstance(validity, Mapping):
            broken = [rule.get("reason") for rule in validity.get("broken_rules", ()) if isinstance(rule, Mapping)]
            facts |= {"valid": validity.get("valid"), "notes": broken}
        elif isinstance(stability := measurement.get("stability"), Mapping):  # of an older version
            facts |= {"valid": stability.get("stable"), "notes": stability.get("reasons", ())}
        if isinstance(latency := measurement.get("latency_ms"), Mapping):
            facts["latency_ms"] = {name: latency[name] for name in Latency.model_fields if name in latency}
        if isinstance(executed, Mapping):
            facts["nodes"] = {name: executed[name] for name in NodeCounts.model_fields if name in executed}
        return cls.model_validate(facts | known)


class LayerRecord(Record):
    """A layer's cost for one input; ``output_shape`` is batch first."""

    layer: str
    operation: str
    params: int | None = None
    macs: int | None = None
    activation_bytes: int | None = None
    output_shape: tuple[int, ...] | None = None


class Layers(Record):
    """The layers of the network that was given and of the one that came out."""

    before: tuple[LayerRecord, ...] = ()
    after: tuple[LayerRecord, ...] = ()


class DataRecord(Record):
    """The data set, and how many samples each split holds."""

    name: str
    samples: Mapping[str, int] = {}


class Summary(Record):
    """The outcome: ratios are baseline over deployed (more is better), ``score_drops`` are by score, in points or as
    the task has them (less is better), the task's first score first.
    """

    speedup: float | None = None
    size_ratio: float | None = None
    macs_ratio: float | None = None
    score_drops: Mapping[str, float] = {}
    params_ratio: float | None = None
    baseline: str | None = None
    deployed: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _former(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or "top1_drop" not in values:
            return values
        drop = values["top1_drop"]
        rest = {key: value for key, value in values.items() if key != "top1_drop"}
        return rest | ({} if drop is None else {"score_drops": {"top-1": drop}})

    @property
    def score_drop(self) -> float | None:
        """What was lost of the task's first score."""
        return next(iter(self.score_drops.values()), None)


class DeviceOutcome(Record):
    """The outcome on one of several devices; ``failure`` is what it failed with, where it was lost."""

    device: str
    summary: Summary
    failure: str | None = None


class Gate(Record):
    """A condition on the outcome; on ``device``, where there are several."""

    name: str
    device: str | None = None
    expected: str | int | float | None
    got: str | int | float | None
    passed: bool

    @property
    def title(self) -> str:
        """Its name, with the device."""
        return self.name if self.device is None else f"{self.name} on {self.device}"


class Report(Record):
    """Everything that a run did and measured; ``summary`` is the outcome on the first of several ``devices``."""

    schema_version: Literal[1] = SCHEMA_VERSION
    created: datetime
    command: str
    recipe: Mapping[str, object] | None = None
    recipe_digest: str | None = None
    seed: int | None = None
    machine: Mapping[str, object] = {}
    versions: Mapping[str, str] = {}
    model: str
    data: DataRecord | None = None
    stages: tuple[StageRecord, ...] = ()
    exports: tuple[ExportRecord, ...] = ()
    benchmarks: tuple[BenchmarkRecord, ...] = ()
    layers: Layers = Layers()
    summary: Summary = Summary()
    devices: tuple[DeviceOutcome, ...] = ()
    gates: tuple[Gate, ...] = ()
