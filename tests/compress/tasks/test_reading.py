"""What a network takes out of a batch, and what is left of it as labels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress.data import Data, LoaderSplit
from compress.data.batch import count_of, part_of, with_tensors
from compress.errors import InvalidInput
from compress.tasks.reading import Reading

IDS, MASK, CLASSES = torch.arange(12).view(4, 3), torch.ones(4, 3), torch.tensor([0, 1, 2, 1])
BOXES = [{"boxes": torch.rand(count, 4), "labels": torch.zeros(count)} for count in (2, 0, 3, 1)]


class Text(nn.Module):
    def forward(self, ids: Tensor, mask: Tensor, scale: float = 1.0) -> Tensor:
        return (ids * mask).sum(1, keepdim=True) * scale


@pytest.mark.parametrize(
    "count, batch, inputs, labels",
    [
        (1, IDS, (IDS,), None),
        (1, [IDS, CLASSES], (IDS,), CLASSES),
        (1, ((IDS,), CLASSES), (IDS,), CLASSES),
        (2, (IDS, MASK), (IDS, MASK), None),
        (2, (IDS, MASK, CLASSES), (IDS, MASK), CLASSES),
        (2, ((IDS, MASK), CLASSES), (IDS, MASK), CLASSES),
        (2, {"mask": MASK, "ids": IDS, "labels": CLASSES}, (IDS, MASK), CLASSES),
        (2, ({"mask": MASK, "ids": IDS}, CLASSES), (IDS, MASK), CLASSES),
        (1, (IDS, BOXES), (IDS,), BOXES),
        (1, (IDS, CLASSES, MASK), (IDS,), (CLASSES, MASK)),
    ],
)
def test_inputs_are_told_from_labels_by_what_the_network_takes(
    count: int, batch: Any, inputs: tuple[Tensor, ...], labels: Any
) -> None:
    reading = Reading(count, ("ids", "mask"))
    found = reading.inputs(batch)
    assert len(found) == len(inputs) and all(a is b for a, b in zip(found, inputs, strict=True))
    rest = reading.labels(batch)
    assert rest is labels or (isinstance(labels, tuple) and all(a is b for a, b in zip(rest, labels, strict=True)))


def test_a_network_tells_how_many_inputs_it_takes_and_what_they_are_called() -> None:
    assert Reading.of(Text()) == Reading(2, ("ids", "mask", "scale"))
    assert Reading.of(Text(), (IDS, MASK, torch.ones(1))) == Reading(3, ("ids", "mask", "scale"))
    assert Reading.of(nn.Linear(2, 2)) == Reading(1, ("input",))


@pytest.mark.parametrize(
    "batch, says",
    [
        ((IDS,), "takes 2 inputs, and the batch gives 1"),
        ({"image": IDS}, "expected ids, mask as the network's forward names them, got image"),
        ({"ids": IDS, "msk": IDS}, "takes 2 inputs, and the batch gives 1 of ids, mask, among ids, msk"),
        (("a.png", MASK), "expected tensors as inputs, got str"),
        (7, "expected tensors, a sequence of them or a mapping, got int"),
    ],
)
def test_a_batch_without_the_inputs_is_refused(batch: Any, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        Reading(2, ("ids", "mask")).inputs(batch)


def test_parts_of_batches_keep_what_belongs_to_a_sample() -> None:
    batch = {"image": MASK, "targets": BOXES, "scale": 2.0, "sizes": [torch.arange(4), torch.arange(4)]}
    part = part_of(batch, count_of(batch), slice(1, 3))
    assert part["image"].shape == (2, 3) and part["targets"] == BOXES[1:3] and part["scale"] == 2.0
    assert [size.tolist() for size in part["sizes"]] == [[1, 2], [1, 2]]
    pair = part_of([IDS[:2], CLASSES[:2]], 2, slice(0, 1))
    assert [x.tolist() for x in pair] == [[[0, 1, 2]], [0]], "a list of tensors of all samples is no list of samples"
    assert with_tensors({"a": IDS, "b": (MASK, None)}, [MASK, IDS])["b"][0] is IDS


def test_a_loader_deals_its_batches_out_to_processes_whatever_they_hold() -> None:
    split = LoaderSplit([{"ids": IDS.numpy(), "targets": BOXES}], "l.py:make")
    shares = [next(iter(split.batches(4, rank=rank, world_size=2))) for rank in (0, 1)]
    assert [share["ids"][:, 0].tolist() for share in shares] == [[0, 6], [3, 9]]
    assert [[len(t["boxes"]) for t in share["targets"]] for share in shares] == [[2, 3], [0, 1]]
    assert len(split) == 4 and torch.equal(Data("l", {"train": split}).example(2), IDS[:2])
