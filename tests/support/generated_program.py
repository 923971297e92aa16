"""The text of a network, and what writes it: see :mod:`tests.support.generated_networks`."""

from __future__ import annotations

import linecache
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from tests.support.random_weights import randomized

T = TypeVar("T")
BATCH = 2
WIDTHS = (4, 6, 8, 3, 2, 5)
_NUMBERS = count()


@dataclass(frozen=True)
class Value:
    """A tensor of the program: a map (C, H, W), tokens (L, C) or a vector (C,), each with a batch before it."""

    name: str
    layout: Literal["map", "tokens", "vector"]
    shape: tuple[int, ...]

    @property
    def channels(self) -> int:
        return self.shape[-1] if self.layout == "tokens" else self.shape[0]


@dataclass(frozen=True)
class Program:
    """The text of a network and what is known of it.

    Args:
        inputs: the shapes that it takes, with their batch.
        consuming: of each weight that consumes channels, the dimension along which it does.
        vanishing: layers whose removed channels are zero for a network that lacks them, weight and bias: projections
            to queries and keys, which no weight consumes.
        averaging: a mean over channels is taken outside of a normalization: it is of the channels that are left.
        operations: the names of the operations, in order.
    """

    text: str
    inputs: tuple[tuple[int, ...], ...]
    consuming: dict[str, int]
    vanishing: tuple[str, ...]
    averaging: bool
    operations: tuple[str, ...]

    def __repr__(self) -> str:
        return f"inputs {self.inputs}, operations {', '.join(self.operations)}\n{self.text}"

    def build(self, seed: int = 0) -> nn.Module:
        """The network in float64, every weight and statistic drawn from ``seed``, in evaluation mode."""
        name = f"<network {next(_NUMBERS)}>"
        linecache.cache[name] = (len(self.text), None, self.text.splitlines(keepends=True), name)
        space: dict[str, Any] = {"torch": torch, "nn": nn, "F": F}
        exec(compile(self.text, name, "exec"), space)  # text of this file's own making
        torch.manual_seed(seed)
        model: nn.Module = space["Network"]()
        return randomized(model.double(), seed)

    def tensors(self, seed: int) -> tuple[Tensor, ...]:
        """Random inputs."""
        generator = torch.Generator().manual_seed(seed)
        return tuple(torch.randn(shape, generator=generator, dtype=torch.float64) for shape in self.inputs)


@dataclass
class Writer:
    """Writes a program; ``values`` are the tensors so far, and ``choose`` draws one of several things."""

    choose: Callable[[Sequence[Any]], Any]
    layers: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    consuming: dict[str, int] = field(default_factory=dict)
    vanishing: list[str] = field(default_factory=list)
    averaging: bool = False

    def pick(self, options: Sequence[T]) -> T:
        found: T = self.choose(options)
        return found

    def width(self) -> int:
        return self.pick(WIDTHS)

    def layer(self, text: str, consumes: int | None = None) -> str:
        """A new layer, as code: "self.l3"."""
        name = f"l{len(self.layers)}"
        self.layers.append(f"self.{name} = {text}")
        if consumes is not None:
            self.consuming[f"{name}.weight"] = consumes
        return f"self.{name}"

    def parameter(self, *shape: int, consumes: int | None = None) -> str:
        name = f"l{len(self.layers)}"
        self.layers.append(f"self.{name} = nn.Parameter(torch.randn{shape})")
        if consumes is not None:
            self.consuming[name] = consumes
        return f"self.{name}"

    def line(self, expression: str, names: int = 1) -> str:
        """``expression`` under a new name, or several with commas."""
        name = ", ".join(f"v{len(self.lines)}" + (f"_{i}" if names > 1 else "") for i in range(names))
        self.lines.append(f"{name} = {expression}")
        return name

    def emit(self, expression: str, like: Value, *shape: int, layout: str | None = None) -> Value:
        """A new value, shaped as ``like`` unless a shape is given."""
        found = Value(self.line(expression), layout or like.layout, shape or like.shape)  # type: ignore[arg-type]
        self.values.append(found)
        return found

    def partner(self, x: Value, *, same_width: bool) -> Value | None:
        """Another value that fits beside ``x``, if there is one."""
        axis = slice(0, -1) if x.layout == "tokens" else slice(1, None)
        found = [
            v
            for v in self.values
            if v.layout == x.layout and v.shape[axis] == x.shape[axis] and (not same_width or v.shape == x.shape)
        ]
        return self.pick(found[::-1]) if found else None

    def program(self, inputs: Sequence[Value], outputs: Sequence[str], operations: Sequence[str]) -> Program:
        text = "class Network(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        text += "".join(f"        {line}\n" for line in self.layers)
        text += f"\n    def forward(self, {', '.join(v.name for v in inputs)}):\n"
        text += "".join(f"        {line}\n" for line in self.lines)
        text += f"        return {', '.join(outputs)}\n"
        shapes = tuple((BATCH, *v.shape) for v in inputs)
        return Program(text, shapes, self.consuming, tuple(self.vanishing), self.averaging, tuple(operations))
