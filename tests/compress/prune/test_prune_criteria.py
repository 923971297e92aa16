"""The criteria, against numpy."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch

from compress.prune import criteria


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("order", [1, 2])
def test_filter_norms(axis: int, order: Literal[1, 2]) -> None:
    weight = torch.randn(4, 3, 5, 2, generator=torch.Generator().manual_seed(0))
    slices = np.moveaxis(weight.double().numpy(), axis, 0)
    expected = [np.linalg.norm(piece.ravel(), order) for piece in slices]
    np.testing.assert_allclose(criteria.filter_norms(weight, axis, order).numpy(), expected, rtol=1e-12)


def test_scales_are_absolute() -> None:
    assert criteria.scales(torch.tensor([-2.0, 0.5])).tolist() == [2.0, 0.5]


def test_relative_has_mean_one_and_keeps_the_order() -> None:
    scores = torch.rand(7, dtype=torch.float64)
    relative = criteria.relative(scores)
    assert float(relative.mean()) == pytest.approx(1.0)
    assert torch.equal(relative.argsort(), scores.argsort())


def test_relative_of_a_dead_layer_is_one() -> None:
    assert criteria.relative(torch.zeros(3)).tolist() == [1.0, 1.0, 1.0]
