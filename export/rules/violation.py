"""What a rule finds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Effect = Literal["refused", "wrong", "slow"]


@dataclass(frozen=True)
class Violation:
    """A tensor that breaks a rule.

    Args:
        tensor: its name in the file.
        node: the node that it belongs to, by name and operation.
        rule: in a few words.
        actual: what the file has.
        expected: what the engine wants.
        effect: what comes of it: the engine refuses the file, computes something else, or is slower than it could be.
    """

    tensor: str
    node: str
    rule: str
    actual: str
    expected: str
    effect: Effect

    def __str__(self) -> str:
        """One line."""
        return f"{self.effect}: {self.tensor} ({self.node}): {self.rule}: found {self.actual}, expected {self.expected}"


def grouped(violations: Iterable[Violation]) -> tuple[str, ...]:
    """One line for each kind of violation, with how many tensors it has and the nodes of the first three."""
    kinds: dict[tuple[str, str, str], list[Violation]] = {}
    for violation in violations:
        kinds.setdefault((violation.effect, violation.rule, violation.expected), []).append(violation)
    lines = []
    for (effect, rule, expected), alike in kinds.items():
        nodes = "; ".join(v.node for v in alike[:3]) + ("; ..." if len(alike) > 3 else "")
        what = ", ".join(dict.fromkeys(v.actual for v in alike[:3]))
        lines.append(f"{effect}: {rule} of {len(alike)} tensors ({nodes}): found {what}, expected {expected}")
    return tuple(lines)
