"""From the path of an ONNX file to its network."""

from __future__ import annotations

import logging
from pathlib import Path

from .branches import settle
from .build import Builder
from .inputs import given_sizes
from .network import OnnxNetwork
from .reading.half import to_single
from .reading.read import read, require_supported
from .verify import compare

_LOG = logging.getLogger(__name__)


def load_onnx(
    path: Path, *, input_shape: tuple[int, ...] | None = None, verify: bool = True, largest: int = 1
) -> OnnxNetwork:
    """The network of the file, in evaluation mode, with the weights that the file holds.

    Nothing in the file is executed: its nodes are looked up in a table of operators.

    Args:
        input_shape: the shape that ``verify`` runs on, where the file leaves sizes open; else common sizes are tried.
        verify: compare with ONNX Runtime on a random input.
        largest: integer that inputs of integers take in that comparison, where they choose from no table of the file.

    Raises:
        InvalidInput: not a readable ONNX file, quantized already, operators without a counterpart (all are named), or
            outputs that differ from ONNX Runtime's by more than 1e-4 of their largest value (2e-2 where the file
            computes in half precision, which is imported as float32).
    """
    model = read(path)
    halves = to_single(model)
    if halves:
        _LOG.warning("%s: computes in %s; it is imported as float32", path, " and ".join(halves))
    sizes = {} if input_shape is None else given_sizes(model, input_shape)
    settle(model, sizes)
    require_supported(model, path)
    network = Builder(path, model).build()
    if verify:
        compare(path, model, halves, network, input_shape, largest)
    return network
