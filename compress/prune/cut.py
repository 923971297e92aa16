"""The surgery: a network is read, what goes is chosen, cut and checked; nothing is repaired or trained here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..edits import replay
from ..errors import InvalidInput
from ..graph import trace
from ..outputs import write_text
from ..stage import Context, Edit, Skip, evaluation_copy
from . import latency
from .channels import Channels, Group
from .choose import Range, Rules, Selection, eligible, require_matches, scorable
from .counts import Counts, Kept
from .scoring import group_scores
from .sensitivity import Scan, Sensitivity
from .shuffles import families, narrow
from .target import WORDS, Beginning, Key, Target, count, key_of, units_at_first
from .verify import ADVICE, difference, readable
from .widths import SPEED, Latencies, Search, candidates, importance

if TYPE_CHECKING:
    from .prune import Prune
    from .target import Curve

ROUNDS = 5
"""Networks that are measured, at most, to meet a latency."""

SLOPE = 0.8
"""Milliseconds that a network becomes faster for each one that the sum of its layers does, before it is known: measured
for ResNet-20 in float and in int8.
"""

NEAR_ENOUGH = 1.05
OVERSHOT = 1.1


@dataclass(frozen=True)
class Cut:
    """A network after one surgery, what was done and what was left alone; ``begun`` is for the next step."""

    model: nn.Module
    edits: tuple[Edit, ...]
    skipped: tuple[Skip, ...]
    begun: Beginning | None


def cut(stage: Prune, model: nn.Module, context: Context, begun: Beginning | None = None, share: float = 1.0) -> Cut:
    """A smaller copy of ``model``, ``share`` of the way from the network at the beginning to the target of ``stage``.

    Args:
        begun: the network before the first step; ``model`` itself where it is None.

    Raises:
        InvalidInput: nothing can be pruned, the target is out of reach, a pattern matches nothing, or the network's
            code holds channel counts as numbers.
    """
    context.progress("prune", 0, 4, "trace")
    read = Reading.of(stage, model, context)
    context.progress("prune", 1, 4, "score")
    if begun is None:
        begun = read.beginning()
        narrowed = _narrowed(stage, model, read, context)
        if narrowed is not None and not narrowed.edits:
            told = {skip.layer for skip in narrowed.skipped}
            read.skipped[:] = [*narrowed.skipped, *(skip for skip in read.skipped if skip.layer not in told)]
        elif narrowed is not None:
            done = cut(stage, narrowed.model, context, begun, share)
            layers = {edit.layer for edit in narrowed.edits}
            skipped = (skip for skip in done.skipped if skip.layer not in layers)
            return Cut(done.model, (*narrowed.edits, *done.edits), (*narrowed.skipped, *skipped), begun)
    surgery = Surgery(read, begun, stage.target.after(share), last=share == 1.0)
    kept, notes = surgery.widths()
    removed = read.counts.removed(kept)
    if not removed and surgery.last and surgery.selection.unchanged(kept):
        left = "; ".join(f"{skip.layer}: {skip.reason}" for skip in read.skipped[:3])
        raise InvalidInput(
            f"prune: nothing is removed: with {surgery.rules} every width rounds to what it was; prune more or set "
            "round_to lower" + (f" (left alone: {left})" if left else "")
        )
    context.progress("prune", 2, 4, "cut")
    pruned = evaluation_copy(model)
    changes = read.found.edits(removed)
    replay(pruned, changes)
    context.progress("prune", 3, 4, "verify")
    wrong = difference(pruned, read.found, removed, context) if removed else None
    if wrong is not None:
        raise InvalidInput(f"prune: the smaller network {wrong}; {ADVICE}")
    context.progress("prune", 4, 4)
    return Cut(pruned, changes, (*read.skipped, *surgery.selection.untouched(kept), *notes), begun)


def _narrowed(stage: Prune, model: nn.Module, read: Reading, context: Context) -> Cut | None:
    """``model`` with its shuffled stages narrower, if it has any: their channels cannot go one by one."""
    found = families(read.found)
    if not found:
        return None
    target = stage.target
    ratio = target.value if target.name == "ratio" else 1 - target.factor**-0.5  # inputs and outputs get narrower
    layers = [layer for family in found for layer in family.layers]
    limits = [share for pattern, share in stage.limits.items() if any(fnmatch(layer, pattern) for layer in layers)]
    narrowed, edits, skipped = narrow(
        model,
        read.found,
        min(ratio, *limits) if limits else ratio,
        context,
        round_to=8 if stage.round_to == "measured" else stage.round_to,
        exclude=stage.exclude,
        criterion="l2" if stage.criterion == "bn_scale" else stage.criterion,
    )
    return Cut(narrowed, edits, skipped, None)


@dataclass(frozen=True)
class Reading:
    """A network as pruning sees it: its channels, the groups that may be cut, and how much each unit matters."""

    stage: Prune
    context: Context
    found: Channels
    groups: list[Group]
    skipped: list[Skip]

    @classmethod
    def of(cls, stage: Prune, model: nn.Module, context: Context) -> Reading:
        """Read ``model``, which is left as it was."""
        found = readable(trace(evaluation_copy(model), context.example_inputs), context)
        require_matches(found, tuple(stage.limits), "limits")
        groups, skipped = scorable(*eligible(found, stage.exclude), found, stage.criterion)
        if not groups:
            reasons = "; ".join(dict.fromkeys(f"{s.layer}: {s.reason}" for s in skipped)) or "it has no channels"
            raise InvalidInput(f"prune: nothing in {type(model).__name__} can be pruned: {reasons}")
        return cls(stage, context, found, groups, skipped)

    @cached_property
    def scores(self) -> list[Tensor]:
        """Of the units of each group."""
        stage = self.stage
        return group_scores(
            self.groups,
            self.found,
            stage.criterion,
            self.context,
            aggregate=stage.aggregate,
            members=stage.members,
            normalize=stage.normalize,
            batches=stage.score_batches,
        )

    @cached_property
    def counts(self) -> Counts:
        """The network with the least important units gone."""
        orders = [torch.argsort(score, stable=True).tolist() for score in self.scores]
        return Counts(self.found, self.groups, orders)

    @cached_property
    def latencies(self) -> Latencies:
        """The network's layers in the latency table of this machine."""
        clock = latency.EngineClock(self.stage.precision, self.stage.threads)
        folder = self.stage.cache or latency.cache_folder()
        return Latencies(self.counts, latency.LatencyTable(clock, folder, self.context.progress))

    def beginning(self) -> Beginning:
        """This network, as the one before the first step."""
        whole, target = self.counts.whole, self.stage.target
        total = self.latencies.ms(whole) if target.name == "latency" else count(self.counts, target.name, whole)
        units = {key_of(group): len(group.units) for group in self.groups}
        return Beginning(self.found.graph.model, units, total, self._curves())

    def _curves(self) -> Mapping[Key, Curve]:
        if self.stage.scope != "sensitivity":
            return {}
        if self.stage.sensitivity is not None:
            return Sensitivity.read(self.stage.sensitivity).curves(self.found)
        folder = self.context.checkpoints
        kept = Path(folder, "prune-sensitivity.json") if folder is not None else None
        if kept is not None and kept.exists():
            return Sensitivity.read(kept).curves(self.found)
        scan = Scan(criterion=self.stage.criterion, exclude=self.stage.exclude)
        scanned = scan.measure(self.found.graph.model, self.context)
        if kept is not None:
            write_text(kept, scanned.model_dump_json(indent=1), overwrite=True)
        return scanned.curves(self.found)


