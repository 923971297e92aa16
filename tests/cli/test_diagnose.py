"""``compress diagnose``: which layers of a file lose accuracy, and whether mending them helps as it says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.command_line import runner

Run = Callable[..., str]

NET = """
import torch
from torch import nn

class Ruined(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv1 = nn.Conv2d(1, 8, 3)
        self.bn = nn.BatchNorm2d(8)
        self.wild = nn.Conv2d(8, 8, 3)
        self.fc = nn.Linear(8 * 16, 10)
        with torch.no_grad():
            self.wild.weight[:, 0] *= 300
            self.wild.weight[:, 1:] *= 0.5

    def forward(self, x):
        x = torch.relu(self.bn(self.conv1(x)))
        x = x * torch.tensor([1 / 300] + [1.0] * 7).view(1, 8, 1, 1)
        return self.fc(torch.relu(self.wild(x)).flatten(1))
"""


@pytest.fixture
def run(tmp_path: Path, npz: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in a folder with ``net.py`` and ``data.npz``; returns its stdout."""
    assert npz.parent == tmp_path
    (tmp_path / "net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    return runner(monkeypatch, capfd)


def test_the_layer_that_ruins_a_network_is_found_and_mended(run: Run) -> None:
    run("quantize net.py:Ruined --data data.npz -o int8 -q")
    run("export int8 --data data.npz --format onnx -o files -q")
    found = json.loads(run("diagnose int8 --file files/model.onnx --data data.npz --samples 8 --json"))
    layers = {layer["layer"]: layer for layer in found["layers"]}
    assert {"conv1", "wild", "fc"} <= layers.keys() and found["samples"] == 8, "whole batches"
    assert layers["wild"]["kind"] == "integer" and layers["wild"]["duration_ms"] > 0
    assert found["worst"][0] == max(layers, key=lambda name: float(layers[name]["added_db"]))
    (output,) = found["outputs"]
    best = found["remedies"][0]
    assert best["snr_db"] > output["snr_db"]

    run(f"quantize net.py:Ruined --data data.npz {best['setting']} -o mended -q")
    mended = json.loads(run("diagnose mended --data data.npz --samples 8 --json"))
    assert mended["outputs"][0]["snr_db"] == pytest.approx(best["snr_db"], abs=1.5), "what the simulation foretold"
    shown = run("diagnose int8 --data data.npz --samples 8")
    assert f"with {best['layer']} in float" in shown and "dB of signal to noise" in shown


def test_a_file_in_float_is_exact_in_every_layer(run: Run) -> None:
    found = json.loads(run("diagnose net.py:Ruined --data data.npz --samples 8 --json"))
    assert min(float(layer["snr_db"]) for layer in found["layers"]) > 90
    assert found["remedies"] == [] and not {"conv1", "wild", "fc"} & set(found["unmatched"])


def test_a_format_without_inner_values_and_two_files_are_refused(run: Run) -> None:
    pytest.importorskip("ncnn")
    with pytest.raises(AssertionError, match="does not give its inner values; give --format onnx"):
        run("diagnose net.py:Ruined --data data.npz --format ncnn")
    with pytest.raises(AssertionError, match="--file is a file that is there"):
        run("diagnose net.py:Ruined --data data.npz --format onnx --file data.npz")
