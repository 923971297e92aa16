"""Channels that shuffles carry through a whole stage (ShuffleNet): no index of them can go alone.

A channel that is split off, concatenated and shuffled again and again stands at another place after each block, and how
long it lives until a convolution consumes it follows from its first place. Remove one, and all that stand behind it
move. So the widths are chosen first, and the network is built at these widths to see which life each of its places
leads; then every place is given to one of the channels of the original network that lead the same life, the most
important ones first. The filters may come in another order than before, which an Edit can say.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from ...edits import replay
from ...graph.trace import trace
from ...stage import Context, Edit, Skip, evaluation_copy
from ..criteria import CRITERIA, Criterion
from .groups import Channels, Unit, tensor_edits
from .labels import Site
from .verify import difference
from .walk import walk

WIDTHS = 7
"""Widths near the wanted one that are tried; not every one can be shuffled as the original is."""

Life = frozenset[tuple[Site, int]]
"""What happens to a channel: on which dimensions of which tensors it has how many indices."""


@dataclass(frozen=True)
class Family:
    """The layers of a stage whose channels shuffles mix: ``sites`` hold their filters."""

    sites: tuple[Site, ...]
    layers: tuple[str, ...]


def families(channels: Channels) -> tuple[Family, ...]:
    """The stages of which no channel can go alone, though nothing pins them."""
    members: dict[int, list[Site]] = defaultdict(list)
    free = {label for group in channels.groups for label in group.labels.tolist()}
    for site in channels.labels.outputs_of:
        roots = set(channels.labels.roots(channels.labels.sites[site]).tolist())
        if len(roots) == 1 and not roots & free and channels.labels.pinned(root := roots.pop()) is None:
            members[root].append(site)
    return tuple(
        Family(tuple(sites), tuple(dict.fromkeys(channels.labels.outputs_of[site] for site in sites)))
        for sites in members.values()
        if len(sites) > 1
    )


def narrow(
    model: nn.Module,
    channels: Channels,
    ratio: float,
    context: Context,
    *,
    round_to: int = 1,
    exclude: Sequence[str] = (),
    criterion: Criterion | None = None,
) -> tuple[nn.Module, tuple[Edit, ...], tuple[Skip, ...]]:
    """A copy of ``model`` whose shuffled stages lost about ``ratio`` of their channels; its edits; what stays, and why.

    Args:
        channels: the channels of ``model``.
        criterion: which channels go first; by default l2.
    """
    criterion = criterion or CRITERIA.read("l2")
    edits: list[Edit] = []
    skipped: list[Skip] = []
    narrowed = evaluation_copy(model)
    for family in families(channels):
        excluded = [layer for layer in family.layers if any(fnmatch(layer, pattern) for pattern in exclude)]
        if excluded:
            skipped += [Skip(layer, f"excluded ({', '.join(excluded)})") for layer in family.layers]
            continue
        done = _narrow_one(narrowed, family, ratio, context, round_to, criterion)
        if done is None:
            skipped += [
                Skip(layer, "no width near the wanted one is shuffled as the original") for layer in family.layers
            ]
        else:
            replay(narrowed, done)
            edits += done
    return narrowed, tuple(edits), tuple(skipped)


def _narrow_one(
    model: nn.Module, family: Family, ratio: float, context: Context, round_to: int, criterion: Criterion
) -> tuple[Edit, ...] | None:
    graph = trace(evaluation_copy(model), context.example_inputs)
    exact = Channels(graph, walk(graph, exact=True), {})
    widths = {site: len(exact.labels.sites[site]) for site in family.sites}
    scores: Mapping[int, float] | None = None
    for wanted in _near(widths, 1 - ratio, round_to):
        try:
            skeleton = _skeleton(model, wanted, context)
        except (RuntimeError, ValueError, TypeError):
            continue  # no network has these widths
        target = trace(skeleton, context.example_inputs)
        scores = scores or _scores(exact, context, criterion)
        assigned = _assign(exact, Channels(target, walk(target, exact=True), {}), scores)
        if assigned is None:
            continue
        channels, removed = assigned
        edits = tensor_edits(model, channels)
        narrowed = evaluation_copy(model)
        replay(narrowed, edits)
        if difference(narrowed, exact, [Unit(root, 0, {}) for root in removed], context) is None:
            return edits
    return None


def _near(widths: Mapping[Site, int], factor: float, round_to: int) -> Iterator[dict[Site, int]]:
    """Widths around ``factor`` times the present ones, the nearest first, all in the same proportion."""
    first = next(iter(widths.values()))
    step = round_to if first >= 2 * round_to else 1
    nearest = sorted(range(step, first, step), key=lambda width: abs(width - factor * first))
    for width in nearest[:WIDTHS]:
        if all(size * width % first == 0 for size in widths.values()):
            yield {site: size * width // first for site, size in widths.items()}


def _skeleton(model: nn.Module, wanted: Mapping[Site, int], context: Context) -> nn.Module:
    """A network of the user's code at these widths: every tensor is cut at its end to what reaches it."""
    mode = _Cutting(model, wanted)
    with torch.no_grad(), mode:
        model(*context.example_inputs)
    indices_of = {
        (name, axis): tuple(range(size)) for name, shape in mode.shapes.items() for axis, size in enumerate(shape)
    }
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    changed = {site: indices for site, indices in indices_of.items() if tensors[site[0]].shape[site[1]] != len(indices)}
    skeleton = evaluation_copy(model)
    replay(skeleton, tensor_edits(model, changed))
    with torch.no_grad():
        skeleton(*context.example_inputs)
    return skeleton


