"""SmoothQuant: the outlying channels that a layer norm hands to linear layers are scaled down, and the weights up.

Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models" (2023). The
scale goes into the layer norm's own weight and bias, so that nothing is added and the outputs stay the same in float.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.fx import Node

from ...core.settings import setting
from ...data import Split
from ...fold import COPIES, DROPOUTS, uses
from ...graph.trace import Graph, argument
from ...stage import Context, Edit, Skip
from ..ranges.calibration import observe
from ..state import Job, State
from . import Phase, Recovery
from .shared.layers import Layer, layers_of

aten = torch.ops.aten

ROWS = 1024
"""Rows of inputs that a searched alpha is judged on."""

ALPHAS = tuple(step / 20 for step in range(1, 20))
"""What a search tries."""


@dataclass
class _Place:
    """A layer norm, the linear layers that alone read it, and what is seen of its output."""

    node: Node
    name: str
    affine: tuple[tuple[str, Tensor], ...]
    readers: tuple[Layer, ...]
    search: bool
    largest: Tensor | None = None
    rows: list[Tensor] = field(default_factory=list)

    def observe(self, values: Tensor) -> None:
        """Take in what the layer norm yields, (..., channels)."""
        rows = values.detach().flatten(0, -2)
        largest = rows.abs().amax(0).double()
        self.largest = largest if self.largest is None else torch.maximum(self.largest, largest)
        count = sum(len(part) for part in self.rows)
        if self.search and count < ROWS:
            step = max(1, len(rows) // (ROWS // 8))  # some of each batch
            self.rows.append(rows[::step][: ROWS - count].double().clone())

    def weights(self) -> Tensor:
        """The weights of all linear layers that read the norm, together: (outputs, channels)."""
        return torch.cat([reader.weight[0, :, :, 0] for reader in self.readers])

    def apply(self, scale: Tensor) -> None:
        """Divide the outputs by ``scale`` (channels,) and multiply the weights of the readers by it."""
        for _, tensor in self.affine:
            tensor.data = (tensor.detach().double() / scale).to(tensor)
        for reader in self.readers:
            reader.scale_inputs(scale)
            reader.store()


class Smooth(Recovery):
    """Move outlying channels between layer norms and linear layers into the weights (Xiao et al., 2023)."""

    alpha: Annotated[float, Field(ge=0, le=1)] | Literal["search"] = setting(
        "search",
        "How much of the difficulty moves to the weights, from 0 to 1; search takes for each layer norm the value with "
        "the least error.",
    )

    phase: ClassVar[Phase] = "weights"
    rank: ClassVar[int] = 30

    def apply(self, state: State, job: Job) -> State:
        """:func:`smooth`."""
        bits = job.scheme.weight_bits
        return state.after(*smooth(state.graph, self.alpha, job.samples, job.count, job.context, bits=bits))


def smooth(
    graph: Graph, alpha: float | Literal["search"], split: Split, samples: int, context: Context, *, bits: int = 8
) -> tuple[tuple[Edit, ...], tuple[Skip, ...]]:
    """What was scaled in the network of ``graph``, in place, and which layer norms were not.

    Equation 4: channel j of a layer norm's output is divided by ``max|X_j|^alpha / max|W_j|^(1 - alpha)``, where X are
    its values on calibration samples and W the weights of all linear layers that read it.

    Args:
        alpha: how much of the difficulty moves to the weights, 0..1; ``search`` takes for each layer norm the one with
            the least squared error of the linear layers' outputs, both sides rounded to ``bits`` bits.
        samples: of ``split``, at most.

    Raises:
        InvalidInput: the samples do not fit the network.
    """
    places, skipped = _places(graph, search=alpha == "search")
    if not places:
        return (), tuple(skipped)
    watchers = {place.node.name: place.observe for place in places}
    observe(graph, watchers, split, samples, context, activity="measure channels")
    edits: list[Edit] = []
    for number, place in enumerate(places):
        chosen = _searched(place, bits) if alpha == "search" else alpha
        assert place.largest is not None
        place.apply(scales(place.largest, place.weights(), chosen))
        names = ", ".join(reader.name for reader in place.readers)
        for attribute, _ in place.affine:
            edits.append(Edit(place.name, attribute, "as stored", f"smoothed by alpha {chosen:g}", "weights"))
        for reader in place.readers:
            owner, _, attribute = reader.weight_name.rpartition(".")
            edits.append(Edit(owner, attribute, "as stored", f"smoothed with {place.name}", "weights"))
        context.progress("smooth", number + 1, len(places), f"{place.name} into {names}")
    return tuple(edits), tuple(skipped)


def scales(largest: Tensor, weights: Tensor, alpha: float) -> Tensor:
    """Equation 4, (channels,); 1 for channels that are 0 in either.

    Args:
        largest: the largest absolute value of each channel, (channels,).
        weights: (outputs, channels).
    """
    columns = weights.abs().amax(0)
    alive = (largest > 0) & (columns > 0)
    scales = largest.clamp_min(1e-30).pow(alpha) / columns.clamp_min(1e-30).pow(1 - alpha)
    return torch.where(alive, scales.clamp_min(1e-5), 1.0)


def _searched(place: _Place, bits: int) -> float:
    assert place.largest is not None
    rows, weights = torch.cat(place.rows), place.weights()
    expected = rows @ weights.T
    errors = {
        alpha: float((_rounded_product(rows / scale, weights * scale, bits) - expected).square().sum())
        for alpha in ALPHAS
        for scale in [scales(place.largest, weights, alpha)]
    }
    return min(errors, key=errors.__getitem__)


def _rounded_product(rows: Tensor, weights: Tensor, bits: int) -> Tensor:
    """``rows @ weights.T`` with an affine range for all rows and a symmetric one for each output."""
    low, high = rows.min().clamp_max(0), rows.max().clamp_min(0)
    step = ((high - low) / (2**bits - 1)).clamp_min(1e-30)
    zero = (-low / step).round()
    read = ((rows / step).round() + zero).clamp(0, 2**bits - 1).sub(zero) * step
    steps = (weights.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)).clamp_min(1e-30)
    product: Tensor = read @ ((weights / steps).round() * steps).T
    return product


def _places(graph: Graph, *, search: bool) -> tuple[list[_Place], list[Skip]]:
    places: list[_Place] = []
    skipped: list[Skip] = []
    layers = layers_of(graph)
    returned = frozenset(node.name for node in graph.outputs)
    for node in graph.calls(aten.layer_norm.default):
        name = graph.layer(node)
        affine = _affine(graph, node)
        readers = affine if isinstance(affine, str) else _readers(graph, node, layers, returned)
        if isinstance(affine, str) or isinstance(readers, str):
            skipped.append(Skip(name, f"not smoothed: {readers}"))
        else:
            places.append(_Place(node, name, affine, tuple(readers), search))
    return places, skipped


def _affine(graph: Graph, node: Node) -> tuple[tuple[str, Tensor], ...] | str:
    """The parameters of a layer norm by their names in its module, or why they cannot be changed."""
    parameters: list[tuple[str, Tensor]] = []
    if len(argument(node, "normalized_shape")) != 1:
        return "it normalizes several dimensions"
    if argument(node, "weight") is None:
        return "it has no weight to take the scale"
    for read in (argument(node, "weight"), argument(node, "bias")):
        if read is None:
            continue
        tensor, name = graph.tensor(read), graph.tensor_name(read)
        if tensor is None or name is None or name not in dict(graph.model.named_parameters(remove_duplicate=False)):
            return "its weight is computed, not stored"
        if uses(graph, tensor) > 1:
            return "its weight is shared"
        parameters.append((name.rpartition(".")[2], tensor))
    return tuple(parameters)


def _readers(
    graph: Graph, node: Node, layers: dict[str, Layer | str], returned: frozenset[str]
) -> Sequence[Layer] | str:
    """The linear layers that read ``node`` and nothing else does, or who does."""
    if node.name in returned:
        return "the network returns its output"
    readers: list[Layer] = []
    for user in node.users:
        if user.target is aten.linear.default and user.args[0] is node:
            layer = layers[user.name]
            if isinstance(layer, str):
                return f"{graph.layer(user) or user.name} reads it, and {layer}"
            readers.append(layer)
        elif _keeps_last(user, node):
            deeper = _readers(graph, user, layers, returned)
            if isinstance(deeper, str):
                return deeper
            readers += deeper
        else:
            operation = str(getattr(user.target, "_opname", None) or getattr(user.target, "__name__", user.target))
            return f"{operation.rstrip('_')} reads its output, not only linear layers"
    return readers or "nothing reads its output"


def _keeps_last(node: Node, source: Node) -> bool:
    """Whether ``node`` hands on all values of ``source``, with the same last dimension."""
    if node.target in COPIES or (node.target in DROPOUTS and not argument(node, "train")):
        return True
    if node.target in (aten.view.default, aten.reshape.default, aten.flatten.using_ints, aten.unsqueeze.default):
        after, before = node.meta["val"].shape, source.meta["val"].shape
        return bool(len(after) > 1 and isinstance(after[-1], int) and after[-1] == before[-1])
    ndim: int = source.meta["val"].ndim
    if node.target is aten.transpose.int:
        return int(ndim) - 1 not in (int(argument(node, "dim0")) % ndim, int(argument(node, "dim1")) % ndim)
    if node.target is aten.permute.default:
        return int(argument(node, "dims")[-1]) % ndim == ndim - 1
    if node.target in (aten.select.int, aten.slice.Tensor):
        return int(argument(node, "dim")) % ndim != ndim - 1
    return False
