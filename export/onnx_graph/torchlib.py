"""The translations of ``torch.onnx``, read once for all files of a process.

``torch.onnx.export`` parses the source of some five hundred functions anew for each file that it writes: about a
second, which is most of what a small network takes.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.onnx._internal.exporter._registration import ONNXRegistry

_from_torchlib = ONNXRegistry.from_torchlib


@contextmanager
def read_once() -> Iterator[None]:
    """Let ``torch.onnx`` begin with a copy of the translations that it read first."""
    replaced: Any = ONNXRegistry
    before = vars(ONNXRegistry)["from_torchlib"]
    replaced.from_torchlib = staticmethod(_copied)
    try:
        yield
    finally:
        replaced.from_torchlib = before


@functools.cache
def _read(**options: int) -> ONNXRegistry:
    return _from_torchlib(**options)


def _copied(**options: int) -> ONNXRegistry:
    """A registry of its own: what one export adds to it is in no other."""
    kept = _read(**options)
    made = copy.copy(kept)
    made.functions = {operation: list(found) for operation, found in kept.functions.items()}
    return made
