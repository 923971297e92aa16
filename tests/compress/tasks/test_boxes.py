"""Overlaps, suppression, average precision, matches and the loss at points against naive loops."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from compress import GridLoss
from compress.errors import InvalidInput
from compress.tasks.boxes.geometry import generalized_overlap, overlap, pairwise_overlap
from compress.tasks.boxes.losses import drawn, match, quality_focal_loss
from compress.tasks.boxes.precision import AveragePrecision, Seen
from compress.tasks.boxes.reading import Dense, Detections, Truth, chosen_of, dense_of, truths_of
from compress.tasks.boxes.suppression import suppress

Box = tuple[float, ...]


def boxes(count: int, seed: int = 0, side: float = 64.0) -> Tensor:
    """(count, 4) with whole corners, many of which overlap."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.randint(0, int(side), (count, 2), generator=generator)
    return torch.cat([corners, corners + torch.randint(1, 32, (count, 2), generator=generator)], 1).float()


def shared_and_united(one: Box, other: Box) -> tuple[float, float]:
    """By counting the pixels of whole boxes."""
    mine, theirs = ({*product(range(int(b[0]), int(b[2])), range(int(b[1]), int(b[3])))} for b in (one, other))
    return len(mine & theirs), len(mine | theirs)


def test_overlaps_are_those_of_counted_pixels() -> None:
    some, others = boxes(6), boxes(5, seed=1)
    found = pairwise_overlap(some, others)
    for (i, one), (j, other) in product(enumerate(some.tolist()), enumerate(others.tolist())):
        shared, united = shared_and_united(one, other)
        around = (max(one[2], other[2]) - min(one[0], other[0])) * (max(one[3], other[3]) - min(one[1], other[1]))
        assert float(found[i, j]) == pytest.approx(shared / united)
        generalized = float(generalized_overlap(some[i], others[j]))
        assert generalized == pytest.approx(shared / united - (around - united) / around)
    assert float(overlap(torch.zeros(4), torch.zeros(4))) == 0, "boxes without any area"


def suppressed_one_by_one(boxes: Tensor, scores: Tensor, labels: Tensor, most: float) -> list[int]:
    left = sorted(range(len(boxes)), key=lambda i: (-float(scores[i]), i))
    kept: list[int] = []
    while left:
        best, *left = left
        kept.append(best)
        left = [i for i in left if labels[i] != labels[best] or float(overlap(boxes[i], boxes[best])) <= most]
    return kept


