"""What can be said of encodings before anything is converted."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from compress.errors import InvalidInput
from compress.integers.encoding import Encoding


def require_whole_blocks(model: nn.Module, encodings: Mapping[str, Encoding], target: str) -> None:
    """Refuse weights whose last block is shorter than the others: the readers of OpenVINO and TensorRT divide evenly.

    Raises:
        InvalidInput: there is such a weight.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    for name, encoding in encodings.items():
        features = shapes[name][-1] if name in shapes else 0
        if encoding.block is not None and features % encoding.block:
            raise InvalidInput(
                f"target {target}: {name} has {features} features, no multiple of its blocks of {encoding.block}, and "
                f"the engine reads whole blocks only; quantize with --scheme w8, or exclude {name.rpartition('.')[0]}"
            )
