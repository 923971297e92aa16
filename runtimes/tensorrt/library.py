"""A library that has TensorRT's Python API, and the little in which one differs from another.

TensorRT Python API: https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/python-api/.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

ERRORS_TOLD = 5
_LAYERS = "Layers:"  # how the message begins in which a builder lists the layers of the engine it made


@dataclass(frozen=True)
class Library:
    """One of TensorRT 10, TensorRT 11 and TensorRT for RTX; what one of them lacks is not asked of it.

    Args:
        api: its module.
        title: its name as its makers spell it.
        ahead_of_time: it builds for kinds of GPUs that are named, with no GPU present, and compiles the kernels where
            the engine runs; else it builds for the GPU that is present, by the times of its kernels there.
    """

    api: Any
    title: str
    ahead_of_time: bool = False

    @property
    def version(self) -> str:
        """Its version, as "10.3.0"."""
        return str(self.api.__version__)

    def __str__(self) -> str:
        return f"{self.title} {self.version}"

    def logger(self) -> Any:
        """An ``ILogger`` that prints nothing and keeps errors (``errors``) and the list of layers (``layers``)."""
        return _logger_type(self.api)()

    def profiler(self) -> Any:
        """An ``IProfiler`` that keeps the durations in ms of each layer, by its name, in ``ms``."""
        return _profiler_type(self.api)()

    def network_flags(self) -> int:
        """Strongly typed: TensorRT 10 has to be told, 11 knows nothing else and may know the flag no more."""
        flag = getattr(self.api.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        return 0 if flag is None else 1 << int(flag)


def first_errors(logger: Any) -> str:
    """The first errors that a logger of :class:`Library` kept, in one line; "" where there are none."""
    return "; ".join(logger.errors[:ERRORS_TOLD])


@functools.cache
def _logger_type(api: Any) -> Any:
    class Logger(api.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            api.ILogger.__init__(self)
            self.errors: list[str] = []
            self.layers: str | None = None

        def log(self, severity: Any, message: str) -> None:
            """Called by TensorRT."""
            if severity in (api.ILogger.Severity.ERROR, api.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(" ".join(message.split()))
            elif message.startswith(_LAYERS):
                self.layers = message

    return Logger


@functools.cache
def _profiler_type(api: Any) -> Any:
    class Profiler(api.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            api.IProfiler.__init__(self)
            self.ms: dict[str, list[float]] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            """Called by TensorRT."""
            self.ms.setdefault(layer_name, []).append(float(ms))

    return Profiler
