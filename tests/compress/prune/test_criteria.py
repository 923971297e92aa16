"""The criteria, against naive loops in numpy."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from compress.prune import Prune
from compress.prune.criteria.activation_mean import activation_mean
from compress.prune.criteria.apoz import apoz
from compress.prune.criteria.bn_scale import scales
from compress.prune.criteria.fpgm import fpgm
from compress.prune.criteria.lamp import lamp
from compress.prune.criteria.obd import obd
from compress.prune.criteria.taylor import taylor
from compress.prune.scoring import scores as of_slices


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pieces(tensor: torch.Tensor, axis: int) -> list[np.ndarray]:
    return [piece.ravel() for piece in np.moveaxis(tensor.double().numpy(), axis, 0)]


WEIGHT = drawn(4, 3, 5, 2)
axes = pytest.mark.parametrize("axis", [0, 1, 2])


@axes
@pytest.mark.parametrize("order", [1, 2])
def test_filter_norms(axis: int, order: Literal[1, 2]) -> None:
    expected = [np.linalg.norm(piece, order) for piece in pieces(WEIGHT, axis)]
    np.testing.assert_allclose(of_slices.filter_norms(WEIGHT, axis, order).numpy(), expected, rtol=1e-12)


def test_filter_norms_of_a_vector_are_its_magnitudes() -> None:
    assert of_slices.filter_norms(torch.tensor([-2.0, 0.5]), 0, 2).tolist() == [2.0, 0.5]


def test_scales_are_absolute() -> None:
    assert scales(torch.tensor([-2.0, 0.5])).tolist() == [2.0, 0.5]


@axes
def test_fpgm_sums_the_distances_to_all_others(axis: int) -> None:
    flat = pieces(WEIGHT, axis)
    expected = [sum(np.sqrt(((a - b) ** 2).sum()) for b in flat) for a in flat]
    np.testing.assert_allclose(fpgm(WEIGHT, axis).numpy(), expected, rtol=1e-12)


def test_fpgm_of_many_wide_filters() -> None:
    """torch.cdist takes another way for these: through matrix products."""
    weight = drawn(40, 30, 3, 3)
    weight[7] = weight[3]
    flat = pieces(weight, 0)
    expected = [sum(float(np.linalg.norm(a - b)) for b in flat) for a in flat]
    np.testing.assert_allclose(fpgm(weight, 0).numpy(), expected, rtol=1e-7)


def test_fpgm_is_lowest_at_the_geometric_median() -> None:
    weight = torch.tensor([[0.0, 4.0], [-4.0, -3.0], [4.0, -3.0], [0.1, 0.0]])
    assert int(fpgm(weight, 0).argmin()) == 3, "although the norm of another may be the smallest"
    shifted = weight + torch.tensor([30.0, 5.0])
    np.testing.assert_allclose(fpgm(weight, 0).numpy(), fpgm(shifted, 0).numpy(), rtol=1e-6)


def test_lamp_divides_by_what_survives() -> None:
    squared = drawn(9).square().double()
    values = squared.tolist()
    expected = [v / sum(other for other in values if other >= v) for v in values]
    scores = lamp(squared)
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-12)
    assert torch.equal(scores.argsort(), squared.argsort()), "the order in a layer is that of the magnitudes"
    assert float(scores.max()) == 1.0, "the last one of a layer never goes before another layer is empty"
    np.testing.assert_allclose(lamp(1e3 * squared).numpy(), expected, rtol=1e-12)


def test_lamp_of_equal_and_dead_channels() -> None:
    assert lamp(torch.tensor([2.0, 2.0])).tolist() == [0.5, 1.0]
    assert lamp(torch.zeros(3)).tolist() == [0.0, 0.0, 0.0]


@axes
def test_taylor_squares_the_sum(axis: int) -> None:
    gradient = drawn(*WEIGHT.shape, seed=1)
    expected = [(g @ w) ** 2 for g, w in zip(pieces(gradient, axis), pieces(WEIGHT, axis), strict=True)]
    np.testing.assert_allclose(taylor(WEIGHT, gradient, axis).numpy(), expected, rtol=1e-12)


@axes
def test_obd_is_the_rise_of_a_quadratic_loss(axis: int) -> None:
    """At the minimum of sum(h * (w - w*)^2) / 2, setting a slice to zero raises the loss by the saliency exactly."""
    curvature = drawn(*WEIGHT.shape, seed=1).square()
    scores = obd(WEIGHT, curvature, axis)
    for index in range(WEIGHT.shape[axis]):
        changed = WEIGHT.double().clone()
        changed.movedim(axis, 0)[index] = 0
        rise = float((curvature.double() * (changed - WEIGHT.double()).square()).sum() / 2)
        assert float(scores[index]) == pytest.approx(rise, rel=1e-12)


@pytest.mark.parametrize("dim", [0, 1, 3])
def test_apoz_and_activation_mean(dim: int) -> None:
    activations = drawn(3, 4, 5, 2).relu()
    flat = pieces(activations, dim)
    zeros = [sum(1 for value in piece if value == 0) / piece.size for piece in flat]
    np.testing.assert_allclose(apoz(activations, dim).numpy(), zeros, rtol=1e-12)
    signed = activations - 0.5
    means = [sum(abs(value) for value in piece) / piece.size for piece in pieces(signed, dim)]
    np.testing.assert_allclose(activation_mean(signed, dim).numpy(), means, rtol=1e-6)


def test_relative_has_mean_one_and_keeps_the_order() -> None:
    scores = torch.rand(7, dtype=torch.float64)
    relative = of_slices.relative(scores)
    assert float(relative.mean()) == pytest.approx(1.0)
    assert torch.equal(relative.argsort(), scores.argsort())


def test_relative_of_a_dead_layer_is_one() -> None:
    assert of_slices.relative(torch.zeros(3)).tolist() == [1.0, 1.0, 1.0]


def test_normalizations() -> None:
    scores = drawn(6).abs().double()
    values = scores.numpy()
    expected = {
        "mean": values / values.mean(),
        "max": values / values.max(),
        "gaussian": (values - values.mean()) / values.std(),
        "none": values,
    }
    for how, result in expected.items():
        np.testing.assert_allclose(of_slices.normalized(scores, how).numpy(), result, rtol=1e-12)  # type: ignore[arg-type]
    assert of_slices.normalized(torch.full((3,), 0.1), "gaussian").tolist() == [0.0, 0.0, 0.0]
    assert of_slices.normalized(torch.zeros(3), "max").tolist() == [1.0, 1.0, 1.0]


def test_aggregates() -> None:
    scores = torch.tensor([[1.0, 5.0], [3.0, 2.0]])
    found = {how: of_slices.aggregated(scores, how).tolist() for how in ("mean", "max", "sum", "first")}
    assert found == {"mean": [2.0, 3.5], "max": [3.0, 5.0], "sum": [4.0, 7.0], "first": [1.0, 5.0]}


def test_a_criterion_in_a_configuration() -> None:
    assert Prune(ratio=0.5, criterion="taylor").model_dump(mode="json")["criterion"] == "taylor"
    named = Prune.model_validate_json(Prune(ratio=0.5, criterion="net.py:score").model_dump_json())
    assert named.criterion.name == "net.py:score"
    own = Prune(ratio=0.5, criterion=fpgm)
    assert own.criterion.function is fpgm  # type: ignore[attr-defined]
    assert own.model_dump(mode="json")["criterion"] == "compress.prune.criteria.fpgm:fpgm"
    schema = Prune.model_json_schema()["properties"]["criterion"]
    assert "obd" in str(schema) and schema["default"] == "l1"
    with pytest.raises(
        ValidationError, match=r"expected one of .*l1, l2, .*or file\.py:function of your own, got 'l3'"
    ):
        Prune(ratio=0.5, criterion="l3")
