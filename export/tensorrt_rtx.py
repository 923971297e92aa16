"""TensorRT for RTX: an engine for kinds of GPUs that are named, built on any x86-64 machine, with or without a GPU.

The ONNX file is that of the target ``tensorrt``, and so are its rules. NVIDIA's parser and builder need no GPU; where
the engine is first loaded, its kernels are compiled for the GPU that is there. TensorRT for RTX:
https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import tensorrt_rtx_bindings as trt

from compress.files.outputs import new_files
from compress.siblings import runtimes

from .format import Exported, Job, Trial
from .tensorrt import trial
from .tensorrt.builder import Built, Wishes, built
from .tensorrt.engine_file import engine_of

TITLE = "TensorRT for RTX"
SUFFIX = ".rtx.engine"
ENGINE = "tensorrt-rtx"
TARGETS = ("tensorrt",)
PORTABLE = False
INSTALL = "pip install edgepress[tensorrt-rtx]"
GPUS = {
    "sm75": "Turing (RTX 20)",
    "sm80": "Ampere (A100)",
    "sm86": "Ampere (RTX 30)",
    "sm89": "Ada (RTX 40)",
    "sm120": "Blackwell (RTX 50)",
    "sm121": "Blackwell (GB10)",
}

NEWEST = ("sm80", "sm86", "sm89", "sm120", "sm121")
"""The kinds that an engine is built for where none is named: Turing has no product of two float32 matrices."""

LIBRARY = runtimes.tensorrt.library.Library(trt, TITLE, ahead_of_time=True)


def export(job: Job, path: Path) -> Exported:
    """The account of the engine that was built for ``job.gpus``, or for all from Ampere on, and written to ``path``.

    Raises:
        InvalidInput: the network cannot be converted, NVIDIA's parser refuses it, or integers are asked for at its
            inputs.
        GateFailed: a tensor breaks a rule of TensorRT, or the build failed.
    """
    gpus = job.gpus or NEWEST

    def build(source: Path, wishes: Wishes) -> Built:
        own = replace(wishes, gpus=gpus)
        return built(lambda: runtimes.tensorrt.apart.build_apart(LIBRARY, source, own), own, f"export {path}")

    made = engine_of(job, path, build)
    with new_files(path, overwrite=True) as folder:
        (folder / path.name).write_bytes(made.built.engine)
    return Exported(
        path,
        "tensorrt-rtx",
        len(made.built.engine),
        inputs=made.inputs,
        outputs=made.outputs,
        notes=(*made.notes, f"built for {', '.join(gpus)} and {LIBRARY} alone; its kernels are compiled when it loads"),
    )


def try_build(file: Path, shapes: Sequence[tuple[int, ...]], gpus: tuple[str, ...]) -> Trial:
    """What NVIDIA's parser and builder make of an ONNX file; see :func:`export.tensorrt.trial.try_build`."""
    return trial.try_build(LIBRARY, file, shapes, gpus or NEWEST)