@dataclass(frozen=True)
class Surgery:
    """One step: ``target`` is what it has to reach, relative to the network at the beginning."""

    read: Reading
    begun: Beginning
    target: Target
    last: bool

    @cached_property
    def rules(self) -> Rules:
        """What limits every width."""
        stage = self.read.stage
        return Rules(stage.round_to, stage.minimum, stage.limits, len(stage.exclude))

    @cached_property
    def selection(self) -> Selection:
        """How the groups share what goes."""
        groups = self.read.groups
        firsts = units_at_first(groups, self.begun)
        ranges: list[Range] = [self.rules.range_of(g, first) for g, first in zip(groups, firsts, strict=True)]
        curves = [self.begun.curves.get(key_of(group)) for group in groups]
        return Selection(groups, self.read.scores, ranges, self.read.stage.scope, curves)

    def widths(self) -> tuple[list[int], list[Skip]]:
        """Units to keep of each group, and what is to be told of them."""
        if self.target.name == "latency":
            return self._latency()
        measured = self.read.stage.round_to == "measured"
        if self.target.name == "ratio" and self.selection.scope != "sensitivity" and not measured:
            kept = self.selection.nearest(self.target.value)
            return kept, self.selection.held_back(kept, self.selection.wanted(self.target.value))

        def cost(kept: Kept) -> float:
            return count(self.read.counts, self.target.name, kept)

        budget = self.begun.counted / self.target.factor
        if cost(self.selection.least) > budget:
            raise self.selection.out_of_reach(
                self.target, self.begun.counted / cost(self.selection.least), WORDS[self.target.name]
            )
        wanted, kept = self.selection.within(cost, budget)
        skipped: list[Skip] = []
        if measured:
            kept = self._search(wanted).within(cost, budget, kept, speed=SPEED) or kept
            skipped = self.read.latencies.skipped
        return kept, [*skipped, *self._overshot(self.begun.counted / cost(kept))]

    def _search(self, wanted: list[float], *, all_wider: bool = False) -> Search:
        options = candidates(self.selection, wanted, all_wider=all_wider)
        return Search(self.read.latencies, options, importance(self.selection, self.read.counts))

    def _overshot(self, reached: float) -> list[Skip]:
        """What to tell where the widths that are allowed lie so far apart that the target is passed by much."""
        asked = self.target.factor
        if reached <= OVERSHOT * asked:
            return []
        words = f"{WORDS[self.target.name]}: {reached:.2f} times, where {asked:.3g} were asked for"
        return [Skip("", f"{words}; wider layers would not reach it with {self.rules}")]

    def _within_ms(self, budget_ms: float) -> list[int]:
        """The most important channels whose layers take no longer than this together, or the least widths."""
        latencies = self.read.latencies
        wanted, kept = self.selection.within(latencies.ms, budget_ms)
        # A width that is as slow as a wider one makes ``wanted`` narrower than it has to be.
        return self._search(wanted, all_wider=True).within(latencies.ms, budget_ms, kept, speed=0.0) or kept

    def _latency(self) -> tuple[list[int], list[Skip]]:
        """Widths whose network, measured as a file, is so many times faster than the one at the beginning.

        The table's sum meets the target first; then the network itself is measured, and what that says of the sum
        corrects its budget. Steps before the last are not measured.
        """
        latencies, asked = self.read.latencies, self.target.factor
        whole_ms = self.begun.counted
        if not self.last:
            return self._within_ms(whole_ms / asked), latencies.skipped
        network_ms = latencies.table.clock.networks_ms([self.begun.model], self.read.context.example_inputs)[0]
        saved_ms = network_ms * (1 - 1 / asked) / SLOPE
        tried: dict[tuple[int, ...], float] = {}
        for _ in range(ROUNDS):
            kept = tuple(self._within_ms(whole_ms - saved_ms))
            if kept in tried:
                break
            tried[kept] = reached = self._faster(kept)
            if asked <= reached <= NEAR_ENOUGH * asked:
                break
            # What the sum saves is proportional to what the network does; one percent is for noise.
            aim = 1 - 1 / (1.01 * asked)
            saved_ms = (whole_ms - latencies.ms(kept)) * aim / (1 - 1 / reached) if reached > 1.02 else 1.5 * saved_ms
        enough = [kept for kept, reached in tried.items() if reached >= asked]
        if not enough:
            raise self.selection.out_of_reach(self.target, max(tried.values()), WORDS["latency"])
        worth: Callable[[Kept], float] = importance(self.selection, self.read.counts)
        best = max(enough, key=worth)
        return list(best), [*latencies.skipped, *self._overshot(tried[best])]

    def _faster(self, kept: Kept) -> float:
        """How many times faster the network is with so many units left than at the beginning."""
        pruned = evaluation_copy(self.read.found.graph.model)
        replay(pruned, self.read.found.edits(self.read.counts.removed(kept)))
        clock = self.read.latencies.table.clock
        before, after = clock.networks_ms([self.begun.model, pruned], self.read.context.example_inputs)
        return before / after
