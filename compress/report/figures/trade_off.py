"""Bytes against the fidelity of a network in mixed precision, as an SVG file that needs no style sheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from .drawing import WIDTH, linear_ticks
from .heat_map import written

HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 340, 52, 20, 62, 46
LINE, DOT = "#9aa4ad", "#b22234"


@dataclass(frozen=True)
class Choice:
    """One choice of precisions: what it stores, and its signal to noise ratio in dB as predicted and as measured.

    ``detail`` is written at a measured point.
    """

    stored_bytes: float
    predicted_db: float | None = None
    measured_db: float | None = None
    detail: str = ""


def trade_off_figure(choices: Sequence[Choice], title: str, note: str) -> Markup:
    """A line through what is predicted, and a dot with its detail for what was measured; bytes in thousands."""
    drawn = [choice for choice in choices if choice.predicted_db is not None or choice.measured_db is not None]
    decibels = [value for each in drawn for value in (each.predicted_db, each.measured_db) if value is not None]
    low, high = _widened([each.stored_bytes / 1000 for each in drawn])
    bottom, top = _widened(decibels)

    def at(each: Choice, decibel: float) -> tuple[float, float]:
        x = LEFT + (WIDTH - LEFT - RIGHT) * (each.stored_bytes / 1000 - low) / (high - low)
        return x, TOP + (HEIGHT - TOP - BOTTOM) * (top - decibel) / (top - bottom)

    parts = [
        Markup('<rect width="{}" height="{}" fill="white"/>').format(WIDTH, HEIGHT),
        written(10, 20, title, weight="bold"),
        written(10, 38, note, colour="#666"),
        written((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, "stored tensors, kB", "middle", "#444"),
        written(10, TOP - 8, "dB", colour="#444"),
    ]
    for tick in linear_ticks(low, high):
        x, _ = at(Choice(1000 * tick), bottom)
        parts += [_rule(x, TOP, x, HEIGHT - BOTTOM), written(x, HEIGHT - BOTTOM + 17, f"{tick:,g}", "middle", "#444")]
    for tick in linear_ticks(bottom, top):
        _, y = at(Choice(1000 * low), tick)
        parts += [_rule(LEFT, y, WIDTH - RIGHT, y), written(LEFT - 7, y + 4, f"{tick:,g}", "end", "#444")]
    line = [at(each, each.predicted_db) for each in drawn if each.predicted_db is not None]
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in line)
    if line:
        parts.append(Markup('<path d="M{}" fill="none" stroke="{}" stroke-width="2"/>').format(path, LINE))
    for each in drawn:
        if each.measured_db is None:
            continue
        x, y = at(each, each.measured_db)
        parts.append(Markup('<circle cx="{:.1f}" cy="{:.1f}" r="4" fill="{}"/>').format(x, y, DOT))
        anchor = "start" if x < (LEFT + WIDTH) / 2 else "end"
        parts.append(written(x + (8 if anchor == "start" else -8), y + 16, each.detail, anchor, DOT))
    return Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {}" font-family="sans-serif" font-size="12" '
        'role="img" aria-label="{}">{}</svg>\n'
    ).format(WIDTH, HEIGHT, title, Markup("\n").join(parts))


def _widened(values: Sequence[float]) -> tuple[float, float]:
    if not values:
        return 0.0, 1.0
    margin = 0.06 * (max(values) - min(values)) or 0.05 * abs(values[0]) or 1.0
    return min(values) - margin, max(values) + margin


def _rule(x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup('<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" stroke="#e4e4de"/>').format(x1, y1, x2, y2)
