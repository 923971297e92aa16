"""An engine from an ONNX file, by TensorRT's parser and builder: one code for TensorRT 10, 11 and TensorRT for RTX.

The network is strongly typed: the file alone decides what is computed in int8, float16 or float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import EngineMissing, InvalidModel
from .layers import Layer, layers_logged
from .library import Library, first_errors

WORKSPACE_MEGABYTES = 1024
LARGEST_BATCH = 32
"""An open batch is built for 1 up to so many samples."""


class Refused(InvalidModel):
    """The parser does not take the file: each of its errors, with node and operator."""


class BuildFailed(InvalidModel):
    """The parser took the file, and the builder made no engine of it."""


@dataclass(frozen=True)
class Profile:
    """The shapes that an engine is built for, of an input whose batch is open: it is fastest at ``best``."""

    least: tuple[int, ...]
    best: tuple[int, ...]
    most: tuple[int, ...]


@dataclass(frozen=True)
class Wishes:
    """How an engine is built.

    Args:
        shapes: to build for, of the inputs that have an open dimension; left out, an open batch is built for 1 to
            `LARGEST_BATCH` samples, fastest at one.
        gpus: kinds of GPUs by name ("sm86"), for a library that builds ahead of time.
        dla_core: the core of the deep learning accelerator that runs what it can; the GPU runs the rest.
        timing_cache: of an earlier build; one of another device or version is left aside.
    """

    shapes: Mapping[str, Profile] | None = None
    gpus: tuple[str, ...] = ()
    dla_core: int | None = None
    timing_cache: bytes = b""


@dataclass(frozen=True)
class Built:
    """An engine, and what is known of it.

    Args:
        engine: the file's content.
        timing_cache: how fast which kernel was, for the next build on this device.
        layers: of the engine, as the builder lists them; None where it does not.
        on_gpu: layers of the network that the deep learning accelerator leaves to the GPU, where one was asked for.
    """

    engine: bytes
    timing_cache: bytes = b""
    layers: tuple[Layer, ...] | None = None
    on_gpu: tuple[str, ...] = ()


def build(library: Library, source: Path, wishes: Wishes) -> Built:
    """The engine of the ONNX file ``source``.

    Raises:
        Refused: the parser does not take it.
        BuildFailed: there is no such GPU, no such core, or the build failed.
        EngineMissing: the library needs a GPU, and there is none that it can use.
    """
    logger = library.logger()
    builder = _builder(library, logger)
    network = builder.create_network(library.network_flags())
    library.api.init_libnvinfer_plugins(logger, "")
    parser = library.api.OnnxParser(network, logger)
    if wishes.dla_core is not None:
        _fit_to_dla(library, parser)
    if not parser.parse_from_file(str(source)):
        raise Refused(f"{library.title}'s parser refuses the network: {_parser_errors(parser)}")
    config = _config(library, builder, wishes)
    _add_profile(builder, config, _batches(network) if wishes.shapes is None else wishes.shapes)
    on_gpu = () if wishes.dla_core is None else tuple(_left_to_gpu(network, config))
    made = builder.build_serialized_network(network, config)
    if made is None:
        errors = first_errors(logger) or "no reason given"
        raise BuildFailed(f"{library} cannot build the engine: {errors}")
    cache = config.get_timing_cache()
    layers = layers_logged(logger.layers)
    return Built(bytes(made), b"" if cache is None else bytes(cache.serialize()), layers, on_gpu)


def _builder(library: Library, logger: Any) -> Any:
    try:
        return library.api.Builder(logger)
    except (RuntimeError, TypeError) as error:
        reason = first_errors(logger) or error
        raise EngineMissing(f"{library} finds no GPU that it can use here ({reason})") from error


def _config(library: Library, builder: Any, wishes: Wishes) -> Any:
    api, config = library.api, builder.create_builder_config()
    config.set_memory_pool_limit(api.MemoryPoolType.WORKSPACE, WORKSPACE_MEGABYTES << 20)
    config.profiling_verbosity = api.ProfilingVerbosity.DETAILED
    if library.ahead_of_time:
        _name_gpus(api, config, wishes.gpus)
    else:
        cache = config.create_timing_cache(wishes.timing_cache)
        if not config.set_timing_cache(cache, False):
            config.set_timing_cache(config.create_timing_cache(b""), False)
    if wishes.dla_core is not None:
        if not 0 <= wishes.dla_core < builder.num_DLA_cores:
            has = f"has {builder.num_DLA_cores}" if builder.num_DLA_cores else "has none"
            raise BuildFailed(f"core {wishes.dla_core} of the deep learning accelerator: this device {has}")
        config.default_device_type = api.DeviceType.DLA
        config.DLA_core = wishes.dla_core
        config.set_flag(api.BuilderFlag.GPU_FALLBACK)
    return config


def _add_profile(builder: Any, config: Any, shapes: Mapping[str, Profile]) -> None:
    if not shapes:
        return
    profile = builder.create_optimization_profile()
    for name, each in shapes.items():
        profile.set_shape(name, each.least, each.best, each.most)
    config.add_optimization_profile(profile)


def _batches(network: Any) -> dict[str, Profile]:
    """The shapes to build for, of the inputs whose batch is open."""
    shapes = {}
    for number in range(network.num_inputs):
        value = network.get_input(number)
        shape = tuple(int(n) for n in value.shape)
        if any(n < 0 for n in shape[1:]):
            raise Refused(f"input {value.name}: only the batch may be open, got {shape}; export it with a fixed size")
        if shape and shape[0] < 0:
            shapes[value.name] = Profile((1, *shape[1:]), (1, *shape[1:]), (LARGEST_BATCH, *shape[1:]))
    return shapes


def _name_gpus(api: Any, config: Any, gpus: tuple[str, ...]) -> None:
    """Build for these kinds of GPUs; no GPU is needed for that."""
    config.num_compute_capabilities = len(gpus)
    for number, name in enumerate(gpus):
        capability = getattr(api.ComputeCapability, name.upper(), None)
        if capability is None or not config.set_compute_capability(capability, number):
            raise BuildFailed(f"GPU {name!r}: this version does not build for it")


def _fit_to_dla(library: Library, parser: Any) -> None:
    """Let the parser write what the accelerator can run, where this version knows how."""
    flag = getattr(getattr(library.api, "OnnxParserFlag", None), "ADJUST_FOR_DLA", None)
    if flag is not None:
        parser.set_flag(flag)


def _left_to_gpu(network: Any, config: Any) -> Iterator[str]:
    """The names of the network's layers that the accelerator cannot run."""
    for number in range(network.num_layers):
        layer = network.get_layer(number)
        if not config.can_run_on_DLA(layer):
            yield str(layer.name)


def _parser_errors(parser: Any) -> str:
    """Each error of the parser: the node, its operator, and what is wrong with it."""
    errors = []
    for number in range(parser.num_errors):
        error = parser.get_error(number)
        name, operator = error.node_name(), error.node_operator()
        where = f"{name or f'node {error.node()}'}{f' ({operator})' if operator else ''}"
        errors.append(f"{where}: {' '.join(error.desc().split())}")
    return "; ".join(errors) or "no reason given"
