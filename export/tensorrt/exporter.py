"""TensorRT 10 and 11: an engine, built on the device that runs it.

The network is converted to ONNX in the target ``tensorrt`` and held against TensorRT's rules; what breaks one is told
before anything is built. The network is strongly typed: the file alone decides what is computed in int8, float16 or
float32. Unproven: no GPU has built an engine with this yet; it is tested with an imitation of the documented API
(https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/python-api/), and the code that it shares with
`export.tensorrt_rtx` with NVIDIA's builder.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import tensorrt as trt

from compress.errors import PackageMissing
from compress.files.outputs import new_files
from compress.siblings import runtimes

from ..format import Exported, Job
from .builder import Built, Wishes, built
from .engine_file import engine_of

TITLE = "TensorRT"
SUFFIX = ".engine"
ENGINE = "tensorrt"
TARGETS = ("tensorrt",)
PORTABLE = False
DLA = True
INSTALL = (
    "pip install tensorrt on the device with the GPU (a Jetson has it from JetPack); or write ONNX with --target "
    "tensorrt and run there: trtexec --onnx=NET.onnx --saveEngine=NET.engine --stronglyTyped"
)

TIMING_CACHE = "tensorrt.timing_cache"
"""Beside the engine: how fast which kernel was on this device, so that the next build is shorter."""

OLDEST_MAJOR = 10
_LIBRARY = runtimes.tensorrt.library.Library(trt, TITLE)


def export(job: Job, path: Path) -> Exported:
    """The account of the engine that was built and written to ``path``.

    An open batch is built for 1 to `LARGEST_BATCH` samples, fastest at the example's.

    Raises:
        InvalidInput: the network cannot be converted, TensorRT's parser refuses it, or integers are asked for at its
            inputs.
        GateFailed: a tensor breaks a rule of TensorRT, or the build failed.
        PackageMissing: TensorRT is too old, or finds no GPU.
    """
    _require_version(path)
    cache_file = path.parent / TIMING_CACHE
    cache = cache_file.read_bytes() if cache_file.is_file() else b""

    def build(source: Path, wishes: Wishes) -> Built:
        own = replace(wishes, dla_core=job.dla_core, timing_cache=cache)
        return built(lambda: runtimes.tensorrt.builder.build(_LIBRARY, source, own), own, f"export {path}")

    made = engine_of(job, path, build)
    with new_files(path, overwrite=True) as folder:
        (folder / path.name).write_bytes(made.built.engine)
        if made.built.timing_cache:
            (folder / TIMING_CACHE).write_bytes(made.built.timing_cache)
    notes = [*made.notes, *_of_accelerator(job.dla_core, made.built.on_gpu)]
    notes.append("built for this GPU and this TensorRT alone")
    return Exported(
        path, "tensorrt", len(made.built.engine), inputs=made.inputs, outputs=made.outputs, notes=tuple(notes)
    )


def _of_accelerator(core: int | None, on_gpu: tuple[str, ...]) -> list[str]:
    """What runs where, if a deep learning accelerator was asked for."""
    if core is None:
        return []
    fallback = f"{len(on_gpu)} layers fall back to the GPU: {', '.join(on_gpu)}" if on_gpu else "no layer falls back"
    return [f"core {core} of the deep learning accelerator; {fallback}"]


def _require_version(path: Path) -> None:
    if int(_LIBRARY.version.partition(".")[0]) < OLDEST_MAJOR:
        raise PackageMissing(
            f"export {path}: {_LIBRARY} is too old: expected {OLDEST_MAJOR} or newer, whose networks are strongly "
            f"typed; on a Jetson install JetPack 6"
        )
