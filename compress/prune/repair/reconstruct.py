"""Reconstruction: the layers that read cut channels get the weights that give back the original outputs best.

He, Zhang and Sun, "Channel Pruning for Accelerating Very Deep Neural Networks" (2017), section 3.1.1, second step of
the alternation (W by least squares, the channels fixed), against the outputs of the original network as in section
3.1.2; Luo, Wu and Lin, "ThiNet" (2017), section 3.2.3, equation 7, fits only one factor per channel. Layers are taken
in the order in which they run, so that each one sees the inputs that the repaired layers before it make.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from ...core.settings import setting
from ...data import Split
from ...stage import Edit, Progress, Samples, Skip, silent
from ...training.batch_norm import inputs_for
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

SAMPLES = 512
BATCH = 32

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
    """
    indices_left = _channels_left(edits)
    batches = _batches(pruned, split, samples, seed)
    modes = [(module, module.training) for network in (original, pruned) for module in network.modules()]
    original.eval()
    pruned.eval()
    try:
        if not batches:
            return (), (Skip("", "no calibration samples to refit the weights on"),)
        layers, skipped = _consumers(pruned, indices_left, batches[0])
        done: list[Edit] = []
        for count, layer in enumerate(layers):
            progress("reconstruct", count, len(layers), layer)
            outcome = _refit(original, pruned, layer, indices_left.get((layer, 0)), batches, ridges, seed)
            if isinstance(outcome, Edit):
                done.append(outcome)
            else:
                skipped.append(outcome)
        progress("reconstruct", len(layers), len(layers))
    finally:
        for module, training in modes:
            module.training = training
    return tuple(done), tuple(skipped)


def _channels_left(edits: Iterable[Edit]) -> dict[tuple[str, int], tuple[int, ...]]:
    """For each layer and dimension of its weight, the indices of the original that are left."""
    indices_left: dict[tuple[str, int], tuple[int, ...]] = {}
    for edit in edits:
        if edit.kind == "tensor" and edit.what == "weight" and edit.axis is not None and edit.kept is not None:
            earlier = indices_left.get((edit.layer, edit.axis))
            indices_left[edit.layer, edit.axis] = edit.kept if earlier is None else tuple(earlier[i] for i in edit.kept)
    return indices_left


def _batches(model: nn.Module, split: Split, samples: int, seed: int) -> list[tuple[Tensor, ...]]:
    """Inputs of ``samples`` samples, in random order."""
    batches: list[tuple[Tensor, ...]] = []
    seen = 0
    for x, _ in split.batches(min(BATCH, max(1, len(split))), shuffle_seed=(seed, 0)):
        inputs = tuple(part[: samples - seen] for part in inputs_for(model, x))
        seen += len(inputs[0])
        batches.append(inputs)
        if seen >= samples:
            break
    return batches


