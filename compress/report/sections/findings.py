"""What a report says: the sentences above its figures, and edits and layers brought together for a reader."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...siblings import runtimes
from ...tasks.record import ScoreRecord
from ..quantities import count, milliseconds, percent, plural, points, ratio, seconds, significant, size
from ..schema import BenchmarkRecord, EditRecord, ExportRecord, LayerRecord, Report, SkipRecord, StageRecord

ACCURACY = "top-1"
"""The score that people call accuracy."""


def engine_title(engine: str) -> str:
    """An engine as its makers spell it, also by a name that older reports have.

    >>> engine_title("onnxruntime"), engine_title("ncnn")
    ('ONNX Runtime', 'ncnn')
    """
    return runtimes.facts.title_of(engine)


def conditions(benchmark: BenchmarkRecord) -> str:
    """ "at 1 thread in ONNX Runtime", as much of it as is known."""
    threads = f"at {plural(benchmark.threads, 'thread')} " if benchmark.threads is not None else ""
    return f"{threads}in {engine_title(benchmark.runtime)}"


Setting = tuple[str, int | None, str | None, str | None, str | None]


def setting(benchmark: BenchmarkRecord) -> Setting:
    """What files that can be compared have in common: engine, threads, preset, device and machine."""
    return benchmark.runtime, benchmark.threads, benchmark.preset, benchmark.device, benchmark.machine


def settings(report: Report) -> tuple[tuple[BenchmarkRecord, ...], ...]:
    """The benchmarks by what can be compared: same runtime, threads, preset, device and machine.

    The headline's group is first: it has the baseline and the deployed file, at the ratio that the summary gives.
    """
    groups: dict[Setting, list[BenchmarkRecord]] = {}
    for benchmark in report.benchmarks:
        groups.setdefault(setting(benchmark), []).append(benchmark)
    wanted = {report.summary.baseline, report.summary.deployed} - {None}

    def distance(group: list[BenchmarkRecord]) -> tuple[int, float]:
        lacking = len(wanted - {benchmark.name for benchmark in group})
        before, after = (find(group, name) for name in (report.summary.baseline, report.summary.deployed))
        speedup = report.summary.speedup
        if not (before and after and before.latency_ms.p50 and after.latency_ms.p50 and speedup):
            return lacking, math.inf
        off = abs(before.latency_ms.p50 / after.latency_ms.p50 / speedup - 1)
        return lacking, round(off, 3) if math.isfinite(off) else math.inf

    return tuple(tuple(group) for group in sorted(groups.values(), key=distance))


def find(group: Iterable[BenchmarkRecord], name: str | None) -> BenchmarkRecord | None:
    """The benchmark of that name, or None."""
    return next((benchmark for benchmark in group if benchmark.name == name), None)


def export_of(report: Report, name: str | None) -> ExportRecord | None:
    """The export of that name, or None."""
    return next((export for export in report.exports if export.name == name), None)


def score_name(report: Report) -> str:
    """What the task's first score is called; "score" where nothing was scored."""
    record = _any_score(report)
    return "score" if record is None else record.name


def score_title(report: Report) -> str:
    """The same, as a heading has it."""
    name = score_name(report)
    return name[:1].upper() + name[1:]


def accuracy_word(report: Report) -> str:
    """What is lost or gained: "Accuracy" where the score is top-1, else its name."""
    record = _any_score(report)
    return "Accuracy" if record is None or record.name == ACCURACY else record.name


def dropped(report: Report, drop: float) -> str:
    """What was lost of the first score, in words and without its sign: "0.28 points"."""
    record = _any_score(report)
    unit = "points" if record is None else record.drop_unit
    return points(drop) if unit == "points" else f"{significant(abs(drop))} {unit}"


def _any_score(report: Report) -> ScoreRecord | None:
    records = (*(each.score for each in report.benchmarks), *(stage.after.score for stage in report.stages))
    return next((record for record in records if record is not None), None)


