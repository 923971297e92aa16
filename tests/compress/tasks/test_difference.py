"""How far outputs are apart, whatever their nesting and size."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from compress.data import SampleSplit
from compress.errors import InvalidInput
from compress.tasks.built_in import outputs
from compress.tasks.difference import drawn_difference, relative_difference
from compress.tasks.reading import Reading
from compress.tasks.scoring import evaluate


def test_each_output_counts_alike() -> None:
    generator = np.random.default_rng(0)
    boxes, scores = generator.normal(300, 100, (8, 20)), generator.uniform(0, 1, (8, 5))
    noise = generator.normal(0, 1, (8, 20))
    teacher = {"boxes": torch.from_numpy(boxes), "scores": torch.from_numpy(scores), "count": torch.tensor(3)}
    zeros = {**teacher, "scores": torch.zeros(8, 5, dtype=torch.float64)}
    moved = {**teacher, "boxes": torch.from_numpy(boxes + noise)}
    expected = (np.mean(scores**2) / scores.var() + 0) / 2
    assert float(relative_difference(zeros, teacher)) == pytest.approx(expected, rel=1e-5)
    assert float(relative_difference(moved, teacher)) == pytest.approx(np.mean(noise**2) / boxes.var() / 2, rel=1e-4)
    assert float(relative_difference(teacher, teacher)) == 0


@pytest.mark.parametrize("other", [torch.ones(2, 3), {"a": torch.ones(2, 2), "b": torch.ones(1)}, torch.arange(4)])
def test_outputs_of_other_shapes_are_no_match(other: object) -> None:
    with pytest.raises(InvalidInput, match=r"expected outputs of the same shapes, got .* the teacher's \(2, 2\)"):
        relative_difference(other, torch.ones(2, 2))


def test_drawn_targets_have_the_curvature_of_the_match() -> None:
    """The mean square of the drawn gradients is the diagonal of the Gauss-Newton matrix, up to one factor."""
    torch.manual_seed(0)
    layer = nn.Linear(3, 2, bias=False).double()
    x = torch.randn(16, 3, dtype=torch.float64)
    draws, total = torch.Generator().manual_seed(0), torch.zeros(2, 3, dtype=torch.float64)
    for _ in range(3000):
        (gradient,) = torch.autograd.grad(drawn_difference(layer(x), draws), layer.weight)
        total += gradient.square()
    exact = x.square().sum(0).expand(2, 3)
    ratio = (total / exact).flatten()
    assert float(ratio.std() / ratio.mean()) < 0.1
    with pytest.raises(InvalidInput, match="returns no floats"):
        drawn_difference(torch.arange(3), draws)


def test_the_score_is_the_signal_to_noise_ratio_of_the_worst_output() -> None:
    class Two(nn.Module):
        def __init__(self, error: float) -> None:
            super().__init__()
            self.error = error

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"large": 1000 * x, "small": x * (1 + self.error)}

    split = SampleSplit(torch.randn(10, 4, generator=torch.Generator().manual_seed(0)), None)
    task = outputs.task(Reading()).against(Two(0.0))
    assert task.self_supervised and task.against(Two(1.0)) is task, "it is held against the first one"
    assert evaluate(task, Two(0.1), split, 3)["SNR"] == pytest.approx(20.0, abs=1e-4)
    assert evaluate(task, Two(0.0), split)["SNR"] == math.inf
    assert evaluate(task, Two(math.nan), split)["SNR"] == -math.inf
    assert task.dropped(math.inf, 20.0) == pytest.approx(1.0) and task.dropped(20.0, 10.0) == pytest.approx(9.0)


def test_the_reference_is_a_copy_of_the_network_as_it_was() -> None:
    network = nn.Linear(2, 1, bias=False)
    task = outputs.task(Reading()).against(network)
    split = SampleSplit(torch.ones(4, 2), None)
    assert evaluate(task, network, split)["SNR"] == math.inf
    with torch.no_grad():
        network.weight.mul_(0.9)
    assert evaluate(task, network, split)["SNR"] == pytest.approx(20.0, abs=1e-3)
