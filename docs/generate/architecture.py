"""Draws ``docs/images/architecture.svg`` from the imports in the code: who needs whom, from the command line down.

The table of ``docs/development/architecture.md`` has the same boxes, with the first sentence of their docstrings.

A box is a package, or a module that lies in ``compress/`` itself. It stands one row above the highest of those that it
imports, so that imports only ever point down; boxes that import each other are drawn as one. Imports within functions
count as those at the top of a file do, and those for the type checker alone do not count.
"""

from __future__ import annotations

import ast
import html
import re
from collections.abc import Iterator, Mapping, Set
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PICTURE = ROOT / "docs" / "images" / "architecture.svg"
PAGE = ROOT / "docs" / "development" / "architecture.md"
MARKS = ("<!-- from the code -->\n", "<!-- end of what is from the code -->")
PACKAGES = ("compress", "export", "models", "runtimes")
COLOURS = {"compress": "#dbe8fb", "export": "#fde7cf", "models": "#e3f1dd", "runtimes": "#ecdffa"}
WIDTH, MARGIN, GAP, HEIGHT, ROW, LETTER = 1040, 20, 8, 28, 54, 7.3


def unit_of(path: Path) -> str:
    """The box of a file, by its path from the root: ``compress/prune``, ``compress/stage``, ``export``.

    >>> unit_of(Path("compress/prune/walk/walker.py")), unit_of(Path("compress/stage.py")), unit_of(Path("export/x.py"))
    ('compress/prune', 'compress/stage', 'export')
    """
    package, *rest = path.with_suffix("").parts
    return f"compress/{rest[0]}" if package == "compress" else package


