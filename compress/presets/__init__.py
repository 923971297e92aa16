"""Presets: recipes that come with the package, in which only the network and the data are open."""

from __future__ import annotations

from pathlib import Path

PRESETS = ("fast", "best")


def path(name: str) -> Path:
    """Where the recipe of a preset is.

    >>> path("fast").name
    'fast.yaml'
    """
    assert name in PRESETS, f"{name} is a preset"
    return Path(__file__).parent / f"{name}.yaml"
