"""The picture of the architecture is that of the code as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs.generate import architecture

STALE = "it is stale: run `make docs` and commit what it writes"


def test_the_picture_is_drawn_from_the_code() -> None:
    assert architecture.PICTURE.read_text(encoding="utf-8") == architecture.draw(), f"architecture.svg: {STALE}"


def test_the_table_is_that_of_the_code() -> None:
    text = architecture.PAGE.read_text(encoding="utf-8")
    assert text == architecture.with_table(text), f"architecture.md: {STALE}"


def test_every_box_says_what_it_is() -> None:
    assert not [unit for unit in architecture.imports() if not architecture.purpose(unit)]


def test_nothing_imports_in_a_circle() -> None:
    assert not [circle for circle in architecture.circles(architecture.imports()) if len(circle) > 1]


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """Four packages with imports of every kind."""
    files = {
        "compress/__init__.py": "",
        "compress/top.py": "from .siblings import runtimes\nfrom . import low\ndef f():\n    from .wing.a import x\n",
        "compress/low.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .top import y\n",
        "compress/siblings.py": "import models\n",
        "compress/wing/__init__.py": "",
        "compress/wing/a.py": "from ..low import z\nfrom . import b\n",
        "compress/wing/b.py": "from .a import w\n",
        "export/__init__.py": "from compress.wing import a\nimport compress.low\n",
        "models/__init__.py": "",
        "runtimes/__init__.py": "import torch\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_imports_are_found_wherever_they_stand(code: Path) -> None:
    found = architecture.imports(code)
    assert found["compress/top"] == {"compress/low", "compress/wing", "runtimes"}
    assert found["compress/low"] == set() and found["compress/wing"] == {"compress/low"}
    assert found["export"] == {"compress/low", "compress/wing"}


def test_a_box_stands_above_those_that_it_imports(code: Path) -> None:
    graph = architecture.imports(code)
    height = {unit: i for i, row in enumerate(architecture.rows(graph)) for circle in row for unit in circle}
    assert all(height[unit] > height[other] for unit, needed in graph.items() for other in needed)
    drawn = architecture.draw(code)
    assert all(f">{unit.removeprefix('compress/')}</text>" in drawn for unit in graph)
