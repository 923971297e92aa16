"""TensorRT 10 and 11 on an NVIDIA GPU: an engine that was built on this device, run with its documented Python API.

Unproven: the bindings install without a GPU, but the library does not, so that only the parts that need neither are
tested, with a small imitation of the API. A run is timed with its copies to the GPU and back. `Options.threads` has no
meaning on a GPU. TensorRT Python API: https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/python-api/.
"""

from __future__ import annotations

from pathlib import Path

import tensorrt as trt

from ..devices.cuda import Cuda
from ..runtime import Options
from ..tensorrt.engines import engine_for
from ..tensorrt.library import Library
from ..tensorrt.session import NotLoaded, Session

TITLE = "TensorRT"
PACKAGE = "tensorrt"
SUFFIXES = (".engine", ".plan")
INSTALL = "pip install tensorrt, on a device with an NVIDIA GPU (a Jetson has it from JetPack)"
UNPROVEN = "no GPU has run it in a test; an imitation of the documented API has"
TARGETS = {
    "tensorrt": {
        "needs_vnni": True,  # where such a file is tried on a CPU
        "beside": ("fp16",),
        "integers": {"activation": "int8", "symmetric": True, "integer_numbers": False, "half_networks": True},
    }
}

_CUDA = Cuda()  # where there is no GPU, this engine cannot be used at all
_LIBRARY = Library(trt, TITLE)


def version() -> str:
    """Return the version of TensorRT."""
    return _LIBRARY.version


def parts(file: Path) -> tuple[Path, ...]:
    """Return the file: an engine is one."""
    return (file,)


def load(file: Path, options: Options) -> Session:  # noqa: ARG001 - a GPU has no threads to count
    """Return the engine in ``file``, with memory for its tensors; raises InvalidModel.

    An ONNX file is built here first; its engine is kept for the next time, and built again where it does not load.
    """
    if file.suffix.lower() != ".onnx":
        return Session(_LIBRARY, _CUDA, file)
    gpu = _CUDA.gpu()
    try:
        return Session(_LIBRARY, _CUDA, engine_for(_LIBRARY, gpu, file))
    except NotLoaded:
        return Session(_LIBRARY, _CUDA, engine_for(_LIBRARY, gpu, file, again=True))
