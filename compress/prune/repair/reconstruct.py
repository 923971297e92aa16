"""Reconstruction: the layers that read cut channels get the weights that give back the original outputs best.

He, Zhang and Sun, "Channel Pruning for Accelerating Very Deep Neural Networks" (2017), section 3.1.1, second step of
the alternation (W by least squares, the channels fixed), against the outputs of the original network as in section
3.1.2; Luo, Wu and Lin, "ThiNet" (2017), section 3.2.3, equation 7, fits only one factor per channel. Layers are taken
in the order in which they run, so that each one sees the inputs that the repaired layers before it make.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.utils.hooks import RemovableHandle

from ...core.least_squares import LeastSquares, patches
from ...core.settings import setting
from ...data import Split
from ...graph.layer_values import calls_of, input_of
from ...graph.modes import evaluating
from ...stage import Edit, Progress, Samples, Skip, silent
from ...tasks.reading import ONE_INPUT
from ...tasks.task import Inputs
from ...training.batch_norm import drawn_inputs
from . import Account, Damage, Repair

RIDGES = (1e-6, 1e-4, 1e-2, 1e-1)
"""Tried, relative to the mean square of a layer's inputs: what a few samples cannot tell stays as it was."""

HELD_OUT = 4
"""Every fourth sample is held out to judge the refit by."""

ROWS_PER_WEIGHT = 4
"""Positions in the fit for each weight of an output, and at least :data:`LEAST_ROWS`, where there are so many."""

LEAST_ROWS = 4096
MOST_INPUTS = 8192
"""Weights of an output: their normal equations take 0.5 GB at this size, and larger layers are left alone."""

TARGET_BYTES = 2**28
"""Of the outputs of the original network that are held at one time."""

SAMPLES = 512

Ridge = Annotated[float, Field(ge=0, le=1e9)]


class Reconstruct(Repair):
    """Refit the layers that lost inputs by least squares, so that their outputs are those of the network before the
    cut: He et al., "Channel Pruning" (2017), section 3.1.1.
    """

    ridges: tuple[Ridge, ...] = setting(
        RIDGES,
        "Strengths of the pull towards the weights that a layer has, relative to its inputs; the best of them on "
        "held-out samples is taken.",
        hidden=True,
        min_length=1,
    )
    samples: Samples = setting(SAMPLES, "Calibration samples of the fit, drawn at random.", unit="samples", hidden=True)

    place: ClassVar[int] = 10

    def apply(self, damage: Damage) -> Account:
        """The layers that were refit, and those that were not."""
        return reconstruct(
            damage.original,
            damage.pruned,
            damage.edits,
            damage.samples,
            samples=self.samples,
            ridges=self.ridges,
            seed=damage.context.seed,
            progress=damage.context.progress,
            read=damage.context.read,
        )


def reconstruct(
    original: nn.Module,
    pruned: nn.Module,
    edits: Iterable[Edit],
    split: Split,
    *,
    samples: int = SAMPLES,
    ridges: Sequence[float] = RIDGES,
    seed: int = 0,
    progress: Progress = silent,
    read: Inputs = ONE_INPUT,
) -> tuple[tuple[Edit, ...], tuple[Skip, ...]]:
    """What was refit in ``pruned``, in place, and what was not: the weights, and biases, of every convolution and
    linear layer whose input channels were cut.

    For each such layer, with inputs X' from ``pruned`` and outputs Y from ``original`` at the same random positions,
    ``sum ||Y - X' W - b||^2 + ridge * ||W - W0||^2`` is minimized, where W0 are the weights that the layer has. The
    sums are taken batch by batch in float64, and the outputs are those that the cut layer still has. An edit tells the
    relative output error before and after: squared errors over squared outputs on samples held out of the fit. Where no
    ridge lowers it, the layer keeps its weights and is among the skips.

    Args:
        edits: those that made ``pruned`` out of ``original``; the kind "tensor" is read.
        samples: of the split, drawn at random.
        ridges: factors tried, relative to the mean diagonal of ``X'^T X'``; 0 is plain least squares.
        read: the network's inputs out of a batch.
    """
    indices_left = _channels_left(edits)
    batches = drawn_inputs(pruned, split, samples, seed, read)
    with evaluating(original, pruned):
        if not batches:
            return (), (Skip("", "no calibration samples to refit the weights on"),)
        layers, skipped = _consumers(pruned, indices_left, batches[0])
        done: list[Edit] = []
        for part in _parts(pruned, layers):
            targets = _targets(original, pruned, part, indices_left, batches, seed)
            for layer in part:
                progress("reconstruct", layers.index(layer), len(layers), layer)
                outcome = _refit(pruned, layer, targets.pop(layer), batches, ridges)
                if isinstance(outcome, Edit):
                    done.append(outcome)
                else:
                    skipped.append(outcome)
        progress("reconstruct", len(layers), len(layers))
    return tuple(done), tuple(skipped)


