"""The cases: one file each, with a ``CASE``."""

from __future__ import annotations

import pkgutil
from importlib import import_module

from benchmarks.any_task.case import Case

NAMES = tuple(module.name for module in pkgutil.iter_modules(__path__))


def case(name: str) -> Case:
    """Return the case called ``name``."""
    found: Case = import_module(f"{__name__}.{name}").CASE
    return found
