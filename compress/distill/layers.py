"""Layers of a student and of its teacher that belong together: by name, by pattern, or by what they return."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from ..core.edit import Edit
from ..errors import InvalidInput
from .features import channel_axis, channels_of, resolution_of

Shapes = Mapping[str, tuple[int, ...]]
"""What each layer of a network returns, in the order in which layers end."""


@dataclass(frozen=True)
class LayerPair:
    """A layer of the student and the one of the teacher that it learns from.

    Args:
        student: the layer's name. Likewise ``teacher``.
        student_shape: of what it returns, with the batch. Likewise ``teacher_shape``.
        kept: the teacher's channels that the student, which was made of it, has; None where that is not known.
    """

    student: str
    teacher: str
    student_shape: tuple[int, ...]
    teacher_shape: tuple[int, ...]
    kept: tuple[int, ...] | None = None

    def of_teacher(self, feature: Tensor) -> Tensor:
        """The teacher's feature, of the kept channels alone where they are known."""
        if self.kept is None:
            return feature
        return feature.index_select(channel_axis(feature.ndim), torch.tensor(self.kept, device=feature.device))

    @property
    def wanted_channels(self) -> int:
        """Channels of what :meth:`of_teacher` returns."""
        return channels_of(self.teacher_shape) if self.kept is None else len(self.kept)

    def adapter(self) -> nn.Module:
        """What maps the student's feature to the channels of :meth:`of_teacher`: a 1x1 convolution of maps, a linear
        layer of tokens and vectors, and nothing where there are as many.
        """
        given, wanted = channels_of(self.student_shape), self.wanted_channels
        if given == wanted:
            return nn.Identity()
        return nn.Conv2d(given, wanted, 1) if len(self.student_shape) == 4 else nn.Linear(given, wanted)


def by_stage(student: Shapes, teacher: Shapes, *, last: bool = False) -> list[tuple[str, str]]:
    """The last layer of each resolution that both networks have, in the order of the student; or the last of these.

    Where no layer has positions, it is the last layer before the output.
    """
    mine, theirs = _last_of_each(student), _last_of_each(teacher)
    pairs = [(name, theirs[size]) for size, name in mine.items() if size in theirs]
    return pairs[-1:] if last else pairs


def by_name(wanted: Mapping[str, str], student: Shapes, teacher: Shapes, where: str) -> list[tuple[str, str]]:
    """The layers that names or patterns of the student's, each with one of the teacher's, stand for.

    A pattern (``layer*``) stands for all names with as many dots; both sides must have as many layers.

    Raises:
        InvalidInput: a network has no such layer, or the two sides have other numbers; ``where`` begins the message.
    """
    pairs: list[tuple[str, str]] = []
    for mine, theirs in wanted.items():
        ours, others = _matching(mine, student), _matching(theirs, teacher)
        for pattern, names, shapes, whose in ((mine, ours, student, "student"), (theirs, others, teacher, "teacher")):
            if not names:
                raise InvalidInput(
                    f"{where}: the {whose} has no layer {pattern} that returns (N, C, H, W), (N, L, C) or (N, C); it "
                    f"has {_some(shapes)}"
                )
        if len(ours) != len(others):
            raise InvalidInput(
                f"{where}: {mine} stands for {len(ours)} layers of the student ({_some(ours)}), and {theirs} for "
                f"{len(others)} of the teacher ({_some(others)}); name them one by one"
            )
        pairs += zip(ours, others, strict=True)
    return pairs


def kept_channels(layer: str, edits: Iterable[Edit], student: Shapes, teacher: Shapes) -> tuple[int, ...] | None:
    """The channels of the teacher's ``layer`` that the student, which ``edits`` made of the teacher, still has.

    They are those that the edits left of the last layer in ``layer`` whose outputs are its channels. None where the
    edits do not tell, and also where nothing was removed.
    """
    if layer not in student or layer not in teacher:
        return None
    given, wanted = channels_of(teacher[layer]), channels_of(student[layer])
    if given == wanted:
        return None
    left: dict[str, tuple[int, list[int]]] = {}
    for edit in edits:
        if edit.kind == "tensor" and edit.axis == 0 and edit.kept is not None and edit.what in ("weight", "bias"):
            before = edit.before if isinstance(edit.before, (tuple, list)) else (0,)
            place = f"{edit.layer} {edit.what}"
            full, kept = left.get(place, (int(before[0]), list(range(int(before[0])))))
            left[place] = full, [kept[index] for index in edit.kept]
    inside = [name for name in teacher if name == layer or name.startswith(f"{layer}.")]
    for name in reversed(inside):
        for what in ("weight", "bias"):
            full, kept = left.get(f"{name} {what}", (0, []))
            if full == given and len(kept) == wanted:
                return tuple(kept)
    return None


def _last_of_each(shapes: Shapes) -> dict[tuple[int, ...], str]:
    """The last layer of each resolution, in the order of these layers; of vectors alone where nothing has positions."""
    last: dict[tuple[int, ...], str] = {}
    for name, shape in shapes.items():
        size = resolution_of(shape)
        last.pop(size, None)
        last[size] = name
    several = {size: name for size, name in last.items() if torch.Size(size).numel() > 1}
    return several or {size: name for size, name in last.items() if not size}


def _matching(pattern: str, shapes: Shapes) -> list[str]:
    if pattern in shapes:
        return [pattern]
    parts = pattern.split(".")
    split = {name: name.split(".") for name in shapes}
    return [
        name
        for name, own in split.items()
        if len(own) == len(parts) and all(fnmatchcase(a, b) for a, b in zip(own, parts, strict=True))
    ]


def _some(names: Iterable[str]) -> str:
    every = list(names)
    return ", ".join(every[:6]) + (f" and {len(every) - 6} more" if len(every) > 6 else "")
