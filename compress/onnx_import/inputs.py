"""Random inputs for the network of a file."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..errors import InvalidInput
from .read import Dimensions, graph_inputs, parse
from .step import DTYPES


def example_inputs_of(
    path: Path, batch: int = 1, *, input_shape: tuple[int, ...] | None = None, seed: int = 0
) -> tuple[Tensor, ...]:
    """One random tensor per input of the file: standard normal, or 0 and 1 for integers.

    Args:
        batch: the first dimension, where the file leaves it open.
        input_shape: with its batch; overrides the shape of the first input, and fills open sizes of the others that
            have as many dimensions.

    Raises:
        InvalidInput: the file is not readable, leaves other sizes open, or fixes sizes other than those given.
    """
    shapes = []
    for number, (name, element, dimensions) in enumerate(graph_inputs(parse(path))):
        given = input_shape if number == 0 or (dimensions and len(dimensions) == len(input_shape or ())) else None
        shapes.append((_filled(path, name, dimensions, batch, given, required=number == 0), element))
    return random_inputs(shapes, seed)


def _filled(
    path: Path,
    name: str,
    dimensions: Dimensions | None,
    batch: int,
    given: tuple[int, ...] | None,
    *,
    required: bool,
) -> tuple[int, ...]:
    """The sizes of an input: those of the file, then those given; the first is the batch."""
    if dimensions is None:
        if given is None:
            raise InvalidInput(f"{path}: the input {name} has no shape; give --input-shape")
        return given
    if given is not None and (
        len(given) != len(dimensions)
        or any(d is not None and d != g for d, g in zip(dimensions[1:], given[1:], strict=True))
    ):
        if required:
            raise InvalidInput(f"{path}: the input {name} has the shape {_text(dimensions)}, not {given}")
        given = None
    if given is not None:
        return given
    sizes = tuple(batch if d is None and i == 0 else d for i, d in enumerate(dimensions))
    if any(size is None for size in sizes):
        raise InvalidInput(f"{path}: the input {name} has open sizes, {_text(dimensions)}; give --input-shape")
    return tuple(size for size in sizes if size is not None)


def _text(dimensions: Dimensions) -> str:
    return "(" + ", ".join("?" if d is None else str(d) for d in dimensions) + ")"


def random_inputs(shapes: list[tuple[tuple[int, ...], int]], seed: int) -> tuple[Tensor, ...]:
    """A tensor for each shape and ONNX element type: standard normal, or 0 and 1 for integers."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for shape, element in shapes:
        dtype = DTYPES.get(element, torch.float32)
        random = (
            torch.randn(shape, generator=generator)
            if dtype.is_floating_point
            else torch.randint(0, 2, shape, generator=generator)
        )
        made.append(random.to(dtype))
    return tuple(made)
