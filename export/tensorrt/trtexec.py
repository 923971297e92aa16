"""TensorRT's own command line, trtexec: how an ONNX file is built with it on the device."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path

import onnx

from compress.siblings import runtimes

LARGEST_BATCH = runtimes.tensorrt.builder.LARGEST_BATCH

Profile = runtimes.tensorrt.builder.Profile


def profiles(model: onnx.ModelProto, shapes: Iterable[tuple[int, ...]]) -> dict[str, Profile]:
    """The shapes to build for, by name of each input that has an open dimension; ``shapes`` are those of examples.

    An open batch is built for 1 up to `LARGEST_BATCH` samples, other open dimensions for the example's size alone.
    """
    by_input: dict[str, Profile] = {}
    for value, shape in zip(model.graph.input, shapes, strict=True):
        dims = value.type.tensor_type.shape.dim
        open_ = [not dim.HasField("dim_value") for dim in dims]
        if not any(open_):
            continue
        best = tuple(given if free else dim.dim_value for given, free, dim in zip(shape, open_, dims, strict=True))
        least = (1 if open_[0] else best[0], *best[1:])
        most = (max(best[0], LARGEST_BATCH) if open_[0] else best[0], *best[1:])
        by_input[value.name] = Profile(least, best, most)
    return by_input


def command(source: Path | str, engine: Path | str, shapes: Mapping[str, Profile], dla_core: int | None = None) -> str:
    """The line that builds ``engine`` from the ONNX file ``source``, in TensorRT 10 and 11.

    Networks are strongly typed: the file says what is computed in int8 and float16. TensorRT 11 knows nothing else and
    takes the option all the same; there are no --int8 and --fp16 beside it.

    >>> command("net.onnx", "net.engine", {})
    'trtexec --onnx=net.onnx --saveEngine=net.engine --stronglyTyped --profilingVerbosity=detailed'
    """
    words = [
        "trtexec",
        f"--onnx={source}",
        f"--saveEngine={engine}",
        "--stronglyTyped",
        "--profilingVerbosity=detailed",
    ]
    if dla_core is not None:
        words += [f"--useDLACore={dla_core}", "--allowGPUFallback"]
    for option, part in (("minShapes", "least"), ("optShapes", "best"), ("maxShapes", "most")):
        told = [f"{name}:{'x'.join(map(str, getattr(profile, part)))}" for name, profile in shapes.items()]
        if told:
            words.append(f"--{option}={','.join(told)}")
    return " ".join(shlex.quote(word) for word in words)
