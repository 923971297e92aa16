"""Losses and scores of the built-in tasks against naive formulations in numpy."""

from __future__ import annotations

import math
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from compress.errors import InvalidInput
from compress.tasks.built_in import NAMES, embedding, fitting, named
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


def test_average_precision_and_f1_of_each_label() -> None:
    logits = drawn(40, 3)
    labels = (logits + drawn(40, 3, seed=1) > 0.3).to(torch.uint8)
    precisions, f1 = [], []
    for each in range(3):
        order = np.argsort(-logits[:, each].numpy())
        truth = labels[:, each].numpy()[order]
        right = np.cumsum(truth)
        precisions.append(np.mean([right[k] / (k + 1) for k in range(40) if truth[k]]))
        predicted, held = logits[:, each].numpy() > 0, labels[:, each].numpy() == 1
        f1.append(2 * (predicted & held).sum() / (predicted.sum() + held.sum()))
    task = named("multilabel", Reading())
    expected = {"mAP": pytest.approx(100 * np.mean(precisions), rel=1e-5), "F1": pytest.approx(100 * np.mean(f1))}
    assert scored(task, logits, labels) == expected
    assert scored(task, logits.clamp(0.1, 0.9), labels)["F1"] > 0, "logits between 0 and 1 are logits"
    probability = 1 / (1 + np.exp(-logits.double().numpy()))
    terms = np.where(labels.numpy() == 1, np.log(probability), np.log(1 - probability))
    assert task.loss is not None
    assert float(task.loss(logits, (logits, labels))) == pytest.approx(-terms.mean(), rel=1e-5)


def test_soft_targets_of_several_labels() -> None:
    student, teacher = drawn(5, 3), drawn(5, 3, seed=1)
    q, p = (1 / (1 + np.exp(-z.double().numpy() / 4)) for z in (student, teacher))
    divergence = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    task = named("multilabel", Reading())
    assert float(task.match(student, teacher)) == pytest.approx(16 * divergence.sum() / 5, rel=1e-3)
    assert float(task.match(teacher, teacher)) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("shape", [(30,), (30, 1), (30, 2), (30, 2, 3)])
def test_the_share_of_variance_and_the_error_in_units(shape: tuple[int, ...]) -> None:
    labels = 1000 + 3 * drawn(*shape)
    outputs = labels + drawn(*shape, seed=1)
    y, z = (each.double().numpy().reshape(30, -1) for each in (labels, outputs))
    r2 = np.mean(1 - ((z - y) ** 2).sum(0) / ((y - y.mean(0)) ** 2).sum(0))
    task = named("regression", Reading())
    expected = {"R2": pytest.approx(100 * r2, rel=1e-4), "MAE": pytest.approx(np.abs(z - y).mean(), rel=1e-4)}
    assert scored(task, outputs, labels) == expected
    assert scored(task, outputs.reshape(30, -1), labels) == expected
    alone = scores_of(task, [(outputs[:1], (outputs[:1], labels[:1]))])
    assert math.isnan(alone["R2"]) and alone["MAE"] > 0
    difference = np.abs(z - y)
    assert task.loss is not None and float(task.loss(outputs, (outputs, labels))) == pytest.approx(
        np.where(difference < 1, difference**2 / 2, difference - 0.5).mean(), rel=1e-3
    )


def similarity(x: np.ndarray, y: np.ndarray) -> float:
    """The mean structural similarity of two grey images in windows of 11 pixels, which their edges reflect."""
    weights = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(weights, weights) / weights.sum() ** 2
    values, size = [], x.shape
    x, y = (np.pad(each, 5, mode="reflect") for each in (x, y))
    for top, left in np.ndindex(size):
        a, b = x[top : top + 11, left : left + 11], y[top : top + 11, left : left + 11]
        mean_a, mean_b = (window * a).sum(), (window * b).sum()
        var_a, var_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
        both = (window * (a - mean_a) * (b - mean_b)).sum()
        numerator = (2 * mean_a * mean_b + 1e-4) * (2 * both + 9e-4)
        values.append(numerator / ((mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4)))
    return float(np.mean(values))


