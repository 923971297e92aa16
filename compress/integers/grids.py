"""Scales and encodings, both ways: the grid that an engine derives from an encoding, and the encoding of a grid."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..graph import Graph
from .encoding import Encoding, IntegerParameters
from .placement import IntegerLayer
from .target import Target


def weight_grids(
    graph: Graph, products: Iterable[IntegerLayer], encodings: Mapping[str, Encoding], engine: Target
) -> dict[str, IntegerParameters]:
    """The integers and scales that ``engine`` deploys for each weight in integers, by name.

    An engine may raise the scale of a channel so that its bias fits; a weight that several layers read gets the
    largest of their scales, so that all of them round it alike.
    """
    grids: dict[str, IntegerParameters] = {}
    for product in products:
        encoding, read = encodings[product.weight], encodings.get(product.read)
        if encoding.kind != "integer":
            continue
        bias = graph.tensor(product.bias_node) if engine.rounds_bias(read) else None
        found = engine.weight_parameters(
            encoding,
            None if read is None else float(engine.activation_parameters(read).scale),
            None if bias is None else bias.detach().float().cpu().numpy(),
        )
        known = grids.get(product.weight)
        if known is not None:
            found = replace(found, scale=np.maximum(found.scale, known.scale))
        grids[product.weight] = found
    return grids


def scale_for(grid: IntegerParameters, weight: Tensor) -> Tensor:
    """The scales of ``grid`` in a shape to multiply ``weight`` (out, ...) by: (out, 1, ...), or its own with blocks."""
    scale = torch.from_numpy(grid.scale).to(weight.device)
    if grid.block is None:
        return scale.view(-1, *(1 for _ in weight.shape[1:]))
    return scale.view(weight.shape[0], -1).repeat_interleave(grid.block, 1)[:, : weight.shape[1]]


def encoding_of(grid: IntegerParameters, like: Encoding, derive: Callable[[Encoding], IntegerParameters]) -> Encoding:
    """``like`` with the range for which ``derive`` gives the scale and zero point of ``grid``, exactly in float32.

    The ends are integers times a float32, which float64 holds exactly, so that the division gives the scale back. A
    symmetric range may not end where its integers do: the one that reaches as far on both sides is tried second.
    """
    scale = np.atleast_1d(np.asarray(grid.scale, np.float64))
    zero = np.atleast_1d(grid.zero_point)
    top = (grid.high - zero) * scale
    for low in ((grid.low - zero) * scale, -top):
        found = replace(like, low=tuple(low.tolist()), high=tuple(top.tolist()))
        back = derive(found)
        if np.array_equal(back.scale, grid.scale) and np.array_equal(back.zero_point, grid.zero_point):
            return found
    raise AssertionError(f"no range has the scale {grid.scale} and the zero point {grid.zero_point}")


def settled(
    graph: Graph, products: Iterable[IntegerLayer], encodings: Mapping[str, Encoding], engine: Target
) -> dict[str, Encoding]:
    """``encodings`` where the range of a weight alone gives the scales that ``engine`` deploys, be they raised."""
    found = dict(encodings)
    products = tuple(products)
    for name, grid in weight_grids(graph, products, encodings, engine).items():
        read = any(product.read in encodings for product in products if product.weight == name)

        def derive(encoding: Encoding, input_scale: float | None = 1.0 if read else None) -> IntegerParameters:
            return engine.weight_parameters(encoding, input_scale)

        if engine.per_channel and not np.array_equal(derive(encodings[name]).scale, grid.scale):
            found[name] = encoding_of(grid, encodings[name], derive)
    return found