def _channels_left(edits: Iterable[Edit]) -> dict[tuple[str, int], tuple[int, ...]]:
    """For each layer and dimension of its weight, the indices of the original that are left."""
    indices_left: dict[tuple[str, int], tuple[int, ...]] = {}
    for edit in edits:
        if edit.kind == "tensor" and edit.what == "weight" and edit.axis is not None and edit.kept is not None:
            earlier = indices_left.get((edit.layer, edit.axis))
            indices_left[edit.layer, edit.axis] = edit.kept if earlier is None else tuple(earlier[i] for i in edit.kept)
    return indices_left


def _consumers(
    pruned: nn.Module, indices_left: dict[tuple[str, int], tuple[int, ...]], inputs: tuple[Tensor, ...]
) -> tuple[list[str], list[Skip]]:
    """The layers to refit, in the order in which they run, and the others whose inputs were cut, with the reason."""
    modules = dict(pruned.named_modules())
    holders: dict[int, int] = {}
    for module in modules.values():
        for parameter in module.parameters(recurse=False):
            holders[id(parameter)] = holders.get(id(parameter), 0) + 1
    cut: list[str] = []
    for name, axis in indices_left:
        module = modules.get(name)
        if axis == (0 if isinstance(module, _ConvTransposeNd) else 1) and isinstance(module, (_ConvNd, nn.Linear)):
            cut.append(name)
    calls = calls_of(pruned, cut, inputs)
    skipped = [
        Skip(name, f"its weights are not refit: {reason}")
        for name in cut
        if (reason := _obstacle(modules[name], calls.count(name), holders)) is not None
    ]
    left = {skip.layer for skip in skipped}
    return [name for name in calls if name not in left], skipped


def _obstacle(module: nn.Module, calls: int, holders: dict[int, int]) -> str | None:
    if isinstance(module, _ConvTransposeNd):
        return "it is a transposed convolution"
    if calls != 1:
        return f"it is called {calls} times in a pass" if calls else "the network's code calls it in another way"
    weight = module.weight
    assert isinstance(weight, Tensor), "a layer has a weight"
    if holders[id(weight)] > 1:
        return "it shares its weight with another layer"
    if weight[0].numel() > MOST_INPUTS:
        return f"an output has {weight[0].numel():,} weights, at most {MOST_INPUTS:,} fit the normal equations"
    return None


@dataclass(frozen=True)
class _Targets:
    """What a layer of the original network yields for one batch, at random positions.

    Args:
        values: (P, outputs) of the outputs that the cut layer has.
        at: (P,) positions in the flattened output without its channels.
        sizes: of the output's spatial dimensions.
        held_out: (P,) which of them the fit does not see.
    """

    values: Tensor
    at: Tensor
    sizes: Sequence[int]
    held_out: Tensor


def _positions(module: _ConvNd | nn.Linear) -> float:
    """How many positions of a layer's output the fit and the samples held out take together."""
    return max(LEAST_ROWS, ROWS_PER_WEIGHT * module.weight[0].numel()) * HELD_OUT / (HELD_OUT - 1)


def _layer(network: nn.Module, name: str) -> _ConvNd | nn.Linear:
    module = network.get_submodule(name)
    assert isinstance(module, (_ConvNd, nn.Linear))
    return module


def _parts(pruned: nn.Module, layers: Sequence[str]) -> list[list[str]]:
    """The layers in order, as many together as have their targets in :data:`TARGET_BYTES`."""
    parts: list[list[str]] = []
    bytes_left = 0
    for name in layers:
        module = _layer(pruned, name)
        size = int(4 * _positions(module)) * len(module.weight)
        if size > bytes_left:
            parts.append([])
            bytes_left = TARGET_BYTES
        parts[-1].append(name)
        bytes_left -= size
    return parts


