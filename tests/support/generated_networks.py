"""Networks drawn at random, as source text: a program of operations over maps, tokens and vectors that fits by design.

Every network is a module with one line per layer and one per operation, so that a failing example is a reproduction
that can be read and pasted. The code takes channel counts from its tensors wherever a careful author would.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hypothesis import strategies as st

from tests.support.generated_operations import (
    OPERATIONS,
    Operation,
    convolution,
    linear,
    pooled,
    resample,
    to_tokens,
    transposed,
)
from tests.support.generated_program import Program, Value, Writer


def written(
    choose: Callable[[Sequence[Any]], Any], longest: int, through: tuple[str, Operation] | None = None
) -> Program:
    """A network of up to ``longest`` operations between a stem and a head, with one or two inputs and outputs.

    ``through`` is an operation, and the layout that it works on, which the network has in any case.
    """
    w = Writer(choose)
    size = w.pick((4, 6, 8))
    inputs = [Value("x", "map", (w.pick((3, 2)), size, size))]
    kind = w.pick(("none", "none", "map", "vector", "tokens"))
    if kind != "none":
        inputs.append(Value("y", kind, {"map": (2, size, size), "vector": (5,), "tokens": (4, 3)}[kind]))  # type: ignore[arg-type]
    for source in reversed(inputs):  # a stem for each
        (convolution if source.layout == "map" else linear)(w, source)
    operations: list[str] = []
    if through is not None:
        operations += [*forced(w, *through)]
    elif w.pick(("map", "tokens", "map")) == "tokens":
        to_tokens(w, w.values[-1])
    for _ in range(w.pick(range(1, longest + 1))):
        back = min(len(w.values), w.pick((1, 1, 1, 2, 3)))
        x = w.values[-back]
        operation = w.pick(OPERATIONS[x.layout])
        if operation(w, x) is not None:
            operations.append(operation.__name__)
    return w.program(inputs, heads(w), operations)


def forced(w: Writer, layout: str, operation: Operation) -> Iterator[str]:
    """Apply ``operation``, after others that make it possible."""
    for _ in range(100):
        x = w.values[-1]
        if x.layout == layout and operation(w, x) is not None:
            yield operation.__name__
            return
        if x.layout != layout:
            few = x.layout == "map" and x.shape[1] <= 6
            way = {"tokens": to_tokens if few else resample, "vector": pooled}[layout]
        else:
            way = {"map": w.pick((convolution, transposed, resample)), "tokens": linear, "vector": linear}[layout]
        if way(w, x) is not None:
            yield way.__name__
    raise AssertionError(f"{operation.__name__} was never possible")


def heads(w: Writer) -> list[str]:
    """The outputs, as code: of the last value, and perhaps of another or that value itself."""
    ends = [w.values[-1]]
    if w.pick((False, False, True)):
        ends.append(w.pick(w.values))
    outputs = []
    for end in ends:
        reduced = {"map": f"{end.name}.mean((2, 3))", "tokens": f"{end.name}.mean(1)", "vector": end.name}[end.layout]
        outputs.append(f"{w.layer(f'nn.Linear({end.channels}, 3)', 1)}({reduced})")
    if len(outputs) == 2 and w.pick((False, True)):
        outputs[1] = ends[1].name  # as it is; its head is a layer that is never called
    return outputs


@st.composite
def programs(draw: Callable[[st.SearchStrategy[Any]], Any], longest: int = 7) -> Program:
    """Networks of up to ``longest`` operations, which shrink to small ones."""
    return written(lambda options: draw(st.sampled_from(options)), longest)


def program_through(layout: str, operation: Operation, seed: int, longest: int = 3) -> Program:
    """A network with ``operation`` on a value of ``layout``, and a few others; the same for the same seed."""
    return written(random.Random(f"{seed} {layout} {operation.__name__}").choice, longest, (layout, operation))
