"""The tasks that the project brings: one file of this folder each, with a function ``task`` of how batches are read.

A file whose task may be taken without being named has a function ``takes`` of outputs and labels, too, which tells
whether they are of its kind. What a task alone needs is imported where it is used: a network is held to one task.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from ...core.part_files import part_files
from ...errors import InvalidInput
from ..reading import Reading
from ..task import Outputs, Task

NAMES = tuple(part_files(map(Path, __path__)))
WITHOUT_LABELS = "outputs"
"""The task of every network whose outputs and labels are of no other kind."""


def user_task(words: str) -> Task:
    """The task that ``file.py:name`` or ``package.module:name`` is, or returns when it is called.

    Raises:
        InvalidInput: it is none.
    """
    from ...sources.load import call  # the code of a user's, which is found beside networks

    made = call(words)
    if not isinstance(made, Task):
        raise InvalidInput(f"task {words}: expected a compress.Task, or a function that returns one, got {made!r:.60}")
    return made


def named(name: str, reading: Reading) -> Task:
    """The task called ``name``, whose batches are read so.

    Raises:
        InvalidInput: there is none of this name.
    """
    if name not in NAMES:
        raise InvalidInput(f"task {name}: expected one of {', '.join(NAMES)}, or file.py:task of your own")
    made: Task = import_module(f"{__name__}.{name}").task(reading)
    return made


def fitting(outputs: Outputs, labels: Any) -> str | None:
    """The name of the task that takes such outputs and labels without being named; None: none does."""
    for name in NAMES:
        takes = getattr(import_module(f"{__name__}.{name}"), "takes", None)
        if takes is not None and takes(outputs, labels):
            return name
    return None