def _targets(
    original: nn.Module,
    pruned: nn.Module,
    layers: Sequence[str],
    indices_left: dict[tuple[str, int], tuple[int, ...]],
    batches: Sequence[tuple[Tensor, ...]],
    seed: int,
) -> dict[str, list[_Targets]]:
    """What these layers yield in the original network, batch by batch, all in one pass of it."""
    samples = sum(len(inputs[0]) for inputs in batches)
    targets: dict[str, list[_Targets]] = {name: [] for name in layers}

    def note(name: str) -> RemovableHandle:
        module, outputs = _layer(pruned, name), indices_left.get((name, 0))
        wanted = _positions(module) / samples
        generator = torch.Generator().manual_seed(seed)

        def after(_module: nn.Module, _args: tuple[Tensor, ...], result: Tensor) -> None:
            linear = isinstance(module, nn.Linear)
            count = len(batches[len(targets[name])][0])
            values = result.reshape(-1, result.shape[-1]) if linear else result.movedim(1, -1).flatten(0, -2)
            at = torch.randperm(len(values), generator=generator)[: max(1, math.ceil(wanted * count))]
            held_out = (at * count // len(values)) % HELD_OUT == HELD_OUT - 1
            values = values[at] if outputs is None else values[at][:, list(outputs)]
            targets[name].append(_Targets(values, at, () if linear else tuple(result.shape[2:]), held_out))

        return _layer(original, name).register_forward_hook(after)

    hooks = [note(name) for name in layers]
    try:
        with torch.no_grad():
            for inputs in batches:
                original(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return targets


def _refit(
    pruned: nn.Module,
    layer: str,
    targets: Sequence[_Targets],
    batches: Sequence[tuple[Tensor, ...]],
    ridges: Sequence[float],
) -> Edit | Skip:
    """Refit one layer of ``pruned`` in place, where that helps on the samples held out."""
    module = _layer(pruned, layer)
    weight, bias = _matrix(module)
    equations = LeastSquares(module.bias is not None)
    held: list[tuple[Tensor, Tensor]] = []
    for inputs, wanted in zip(batches, targets, strict=True):
        rows, values = _rows(module, input_of(pruned, module, inputs), wanted)
        fitted = ~wanted.held_out
        equations.add(rows[:, fitted], values[:, fitted].double() - _applied(rows[:, fitted], weight, bias))
        held.append((rows[:, wanted.held_out], values[:, wanted.held_out]))
    squares = sum(float(y.double().square().sum()) for _, y in held)
    if equations.count < 2 or not squares:
        return Skip(layer, "its weights are not refit: too few calibration samples, or its outputs are all zero")

    def error(weight: Tensor, bias: Tensor) -> float:
        error = sum(float((y.double() - _applied(x, weight, bias)).square().sum()) for x, y in held) / squares
        return error if math.isfinite(error) else math.inf

    before = error(weight, bias)
    refits = [(weight + delta, bias + shift) for delta, shift in map(equations.solve, ridges)]
    errors = [error(*refit) for refit in refits]
    after = min(errors)
    if not after < before:
        return Skip(
            layer,
            f"its weights are not refit: on samples held out the relative output error would go from {before:.4g} to "
            f"{after:.4g}",
        )
    _fill(module, *refits[errors.index(after)])
    return Edit(layer, "relative output error", float(f"{before:.4g}"), float(f"{after:.4g}"), kind="weights")


def _matrix(module: _ConvNd | nn.Linear) -> tuple[Tensor, Tensor]:
    """The weight as (G, inputs, outputs) and the bias as (G, outputs), in float64."""
    groups = module.groups if isinstance(module, _ConvNd) else 1
    weight = module.weight.detach().double().reshape(groups, len(module.weight) // groups, -1).mT
    bias = torch.zeros(weight.shape[0], weight.shape[2], dtype=torch.float64, device=weight.device)
    return weight, bias if module.bias is None else module.bias.detach().double().view_as(bias)


def _fill(module: _ConvNd | nn.Linear, weight: Tensor, bias: Tensor) -> None:
    with torch.no_grad():
        module.weight.copy_(weight.mT.flatten(0, 1).reshape(module.weight.shape))
        if module.bias is not None:
            module.bias.copy_(bias.flatten())


def _applied(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return rows.double() @ weight + bias[:, None, :]


def _rows(module: _ConvNd | nn.Linear, x: Tensor, wanted: _Targets) -> tuple[Tensor, Tensor]:
    """Rows (G, P, inputs) of the layer's input ``x``, and their targets (G, P, outputs)."""
    if isinstance(module, nn.Linear):
        groups, rows = 1, x.reshape(-1, 1, x.shape[-1])[wanted.at]
    else:
        groups, rows = module.groups, patches(module, x, wanted.sizes, wanted.at)
    return rows.transpose(0, 1), wanted.values.reshape(len(wanted.at), groups, -1).transpose(0, 1)