@pytest.mark.parametrize("seed", range(4))
def test_suppression_is_that_of_one_box_after_the_other(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    some = boxes(120, seed)
    scores = (torch.rand(120, generator=generator) * 20).round() / 20  # some are equal
    labels = torch.randint(0, 2, (120,), generator=generator)
    kept = suppress(some, scores, labels, 0.4)
    assert kept.tolist() == suppressed_one_by_one(some, scores, labels, 0.4)
    assert 10 < len(kept) < 110


def test_a_box_that_went_does_not_take_others_with_it() -> None:
    """Each overlaps the next one: the first stays, the second goes, so that the third stays, and so on."""
    some = torch.tensor([[4.0 * i, 0.0, 4.0 * i + 10, 10.0] for i in range(7)])
    kept = suppress(some, torch.linspace(0.9, 0.3, 7), torch.zeros(7, dtype=torch.long), 0.4)
    assert kept.tolist() == [0, 2, 4, 6]
    assert suppress(some[:0], torch.zeros(0), torch.zeros(0, dtype=torch.long), 0.4).tolist() == []


def scene(seed: int) -> Seen:
    """An image in which most objects are found, some as another class, and some boxes are of none."""
    generator = torch.Generator().manual_seed(seed)
    there = boxes(int(torch.randint(0, 9, (1,), generator=generator)), seed)
    labels = torch.randint(0, 3, (len(there),), generator=generator)
    moved = there + torch.randint(-1, 2, there.shape, generator=generator)
    found = torch.cat([moved, boxes(4, seed + 100)])
    classes = torch.cat([labels, torch.randint(0, 3, (4,), generator=generator)])
    wrong = torch.rand(len(found), generator=generator) < 0.1
    classes[wrong] = 3 - 1 - classes[wrong]
    scores = torch.rand(len(found), generator=generator)
    found[:, 2:] = torch.maximum(found[:, 2:], found[:, :2] + 1)
    return Seen(Detections(found, scores, classes), Truth(there, labels))


def average_precision(images: list[Seen], label: int, threshold: float) -> float | None:
    """One class at one overlap, as COCO's evaluation describes it, box after box."""
    count = sum(int((image.there.labels == label).sum()) for image in images)
    if not count:
        return None
    ranked = [
        (float(score), number, index)
        for number, image in enumerate(images)
        for index, score in enumerate(image.found.scores)
        if image.found.labels[index] == label
    ]
    taken: set[tuple[int, int]] = set()
    right: list[bool] = []
    for _, number, index in sorted(ranked, key=lambda each: -each[0]):
        image = images[number]
        best, where = min(threshold, 1 - 1e-10), None
        for place, box in enumerate(image.there.boxes):
            if image.there.labels[place] != label or (number, place) in taken:
                continue
            value = float(overlap(image.found.boxes[index].double(), box.double()))
            if value >= best:
                best, where = value, place
        right.append(where is not None)
        if where is not None:
            taken.add((number, where))
    hits = np.cumsum(right)
    precisions = hits / (np.arange(len(right)) + 1)
    best_from = np.maximum.accumulate(precisions[::-1])[::-1]
    recalls = hits / count
    return float(np.mean([max(best_from[recalls >= r - 1e-12], default=0.0) for r in np.linspace(0, 1, 101)]))


def test_average_precision_is_that_of_coco() -> None:
    images = [scene(seed) for seed in range(12)]
    score = AveragePrecision(lambda outputs, batch: outputs)
    for half in (images[:5], images[5:]):
        score.update(half, None)
    values = [
        [average_precision(images, label, threshold) for label in range(3)] for threshold in np.linspace(0.5, 0.95, 10)
    ]
    expected = np.mean([value for row in values for value in row if value is not None])
    assert score.compute() == pytest.approx(100 * expected, abs=1e-6) and 10 < 100 * expected < 90
    at_half = AveragePrecision(lambda outputs, batch: outputs, (0.5,))
    at_half.update(images, None)
    assert at_half.compute() == pytest.approx(100 * np.mean([x for x in values[0] if x is not None]), abs=1e-6)


def test_average_precision_of_what_is_perfect_empty_or_no_number() -> None:
    def of(*images: Seen) -> float:
        score = AveragePrecision(lambda outputs, batch: outputs)
        score.update(images, None)
        return score.compute()

    there, labels = boxes(3), torch.tensor([0, 5, 5])
    none = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long))
    perfect = Seen(Detections(there, torch.rand(3), labels), Truth(there, labels))
    empty = Seen(none, Truth(there[:0], labels[:0]))
    assert of(perfect) == of(perfect, empty) == pytest.approx(100)
    assert of(Seen(none, Truth(there, labels))) == 0
    assert math.isnan(of(empty))
    assert of(perfect, Seen(Detections(there, torch.full((3,), math.nan), labels), Truth(there, labels))) == -math.inf


def test_what_is_found_of_a_crowd_is_neither_right_nor_wrong() -> None:
    there, labels = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([1])
    crowd = torch.tensor([[20.0, 20, 60, 60]])
    found = Detections(torch.cat([crowd, crowd + 1, there]), torch.tensor([0.9, 0.8, 0.7]), torch.tensor([1, 1, 1]))
    (truth,) = truths_of(
        [{"boxes": there, "labels": labels, "ignored_boxes": crowd, "ignored_labels": labels}], "score", 1
    )
    score = AveragePrecision(lambda outputs, batch: outputs)
    score.update([Seen(found, truth)], None)
    assert score.compute() == pytest.approx(100)
    score.reset()
    score.update([Seen(found, Truth(there, labels))], None)
    assert score.compute() < 50, "without the crowd both are wrong"


