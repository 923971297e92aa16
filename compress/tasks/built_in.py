"""The tasks that the project brings: one file of this folder each, with a function ``task`` of how batches are read."""

from __future__ import annotations

from importlib import import_module
from typing import Literal, get_args

from ..errors import InvalidInput
from .reading import Reading
from .task import Task

TaskName = Literal["classification", "outputs"]
NAMES: tuple[TaskName, ...] = get_args(TaskName)


def user_task(words: str) -> Task:
    """The task that ``file.py:name`` or ``package.module:name`` is, or returns when it is called.

    Raises:
        InvalidInput: it is none.
    """
    from ..sources.load import find  # the code of a user's, which is found beside networks

    made = find(words)
    made = made() if callable(made) and not isinstance(made, Task) else made
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
    made: Task = import_module(f"{__package__}.{name}").task(reading)
    return made
