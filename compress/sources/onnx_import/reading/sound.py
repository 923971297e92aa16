"""What a file must keep to, as :mod:`runtimes.files.onnx_sound` looks at it; what it refuses is InvalidInput here."""

from __future__ import annotations

from collections.abc import Callable

from onnx import ModelProto, NodeProto, TensorProto

from ....errors import InvalidInput
from ....siblings import runtimes

cut: Callable[[str], str] = runtimes.files.onnx_sound.cut
short: Callable[[str], str] = runtimes.files.onnx_sound.short
called: Callable[[NodeProto, int], str] = runtimes.files.onnx_sound.called
type_name: Callable[[int], str] = runtimes.files.onnx_sound.type_name
bytes_of: Callable[[TensorProto], int] = runtimes.files.onnx_sound.bytes_of


def require_sound(model: ModelProto, where: str) -> None:
    """Raise InvalidInput, beginning with ``where``, at the first point that the file does not keep to."""
    try:
        runtimes.files.onnx_sound.require_sound(model, where)
    except runtimes.errors.InvalidModel as error:
        raise InvalidInput(str(error)) from error
