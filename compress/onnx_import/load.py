"""From the path of an ONNX file to its network."""

from __future__ import annotations

from pathlib import Path

import onnx

from ..errors import InvalidInput
from .build import Builder
from .network import OnnxNetwork
from .read import first_line, read
from .verify import compare, session_of


def load_onnx(path: Path, *, input_shape: tuple[int, ...] | None = None, verify: bool = True) -> OnnxNetwork:
    """The network of the file, in evaluation mode, with the weights that the file holds.

    Nothing in the file is executed: its nodes are looked up in a table of operators.

    Args:
        input_shape: the shape that ``verify`` runs on, where the file leaves sizes open; else common sizes are tried.
        verify: compare with ONNX Runtime on a random input.

    Raises:
        InvalidInput: not a readable ONNX file, quantized already, operators without a counterpart (all are named), or
            outputs that differ from ONNX Runtime's by more than 1e-4 of their largest value.
    """
    model = read(path)
    session = session_of(path) if verify else None
    if session is None:
        try:
            onnx.checker.check_model(str(path))
        except Exception as error:
            raise InvalidInput(f"{path}: not a valid ONNX file: {first_line(error)}") from error
    network = Builder(path, model).build()
    if session is not None:
        compare(path, network, session, input_shape)
    return network
