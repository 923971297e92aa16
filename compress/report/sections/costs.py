"""What each file costs and what it gives: accuracy against latency, size and energy, on every device.

A file has one colour everywhere, and a setting (engine, threads, device) one shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from .. import quantities
from ..figures.scatter import Point, front, scatter, sign
from ..schema import BenchmarkRecord, Report
from . import findings

PALETTE = 6
LABELLED = 7
"""More points than these are labelled at the headline's setting alone; where it has more too, on the front."""

_FRONT = "Dotted steps join the files that none surpasses: on the same device, no other gives as much at that cost."

Units = Sequence[tuple[float, str]]
TIMES: Units = ((1000.0, "s"), (1.0, "ms"), (0.001, "µs"))
SIZES: Units = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "bytes"))
ENERGIES: Units = ((1000.0, "J"), (1.0, "mJ"), (0.001, "µJ"))


@dataclass(frozen=True)
class CostFigure:
    """A figure with its title, and what is to be known to read it."""

    title: str
    note: str
    drawn: Markup


@dataclass(frozen=True)
class _Cost:
    """Something that files cost: how it is read, written and scaled."""

    name: str
    of: Callable[[BenchmarkRecord], float | None]
    written: Callable[[float | None], str]
    units: Units


def colours(report: Report) -> dict[str, int]:
    """A colour for every file; the deployed one has the accent, which is the first."""
    names = dict.fromkeys([*(e.name for e in report.exports), *(b.name for b in report.benchmarks)])
    others = [name for name in names if name != report.summary.deployed]
    chosen = {name: 1 + i % (PALETTE - 1) for i, name in enumerate(others)}
    return chosen | ({report.summary.deployed: 0} if report.summary.deployed in names else {})


def ordered(report: Report, group: Sequence[BenchmarkRecord]) -> list[BenchmarkRecord]:
    """Benchmarks in the order of the exports."""
    order = {export.name: i for i, export in enumerate(report.exports)}
    return sorted(group, key=lambda benchmark: order.get(benchmark.name, len(order)))


def figures(report: Report) -> list[CostFigure]:
    """Accuracy against each cost that was measured; latency against size, where there are no labels."""
    sizes = {export.name: export.size_bytes for export in report.exports}
    kinds = (
        _Cost("median latency", lambda b: b.latency_ms.p50, quantities.milliseconds, TIMES),
        _Cost("file size", lambda b: sizes.get(b.name, b.size_bytes), quantities.size, SIZES),
    )
    energy = _Cost("energy of a run", energy_mj, quantities.millijoules, ENERGIES)
    if any(benchmark.score is not None for benchmark in report.benchmarks):
        drawn = [_accuracy(report, kind) for kind in (*kinds, energy)]
        return [figure for figure in drawn if figure is not None]
    figure = _latency_against_size(report, *kinds)
    return [figure] if figure is not None else []


def energy_mj(benchmark: BenchmarkRecord) -> float | None:
    """What a run takes on the power rail that was read, in millijoules; None where none was."""
    return None if benchmark.energy is None else benchmark.energy.per_run_mj


def signs(report: Report) -> list[tuple[Markup, str]]:
    """The legend of the shapes: each with the setting that it stands for; empty where there is but one."""
    groups = findings.settings(report)
    if len(groups) < 2:
        return []
    icon = Markup('<svg class="sign" width="16" height="16" viewBox="-8 -8 16 16" aria-hidden="true">{}</svg>')
    return [
        (icon.format(sign(0, 0, i, "dot plain")), setting_words(report, group[0])) for i, group in enumerate(groups)
    ]


def setting_words(report: Report, benchmark: BenchmarkRecord) -> str:
    """How a file was run, as much of it as tells settings apart: "at 1 thread in ONNX Runtime, Cortex-A76"."""
    places = {_place(each) for each in report.benchmarks}
    presets = {each.preset for each in report.benchmarks}
    words = findings.conditions(benchmark)
    words += f", preset {benchmark.preset}" if len(presets) > 1 and benchmark.preset else ""
    return words + (f", {_place(benchmark)}" if len(places) > 1 and _place(benchmark) else "")


def _place(benchmark: BenchmarkRecord) -> str | None:
    """What the device is called, or else what it is."""
    return benchmark.device or benchmark.machine


def _shape(report: Report, benchmark: BenchmarkRecord) -> int:
    groups = findings.settings(report)
    return next(i for i, group in enumerate(groups) if findings.setting(group[0]) == findings.setting(benchmark))


def _interval(benchmark: BenchmarkRecord) -> tuple[float | None, float | None]:
    score = benchmark.score
    if score is None or score.name != findings.ACCURACY or not benchmark.samples or not 0 <= score.value <= 100:
        return None, None
    low, high = quantities.wilson_interval(score.value / 100, benchmark.samples)
    return 100 * low, 100 * high


