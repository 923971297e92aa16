"""compress init writes a recipe that runs, whatever is known of the network and its data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from compress.recipe import Recipe, read
from tests.support.command_line import runner


@pytest.fixture
def run(
    small_net_file: Path, npz: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Run a command line beside ``net.py`` and ``data.npz``; returns its stdout."""
    assert small_net_file.parent == npz.parent
    monkeypatch.chdir(npz.parent)

    return runner(monkeypatch, capfd)


def short(path: str) -> None:
    """Make the trainings of a recipe, and its measuring, short."""
    text = Path(path).read_text()
    text = text.replace("epochs: 10", "epochs: 1, precision: fp32, accelerator: cpu").replace("standard}", "quick}")
    Path(path).write_text(text)


TWO_INPUTS = """
from torch import nn

class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(4, 16)

    def forward(self, x, y):
        return (self.a(x) + self.b(y)).relu()

def build() -> nn.Module:
    return Two()
"""


@pytest.mark.parametrize(
    "line, stages",
    [
        ("net.py:build:width=16 --data data.npz", ("prune", "fold", "quantize")),
        ("net.py:build:width=16 --data calibration.npz", ("prune", "fold", "quantize")),
        ("net.py:build --input-shape 1,8,8 --seed 3", ("fold", "quantize")),
        ("two.py:build --input-shape 8 --input-shape 4", ("fold", "quantize")),
        ("net.onnx --data data.npz --target tensorrt", ("prune", "fold", "quantize")),
        ("quantized --data data.npz", ()),
    ],
)
def test_the_recipe_runs(run: Callable[..., str], line: str, stages: tuple[str, ...]) -> None:
    x = np.load("data.npz")["x_train"]
    np.savez("calibration.npz", x_calib=x[:20])
    Path("two.py").write_text(TWO_INPUTS)
    if "net.onnx" in line:
        run("export net.py:build:width=16 --input-shape 1,8,8 -o net.onnx -q")
    if "quantized" in line:
        run("quantize net.py:build --data data.npz --keep-slower -o quantized -q")
    told = json.loads(run(f"init {line} -o recipe.yaml --json"))
    assert tuple(told["stages"]) == stages
    recipe = read(Path("recipe.yaml"))
    assert recipe.step_names == stages
    assert recipe.seed == (3 if "--seed" in line else 0)
    assert (recipe.train is not None) == (line == "net.py:build:width=16 --data data.npz")
    short("recipe.yaml")
    run(f"{told['run'].removeprefix('compress ')} -q")
    assert {path.name for path in Path("out/recipe/exports").glob("*.onnx")} == {"baseline.onnx", "small.onnx"}
    run("init net.py:build --data data.npz -o recipe.yaml", code=2)


def test_the_comments_are_of_settings_that_exist(run: Callable[..., str]) -> None:
    run("init net.py:build:width=16 --data data.npz -o recipe.yaml -q")
    text = Path("recipe.yaml").read_text()
    gates = next(line for line in text.splitlines() if line.startswith("# gates: "))
    Path("recipe.yaml").write_text(text.replace(gates, gates.removeprefix("# ")))
    assert read(Path("recipe.yaml")).gates.speedup == 1.5
    assert isinstance(read(Path("recipe.yaml")), Recipe)
