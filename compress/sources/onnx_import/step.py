"""One node of an ONNX graph, and the values that it is called with.

A value is a tensor, or an array of numpy where it is known without running the network or derives from the sizes of
tensors alone. Such arithmetic on shapes stays outside of torch, so that torch.export sees sizes and not tensors; sizes
that are symbols in a trace stand in arrays of objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import TensorProto
from torch import Tensor, nn

from ...errors import InvalidInput
from ...files.limits import TooLarge
from .reading.sound import cut, type_name

Array = NDArray[Any]
Value = Tensor | Array
Attribute = int | float | str | tuple[int, ...] | tuple[float, ...] | tuple[str, ...] | Array
DTYPES: Mapping[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.UINT8: torch.uint8,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.BOOL: torch.bool,
}


class Unsupported(Exception):
    """An operator is used in a way that has no counterpart here; the message says which."""


def reason_of(error: BaseException) -> str:
    """The first line of the error's message, after its type where the message alone does not say what went wrong."""
    lines = str(error).strip().splitlines() or [""]
    if isinstance(error, (RuntimeError, ValueError, InvalidInput)) and lines[0]:
        return lines[0]
    return f"{type(error).__name__}: {lines[0]}".removesuffix(": ")


@contextmanager
def at_node(where: str, name: str, operator: str) -> Iterator[None]:
    """Tell what goes wrong within as InvalidInput, with ``where`` and the node before it.

    A node is data that somebody wrote: whatever computing with it raises says that it cannot be imported. The error
    itself is the cause of what is raised.
    """
    node = f"{where}node {cut(name)} ({operator})"
    try:
        yield
    except Unsupported as error:
        raise InvalidInput(f"{node}: {error} is not supported") from error
    except TooLarge as error:
        raise TooLarge(f"{node}: {error}") from error
    except InvalidInput:
        raise
    except Exception as error:
        raise InvalidInput(f"{node} cannot be imported: {reason_of(error)}") from error


@dataclass(frozen=True)
class Step:
    """One node of an ONNX graph, ready to run.

    Args:
        layer: the module that computes it, as a qualified name; "" if a function does.
    """

    operator: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    opset: int = 23
    layer: str = ""

    def integer(self, key: str, default: int = 0) -> int:
        """The attribute ``key`` as an integer."""
        return int(self.attributes.get(key, default))  # type: ignore[arg-type]

    def real(self, key: str, default: float = 0.0) -> float:
        """The attribute ``key`` as a float."""
        return float(self.attributes.get(key, default))  # type: ignore[arg-type]

    def text(self, key: str, default: str = "") -> str:
        """The attribute ``key`` as text."""
        return str(self.attributes.get(key, default))

    def integers(self, key: str) -> tuple[int, ...] | None:
        """The attribute ``key`` as integers, None where the node has it not."""
        value = self.attributes.get(key)
        return None if value is None else tuple(int(item) for item in value)  # type: ignore[union-attr]


@dataclass(frozen=True)
class Call:
    """A step with the values of its inputs; an input that is left out is None."""

    step: Step
    values: Sequence[Value | None]
    module: nn.Module | None = None

    def has(self, index: int) -> bool:
        """Whether input ``index`` is given."""
        return index < len(self.values) and self.values[index] is not None

    def tensor(self, index: int = 0) -> Tensor:
        """Input ``index`` as a tensor, on the device of the others."""
        value = self.values[index]
        if isinstance(value, Tensor):
            return value
        if value is None:
            raise Unsupported(f"input {index} is missing")
        device = next((v.device for v in self.values if isinstance(v, Tensor)), None)
        return as_tensor(value, device)

    def through(self) -> Tensor:
        """Input 0 through the module of the step."""
        assert self.module is not None, f"{self.step.name} has a layer"
        result: Tensor = self.module(self.tensor(0))
        return result

    def optional(self, index: int) -> Tensor | None:
        """Input ``index`` as a tensor, if it is given."""
        return self.tensor(index) if self.has(index) else None

    def operand(self, index: int) -> Tensor | float:
        """Input ``index`` for arithmetic: a number where it is a known scalar beside a tensor."""
        value = self.values[index]
        ranks = [v.ndim for v in self.values if isinstance(v, Tensor)]
        if isinstance(value, np.ndarray) and value.size == 1 and ranks and value.ndim <= max(ranks):
            return value.reshape(-1).tolist()[0]  # type: ignore[no-any-return]
        return self.tensor(index)

    def array(self, index: int) -> Array:
        """Input ``index`` as an array; reading a tensor's values here ends a trace."""
        value = self.values[index]
        if isinstance(value, np.ndarray):
            return value
        if value is None:
            raise Unsupported(f"input {index} is missing")
        return value.detach().cpu().numpy()

    def sizes(self, key: str, index: int) -> list[int] | None:
        """Integers that are the attribute ``key`` in old opsets and input ``index`` in new ones; None if absent."""
        attribute = self.step.integers(key)
        if attribute is not None:
            return list(attribute)
        return list(self.array(index).reshape(-1).tolist()) if self.has(index) else None

    def number(self, key: str, index: int, default: float) -> float:
        """A number that is the attribute ``key`` in old opsets and input ``index`` in new ones."""
        if key in self.step.attributes:
            return self.step.real(key)
        return self.array(index).reshape(-1).tolist()[0] if self.has(index) else default


def as_tensor(array: Array, device: torch.device | None = None) -> Tensor:
    """``array`` as a tensor; sizes that are symbols become a tensor of int64."""
    if array.dtype == object:
        flat = array.reshape(-1).tolist()
        return torch.stack([torch.as_tensor(item, device=device) for item in flat]).reshape(array.shape)
    tensor = torch.from_numpy(np.array(array, order="C"))
    return tensor if device is None else tensor.to(device)


def dtype_of(element: int) -> torch.dtype:
    """The type of tensors whose elements are of ONNX's type ``element``.

    Raises:
        Unsupported: torch has none.
    """
    if element not in DTYPES:
        raise Unsupported(f"elements of type {type_name(element)}")
    return DTYPES[element]