def _runs(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but those below ``if TYPE_CHECKING``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for other in node.orelse:
                yield other
                yield from _runs(other)
        else:
            yield node
            yield from _runs(node)


def imported(path: Path, root: Path = ROOT) -> set[str]:
    """The boxes that a file imports from, its own included."""
    found = set()
    for node in _runs(ast.parse((root / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            place = path.parent.parts[: len(path.parent.parts) - node.level + 1] if node.level else ()
            start = ".".join([*place, *([node.module] if node.module else [])])
            if start == "compress.siblings":
                names = [alias.name for alias in node.names]
            else:
                names = [f"{start}.{alias.name}" if start in ("compress", "") else start for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] in PACKAGES and (parts[0] != "compress" or len(parts) > 1):
                found.add(f"compress/{parts[1]}" if parts[0] == "compress" else parts[0])
    return found


def imports(root: Path = ROOT) -> dict[str, set[str]]:
    """The boxes, each with those that it imports from, itself left out."""
    found: dict[str, set[str]] = {}
    for package in PACKAGES:
        for file in sorted((root / package).rglob("*.py")):
            path = file.relative_to(root)
            unit = unit_of(path)
            if path != Path("compress/__init__.py"):  # it names what is public, and imports nothing before it is used
                found.setdefault(unit, set()).update(imported(path, root) - {unit})
    return {unit: {other for other in needed if other in found} for unit, needed in found.items()}


def circles(graph: Mapping[str, Set[str]]) -> list[tuple[str, ...]]:
    """The boxes, those that import each other together (strongly connected components; Tarjan, 1972).

    >>> sorted(circles({"a": {"b"}, "b": {"a"}, "c": {"a"}}))
    [('a', 'b'), ('c',)]
    """
    numbers: dict[str, int] = {}
    least: dict[str, int] = {}
    stack: list[str] = []
    made: list[tuple[str, ...]] = []

    def visit(unit: str) -> None:
        numbers[unit] = least[unit] = len(numbers)
        stack.append(unit)
        for other in sorted(graph[unit]):
            if other not in numbers:
                visit(other)
            if other in stack:
                least[unit] = min(least[unit], least[other])
        if least[unit] == numbers[unit]:
            place = stack.index(unit)
            made.append(tuple(sorted(stack[place:])))
            del stack[place:]

    for unit in sorted(graph):
        if unit not in numbers:
            visit(unit)
    return made


def rows(graph: Mapping[str, set[str]]) -> list[list[tuple[str, ...]]]:
    """The boxes in rows, the lowest first: those that import nothing, then those that import from these, and so on."""
    level: dict[str, int] = {}
    placed: list[list[tuple[str, ...]]] = []
    for circle in circles(graph):  # what a circle imports comes before it
        below = {level[other] for unit in circle for other in graph[unit] if other not in circle}
        height = max(below, default=-1) + 1
        level.update(dict.fromkeys(circle, height))
        placed += [[] for _ in range(height + 1 - len(placed))]
        placed[height].append(circle)
    return [sorted(row) for row in placed]


def _box(x: float, y: float, circle: tuple[str, ...]) -> tuple[str, float]:
    """A box with its names, and how wide it is."""
    text = " ⇄ ".join(unit.removeprefix("compress/") for unit in circle)
    width = len(text) * LETTER + 18
    package = circle[0].partition("/")[0]
    frame = f'<rect x="{x:.0f}" y="{y:.0f}" width="{width:.0f}" height="{HEIGHT}" rx="6" fill="{COLOURS[package]}"'
    middle = f'<text x="{x + width / 2:.1f}" y="{y + 18:.0f}" text-anchor="middle">'
    return f'{frame} stroke="#8995a8"/>{middle}{html.escape(text)}</text>', width


def draw(root: Path = ROOT) -> str:
    """The picture as SVG."""
    parts: list[str] = []
    rules: list[float] = []
    y, right = float(MARGIN), 0.0
    for row in reversed(rows(imports(root))):
        x = float(MARGIN)
        for circle in row:
            box, width = _box(x, y, circle)
            if x > MARGIN and x + width > WIDTH - MARGIN:
                x, y = float(MARGIN), y + HEIGHT + GAP
                box, width = _box(x, y, circle)
            parts.append(box)
            x += width + GAP
            right = max(right, x - GAP)
        y += ROW
        rules.append(y - 13)
    parts += [
        f'<line x1="{MARGIN}" x2="{right:.0f}" y1="{at:.0f}" y2="{at:.0f}" stroke="#e1e5ec"/>' for at in rules[:-1]
    ]
    body, whole = "\n".join(parts), round(right + MARGIN)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {whole} {y - 6:.0f}" width="{whole}" role="img" '
        'aria-label="The packages in rows; each imports from rows below alone" font-family="sans-serif" '
        f'font-size="13" fill="#1b2330">\n<rect width="100%" height="100%" fill="#ffffff"/>\n{body}\n</svg>\n'
    )


def purpose(unit: str, root: Path = ROOT) -> str:
    """The first sentence of the docstring of a box."""
    place = root / unit
    file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    sentence = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", " ".join(text.partition("\n\n")[0].split()))
    return sentence.replace("``", "`")


def table(root: Path = ROOT) -> str:
    """What each box is for, in Markdown, in the order of the picture."""
    lines = ["| place | what it is |", "|---|---|"]
    for row in reversed(rows(imports(root))):
        for unit in (unit for circle in row for unit in circle):
            name = f"{unit}/" if (root / unit).is_dir() else f"{unit}.py"
            lines.append(f"| `{name}` | {purpose(unit, root)} |")
    return "\n".join(lines) + "\n"


def with_table(page: str) -> str:
    """The text of the page with the table as it is now, between the marks that are there for it.

    Raises:
        ValueError: the marks are not there.
    """
    start, end = MARKS
    head, _, rest = page.partition(start)
    _, _, tail = rest.partition(end)
    if not tail:
        raise ValueError(f"architecture.md: expected the marks {start.strip()} and {end}")
    return f"{head}{start}{table()}{end}{tail}"


def write() -> None:
    """Draw the picture and write the table anew."""
    PICTURE.write_text(draw(), encoding="utf-8")
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
