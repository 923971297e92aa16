"""Files by what they cost and what they give, as inline SVG, with the front of those that none surpasses."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from .drawing import LETTER, WIDTH, line, linear_ticks, log_ticks, shortened, svg, text

Box = tuple[float, float, float, float]
Place = tuple[float, float]

HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 320.0, 60.0, 14.0, 14.0, 46.0
WIDE = 20.0
"""Costs that differ more than so many times are on a logarithmic axis."""

SHAPES = 4


@dataclass(frozen=True)
class Point:
    """A file: what it costs (x) and what it gives (y).

    Args:
        label: written beside it, with ``detail`` below; neither where it is empty.
        colour: an index of the palette, the same for a file everywhere.
        low: the lower end of the interval of y, where there is one.
        shape: an index of the shapes, for devices and numbers of threads.
        trusted: whether its measurement is valid; others are drawn hollow.
        tip: shown where the pointer rests on it.
    """

    x: float
    y: float
    label: str
    detail: str
    colour: int
    low: float | None = None
    high: float | None = None
    shape: int = 0
    trusted: bool = True
    tip: str = ""


def front(points: Sequence[Point], *, less_is_better: bool = False) -> list[int]:
    """The points that no other one surpasses, cheapest first: none costs as little and gives more, nor the reverse.

    >>> front([Point(1, 90, "", "", 0), Point(2, 95, "", "", 0), Point(3, 94, "", "", 0)])
    [0, 1]
    """
    sign = -1.0 if less_is_better else 1.0
    chosen: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (points[i].x, -sign * points[i].y)):
        if not chosen or sign * points[i].y > sign * points[chosen[-1]].y:
            chosen.append(i)
    return chosen


@dataclass(frozen=True)
class _Axes:
    """Where values stand in the drawing."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float
    logarithmic: bool

    def at_x(self, value: float) -> float:
        scale: Callable[[float], float] = math.log10 if self.logarithmic else float
        share = (scale(value) - scale(self.x_low)) / (scale(self.x_high) - scale(self.x_low))
        return LEFT + (WIDTH - LEFT - RIGHT) * share

    def at_y(self, value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (self.y_high - value) / (self.y_high - self.y_low)


def _axes(points: Sequence[Point]) -> _Axes:
    """From zero, or logarithmic where costs differ much; y is as wide as the intervals ask."""
    xs = [point.x for point in points]
    logarithmic = min(xs) > 0 and max(xs) / min(xs) > WIDE
    lows = [point.y if point.low is None else point.low for point in points]
    highs = [point.y if point.high is None else point.high for point in points]
    margin = max(0.08 * (max(highs) - min(lows)), 0.02 * max(map(abs, highs)) if max(highs) == min(lows) else 0, 1e-9)
    x_low, x_high = (min(xs) / 1.5, max(xs) * 1.8) if logarithmic else (0.0, max(xs) * 1.12 or 1.0)
    return _Axes(x_low, x_high, min(lows) - margin, max(highs) + 3 * margin, logarithmic)


def scatter(
    points: Sequence[Point],
    x_title: str,
    y_title: str,
    y_most: float = math.inf,
    *,
    less_is_better: bool = False,
) -> Markup:
    """Labelled points, and the front of each shape as steps: what can be had at a cost. No tick is above ``y_most``.

    Args:
        less_is_better: of y, as of a latency.
    """
    axes = _axes(points)
    places = [(axes.at_x(point.x), axes.at_y(point.y)) for point in points]
    fronts = [_steps([places[i] for i in each]) for each in _fronts(points, less_is_better)]
    whiskers = [
        ((x, axes.at_y(point.low)), (x, axes.at_y(point.high)))
        for point, (x, _) in zip(points, places, strict=True)
        if point.low is not None and point.high is not None
    ]
    parts = [*_frame(axes, x_title, y_title, y_most)]
    for steps in fronts:
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in steps)
        parts.append(Markup('<path d="M{}" class="front"/>').format(path))
    for point, place in zip(points, places, strict=True):
        parts += _marker(point, place, axes)
    parts += _labels(points, places, [*(step for steps in fronts for step in pairwise(steps)), *whiskers])
    return svg(HEIGHT, f"{y_title} against {x_title}", parts)


def _fronts(points: Sequence[Point], less_is_better: bool) -> list[list[int]]:
    """The front of the points of each shape, by their indices."""
    fronts = []
    for shape in dict.fromkeys(point.shape for point in points):
        members = [i for i, point in enumerate(points) if point.shape == shape]
        chosen = front([points[i] for i in members], less_is_better=less_is_better)
        fronts.append([members[i] for i in chosen])
    return fronts


def _steps(places: Sequence[Place]) -> list[Place]:
    """The corners of a staircase through the points of a front, to the end of the drawing."""
    corners = [corner for a, b in pairwise(places) for corner in (a, (b[0], a[1]))]
    return [*corners, places[-1], (WIDTH - RIGHT, places[-1][1])]


