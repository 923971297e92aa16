"""Discrimination-aware scores: what a channel gives the layers that read it, to keep their outputs and tell classes.

Zhuang et al., "Discrimination-aware Channel Pruning for Deep Neural Networks" (2018).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.fx import Interpreter, Node
from torch.nn.functional import cross_entropy

from ...core.settings import setting
from ...errors import InvalidInput
from ...graph.trace import Graph, shape_of, trace
from ...stage import Context, Samples
from ...tasks.task import Batch
from ..channels.labels import Site
from ..scoring.activations import fixed_batch, readers_of
from ..scoring.samples import BATCH, sample_batches
from ..scoring.scores import Members, Normalization
from . import Criterion

PASSES = 4
"""Times that the auxiliary classifiers see the samples: their features are fixed, so that little is to be learnt."""

LEARNING_RATE = 0.01
NAME = "discrimination"


class Discrimination(Criterion):
    """What a channel gives the layers that read it, to keep their outputs and to tell classes apart: Zhuang et al.,
    "Discrimination-aware Channel Pruning for Deep Neural Networks" (2018). It needs data with labels.
    """

    batches: Samples = setting(16, "Batches of 32 samples that are looked at.", flag="--score-batches", unit="batches")
    balance: float = setting(
        1.0, "Of the loss of the classes over that of the outputs, the paper's lambda.", hidden=True, ge=0, le=1e9
    )

    usual_members: ClassVar[Members] = "consumers"
    usual_normalization: ClassVar[Normalization] = "mean"

    def site_scores(
        self, sites: Collection[Site], model: nn.Module, tensors: Mapping[str, Tensor], context: Context
    ) -> dict[Site, Tensor]:
        """:func:`discrimination_scores`."""
        return discrimination_scores(model, tensors, sites, context, self.batches, self.balance)


def discrimination_scores(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    sites: Collection[Site],
    context: Context,
    batches: int,
    balance: float = 1.0,
) -> dict[Site, Tensor]:
    """The scores of the slices at each site that a layer reads directly, float64 on the CPU.

    The score of slice k is ``||dL/dW_k||_F^2`` of the loss ``L = L_M + balance * L_S`` of the layer's outputs, taken
    where all its weights W are zero: the first step of the greedy selection (algorithm 2), which begins with no channel
    and adds the one of the largest norm. The weights are not refitted between additions, so that two channels that say
    the same have the same score.

    ``L_M`` is the mean squared difference, halved, to the outputs of the whole layer (section 3.1). ``L_S`` is the
    cross entropy of an auxiliary classifier on them (section 3.2): batch normalization, ReLU, average over positions
    and a linear layer, which is trained before on the outputs of the whole layer, the network staying as it is. The
    network's last layer needs none: its outputs are the logits.

    Args:
        tensors: the parameters and buffers of ``model`` that ``sites`` name.
        batches: of 32 samples of the train split, seen ``PASSES`` times for the classifiers and once for the scores.
        balance: of the two losses, the paper's lambda.

    Raises:
        InvalidInput: no data, no labels of classes, or a network that does not return logits (N, classes).
    """
    next(sample_batches(context, NAME, 1, 1))  # samples that do not fit are refused before the trace
    classes_of = context.task_of(model).classes
    if classes_of is None:
        raise InvalidInput(
            f"prune: criterion {NAME} needs labels of classes, and the samples have none; give --data with labels, or "
            "take the criterion obd or activation_mean"
        )
    graph = trace(model, context.example_inputs, dynamic_batch=True)
    fixed = fixed_batch(graph)  # before the shapes are read as numbers, which fixes them
    classes = _classes(graph)
    names = list(dict.fromkeys(name for name, _ in sites))
    watched = _watched(graph, tensors, names, classes)
    running = _Running(graph, watched, balance)
    for _ in range(PASSES if any(layer.head is not None for layer in watched.values()) else 0):
        _run(running, _labelled(context, classes_of, batches, classes, fixed), fitting=True)
    for layer in watched.values():
        if layer.head is not None:
            layer.head.eval()
    _run(running, _labelled(context, classes_of, batches, classes, fixed), fitting=False)
    scores: dict[Site, Tensor] = {}
    for name, axis in sites:
        gradients = [layer.gradient / layer.seen for layer in watched.values() if layer.name == name and layer.seen]
        if gradients:
            norms = [g.movedim(axis, 0).reshape(g.shape[axis], -1).square().sum(1) for g in gradients]
            scores[name, axis] = torch.stack(norms).mean(0).cpu()
    return scores


class Head(nn.Module):
    """The auxiliary classifier of a layer with so many channels: (N, positions, channels) -> (N, classes).

    Its linear layer begins with zeros, so that nothing is random.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.norm, self.linear = nn.BatchNorm1d(channels), nn.Linear(channels, classes)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.linear(torch.relu(self.norm(features.transpose(1, 2))).mean(2))
        return logits


@dataclass
class _Layer:
    """A call that reads a weight: the place of the weight in its arguments, and the dimension of its output channels.

    ``gradient`` is a sum over ``seen`` samples.
    """

    name: str
    argument: int
    dim: int
    head: Head | None
    optimizer: torch.optim.Optimizer | None
    gradient: Tensor
    seen: int = 0


