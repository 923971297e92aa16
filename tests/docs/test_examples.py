"""The examples run, with trainings of one epoch, and what they say they write is there."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.support.documents import ROOT

EXAMPLES = ROOT / "examples"
WRITTEN = {
    "binary_network": ("bits/model.bits.onnx",),
    "detector": ("detector/int8.onnx",),
    "distil": (),
    "onnx_file": ("onnx/net.onnx", "onnx/smaller.onnx"),
    "own_loop": ("own_loop/pruned/manifest.json", "own_loop/int8.onnx"),
    "own_module": ("module/float.onnx", "module/int8.onnx"),
    "own_task": ("task/int8.onnx",),
    "own_trainer": ("trainer/mine.safetensors", "trainer/int8/manifest.json"),
    "prune_and_finetune": ("pruned/manifest.json",),
    "quantize_and_export": ("files/float.onnx", "files/int8.onnx"),
    "recipe": ("run/report.html", "run/report.json"),
    "stage": (),
}
"""The scripts, and the files that each leaves below ``out/examples``."""


@pytest.mark.parametrize("name", WRITTEN)
def test_an_example_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [f"{name}.py"])
    path = EXAMPLES / f"{name}.py"
    short = re.sub(r"(\bepochs\W+)\d+", r"\g<1>1", path.read_text(encoding="utf-8"))
    exec(compile(short, str(path), "exec"), {"__name__": "__main__", "__file__": str(path)})
    assert all((tmp_path / "out" / "examples" / file).stat().st_size for file in WRITTEN[name])
    assert len(capsys.readouterr().out.splitlines()) >= 3


@pytest.mark.parametrize("name", WRITTEN)
def test_an_example_is_short(name: str) -> None:
    assert 20 <= len((EXAMPLES / f"{name}.py").read_text(encoding="utf-8").splitlines()) <= 45


def test_every_script_is_run_here_or_shown_in_development() -> None:
    """Those that are shown there are tested where what they extend is tested."""
    shown = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "development").glob("*.md"))
    for path in EXAMPLES.rglob("*.py"):
        place = path.relative_to(ROOT).as_posix()
        assert path.stem in {*WRITTEN, "net"} or f"{{literalinclude}} ../../{place}\n" in shown, place