def _frame(axes: _Axes, x_title: str, y_title: str, y_most: float) -> list[Markup]:
    """The grid, the numbers at it, and what the axes are."""
    parts = []
    x_ticks = log_ticks(axes.x_low, axes.x_high) if axes.logarithmic else linear_ticks(0, axes.x_high)
    for tick in x_ticks:
        parts.append(line(axes.at_x(tick), TOP, axes.at_x(tick), HEIGHT - BOTTOM, "grid"))
        parts.append(text(axes.at_x(tick), HEIGHT - BOTTOM + 17, f"{tick:,g}", "middle", "tick"))
    for tick in linear_ticks(axes.y_low, min(axes.y_high, y_most)):
        parts.append(line(LEFT, axes.at_y(tick), WIDTH - RIGHT, axes.at_y(tick), "grid"))
        parts.append(text(LEFT - 7, axes.at_y(tick) + 4, f"{tick:,g}", "end", "tick"))
    scaled = f"{x_title}, logarithmic" if axes.logarithmic else x_title
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, scaled, "middle", "axis"))
    parts.append(
        Markup('<text transform="translate(13 {:.0f}) rotate(-90)" text-anchor="middle" class="axis">{}</text>').format(
            (TOP + HEIGHT - BOTTOM) / 2, y_title
        )
    )
    return parts


def _marker(point: Point, place: Place, axes: _Axes) -> list[Markup]:
    """The whisker of a point and its sign: a disk, a square, a triangle or a diamond, hollow where it is not valid."""
    x, y = place
    parts = []
    if point.low is not None and point.high is not None:
        low, high = axes.at_y(point.low), axes.at_y(point.high)
        parts.append(line(x, low, x, high, f"whisker s{point.colour}"))
        parts += [line(x - 4, end, x + 4, end, f"whisker s{point.colour}") for end in (low, high)]
    kind = f"dot s{point.colour}" + ("" if point.trusted else " hollow")
    parts.append(sign(x, y, point.shape, kind, point.tip))
    return parts


def sign(x: float, y: float, shape: int, kind: str, tip: str = "") -> Markup:
    """One of the shapes of points, of a class of the style sheet."""
    inner = Markup("<title>{}</title>").format(tip) if tip else ""
    if shape % SHAPES == 0:
        return Markup('<circle cx="{:.1f}" cy="{:.1f}" r="6" class="{}">{}</circle>').format(x, y, kind, inner)
    corners = {
        1: ((-5.5, -5.5), (5.5, -5.5), (5.5, 5.5), (-5.5, 5.5)),
        2: ((0, -7.2), (7, 5.2), (-7, 5.2)),
        3: ((0, -7.6), (7.6, 0), (0, 7.6), (-7.6, 0)),
    }[shape % SHAPES]
    drawn = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)
    return Markup('<polygon points="{}" class="{}">{}</polygon>').format(drawn, kind, inner)


def _labels(points: Sequence[Point], places: Sequence[Place], segments: Sequence[tuple[Place, Place]]) -> list[Markup]:
    named = [(point, place) for point, place in zip(points, places, strict=True) if point.label]
    labels = [shortened(point.label, 34) for point, _ in named]
    widths = [
        max(len(label) * LETTER * 1.2, len(point.detail) * LETTER * 1.05)
        for label, (point, _) in zip(labels, named, strict=True)
    ]
    bounds = (LEFT + 2, TOP, WIDTH - RIGHT + 8, HEIGHT - BOTTOM - 3)
    boxes = place_labels([place for _, place in named], widths, 32, bounds, segments, places)
    parts = []
    for label, (point, _), box in zip(labels, named, boxes, strict=True):
        parts.append(text((box[0] + box[2]) / 2, box[1] + 13, label, "middle", f"label s{point.colour}"))
        parts.append(text((box[0] + box[2]) / 2, box[1] + 28, point.detail, "middle", "detail"))
    return parts


def _overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _crossed(box: Box, start: tuple[float, float], end: tuple[float, float]) -> float:
    """How much of a segment lies in a box, of 16 samples."""
    inside = 0
    for i in range(17):
        x, y = start[0] + (end[0] - start[0]) * i / 16, start[1] + (end[1] - start[1]) * i / 16
        inside += box[0] <= x <= box[2] and box[1] <= y <= box[3]
    return float(inside)


def place_labels(
    anchors: Sequence[tuple[float, float]],
    widths: Sequence[float],
    height: float,
    bounds: Box,
    segments: Sequence[tuple[Place, Place]] = (),
    others: Sequence[Place] = (),
) -> list[Box]:
    """A box for the label of every anchor: within ``bounds``, off the other labels, all points and the segments.

    Greedy: for each label in turn, the place around its point with the least that it would cover.
    """
    placed: list[Box] = []
    points = [*anchors, *(place for place in others if place not in anchors)]
    for (x, y), width in zip(anchors, widths, strict=True):
        best: tuple[float, Box] | None = None
        for distance in (11.0, 22.0, 38.0, 58.0, 80.0, 104.0):
            for angle in range(0, 360, 30):
                dx, dy = math.cos(math.radians(angle)), -math.sin(math.radians(angle))
                cx, cy = x + dx * (distance + width / 2), y + dy * (distance + height / 2)
                cx = max(bounds[0] + width / 2, min(cx, bounds[2] - width / 2))
                cy = max(bounds[1] + height / 2, min(cy, bounds[3] - height / 2))
                box = (cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2)
                nearest = min(math.dist((cx, cy), anchor) for anchor in points)
                cost = math.dist((cx, cy), (x, y)) + (60 if nearest < math.dist((cx, cy), (x, y)) - 1 else 0)
                cost += (0 if dx >= -0.01 else 4) + (0 if abs(dy) < 0.6 else 2)
                cost += sum(20 * _overlap(box, other) for other in placed)
                cost += sum(8 * _overlap(box, (px - 8, py - 8, px + 8, py + 8)) for px, py in points)
                cost += sum(25 * _crossed(box, start, end) for start, end in segments)
                if best is None or cost < best[0]:
                    best = (cost, box)
        assert best is not None
        placed.append(best[1])
    return placed