def test_images_without_objects_have_labels_of_any_type() -> None:
    (truth,) = truths_of([{"boxes": torch.zeros(0, 4), "labels": torch.tensor([])}], "score")
    assert truth.labels.dtype == torch.int64 and truth.boxes.shape == (0, 4)


def test_at_most_a_hundred_boxes_of_an_image_count() -> None:
    count = 130
    places = torch.arange(count) * 10.0
    spread = torch.stack([places, places * 0, places + 5, places * 0 + 5], 1)
    labels = torch.zeros(count, dtype=torch.long)
    found = Detections(spread, torch.linspace(0.9, 0.1, count), labels)
    score = AveragePrecision(lambda outputs, batch: outputs)
    score.update([Seen(found, Truth(spread, labels))], None)
    assert score.compute() == pytest.approx(100 * 77 / 101, abs=0.1), "recall ends at 100 of 130"
    (kept,) = Dense(spread[None], found.scores[None, :, None]).detections((10, 1300), 0.0, 0.6)
    assert len(kept.scores) == 100 and float(kept.scores.min()) >= float(found.scores[100])


def test_forms_are_told_by_their_shapes() -> None:
    pair = (boxes(30)[None], torch.randn(1, 30, 3))
    for form in (pair, list(pair), {"boxes": pair[0], "scores": pair[1]}, {"scores": pair[1], "boxes": pair[0]}):
        dense = dense_of(form)
        assert dense is not None and dense.boxes is pair[0] and dense.scores is pair[1]
    centres = torch.cat([(pair[0][..., :2] + pair[0][..., 2:]) / 2, pair[0][..., 2:] - pair[0][..., :2]], -1)
    rows = torch.cat([centres, pair[1]], -1).transpose(1, 2)
    for single in (rows, (rows,)):
        dense = dense_of(single)
        assert dense is not None
        torch.testing.assert_close(dense.boxes, pair[0])
        torch.testing.assert_close(dense.scores, pair[1])
    for other in (rows.transpose(1, 2), pair[::-1], (*pair, pair[1]), pair[0][0], torch.zeros(1, 7, 7), {"x": rows}):
        assert dense_of(other) is None
    four = dense_of((pair[0], torch.rand(1, 30, 4)))
    assert four is not None and four.boxes is pair[0] and four.are_probabilities


def test_boxes_that_the_network_chose_are_taken_as_they_are() -> None:
    image = {"boxes": boxes(150), "labels": torch.ones(150, dtype=torch.long), "scores": torch.linspace(0, 1, 150)}
    for form in ([image], image, (image["labels"], image["boxes"], image["scores"])):
        found = chosen_of(form)
        assert found is not None and len(found) == 1
        assert torch.equal(found[0].scores, image["scores"].flip(0)[:100])
        assert torch.equal(found[0].boxes[0], image["boxes"][-1])
    assert chosen_of([image, image]) is not None and chosen_of((image["boxes"],) * 3) is None
    assert chosen_of([{**image, "scores": image["scores"][1:]}]) is None


def test_scores_that_are_probabilities_are_kept_and_logits_become_some() -> None:
    logits = torch.randn(2, 30, 3) * 3
    one, other = Dense(torch.zeros(2, 30, 4), logits), Dense(torch.zeros(2, 30, 4), logits.sigmoid())
    torch.testing.assert_close(one.probabilities, other.probabilities)
    torch.testing.assert_close(one.logits, other.logits, rtol=1e-4, atol=1e-4)


