"""The surgery: a network is read, what goes is chosen, cut and checked; nothing is repaired or trained here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from ...clock import Clock, Precision, Timed
from ...edits import replay
from ...errors import InvalidInput
from ...graph.trace import trace
from ...integers.target import TargetName
from ...stage import Context, Edit, Skip, evaluation_copy
from ..channels.groups import Channels, Group
from ..channels.shuffles import families, narrow
from ..channels.verify import ADVICE, difference, readable
from ..criteria import CRITERIA, Criterion
from ..latency import table as latency
from ..latency.widths import SPEED, Latencies, Search, candidates, importance
from ..select import Select
from .choose import Range, Rules, Selection, eligible, require_matches, scorable
from .goal import WORDS, Baseline, PruneGoal, count, key_of, units_at_first
from .size_model import SizeModel, Widths

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
    """A network after one surgery, what was done and what was left alone; ``baseline`` is for the next step."""

    model: nn.Module
    edits: tuple[Edit, ...]
    skipped: tuple[Skip, ...]
    baseline: Baseline | None


@dataclass(frozen=True)
class Timing:
    """How latencies are measured: in which precision, with how many threads, the folder that holds them, and whose."""

    precision: Precision = "float"
    threads: int = 1
    cache: Path | None = None
    target: TargetName | None = None

    def clock(self, context: Context) -> Clock:
        """The clock that tells how long networks take, for the target and threads of this.

        Raises:
            InvalidInput: the context has no clock, or it cannot time what this asks for.
        """
        return context.require_clock("prune: latencies are measured").on(self.target, self.threads)


@dataclass(frozen=True)
class Surgery:
    """What is cut out of a network: channels that matter least, until the goal is reached, within the rules."""

    goal: PruneGoal
    criterion: Criterion
    select: Select
    rules: Rules = field(default_factory=Rules)
    timing: Timing = field(default_factory=Timing)

    def apply(self, model: nn.Module, context: Context, baseline: Baseline | None = None, share: float = 1.0) -> Cut:
        """A smaller copy of ``model``, ``share`` of the way from the network at the beginning to the goal.

        Args:
            baseline: the network before the first step; ``model`` itself where it is None.

        Raises:
            InvalidInput: nothing can be pruned, the goal is out of reach, a pattern matches nothing, or the network's
                code holds channel counts as numbers.
        """
        context.progress("prune", 0, 4, "trace")
        report = ChannelReport.of(self, model, context)
        context.progress("prune", 1, 4, "score")
        if baseline is None:
            baseline = report.baseline()
            narrowed = self._narrowed(model, report)
            if narrowed is not None and not narrowed.edits:
                explained = {skip.layer for skip in narrowed.skipped}
                report.skipped[:] = [
                    *narrowed.skipped,
                    *(skip for skip in report.skipped if skip.layer not in explained),
                ]
            elif narrowed is not None:
                done = self.apply(narrowed.model, context, baseline, share)
                layers = {edit.layer for edit in narrowed.edits}
                skipped = (skip for skip in done.skipped if skip.layer not in layers)
                return Cut(done.model, (*narrowed.edits, *done.edits), (*narrowed.skipped, *skipped), baseline)
        step = Step(report, baseline, self.goal.after(share), last=share == 1.0)
        widths, notes = step.widths()
        removed = report.size_model.removed(widths)
        if not removed and step.last and step.selection.unchanged(widths):
            left = "; ".join(f"{skip.layer}: {skip.reason}" for skip in report.skipped[:3])
            raise InvalidInput(
                f"prune: nothing is removed: with {self.rules} every width rounds to what it was; prune more or set "
                "round_to lower" + (f" (left alone: {left})" if left else "")
            )
        context.progress("prune", 2, 4, "cut")
        pruned = evaluation_copy(model)
        changes = report.channels.edits(removed)
        replay(pruned, changes)
        context.progress("prune", 3, 4, "verify")
        wrong = difference(pruned, report.channels, removed, context) if removed else None
        if wrong is not None:
            raise InvalidInput(f"prune: the smaller network {wrong}; {ADVICE}")
        context.progress("prune", 4, 4)
        return Cut(pruned, changes, (*report.skipped, *step.selection.untouched(widths), *notes), baseline)

    def _narrowed(self, model: nn.Module, report: ChannelReport) -> Cut | None:
        """``model`` with its shuffled stages narrower, if it has any: their channels cannot go one by one."""
        shuffled = families(report.channels)
        if not shuffled:
            return None
        goal, rules = self.goal, self.rules
        ratio = goal.value if goal.name == "ratio" else 1 - goal.factor**-0.5  # inputs and outputs get narrower
        layers = [layer for family in shuffled for layer in family.layers]
        limits = [share for pattern, share in rules.limits.items() if any(fnmatch(one, pattern) for one in layers)]
        stand_in = self.criterion.stand_in
        narrowed, edits, skipped = narrow(
            model,
            report.channels,
            min(ratio, *limits) if limits else ratio,
            report.context,
            round_to=8 if rules.round_to == "measured" else rules.round_to,
            exclude=rules.exclude,
            criterion=self.criterion if stand_in is None else CRITERIA.read(stand_in),
        )
        return Cut(narrowed, edits, skipped, None)


@dataclass(frozen=True)
class ChannelReport:
    """A network as pruning sees it: its channels, the groups that may be cut, and how much each unit matters."""

    surgery: Surgery
    context: Context
    channels: Channels
    groups: list[Group]
    skipped: list[Skip]

    @classmethod
    def of(cls, surgery: Surgery, model: nn.Module, context: Context) -> ChannelReport:
        """Read ``model``, which is left as it was."""
        channels = readable(trace(evaluation_copy(model), context.example_inputs), context)
        require_matches(channels, tuple(surgery.rules.limits), "limits")
        groups, skipped = scorable(*eligible(channels, surgery.rules.exclude), channels, surgery.criterion)
        if not groups:
            reasons = "; ".join(dict.fromkeys(f"{s.layer}: {s.reason}" for s in skipped)) or "it has no channels"
            raise InvalidInput(f"prune: nothing in {type(model).__name__} can be pruned: {reasons}")
        return cls(surgery, context, channels, groups, skipped)

    @cached_property
    def scores(self) -> list[Tensor]:
        """The importance of the units of each group, (units,) each, as the criterion scores them."""
        return self.surgery.criterion.score(self.groups, self.channels, self.context)

    @cached_property
    def size_model(self) -> SizeModel:
        """The network with the least important units gone."""
        orders = [torch.argsort(score, stable=True).tolist() for score in self.scores]
        return SizeModel(self.channels, self.groups, orders)

    @cached_property
    def latencies(self) -> Latencies:
        """The network's layers in the table of latencies that the context's clock tells."""
        timing = self.surgery.timing
        clock, folder = timing.clock(self.context), timing.cache or latency.cache_folder()
        table = latency.LatencyTable(clock, folder, self.context.progress, precision=timing.precision)
        return Latencies(self.size_model, table)

    def cost(self, widths: Widths) -> float:
        """What the goal divides, with so many units of each group left."""
        name = self.surgery.goal.name
        return self.latencies.ms(widths) if name == "latency" else count(self.size_model, name, widths)

    def baseline(self) -> Baseline:
        """This network, as the one before the first step."""
        units = {key_of(group): len(group.units) for group in self.groups}
        surgery = self.surgery
        curves = surgery.select.curves(self.channels, surgery.criterion, surgery.rules.exclude, self.context)
        return Baseline(self.channels.graph.model, units, self.cost(self.size_model.whole), curves)


@dataclass(frozen=True)
class Step:
    """One step: ``goal`` is what it has to reach, relative to the network at the beginning."""

    report: ChannelReport
    baseline: Baseline
    goal: PruneGoal
    last: bool

    @property
    def rules(self) -> Rules:
        """The rules that the surgery keeps to."""
        return self.report.surgery.rules

    @cached_property
    def selection(self) -> Selection:
        """How the groups share what goes."""
        groups = self.report.groups
        firsts = units_at_first(groups, self.baseline)
        ranges: list[Range] = [self.rules.range_of(g, first) for g, first in zip(groups, firsts, strict=True)]
        curves = [self.baseline.curves.get(key_of(group)) for group in groups]
        return Selection(groups, self.report.scores, ranges, self.report.surgery.select, curves, self.report.cost)

    def widths(self) -> tuple[list[int], list[Skip]]:
        """Units to keep of each group, and what is to be told of them."""
        if self.goal.name == "latency":
            return self._latency()
        measured = self.rules.round_to == "measured"
        if self.goal.name == "ratio" and self.selection.select.of_units and not measured:
            widths = self.selection.nearest(self.goal.value)
            return widths, self.selection.held_back(widths, self.selection.wanted(self.goal.value))
        cost = self.report.cost
        budget = self.baseline.counted / self.goal.factor
        if cost(self.selection.least) > budget:
            raise self.selection.out_of_reach(
                self.goal, self.baseline.counted / cost(self.selection.least), WORDS[self.goal.name]
            )
        wanted, widths = self.selection.within(cost, budget)
        skipped: list[Skip] = []
        if measured:
            widths = self._search(wanted).within(cost, budget, widths, speed=SPEED) or widths
            skipped = self.report.latencies.skipped
        return widths, [*skipped, *self._overshot(self.baseline.counted / cost(widths))]

    def _search(self, wanted: list[float], *, all_wider: bool = False) -> Search:
        options = candidates(self.selection, wanted, all_wider=all_wider)
        return Search(self.report.latencies, options, importance(self.selection, self.report.size_model))

    def _overshot(self, reached: float) -> list[Skip]:
        """What to tell where the widths that are allowed lie so far apart that the target is passed by much."""
        asked = self.goal.factor
        if reached <= OVERSHOT * asked:
            return []
        words = f"{WORDS[self.goal.name]}: {reached:.2f} times, where {asked:.3g} were asked for"
        return [Skip("", f"{words}; wider layers would not reach it with {self.rules}")]

    def _within_ms(self, budget_ms: float) -> list[int]:
        """The most important channels whose layers take no longer than this together, or the least widths."""
        latencies = self.report.latencies
        wanted, widths = self.selection.within(latencies.ms, budget_ms)
        # A width that is as slow as a wider one makes ``wanted`` narrower than it has to be.
        return self._search(wanted, all_wider=True).within(latencies.ms, budget_ms, widths, speed=0.0) or widths

    def _latency(self) -> tuple[list[int], list[Skip]]:
        """Widths whose network, measured as a file, is so many times faster than the one at the beginning.

        The table's sum meets the goal first; then the network itself is measured, and what that says of the sum
        corrects its budget. Steps before the last are not measured.
        """
        latencies, asked = self.report.latencies, self.goal.factor
        whole_ms = self.baseline.counted
        if not self.last:
            return self._within_ms(whole_ms / asked), latencies.skipped
        network_ms = latencies.table.clock.ms(self._unpruned)
        saved_ms = network_ms * (1 - 1 / asked) / SLOPE
        tried: dict[tuple[int, ...], float] = {}
        for _ in range(ROUNDS):
            widths = tuple(self._within_ms(whole_ms - saved_ms))
            if widths in tried:
                break
            tried[widths] = reached = self._faster(widths)
            if asked <= reached <= NEAR_ENOUGH * asked:
                break
            # What the sum saves is proportional to what the network does; one percent is for noise.
            aim = 1 - 1 / (1.01 * asked)
            saved_ms = (whole_ms - latencies.ms(widths)) * aim / (1 - 1 / reached) if reached > 1.02 else 1.5 * saved_ms
        enough = [widths for widths, reached in tried.items() if reached >= asked]
        if not enough:
            raise self.selection.out_of_reach(self.goal, max(tried.values()), WORDS["latency"])
        worth: Callable[[Widths], float] = importance(self.selection, self.report.size_model)
        best = max(enough, key=worth)
        return list(best), [*latencies.skipped, *self._overshot(tried[best])]

    def _faster(self, widths: Widths) -> float:
        """How many times faster the network is with so many units left than at the beginning."""
        pruned = evaluation_copy(self.report.channels.graph.model)
        replay(pruned, self.report.channels.edits(self.report.size_model.removed(widths)))
        before_ms, after_ms = self.report.latencies.table.clock.ms_of([self._unpruned, self._timed(pruned)])
        return before_ms / after_ms

    @cached_property
    def _unpruned(self) -> Timed:
        """The network at the beginning, as it is deployed."""
        return self._timed(self.baseline.model)

    def _timed(self, network: nn.Module) -> Timed:
        context, timing = self.report.context, self.report.surgery.timing
        return latency.deployable(network, context.example_inputs, timing.precision)
