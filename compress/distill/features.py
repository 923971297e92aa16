"""Features: what layers of a network return, read by forward hooks, and how channels and positions lie in it.

A feature is a map (N, C, H, W), tokens (N, L, C) or a vector (N, C) for each sample.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d
from torch.utils._pytree import tree_leaves

from ..graph.modes import evaluating
from ..tasks.task import Outputs


@dataclass(frozen=True)
class Seen:
    """What a network gave for a batch: its outputs, and by the names of layers what these returned."""

    outputs: Outputs
    features: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Tap:
    """A forward hook that puts what the layer ``name`` returns into ``store``."""

    store: dict[str, Tensor]
    name: str

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            self.store[self.name] = output


@contextmanager
def tapped(network: nn.Module, names: Iterable[str], store: dict[str, Tensor]) -> Iterator[None]:
    """Within: every pass of ``network`` puts what the layers ``names`` return into ``store``."""
    handles = [network.get_submodule(name).register_forward_hook(Tap(store, name)) for name in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        store.clear()


def survey(network: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Seen, dict[str, tuple[int, ...]]]:
    """What ``network`` gives for ``inputs`` in evaluation mode, and the shape that each layer returns.

    Layers come in the order in which they end, those that return the network's own output apart; a layer that runs
    several times counts where it runs last.
    """
    store: dict[str, Tensor] = {}
    order: dict[str, None] = {}

    def note(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:  # noqa: ARG001 - as torch calls hooks
            order.pop(name, None)
            if isinstance(output, Tensor) and output.is_floating_point() and output.ndim in (2, 3, 4):
                order[name], store[name] = None, output

        return hook

    device = next((tensor.device for tensor in network.parameters()), torch.device("cpu"))
    handles = [module.register_forward_hook(note(name)) for name, module in network.named_modules() if name]
    try:
        with torch.no_grad(), evaluating(network):
            outputs = network(*(each.to(device) for each in inputs))
    finally:
        for handle in handles:
            handle.remove()
    last = {id(leaf) for leaf in tree_leaves(outputs)}
    shapes = {name: tuple(store[name].shape) for name in order if id(store[name]) not in last}
    return Seen(outputs, {name: store[name] for name in shapes}), shapes


def channels_of(shape: tuple[int, ...]) -> int:
    """The number of channels of a feature of this shape.

    >>> channels_of((8, 16, 4, 4)), channels_of((8, 49, 16)), channels_of((8, 16))
    (16, 16, 16)
    """
    return shape[channel_axis(len(shape))]


def channel_axis(rank: int) -> int:
    """The axis of the channels in a feature of so many axes."""
    return 2 if rank == 3 else 1


def resolution_of(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The positions of a feature of this shape: (H, W), (L,), or () of a vector.

    >>> resolution_of((8, 16, 4, 4)), resolution_of((8, 49, 16)), resolution_of((8, 16))
    ((4, 4), (49,), ())
    """
    return shape[2:] if len(shape) == 4 else shape[1:2] if len(shape) == 3 else ()


def by_position(feature: Tensor) -> Tensor:
    """The feature as (N, C, P) in float32, with one position where it is a vector."""
    if feature.ndim == 3:
        feature = feature.transpose(1, 2)
    return feature.float().flatten(2) if feature.ndim > 2 else feature.float().unsqueeze(2)


def embedding(feature: Tensor) -> Tensor:
    """A vector (N, C) in float32 for each sample: the mean of the feature over its positions."""
    return by_position(feature).mean(2)


def same_resolution(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps in the smaller of their resolutions, to which the larger one is averaged; other features stay."""
    if student.ndim != 4 or teacher.ndim != 4 or student.shape[2:] == teacher.shape[2:]:
        return student, teacher
    size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
    return adaptive_avg_pool2d(student, size), adaptive_avg_pool2d(teacher, size)
