"""Random inputs for the network of a file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper
from torch import Tensor

from ...errors import InvalidInput
from ...files.limits import require_memory
from .reading.half import HALVES
from .reading.read import Dimensions, graph_inputs, parse, size_names
from .step import DTYPES

_PASSES = frozenset(
    ["Cast", "Expand", "Flatten", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"]
)
"""Operators whose output has the integers of their first input."""


def example_inputs_of(
    path: Path, batch: int = 1, *, input_shape: tuple[int, ...] | None = None, seed: int = 0
) -> tuple[Tensor, ...]:
    """One random tensor per input of the file, as :func:`random_inputs` makes them.

    Args:
        batch: the first dimension, where the file leaves it open.
        input_shape: with its batch; overrides the shape of the first input, and fills open sizes of the others that
            have as many dimensions or that the file calls by the same name.

    Raises:
        InvalidInput: the file is not readable, leaves other sizes open, fixes sizes other than those given, or asks for
            more memory than a file may.
    """
    model = parse(path)
    return random_inputs(path, model, filled_shapes(path, model, batch, input_shape), seed)


def filled_shapes(
    path: Path, model: ModelProto, batch: int, input_shape: tuple[int, ...] | None
) -> list[tuple[int, ...]]:
    """The shapes of the inputs of ``model``, as :func:`example_inputs_of` fills them; raises InvalidInput."""
    shapes: list[tuple[int, ...]] = []
    names, sizes = size_names(model), dict[str, int]()
    for number, (name, _, dimensions) in enumerate(graph_inputs(model)):
        dimensions = with_sizes(dimensions, names.get(name, ()), sizes)
        asked = input_shape if number == 0 or (dimensions and len(dimensions) == len(input_shape or ())) else None
        shapes.append(_filled(path, name, dimensions, batch, asked, required=number == 0))
        sizes.update({each: size for each, size in zip(names.get(name, ()), shapes[-1], strict=False) if each})
    return shapes


def given_sizes(model: ModelProto, input_shape: tuple[int, ...]) -> dict[str, Dimensions]:
    """The sizes of the inputs where the first has ``input_shape``: those of one name are equal, others stay open."""
    declared, names = graph_inputs(model), size_names(model)
    if not declared or declared[0][2] is None or len(declared[0][2]) != len(input_shape):
        return {}
    first = declared[0][0]
    named = {each: size for each, size in zip(names[first], input_shape, strict=True) if each}
    filled = {name: with_sizes(dimensions, names.get(name, ()), named) for name, _, dimensions in declared[1:]}
    return {first: input_shape, **{name: dimensions for name, dimensions in filled.items() if dimensions is not None}}


def with_sizes(dimensions: Dimensions | None, names: Sequence[str], sizes: Mapping[str, int]) -> Dimensions | None:
    """``dimensions`` where those that are open and have a name in ``sizes`` have that size."""
    if dimensions is None:
        return None
    return tuple(sizes.get(name) if d is None else d for d, name in zip(dimensions, names, strict=True))


def _filled(
    path: Path,
    name: str,
    dimensions: Dimensions | None,
    batch: int,
    asked: tuple[int, ...] | None,
    *,
    required: bool,
) -> tuple[int, ...]:
    """The sizes of an input: those of the file, then those given; the first is the batch."""
    if dimensions is None:
        if asked is None:
            raise InvalidInput(f"{path}: the input {name} has no shape; give --input-shape")
        return asked
    if asked is not None and (
        len(asked) != len(dimensions)
        or any(d is not None and d != g for d, g in zip(dimensions[1:], asked[1:], strict=True))
    ):
        if required:
            raise InvalidInput(f"{path}: the input {name} has the shape {_text(dimensions)}, not {asked}")
        asked = None
    if asked is not None:
        return asked
    sizes = tuple(batch if d is None and i == 0 else d for i, d in enumerate(dimensions))
    if any(size is None for size in sizes):
        raise InvalidInput(f"{path}: the input {name} has open sizes, {_text(dimensions)}; give --input-shape")
    return tuple(size for size in sizes if size is not None)


def _text(dimensions: Dimensions) -> str:
    return "(" + ", ".join("?" if d is None else str(d) for d in dimensions) + ")"


def inputs_of_shapes(path: Path, shapes: Sequence[tuple[int, ...]], seed: int = 0) -> tuple[Tensor, ...] | None:
    """One tensor of each of ``shapes`` for the inputs of the file, as :func:`random_inputs` makes them.

    None where the file has not as many inputs. Raises InvalidInput where it is not readable, or they are too large.
    """
    model = parse(path)
    return random_inputs(path, model, shapes, seed) if len(graph_inputs(model)) == len(shapes) else None


def random_inputs(
    path: Path, model: ModelProto, shapes: Sequence[tuple[int, ...]], seed: int, largest: int = 1
) -> tuple[Tensor, ...]:
    """A tensor of each shape for the inputs of ``model``: standard normal, or integers from 0 on.

    Integers that choose from a table of the file are any that it has; others are 0 to ``largest``. Inputs of half
    precision are float32 tensors of values that it has.

    Raises:
        InvalidInput: they would take more memory than a file may ask for.
    """
    generator = torch.Generator().manual_seed(seed)
    declared = graph_inputs(model)
    taken = sum(math.prod(shape) * torch.empty(0, dtype=_own(element)).element_size() for shape, (_, element, _) in zip(
        shapes, declared, strict=True
    ))  # fmt: skip
    require_memory(taken, f"{path}: its inputs of shape {', '.join(map(str, shapes))}")
    ends = table_sizes(model)
    made = []
    for shape, (name, element, _) in zip(shapes, declared, strict=True):
        dtype = _own(element)
        if dtype.is_floating_point:
            random = torch.randn(shape, generator=generator).to(dtype)
            made.append(random.float() if element in HALVES else random)
        else:
            end = 2 if dtype == torch.bool else min(ends.get(name, largest + 1), torch.iinfo(dtype).max + 1)
            made.append(torch.randint(0, end, shape, generator=generator).to(dtype))
    return tuple(made)


def _own(element: int) -> torch.dtype:
    return DTYPES.get(element, torch.float32)


def table_sizes(model: ModelProto) -> dict[str, int]:
    """For every input whose integers choose from tables of ``model``, as tokens do, how many all of these have."""
    graph = model.graph
    sizes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    numbers = {t.name: t for t in graph.initializer if math.prod(t.dims) == 1}
    for node in graph.node:
        for attribute in node.attribute if node.op_type == "Constant" and node.output else ():
            if attribute.HasField("t"):
                sizes[node.output[0]] = tuple(attribute.t.dims)
                if math.prod(attribute.t.dims) == 1:
                    numbers[node.output[0]] = attribute.t
    producers = {name: node for node in graph.node for name in node.output if name}
    inputs = {name for name, element, _ in graph_inputs(model) if not _own(element).is_floating_point}
    ends: dict[str, int] = {}
    for node in graph.node:
        if node.op_type not in ("Gather", "GatherElements") or len(node.input) < 2 or node.input[0] not in sizes:
            continue
        table, axis = sizes[node.input[0]], next((a.i for a in node.attribute if a.name == "axis"), 0)
        if not -len(table) <= axis < len(table):
            continue
        waiting, seen = [(node.input[1], table[axis])], set()
        while waiting:
            name, end = waiting.pop()
            if name in seen or name not in producers:
                if name in inputs and end > 0:
                    ends[name] = min(end, ends.get(name, end))
                continue
            seen.add(name)
            waiting.extend(_passed(producers[name], end, numbers))
    return ends


def _passed(node: NodeProto, end: int, numbers: Mapping[str, TensorProto]) -> list[tuple[str, int]]:
    """The inputs of a node whose integers come out of it, and where these must end for its own to end at ``end``."""
    if node.op_type in _PASSES:
        return [(node.input[0], end)]
    if node.op_type == "Concat":
        return [(name, end) for name in node.input]
    if node.op_type in ("Add", "Sub") and len(node.input) == 2:
        for value, shift in (tuple(node.input), tuple(reversed(node.input))):
            if shift in numbers and (node.op_type == "Add" or shift == node.input[1]):
                added = int(numpy_helper.to_array(numbers[shift]).reshape(-1)[0])
                return [(value, end - added if node.op_type == "Add" else end + added)]
    return []
