"""Tests import no tests: what several need is in ``tests/support``, and is imported under one name."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
FILES = sorted(HERE.rglob("*.py"))
SUPPORT = {path.stem for path in (HERE / "support").glob("*.py")} - {"__init__"}


def modules_imported(path: Path) -> set[str]:
    """The full names of the modules that statements in a file import."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module or ''}.{alias.name}" for alias in node.names} | {node.module or ""}
            assert not node.level, f"{path}: a relative import"
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(HERE).as_posix())
def test_tests_import_no_tests(path: Path) -> None:
    names = modules_imported(path)
    assert not {name for name in names if {"conftest"} & set(name.split(".")) or ".test_" in f".{name}"}
    assert not {name for name in names if name.partition(".")[0] in SUPPORT}, "import tests.support.<name>"


def test_there_is_something_to_look_at() -> None:
    assert len(FILES) > 100 and {"small_networks", "masked_by_hand"} <= SUPPORT