def _consumers(
    pruned: nn.Module, indices_left: dict[tuple[str, int], tuple[int, ...]], inputs: tuple[Tensor, ...]
) -> tuple[list[str], list[Skip]]:
    """The layers to refit, in the order in which they run, and the others whose inputs were cut, with the reason."""
    modules = dict(pruned.named_modules())
    holders: dict[int, int] = {}
    for module in modules.values():
        for parameter in module.parameters(recurse=False):
            holders[id(parameter)] = holders.get(id(parameter), 0) + 1
    calls: list[str] = []
    cut: list[str] = []
    for name, axis in indices_left:
        module = modules.get(name)
        if axis == (0 if isinstance(module, _ConvTransposeNd) else 1) and isinstance(module, (_ConvNd, nn.Linear)):
            cut.append(name)
    hooks = [
        modules[name].register_forward_pre_hook(lambda _module, _args, name=name: calls.append(name)) for name in cut
    ]
    try:
        with torch.no_grad():
            pruned(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
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


@dataclass
class LeastSquares:
    """Streaming normal equations of ``residual = X delta + shift``, for G groups at once, in float64.

    Args:
        centred: with a shift (a bias), which the ridge leaves free.
    """

    centred: bool
    count: int = 0
    xx: Tensor = field(default_factory=lambda: torch.zeros(()))
    xr: Tensor = field(default_factory=lambda: torch.zeros(()))
    x: Tensor = field(default_factory=lambda: torch.zeros(()))
    r: Tensor = field(default_factory=lambda: torch.zeros(()))

    def add(self, rows: Tensor, residuals: Tensor) -> None:
        """Take in rows (G, P, inputs) and residuals (G, P, outputs)."""
        rows, residuals = rows.double(), residuals.double()
        self.count += rows.shape[1]
        self.xx = self.xx + rows.mT @ rows
        self.xr = self.xr + rows.mT @ residuals
        self.x = self.x + rows.sum(1)
        self.r = self.r + residuals.sum(1)

    def solve(self, ridge: float) -> tuple[Tensor, Tensor]:
        """``delta`` (G, inputs, outputs) and ``shift`` (G, outputs), which is 0 where not centred."""
        xx, xr = self.xx, self.xr
        if self.centred:
            xx = xx - self.x[:, :, None] * self.x[:, None, :] / self.count
            xr = xr - self.x[:, :, None] * self.r[:, None, :] / self.count
        diagonal = xx.diagonal(dim1=-2, dim2=-1)
        regularized = xx + torch.diag_embed(ridge * diagonal.mean(-1, keepdim=True).expand_as(diagonal))
        factor, failed = torch.linalg.cholesky_ex(regularized)
        if bool(failed.any()):
            delta = torch.linalg.lstsq(regularized, xr, driver="gelsd").solution
        else:
            delta = torch.cholesky_solve(xr, factor)
        shift = torch.zeros_like(self.r)
        if self.centred:
            shift = (self.r - (self.x[:, None, :] @ delta)[:, 0]) / self.count
        return delta, shift


def _refit(
    original: nn.Module,
    pruned: nn.Module,
    layer: str,
    outputs: tuple[int, ...] | None,
    batches: Sequence[tuple[Tensor, ...]],
    ridges: Sequence[float],
    seed: int,
) -> Edit | Skip:
    """Refit one layer of ``pruned`` in place, where that helps on the samples held out."""
    module = pruned.get_submodule(layer)
    assert isinstance(module, (_ConvNd, nn.Linear))
    samples = sum(len(inputs[0]) for inputs in batches)
    wanted = max(LEAST_ROWS, ROWS_PER_WEIGHT * module.weight[0].numel()) / samples * HELD_OUT / (HELD_OUT - 1)
    generator = torch.Generator().manual_seed(seed)
    weight, bias = _matrix(module)
    equations = LeastSquares(module.bias is not None)
    held: list[tuple[Tensor, Tensor]] = []
    for inputs in batches:
        x = _seen(pruned, module, inputs, output=False)
        y = _seen(original, original.get_submodule(layer), inputs, output=True)
        rows, targets, held_out = _sampled(module, x, y, outputs, len(inputs[0]), wanted, generator)
        equations.add(rows[:, ~held_out], targets[:, ~held_out].double() - _applied(rows[:, ~held_out], weight, bias))
        held.append((rows[:, held_out], targets[:, held_out]))
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


def _sampled(
    module: _ConvNd | nn.Linear,
    x: Tensor,
    y: Tensor,
    outputs: tuple[int, ...] | None,
    samples: int,
    wanted: float,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows (G, P, inputs), targets (G, P, outputs) and which rows are held out (P,), at random positions.

    Args:
        samples: in the batch.
        wanted: positions for each of them.
    """
    if isinstance(module, nn.Linear):
        groups, targets = 1, y.reshape(-1, y.shape[-1])
    else:
        groups, targets = module.groups, y.movedim(1, -1).reshape(-1, y.shape[1])
    total = len(targets)
    at = torch.randperm(total, generator=generator)[: max(1, math.ceil(wanted * samples))]
    held_out = (at * samples // total) % HELD_OUT == HELD_OUT - 1
    rows = x.reshape(-1, 1, x.shape[-1])[at] if isinstance(module, nn.Linear) else patches(module, x, y.shape[2:], at)
    targets = targets[at] if outputs is None else targets[at][:, list(outputs)]
    return rows.transpose(0, 1), targets.reshape(len(at), groups, -1).transpose(0, 1), held_out


def patches(module: _ConvNd, x: Tensor, sizes: Sequence[int], at: Tensor) -> Tensor:
    """What a convolution of ``x`` (N, C, ...) multiplies its weights with at some outputs: (P, groups, C / groups * k).

    Args:
        sizes: of the output's spatial dimensions.
        at: (P,) positions of the flattened output (N, ...) without its channels.
    """
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    padded = pad(x, module._reversed_padding_repeated_twice, mode=mode).movedim(1, -1)
    dims = len(sizes)
    sample, *places = torch.unravel_index(at.to(x.device), (len(x), *sizes))
    index = [sample.view(-1, *(1,) * dims)]
    for d, (place, kernel) in enumerate(zip(places, module.kernel_size, strict=True)):
        reach = torch.arange(kernel, device=x.device) * module.dilation[d]
        spread = place[:, None] * module.stride[d] + reach
        index.append(spread.view(-1, *(kernel if other == d else 1 for other in range(dims))))
    windows: Tensor = padded[tuple(index)].movedim(-1, 1)  # (P, C, *kernel)
    return windows.reshape(len(at), module.groups, -1)


class _Reached(BaseException):
    """Ends a pass at the layer asked for; no code in a network catches it."""

    def __init__(self, value: Tensor) -> None:
        self.value = value


def _seen(model: nn.Module, module: nn.Module, inputs: tuple[Tensor, ...], *, output: bool) -> Tensor:
    """The input or the output of ``module`` when ``model`` runs on ``inputs``; the pass ends there."""

    def before(_module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        raise _Reached(args[0] if args else kwargs["input"])

    def after(_module: nn.Module, _args: object, result: Tensor) -> None:
        raise _Reached(result)

    hook = module.register_forward_hook(after) if output else module.register_forward_pre_hook(before, with_kwargs=True)
    try:
        with torch.no_grad():
            model(*inputs)
    except _Reached as reached:
        return reached.value
    finally:
        hook.remove()
    raise AssertionError("the layer is called once in a pass")