@pytest.mark.parametrize("as_bytes", [True, False])
def test_images_are_restored_on_the_scale_of_their_labels(as_bytes: bool) -> None:
    labels = torch.randint(0, 256, (4, 1, 14, 13), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    truth = labels.float() / 255
    outputs = truth + 0.3 * drawn(4, 1, 14, 13)
    clipped, target = outputs.clamp(0, 1).double().numpy(), truth.double().numpy()
    psnr = np.mean([-10 * np.log10(((a - b) ** 2).mean()) for a, b in zip(clipped, target, strict=True)])
    ssim = np.mean([similarity(a[0], b[0]) for a, b in zip(clipped, target, strict=True)])
    task = named("restoration", Reading())
    given = labels if as_bytes else truth
    expected = {"PSNR": pytest.approx(psnr, rel=1e-4), "SSIM": pytest.approx(ssim, rel=1e-3)}
    assert scored(task, outputs, given) == expected
    assert task.loss is not None
    loss = float(task.loss(outputs, (outputs, given)))
    assert loss == pytest.approx(float((outputs - truth).abs().mean()), rel=1e-5)


def test_points_are_as_far_off_as_their_box_is_large() -> None:
    labels = torch.cat([10 * drawn(6, 4, 2), torch.ones(6, 4, 1)], 2)
    labels[0, 1, 2] = 0
    labels[5, :, :2] = 3.0  # all in one point: no box
    outputs = labels[..., :2] + drawn(6, 4, 2, seed=1)
    errors = []
    for n in range(5):
        seen = labels[n, :, 2].numpy() > 0
        truth, points = labels[n, :, :2].numpy()[seen], outputs[n].numpy()[seen]
        width, height = truth.max(0) - truth.min(0)
        errors.append(np.sqrt(((truth - points) ** 2).sum(1)).mean() / np.hypot(width, height))
    task = named("keypoints", Reading())
    assert scored(task, outputs, labels) == {"NME": pytest.approx(100 * np.mean(errors), rel=1e-5)}
    assert scored(task, outputs.flatten(1), 7 * labels)["NME"] > 100 * np.mean(errors)
    bare = named("keypoints", Reading())
    assert scored(bare, 7 * outputs[1:], 7 * labels[1:, :, :2])["NME"] == pytest.approx(
        100 * np.mean(errors[1:]), rel=1e-4
    )
    assert task.loss is not None and not task.higher_is_better
    learnt = outputs.clone().requires_grad_()
    loss = task.loss(learnt, (outputs, labels))
    assert loss.item() == pytest.approx(np.mean(errors), rel=1e-5)
    loss.backward()
    assert learnt.grad is not None and bool(learnt.grad.isfinite().all()) and not learnt.grad[0, 1].any()
    assert float(task.loss(learnt[5:], (outputs, labels[5:]))) == 0


def test_the_nearest_other_vector_shows_the_same_thing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "ROWS", 7)
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, 5, 30))
    labels[3] = 77  # which no other sample shows
    vectors = drawn(5, 8, seed=2)[labels % 5] + 2 * drawn(30, 8)
    z = vectors.double().numpy()
    z = z / np.sqrt((z**2).sum(1, keepdims=True))
    right = []
    for n in range(30):
        nearest = max((m for m in range(30) if m != n), key=lambda m: z[n] @ z[m])
        if n != 3:
            right.append(labels[nearest] == labels[n])
    reference = torch.nn.Linear(8, 8)
    task = named("embedding", Reading()).against(reference)
    half = [(vectors[:15], (vectors[:15], labels[:15])), (vectors[15:], (vectors[15:], labels[15:]))]
    expected = reference(vectors).detach().double().numpy()
    cosines = (z * expected).sum(1) / np.sqrt((expected**2).sum(1))
    scores = scores_of(task, half)
    assert 20 < scores["recall@1"] < 100
    assert scores == {
        "recall@1": pytest.approx(100 * np.mean(right)),
        "cosine": pytest.approx(cosines.mean(), rel=1e-5),
    }
    assert task.self_supervised and task.loss is not None
    assert float(task.loss(vectors, (vectors, labels))) == pytest.approx(1 - cosines.mean(), rel=1e-5)


def distance(a: list[int], b: list[int]) -> int:
    """Insertions, deletions and replacements from one row of symbols to another."""
    if not a or not b:
        return len(a) + len(b)
    return min(distance(a[1:], b) + 1, distance(a, b[1:]) + 1, distance(a[1:], b[1:]) + (a[0] != b[0]))


