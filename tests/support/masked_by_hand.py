"""A pruned network against its source without the removed channels, told from the edits and not by the pruner."""

from __future__ import annotations

import copy
import json
from collections.abc import Collection, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from compress.edits import from_json, replay, to_json
from compress.graph.trace import trace
from compress.prune import Prune
from compress.prune.channels.groups import Channels
from compress.prune.channels.masked import masked_outputs
from compress.prune.channels.verify import readable
from compress.stage import Context, Edit, Result, Skip, evaluation_copy
from tests.support.random_weights import randomized

TOLERANCE = 1e-8


class Kept(nn.Module):
    """A normalization whose statistics are of the ``kept`` channels; zeros elsewhere."""

    def __init__(self, norm: nn.Module, kept: tuple[int, ...]) -> None:
        super().__init__()
        self.norm, self.kept = norm, list(kept)
        self.normalized_shape, self.eps = getattr(norm, "normalized_shape", None), norm.eps

    def __getattr__(self, name: str) -> Any:  # what torch's own layers ask of their norms
        return self._parameters_of_norm(name) if name in ("weight", "bias") else super().__getattr__(name)

    def _parameters_of_norm(self, name: str) -> object:
        return getattr(self._modules["norm"], name)

    def forward(self, x: Tensor) -> Tensor:
        norm, kept = self.norm, self.kept
        y = torch.zeros_like(x)
        if isinstance(norm, nn.GroupNorm):
            size = norm.num_channels // norm.num_groups
            for group in range(norm.num_groups):
                here = [c for c in kept if c // size == group]
                part = x[:, here]
                centred = part - part.flatten(1).mean(1).view(-1, 1, 1, 1)
                scaled = centred / (centred.flatten(1).pow(2).mean(1).view(-1, 1, 1, 1) + norm.eps).sqrt()
                y[:, here] = scaled * norm.weight[here, None, None] + norm.bias[here, None, None]
            return y
        part = x[..., kept]
        centred = part - part.mean(-1, keepdim=True) if isinstance(norm, nn.LayerNorm) else part
        scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + norm.eps).sqrt()  # type: ignore[operator]
        bias = norm.bias[kept] if isinstance(norm, nn.LayerNorm) else 0
        y[..., kept] = scaled * norm.weight[kept] + bias  # type: ignore[index]
        return y


TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d)
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def without(
    model: nn.Module, edits: Collection[Edit], consuming: Mapping[str, tuple[int, ...]], vanishing: Collection[str]
) -> nn.Module:
    """A copy of the whole network in which nothing uses what ``edits`` take away.

    Weights of linear layers and convolutions have zeros where they would consume a removed channel, normalizations see
    the kept ones, and a module of the tests that has an attribute ``kept`` or ``kept_inputs`` is told them.

    Args:
        consuming: further parameters that consume, and along which dimensions.
        vanishing: parameters and layers whose own slices are zero: queries and keys, which meet each other.
    """
    model = copy.deepcopy(model)
    for edit in edits:
        if edit.kind != "tensor":
            continue
        assert edit.kept is not None and edit.axis is not None
        module = model.get_submodule(edit.layer)
        name = f"{edit.layer}.{edit.what}".removeprefix(".")
        tensor = getattr(module, edit.what)
        if isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)) and edit.what == "weight":
            consumes = edit.axis == (0 if isinstance(module, TRANSPOSED) else 1)
        else:
            consumes = edit.axis in consuming.get(name, ())
        if consumes or ((name in vanishing or edit.layer in vanishing) and edit.axis == 0):
            gone = [index for index in range(tensor.shape[edit.axis]) if index not in edit.kept]
            with torch.no_grad():
                tensor.index_fill_(edit.axis, torch.tensor(gone), 0)
        if isinstance(module, NORMS) and edit.what == "weight":
            parent, _, own = edit.layer.rpartition(".")
            setattr(model.get_submodule(parent), own, Kept(module, edit.kept))
        elif hasattr(module, "kept") and tensor.ndim == 1:
            module.kept = list(edit.kept)  # type: ignore[assignment]
        elif hasattr(module, "kept_inputs") and edit.axis == 1:
            module.kept_inputs = list(edit.kept)  # type: ignore[assignment]
    return model


def masked_by_rules(model: nn.Module, result: Result, context: Context, x: tuple[Tensor, ...]) -> Tensor:
    """The output of the network masked by the pruner's own rules."""
    found = readable(trace(evaluation_copy(model), context.example_inputs), context)
    (output,) = masked_outputs(found.graph, found.labels, labels_cut(found, result), x)
    return output


def labels_cut(reading: Channels, result: Result) -> set[int]:
    """The labels of the units that the edits of ``result`` leave nothing of."""
    kept = {
        (f"{edit.layer}.{edit.what}".removeprefix("."), edit.axis): set(edit.kept)
        for edit in result.edits
        if edit.kept is not None
    }
    return {
        unit.label
        for group in reading.groups
        for unit in group.units
        if any(site in kept and not kept[site] & set(indices) for site, indices in unit.cuts.items())
    }


class Halved(Protocol):
    """A result of pruning whose network is asked for attributes of its own."""

    @property
    def model(self) -> Any: ...
    @property
    def edits(self) -> tuple[Edit, ...]: ...
    @property
    def skipped(self) -> tuple[Skip, ...]: ...


def halved(
    model: nn.Module,
    *shape: int,
    ratio: float = 0.5,
    consuming: Mapping[str, tuple[int, ...]] | None = None,
    vanishing: Collection[str] = (),
    by_hand: bool = True,
    **options: object,
) -> Halved:
    """What pruning leaves of ``model``, held against its mask on other inputs, and replayed from its edits.

    Args:
        by_hand: the mask is that of :func:`without`, on a larger batch too; else it is the pruner's own.
    """
    model = randomized(model.double())
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    context = Context((x,))
    result = Prune(ratio=ratio, round_to=1, **options).apply(model, context)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        found = result.model(x)
    mask = without(model, result.edits, consuming or {}, vanishing) if by_hand else None
    expected = masked_by_rules(model, result, context, (x,)) if mask is None else mask(x).detach()
    scale = float(expected.abs().max())
    assert float(expected.std()) > 1e-6 * scale > 0, "the comparison would not see a difference"
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE * scale)
    if mask is not None:
        more = torch.cat([x, x.flip(-1), x + 1])
        torch.testing.assert_close(result.model(more), mask(more), rtol=0, atol=TOLERANCE * 10 * scale)
    assert sum(p.numel() for p in result.model.parameters()) < sum(p.numel() for p in model.parameters())
    again = copy.deepcopy(model)
    replay(again, [from_json(json.loads(json.dumps(to_json(edit)))) for edit in result.edits])
    with torch.no_grad():
        assert torch.equal(again(x), found)
    result.model.train()(x).pow(2).mean().backward()
    result.model.eval()
    return result


def shapes(model: nn.Module, *names: str) -> list[tuple[int, ...]]:
    """Of the parameters ``names``; "fc" is short for "fc.weight"."""
    tensors = dict(model.named_parameters(remove_duplicate=False))
    return [tuple((tensors.get(name) if name in tensors else tensors[f"{name}.weight"]).shape) for name in names]  # type: ignore[union-attr]
