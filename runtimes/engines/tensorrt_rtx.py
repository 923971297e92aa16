"""TensorRT for RTX: an engine that was built ahead of time for kinds of GPUs, run on one of them.

The first load compiles the kernels for the GPU that is there. Unproven: loading an engine needs a CUDA driver; what
builds engines needs none and is tested (`export.tensorrt_rtx`). TensorRT for RTX:
https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/.
"""

from __future__ import annotations

from pathlib import Path

import tensorrt_rtx_bindings as trt

from ..devices.cuda import Cuda
from ..runtime import Options
from ..tensorrt.library import Library
from ..tensorrt.session import Session

TITLE = "TensorRT for RTX"
PACKAGE = "tensorrt_rtx_bindings"
SUFFIXES = (".rtx.engine",)
INSTALL = "pip install edgepress[tensorrt-rtx] nvidia-cuda-runtime-cu12, on a machine with an NVIDIA GPU and its driver"
UNPROVEN = "engines are built by NVIDIA's builder in tests, but no GPU has run one"

_CUDA = Cuda()  # where there is no GPU, this engine cannot be used at all
_LIBRARY = Library(trt, TITLE, ahead_of_time=True)


def version() -> str:
    """Return the version of TensorRT for RTX."""
    return _LIBRARY.version


def parts(file: Path) -> tuple[Path, ...]:
    """Return the file: an engine is one."""
    return (file,)


def load(file: Path, options: Options) -> Session:  # noqa: ARG001 - a GPU has no threads to count
    """Return the engine in ``file``, with memory for its tensors; raises InvalidModel."""
    return Session(_LIBRARY, _CUDA, file)
