"""Weights that lie in other files: beside the ONNX file, and as long as it says."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import ModelProto, TensorProto
from onnx.external_data_helper import _get_all_tensors, uses_external_data

from ....errors import InvalidInput, first_line
from ....files.limits import require_memory
from .sound import bytes_of, short


def load_beside(model: ModelProto, path: Path) -> None:
    """Put the weights of ``model`` that lie in other files into it.

    Args:
        path: of the model; its weights lie in the same folder, or below it.

    Raises:
        InvalidInput: a file is missing, lies elsewhere, is no plain file, or is shorter than a tensor in it.
    """
    tensors = [tensor for tensor in _get_all_tensors(model) if uses_external_data(tensor)]
    files: set[Path] = set()
    total = 0
    for tensor in tensors:
        files.add(_require_stored(tensor, path))
        total += bytes_of(tensor)
    stored = sum(file.stat().st_size for file in files)
    if total > stored:  # tensors share their bytes
        require_memory(total - stored, f"{path}: what its tensors repeat of {stored:,} bytes of weights")
    for tensor in tensors:
        try:
            onnx.external_data_helper.load_external_data_for_tensor(tensor, str(path.parent))
        except Exception as error:
            reason = first_line(error)
            raise InvalidInput(f"{path}: the weights {short(tensor.name)} cannot be read: {reason}") from error
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]
        if len(tensor.raw_data) != bytes_of(tensor):
            raise InvalidInput(
                f"{path}: the weights {short(tensor.name)} have {len(tensor.raw_data):,} bytes in their file; expected "
                f"{bytes_of(tensor):,}"
            )


def _require_stored(tensor: TensorProto, path: Path) -> Path:
    """The file of the tensor's bytes, which is there and has them."""
    here = f"{path}: the weights {short(tensor.name)}"
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    folder = path.parent.resolve()
    file = (folder / location).resolve() if "\0" not in location else folder
    if not location or Path(location).is_absolute() or not file.is_relative_to(folder):
        raise InvalidInput(f"{here} lie in {short(location)}; expected a file in the folder of the ONNX file, or below")
    if not file.is_file():
        there = "which is no plain file" if file.exists() else "which is not there; put it beside the ONNX file"
        raise InvalidInput(f"{here} lie in {short(location)}, {there}")
    places = []
    for key, default in (("offset", 0), ("length", bytes_of(tensor))):
        text = entries.get(key, str(default))
        if not (text.isascii() and text.isdigit() and len(text) < 20):
            raise InvalidInput(f"{here} have the {key} {short(text)}; expected a number of bytes")
        places.append(int(text))
    offset, length = places
    size = file.stat().st_size
    if length != bytes_of(tensor) or offset + length > size:
        raise InvalidInput(
            f"{here} are {length:,} bytes from {offset:,} of {short(location)}, which has {size:,}; expected "
            f"{bytes_of(tensor):,} bytes within it: copy or export both files again"
        )
    return file
