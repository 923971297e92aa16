"""The network that a user's words name, opened and tried."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data import Data
from ..data.batch import tensors_of
from ..errors import InvalidInput
from ..graph.parametrized import bake
from ..siblings import models
from ..sources import artifact
from ..sources.load import Network, build, check_runs, fitting_inputs, random_inputs
from ..sources.specification import Source, parse
from ..sources.weights import require_finite
from ..tasks.resolve import inputs_of
from ..tasks.task import Task
from .new_weights import filled


def open_network(
    specification: str | Path,
    *,
    weights: Path | str | None = None,
    data: Data | None = None,
    input_shapes: tuple[tuple[int, ...], ...] = (),
    other_shapes: tuple[tuple[int, ...], ...] = (),
    trust: bool = False,
    source: str | None = None,
    seed: int = 0,
    task: Task | str | None = None,
) -> Network:
    """The network that a user's words name: an artifact folder, or as :mod:`compress.sources.specification` reads them.

    Without shapes and data it is tried on inputs that it knows itself: an artifact's, an ONNX file's, those of the zoo.

    Args:
        weights: a file to fill it with: safetensors, a state dict or a checkpoint. Of an artifact, weights of the
            network as its stages left it, whose encodings are then fitted to them (:func:`compress.save` says how).
        input_shapes: of the inputs, each with its batch.
        other_shapes: what they may mean instead, where the network does not run on those; see
            :func:`compress.sources.specification.readings`.
        trust: run code that the artifact or a pickle of weights names, though the user did not name it.
        source: the code that builds the network of an artifact, in place of what the artifact names.
        task: tells which parts of a batch of the data are inputs.

    Raises:
        InvalidInput: it cannot be found, built, filled with the weights, or run on inputs of the data's shape.
    """
    specification, path = str(specification), Path(specification)
    if path.is_dir():
        network = artifact.load(path, trust=trust, source=source)
        if weights is not None:
            network = filled(network, Path(weights), trust=trust, edited_in=path)
    else:
        named = parse(specification)
        if named.kind == "onnx" and other_shapes:
            input_shapes, other_shapes = _as_declared(Path(named.name), input_shapes, other_shapes), ()
        network = _built(named, data, input_shapes, seed)
        if weights is not None:
            network = filled(network, Path(weights), trust=trust)
        bake(network.model)
    require_finite(network.model, f"model {specification}")
    inputs = _typed(network, input_shapes, seed)
    if inputs is None and input_shapes:
        inputs = fitting_inputs(network.model, input_shapes, other_shapes, seed)
    if inputs is None:
        inputs = _known_inputs(network, specification, data, seed, task)
    check_runs(network.model, inputs, specification)
    return replace(network, example_inputs=inputs)


def _built(source: Source, data: Data | None, input_shapes: tuple[tuple[int, ...], ...], seed: int) -> Network:
    """The network that ``source`` names, for the channels and classes of ``data``, not tried on inputs yet."""
    defaults: dict[str, Any] = {}
    if source.kind == "zoo" and data is not None:
        example = data.example()
        if example.ndim > 1:
            defaults["in_channels"] = example.shape[1]
        if data.classes:
            defaults["num_classes"] = len(data.classes)
    torch.manual_seed(seed)
    shape = input_shapes[0] if len(input_shapes) == 1 else None
    if shape is None and data is not None:
        shape = _first_shape(source, data.batch())
    return Network(*build(source, defaults, shape, _largest_integer(data)))


def _first_shape(source: Source, batch: Any) -> tuple[int, ...] | None:
    """The shape of the network's first input in a batch; None where inputs have names, and nothing tells the first."""
    head = batch[0] if isinstance(batch, (tuple, list)) and len(batch) else batch
    if not isinstance(head, Mapping):
        return tuple(tensors_of(batch)[0].shape)
    if source.kind != "onnx" or not Path(source.name).is_file():
        return None
    from ..sources.onnx_import.reading.read import graph_inputs, parse

    first = next((head[name] for name, _, _ in graph_inputs(parse(Path(source.name)))[:1] if name in head), None)
    return tuple(first.shape) if isinstance(first, Tensor) else None


def _known_inputs(
    network: Network, specification: str, data: Data | None, seed: int, task: Task | str | None
) -> tuple[Tensor, ...]:
    """Inputs for a network where no shapes are given: its own, those of the data, of its ONNX file or of the zoo.

    Raises:
        InvalidInput: nothing says what it takes.
    """
    if network.example_inputs:
        return network.example_inputs
    if data is not None:
        return inputs_of(task, network.model, data.batch(8))
    if network.source.kind == "onnx":
        from ..sources.onnx_import import example_inputs_of

        return example_inputs_of(Path(network.source.name))
    if network.source.kind == "zoo":
        return random_inputs(((1, *models.input_shape(network.source.name, **network.source.options)),), seed)
    raise InvalidInput(f"model {specification}: give --input-shape (as 3,224,224) or --data, to know what it takes")


def _typed(network: Network, shapes: tuple[tuple[int, ...], ...], seed: int) -> tuple[Tensor, ...] | None:
    """Inputs of ``shapes`` in the types that the ONNX file of a network says, None for other networks."""
    if network.source.kind != "onnx" or not shapes or not Path(network.source.name).is_file():
        return None
    from ..sources.onnx_import import inputs_of_shapes

    return inputs_of_shapes(Path(network.source.name), shapes, seed)


def _largest_integer(data: Data | None) -> int:
    """The largest value of a batch of data of whole numbers, 1 for other data."""
    example = data.example(8).double() if data is not None else torch.zeros(0)
    whole = bool((example == example.round()).all()) and bool(torch.isfinite(example).all())
    return int(example.max().clamp(1, 2**31 - 1)) if whole and example.numel() else 1


def _as_declared(
    path: Path, shapes: tuple[tuple[int, ...], ...], others: tuple[tuple[int, ...], ...]
) -> tuple[tuple[int, ...], ...]:
    """``shapes``, with those of ``others`` that have as many sizes as an ONNX file says."""
    from ..sources.onnx_import.reading.read import graph_inputs, parse

    ranks = [None if dimensions is None else len(dimensions) for _, _, dimensions in graph_inputs(parse(path))]
    ranks += [None] * len(shapes)
    return tuple(b if len(b) == rank else a for a, b, rank in zip(shapes, others, ranks, strict=False))
