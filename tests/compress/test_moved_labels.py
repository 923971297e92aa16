"""Augmentations that move pixels move maps of classes and boxes with them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from compress.data import Data, SampleSplit
from compress.data.boxes import Boxes
from compress.errors import InvalidInput
from compress.tasks.built_in import segmentation
from compress.tasks.reading import Reading
from compress.training.augmentation import augmentation, moves
from compress.training.loop import Training, fit

NAMES = [["flip"], ["crop"], ["flip", "crop"], ["crop", "flip"], ["cutout"]]


def scenes(count: int = 24, side: int = 16) -> tuple[Tensor, list[tuple[int, int, int, int]]]:
    """Images (N, 1, side, side) that are 200 in one box each and 100 elsewhere, and the boxes."""
    generator = torch.Generator().manual_seed(3)
    images = torch.full((count, 1, side, side), 100, dtype=torch.uint8)
    boxes = []
    for image in images:
        x1, y1 = torch.randint(0, side - 5, (2,), generator=generator).tolist()
        w, h = torch.randint(3, 6, (2,), generator=generator).tolist()
        image[:, y1 : y1 + h, x1 : x1 + w] = 200
        boxes.append((x1, y1, x1 + w, y1 + h))
    return images, boxes


@pytest.mark.parametrize("names", NAMES, ids=["-".join(each) for each in NAMES])
def test_a_map_of_classes_moves_with_its_pixels(names: list[str]) -> None:
    images, _ = scenes()
    labels = (images[:, 0] == 200).long()
    x, moved = augmentation(images, labels, torch.Generator().manual_seed(0), names)
    assert moved.shape == labels.shape and moved.dtype == labels.dtype
    if names == ["cutout"]:
        assert torch.equal(moved, labels) and not torch.equal(x, images)
        return
    assert torch.equal(moved == 1, x[:, 0] == 200) and torch.equal(moved == 255, x[:, 0] == 0)
    assert bool((moved == 255).any()) == ("crop" in names) and not torch.equal(moved, labels)


@pytest.mark.parametrize("names", NAMES, ids=["-".join(each) for each in NAMES])
def test_boxes_move_with_their_pixels(names: list[str]) -> None:
    images, boxes = scenes()
    targets = [
        {"boxes": torch.tensor([box], dtype=torch.float32), "labels": torch.tensor([i]),
         "ignored_boxes": torch.tensor([box, (0, 0, 1, 16)]).float(), "ignored_labels": torch.tensor([i, 7])}
        for i, box in enumerate(boxes)
    ]  # fmt: skip
    before = [{key: value.clone() for key, value in target.items()} for target in targets]
    x, moved = augmentation(images, targets, torch.Generator().manual_seed(1), names)
    assert all(torch.equal(a[k], b[k]) for a, b in zip(targets, before, strict=True) for k in a), (
        "those stored are kept"
    )
    left_out = 0
    for i, (image, target, old) in enumerate(zip(x, moved, before, strict=True)):
        bright = (image[0] == 200).nonzero()
        area = (old["boxes"][0, 2:] - old["boxes"][0, :2]).prod()
        if names == ["cutout"]:
            assert torch.equal(target["boxes"], old["boxes"])
        elif len(bright) < 0.25 * area:
            assert target["boxes"].shape == (0, 4) and target["labels"].shape == (0,)
            left_out += 1
        else:
            edges = torch.cat([bright.amin(0).flip(0), bright.amax(0).flip(0) + 1])
            assert torch.equal(target["boxes"], edges[None].float()) and target["labels"].tolist() == [i]
            assert torch.equal(target["ignored_boxes"][0], target["boxes"][0])
        assert len(target["ignored_boxes"]) == len(target["ignored_labels"])
    assert names == ["cutout"] or sum(
        not torch.equal(a["boxes"], b["boxes"]) for a, b in zip(moved, before, strict=True)
    )
    assert left_out < len(images) / 2


def test_labels_that_say_nothing_of_places_stay() -> None:
    images, _ = scenes(4)
    for labels in (torch.arange(4), None, torch.rand(4, 16, 16), torch.arange(4 * 16).view(4, 16)):
        assert not moves(images, labels)
        assert augmentation(images, labels, torch.Generator(), ["flip", "crop"])[1] is labels


def trained(labels: Tensor | Boxes, names: tuple[str, ...]) -> nn.Conv2d:
    torch.manual_seed(0)
    images, _ = scenes(8)
    model = nn.Conv2d(1, 2, 1)
    training = Training.model_validate(
        {"epochs": 2, "batch_size": 4, "precision": "fp32", "accelerator": "cpu", "augment": names, "warmup_epochs": 0}
    )
    split = SampleSplit(images, labels)
    fit(model, Data("scenes", {"train": split, "validation": split}), training, segmentation.task(Reading()))
    return model


def test_a_segmenter_trains_on_pictures_that_are_moved() -> None:
    labels = (scenes(8)[0][:, 0] == 200).long()
    plain, moved = trained(labels, ()), trained(labels, ("flip", "crop"))
    assert not torch.equal(plain.weight, moved.weight) and bool(torch.isfinite(moved.weight).all())
    with pytest.raises(InvalidInput, match=r"--augment flip changes images, and labels of the task segmentation"):
        trained(labels[:, :8].contiguous(), ("flip",))
