"""The masks, against naive loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.sparsify import criteria
from compress.sparsify.masks import Granularity, group_means, groups_of, layer_masks, n_of_m, network_masks
from compress.sparsify.schedule import cubic, rounds, update_steps

SHAPES = ((6, 4, 3, 2), (5, 7), (3, 4, 5))


def naive_groups(
    shape: tuple[int, ...], granularity: Granularity, block: tuple[int, int]
) -> dict[tuple[int, ...], int]:
    """The group of every position, by a loop over positions."""
    found: dict[tuple[int, ...], int] = {}
    keys: dict[object, int] = {}
    for at in itertools.product(*map(range, shape)):
        column = int(np.ravel_multi_index(at[1:], shape[1:]))
        key: object = {
            "weight": at,
            "kernel": at[:2],
            "row": at if len(shape) == 2 else at[:-1],
            "block": (at[0] // block[0], column // block[1]),
        }[granularity]
        found[at] = keys.setdefault(key, len(keys))
    return found


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("granularity", ["weight", "kernel", "row", "block"])
def test_groups(shape: tuple[int, ...], granularity: Granularity) -> None:
    groups = groups_of(shape, granularity, (2, 3))
    expected = naive_groups(shape, granularity, (2, 3))
    numbers: dict[int, int] = {}
    for at, number in expected.items():  # the same partition, whatever the numbers
        assert numbers.setdefault(int(groups[at]), number) == number
    assert len(set(numbers.values())) == len(numbers) == int(groups.max()) + 1


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("granularity", ["weight", "kernel", "row", "block"])
@pytest.mark.parametrize("sparsity", [0.25, 0.9])
def test_masks_of_a_layer(shape: tuple[int, ...], granularity: Granularity, sparsity: float) -> None:
    scores = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    (mask,) = layer_masks([scores], [groups_of(shape, granularity, (2, 3))], sparsity)
    members: dict[int, list[tuple[int, ...]]] = {}
    for at, number in naive_groups(shape, granularity, (2, 3)).items():
        members.setdefault(number, []).append(at)
    order = sorted(members.values(), key=lambda places: np.mean([float(scores[at]) for at in places]))
    held = np.cumsum([0, *(len(places) for places in order)])
    count = min(int(np.argmin(np.abs(held - sparsity * scores.numel()))), len(order) - 1)
    expected = torch.ones(shape, dtype=torch.bool)
    for at in itertools.chain(*order[:count]):
        expected[at] = False
    assert torch.equal(mask, expected)


@given(
    st.integers(2, 6).flatmap(lambda m: st.tuples(st.just(m), st.integers(1, m - 1))),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(0, 99),
)
@settings(max_examples=30, deadline=None)
def test_n_of_m_leaves_the_n_highest_of_each_m(mn: tuple[int, int], out: int, windows: int, seed: int) -> None:
    m, n = mn
    scores = torch.randint(0, 4, (out, windows * m, 2, 1), generator=torch.Generator().manual_seed(seed)).float()
    mask = n_of_m(scores, n, m)
    for o, w, k in itertools.product(range(out), range(windows), range(2)):
        window, kept = scores[o, w * m : (w + 1) * m, k, 0], mask[o, w * m : (w + 1) * m, k, 0]
        assert int(kept.sum()) == n
        assert float(window[kept].min()) >= float(window[~kept].max())


def test_n_of_m_refuses_other_widths() -> None:
    with pytest.raises(ValueError, match="no multiple of 4"):
        n_of_m(torch.ones(2, 6), 2, 4)


def test_one_threshold_over_the_layers() -> None:
    generator = torch.Generator().manual_seed(2)
    scores = [torch.rand(10, 10, generator=generator), 1.5 * torch.rand(20, 5, generator=generator)]
    masks = network_masks(scores, [groups_of(s.shape, "weight") for s in scores], 0.7, 0.01)
    flat = np.concatenate([s.numpy().ravel() for s in scores])
    threshold = np.sort(flat)[140]
    for score, mask in zip(scores, masks, strict=True):
        assert torch.equal(mask, score >= float(threshold))


def test_no_layer_becomes_empty() -> None:
    scores = [torch.rand(10, 10), 1000 + torch.rand(10, 10)]
    groups = [groups_of(s.shape, "weight") for s in scores]
    weak, strong = network_masks(scores, groups, 0.6, 0.05)
    assert int(weak.sum()) == 5 and int(strong.sum()) == 75
    assert torch.equal(weak, scores[0] >= scores[0].flatten().sort().values[-5])
    assert int(network_masks(scores, groups, 0.5, 0.0)[0].sum()) == 1
    with pytest.raises(ValueError, match="at most 95"):
        network_masks(scores, groups, 0.98, 0.05)


def test_groups_of_different_sizes_count_by_their_weights() -> None:
    scores = [torch.rand(4, 4, 3, 3), torch.rand(8, 8, 1, 1), torch.rand(9, 4, 5, 5)]
    masks = network_masks(scores, [groups_of(s.shape, "kernel") for s in scores], 0.5, 0.01)
    total = sum(s.numel() for s in scores)
    assert abs(sum(int((~m).sum()) for m in masks) - total / 2) <= 25
    means, sizes = group_means(scores[2], groups_of(scores[2].shape, "kernel"))
    np.testing.assert_allclose(means.numpy(), scores[2].double().mean((2, 3)).flatten().numpy())
    assert sizes.tolist() == [25] * 36


def test_criteria() -> None:
    rng = np.random.default_rng(0)
    w, g = rng.normal(size=(3, 4)), rng.normal(size=(3, 4))
    weight, gradient = torch.from_numpy(w), torch.from_numpy(g)
    np.testing.assert_array_equal(criteria.magnitude(weight).numpy(), np.abs(w))
    np.testing.assert_array_equal(criteria.movement(weight, gradient).numpy(), -w * g)
    np.testing.assert_allclose(criteria.saliency(weight, gradient**2).numpy(), 0.5 * g**2 * w**2)


def test_the_saliency_is_the_loss_of_a_quadratic() -> None:
    """LeCun et al.: at the minimum of ``0.5 * sum h (w - w*)^2``, removing one weight costs exactly its saliency."""
    h, best = torch.tensor([1.0, 4.0, 0.5]), torch.tensor([2.0, -1.0, 3.0])
    for i in range(3):
        removed = best.clone()
        removed[i] = 0
        assert float((0.5 * h * (removed - best) ** 2).sum()) == float(criteria.saliency(best, h)[i])


def test_schedules() -> None:
    # Zhu and Gupta, equation 1, with s_i = 0, s_f = 0.8, t_0 = 0, n * delta = 4.
    assert [round(cubic(t / 4, 0.8), 6) for t in range(5)] == [0.0, 0.4625, 0.7, 0.7875, 0.8]
    assert cubic(2.0, 0.8) == pytest.approx(0.8) and cubic(0.5, 0.8, 0.4) == pytest.approx(0.75)
    left = [1 - rounds(i, 3, 0.9) for i in range(4)]
    assert left[-1] == pytest.approx(0.1)
    np.testing.assert_allclose(np.diff(np.log(left)), np.log(0.1) / 3)
    steps = update_steps(1000, 0.1, 0.6, 50)
    assert min(steps) == 110 and max(steps) == 600 and steps[600] == 50 and len(steps) == 50
    assert update_steps(2, 0.0, 1.0, 100) == {1: 74, 2: 100}