def test_candidates_are_suppressed_by_class_and_cut_off_at_the_edge() -> None:
    places = torch.tensor([[-5.0, -5, 20, 20], [-5, -5, 20, 21], [30, 30, 99, 99]])
    scores = torch.tensor([[0.9, 0.2], [0.8, 0.7], [0.005, 0.6]])
    (found,) = Dense(places[None], scores[None]).detections((60, 40), 0.01, 0.6)
    assert found.labels.tolist() == [0, 1, 1] and found.scores.tolist() == pytest.approx([0.9, 0.7, 0.6])
    assert found.boxes.tolist() == [[0, 0, 20, 20], [0, 0, 20, 21], [30, 30, 40, 60]]
    (spoilt,) = Dense(places[None] * math.nan, scores[None]).detections((60, 40), 0.01, 0.6)
    assert bool(spoilt.scores.isnan().all())


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (None, "got none"),
        (torch.zeros(2, 5), r"got float32 \(2, 5\)"),
        ([{"boxes": torch.zeros(1, 4)}], "got a mapping of boxes"),
        ([{"boxes": torch.zeros(1, 5), "labels": torch.zeros(1).long()}], r"boxes float32 \(1, 5\)"),
        ([{"boxes": torch.zeros(2, 4), "labels": torch.zeros(1).long()}], r"labels int64 \(1,\)"),
        ([{"boxes": torch.zeros(1, 4), "labels": torch.zeros(1)}], r"got float32 \(1,\) from 0 on"),
        ([{"boxes": torch.zeros(1, 4), "labels": torch.tensor([-1])}], "from -1 on"),
        ([{"boxes": torch.tensor([[5.0, 0, 1, 3]]), "labels": torch.tensor([0])}], "lies behind"),
        ([{"boxes": torch.full((1, 4), math.nan), "labels": torch.tensor([0])}], "not finite"),
        ([{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0)}] * 2, "got 2 mappings for 1 images"),
        (
            [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0), "ignored_boxes": torch.zeros(0, 4)}],
            "got a mapping of boxes, labels, ignored_boxes",
        ),
    ],
)
def test_labels_of_another_form_are_told_of_in_one_line(labels: object, told: str) -> None:
    with pytest.raises(InvalidInput, match=told) as refused:
        truths_of(labels, "data d: train split", 1)
    assert str(refused.value).startswith("data d: train split: ") and "\n" not in str(refused.value)


