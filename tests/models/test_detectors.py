"""Networks of the zoo that find objects."""

from __future__ import annotations

import pytest
import torch

import models
from compress import GridLoss
from compress.graph.trace import trace
from models import zoo
from models.fcos import STRIDES

torch.set_num_threads(1)


@pytest.mark.parametrize("name", sorted(models.detectors()))
def test_gives_boxes_and_scores_for_any_classes_and_sizes(name: str) -> None:
    options = {"num_classes": 3, "in_channels": 1, "image_size": "64x96", "width": 0.25}
    assert models.input_shape(name, **options) == (1, 64, 96)
    network = models.build(name, **options).eval()
    with torch.no_grad():
        boxes, scores = network(torch.randn(2, 1, 64, 96))
    grid = GridLoss(STRIDES).grid(64, 96)
    assert boxes.shape == (2, len(grid), 4) and scores.shape == (2, len(grid), 3)
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2
    assert float((centres - grid[:, :2]).abs().max()) < 8, "points stand where the loss looks for them"
    assert float(scores.sigmoid().mean()) == pytest.approx(0.01, abs=0.005)


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("name", sorted(models.detectors()))
def test_traces_for_any_batch_and_every_parameter_is_used(name: str, silu: bool) -> None:
    network = models.build(name, width=0.25, image_size=64, silu=silu).eval()
    graph = trace(network, (torch.randn(2, 3, 64, 64),), dynamic_batch=True)
    assert graph.unused == ()
    more = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(graph.program.module()(more), network(more))


@pytest.mark.parametrize("size", [48, "64x40", 0, "64", "axb"])
def test_sizes_that_are_none_are_errors(size: int | str) -> None:
    with pytest.raises(ValueError, match="image_size: expected"):
        models.build("fcos", image_size=size)


def test_sides() -> None:
    assert zoo.sides(64) == (64, 64) and zoo.sides("64x96") == (64, 96)