def _watched(graph: Graph, tensors: Mapping[str, Tensor], names: Collection[str], classes: int) -> dict[Node, _Layer]:
    layers: dict[Node, _Layer] = {}
    for name, nodes in readers_of(graph, {id(tensors[name]): name for name in names}).items():
        weight = tensors[name]
        for node in nodes:
            direct = [i for i, given in enumerate(node.args) if graph.tensor(given) is weight]
            value = node.meta.get("val")
            if weight.ndim < 2 or len(direct) != 1 or not isinstance(value, Tensor) or value.ndim < 2:
                continue  # a bias, the scale of a normalization, or a weight that is computed on the way
            dim = value.ndim - (weight.ndim - 1) if "conv" in str(node.target) else value.ndim - 1
            head = optimizer = None
            if node not in graph.outputs:
                dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
                head = Head(shape_of(node)[dim], classes).to(weight.device, dtype)
                optimizer = torch.optim.Adam(head.parameters(), lr=LEARNING_RATE)
            total = torch.zeros(weight.shape, dtype=torch.float64, device=weight.device)
            layers[node] = _Layer(name, direct[0], dim, head, optimizer, total)
    return layers


class _Running(Interpreter):
    """Runs a traced graph; at the watched nodes the classifiers learn (``fitting``), or gradients are added up."""

    def __init__(self, graph: Graph, watched: Mapping[Node, _Layer], balance: float) -> None:
        super().__init__(graph.program.graph_module)
        self.graph_of, self.watched, self.balance = graph, watched, balance
        self.fitting, self.labels = True, torch.zeros(0, dtype=torch.long)

    def run_node(self, n: Node) -> Any:
        layer = self.watched.get(n)
        if layer is None:
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        value = super().run_node(n)
        if value.shape[0] % len(self.labels) == 0:  # the batch is first, whatever is folded into it
            with torch.enable_grad():
                if self.fitting:
                    self._fit(layer, value)
                else:
                    zeros = torch.zeros_like(args[layer.argument]).requires_grad_()
                    arguments = (*args[: layer.argument], zeros, *args[layer.argument + 1 :])
                    self._score(layer, zeros, n.target(*arguments, **kwargs), value)  # type: ignore[operator]
        return value

    def _loss(self, layer: _Layer, value: Tensor) -> Tensor:
        """The discrimination loss of a layer's outputs."""
        if layer.head is None:
            return cross_entropy(value, self.labels)
        features = value.movedim(layer.dim, -1).reshape(len(self.labels), -1, value.shape[layer.dim])
        logits = layer.head(features.to(layer.head.linear.weight.dtype))
        return cross_entropy(logits, self.labels)

    def _fit(self, layer: _Layer, value: Tensor) -> None:
        if layer.optimizer is None or value.numel() == value.shape[layer.dim]:  # one value has no variance
            return
        layer.optimizer.zero_grad()
        self._loss(layer, value.detach()).backward()
        layer.optimizer.step()

    def _score(self, layer: _Layer, zeros: Tensor, without: Tensor, value: Tensor) -> None:
        loss = (value.detach() - without).square().mean() / 2 + self.balance * self._loss(layer, without)
        (gradient,) = torch.autograd.grad(loss, zeros)
        if not bool(torch.isfinite(gradient).all()):
            raise InvalidInput(f"prune: criterion {NAME}: values are not finite (NaN or infinity) at {layer.name}")
        layer.gradient += len(self.labels) * gradient.double()
        layer.seen += len(self.labels)


def _run(running: _Running, samples: Iterator[tuple[tuple[Tensor, ...], Tensor]], *, fitting: bool) -> None:
    running.fitting = fitting
    graph = running.graph_of
    for inputs, labels in samples:
        running.labels = labels
        values_of_inputs = dict(zip(graph.inputs, inputs, strict=True))
        with torch.no_grad():
            running.run(
                *(values_of_inputs.get(node, graph.tensor(node)) for node in graph.nodes if node.op == "placeholder")
            )


def _labelled(
    context: Context, classes_of: Callable[[Batch], Tensor], batches: int, classes: int, fixed: int | None
) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
    """Batches with labels; of ``fixed`` size, where the network runs on that one only."""
    total = batches if fixed is None else max(1, batches * BATCH // fixed)
    complete = False
    for inputs, batch in sample_batches(context, NAME, total, fixed or BATCH):
        labels = classes_of(batch)
        if labels.ndim != 1 or labels.is_floating_point() or not bool(((labels >= 0) & (labels < classes)).all()):
            raise InvalidInput(
                f"prune: criterion {NAME}: expected labels (N,) from 0 to {classes - 1}, as the network has {classes} "
                f"outputs, got {labels.dtype} of shape {tuple(labels.shape)}"
                + (f" up to {labels.max()}" if labels.numel() else "")
            )
        if fixed is None or len(labels) == fixed:
            complete = True
            yield inputs, labels.long()
    if not complete:
        raise InvalidInput(
            f"prune: criterion {NAME}: the network runs on batches of {fixed} only, and there are fewer samples; "
            "give more data or smaller example inputs"
        )


def _classes(graph: Graph) -> int:
    shapes = [shape_of(node) for node in graph.outputs]
    if len(shapes) != 1 or len(shapes[0]) != 2 or shapes[0][1] < 2:
        raise InvalidInput(
            f"prune: criterion {NAME} is of a classifier that returns logits (N, classes), got {shapes}; "
            "take a criterion of weights or activations"
        )
    return shapes[0][1]
