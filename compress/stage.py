"""The nouns that every stage shares: Stage, Result and Context; those of edits and configurations come with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from .clock import Clock
from .core.config import Config, Findings, Samples, Seed, Threads, Times
from .core.edit import Edit, EditKind, Skip
from .core.restoration import Restoration
from .data import Data
from .errors import InvalidInput
from .graph.parametrized import evaluation_copy
from .integers.encoding import Encoding
from .tasks.reading import Reading
from .tasks.resolve import resolve
from .tasks.task import Batch, Task

__all__ = [
    "Config",
    "Context",
    "Edit",
    "EditKind",
    "Findings",
    "Measured",
    "Objective",
    "Progress",
    "Result",
    "Samples",
    "Seed",
    "Skip",
    "Stage",
    "Threads",
    "Times",
    "evaluation_copy",
    "silent",
]


@dataclass(frozen=True)
class Measured:
    """A choice of a stage that rests on latencies, and where these were taken: right there, not on every device.

    Args:
        choice: what was chosen ("the layers that compute in float").
        told: what it cost and gained, in words.
        target: whose files were timed.
        engine: that ran them.
        cpu: the processor that they ran on.
        threads: that one operation could use.
    """

    choice: str
    told: str
    target: str
    engine: str
    cpu: str
    threads: int

    @classmethod
    def by(cls, clock: Clock, choice: str, account: str) -> Measured:
        """A choice by the latencies of ``clock``."""
        return cls(choice, account, clock.target, clock.engine, clock.processor, clock.threads)

    def __str__(self) -> str:
        where = f"{self.engine} on {self.cpu}, {self.threads} {'thread' if self.threads == 1 else 'threads'}"
        return f"{self.told}; measured for {self.target} in {where}"


@dataclass(frozen=True)
class Result:
    """What a stage returns: the network and an account of what was done and what was not.

    Measuring is the runner's work: a stage never reports its own cost or accuracy. ``history`` has a record per epoch
    of what :func:`compress.training.loop.fit` saw, where weights were fitted. ``measured`` tells choices by latency,
    ``target`` whose integers the encodings were made for, ``learnt`` by what weights were fitted to these. ``restored``
    tells what was given back in precision so that no more of a score is lost than was allowed.
    """

    model: nn.Module
    edits: tuple[Edit, ...] = ()
    skipped: tuple[Skip, ...] = ()
    encodings: Mapping[str, Encoding] = field(default_factory=dict)
    history: tuple[Mapping[str, float], ...] = ()
    measured: tuple[Measured, ...] = ()
    target: str | None = None
    learnt: tuple[str, ...] = ()
    restored: Restoration | None = None


class Progress(Protocol):
    """Told how far a task is: ``progress("train", 3, 10, "loss 0.4")``. Called often; must be cheap."""

    def __call__(self, task: str, done: int, total: int, note: str = "") -> None: ...


def silent(task: str, done: int, total: int, note: str = "") -> None:
    """A progress that says nothing."""


@dataclass(frozen=True)
class Context:
    """What a stage may use.

    Args:
        example_inputs: one tensor per input of the network, batch first, as ``model(*example_inputs)`` takes them.
        data: the data set, its splits kept apart; stages that train or calibrate need it.
        teacher: the network that fine-tuning distils from, in evaluation mode.
        edits: those that made the network of the teacher, where it was made of it.
        seed: of everything random.
        progress: told how far a stage is.
        checkpoints: a folder for the states of interrupted trainings, or None.
        clock: tells how long networks take, to stages that choose by latency or by the size of files.
        task: what a batch means, or the name of a task; None: the one that fits, see
            :func:`compress.tasks.resolve.resolve`.
    """

    example_inputs: tuple[Tensor, ...]
    data: Data | None = None
    teacher: nn.Module | None = None
    seed: int = 0
    progress: Progress = silent
    checkpoints: str | None = None
    clock: Clock | None = None
    task: Task | str | None = None
    edits: tuple[Edit, ...] = ()

    def of(self, model: nn.Module) -> Context:
        """This context with the task of ``model``, a network before it is changed.

        Where the task has no labels, it is measured against the teacher, and where there is none against ``model``.
        """
        task = resolve(self.task, model, self.data, self.example_inputs)
        return replace(self, task=task.against(self.teacher if self.teacher is not None else model))

    def task_of(self, model: nn.Module) -> Task:
        """The task of ``model``; see :meth:`of`."""
        task = self.of(model).task
        assert isinstance(task, Task), "it was resolved"
        return task

    def read(self, batch: Batch) -> tuple[Tensor, ...]:
        """The network's inputs out of a batch, in the order of ``forward``.

        Raises:
            InvalidInput: the batch does not hold them.
        """
        if isinstance(self.task, Task) and self.task.inputs is not None:
            return self.task.inputs(batch)
        return Reading(len(self.example_inputs)).inputs(batch)

    def require_clock(self, why: str) -> Clock:
        """The clock.

        Args:
            why: it is needed, as "quantize: what is slower in integers is measured".

        Raises:
            InvalidInput: there is none; says how to give one.
        """
        if self.clock is None:
            raise InvalidInput(
                f"{why}, and the context has no clock; give one: Context(..., clock=compress.MachineClock())"
            )
        return self.clock


@runtime_checkable
class Stage(Protocol):
    """A frozen configuration with one verb."""

    def apply(self, model: nn.Module, context: Context) -> Result:
        """Return a changed network; the one given is left as it was."""
        ...


Objective = Callable[[nn.Module, Batch], Tensor]
"""A training loss: ``objective(model, batch)`` is a scalar."""
