"""An ONNX file held against NVIDIA's parser and builder: whether it builds, and what its products run in."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import onnx

from compress.siblings import runtimes

from ..format import Trial
from ..onnx.contents import load_model
from .trtexec import profiles

Layer = runtimes.tensorrt.layers.Layer
Library = runtimes.tensorrt.library.Library
Wishes = runtimes.tensorrt.builder.Wishes
PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def try_build(library: Library, file: Path, shapes: Sequence[tuple[int, ...]], gpus: tuple[str, ...]) -> Trial:
    """What becomes of an ONNX file; an engine that was built is not kept.

    Args:
        shapes: of an example of each input of the file, in order, for its open dimensions.

    Raises:
        InvalidInput: the file is no whole ONNX model.
    """
    model = load_model(file)
    begun = time.perf_counter()
    try:
        built = runtimes.tensorrt.apart.build_apart(library, file, Wishes(profiles(model, shapes), gpus=gpus))
    except (runtimes.tensorrt.builder.Refused, runtimes.tensorrt.builder.BuildFailed) as error:
        return Trial(False, time.perf_counter() - begun, message=str(error))
    seconds = time.perf_counter() - begun
    ran = products(model, built.layers or ())
    return Trial(
        True,
        seconds,
        size_bytes=len(built.engine),
        layers=None if built.layers is None else len(built.layers),
        products=None if built.layers is None else dict(Counter(name or "not told" for name in ran.values())),
        in_float=tuple(node for node, name in ran.items() if name is not None and "float" in name),
    )


def products(model: onnx.ModelProto, layers: Sequence[Layer]) -> dict[str, str | None]:
    """What each product of a file is computed in, by the node's name; None where no layer says that it is its own.

    Of several layers that name a node, it is the one that multiplies; what is generated for single values around it
    does not count, unless there is nothing else.
    """
    by_node: dict[str, list[Layer]] = {}
    for layer in layers:
        for node in layer.nodes:
            by_node.setdefault(node, []).append(layer)
    arithmetic: dict[str, str | None] = {}
    for node in model.graph.node:
        if node.op_type not in PRODUCTS:
            continue
        name = node.name or f"node_of_{node.output[0]}"  # as NVIDIA's parser calls it
        named = sorted(by_node.get(name, ()), key=lambda layer: layer.is_between)
        arithmetic[name] = named[0].arithmetic if named else None
    return arithmetic
