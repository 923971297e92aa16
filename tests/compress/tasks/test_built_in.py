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
from tests.support.digit_scenes import Scene, arrays, scenes

NETWORKS = """
import torch
from torch import nn

def body():
    torch.manual_seed(0)
    return [nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]

def dense():
    return nn.Sequential(*body(), nn.Conv2d(8, 2, 1))

def places(outputs):
    return nn.Sequential(*body(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, outputs))

def two():
    return places(2)

def four():
    return places(4)

def vectors():
    return places(16)

def image():
    return nn.Sequential(*body(), nn.Conv2d(8, 1, 1))

class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(*body(), nn.AdaptiveAvgPool2d((4, 8)))
        self.head = nn.Linear(32, 4)

    def forward(self, image):
        return self.head(self.features(image).flatten(1, 2).transpose(1, 2))

class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = dense()

    def forward(self, image):
        return {"out": self.net(image)}
"""


def segmentation(made: Scene) -> NDArray[Any]:
    """What is ink (1), what is not (0), and a margin that is neither."""
    images, _, _ = made
    maps = (images[:, 0] > 64).astype(np.uint8)
    maps[:, 0] = 255
    return maps


def keypoints(made: Scene) -> NDArray[Any]:
    """Two corners of the digit, as shares of the image."""
    _, corners, _ = made
    return np.stack([corners, corners + 8], 1) / 16


def sequence(made: Scene) -> NDArray[Any]:
    """A symbol that says on which side the digit lies, and a second one where it lies low."""
    right, low = (made[1] > 4).T
    return np.stack([1 + right, np.where(low, 3, -1)], 1)


LABELS: dict[str, Callable[[Scene], NDArray[Any]]] = {
    "embedding": lambda made: made[2],
    "keypoints": keypoints,
    "multilabel": lambda made: made[1] > 4,  # lies to the right, lies low
    "regression": lambda made: made[1] / 8,
    "restoration": lambda made: made[0],
    "segmentation": segmentation,
    "sequence": sequence,
}
TRAINING = {
    "epochs": 6, "batch_size": 8, "learning_rate": 0.05, "precision": "fp32", "accelerator": "cpu", "warmup_epochs": 0,
}  # fmt: skip
CASES = {
    # task, network, scores, unit, what six epochs are better than
    "segmentation": ("segmentation", "dense", ["mIoU"], " %", 60.0),
    "embedding": ("embedding", "vectors", ["recall@1", "cosine"], " %", 15.0),
    "keypoints": ("keypoints", "four", ["NME"], " %", 40.0),
    "multilabel": ("multilabel", "two", ["mAP", "F1"], " %", 75.0),
    "regression": ("regression", "two", ["R2", "MAE"], " %", 20.0),
    "restoration": ("restoration", "image", ["PSNR", "SSIM"], " dB", 15.0),
    "sequence": ("sequence", "Reader", ["error rate"], " %", 90.0),
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
        "train": None if task == "embedding" else TRAINING,
        "stages": [
            {"prune": {"ratio": 0.25, "round_to": 1, "training": TRAINING}},
            {"quantize": {"revert_slower": False}},
        ],
        "exports": [{"name": "int8", "after": "quantize"}],
        "benchmark": {"preset": "quick"},
        "gates": {"top1_agreement": None},
    }
    report = run(Recipe.model_validate(recipe), tmp_path / "out")
    first, *_, quantized = report.stages
    before, after = first.before.score, quantized.after.score
    assert before is not None and after is not None and after.unit == unit
    assert [score.name for score in quantized.after.scores] == scores
    better = 1 if after.higher_is_better else -1
    assert better * (after.value - least) > 0 and (first.name != "train" or better * (after.value - before.value) > 0)
    file = report.benchmarks[-1]
    assert file.samples == 32 and [score.name for score in file.scores] == scores
    for mine, simulated in zip(file.scores, quantized.after.scores, strict=True):
        assert mine.value == pytest.approx(simulated.value, rel=2e-3), "the file, and its simulation"


def test_every_task_is_tried() -> None:
    elsewhere = {"classification", "detection", "outputs"}
    assert {task for task, *_ in CASES.values()} == set(NAMES) - elsewhere
