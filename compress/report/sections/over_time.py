"""Latency over the time of a measurement, with clocks and temperatures: whether a device keeps its speed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from .. import quantities
from ..figures.drawing import WIDTH, line, linear_ticks, shortened, svg, text
from ..schema import BenchmarkRecord, Report
from . import costs

LEAST_S = 5.0
"""Of a loop that is drawn over time."""

WINDOWS, LEAST_RUNS = 60, 5
"""At most so many windows of at least so many runs."""

LEFT, RIGHT, ROW, GAP = 52.0, 14.0, 62.0, 30.0


@dataclass(frozen=True)
class Strip:
    """A quantity over time: a line, and a band around it where there is one; ``colour`` is an index of the palette."""

    label: str
    times_s: Sequence[float]
    values: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    colour: int | None = None


def figure(report: Report, group: Sequence[BenchmarkRecord]) -> Markup | None:
    """Latencies of the files of a group over the time of their loop; None where that was short, or is not known."""
    shown = [
        b for b in costs.ordered(report, group) if (b.duration_s or 0) >= LEAST_S and len(b.samples_ms) >= LEAST_RUNS
    ]
    if not shown:
        return None
    palette = costs.colours(report)
    strips = [_latency(benchmark, palette[benchmark.name]) for benchmark in shown]
    strips += _sensors(shown[0].watched)
    return _drawn([strip for strip in strips if strip is not None], max(b.duration_s or 0 for b in shown))


def _latency(benchmark: BenchmarkRecord, colour: int) -> Strip | None:
    """Medians of windows, with a band from the 10th to the 90th percentile."""
    samples = np.asarray([s for s in benchmark.samples_ms if math.isfinite(s)])
    if len(samples) < LEAST_RUNS:
        return None
    windows = np.array_split(samples, max(1, min(WINDOWS, len(samples) // LEAST_RUNS)))
    low, middle, high = (np.array([np.percentile(each, q) for each in windows]) for q in (10, 50, 90))
    ends = np.cumsum([len(each) for each in windows]) / len(samples) * (benchmark.duration_s or 0)
    tenth = max(1, len(samples) // 10)
    first, last = float(np.median(samples[:tenth])), float(np.median(samples[-tenth:]))
    change = f", {100 * (last / first - 1):+.1f}\u00a0%" if first > 0 else ""
    times = " → ".join(quantities.milliseconds(value) for value in (first, last))
    label = f"{shortened(benchmark.name, 26)}: {times}{change}"
    centres = ends - np.diff(ends, prepend=0.0) / 2
    return Strip(label, centres.tolist(), middle.tolist(), low.tolist(), high.tolist(), colour)


def _sensors(watched: Mapping[str, object]) -> list[Strip | None]:
    """The fastest clock and the hottest sensor, where the device tells them."""
    readings = watched.get("readings")
    if not isinstance(readings, (list, tuple)):
        return []
    return [
        _sensor(readings, "clocks_mhz", "clock, MHz (fastest core)"),
        _sensor(readings, "temperatures_c", "temperature, °C (hottest sensor)"),
    ]


def _sensor(readings: Sequence[object], name: str, label: str) -> Strip | None:
    told = []
    for reading in readings:
        values = reading.get(name) if isinstance(reading, Mapping) else None
        at = reading.get("at_s") if isinstance(reading, Mapping) else None
        numbers = [v for v in values.values() if isinstance(v, (int, float))] if isinstance(values, Mapping) else []
        if numbers and isinstance(at, (int, float)):
            told.append((float(at), float(max(numbers))))
    if len(told) < 2:
        return None
    few = told[:: max(1, len(told) // 400)]
    return Strip(label, [at for at, _ in few], [value for _, value in few])


def _drawn(strips: Sequence[Strip], duration_s: float) -> Markup | None:
    if not strips:
        return None
    minutes = duration_s >= 180
    unit, scale = ("minutes", 60.0) if minutes else ("seconds", 1.0)
    bottom = len(strips) * (ROW + GAP)

    def at_x(seconds: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * seconds / duration_s

    parts = []
    for tick in linear_ticks(0, duration_s / scale):
        parts.append(line(at_x(tick * scale), GAP - 6, at_x(tick * scale), bottom, "grid"))
        parts.append(text(at_x(tick * scale), bottom + 17, f"{tick:,g}", "middle", "tick"))
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, bottom + 38, f"{unit} since the loop began", "middle", "axis"))
    for i, strip in enumerate(strips):
        parts += _strip(strip, i * (ROW + GAP) + GAP, at_x)
    return svg(bottom + 46, "latency over the time of the measurement", parts)


def _strip(strip: Strip, top: float, at_x: Callable[[float], float]) -> list[Markup]:
    """One quantity on an axis of its own."""
    values = [*strip.values, *strip.low, *strip.high]
    margin = 0.06 * (max(values) - min(values)) or 0.02 * abs(values[0]) or 1.0
    low, high = min(values) - margin, max(values) + margin

    def at_y(value: float) -> float:
        return top + ROW * (high - value) / (high - low)

    kind = "" if strip.colour is None else f" s{strip.colour}"
    parts = [text(LEFT, top - 8, strip.label, "start", f"label{kind}")]
    for tick in linear_ticks(low, high, 3):
        parts.append(line(LEFT, at_y(tick), WIDTH - RIGHT, at_y(tick), "grid"))
        parts.append(text(LEFT - 7, at_y(tick) + 4, f"{tick:,g}", "end", "tick"))
    if strip.low:
        edge = [*zip(strip.times_s, strip.high, strict=True)]
        edge += [*zip(strip.times_s, strip.low, strict=True)][::-1]
        path = "L".join(f"{at_x(t):.1f} {at_y(v):.1f}" for t, v in edge)
        parts.append(Markup('<path d="M{}Z" class="band{}"/>').format(path, kind))
    path = "L".join(f"{at_x(t):.1f} {at_y(v):.1f}" for t, v in zip(strip.times_s, strip.values, strict=True))
    parts.append(Markup('<path d="M{}" class="curve{}"/>').format(path, kind))
    return parts
