"""Restore precision until a network loses no more than it may: what rounding hurts most first, as little as possible.

Every rounding is looked at alone, once (:mod:`.ranking`). Then the network is scored with the first ones of the ranking
restored: to more bits, where the target multiplies them, and where that is too little to float. How many that takes is
found by doubling and halving (:mod:`.search`), all others being in integers as they were.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn

from ...core.restoration import Restoration, RestoredGroup, amount
from ...errors import InvalidInput
from ...integers.encoding import Encoding
from ...integers.plan import plan_of
from ...integers.simulate import simulated
from ...integers.target import TARGETS
from ...stage import Context, Edit, Progress, Skip
from ...tasks.scoring import score_of
from ...tasks.task import Task
from ..budget.sensitivity import scored_split
from ..state import Job, State
from .ranking import ranked
from .search import Counts, Search, least
from .tensors import Rounded, Roundings, roundings_of, wider_weights


def require_score(context: Context, reference: nn.Module) -> None:
    """Raise InvalidInput unless there are samples, and ``reference`` has a score on them, to tell what it loses."""
    split, name = scored_split(context)
    assert isinstance(context.task, Task), "it was resolved"
    if context.task.score is None:
        raise InvalidInput(
            f"quantize: max_drop is of the task's first score, and the task {context.task.name} has none; give it one "
            "(scores), or take the task outputs"
        )
    if math.isnan(score_of(context.task, reference, split)):
        raise InvalidInput(
            f"quantize: max_drop is of {context.task.score}, and the network to quantize has none on the {name} split: "
            "there may be nothing labelled in it; give samples with labels to be found, or take the task outputs"
        )


def restore(
    state: State, job: Job, reference: nn.Module, allowed: float, *, per_channel: bool, trained: bool, widens: bool
) -> State:
    """With the precision given back without which the network would lose more than ``allowed``.

    Args:
        reference: the network before it was quantized, whose score is what there is to lose.
        allowed: in the unit of the drops of the task's first score.
        per_channel: whether weights in 8 bits instead of fewer get a range for each channel.
        trained: weights were trained as they are rounded: those in float keep what they learnt.
        widens: whether values may have 16 bits.

    Raises:
        InvalidInput: there are no samples.
    """
    state = state.placed(job)
    fitted = _Fitted.of(state, trained)
    plan = plan_of(state.graph, state.encodings, TARGETS[job.grid])
    with fitted.undone([each.layer.weight for each in plan.layers]):
        wider = wider_weights(plan, per_channel)
    roundings = roundings_of(plan, wider, TARGETS[job.grid], widens=widens)
    lost, split = _drop(reference, job.context)
    trials = _Trials(roundings, fitted, lost, job.context.progress, ranked(roundings, job.context))
    search = trials.search(allowed)
    found = search.found()
    task = job.context.task_of(state.network)
    account = Restoration(
        score=task.score or "",
        unit=task.drop_unit,
        split=split,
        allowed=allowed,
        before=search.seen[0, 0],
        after=search.seen[found],
        groups=trials.groups(search, found),
        tensors=len(roundings.tensors),
        trials=len(search.seen),
    )
    fitted.undo(trials.changed(found))
    return state.after(
        trials.edits(found), trials.skips(account, found), encodings=trials.encodings(found), restored=account
    )


def _drop(reference: nn.Module, context: Context) -> tuple[Callable[[nn.Module], float], str]:
    """What a network loses against ``reference``, and the name of the split whose samples tell it."""
    split, name = scored_split(context)
    task = context.task
    assert isinstance(task, Task), "it was resolved"
    before = score_of(task, reference, split)

    def lost(network: nn.Module) -> float:
        dropped = task.dropped(before, score_of(task, network, split))
        return math.inf if math.isnan(dropped) else dropped

    return lost, name


@dataclass
class _Fitted:
    """The weights and biases of a network that recovery fitted to its roundings, and those that it had before.

    Args:
        network: holds the fitted ones.
        before: the others, by name; none where nothing was fitted, or all of it was trained.
    """

    network: nn.Module
    before: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, state: State, trained: bool) -> _Fitted:
        if state.unrounded is None or trained:
            return cls(state.network)
        return cls(state.network, dict(state.unrounded.named_parameters()))

    @contextmanager
    def undone(self, names: Iterable[str]) -> Iterator[None]:
        """Within: these parameters are as they were before."""
        names = [name for name in names if name in self.before]
        kept = {name: self.network.get_parameter(name).detach().clone() for name in names}
        self.undo(names)
        try:
            yield
        finally:
            self._set(kept)

    def undo(self, names: Iterable[str]) -> None:
        """Give these parameters back what they were before."""
        self._set({name: self.before[name] for name in names if name in self.before})

    def _set(self, values: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, value in values.items():
                self.network.get_parameter(name).copy_(value)


@dataclass
class _Trials:
    """Forms of a quantized network with some of its roundings undone, and what each of them loses.

    Args:
        drop: what a network loses.
        ranking: the tensors, the one first that hurts most.
    """

    roundings: Roundings
    fitted: _Fitted
    drop: Callable[[nn.Module], float]
    progress: Progress
    ranking: tuple[Rounded, ...] = ()

    def search(self, allowed: float) -> Search:
        """The search for the fewest of the ranking that have to be restored."""
        everything = len(self.ranking)
        empty = least(lambda n: not self.roundings.in_integers(self.encodings((n, n))), 0, everything)
        widens = any(self.roundings.widened(tensor) for tensor in self.ranking)
        return Search(self.lost, allowed, everything if empty is None else empty - 1, everything, widens)

    def lost(self, counts: Counts) -> float:
        """What the network loses with so many of the ranking in float, and in more bits."""
        plan = plan_of(self.roundings.graph, self.encodings(counts), self.roundings.plan.target)
        with self.fitted.undone(self.changed(counts)):
            lost = self.drop(simulated(plan))
        floats, wide = counts
        self.progress("restore", wide, len(self.ranking), f"{floats} in float: {amount(lost)}")
        return lost

    def encodings(self, counts: Counts) -> dict[str, Encoding]:
        """The encodings that are left."""
        floats, wide = counts
        return self.roundings.encodings(self.ranking[:floats], self.ranking[floats:wide])

    def changed(self, counts: Counts) -> frozenset[str]:
        """The parameters that are no longer rounded as they were fitted to be: weights, and biases of floats."""
        floats, wide = counts
        weights = (tensor.names for tensor in self.ranking[:wide] if tensor.is_weight)
        layers, _ = self.roundings.floats_of(self.ranking[:floats])
        products = (each.layer for each in self.roundings.plan.layers if each.layer.layer in layers)
        return frozenset[str]().union(*weights, (product.bias for product in products if product.bias is not None))

    def groups(self, search: Search, found: Counts) -> tuple[RestoredGroup, ...]:
        """What each step gave back on the way from nothing restored to what was found."""
        made: list[RestoredGroup] = []
        steps, known = search.path(found), frozenset[str]()
        for before, after in pairwise(steps):
            floats = self.ranking[before[0] : after[0]]
            wide = [t for t in self.ranking[max(before[1], after[0]) : after[1]] if self.roundings.widened(t)]
            layers, _ = self.roundings.floats_of(floats)
            bits = dict.fromkeys("int8" if tensor.is_weight else "int16" for tensor in wide)
            made.append(
                RestoredGroup(
                    tensors=tuple(tensor.name for tensor in (*floats, *wide)),
                    layers=tuple(sorted(layers - known)),
                    precision="float" if floats else " and ".join(bits),
                    lost=search.seen[after],
                    gave_back=search.seen[before] - search.seen[after],
                )
            )
            known |= layers
        return tuple(group for group in made if group.tensors)

    def skips(self, account: Restoration, found: Counts) -> list[Skip]:
        """The layers and operations that compute in float now."""
        graph, (floats, _) = self.roundings.graph, found
        why = f"in integers the network loses {amount(account.before)} {account.unit} of {account.score}"
        layers, operations = self.roundings.floats_of(self.ranking[:floats])
        places = {node.name: graph.layer(node) for node in graph.nodes if node.name in operations}
        told = [Skip(layer, f"kept in float: {why}") for layer in sorted(layers)]
        return told + [Skip(places[name], f"{name} is kept in float: {why}") for name in sorted(places)]

    def edits(self, found: Counts) -> list[Edit]:
        """The values that have 16 bits now."""
        floats, wide = found
        values = [tensor for tensor in self.ranking[floats:wide] if not tensor.is_weight]
        widened = [tensor for tensor in values if self.roundings.widened(tensor)]
        places = (tensor.name.rpartition(":") for tensor in widened)
        return [Edit(layer, what, "int8", "int16", "precision") for layer, _, what in places]
