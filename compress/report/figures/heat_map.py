"""A table of numbers coloured by their size, as an SVG file that needs no style sheet."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from .drawing import LETTER, WIDTH, shortened

ROW, LEFT, TOP = 24, 190, 66
LOW, HIGH = (247, 247, 242), (178, 34, 52)


def heat_map(
    rows: Sequence[tuple[str, Sequence[float | None]]], columns: Sequence[str], title: str, note: str, most: float
) -> Markup:
    """One line per row: its name, and a cell for each value; nothing where it is None. ``most`` has the full colour."""
    wide = (WIDTH - LEFT) / max(1, len(columns))
    height = TOP + ROW * len(rows) + 10
    parts = [
        Markup('<rect width="{}" height="{}" fill="white"/>').format(WIDTH, height),
        written(10, 20, title, weight="bold"),
        written(10, 38, note, colour="#666"),
    ]
    parts += [written(LEFT + wide * (i + 0.5), TOP - 8, name, "middle", "#444") for i, name in enumerate(columns)]
    for number, (name, values) in enumerate(rows):
        y = TOP + ROW * number
        parts.append(written(LEFT - 8, y + 16, shortened(name, int((LEFT - 16) / LETTER)), "end"))
        for i, value in enumerate(values):
            if value is None:
                continue
            share = min(1.0, max(0.0, value / most)) if most > 0 else 0.0
            colour = "#{:02x}{:02x}{:02x}".format(*(round(a + (b - a) * share) for a, b in zip(LOW, HIGH, strict=True)))
            parts.append(
                Markup('<rect x="{:.1f}" y="{}" width="{:.1f}" height="{}" fill="{}"/>').format(
                    LEFT + wide * i + 1, y + 1, wide - 2, ROW - 2, colour
                )
            )
            letters = "white" if share > 0.55 else "#222"
            parts.append(written(LEFT + wide * (i + 0.5), y + 16, f"{value:.1f}", "middle", letters))
    return Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {}" font-family="sans-serif" font-size="12" '
        'role="img" aria-label="{}">{}</svg>\n'
    ).format(WIDTH, height, title, Markup("\n").join(parts))


def written(
    x: float, y: float, text: str, anchor: str = "start", colour: str = "#222", weight: str = "normal"
) -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}" fill="{}" font-weight="{}">{}</text>').format(
        x, y, anchor, colour, weight, text
    )
