"""No table of any command cuts a value, however narrow the terminal is."""

from __future__ import annotations

import io
import random
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Group
from rich.table import Table
from rich.text import Text

from compress.cli import main
from compress.cli.output.terminal import ENDLESS, Terminal
from tests.support.small_classifier import SMALL_NET

BORDERS = str.maketrans(dict.fromkeys("┏━┳┓┃┡╇┩│├┼┤└┴┘─┌┬┐╷╵", " "))
COMMANDS = (
    "analyze net.py:build --input-shape 1,8,8",
    "doctor",
    "fold net.py:build --input-shape 1,8,8 -o folded",
    "quantize net.py:build --data data.npz --keep-slower -o int8",
    "export int8 --target ort-x86 -o ort-x86.onnx",
    "analyze ort-x86.onnx --target tensorrt",
    "pack ort-x86.onnx -o packed -v",
    "export net.py:build --data data.npz -o files",
    "check files",
    "bench ort-x86.onnx files/model.onnx --preset quick",
    "sensitivity net.py:build --data data.npz --samples 10 -o scan",
    "sensitivity net.py:build --stage quantize --data data.npz --samples 10 -o precisions",
    "run recipe.yaml --trust -o run",
)
RECIPE = """
model: net.py:build:width=16
data: {source: data.npz}
stages: [prune: {ratio: 0.5}, fold, quantize]
exports: [{name: baseline}, {name: a-file-whose-name-is-rather-long, after: quantize}]
"""


def printed(table: Table, width: int) -> str:
    console = Terminal()
    console.file, console.width = io.StringIO(), width
    console.print(table)
    return console.file.getvalue()


def values(table: Table) -> Iterator[str]:
    """The words of all cells, as they are printed."""
    for column in table.columns:
        for cell in column.cells:
            yield from (cell.plain if isinstance(cell, Text) else str(cell)).split()


def require_whole(table: Table, width: int) -> None:
    out = printed(table, width)
    assert all(len(line) <= width for line in out.splitlines())
    words = out.translate(BORDERS).split()
    for value in values(table):
        assert value in words or (len(value) > width and value in out.replace("\n", "")), f"{value}: {out}"


@pytest.fixture
def tables(tmp_path: Path, npz: Path, monkeypatch: pytest.MonkeyPatch) -> list[Table]:
    """Every table that the commands print."""
    assert npz.parent == tmp_path
    (tmp_path / "net.py").write_text(SMALL_NET)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    seen: list[Table] = []

    def record(_: Terminal, *parts: object, **__: object) -> None:
        for part in parts:
            seen.extend(p for p in (part.renderables if isinstance(part, Group) else [part]) if isinstance(p, Table))

    monkeypatch.setattr(Terminal, "print", record)
    for line in COMMANDS:
        before = len(seen)
        monkeypatch.setattr(sys, "argv", ["compress", *shlex.split(line)])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code in (0, 1), line
        assert len(seen) > before or line.startswith("export"), line
    monkeypatch.undo()
    return seen


def test_every_table_of_every_command_fits(tables: list[Table]) -> None:
    assert len(tables) >= 15
    for table in tables:
        for width in (80, 60, 100, ENDLESS):
            require_whole(table, width)


@pytest.mark.parametrize("rows", [1, 3, 40])
@pytest.mark.parametrize("columns", [2, 9])
@pytest.mark.parametrize("longest", [4, 30, 90])
def test_made_tables_fit(rows: int, columns: int, longest: int) -> None:
    chance = random.Random(rows * columns * longest)
    table = Table(*(f"heading of {i}" for i in range(columns)), title="made")
    for row in range(rows):
        table.add_row(*(f"{row}.{i}" + "x" * chance.randrange(longest) for i in range(columns)))
    require_whole(table, 80)


def test_prose_takes_several_lines_and_stays_a_table() -> None:
    table = Table("layer", "reason")
    table.add_row("layer1.0.conv1", "its outputs are added to those of a layer that is left alone, " * 3)
    out = printed(table, 80)
    assert "┏" in out and len(out.splitlines()) > 5
    require_whole(table, 80)


def test_a_pipe_breaks_no_line(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    table = Table(*"abc")
    table.add_row("x" * 100, "y" * 100, "a reason of many words " * 10)
    Terminal().print(table)
    assert len(capfd.readouterr().out.splitlines()) == 5
