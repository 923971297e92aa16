"""Which parts of a batch the network takes, and which are its labels, by what the network takes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..errors import InvalidInput
from ..graph.interface import told_by

LABELS = ("labels", "label", "targets", "target", "y")
"""What labels are called in a batch that is a mapping."""


@dataclass(frozen=True)
class Reading:
    """Reads batches for a network with ``count`` inputs, whose parameters are called ``names``.

    A batch is the inputs alone, or a sequence that begins with them. They are one part of it, a sequence or a mapping,
    or the first ``count`` parts, so that a mask that stands second is an input where the network takes two. What comes
    after them, if anything, are labels. In a mapping inputs go by the names of ``forward``, and labels are called
    ``labels``, ``label``, ``targets``, ``target`` or ``y``.

    >>> import torch
    >>> ids, mask, classes = torch.zeros(4, 8), torch.ones(4, 8), torch.arange(4)
    >>> [len(each) for each in (Reading().inputs((ids, classes)), Reading(2).inputs((ids, mask, classes)))]
    [1, 2]
    >>> Reading(2).labels((ids, mask)) is None, Reading().labels((ids, classes)) is classes
    (True, True)
    """

    count: int = 1
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, model: nn.Module, example_inputs: tuple[Tensor, ...] = ()) -> Reading:
        """How batches are read for ``model``; the number of its inputs is that of the example inputs, where given.

        Inputs are called as the network tells itself, as one of an ONNX file does, or as the parameters of ``forward``.
        """
        parameters = _parameters(model)
        required = sum(1 for _, needed in parameters if needed)
        names = told_by(model, "input_names") or tuple(name for name, _ in parameters)
        return cls(len(example_inputs) or max(1, required), names)

    def inputs(self, batch: Any) -> tuple[Tensor, ...]:
        """The inputs of ``batch``, in the order of ``forward``.

        Raises:
            InvalidInput: the batch does not hold them.
        """
        if isinstance(batch, Tensor):
            return self._counted((batch,))
        if isinstance(batch, Mapping):
            return self._named(batch)
        if isinstance(batch, (tuple, list)) and len(batch):
            head = batch[0]
            if isinstance(head, Mapping):
                return self._named(head)
            if isinstance(head, (tuple, list)):
                return self._counted(tuple(head))
            return self._counted(tuple(batch[: self.count]))
        raise InvalidInput(f"batch: expected tensors, a sequence of them or a mapping, got {type(batch).__name__}")

    def labels(self, batch: Any) -> Any:
        """The labels of ``batch``: what is left of it without the inputs; None where it has none."""
        if isinstance(batch, Mapping):
            return next((batch[name] for name in LABELS if name in batch and name not in self.names), None)
        if not isinstance(batch, (tuple, list)) or not batch:
            return None
        rest = batch[1:] if isinstance(batch[0], (tuple, list, Mapping)) else batch[self.count :]
        return None if not len(rest) else rest[0] if len(rest) == 1 else tuple(rest)

    def _named(self, batch: Mapping[str, Any]) -> tuple[Tensor, ...]:
        values = tuple(batch[name] for name in self.names if name in batch)
        if not values:
            raise InvalidInput(
                f"batch: expected {', '.join(self.names) or 'inputs'} as the network's forward names them, got "
                f"{', '.join(map(str, batch))}; rename them, or give a --task whose inputs picks them"
            )
        return self._counted(values, f" of {', '.join(self.names)}, among {', '.join(map(str, batch))}")

    def _counted(self, values: tuple[Any, ...], told: str = "") -> tuple[Tensor, ...]:
        wrong = next((value for value in values if not isinstance(value, Tensor)), None)
        if wrong is not None:
            raise InvalidInput(f"batch: expected tensors as inputs, got {type(wrong).__name__}")
        if len(values) != self.count:
            raise InvalidInput(f"batch: the network takes {self.count} inputs, and the batch gives {len(values)}{told}")
        return values


def _parameters(model: nn.Module) -> list[tuple[str, bool]]:
    """The parameters of ``forward`` that can be given by position, and whether they must be."""
    try:
        signature = inspect.signature(model.forward)
    except (TypeError, ValueError):
        return []
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [(p.name, p.default is p.empty) for p in signature.parameters.values() if p.kind in positional]


ONE_INPUT = Reading().inputs
"""Reads batches for a network of one input."""
