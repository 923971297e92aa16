"""Post-training quantization: ranges measured on calibration samples, no training.

Krishnamoorthi, "Quantizing deep convolutional networks for efficient inference: A whitepaper" (2018), section 3:
weights symmetric with one scale per output channel, activations affine with one scale per tensor.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.fx import Interpreter, Node

from ..data import Split
from ..errors import InvalidInput
from ..graph import Graph, trace
from ..stage import Config, Context, Edit, Result, Skip, evaluation_copy
from .encoding import Encoding
from .observe import MinMax, Observer, Percentile
from .sites import Product, find_sites

BATCH = 32


class Quantize(Config):
    """Measure the encodings that a network needs to run in 8-bit integers; ``apply`` leaves its weights in float.

    Args:
        scheme: ``int8``: weights and activations in 8 bits.
        calibration: the range of an activation: all that was seen (``minmax``) or all but extremes (``percentile``).
        percentile: of the values kept at each end, for ``percentile``.
        samples: calibration samples to run.
        exclude: patterns of layers to keep in float, as in ``layer4.*``.
    """

    scheme: Literal["int8"] = "int8"
    calibration: Literal["minmax", "percentile"] = "minmax"
    percentile: float = Field(99.99, gt=50, le=100)
    samples: int = Field(256, ge=1)
    exclude: tuple[str, ...] = ()

    def apply(self, model: nn.Module, context: Context) -> Result:
        """The network with batch normalizations folded, and its encodings: by parameter name and by node of its trace.

        Raises:
            InvalidInput: no calibration samples, a pattern in ``exclude`` that matches nothing, or weights or
                activations that are not finite.
        """
        if context.data is None:
            raise InvalidInput("quantize: needs calibration samples, and no data is given; give --data")
        split = context.data.split("calibration")
        network = evaluation_copy(model)
        _refuse_unusable_weights(network)
        edits: tuple[Edit, ...] = ()
        skipped: tuple[Skip, ...] = ()
        if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules()):
            from ..fold import Fold

            folded = Fold().apply(network, context)
            network, edits, skipped = folded.model, folded.edits, folded.skipped
        graph = trace(network, context.example_inputs, dynamic_batch=True)
        sites = find_sites(graph, self.exclude)
        encodings: dict[str, Encoding] = {}
        for product in sites.products:
            encodings[product.weight] = _weight_encoding(graph, product)
        observers = {at: self._observer() for at in sites.measured.values()}
        _calibrate(graph, observers, split, self.samples, context)
        for name, at in sites.measured.items():
            low, high = observers[at].range()
            encodings[name] = Encoding((low,), (high,))
        made = tuple(
            Edit(layer, what, "float32", "int8", kind="precision")
            for layer, _, what in (name.rpartition(".") for name in dict.fromkeys(p.weight for p in sites.products))
        )
        explained = {skip.layer for skip in skipped}  # batch normalizations that were not folded, and why
        left = tuple(s for s in sites.skipped if s.layer not in explained or "batch_norm" not in s.reason)
        return Result(network, edits + made, skipped + left, encodings)

    def _observer(self) -> Observer:
        return MinMax() if self.calibration == "minmax" else Percentile(self.percentile)


def _refuse_unusable_weights(model: nn.Module) -> None:
    for name, parameter in [*model.named_parameters(), *model.named_buffers()]:
        if parameter.is_floating_point() and not bool(torch.isfinite(parameter).all()):
            raise InvalidInput(f"quantize: the weights of {name} are not all finite (NaN or infinity); train again")


def _weight_encoding(graph: Graph, product: Product) -> Encoding:
    """Symmetric, per output channel (the first dimension of the weight)."""
    weight = graph.tensor(product.node.args[1])
    assert weight is not None, product.weight
    low, high = weight.detach().float().flatten(1).aminmax(dim=1)
    return Encoding(tuple(low.tolist()), tuple(high.tolist()), symmetric=True, axis=0)


class _Observing(Interpreter):
    """Runs a traced program and shows the values of its nodes to their observers."""

    def __init__(self, graph: Graph, observers: dict[str, Observer]) -> None:
        super().__init__(graph.program.graph_module)
        self.traced = graph
        self.observers = observers

    def run_node(self, n: Node) -> object:
        value = super().run_node(n)
        if n.name in self.observers:
            assert isinstance(value, Tensor), n.name
            if not bool(torch.isfinite(value).all()):
                place = (
                    "the calibration samples" if n.op == "placeholder" else f"layer {self.traced.layer(n) or n.name!r}"
                )
                raise InvalidInput(
                    f"quantize: {place}: values are not all finite (NaN or infinity) in calibration; "
                    f"they come from {n.name}"
                )
            self.observers[n.name].observe(value)
        return value


def _calibrate(graph: Graph, observers: dict[str, Observer], split: Split, samples: int, context: Context) -> None:
    """Run ``samples`` calibration samples through ``graph``, batch by batch."""
    program = _Observing(graph, observers)
    traced = [node.meta["val"] for node in graph.inputs]
    fixed = _fixed_batch(traced[0]) if traced else None
    seen = 0
    with torch.no_grad():
        for batch in _batches(split, fixed or BATCH, len(traced)):
            inputs = tuple(x[: samples - seen] for x in batch)
            count = len(inputs[0])
            for x, node in zip(inputs, graph.inputs, strict=True):
                expected = tuple(node.meta["val"].shape)[1:]
                if tuple(x.shape[1:]) != expected:
                    raise InvalidInput(
                        f"quantize: calibration samples have the shape {tuple(x.shape[1:])}, and the network was given "
                        f"{tuple(int(s) for s in expected)} as example input {node.name!r}"
                    )
            if fixed is not None and count != fixed:  # a network that runs on this batch size only: samples seen again
                inputs = tuple(x.repeat(-(-fixed // count), *(1 for _ in x.shape[1:]))[:fixed] for x in inputs)
            names = (node.name for node in graph.inputs)
            values = {
                name: x.to(given.device) for name, x, given in zip(names, inputs, context.example_inputs, strict=True)
            }
            program.run(*(_argument(graph, node, values) for node in graph.nodes if node.op == "placeholder"))
            seen += count
            context.progress("calibrate", seen, min(samples, max(len(split), seen)))
            if seen >= samples:
                break
    if not seen:
        raise InvalidInput("quantize: the calibration split is empty; give it samples")


def _fixed_batch(traced: Tensor) -> int | None:
    """The batch size, where the trace holds for that one only."""
    size: int | torch.SymInt = traced.shape[0]
    if isinstance(size, torch.SymInt):
        number: int | None = size.node.maybe_as_int()
        return number
    return size


def _argument(graph: Graph, node: Node, inputs: dict[str, Tensor]) -> object:
    if node.name in inputs:
        return inputs[node.name]
    tensor = graph.tensor(node)
    if tensor is None:
        raise InvalidInput(f"quantize: the network holds {node.name!r}, which is no tensor, and cannot be run in parts")
    return tensor.detach()


def _batches(split: Split, batch_size: int, inputs: int) -> Iterator[tuple[Tensor, ...]]:
    for found, _ in split.batches(batch_size):
        batch: object = found
        tensors = tuple(batch) if isinstance(batch, (tuple, list)) else (found,)
        if len(tensors) != inputs:
            raise InvalidInput(
                f"quantize: the network takes {inputs} inputs, and a calibration batch gives {len(tensors)}"
            )
        count = len(tensors[0])
        for start in range(0, count, batch_size):
            part = tuple(x[start : start + batch_size] for x in tensors)
            if len(part[0]):
                yield part
