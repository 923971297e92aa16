"""Preprocessing as a part of the network: a file that takes stored pixels needs no scaling code on the device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .data import Preprocessing
from .errors import InvalidInput
from .graph.interface import told_by
from .graph.trace import Graph, trace
from .quantize import Encoding
from .sources.load import Network


class Preprocessed(nn.Module):
    """``network`` behind its preprocessing: stored pixels (N, C, H, W), as floats, in; the network's outputs out."""

    factor: Tensor
    offset: Tensor

    def __init__(self, network: nn.Module, preprocessing: Preprocessing, channels: int) -> None:
        super().__init__()
        std = torch.tensor(preprocessing.std or (1.0,)).expand(channels)
        mean = torch.tensor(preprocessing.mean or (0.0,)).expand(channels)
        self.network = network
        self.register_buffer("factor", (preprocessing.scale / std).reshape(1, -1, 1, 1))
        self.register_buffer("offset", (-mean / std).reshape(1, -1, 1, 1))

        self.input_names = told_by(network, "input_names")
        self.output_names = told_by(network, "output_names")

    def forward(self, pixels: Tensor) -> Tensor:
        return self.network(pixels * self.factor + self.offset)  # type: ignore[no-any-return]

    def pixels(self, x: Tensor) -> Tensor:
        """The pixels that become ``x`` (N, C, H, W)."""
        return (x - self.offset) / self.factor


def bake(network: Network, preprocessing: Callable[[Any], Any]) -> Network:
    """The same network taking pixels as ``preprocessing`` gets them; its encodings stay those of the same tensors.

    Raises:
        InvalidInput: it has several inputs, or its input is no image.
    """
    inputs = network.example_inputs
    if not isinstance(preprocessing, Preprocessing) or len(inputs) != 1 or inputs[0].ndim != 4:
        shapes = ", ".join(str(tuple(x.shape)) for x in inputs)
        raise InvalidInput(f"preprocessing: it is for one input (N, C, H, W); the network takes {shapes}")
    (x,) = inputs
    model = Preprocessed(network.model, preprocessing, x.shape[1]).eval()
    inputs = (model.pixels(x),)
    encodings = network.encodings
    if encodings:
        before = trace(network.model, network.example_inputs, dynamic_batch=True)
        encodings = _renamed(dict(encodings), before, trace(model, inputs, dynamic_batch=True))
    return replace(network, model=model, example_inputs=inputs, encodings=encodings)


def _renamed(encodings: dict[str, Encoding], before: Graph, after: Graph) -> dict[str, Encoding]:
    """The encodings under the names of the trace ``after``, which has two operations more, in front."""
    behind = [node.name for node in after.calls()]
    (product,) = after.inputs[0].users
    (normalized,) = product.users
    behind = [name for name in behind if name not in (product.name, normalized.name)]
    names = dict(zip((node.name for node in before.calls()), behind, strict=True))
    names[before.inputs[0].name] = normalized.name
    # Values inside of a decomposed activation are named after it.
    suffixed = {
        f"{old}{part}": f"{new}{part}" for old, new in names.items() for part in ("_gate", "_shifted", "_scaled")
    }
    names = {**suffixed, **names}
    return {names.get(name, f"network.{name}"): encoding for name, encoding in encodings.items()}
