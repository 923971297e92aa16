"""A user's task, whose functions are checked: what fails in them, or returns something else, is told in one line."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CompressError, InvalidInput, first_line
from .reading import Reading
from .task import Batch, Outputs, Score, Task


@dataclass(frozen=True)
class Checked:
    """A function of a task, called and checked.

    Args:
        function: the user's.
        what: it is, for messages ("task seg: its loss").
        returned: makes of what it returns what the project takes; raises InvalidInput where it is nothing of the kind.
    """

    function: Callable[..., Any]
    what: str
    returned: Callable[[Any, str], Any] | None = None

    def __call__(self, *arguments: Any) -> Any:
        try:
            value = self.function(*arguments)
        except CompressError:
            raise
        except Exception as error:
            raise InvalidInput(
                f"{self.what} failed: {type(error).__name__}: {first_line(error)}{_place(error)}"
            ) from error
        return value if self.returned is None else self.returned(value, self.what)


def _place(error: Exception) -> str:
    """Where in the user's code an error comes from (" at net.py:14"); "" where it is not known."""
    others = (str(Path(__file__).parent.parent), str(Path(torch.__file__).parent), "<")
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(others)]
    return f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""


class CheckedScore:
    """A score of a task, called and checked."""

    def __init__(self, score: Any, what: str) -> None:
        missing = [name for name in ("higher_is_better", "reset", "update", "compute") if not hasattr(score, name)]
        if missing:
            raise InvalidInput(f"{what}: expected a score, got {score!r:.60}, which has no {', '.join(missing)}")
        self.higher_is_better: bool | None = score.higher_is_better
        self.reset: Callable[[], None] = Checked(score.reset, what)
        self.update: Callable[[Outputs, Batch], None] = Checked(score.update, what)
        self.compute: Callable[[], float] = Checked(score.compute, what, _number)


def checked(task: Task, reading: Reading) -> Task:
    """The task with its functions checked; batches are read by ``reading`` where it does not say how itself.

    Raises:
        InvalidInput: something of it is no function, or its scores are no mapping.
    """
    if isinstance(task.inputs, Checked):
        return task
    name = f"task {task.name}"
    if not isinstance(task.scores, Mapping):
        raise InvalidInput(f"{name}: expected scores by name, as {{'mIoU': MIoU}}, got {type(task.scores).__name__}")

    def each(field: str, returned: Callable[[Any, str], Any] | None = None) -> Any:
        function = getattr(task, field)
        if function is getattr(Task, field):  # ours, where the task has none of its own
            return function
        if not callable(function):
            raise InvalidInput(f"{name}: expected a function as {field}, got {type(function).__name__}")
        return Checked(function, f"{name}: its {field}", returned)

    made: dict[str, Any] = {
        **{field: each(field, _scalar) for field in ("loss", "match", "drawn")},
        **{field: each(field) for field in ("fits", "classes")},
        "drop": each("drop", _number),
        "scores": {score: _maker(make, f"{name}: its score {score}") for score, make in task.scores.items()},
        "inputs": each("inputs", partial(_inputs, reading)) or Checked(reading.inputs, name),
    }
    return replace(task, **made)


def _maker(make: Any, what: str) -> Callable[[], Score]:
    if not callable(make) or (hasattr(make, "update") and not isinstance(make, type)):
        raise InvalidInput(f"{what}: expected a class, or a function that returns a new score, got {make!r:.60}")
    return Checked(make, what, CheckedScore)


def _scalar(value: Any, what: str) -> Tensor:
    if not isinstance(value, Tensor) or value.numel() != 1 or not value.is_floating_point():
        got = f"{value.dtype} of the shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise InvalidInput(f"{what}: expected a tensor of one float, got {got}")
    return value.reshape(())


def _number(value: Any, what: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        got = f"a tensor of the shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"{value!r:.60}"
        raise InvalidInput(f"{what}: expected a number, got {got}") from None


def _inputs(reading: Reading, value: Any, what: str) -> tuple[Tensor, ...]:
    """Inputs in the order of ``forward``, of a tensor alone, tensors, or a mapping by the names of ``forward``."""
    if isinstance(value, Tensor):
        return (value,)
    if isinstance(value, Mapping):
        return reading.inputs(value)
    if not isinstance(value, (tuple, list)) or not value or not all(isinstance(each, Tensor) for each in value):
        raise InvalidInput(f"{what}: expected a tuple of tensors, in the order of forward, got {_kinds(value)}")
    return tuple(value)


def _kinds(value: Any) -> str:
    if not isinstance(value, (tuple, list)):
        return type(value).__name__
    return f"({', '.join(type(each).__name__ for each in value)})"
