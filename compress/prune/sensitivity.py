"""What a network loses of its score by each group of channels alone, and what each may lose for the same cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field, ValidationError, field_validator, model_validator
from torch import Tensor, nn

from ..core.complaint import first_complaint
from ..core.settings import exclude, setting
from ..data.split import Slice
from ..edits import replay
from ..errors import InvalidInput
from ..files.untrusted import read_json
from ..graph.trace import trace
from ..stage import Config, Context, Edit, Findings, Samples, evaluation_copy
from ..tasks.record import ScoreRecord, records
from ..tasks.scoring import score_of
from .channels.groups import Channels, Group
from .channels.verify import readable
from .criteria import CRITERIA, AnyCriterion
from .surgery.choose import eligible, scorable
from .surgery.goal import Curve, Key, key_of


class GroupSensitivity(Findings):
    """One group, pruned alone and not fine-tuned.

    Args:
        layers: whose output channels go together.
        number: which of the groups of these layers.
        width: their channels.
        removed: shares of the channels, ascending.
        losses: of the score with that share gone, in the unit of :attr:`Sensitivity.score`'s drops.
    """

    layers: tuple[str, ...] = Field(min_length=1)
    number: int = Field(1, ge=1, lt=2**31)
    width: int = Field(ge=1, lt=2**31)
    removed: tuple[Annotated[float, Field(ge=0, lt=1)], ...]
    losses: tuple[float, ...]

    @model_validator(mode="after")
    def _one_for_each(self) -> GroupSensitivity:
        if len(self.removed) != len(self.losses) or list(self.removed) != sorted(set(self.removed)):
            raise ValueError("expected ascending shares, and a loss for each of them")
        return self


class Sensitivity(Findings):
    """What a :class:`Scan` found.

    Args:
        ratios: shares that were asked for; each group has those of its units that are nearest.
        score: of the network as it is.
        samples: of the validation split that all scores were measured on.
        skipped: layers that were left out, and why.
    """

    criterion: str
    ratios: tuple[float, ...]
    score: ScoreRecord
    samples: int = Field(ge=1, lt=2**31)
    groups: tuple[GroupSensitivity, ...]
    skipped: tuple[tuple[str, str], ...] = ()

    @classmethod
    def read(cls, path: Path) -> Sensitivity:
        """The scan in a file, or in the folder that ``compress sensitivity`` wrote.

        Raises:
            InvalidInput: it cannot be read, or is no such file.
        """
        file = path / "sensitivity.json" if path.is_dir() else path
        content = read_json(file, "sensitivity", "write one with compress sensitivity")
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise InvalidInput(
                f"sensitivity {file}: not what compress sensitivity writes "
                f"({first_complaint(error).line('it')}); scan again"
            ) from error

    def losses(self, group: GroupSensitivity) -> list[float]:
        """What the group costs at each of ``ratios``; below zero where the network became better."""
        nearest = [min(range(len(group.removed)), key=lambda i: abs(group.removed[i] - r)) for r in self.ratios]
        return [group.losses[place] for place in nearest]

    def curves(self, channels: Channels) -> dict[Key, Curve]:
        """The curve of each group of a network, by what the group is cut on.

        Raises:
            InvalidInput: the scan is of another network.
        """
        known = {(group.layers, group.number): group for group in self.groups}
        curves = {}
        for group, number in numbered(channels.groups):
            scanned = known.get((group.layers, number))
            if scanned is None:
                continue
            if scanned.width != group.width:
                raise InvalidInput(
                    f"sensitivity: {group.layers[0]} had {scanned.width} channels when it was scanned and has "
                    f"{group.width}; scan this network"
                )
            curves[key_of(group)] = Curve(scanned.removed, scanned.losses, 100.0 / self.samples)
        if not curves:
            raise InvalidInput("sensitivity: the scan has no layer of this network; scan this network")
        return curves


class Scan(Config):
    """Prune each group alone, by several shares, and measure the task's score on the validation split.

    This is the sensitivity analysis of Li et al., "Pruning Filters for Efficient ConvNets" (2017), section 3.2, on
    groups of channels that depend on each other, without fine-tuning.
    """

    criterion: AnyCriterion = setting(CRITERIA.read("l1"), "Which channels go first, as prune has it.", common=True)
    ratios: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = setting(
        (0.25, 0.5, 0.75, 0.9), "Shares of the channels to remove, rounded to whole units.", common=True
    )
    samples: Samples = setting(
        1024, "Of the validation split, its first ones; of precisions 512, where it is left out.", common=True
    )
    exclude: tuple[str, ...] = exclude("Layers to leave out, by name or pattern (layer1.*).")

    @field_validator("ratios", mode="before")
    @classmethod
    def _numbers(cls, ratios: object) -> object:
        for ratio in ratios if isinstance(ratios, list | tuple) else ():
            try:
                float(ratio)
            except (TypeError, ValueError):
                raise ValueError(f"expected shares with commas, as 0.25,0.5, got {ratio!r:.40}") from None
        return ratios

    @field_validator("ratios")
    @classmethod
    def _ascending(cls, ratios: tuple[float, ...]) -> tuple[float, ...]:
        if not ratios or list(ratios) != sorted(set(ratios)) or not 0 < ratios[0] <= ratios[-1] < 1:
            raise ValueError(f"expected ascending shares between 0 and 1, got {ratios}")
        return ratios

    def measure(self, model: nn.Module, context: Context) -> Sensitivity:
        """What is lost with each group pruned; the network is left as it was, and the test split is not read.

        Raises:
            InvalidInput: there is no validation split that the task can score, or nothing can be pruned.
        """
        if context.data is None:
            raise InvalidInput("sensitivity: it needs data to measure a score on; give --data")
        data, context = context.data, context.of(model)
        task = context.task_of(model)
        split = Slice(data.split("validation"), self.samples)
        channels = readable(trace(evaluation_copy(model), context.example_inputs), context)
        groups, skipped = scorable(*eligible(channels, self.exclude), channels, self.criterion)
        if not groups:
            raise InvalidInput(f"sensitivity: nothing in {type(model).__name__} can be pruned")
        scores = self.criterion.score(groups, channels, context)
        names = {id(group): number for group, number in numbered(channels.groups)}
        whole = score_of(task, evaluation_copy(model), split)
        measured: list[GroupSensitivity] = []
        for group, score in zip(groups, scores, strict=True):
            context.progress("sensitivity", len(measured), len(groups), group.layers[0])
            losses = {
                trial.removed: task.dropped(whole, score_of(task, trial.network, split))
                for trial in trials(channels, group, score, self.ratios)
            }
            measured.append(
                GroupSensitivity(
                    layers=group.layers,
                    number=names[id(group)],
                    width=group.width,
                    removed=tuple(losses),
                    losses=tuple(losses.values()),
                )
            )
        context.progress("sensitivity", len(groups), len(groups))
        return Sensitivity(
            criterion=self.criterion.name,
            ratios=self.ratios,
            score=records(task, {task.score or "": whole})[0],
            samples=len(split),
            groups=tuple(measured),
            skipped=tuple((skip.layer, skip.reason) for skip in skipped),
        )


@dataclass(frozen=True)
class Trial:
    """A copy of a network with the share ``removed`` of one group gone, and the edits that made it."""

    removed: float
    network: nn.Module
    edits: tuple[Edit, ...]


def trials(channels: Channels, group: Group, scores: Tensor, shares: Sequence[float]) -> Iterator[Trial]:
    """The network with each of ``shares`` of the group gone, ascending, rounded to whole units and to one at least."""
    order = torch.argsort(scores, stable=True).tolist()
    for gone in sorted({min(len(order) - 1, max(1, round(share * len(order)))) for share in shares}):
        network = evaluation_copy(channels.graph.model)
        edits = channels.edits([group.units[i] for i in order[:gone]])
        replay(network, edits)
        yield Trial(gone / len(order), network, edits)


def numbered(groups: Sequence[Group]) -> Iterator[tuple[Group, int]]:
    """Each group with its number among those of the same layers, from 1."""
    seen: Counter[tuple[str, ...]] = Counter()
    for group in groups:
        seen[group.layers] += 1
        yield group, seen[group.layers]
