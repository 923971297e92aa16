"""The figures of the page as inline SVG: no scripts, no fonts, colours from the page's style sheet.

Every drawing is 480 units wide, so that its letters can be read both in half of a wide window and on a phone. Names are
escaped wherever they enter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

WIDTH = 480
LETTER = 6.7


def linear_ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers within [low, high], about so many.

    >>> linear_ticks(0, 1.6), linear_ticks(97.2, 100.0, 3)
    ([0.0, 0.5, 1.0, 1.5], [98.0, 99.0, 100.0])
    """
    if not high > low:
        return [low]
    rough = (high - low) / max(1, wanted)
    power = 10.0 ** math.floor(math.log10(rough))
    step = min((m * power for m in (1, 2, 5, 10)), key=lambda s: abs(math.log(s / rough)))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1-2-5 numbers within [low, high] > 0, fewer where the range is wide.

    >>> log_ticks(0.15, 2.4)
    [0.2, 0.5, 1.0, 2.0]
    """
    decades = math.log10(high / low)
    mantissas = (1, 1.5, 2, 3, 5, 7) if decades < 0.7 else (1, 2, 5) if decades < 3 else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [float(f"{m * 10.0**p:.6g}") for p in powers for m in mantissas]
    inside = [tick for tick in ticks if low <= tick <= high]
    return inside if len(inside) >= 2 else linear_ticks(low, high, 4)


def text(x: float, y: float, words: str, anchor: str = "start", kind: str = "") -> Markup:
    """Letters at a place; ``kind`` is a class of the page's style sheet."""
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}" class="{}">{}</text>').format(x, y, anchor, kind, words)


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    """A straight line of a class of the page's style sheet."""
    return Markup('<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" class="{}"/>').format(x1, y1, x2, y2, kind)


def svg(height: float, title: str, parts: Sequence[Markup]) -> Markup:
    """A drawing of the page's width, with what it shows in words."""
    return Markup('<svg viewBox="0 0 {} {:.0f}" role="img" aria-label="{}" class="figure">{}</svg>').format(
        WIDTH, height, title, Markup("").join(parts)
    )


@dataclass(frozen=True)
class Distribution:
    """Latency samples of one file, in milliseconds."""

    label: str
    samples: Sequence[float]
    colour: int


def shortened(words: str, letters: int) -> str:
    """The text, its middle left out where it is longer than so many letters.

    >>> shortened("features.denseblock4.conv1", 15)
    'feature…4.conv1'
    """
    if len(words) <= letters:
        return words
    head = (letters - 1) // 2
    return f"{words[:head]}…{words[len(words) - (letters - 1 - head) :]}"


def distributions(rows: Sequence[Distribution], title: str) -> Markup:
    """Every sample of each file: a violin, a box from p25 to p75 with the median, a line from least to greatest.

    The axis is logarithmic where the files differ more than threefold. Nothing is cut off.
    """
    samples = [np.asarray(row.samples, dtype=float) for row in rows]
    low, high = min(float(s.min()) for s in samples), max(float(s.max()) for s in samples)
    logarithmic = low > 0 and high / low > 3
    left, right, top, pitch = 14.0, 14.0, 6.0, 74.0
    bottom = top + pitch * len(rows)
    scale: Callable[[float], float] = math.log10 if logarithmic else float
    start, end = scale(low), scale(high)
    margin = 0.04 * (end - start) or 0.02 * abs(end) or 0.1
    start, end = start - margin, end + margin

    def at(value: float) -> float:
        return left + (WIDTH - left - right) * (scale(value) - start) / (end - start)

    parts = []
    ticks = log_ticks(10**start, 10**end) if logarithmic else linear_ticks(start, end)
    for tick in ticks:
        parts.append(line(at(tick), top, at(tick), bottom, "grid"))
        parts.append(text(at(tick), bottom + 17, f"{tick:,g}", "middle", "tick"))
    unit = "latency per run, ms (logarithmic)" if logarithmic else "latency per run, ms"
    parts.append(text(WIDTH / 2, bottom + 38, unit, "middle", "axis"))
    for i, (row, values) in enumerate(zip(rows, samples, strict=True)):
        middle = top + pitch * i + 47
        places = np.log10(values) if logarithmic else values
        counts, edges = np.histogram(places, bins=150, range=(start, end))
        smooth = np.convolve(counts, (0.25, 0.5, 0.25), mode="same")
        halves = 19 * smooth / smooth.max()
        xs = left + (WIDTH - left - right) * ((edges[:-1] + edges[1:]) / 2 - start) / (end - start)
        shown = np.flatnonzero(smooth)
        outline = [(xs[j], middle - halves[j]) for j in shown] + [(xs[j], middle + halves[j]) for j in shown[::-1]]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in outline) + "Z"
        least, p25, p50, p75, greatest = (float(q) for q in np.percentile(values, (0, 25, 50, 75, 100)))
        parts.append(line(at(least), middle, at(greatest), middle, f"whisker s{row.colour}"))
        parts += [line(at(v), middle - 5, at(v), middle + 5, f"whisker s{row.colour}") for v in (least, greatest)]
        parts.append(Markup('<path d="{}" class="violin s{}"/>').format(path, row.colour))
        parts.append(
            Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="8" class="box"/>').format(
                at(p25), middle - 4, max(1.5, at(p75) - at(p25))
            )
        )
        parts.append(line(at(p50), middle - 9, at(p50), middle + 9, "median"))
        label = shortened(row.label, 40)
        width = len(label) * LETTER * 1.3
        x = min(max(at(p50) - width / 2, left), WIDTH - right - width)
        parts.append(text(x, middle - 26, label, "start", f"label s{row.colour}"))
    return svg(bottom + 46, title, parts)


