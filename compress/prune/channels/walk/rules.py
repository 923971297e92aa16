"""The registry of rules: what each operation does to labels, by its ATen name without overload."""

from __future__ import annotations

from collections.abc import Callable

from .walker import Rule

RULES: dict[str, Rule] = {}


def rule(names: str) -> Callable[[Rule], Rule]:
    """Register a rule for the operations ``names``, separated by spaces; in-place forms need no mention."""

    def register(function: Rule) -> Rule:
        for name in names.split():
            assert name not in RULES, f"two rules for {name}"
            RULES[name] = function
        return function

    return register
