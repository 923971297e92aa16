"""The README is short, says what it must, and its Python runs."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import pytest
import torch

from compress.cli import COMMANDS
from tests.support.documents import ROOT, blocks, lines

README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8")


def test_it_is_short() -> None:
    assert len(TEXT.splitlines()) <= 150


def test_it_has_the_set_up_the_licence_and_the_test_command_of_ci() -> None:
    shown = [words for block in blocks(README, "sh") for words in lines(block)]
    assert ["make", "demo"] in shown and ["make", "test"] in shown
    assert "make test\n" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "Apache-2.0" in TEXT


def test_its_command_lines_fit_a_screen() -> None:
    shown = [words for block in blocks(README, "sh") for words in lines(block) if words[0] == "compress"]
    assert 6 <= len(shown) <= 12


def test_its_table_has_every_command() -> None:
    rows = [line.split("|")[1] for line in TEXT.splitlines() if line.startswith("| `")]
    named = [name.strip(" `") for row in rows for name in row.split(",")]
    assert sorted(named) == sorted(COMMANDS)


def test_its_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = blocks(README, "python")
    assert len([line for line in block.code.splitlines() if line]) <= 8
    names: dict[str, object] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(block.code, str(README), "exec"), names)
    smaller = names["result"].model  # type: ignore[attr-defined]
    assert type(smaller) is torch.nn.Sequential and smaller[0].out_channels == 32
    assert (tmp_path / "out" / "net.onnx").stat().st_size