def _drop(report: Report) -> str | None:
    drop = report.summary.score_drop
    if drop is None or not math.isfinite(drop):
        return None
    name = "accuracy" if accuracy_word(report) == "Accuracy" else accuracy_word(report)
    if abs(drop) < 0.005:
        return f"no {name} lost"
    return f"{dropped(report, drop)} of {name} {'lost' if drop > 0 else 'gained'}"


def _faster(speedup: float | None) -> str | None:
    if speedup is None or speedup <= 0:
        return None
    if 0.95 < speedup < 1.05:
        return "as fast as before"
    return f"{ratio(speedup)} faster" if speedup > 1 else f"{ratio(1 / speedup)} slower"


def _smaller(size_ratio: float | None) -> str | None:
    if size_ratio is None or size_ratio <= 0:
        return None
    if 0.95 < size_ratio < 1.05:
        return "as large as before"
    return f"{ratio(size_ratio)} smaller" if size_ratio > 1 else f"{ratio(1 / size_ratio)} larger"


def _sentence(parts: Iterable[str | None], otherwise: str) -> str:
    text = ", ".join(part for part in parts if part)
    return text[:1].upper() + text[1:] if text else otherwise


def headline(report: Report) -> str:
    """The outcome in one sentence: "8.1× faster and 11.9× smaller, 0.28 points of accuracy lost"."""
    summary = report.summary
    gains = " and ".join(part for part in (_faster(summary.speedup), _smaller(summary.size_ratio)) if part)
    return _sentence((gains, _drop(report)), "What was done, and what it cost")


def latency_title(report: Report) -> str:
    """Above accuracy against latency."""
    groups = settings(report)
    if not groups:
        return "No file was timed"
    where = conditions(groups[0][0])
    faster = _faster(report.summary.speedup)
    if faster is None:
        return f"Accuracy against latency {where}"
    return _sentence((f"{faster} {where}", _drop(report)), "")


def size_title(report: Report) -> str:
    """Above accuracy against size."""
    baseline, deployed = (export_of(report, name) for name in (report.summary.baseline, report.summary.deployed))
    smaller = _smaller(report.summary.size_ratio)
    if smaller is None:
        return "Accuracy against file size"
    if baseline is None or deployed is None:
        return _sentence((f"the file is {smaller}",), "")
    return f"The file is {smaller}: {size(baseline.size_bytes)} became {size(deployed.size_bytes)}"


def spread(benchmark: BenchmarkRecord) -> float | None:
    """How far p90 lies above the median, as a share of the median."""
    p50, p90 = benchmark.latency_ms.p50, benchmark.latency_ms.p90
    return None if not p50 or p90 is None else p90 / p50 - 1


def doubts_title(report: Report) -> str:
    """Above what speaks against measurements."""
    invalid = sum(benchmark.valid is False for benchmark in report.benchmarks)
    verb = "is" if invalid == 1 else "are"
    return f"{invalid} of {plural(len(report.benchmarks), 'measurement')} {verb} not to be trusted"


def distribution_title(report: Report) -> str:
    """Above the latency distributions."""
    groups = settings(report)
    if not groups:
        return "No file was timed"
    invalid = [benchmark.name for benchmark in report.benchmarks if benchmark.valid is False]
    if invalid:
        return f"Invalid timing: {', '.join(dict.fromkeys(invalid))} — read these latencies with care"
    deployed = find(groups[0], report.summary.deployed) or groups[0][-1]
    share = spread(deployed)
    if share is None:
        return f"{deployed.name} takes {milliseconds(deployed.latency_ms.p50)} in the median"
    return (
        f"{deployed.name} takes {milliseconds(deployed.latency_ms.p50)} in the median, "
        f"and 9 of 10 runs stay within {percent(100 * share, 0 if share >= 0.095 else 1)} of it"
    )


def macs(report: Report) -> tuple[int, int]:
    """The multiply-adds of all layers before and after; 0 where the layers of that side are not known."""
    before, after = (sum(layer.macs or 0 for layer in side) for side in (report.layers.before, report.layers.after))
    return before, after