def _unit(values: Sequence[float], units: Units) -> tuple[float, str]:
    """The largest unit that the greatest value reaches; a tenth of it will do, but for bytes."""
    least = 1.0 if units is SIZES else 0.1
    return next(((scale, name) for scale, name in units if max(values) >= least * scale), units[-1])


def _unique(report: Report, kind: _Cost) -> list[tuple[BenchmarkRecord, float]]:
    """Every benchmark with a cost; one for each file, where the cost is not of a run."""
    seen: dict[object, tuple[BenchmarkRecord, float]] = {}
    for benchmark in ordered(report, [b for group in findings.settings(report) for b in group]):
        value = kind.of(benchmark)
        if value is not None and value >= 0:
            key = benchmark.name if kind.units is SIZES else (benchmark.name, findings.setting(benchmark))
            seen.setdefault(key, (benchmark, value))
    return list(seen.values())


def _labelled(points: Sequence[tuple[BenchmarkRecord, float]], report: Report, best: set[int]) -> set[int]:
    """Which points have their names written beside them."""
    if len(points) <= LABELLED:
        return set(range(len(points)))
    headline = {i for i, (benchmark, _) in enumerate(points) if _shape(report, benchmark) == 0}
    return headline if len(headline) <= LABELLED else best


def _accuracy(report: Report, kind: _Cost) -> CostFigure | None:
    scored = [(b, value, b.score) for b, value in _unique(report, kind) if b.score and math.isfinite(b.score.value)]
    if not scored:
        return None
    shown = [(benchmark, value) for benchmark, value, _ in scored]
    like = scored[0][2]
    scale, unit = _unit([value for _, value in shown], kind.units)
    bare = [Point(value, score.value, "", "", 0) for _, value, score in scored]
    points = _points(
        report,
        shown,
        bare,
        scale,
        lambda b, value: f"{kind.written(value)}, {quantities.score(b.score)}",
        less_is_better=not like.higher_is_better,
    )
    if kind.units is SIZES:  # a noisy machine does not touch them
        points = [replace(point, trusted=True) for point in points]
    title = f"{like.name} on the test split" + (f", {like.unit.strip()}" if like.unit else "")
    most = 100.0 if like.unit.strip() == "%" else math.inf
    drawn = scatter(points, f"{kind.name}, {unit}", title, most, less_is_better=not like.higher_is_better)
    note = _FRONT
    if any(point.low is not None for point in points):
        note += " Whiskers: 95 % interval (Wilson) from the number of test samples."
    return CostFigure(_title(report, kind), note + _hollow(points), drawn)


def _latency_against_size(report: Report, latency: _Cost, size: _Cost) -> CostFigure | None:
    """For networks without labels, where there is no accuracy to show."""
    sized = [(benchmark, value) for benchmark, value in _unique(report, latency) if size.of(benchmark) is not None]
    if not sized:
        return None
    time_scale, time_unit = _unit([value for _, value in sized], latency.units)
    shown = [(benchmark, float(size.of(benchmark) or 0)) for benchmark, _ in sized]
    size_scale, size_unit = _unit([value for _, value in shown], size.units)
    bare = [Point(bytes_, (b.latency_ms.p50 or 0.0) / time_scale, "", "", 0) for b, bytes_ in shown]
    points = _points(
        report, shown, bare, size_scale,
        lambda b, value: f"{size.written(value)}, {latency.written(b.latency_ms.p50)}", less_is_better=True,
    )  # fmt: skip
    drawn = scatter(points, f"file size, {size_unit}", f"median latency, {time_unit}", less_is_better=True)
    note = f"There are no labels, so accuracy was not measured. {_FRONT}"
    return CostFigure(findings.headline(report), note + _hollow(points), drawn)


def _points(
    report: Report,
    shown: Sequence[tuple[BenchmarkRecord, float]],
    bare: Sequence[Point],
    scale: float,
    detail: Callable[[BenchmarkRecord, float], str],
    *,
    less_is_better: bool = False,
) -> list[Point]:
    palette = colours(report)
    labelled = _labelled(shown, report, set(front(bare, less_is_better=less_is_better)))
    several = len(findings.settings(report)) > 1
    points = []
    for i, ((benchmark, value), point) in enumerate(zip(shown, bare, strict=True)):
        words = detail(benchmark, value)
        where = f" ({setting_words(report, benchmark)})" if several else ""
        low, high = _interval(benchmark) if i in labelled and not less_is_better else (None, None)
        points.append(
            Point(
                value / scale,
                point.y,
                benchmark.name if i in labelled else "",
                words if i in labelled else "",
                palette[benchmark.name],
                low,
                high,
                _shape(report, benchmark),
                benchmark.valid is not False,
                f"{benchmark.name}: {words}{where}",
            )
        )
    return points


def _title(report: Report, kind: _Cost) -> str:
    if kind.units is TIMES:
        return findings.latency_title(report)
    return findings.size_title(report) if kind.units is SIZES else f"Accuracy against {kind.name}"


def _hollow(points: Sequence[Point]) -> str:
    return "" if all(point.trusted for point in points) else " Hollow signs: a measurement that broke a rule."
