"""How many of a ranking have to be restored: first to more bits, then to float, with few evaluations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ...core.restoration import within

Counts = tuple[int, int]
"""How many of the first of a ranking are in float, and how many, with these, in more bits or in float."""


@dataclass
class Search:
    """The fewest restored tensors with which a network loses no more than is allowed.

    It takes losses to fall with every tensor that is restored: where they do not, what is found holds all the same, and
    is not the least.

    Args:
        lost: what is lost with so many restored; it is asked once for each.
        allowed: the most that may be.
        most: in float, so that something is left in integers.
        tensors: of the ranking.
        widens: whether some can have more bits.
    """

    lost: Callable[[Counts], float]
    allowed: float
    most: int
    tensors: int
    widens: bool
    seen: dict[Counts, float] = field(default_factory=dict)

    def found(self) -> Counts:
        """How many are restored in the end; where all that there is is too little, what loses least."""
        if self._reaches((0, 0)):
            return 0, 0
        if self.widens:
            wide = least(lambda count: self._reaches((0, count)), 0, self.tensors)
            if wide is not None:
                return 0, wide
            floats = least(lambda count: self._reaches((count, self.tensors)), 0, self.most)
            return self._best() if floats is None else self._narrowed(floats)
        floats = least(lambda count: self._reaches((count, count)), 0, self.most)
        return self._best() if floats is None else (floats, floats)

    def _narrowed(self, floats: int) -> Counts:
        """With so many in float, the fewest others in more bits."""
        wide = least(lambda count: self._reaches((floats, count)), floats - 1, self.tensors)
        return floats, self.tensors if wide is None else wide

    def path(self, found: Counts) -> list[Counts]:
        """The steps from nothing restored to ``found`` that were looked at, in the order of the ranking."""
        floats, wide = found
        if floats and wide > floats:
            self._lost((floats, floats))
            return [(0, 0), (floats, floats), found]
        steps = [(0, n) if not floats else (n, n) for n in range(1, wide)]
        return [(0, 0), *(step for step in steps if step in self.seen), *([found] if wide else [])]

    def _best(self) -> Counts:
        """What loses least of all that was looked at, with the fewest restored."""
        return min(self.seen, key=lambda counts: (round(self.seen[counts], 6), counts))

    def _reaches(self, counts: Counts) -> bool:
        return within(self._lost(counts), self.allowed)

    def _lost(self, counts: Counts) -> float:
        if counts not in self.seen:
            self.seen[counts] = self.lost(counts)
        return self.seen[counts]


def least(holds: Callable[[int], bool], low: int, high: int) -> int | None:
    """The least number above ``low``, up to ``high``, at which ``holds``; None where it does not at ``high`` either.

    Steps are doubled until it does, and the last one is halved then: mostly few are needed.

    >>> asked = []
    >>> def holds(number: int) -> bool:
    ...     asked.append(number)
    ...     return number >= 3
    >>> least(holds, 0, 100), asked
    (3, [1, 3, 2])
    >>> least(holds, 0, 2)
    """
    step, known = 1, low
    while known < high:
        tried = min(known + step, high)
        if holds(tried):
            break
        known, step = tried, 2 * step
    else:
        return None
    while tried - known > 1:
        middle = (known + tried) // 2
        known, tried = (known, middle) if holds(middle) else (middle, tried)
    return tried
