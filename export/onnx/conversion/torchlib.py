"""The translations of ``torch.onnx``, read once for all files of a process.

``torch.onnx.export`` parses the source of some five hundred functions anew for each file that it writes, and asks torch
again and again for all the operations that it has: about a second, which is most of what a small network takes. Both
are torch's own affair: where another version of it keeps them elsewhere, files are written as it does by itself.
"""

from __future__ import annotations

import copy
import functools
import importlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any


@contextmanager
def read_once() -> Iterator[None]:
    """Let ``torch.onnx`` begin with a copy of the translations that it read first, and look for operations once."""
    registry = _attribute("torch.onnx._internal.exporter._registration", "ONNXRegistry")
    operations = _attribute("torch._export.utils", "_materialize_cpp_cia_ops")
    with ExitStack() as stack:
        if isinstance(vars(registry).get("from_torchlib") if registry else None, (classmethod, staticmethod)):
            copies = functools.partial(_copied, registry.from_torchlib)
            stack.enter_context(_replaced(registry, "from_torchlib", staticmethod(copies)))
        if operations is not None:  # it makes what exists known by name, and nothing is added while a file is written
            module = importlib.import_module("torch._export.utils")
            stack.enter_context(_replaced(module, operations.__name__, functools.cache(operations)))
        yield


def _attribute(module: str, name: str) -> Any:
    """What torch keeps under this name; None in a version that does not."""
    try:
        return getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None


@contextmanager
def _replaced(owner: Any, name: str, value: object) -> Iterator[None]:
    before = vars(owner)[name]
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@functools.cache
def _read(read: Any, **options: int) -> Any:
    """What ``read`` returns. Only the domain of each function is asked for there, which needs none of its source."""
    traced = _attribute("onnxscript.values", "TracedOnnxFunction")
    whole = vars(traced).get("function_ir") if traced else None
    if not isinstance(whole, property):
        return read(**options)
    with _replaced(traced, "function_ir", property(lambda function: _Outline(function, whole))):
        return read(**options)


class _Outline:
    """What onnxscript reads from a function's source: its domain is known without, all else is parsed if asked for."""

    def __init__(self, function: Any, whole: property) -> None:
        self._function, self._whole = function, whole

    @property
    def domain(self) -> str:
        return str(self._function.opset.domain)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole.__get__(self._function), name)


def _copied(read: Any, **options: int) -> Any:
    """A registry of its own: what one export adds to it is in no other."""
    library = _read(read, **options)
    if not isinstance(getattr(library, "functions", None), dict):
        return read(**options)
    made = copy.copy(library)
    made.functions = {operation: list(functions) for operation, functions in library.functions.items()}
    return made