def curve(values: Sequence[tuple[float, float]], x_title: str, y_title: str, colour: int) -> Markup:
    """A line through ``(x, y)`` points, with dots where there are few, and the last value written out."""
    height, left, right, top, bottom = 210.0, 54.0, 16.0, 14.0, 44.0
    xs, ys = [x for x, _ in values], [y for _, y in values]
    x_low, x_high = min(xs), max(xs)
    if x_high == x_low:
        x_low, x_high = x_low - 0.5, x_high + 0.5
    margin = 0.1 * (max(ys) - min(ys)) or 0.05 * abs(ys[0]) or 1.0
    y_low, y_high = min(ys) - margin, max(ys) + margin

    def at_x(value: float) -> float:
        return left + (WIDTH - left - right) * (value - x_low) / (x_high - x_low)

    def at_y(value: float) -> float:
        return top + (height - top - bottom) * (y_high - value) / (y_high - y_low)

    whole = [tick for tick in linear_ticks(x_low, x_high, 6) if tick == int(tick)]
    parts = [text(at_x(tick), height - bottom + 17, f"{tick:.0f}", "middle", "tick") for tick in whole]
    for tick in linear_ticks(y_low, y_high, 4):
        parts.append(line(left, at_y(tick), WIDTH - right, at_y(tick), "grid"))
        parts.append(text(left - 7, at_y(tick) + 4, f"{tick:,g}", "end", "tick"))
    parts.append(text((left + WIDTH - right) / 2, height - 8, x_title, "middle", "axis"))
    parts.append(
        Markup('<text transform="translate(13 {:.0f}) rotate(-90)" text-anchor="middle" class="axis">{}</text>').format(
            (top + height - bottom) / 2, y_title
        )
    )
    shown = values[:: max(1, len(values) // 400)]
    path = "M" + "L".join(f"{at_x(x):.1f} {at_y(y):.1f}" for x, y in shown)
    parts.append(Markup('<path d="{}" class="curve s{}"/>').format(path, colour))
    dots = values if len(values) <= 40 else values[-1:]
    parts += [
        Markup('<circle cx="{:.1f}" cy="{:.1f}" r="3" class="dot s{}"/>').format(at_x(x), at_y(y), colour)
        for x, y in dots
    ]
    x, y = values[-1]
    parts.append(
        text(
            at_x(x), at_y(y) + (16 if at_y(y) < height / 2 else -9), f"{y:.{4 if abs(y) >= 10 else 3}g}", "end", "label"
        )
    )
    return svg(height, f"{y_title} by {x_title}", parts)


def stacked(parts: Sequence[tuple[str, float, str]], whole: float, title: str) -> Markup:
    """A bar of ``(name, value, class)`` parts side by side, ``whole`` the full width; it stretches with the page."""
    drawn, x = [], 0.0
    for name, value, kind in parts:
        share = 100 * value / whole if whole else 0.0
        drawn.append(
            Markup('<rect x="{:.2f}%" width="{:.2f}%" height="18" class="{}"><title>{}</title></rect>').format(
                x, share, kind, name
            )
        )
        x += share
    return Markup('<svg class="bar" height="18" role="img" aria-label="{}">{}</svg>').format(
        title, Markup("").join(drawn)
    )


def paired(before: float | None, after: float | None, most: float, title: str) -> Markup:
    """Two bars one above the other, before and after, ``most`` being the full width; they stretch with the page."""
    bars = [
        Markup('<rect y="{}" width="{:.2f}%" height="7" class="{}"/>').format(y, 100 * value / most, kind)
        for y, value, kind in ((0, before, "was"), (8, after, "is"))
        if value and most
    ]
    return Markup('<svg class="bar" height="15" role="img" aria-label="{}"><title>{}</title>{}</svg>').format(
        title, title, Markup("").join(bars)
    )
