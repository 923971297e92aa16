"""The widths with the least sum of what each alone adds to the loss, within the target: an exact knapsack.

Each group of channels is cut to some widths while all others stay, what reads it is refit by least squares, and the
loss on validation samples is taken. The choice among all widths under a budget is that of Shen et al., "Structural
Pruning via Latency-Saliency Knapsack" (HALP, 2022), equation 4, with these losses and solved exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import nn

from ...core.knapsack import least_loss
from ...core.settings import setting
from ...data import Split
from ...data.batch import count_of
from ...data.split import Slice
from ...errors import InvalidInput
from ...files.outputs import write_text
from ...files.untrusted import read_json
from ...stage import Context, Findings, Samples
from ...tasks.scoring import loss_of
from ...tasks.task import Task
from ..channels.groups import Channels
from ..criteria import Criterion
from ..surgery.choose import Selection
from ..surgery.goal import Curve, Key
from . import Plan, Select

Share = Annotated[float, Field(gt=0, lt=1)]
WIDTHS = 64
"""Widths of a group that are chosen among, at most."""


class GroupLosses(Findings):
    """What a group of channels adds to the loss when it alone is cut: at each share that is gone, ascending."""

    layers: tuple[str, ...]
    number: int
    removed: tuple[Annotated[float, Field(ge=0, lt=1)], ...]
    losses: tuple[float, ...]


class Losses(Findings):
    """What every group of a network adds to the loss when it alone is cut."""

    groups: tuple[GroupLosses, ...]


class Knapsack(Select):
    """The widths with the least sum of what each layer alone adds to the validation loss, within the target."""

    shares: tuple[Share, ...] = setting(
        (0.25, 0.5, 0.75, 0.875, 0.9375),
        "Shares of a layer's channels that are tried; what lies between is interpolated.",
        hidden=True,
        min_length=1,
    )
    samples: Samples = setting(1280, "Of the validation split, that the loss is taken on.", unit="samples", hidden=True)

    of_units: ClassVar[bool] = False

    @property
    def needs_data(self) -> bool:
        """It takes the loss on the validation split."""
        return True

    def curves(
        self, channels: Channels, criterion: Criterion, exclude: tuple[str, ...], context: Context
    ) -> Mapping[Key, Curve]:
        """The rise of the loss with each share of a group gone and the layers that read it refit.

        Raises:
            InvalidInput: there are no validation samples with labels, or no calibration samples to refit on.
        """
        from ..sensitivity import numbered
        from ..surgery.goal import Curve, key_of

        record = Path(context.checkpoints, "prune-knapsack.json") if context.checkpoints is not None else None
        if record is not None and record.exists():
            scanned = Losses.model_validate(read_json(record, "checkpoint", "remove its folder"))
        else:
            scanned = self._scanned(channels, criterion, exclude, context)
            if record is not None:
                write_text(record, scanned.model_dump_json(indent=1), overwrite=True)
        known = {(group.layers, group.number): group for group in scanned.groups}
        return {
            key_of(group): Curve(found.removed, found.losses, 0.0)
            for group, number in numbered(channels.groups)
            if (found := known.get((group.layers, number))) is not None
        }

    def _scanned(self, channels: Channels, criterion: Criterion, exclude: tuple[str, ...], context: Context) -> Losses:
        from ..repair.reconstruct import reconstruct
        from ..sensitivity import numbered, trials
        from ..surgery.choose import eligible, scorable

        if context.data is None:
            raise InvalidInput("prune: the selection knapsack measures losses on validation samples; give --data")
        validation = Slice(context.data.split("validation"), self.samples)
        calibration = context.data.split("calibration")
        groups, _ = scorable(*eligible(channels, exclude), channels, criterion)
        scores = criterion.score(groups, channels, context)
        numbers = {id(group): number for group, number in numbered(channels.groups)}
        whole = channels.graph.model
        task = context.task_of(whole)
        base = mean_loss(task, whole, validation)
        records: list[GroupLosses] = []
        for group, score in zip(groups, scores, strict=True):
            context.progress("scan widths", len(records), len(groups), group.layers[0])
            losses = {}
            for trial in trials(channels, group, score, self.shares):
                reconstruct(whole, trial.network, trial.edits, calibration, seed=context.seed, read=context.read)
                losses[trial.removed] = mean_loss(task, trial.network, validation) - base
            records.append(
                GroupLosses(
                    layers=group.layers,
                    number=numbers[id(group)],
                    removed=tuple(losses),
                    losses=tuple(losses.values()),
                )
            )
        context.progress("scan widths", len(groups), len(groups))
        return Losses(groups=tuple(records))

    def plan(self, choice: Selection) -> Plan:
        """The widths of the least loss that cost no more than the share of what can be saved leaves.

        What a width saves is counted with all other groups whole, so that where the layers of two groups share a cost
        the sum is not exact: the budget is then searched for by what the choice really costs.
        """
        whole = [len(group.units) for group in choice.groups]
        options = [
            _widths(bounds.least, bounds.step, len(group.units)) if curve is not None else [len(group.units)]
            for bounds, group, curve in zip(choice.ranges, choice.groups, choice.curves, strict=True)
        ]
        costs = [
            [choice.cost([*whole[:place], width, *whole[place + 1 :]]) for width in widths]
            for place, widths in enumerate(options)
        ]
        costs = [[cost - of_group[0] for cost in of_group] for of_group in costs]
        losses = [
            [0.0 if curve is None else curve.loss(1 - width / bounds.first) for width in widths]
            for widths, bounds, curve in zip(options, choice.ranges, choice.curves, strict=True)
        ]
        most = sum(of_group[-1] for of_group in costs)

        def wanted(share: float) -> list[float]:
            places = least_loss(losses, costs, (1 - share) * most) or (0,) * len(options)
            return [float(widths[place]) for widths, place in zip(options, places, strict=True)]

        return wanted


def _widths(least: int, step: int, most: int) -> list[int]:
    """Units from ``least`` to ``most``, in multiples of ``step`` and ascending."""
    while (most - least) / step > WIDTHS:
        step *= 2
    return sorted({least, most, *range(step * -(-least // step), most, step)})


def mean_loss(task: Task, model: nn.Module, split: Split) -> float:
    """The mean of the task's loss of a network over the samples of a split."""
    total, seen = 0.0, 0
    with torch.no_grad():
        for batch in split.batches(256):
            count = count_of(batch)
            total += count * float(loss_of(task, model, batch, "prune: the selection knapsack"))
            seen += count
    return total / max(1, seen)