def layers_title(report: Report) -> str:
    """Above the costs per layer."""
    before, after = macs(report)
    if not report.layers.after or not before:
        return f"{count(before or after)} multiply-adds, layer by layer"
    text = f"{count(before)} multiply-adds became {count(after)}"
    if not 0 < after < before:
        return text if after != before else f"{count(before)} multiply-adds, unchanged"
    shares = [100 * (pair.macs_after or 0) / pair.macs_before for pair in layer_pairs(report) if pair.macs_before]
    least, most = percent(min(shares), 0), percent(max(shares), 0)
    return f"{text}: every layer keeps {least}" if least == most else f"{text}: layers keep {least} to {most} of theirs"


def bytes_title(report: Report) -> str:
    """Above the bytes of each file by data type."""
    deployed = export_of(report, report.summary.deployed) or (report.exports[-1] if report.exports else None)
    if deployed is None:
        return "No file was exported"
    parts = byte_parts(deployed)
    total = sum(part for _, part in parts)
    if not total:
        return f"{deployed.name} takes {size(deployed.size_bytes)}"
    shares = sorted(((part / total, name) for name, part in parts), reverse=True)[:2]
    text = " and ".join(
        f"{percent(100 * share, 0)} {'graph' if name == 'graph' else name + ' weights'}" for share, name in shares
    )
    return f"{deployed.name} takes {size(deployed.size_bytes or total)}: {text}"


def byte_parts(export: ExportRecord) -> tuple[tuple[str, int], ...]:
    """What a file's bytes are, data types first and "graph" (everything that is not weights) last."""
    parts = [(name, part) for name, part in export.bytes_by_dtype.items() if part > 0]
    if export.graph_bytes:
        parts.append(("graph", export.graph_bytes))
    return tuple(parts)


def nodes_title(report: Report) -> str:
    """Above the types that the nodes compute in."""
    counted = [export for export in report.exports if export.nodes is not None]
    if not counted:
        return "Nodes were not counted"
    deployed = next((export for export in counted if export.name == report.summary.deployed), counted[-1])
    nodes = deployed.nodes
    assert nodes is not None
    total = nodes.integer + nodes.float + nodes.other
    if nodes.integer == 0:
        return f"{deployed.name} runs {plural(total, 'node')}, none of them in integers"
    if nodes.integer == total:
        return f"All {plural(total, 'node')} of {deployed.name} run in integers"
    rest = f"{nodes.float} in floating point" if nodes.float else "none in floating point"
    return f"{nodes.integer} of the {plural(total, 'node')} of {deployed.name} run in integers, {rest}"


def gates_title(report: Report) -> str | None:
    """How the gates went, or None where there are none."""
    if not report.gates:
        return None
    failed = sum(not gate.passed for gate in report.gates)
    total = plural(len(report.gates), "gate")
    if failed:
        return f"{failed} of {total} failed"
    return f"{total} passed" if len(report.gates) == 1 else f"All {total} passed"


def stages_title(report: Report) -> str:
    """Above the table of stages."""
    took = [stage.seconds for stage in report.stages if stage.seconds is not None]
    names = ", ".join(stage.name for stage in report.stages)
    return f"{plural(len(report.stages), 'stage')}: {names}" + (f" in {seconds(sum(took))}" if took else "")


@dataclass(frozen=True)
class LayerPair:
    """A layer before and after; a side that does not exist is None."""

    layer: str
    operation: str
    macs_before: int | None
    macs_after: int | None
    width_before: int | None
    width_after: int | None
    params_before: int | None
    params_after: int | None


def _width(layer: LayerRecord | None) -> int | None:
    return layer.output_shape[1] if layer and layer.output_shape and len(layer.output_shape) > 1 else None


def layer_pairs(report: Report) -> tuple[LayerPair, ...]:
    """The layers before and after the pipeline, by name, in the order of the network."""
    before = {layer.layer: layer for layer in report.layers.before}
    after = {layer.layer: layer for layer in report.layers.after}
    pairs = []
    for name in [*before, *(name for name in after if name not in before)]:
        old, new = before.get(name), after.get(name)
        known = old or new
        assert known is not None
        pairs.append(
            LayerPair(
                name,
                known.operation,
                old.macs if old else None,
                new.macs if new else None,
                _width(old),
                _width(new),
                old.params if old else None,
                new.params if new else None,
            )
        )
    return tuple(pairs)


