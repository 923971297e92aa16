"""One option for each item under a budget: against trying all."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from compress.core.knapsack import least_loss


def tried(losses: list[list[float]], costs: list[list[float]], budget: float) -> tuple[float, float] | None:
    """The loss and the cost of the best of all choices."""
    found = [
        (
            sum(loss[o] for loss, o in zip(losses, options, strict=True)),
            sum(cost[o] for cost, o in zip(costs, options, strict=True)),
        )
        for options in product(*(range(len(loss)) for loss in losses))
    ]
    return min(((loss, cost) for loss, cost in found if cost <= budget), default=None)


@pytest.mark.parametrize("whole", [True, False])
def test_it_is_as_good_as_the_best_of_all(whole: bool) -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        sizes = rng.integers(1, 5, rng.integers(1, 7)).tolist()
        if whole:  # many ties, gains, and options that no one should take
            losses = [rng.integers(-3, 6, size).tolist() for size in sizes]
            costs = [rng.integers(0, 6, size).tolist() for size in sizes]
        else:
            losses = [rng.normal(size=size).tolist() for size in sizes]
            costs = [rng.random(size).tolist() for size in sizes]
        budget = float(rng.uniform(0, 1.2) * sum(max(cost) for cost in costs))
        best, got = tried(losses, costs, budget), least_loss(losses, costs, budget)
        if best is None or got is None:
            assert best is None and got is None
            continue
        loss = sum(row[o] for row, o in zip(losses, got, strict=True))
        cost = sum(row[o] for row, o in zip(costs, got, strict=True))
        assert loss == pytest.approx(best[0], abs=1e-9) and cost <= budget + 1e-9
        assert not whole or cost == best[1], "of equal losses the cheaper"


def test_nothing_to_choose() -> None:
    assert least_loss([], [], 0) == ()
    assert least_loss([[1.0]], [[2.0]], 1) is None


def test_hundreds_of_layers_are_solved() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(1_000, 2_000_000, 300)
    losses = [[float(x), float(x) * 0.003, 0.0] for x in 10 ** rng.uniform(-5, -1, 300)]
    costs = [[s // 2 + 17, s + 17, 4 * s] for s in sizes.tolist()]
    budget = 0.2 * 4 * int(sizes.sum())
    got = least_loss(losses, costs, budget)
    assert got is not None and sum(c[o] for c, o in zip(costs, got, strict=True)) <= budget