class _Cutting(TorchFunctionMode):
    """Runs a network at other widths: producers as wide as wanted, all others as wide as what reaches them."""

    def __init__(self, model: nn.Module, wanted: Mapping[Site, int]) -> None:
        super().__init__()
        self.wanted = wanted
        self.names = {id(t): name for name, t in (*model.named_parameters(), *model.named_buffers())}
        self.shapes: dict[str, tuple[int, ...]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in _CONVOLUTIONS:
            args = self.convolution(*args, **kwargs)
            kwargs = {}
        elif func in _PER_CHANNEL:
            sizes = {0: args[0].shape[1]}
            args = (args[0], *(self.cut(argument, dict(sizes)) for argument in args[1:]))
            kwargs = {key: self.cut(argument, dict(sizes)) for key, argument in kwargs.items()}
        elif func is functional.linear:
            x, weight, bias = (*args, *kwargs.values(), None)[:3]
            weight = self.cut(weight, {1: x.shape[-1]}, out=0)
            args, kwargs = (x, weight, self.cut(bias, {0: weight.shape[0]})), {}
        return func(*args, **kwargs)

    def convolution(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Any = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> tuple[Any, ...]:
        channels = x.shape[1]
        if groups > 1 and weight.shape[1] == 1:
            multiplier = weight.shape[0] // groups
            weight, groups = self.cut(weight, {0: channels * multiplier}), channels
        else:
            weight = self.cut(weight, {1: channels // groups}, out=0)
        return x, weight, self.cut(bias, {0: weight.shape[0]}), stride, padding, dilation, groups

    def cut(self, tensor: Any, sizes: dict[int, int], out: int | None = None) -> Any:
        """The beginning of a parameter along some dimensions, noted; anything else as it is."""
        name = self.names.get(id(tensor))
        if name is None:
            return tensor
        if out is not None and (name, out) in self.wanted:
            sizes[out] = self.wanted[name, out]
        result = tensor
        for axis, size in sizes.items():
            result = result.narrow(axis, 0, size)
        self.shapes[name] = tuple(result.shape)
        return result


_CONVOLUTIONS = (torch.conv1d, torch.conv2d, torch.conv3d)
_PER_CHANNEL = (torch.batch_norm, functional.batch_norm, torch.instance_norm, functional.instance_norm, torch.prelu)


def _lives(channels: Channels) -> dict[int, Life]:
    """What each channel goes through, by its representative."""
    counts: dict[int, dict[Site, int]] = defaultdict(lambda: defaultdict(int))
    for site, labels in channels.labels.sites.items():
        for root in channels.labels.roots(labels).tolist():
            counts[root][site] += 1
    return {root: frozenset(sites.items()) for root, sites in counts.items()}


def _scores(exact: Channels, context: Context, criterion: Criterion) -> dict[int, float]:
    """The importance of each channel that has others with the same life."""
    scores = criterion.score(exact.groups, exact, context)
    return {
        label: score
        for group, values in zip(exact.groups, scores, strict=True)
        for label, score in zip(group.labels.tolist(), values.tolist(), strict=True)
    }


def _assign(
    exact: Channels, target: Channels, scores: Mapping[int, float]
) -> tuple[dict[Site, tuple[int, ...]], list[int]] | None:
    """For each dimension that changes, the original indices in the new order; and the channels that are gone.

    None where a place of the narrow network leads a life that too few of the original channels lead.
    """
    originals: dict[Life, list[int]] = defaultdict(list)
    for root, life in sorted(_lives(exact).items()):
        originals[life].append(root)
    places: dict[Life, list[int]] = defaultdict(list)
    for root, life in sorted(_lives(target).items()):
        places[life].append(root)
    original_of: dict[int, int] = {}
    for life, roots in places.items():
        if len(originals[life]) < len(roots):
            return None
        best = sorted(originals[life], key=lambda root: -scores.get(root, 0.0))[: len(roots)]
        original_of.update(zip(roots, sorted(best), strict=True))
    orders: dict[Site, tuple[int, ...]] = {}
    for site, labels in exact.labels.sites.items():
        if site not in target.labels.sites:
            return None
        indices: dict[int, list[int]] = defaultdict(list)
        for index, root in enumerate(exact.labels.roots(labels).tolist()):
            indices[root].append(index)
        new = target.labels.roots(target.labels.sites[site]).tolist()
        chosen = tuple(indices[original_of[root]].pop(0) for root in new)
        if chosen != tuple(range(len(labels))):
            orders[site] = chosen
    gone = set().union(*originals.values()) - set(original_of.values())
    return orders, sorted(gone)
