"""When weights go: the sparsity to have at each step of a training."""

from __future__ import annotations

from typing import Literal

Schedule = Literal["one_shot", "iterative", "gradual"]


def cubic(progress: float, final: float, initial: float = 0.0) -> float:
    """The sparsity after the share ``progress`` of the time between first and last pruning.

    ``final + (initial - final) * (1 - progress)^3``: Zhu and Gupta, "To prune, or not to prune" (2017), equation 1.

    >>> [round(cubic(p, 0.9), 4) for p in (0.0, 0.5, 1.0)]
    [0.0, 0.7875, 0.9]
    """
    return final + (initial - final) * (1 - min(1.0, max(0.0, progress))) ** 3


def rounds(done: int, count: int, final: float) -> float:
    """The sparsity after ``done`` of ``count`` rounds that each remove the same share of what is left.

    Frankle and Carbin, "The Lottery Ticket Hypothesis" (2019), section 1: each of n rounds prunes the same
    share of what survived the one before; here the sparsity after the last is given.

    >>> [round(rounds(d, 2, 0.75), 4) for d in (0, 1, 2)]
    [0.0, 0.5, 0.75]
    """
    return float(1 - (1 - final) ** (min(done, count) / count))


def update_steps(steps: int, begin: float, end: float, updates: int) -> dict[int, int]:
    """The steps (1 is the first) of a training after which weights are chosen again, and the number of each choice.

    Number ``k`` falls on the share ``begin + (end - begin) * k / updates`` of the training, on its first step at the
    earliest. Where there are fewer steps than updates, the later number counts.

    >>> update_steps(100, 0.0, 0.5, 5)
    {10: 1, 20: 2, 30: 3, 40: 4, 50: 5}
    """
    shares = {number: begin + (end - begin) * number / updates for number in range(1, updates + 1)}
    return {min(steps, max(1, round(share * steps))): number for number, share in shares.items()}
