"""What a file must keep to, as :mod:`runtimes.onnx_sound` looks at it; what it refuses is an InvalidInput here."""

from __future__ import annotations

from collections.abc import Callable

from onnx import ModelProto, NodeProto, TensorProto

from ..errors import InvalidInput
from ..siblings import sibling

_shared = sibling("runtimes.onnx_sound")

cut: Callable[[str], str] = _shared.cut
short: Callable[[str], str] = _shared.short
called: Callable[[NodeProto, int], str] = _shared.called
type_name: Callable[[int], str] = _shared.type_name
bytes_of: Callable[[TensorProto], int] = _shared.bytes_of


def require_sound(model: ModelProto, where: str) -> None:
    """Raise InvalidInput, beginning with ``where``, at the first point that the file does not keep to."""
    try:
        _shared.require_sound(model, where)
    except _shared.InvalidModel as error:
        raise InvalidInput(str(error)) from error