def drawn_dense(seed: int = 0, objects: int = 3, places: int = 400) -> Dense:
    """A few places with an object, the others with hardly any score."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, places, 2, generator=generator) - 6
    logits[0, :objects, 0] = 3
    return Dense(boxes(places, seed)[None], logits)


def test_a_match_is_nothing_at_the_teacher_and_counts_both_boxes_and_scores() -> None:
    teacher = drawn_dense()
    assert float(match(teacher, teacher)) == pytest.approx(0, abs=1e-6)
    shifted = Dense(teacher.boxes + 3, teacher.scores)
    missed = Dense(teacher.boxes, teacher.scores.clamp_max(0))
    assert float(match(shifted, teacher)) > 0.1 and float(match(missed, teacher)) > 0.1
    with pytest.raises(InvalidInput, match=r"same shapes, got \(1, 4, 4\) and \(1, 4, 2\), and the teacher's"):
        match(drawn_dense(places=4), teacher)


def test_thousands_of_empty_places_do_not_drown_a_few_objects() -> None:
    """A score of an object that is lost costs more than changes of all the scores of nothing."""
    teacher = drawn_dense(places=4000)
    lost, restless = teacher.scores.clone(), teacher.scores.clone()
    lost[0, 0, 0] = -3
    restless[0, 3:] += 0.5 * torch.randn(restless[0, 3:].shape, generator=torch.Generator().manual_seed(1))
    assert float(match(Dense(teacher.boxes, lost), teacher)) > 5 * float(match(Dense(teacher.boxes, restless), teacher))
    moved, wandering = teacher.boxes.clone(), teacher.boxes.clone()
    moved[0, :3] += 5
    wandering[0, 3:] += 5
    assert float(match(Dense(moved, teacher.scores), teacher)) > 3 * float(
        match(Dense(wandering, teacher.scores), teacher)
    )


def test_quality_focal_loss_is_the_equation() -> None:
    logits, qualities = torch.randn(20, generator=torch.Generator().manual_seed(0)).double(), torch.rand(20).double()
    p, y = 1 / (1 + np.exp(-logits.numpy())), qualities.numpy()
    expected = -(np.abs(y - p) ** 2) * ((1 - y) * np.log(1 - p) + y * np.log(p))
    np.testing.assert_allclose(quality_focal_loss(logits, qualities).numpy(), expected)


def test_drawn_gradients_have_no_mean() -> None:
    """Over many draws; each of them is a step that a loss would make."""
    one = drawn_dense(places=8)
    dense = Dense(one.boxes.repeat(4000, 1, 1), one.scores.clamp_min(-2).repeat(4000, 1, 1))
    wanted = Dense(dense.boxes.requires_grad_(), dense.scores.requires_grad_())
    loss = drawn(wanted, torch.Generator().manual_seed(0))
    for gradients in torch.autograd.grad(loss, (wanted.boxes, wanted.scores)):
        spread = gradients.std(0) / math.sqrt(len(gradients))
        assert float(spread.min()) > 0 and float((gradients.mean(0).abs() / spread).max()) < 5


def assigned_one_by_one(grids: list[tuple[float, float, float, float, float]], wanted: list[Box]) -> list[int | None]:
    found: list[int | None] = []
    for x, y, stride, least, farthest in grids:
        fitting = []
        for index, (x1, y1, x2, y2) in enumerate(wanted):
            sides = (x - x1, y - y1, x2 - x, y2 - y)
            near = max(abs(x - (x1 + x2) / 2), abs(y - (y1 + y2) / 2)) <= 1.5 * stride
            if min(sides) > 0 and near and least < max(sides) <= farthest:
                fitting.append(((x2 - x1) * (y2 - y1), index))
        found.append(min(fitting)[1] if fitting else None)
    return found


def test_points_are_to_find_the_smallest_object_they_are_for() -> None:
    loss = GridLoss((4, 8, 16))
    grid, wanted = loss.grid(48, 64), boxes(9, seed=7)
    assert grid.shape == (12 * 16 + 6 * 8 + 3 * 4, 5)
    assert grid[:2, :3].tolist() == [[2, 2, 4], [6, 2, 4]] and grid[-1].tolist() == [56, 40, 16, 32, math.inf]
    points, objects = loss.assigned(grid, wanted)
    expected = assigned_one_by_one(grid.tolist(), wanted.tolist())
    assert dict(zip(points.tolist(), objects.tolist(), strict=True)) == {
        point: each for point, each in enumerate(expected) if each is not None
    }
    assert len(set(objects.tolist())) >= 7, "nearly every object has a point"


def test_the_loss_is_least_where_boxes_and_scores_are_right() -> None:
    loss = GridLoss((8, 16))
    images, wanted, labels = torch.zeros(2, 1, 32, 48), torch.tensor([[3.0, 3, 22, 24]]), torch.tensor([1])
    grid = loss.grid(32, 48)
    points, _ = loss.assigned(grid, wanted)
    targets = [{"boxes": wanted, "labels": labels}, {"boxes": wanted[:0], "labels": labels[:0]}]
    right, logits = boxes(len(grid))[None].repeat(2, 1, 1), torch.full((2, len(grid), 2), -9.0)
    right[0, points], logits[0, points, 1] = wanted, 9.0

    def of(places: Tensor, scores: Tensor) -> float:
        return float(loss((places, scores), (images, targets)))

    assert len(points) and of(right, logits) < 1e-3
    assert of(right + 2, logits) > 0.1, "boxes beside the object"
    other_class = logits.flip(2)
    assert of(right, other_class) > 1 and of(right, torch.full_like(logits, 0.0)) > 1
    with pytest.raises(InvalidInput, match=r"a box for each of 30 points.* 8, 16 pixels have in 48x32, got 29"):
        of(right[:, 1:], logits[:, 1:])
    with pytest.raises(InvalidInput, match="decode"):
        loss(logits, (images, targets))