@dataclass(frozen=True)
class Group:
    """Layers that the same thing happened to."""

    what: str
    layers: tuple[str, ...]


def _grouped(items: Iterable[tuple[str, str]]) -> tuple[Group, ...]:
    groups: dict[str, dict[str, None]] = {}
    for layer, what in items:
        groups.setdefault(what, {})[layer] = None
    return tuple(Group(what, tuple(layers)) for what, layers in groups.items())


_PARTLY = re.compile(r"(\d+(?: of \d+)? channels(?: stay)?(?: where [\d.]+ are wanted)?): (.+)", re.DOTALL)


def skip_groups(skipped: Sequence[SkipRecord]) -> tuple[Group, ...]:
    """Skipped layers by reason, the most frequent first; how many channels of a layer it holds for is told with it.

    >>> skip_groups([SkipRecord(layer="conv1", reason="3 of 8 channels: excluded")])
    (Group(what='excluded', layers=('conv1 (3 of 8 channels)',)),)
    """
    parts = [(skip.layer or "the network", _PARTLY.fullmatch(skip.reason), skip.reason) for skip in skipped]
    groups = _grouped((f"{layer} ({m[1]})" if m else layer, m[2] if m else reason) for layer, m, reason in parts)
    return tuple(sorted(groups, key=lambda group: -len(group.layers)))


def edit_groups(stage: StageRecord) -> tuple[Group, ...]:
    """The edits of a stage in a reader's words, layers with the same change together."""
    by_layer: dict[str, list[EditRecord]] = {}
    for edit in stage.edits:
        by_layer.setdefault(edit.layer, []).append(edit)
    return _grouped((layer, change) for layer, edits in by_layer.items() for change in _changes(edits))


_WIDTHS = {
    "out_channels": "channels",
    "num_features": "channels",
    "num_channels": "channels",
    "out_features": "outputs",
}
_INPUTS = {"in_channels", "in_features"}


def _shape(value: object) -> str:
    return "×".join(str(item) for item in value) if isinstance(value, tuple) else str(value)


def _changes(edits: Sequence[EditRecord]) -> list[str]:
    """What happened to one layer; of several edits to one thing, the first ``before`` and the last ``after``."""
    merged: dict[tuple[str, str], EditRecord] = {}
    for edit in edits:
        key = (edit.kind, edit.what)
        first = merged.get(key)
        merged[key] = edit if first is None else edit.model_copy(update={"before": first.before})
    changes, inputs, others = [], [], []
    precisions: dict[str, list[str]] = {}
    retrained = False
    for (kind, what), edit in merged.items():
        if kind == "attribute" and what in _WIDTHS:
            changes.append(f"{edit.before} → {edit.after} {_WIDTHS[what]}")
        elif kind == "attribute" and what in _INPUTS:
            inputs.append(f"inputs {edit.before} → {edit.after}")
        elif kind == "attribute" and what != "groups":
            others.append(f"{what} {_shape(edit.before)} → {_shape(edit.after)}")
        elif kind == "module":
            others.append(f"{_shape(edit.before)} → {_shape(edit.after)}")
        elif kind == "precision":
            precisions.setdefault(_shape(edit.after), []).append(what)
        elif kind == "weights" and what == "weight" and isinstance(edit.before, int) and isinstance(edit.after, int):
            others.append(f"{percent(100 * edit.after / max(1, edit.before))} of its nonzero weights left")
        elif kind == "weights":
            retrained = True
        elif kind == "attribute":
            changes.append(f"groups {edit.before} → {edit.after}")
    for (kind, what), edit in merged.items():
        if kind != "tensor":
            continue
        if edit.before is None:
            others.append(f"{what} added")
        elif edit.after is None:
            others.append(f"{what} removed")
        elif not changes and not inputs:
            others.append(f"{what} {_shape(edit.before)} → {_shape(edit.after)}")
    text = [", ".join([*changes, *inputs])] if changes else inputs
    text += others
    text += [f"{', '.join(names)} in {dtype}" for dtype, names in precisions.items()]
    return text or (["weights changed"] if retrained else [])
