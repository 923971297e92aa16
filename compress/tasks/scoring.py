"""What a network scores on a split, by its task."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from ..data.batch import moved
from ..data.split import Split
from ..errors import InvalidInput
from ..graph.modes import evaluating
from .task import Batch, Outputs, Task


def scores_of(task: Task, answers: Iterable[tuple[Outputs, Batch]]) -> dict[str, float]:
    """The scores by name, the task's first one first, of outputs and the batches that they belong to."""
    scores = {name: make() for name, make in task.scores.items()}
    for outputs, batch in answers:
        for score in scores.values():
            score.update(outputs, batch)
    return {name: float(score.compute()) for name, score in scores.items()}


def evaluate(
    task: Task, model: nn.Module | Callable[..., Outputs], split: Split, batch_size: int = 256
) -> Mapping[str, float]:
    """The scores of ``model`` on a split, by name, the task's first one first; its modes are given back."""
    network = model if isinstance(model, nn.Module) else None
    device = next((p.device for p in network.parameters()), torch.device("cpu")) if network else torch.device("cpu")

    def answers() -> Iterable[tuple[Outputs, Batch]]:
        for batch in split.batches(batch_size):
            with torch.no_grad():
                outputs = model(*(x.to(device) for x in task.read(batch)))
            yield moved(outputs, torch.device("cpu")), batch

    with evaluating(network) if network is not None else nullcontext():
        return scores_of(task, answers())


def score_of(task: Task, model: nn.Module | Callable[..., Outputs], split: Split, batch_size: int = 256) -> float:
    """The task's first score of ``model`` on a split.

    Raises:
        InvalidInput: the task has no score.
    """
    if task.score is None:
        raise InvalidInput(f"task {task.name}: it has no score to choose by; give it one (scores)")
    first = Task(inputs=task.inputs, scores={task.score: task.scores[task.score]})
    return evaluate(first, model, split, batch_size)[task.score]


def informative_loss(task: Task, outputs: Outputs, batch: Batch, draws: torch.Generator) -> Tensor:
    """The loss whose gradients tell what a trained network's weights do: that of the labels.

    Where the task has no labels, a network is at the minimum of its match to itself and all gradients are 0; it is then
    the loss for targets drawn from the network's own prediction.
    """
    if task.loss is None or task.self_supervised:
        return task.drawn(outputs, draws)
    return task.loss(outputs, batch)


def loss_of(task: Task, model: nn.Module | Callable[..., Outputs], batch: Batch, what: str) -> Tensor:
    """The task's loss of ``model`` on a batch, a scalar.

    Raises:
        InvalidInput: the task has none; ``what`` begins the message.
    """
    if task.loss is None:
        raise InvalidInput(f"{what}: the task {task.name} has no loss; give it one, or take the task outputs")
    return task.loss(model(*task.read(batch)), batch)
