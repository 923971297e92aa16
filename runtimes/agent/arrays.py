"""Arrays in the body of a frame: one ``.npy`` after the other, numbers only; what is declared is held to what came."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .wire import WireError

Array = NDArray[Any]

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_HEADER_CHARACTERS = 10_000
_MOST_DIMENSIONS = 32


def packed(arrays: Mapping[str, Array]) -> tuple[list[list[Any]], bytes]:
    """Return the name and the bytes of each array, and all of them one after the other."""
    index, body = [], io.BytesIO()
    for name, array in arrays.items():
        start = body.tell()
        np.lib.format.write_array(body, np.asarray(array, order="C"), allow_pickle=False)
        index.append([name, body.tell() - start])
    return index, body.getvalue()


def unpacked(index: Sequence[Any], body: bytes) -> dict[str, Array]:
    """Return the arrays that `packed` gave, in this machine's byte order.

    Raises:
        WireError: they are none, hold objects, or are larger than what came.
    """
    try:
        places = [(str(name), int(count)) for name, count in index]
    except (TypeError, ValueError):
        raise WireError("the names of arrays are none") from None
    if any(count < 0 for _, count in places) or sum(count for _, count in places) != len(body):
        raise WireError("arrays have other lengths than what came")
    if len(dict(places)) < len(places):
        raise WireError("two arrays have one name")
    arrays, start = {}, 0
    for name, count in places:
        arrays[name] = _array(body[start : start + count], name)
        start += count
    return arrays


def _array(data: bytes, name: str) -> Array:
    file = io.BytesIO(data)
    try:
        read = _HEADERS[np.lib.format.read_magic(file)]
        shape, is_fortran, dtype = read(file, max_header_size=_HEADER_CHARACTERS)
    except Exception as error:  # noqa: BLE001 - a damaged header fails in many ways
        raise WireError(f"the array {name[:80]!r} is none: {str(error)[:200]}") from None
    if dtype.hasobject or dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise WireError(f"the array {name[:80]!r} is of the type {dtype}; expected numbers")
    whole = len(shape) <= _MOST_DIMENSIONS and all(type(length) is int and length >= 0 for length in shape)
    if not whole or math.prod(shape) * dtype.itemsize != len(data) - file.tell():
        raise WireError(f"the array {name[:80]!r} is not as large as it says")
    flat = np.frombuffer(bytearray(data[file.tell() :]), dtype)
    array = flat.reshape(shape, order="F" if is_fortran else "C")
    return array.astype(dtype.newbyteorder("="), copy=False)
