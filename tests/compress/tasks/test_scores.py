"""Losses and scores of the built-in tasks against naive formulations in numpy."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from compress.errors import InvalidInput
from compress.tasks.built_in import NAMES, fitting, named
from compress.tasks.reading import Reading
from compress.tasks.scoring import scores_of
from compress.tasks.task import Outputs, Task

ROOT = Path(__file__).parents[3]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def scored(task: Task, outputs: Tensor, labels: Tensor) -> dict[str, float]:
    """The scores of samples that come in two batches."""
    half = len(outputs) // 2
    parts = (slice(0, half), slice(half, None))
    return scores_of(task, [(outputs[part], (outputs[part], labels[part])) for part in parts])


def refusal(task: Task, outputs: Outputs, labels: Tensor) -> str:
    assert task.fits is not None
    with pytest.raises(InvalidInput) as refused:
        task.fits(outputs, (torch.zeros(1, 1), labels), "data d: train split")
    told = str(refused.value)
    assert told.startswith("data d: train split: ") and "\n" not in told and "--task" in told
    return told


def segmented() -> tuple[Tensor, Tensor]:
    """Logits (6, 4, 5, 7) and labels; class 3 is neither there nor predicted, some pixels are of no class."""
    logits, labels = drawn(6, 4, 5, 7), torch.from_numpy(np.random.default_rng(1).integers(0, 3, (6, 5, 7)))
    logits[:, 3] = -100
    labels[:, 0, ::2] = 255
    return logits, labels


def test_miou_is_that_of_all_pixels_over_the_classes_that_there_are() -> None:
    logits, labels = segmented()
    predicted, truth = logits.numpy().argmax(1), labels.numpy()
    known = truth != 255
    ratios = []
    for each in range(3):
        mine, theirs = (predicted == each) & known, (truth == each) & known
        ratios.append((mine & theirs).sum() / (mine | theirs).sum())
    task = named("segmentation", Reading())
    assert scored(task, logits, labels) == {"mIoU": pytest.approx(100 * np.mean(ratios), rel=1e-5)}
    assert scored(task, logits, labels.to(torch.uint8)) == {"mIoU": pytest.approx(100 * np.mean(ratios), rel=1e-5)}
    spoilt = logits.clone()
    spoilt[0, 0, 0, 0] = math.nan
    assert scored(task, spoilt, labels) == {"mIoU": -math.inf}


def test_pixels_of_no_class_are_not_trained_on() -> None:
    logits, labels = segmented()
    task = named("segmentation", Reading())
    assert task.loss is not None
    shifted = logits.double().numpy() - logits.double().numpy().max(1, keepdims=True)
    logarithms = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    terms = [-logarithms[n, label, y, x] for (n, y, x), label in np.ndenumerate(labels.numpy()) if label != 255]
    assert float(task.loss({"out": logits}, (logits, labels))) == pytest.approx(np.mean(terms), rel=1e-5)
    assert float(task.loss(logits, (logits, torch.full_like(labels, 255)))) == 0


def test_soft_targets_are_those_of_each_pixel() -> None:
    student, teacher = drawn(2, 3, 4, 5), drawn(2, 3, 4, 5, seed=1)
    task = named("segmentation", Reading())
    expected = 0.0
    for n, y, x in np.ndindex(2, 4, 5):
        p, q = (np.exp(z[n, :, y, x].double().numpy() / 4) for z in (teacher, student))
        p, q = p / p.sum(), q / q.sum()
        expected += 16 * float((p * np.log(p / q)).sum()) / 40
    assert float(task.match({"out": student}, {"out": teacher})) == pytest.approx(expected, rel=1e-4)
    with pytest.raises(InvalidInput, match=r"match: .* got \(2, 3, 4, 5\) and the teacher's \(2, 3, 4, 4\)"):
        task.match(student, teacher[..., 1:])


@pytest.mark.parametrize(
    "outputs, labels, says",
    [
        (drawn(1, 3, 4, 4), torch.zeros(9, 4, 5).long(), "labels int64 (9, 4, 5)"),
        (drawn(1, 3, 4, 4), torch.zeros(9, 4, 4), "labels float32 (9, 4, 4)"),
        (drawn(1, 3), torch.zeros(9, 4, 4).long(), "the output float32 (1, 3)"),
        (drawn(1, 3, 4, 4), torch.full((9, 4, 4), 3), "classes from 0 to 2, as the network has 3"),
        ({"logits": drawn(1, 3, 4, 4)}, torch.zeros(9, 4, 4).long(), "one called out, got a mapping of logits"),
    ],
)
def test_what_is_no_segmentation_is_told(outputs: Outputs, labels: Tensor, says: str) -> None:
    assert says in refusal(named("segmentation", Reading()), outputs, labels)


@pytest.mark.parametrize(
    "outputs, labels, name",
    [
        (drawn(2, 3), torch.tensor([0, 2]), "classification"),
        (drawn(2, 3, 4, 4), torch.zeros(2, 4, 4).long(), "segmentation"),
        (drawn(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.uint8), "segmentation"),
        (drawn(2, 3, 4, 4), torch.zeros(2, 4, 4), None),
        (drawn(2, 3, 4, 4), torch.zeros(2, 2, 2).long(), None),
        (drawn(2, 1, 4, 4), torch.zeros(2, 4, 4).long(), None),
        (drawn(2, 3), torch.zeros(2), None),
        (drawn(2, 3), torch.zeros(2, 3), None),
        ([drawn(2, 3)], torch.tensor([0, 2]), None),
    ],
)
def test_a_task_that_fits_by_itself_is_told_by_outputs_and_labels(
    outputs: Outputs, labels: Tensor, name: str | None
) -> None:
    assert fitting(outputs, labels) == name


def test_torchmetrics_is_imported_by_the_tasks_that_score_with_it_alone() -> None:
    code = (
        "import sys, torch, compress.pipeline, compress.training.loop\n"
        "from compress.tasks.built_in import NAMES, fitting, named\n"
        "from compress.tasks.reading import Reading\n"
        "tasks = [named(name, Reading()) for name in NAMES]\n"
        "x, y = torch.eye(3), torch.arange(3)\n"
        "assert fitting(x, y) == 'classification'\n"
        "named('classification', Reading()).scores['top-1']().update(x, (x, y))\n"
        "assert 'torchmetrics' not in sys.modules\n"
        "maps = torch.zeros(3, 2, 2).long()\n"
        "named('segmentation', Reading()).scores['mIoU']().update(torch.rand(3, 2, 2, 2), (x, maps))\n"
        "assert 'torchmetrics' in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr


def test_tasks_are_the_files_of_their_folder() -> None:
    assert {"classification", "outputs", "segmentation"} <= set(NAMES)
    with pytest.raises(InvalidInput, match=r"task segment: expected one of classification, .*segmentation, or file.py"):
        named("segment", Reading())