def read(path: tuple[int, ...]) -> list[int]:
    """The symbols of a path: without repeats, then without blanks."""
    return [x for n, x in enumerate(path) if x and (n == 0 or path[n - 1] != x)]


def test_symbols_that_are_wrong_and_the_probability_of_all_paths() -> None:
    logits = drawn(6, 5, 4)
    labels = torch.tensor([[1, 2, 3], [2, 2, -1], [3, -1, 2], [1, 0, 0], [3, 1, -1], [-1, -1, -1]])
    truths = [[1, 2, 3], [2, 2], [3], [1], [3, 1], []]
    best = [read(tuple(row)) for row in logits.argmax(2).tolist()]
    wrong = sum(distance(a, b) for a, b in zip(best, truths, strict=True))
    task = named("sequence", Reading())
    assert wrong > 0 and not task.higher_is_better
    assert scored(task, logits, labels) == {"error rate": pytest.approx(100 * wrong / 9)}
    assert scored(task, logits * math.nan, labels) == {"error rate": math.inf}
    p = np.exp(logits.double().numpy())
    p /= p.sum(2, keepdims=True)
    losses = []
    for n, truth in enumerate(truths):
        paths = [path for path in product(range(4), repeat=5) if read(path) == truth]
        total = sum(math.prod(p[n, t, symbol] for t, symbol in enumerate(path)) for path in paths)
        losses.append(-math.log(total) / max(1, len(truth)))
    assert task.loss is not None
    assert float(task.loss(logits, (logits, labels))) == pytest.approx(np.mean(losses), rel=1e-4)
    assert float(task.match(logits, logits)) == pytest.approx(0, abs=1e-5)


REFUSED = {
    "symbols beyond": ("sequence", drawn(1, 5, 4), torch.full((9, 2), 4), "symbols go up to 4"),
    "more symbols than steps": ("sequence", drawn(1, 5, 4), torch.ones(9, 6).long(), "the longest has 6"),
    "no symbols": ("sequence", drawn(1, 5, 4), torch.ones(9, 2), "labels float32 (9, 2)"),
    "a class, not labels": ("multilabel", drawn(1, 3), torch.zeros(9).long(), "labels int64 (9,)"),
    "other labels": ("multilabel", drawn(1, 3), torch.zeros(9, 4), "labels float32 (9, 4)"),
    "shares as labels": ("multilabel", drawn(1, 3), torch.full((9, 3), 2.5), "they go from 2.5 to 2.5"),
    "other numbers": ("regression", drawn(1, 3), torch.zeros(9, 2), "as many numbers in the output"),
    "images of other sizes": ("restoration", drawn(1, 1, 16, 16), torch.zeros(9, 1, 32, 32), "of the same size"),
    "small images": ("restoration", drawn(1, 1, 5, 8), torch.zeros(9, 1, 5, 8), "sides of 6 pixels"),
    "images of another range": ("restoration", drawn(1, 1, 16, 16), torch.full((9, 1, 16, 16), 7.0), "from 7 to 7"),
    "one point": ("keypoints", drawn(1, 2), torch.zeros(9, 1, 2), "two points at least"),
    "other points": ("keypoints", drawn(1, 3, 2), torch.zeros(9, 4, 2), "labels float32 (9, 4, 2)"),
    "shares for things": ("embedding", drawn(1, 8), torch.zeros(9), "labels float32 (9,)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_of_a_task_is_told(name: str) -> None:
    task, outputs, labels, says = REFUSED[name]
    assert says in refusal(named(task, Reading()), outputs, labels)


@pytest.mark.parametrize("name", ["multilabel", "regression", "restoration", "keypoints", "sequence"])
def test_gradients_of_what_is_drawn_are_finite(name: str) -> None:
    outputs = {"restoration": drawn(4, 1, 12, 12), "sequence": drawn(4, 5, 3)}.get(name, drawn(4, 6))
    outputs.requires_grad_()
    named(name, Reading()).drawn(outputs, torch.Generator().manual_seed(0)).backward()
    assert outputs.grad is not None and bool(outputs.grad.isfinite().all()) and bool(outputs.grad.any())


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
    with pytest.raises(
        InvalidInput, match=r"task segment: expected one of classification, .*segmentation, .*or file.py"
    ):
        named("segment", Reading())
