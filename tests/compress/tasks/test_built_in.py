"""Each built-in task from arrays and a network to the scored file: trained, pruned, in integers, as ONNX."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from compress.pipeline import run
from compress.recipe import Recipe
from compress.tasks.built_in import NAMES
from tests.support.digit_scenes import arrays, scenes

NETWORKS = """
import torch
from torch import nn

def body():
    torch.manual_seed(0)
    return [nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]

def dense():
    return nn.Sequential(*body(), nn.Conv2d(8, 2, 1))

class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = dense()

    def forward(self, image):
        return {"out": self.net(image)}
"""


def segmentation(labels: NDArray[Any]) -> NDArray[Any]:
    """What is ink (1), what is not (0), and a margin that is neither."""
    images, _, _ = labels
    maps = (images[:, 0] > 64).astype(np.uint8)
    maps[:, 0] = 255
    return maps


LABELS: dict[str, Callable[[Any], NDArray[Any]]] = {"segmentation": segmentation}
TRAINING = {
    "epochs": 2, "batch_size": 16, "learning_rate": 0.02, "precision": "fp32", "accelerator": "cpu", "warmup_epochs": 0,
}  # fmt: skip
CASES = {
    # task, network, scores, unit, the least (or the most) that two epochs reach
    "segmentation": ("segmentation", "dense", ["mIoU"], " %", 60.0),
    "segmentation of a mapping": ("segmentation", "Named", ["mIoU"], " %", 60.0),
}


@pytest.mark.parametrize("name", CASES)
def test_a_task_goes_from_training_to_the_scored_file(name: str, tmp_path: Path) -> None:
    task, network, scores, unit, least = CASES[name]
    made = scenes(192)
    np.savez(tmp_path / "data.npz", allow_pickle=False, **arrays(made[0], LABELS[task](made)))
    (tmp_path / "net.py").write_text(NETWORKS)
    recipe = {
        "model": f"{tmp_path}/net.py:{network}",
        "data": {"source": str(tmp_path / "data.npz"), "calibration": 32},
        "task": task,
        "train": TRAINING,
        "stages": [
            {"prune": {"ratio": 0.25, "round_to": 1, "training": TRAINING}},
            {"quantize": {"revert_slower": False}},
        ],
        "exports": [{"name": "int8", "after": "quantize"}],
        "benchmark": {"preset": "quick"},
        "gates": {"top1_agreement": None},
    }
    report = run(Recipe.model_validate(recipe), tmp_path / "out")
    trained, _, quantized = report.stages
    assert trained.before.score is not None and trained.after.score is not None and quantized.after.score is not None
    assert [score.name for score in trained.after.scores] == scores and trained.after.score.unit == unit
    better = 1 if trained.after.score.higher_is_better else -1
    assert better * (trained.after.score.value - trained.before.score.value) > 0
    assert better * (quantized.after.score.value - least) > 0
    file = report.benchmarks[-1]
    assert file.samples == 32 and file.score is not None
    assert file.score.value == pytest.approx(quantized.after.score.value, rel=2e-3), "the file, and its simulation"


def test_every_task_is_tried() -> None:
    assert {task for task, *_ in CASES.values()} == set(NAMES) - {"classification", "outputs"}
