"""Structured pruning: whole channels go, and the network becomes physically smaller."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..edits import replay
from ..errors import InvalidInput
from ..graph import Graph, trace
from ..stage import Config, Context, Edit, Result, Skip, evaluation_copy
from ..train import Training, fit
from . import criteria
from .channels import Channels, Group, Unit, channels, edits
from .masked import masked_outputs

TOLERANCE = 1e-3
"""Of the largest output: float32 sums in another order stay far below, a wrong channel far above."""


class Prune(Config):
    """Remove the least important channels. Exactly one of ``ratio`` and ``macs`` is given.

    Channels that depend on each other (residual sums, depthwise convolutions, shuffles, ...) go together; the network
    that is left equals the given one with the removed channels masked to zero, which is checked on every use, and is
    then fine-tuned if ``training`` says so.

    Args:
        ratio: share of the channels that goes: of each group (scope "layer") or of all (scope "global").
        macs: divide the multiply-adds of convolutions and matrix products by at least this.
        criterion: what makes a channel important: the l1 or l2 norm of the filters that produce it, or ``bn_scale``,
            the absolute scale of its batch normalization.
        scope: compare channels within their group, or across the network by scores relative to their layer's mean.
        round_to: widths are rounded to the nearest multiple of this and are at least this, where there are that many.
        exclude: patterns ("layer1.*") of names of layers that keep all their output channels.
        minimum: channels that every layer keeps.
        training: fine-tuning after the surgery, on the context's data, distilling from the context's teacher if any.
    """

    ratio: float | None = Field(None, gt=0, lt=1)
    macs: float | None = Field(None, gt=1)
    criterion: criteria.Criterion = "l1"
    scope: Literal["layer", "global"] = "layer"
    round_to: int = Field(8, ge=1)
    exclude: tuple[str, ...] = ()
    minimum: int = Field(1, ge=1)
    training: Training | None = None

    @model_validator(mode="after")
    def _one_target(self) -> Prune:
        if (self.ratio is None) == (self.macs is None):
            raise ValueError("give exactly one of ratio and macs")
        return self

    def apply(self, model: nn.Module, context: Context) -> Result:
        """The smaller network, of the same class and in evaluation mode, with what was cut and what was left alone.

        Raises:
            InvalidInput: nothing can be pruned, ``macs`` is out of reach, a pattern of ``exclude`` matches nothing, the
                network's code holds channel counts as numbers, or there is no data to fine-tune on.
        """
        if self.training is not None and context.data is None:
            raise InvalidInput("prune: training is set, and there is no data to train on; give data or leave it out")
        pruned = evaluation_copy(model)
        found = _readable(trace(evaluation_copy(model), context.example_inputs), context)
        groups, skipped = self._eligible(found)
        if not groups:
            reasons = "; ".join(dict.fromkeys(f"{s.layer}: {s.reason}" for s in skipped)) or "it has no channels"
            raise InvalidInput(f"prune: nothing in {type(model).__name__} can be pruned: {reasons}")
        scores = [group_scores(group, found, self.criterion) for group in groups]
        removed, untouched = self._choose(found, groups, scores)
        changes = edits(pruned, removed)
        replay(pruned, changes)
        difference = _difference(pruned, found, removed, context)
        if difference is not None:
            raise InvalidInput(f"prune: the smaller network {difference}; {_ADVICE}")
        history: list[dict[str, float]] = []
        if self.training is not None and context.data is not None:
            from ..distill import objective_for

            history = fit(
                pruned,
                context.data,
                self.training,
                objective=objective_for(context.teacher, self.training),
                seed=context.seed,
                checkpoint=Path(context.checkpoints) / "prune.ckpt" if context.checkpoints is not None else None,
                progress=context.progress,
                task="fine-tune",
            )
            pruned.eval()
            changes = (*changes, Edit("", "weights", None, f"{self.training.epochs} epochs", "weights"))
        return Result(pruned, changes, (*skipped, *untouched), history=tuple(history))

    def _eligible(self, found: Channels) -> tuple[list[Group], list[Skip]]:
        """The groups that may be cut, and the layers of all others with the reason."""
        names = [name for name, _ in found.graph.model.named_modules() if name]
        for pattern in self.exclude:
            if not any(fnmatch(name, pattern) for name in names):
                raise InvalidInput(f"prune: exclude {pattern!r} matches no layer; layers are named like {names[:3]}")
        groups, skipped = [], list(found.skipped)
        for group in found.groups:
            owners = {site[0].rpartition(".")[0] for site in (*group.filters, *group.scales)} | set(group.layers)
            excluded = sorted(o for o in owners if any(fnmatch(o, pattern) for pattern in self.exclude))
            if excluded:
                skipped += [Skip(layer, f"excluded ({', '.join(excluded)})") for layer in group.layers]
            elif self.criterion == "bn_scale" and not group.scales:
                skipped += [Skip(layer, "bn_scale: no batch normalization follows") for layer in group.layers]
            else:
                groups.append(group)
        return groups, skipped

    def _choose(
        self, found: Channels, groups: Sequence[Group], scores: Sequence[Tensor]
    ) -> tuple[list[Unit], list[Skip]]:
        orders = [torch.argsort(score, stable=True).tolist() for score in scores]

        def lowest(kept: Sequence[int]) -> list[Unit]:
            return [
                group.units[i]
                for group, order, keep in zip(groups, orders, kept, strict=True)
                for i in sorted(order[: len(order) - keep])
            ]

        def macs(kept: Sequence[int]) -> int:
            return found.macs([unit.label for unit in lowest(kept)])

        if self.ratio is not None:
            kept = self._rounded(groups, self._wanted(groups, scores, self.ratio))
        else:
            assert self.macs is not None
            kept = self._reach(found.macs() / self.macs, groups, scores, macs)
        removed = lowest(kept)
        if not removed:
            raise InvalidInput(
                f"prune: nothing is removed: with round_to={self.round_to} and minimum={self.minimum} every width "
                "rounds to what it was; prune more or set round_to lower"
            )
        untouched = [
            Skip(layer, f"{group.width} channels stay: round_to={self.round_to}, minimum={self.minimum}")
            for group, keep in zip(groups, kept, strict=True)
            if keep == len(group.units)
            for layer in group.layers
        ]
        return removed, untouched

    def _wanted(self, groups: Sequence[Group], scores: Sequence[Tensor], ratio: float) -> list[float]:
        """Units to keep of each group, before rounding."""
        if self.scope == "layer":
            return [len(group.units) * (1 - ratio) for group in groups]
        owner = torch.cat([torch.full((len(score),), index) for index, score in enumerate(scores)])
        order = owner[torch.argsort(torch.cat(list(scores)), stable=True)].tolist()
        kept = [len(group.units) for group in groups]
        to_remove = round(ratio * len(order))
        for index in order:
            if to_remove and kept[index] > self._floor(groups[index]):
                kept[index] -= 1
                to_remove -= 1
        return [float(keep) for keep in kept]

    def _step(self, group: Group) -> int:
        """Units by which the width of a group changes."""
        if group.width < self.round_to:
            return 1
        return math.lcm(self.round_to, group.per_unit) // group.per_unit

    def _floor(self, group: Group) -> int:
        step = self._step(group)
        return min(len(group.units), step * max(1, math.ceil(self.minimum / (group.per_unit * step))))

    def _rounded(self, groups: Sequence[Group], wanted: Sequence[float]) -> list[int]:
        kept = []
        for group, want in zip(groups, wanted, strict=True):
            step = self._step(group)
            nearest = step * math.floor(want / step + 0.5)
            kept.append(min(len(group.units), max(self._floor(group), nearest)))
        return kept

    def _reach(
        self, budget: float, groups: Sequence[Group], scores: Sequence[Tensor], macs: Callable[[Sequence[int]], int]
    ) -> list[int]:
        """The widths of the lowest ratio within the budget; then those rounded down the most go up where it allows."""
        low, high = 0.0, 1.0
        floors = [self._floor(group) for group in groups]
        if macs(floors) > budget:
            reachable = macs([len(group.units) for group in groups]) / macs(floors)
            raise InvalidInput(
                f"prune: macs={self.macs:g} is out of reach: at most {reachable:.2f} times fewer with "
                f"round_to={self.round_to}, minimum={self.minimum} and {len(self.exclude)} exclusions"
            )
        for _ in range(24):
            middle = (low + high) / 2
            if macs(self._rounded(groups, self._wanted(groups, scores, middle))) > budget:
                low = middle
            else:
                high = middle
        wanted = self._wanted(groups, scores, high)
        kept = self._rounded(groups, wanted)
        for index in sorted(range(len(groups)), key=lambda i: kept[i] - wanted[i]):
            if kept[index] < wanted[index]:
                wider = [*kept]
                wider[index] = min(len(groups[index].units), kept[index] + self._step(groups[index]))
                if macs(wider) <= budget:
                    kept = wider
        return kept


def group_scores(group: Group, found: Channels, criterion: criteria.Criterion) -> Tensor:
    """The importance of each unit of a group, (units,), float64: scores of each coupled layer relative to its mean,
    averaged over the layers.
    """
    tensors = dict(found.graph.model.named_parameters(remove_duplicate=False))
    if criterion == "bn_scale":
        per_site = [(site, criteria.scales(tensors[site[0]])) for site in group.scales]
    else:
        order: Literal[1, 2] = 1 if criterion == "l1" else 2
        sites = group.filters or tuple(site for site in group.units[0].cuts if site[0] in tensors)
        per_site = [(site, criteria.filter_norms(tensors[site[0]], site[1], order)) for site in sites]
    total = torch.zeros(len(group.units), dtype=torch.float64)
    for site, values in per_site:
        shares = criteria.relative(values.cpu())
        total += torch.stack([shares[list(unit.cuts[site])].mean() for unit in group.units])
    return total / max(1, len(per_site))


def _readable(graph: Graph, context: Context) -> Channels:
    """The channels of a traced network. A place that can be read in several ways is read in the first that stands a
    trial, in which all but one of the units that pass there are cut; where none does, in one that cuts nothing there.
    """
    choices: dict[str, int] = {}
    found = channels(graph)
    options = {assumption.place: assumption.options for assumption in found.labels.assumed}
    for place, count in options.items():
        idle = None
        for choice in range(count + 1):
            found = channels(graph, choices | {place: choice})
            there = [a.labels for a in found.labels.assumed if a.place == place]
            passing = set(found.labels.roots(torch.cat(there)).tolist())
            units = [u for group in found.groups for u in [u for u in group.units if u.label in passing][1:]]
            if not units:
                idle = choice if idle is None else idle
                continue
            trial = evaluation_copy(graph.model)
            replay(trial, edits(trial, units))
            if _difference(trial, found, units, context) is None:
                choices[place] = choice
                break
        else:
            choices[place] = idle or 0
    return channels(graph, choices)


def _difference(pruned: nn.Module, found: Channels, removed: Sequence[Unit], context: Context) -> str | None:
    """What tells the pruned network from the masked one, on inputs drawn at random where they are floating point."""
    generator = torch.Generator().manual_seed(context.seed)
    inputs = tuple(
        torch.randn(x.shape, generator=generator).to(x) if x.is_floating_point() else x for x in context.example_inputs
    )
    try:
        with torch.no_grad():
            outputs = [leaf for leaf in tree_leaves(pruned(*inputs)) if isinstance(leaf, Tensor)]
    except Exception as error:  # noqa: BLE001 - the user's code may raise anything
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return f"fails at {_user_line(error)} ({first_line})"
    gone = {unit.label for unit in removed}
    expected = masked_outputs(found.graph, found.labels, gone, inputs)
    if len(outputs) == len(expected) and all(
        a.shape == b.shape and _close(a, b) for a, b in zip(outputs, expected, strict=True)
    ):
        return None
    places = [a.place for a in found.labels.assumed if gone & set(found.labels.roots(a.labels).tolist())]
    return f"computes something else, likely from {places[0] if places else 'a place that is not known'}"


def _close(a: Tensor, b: Tensor) -> bool:
    if not a.is_floating_point():
        return bool((a == b).all())
    scale = float(b.abs().max()) if b.numel() else 1.0
    return bool(torch.allclose(a, b, rtol=0.0, atol=TOLERANCE * max(scale, 1e-12), equal_nan=True))


_ADVICE = (
    "a channel count is likely written there as a number: take it from the tensor, as x.flatten(1) or x.shape[1] do, "
    "or keep the channels of the layers before it with exclude"
)


def _user_line(error: Exception) -> str:
    """ "net.py:14: x = x.view(-1, 512)": the innermost line outside of torch."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/torch/" not in f.filename]
    frames = [f for f in frames if f.filename != __file__]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}: {frames[-1].line}" if frames else "a place unknown"
