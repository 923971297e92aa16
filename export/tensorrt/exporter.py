"""TensorRT 10 and 11: an engine, built on the device that runs it.

The network is converted to ONNX in the target ``tensorrt`` and held against TensorRT's rules; what breaks one is told
before anything is built. The network is strongly typed: the file alone decides what is computed in int8, float16 or
float32. Unproven: no GPU has built an engine with this yet; it is tested with an imitation of the documented API
(https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/python-api/).
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import tensorrt as trt

from compress.errors import GateFailed, InvalidInput, PackageMissing
from compress.files.outputs import new_files

from .. import rules
from ..format import Exported, Job
from ..onnx.exporter import for_conversion as write_onnx
from ..rules.encodings import require_whole_blocks
from .trtexec import WORKSPACE_MEGABYTES, Profile, command, profiles

TITLE = "TensorRT"
SUFFIX = ".engine"
ENGINE = "tensorrt"
TARGETS = ("tensorrt",)
PORTABLE = False
INSTALL = (
    "pip install tensorrt on the device with the GPU (a Jetson has it from JetPack); or write ONNX with --target "
    "tensorrt and run there: trtexec --onnx=NET.onnx --saveEngine=NET.engine --stronglyTyped"
)

TIMING_CACHE = "tensorrt.timing_cache"
"""Beside the engine: how fast which kernel was on this device, so that the next build is shorter."""

OLDEST_MAJOR = 10
ERRORS_TOLD = 5


def export(job: Job, path: Path) -> Exported:
    """The account of the engine that was built and written to ``path``.

    An open batch is built for 1 to `LARGEST_BATCH` samples, fastest at the example's.

    Raises:
        InvalidInput: the network cannot be converted, TensorRT's parser refuses it, or integers are asked for at its
            inputs.
        GateFailed: a tensor breaks a rule of TensorRT, or the build failed.
        PackageMissing: TensorRT is too old, or finds no GPU.
    """
    if job.interface != "float32":
        raise InvalidInput(f"export {path}: TensorRT quantizes inputs by itself; leave --interface out")
    require_whole_blocks(job.model, job.encodings, job.target)
    _require_version(path)
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "network.onnx"
        written = write_onnx(replace(job, labels=(), metadata={}, dynamic_size=False), source)
        notes = [*written.notes, *rules.require(source, job.target, path)]
        model = onnx.load(str(source))
    taken = [tuple(x.shape) for x in job.example_inputs]
    if job.layout == "nhwc":
        taken = [(s[0], s[2], s[3], s[1]) if len(s) == 4 else s for s in taken]
    shapes = profiles(model, taken)
    cache_file = path.parent / TIMING_CACHE
    cache = cache_file.read_bytes() if cache_file.is_file() else b""
    built, cache = build(model.SerializeToString(), shapes, path, cache)
    with new_files(path, overwrite=True) as folder:
        (folder / path.name).write_bytes(built)
        if cache:
            (folder / TIMING_CACHE).write_bytes(cache)
    if job.labels or job.metadata:
        notes.append("labels and metadata: an engine has no place for them")
    notes.append("built for this GPU and this TensorRT alone")
    return Exported(path, "tensorrt", len(built), inputs=written.inputs, outputs=written.outputs, notes=tuple(notes))


def build(
    network_bytes: bytes, shapes: Mapping[str, Profile], path: Path, timing_cache: bytes = b""
) -> tuple[bytes, bytes]:
    """The engine that TensorRT makes of an ONNX file, and what it has learnt of its kernels' times.

    Args:
        shapes: of the inputs whose batch is open.
        path: of the engine, for messages.
        timing_cache: of an earlier build; one of another device or version is left aside.

    Raises:
        InvalidInput: the parser refuses the network: each of its errors, with node and operator.
        GateFailed: the build failed.
        PackageMissing: there is no GPU that TensorRT can use.
    """
    logger = _Logger()
    try:
        builder = trt.Builder(logger)
    except (RuntimeError, TypeError) as error:
        line = command("NET.onnx", path.name, shapes)
        raise PackageMissing(
            f"export {path}: TensorRT {trt.__version__} finds no GPU that it can use here ({logger.told or error}); "
            f"write ONNX with --target tensorrt and run on the device: {line}"
        ) from error
    network = builder.create_network(_network_flags())
    trt.init_libnvinfer_plugins(logger, "")
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(network_bytes):
        raise InvalidInput(f"export {path}: TensorRT's parser refuses the network: {_parser_errors(parser)}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_MEGABYTES << 20)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if not config.set_timing_cache(config.create_timing_cache(timing_cache), False):
        config.set_timing_cache(config.create_timing_cache(b""), False)
    if shapes:
        profile = builder.create_optimization_profile()
        for name, each in shapes.items():
            profile.set_shape(name, each.least, each.best, each.most)
        config.add_optimization_profile(profile)
    made = builder.build_serialized_network(network, config)
    if made is None:
        raise GateFailed(f"export {path}: TensorRT {trt.__version__} cannot build the engine: {logger.told}")
    cache = config.get_timing_cache()
    return bytes(made), b"" if cache is None else bytes(cache.serialize())


class _Logger(trt.ILogger):  # type: ignore[misc]
    """Keeps what TensorRT says of errors, and prints nothing."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.errors: list[str] = []

    def log(self, severity: Any, message: str) -> None:
        """Called by TensorRT."""
        if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
            self.errors.append(" ".join(message.split()))

    @property
    def told(self) -> str:
        """The first errors, in one line."""
        return "; ".join(self.errors[:ERRORS_TOLD])


def _require_version(path: Path) -> None:
    if int(str(trt.__version__).partition(".")[0]) < OLDEST_MAJOR:
        raise PackageMissing(
            f"export {path}: TensorRT {trt.__version__} is too old: expected {OLDEST_MAJOR} or newer, whose "
            f"networks are strongly typed; on a Jetson install JetPack 6"
        )


def _network_flags() -> int:
    """Strongly typed: TensorRT 10 has to be told, 11 knows nothing else and may know the flag no more."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _parser_errors(parser: Any) -> str:
    """Each error of the parser: the node, its operator, and what is wrong with it."""
    told = []
    for number in range(parser.num_errors):
        error = parser.get_error(number)
        name, operator = error.node_name(), error.node_operator()
        where = f"{name or f'node {error.node()}'}{f' ({operator})' if operator else ''}"
        told.append(f"{where}: {' '.join(error.desc().split())}")
    return "; ".join(told) or "no reason given"
