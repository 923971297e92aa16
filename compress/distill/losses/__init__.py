"""What a student learns from its teacher: one loss a file, found by its name; see :mod:`compress.core.parts`.

A loss is written as its name (``dkd``), with its settings behind colons (``hint:weight=2``), and with pairs of layers
where it looks at features: ``hint:layer2=layer3:weight=2`` holds the student's layer2 against the teacher's layer3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import BeforeValidator
from torch import Tensor, nn

from ...core.edit import Edit
from ...core.parts import Kind, Part
from ...core.settings import setting
from ...errors import InvalidInput
from ...tasks.task import Batch, Task
from ..features import Seen, resolution_of
from ..layers import LayerPair, Shapes, by_name, by_stage, kept_channels

__all__ = ["LOSSES", "AnyLoss", "FeatureLoss", "LayerPair", "Loss", "OfLayers", "Pairing", "Seen"]


@dataclass(frozen=True)
class Pairing:
    """A student and its teacher, as a loss gets to know them before the training.

    Args:
        task: what a batch means.
        temperature: of soft targets.
        student: what it gives for example inputs. Likewise ``teacher``.
        student_shapes: of what its layers return, in the order in which they end. Likewise ``teacher_shapes``.
        edits: those that made the student of the teacher, where it was made so.
    """

    task: Task
    temperature: float
    student: Seen
    teacher: Seen
    student_shapes: Shapes
    teacher_shapes: Shapes
    edits: tuple[Edit, ...] = ()

    def pair(self, student: str, teacher: str) -> LayerPair:
        """Two layers, with what their features are like."""
        kept = None
        if student == teacher and self.edits:
            kept = kept_channels(student, self.edits, self.student_shapes, self.teacher_shapes)
        return LayerPair(student, teacher, self.student_shapes[student], self.teacher_shapes[teacher], kept)


class Loss(Part):
    """A loss between a student and its teacher, with its weight in the sum of all."""

    weight: float = setting(1.0, "Times the loss, in the sum of all.", ge=0, le=1e9)

    def term(self, pairing: Pairing) -> nn.Module:
        """A module whose ``forward(student: Seen, teacher: Seen, batch)`` is the loss without its weight, a scalar.

        Its parameters are trained with the student's, its buffers are what it remembers; both are in checkpoints, and
        thrown away after the training.

        Raises:
            InvalidInput: it cannot serve the task, or these networks.
        """
        raise NotImplementedError


def _named(value: Any) -> Any:
    """Layers that are called the same in both networks."""
    return {name: name for name in value} if isinstance(value, (list, tuple)) else value


Layers = Annotated[
    dict[str, str] | str, BeforeValidator(_named, json_schema_input_type=dict[str, str] | list[str] | str)
]


class FeatureLoss(Loss):
    """A loss between features of layers."""

    layers: Layers = setting(
        "stages",
        "Layers of the student, each with one of the teacher's, by name or pattern; a list, or one name, of layers "
        "called the same in both. Or stages: the last layer of each resolution that both have; or last: the last of "
        "these.",
    )
    needs_positions: ClassVar[bool] = False
    """Whether features must be maps or tokens."""

    def pairs(self, pairing: Pairing) -> tuple[LayerPair, ...]:
        """The pairs of layers.

        Raises:
            InvalidInput: there are no such layers, or what they return has no positions, and they are needed.
        """
        where, mine, theirs = f"loss {self.name}", pairing.student_shapes, pairing.teacher_shapes
        if isinstance(self.layers, str) and self.layers in ("stages", "last"):
            names = by_stage(mine, theirs, last=self.layers == "last")
            if not names:
                raise InvalidInput(
                    f"{where}: student and teacher have no resolution in common; name their layers, as "
                    f"{self.name}:STUDENT=TEACHER"
                )
        else:
            wanted = {self.layers: self.layers} if isinstance(self.layers, str) else self.layers
            names = by_name(wanted, mine, theirs, where)
        pairs = tuple(pairing.pair(*each) for each in names)
        for pair in pairs if self.needs_positions else ():
            for name, shape in ((pair.student, pair.student_shape), (pair.teacher, pair.teacher_shape)):
                if torch.Size(resolution_of(shape)).numel() < 2 or not resolution_of(shape):
                    raise InvalidInput(
                        f"{where}: expected layers that return maps (N, C, H, W) or tokens (N, L, C), and {name} "
                        f"returns {_in_words(shape)}; name others, or take hint, sp or rkd"
                    )
        return pairs


def _in_words(shape: tuple[int, ...]) -> str:
    return f"(N, {', '.join(map(str, shape[1:]))})"


class OfLayers(nn.Module):
    """The mean, over pairs of layers, of a loss between two features; a scalar.

    Args:
        between: the loss of a student's and a teacher's feature.
        adapters: what the student's feature of each pair goes through first; left out, nothing.
    """

    def __init__(
        self,
        pairs: Sequence[LayerPair],
        between: Callable[[Tensor, Tensor], Tensor],
        adapters: Sequence[nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.pairs, self.between = tuple(pairs), between
        self.adapters = nn.ModuleList([nn.Identity() for _ in pairs] if adapters is None else adapters)

    def forward(self, student: Seen, teacher: Seen, batch: Batch) -> Tensor:
        """The loss of what both gave for a batch."""
        return torch.stack(
            [
                self.between(adapter(student.features[pair.student]), pair.of_teacher(teacher.features[pair.teacher]))
                for pair, adapter in zip(self.pairs, self.adapters, strict=True)
            ]
        ).mean()


LOSSES = Kind("loss", __name__, Loss, verb="term", entries="layers")
AnyLoss = Annotated[Loss, LOSSES]
"""A field's type: a loss's name, a mapping from it to its settings, or an object."""
