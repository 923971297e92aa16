"""One kind of network and data: what is trained, how it is scored, and how much of the score its files may lose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compress import Task, Training
from compress.data import Data


@dataclass(frozen=True)
class Case:
    """A network of one kind.

    Args:
        network: as the command line takes it, ``package.module:function``.
        task: how batches are read and scored, or the name of a built-in task.
        data: the four splits, from a folder of data sets as they were unpacked; raises FileNotFoundError where the
            one that it needs is not there.
        training: from random weights to the network in float.
        most_lost: of the task's first score, from float to int8; at half the multiply-adds twice that.
        relative: ``most_lost`` is a share of float's score, in percent, instead of a difference.
        compressed: the task by which stages work and files are scored; left out, ``task``. Here a network that was
            trained by a loss of its own is held against itself.
        settings: of the training after pruning that differ from ``training``, whose epochs are halved and whose
            learning rate is a fifth.
    """

    network: str
    task: Task | str
    data: Callable[[Path], Data]
    training: Training
    most_lost: float
    relative: bool = False
    compressed: Task | str | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def scored(self) -> Task | str:
        """The task by which stages work and files are scored."""
        return self.task if self.compressed is None else self.compressed

    @property
    def tuning(self) -> Training:
        """The training after pruning."""
        gentler = {"epochs": max(1, self.training.epochs // 2), "learning_rate": self.training.learning_rate / 5}
        return self.training.model_copy(update=gentler | self.settings)


def adamw(epochs: int, batch_size: int = 32, learning_rate: float = 2e-3, **settings: Any) -> Training:
    """A training by AdamW in float32 on the processor."""
    return Training(
        epochs=epochs,
        batch_size=batch_size,
        optimizer="adamw",
        learning_rate=learning_rate,
        weight_decay=0.02,
        warmup_epochs=min(1.0, epochs / 4),
        gradient_clip=5,
        precision="fp32",
        accelerator="cpu",
        **settings,
    )
