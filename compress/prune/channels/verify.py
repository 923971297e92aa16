"""Every surgery is checked: the smaller network computes what the masked one does, or nothing is cut there."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import traceback
from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ...edits import replay
from ...errors import InvalidInput
from ...graph.trace import Graph, trace
from ...stage import Context
from .groups import Channels, Group, Unit, channels
from .labels import Assumption
from .masked import masked_outputs

TOLERANCE = 1e-3
"""Of the largest output: float32 sums in another order stay far below, a wrong channel far above."""


def readable(graph: Graph, context: Context) -> Channels:
    """The channels of a traced network, every place of its code read in a way that stands a trial.

    In a trial half of the units go. The first way of every place is tried at once; where that fails, all places of a
    sort (dimensions of a grid, ties to a module's input) are read alike, and of the ways that stand, the one is taken
    that lets most go. Where none stands, the places of one kind of module are tried in all their combinations, beside
    others at which nothing is cut; and what fails then as well stays, group by group.
    """
    training = _training(graph, context)
    reading = channels(graph, training=training)
    if not reading.labels.assumed or _stands(reading, _half(reading), context) is not None:
        return _sure(reading, context)
    best: tuple[int, Channels] | None = None
    for tied in (1, 0):
        for dimension in (0, 1):
            there = _unpinned(graph, _alike(reading.labels.assumed, tied, dimension), training)
            most = sum(indices.numel() for group in there.groups for indices in group.sites.values())
            if (best is None or most > best[0]) and _stands(there, _half(there), context) is not None:
                best = (most, there)
    if best is not None and best[0] > 0:
        return _sure(best[1], context)
    return _by_kind(graph, reading, training, context)


def _sure(reading: Channels, context: Context) -> Channels:
    """``reading`` without the repairs of attributes that it stands without, where several have the same value."""
    units = _half(reading)
    for kind, names in reading.doubtful(units).items():
        for name in sorted(names):
            repaired = reading.repaired.get(kind, reading.repairable(units).get(kind, frozenset())) - {name}
            tried = dataclasses.replace(reading, repaired={**reading.repaired, kind: repaired})
            if _stands(tried, units, context) is not None:
                reading = tried
    return reading


def _alike(assumed: Sequence[Assumption], tied: int, dimension: int) -> dict[str, int]:
    """Choices that read all dimensions of grids alike, and all ties."""
    return {a.place: tied if a.ties else min(dimension, a.options - 1) for a in assumed}


def _unpinned(graph: Graph, choices: dict[str, int], training: Graph | None) -> Channels:
    """The channels by ``choices``, other ways taken where nothing could go: the last such place in the graph first,
    as it is the operations after a place (attention, which keeps the size of its heads) that pin what it yields.
    """
    reading = channels(graph, choices, training=training)
    options = {a.place: a.options for a in reading.labels.assumed if not a.ties and a.options > 1}
    first = dict(choices)
    tried: set[str] = set()
    while True:
        free = reading.labels.free
        going: dict[str, bool] = {}
        for a in reading.labels.assumed:
            going[a.place] = going.get(a.place, False) or bool(free[reading.labels.roots(a.labels)].any())
        idle = [place for place in options if not going.get(place, True)]
        left = [place for place in idle if place not in tried]
        if not left:
            break
        tried.add(left[-1])
        choices = choices | {left[-1]: (choices[left[-1]] + 1) % options[left[-1]]}
        reading = channels(graph, choices, training=training)
    if not idle:
        return reading
    return channels(graph, choices | {place: first[place] for place in idle}, training=training)


def _by_kind(graph: Graph, reading: Channels, training: Graph | None, context: Context) -> Channels:
    options = {assumption.place: assumption.options for assumption in reading.labels.assumed}
    kinds = dict.fromkeys(assumption.kind for assumption in reading.labels.assumed)
    choices: dict[str, int] = {}
    repaired: dict[str, frozenset[str]] = {}
    for kind in kinds:
        places = list(dict.fromkeys(a.place for a in reading.labels.assumed if a.kind == kind))
        others = {place: count for place, count in options.items() if place not in places} | choices
        ways = sorted(
            itertools.islice(itertools.product(*(range(options[place] + 1) for place in places)), MOST_WAYS),
            key=lambda way: sum(way[i] == options[place] for i, place in enumerate(places)),
        )
        for way in ways:
            tried = dict(zip(places, way, strict=True))
            there = channels(graph, others | tried, repaired, training)
            units = _half(there, places)
            names = _stands(there, units, context, kind) if units else None
            if names is not None:
                choices |= tried
                repaired |= {kind: names}
                break
        else:
            choices |= {place: options[place] for place in places}
    return _what_stands(channels(graph, choices, repaired, training), context)


def _what_stands(reading: Channels, context: Context) -> Channels:
    """``reading`` without the groups whose units the code does not let go: halves are tried, and halves again."""
    pending, standing = [list(reading.groups)], list[Group]()
    while pending:
        tried = pending.pop()
        units = [unit for group in (*standing, *tried) for unit in group.units[1::2]]
        wrong = _wrong(reading, units, context) if tried else None
        if wrong is None:
            standing += tried
        elif len(tried) == 1:
            reading.labels.pin(tried[0].labels, f"without it the network {wrong}")
        else:
            pending += [tried[len(tried) // 2 :], tried[: len(tried) // 2]]
    return dataclasses.replace(reading)


def _wrong(reading: Channels, units: Sequence[Unit], context: Context) -> str | None:
    """What is wrong with the network without ``units``."""
    model = reading.graph.model
    trial = copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})  # what is cut is new
    replay(trial, reading.edits(units))
    return difference(trial, reading, units, context)


def _training(graph: Graph, context: Context) -> Graph | None:
    """The graph of training mode, where evaluation leaves parameters unused that it may use."""
    if not graph.unused:
        return None
    try:
        return trace(graph.model, context.example_inputs, training=True)
    except InvalidInput:
        return None  # what evaluation does not use stays as it is


MOST_WAYS = 64
"""Combinations of ways to read the places of one kind of module that are tried."""


def _half(reading: Channels, places: Collection[str] | None = None) -> list[Unit]:
    """Every other unit, of those that pass ``places`` where these are given."""
    if places is None:
        return [unit for group in reading.groups for unit in group.units[1::2]]
    there = [a.labels for a in reading.labels.assumed if a.place in places]
    passing = set(reading.labels.roots(torch.cat(there)).tolist()) if there else set()
    return [u for group in reading.groups for u in [u for u in group.units if u.label in passing][1::2]]


def _stands(
    reading: Channels, units: Sequence[Unit], context: Context, kind: str | None = None
) -> frozenset[str] | None:
    """The attributes of the modules of ``kind`` with whose repair the trial without ``units`` succeeds, if any does."""
    names = reading.repairable(units).get(kind or "", frozenset())
    variants = [names, *([frozenset[str]()] if names else []), *(frozenset({n}) for n in names if len(names) > 1)]
    for variant in variants:
        tried = reading if kind is None else dataclasses.replace(reading, repaired={**reading.repaired, kind: variant})
        if _wrong(tried, units, context) is None:
            return variant
    return None


def difference(pruned: nn.Module, reading: Channels, removed: Sequence[Unit], context: Context) -> str | None:
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
    expected = masked_outputs(reading.graph, reading.labels, gone, inputs)
    if len(outputs) == len(expected) and all(
        a.shape == b.shape and _close(a, b) for a, b in zip(outputs, expected, strict=True)
    ):
        return None
    places = [a.place for a in reading.labels.assumed if gone & set(reading.labels.roots(a.labels).tolist())]
    return f"computes something else, likely from {places[0] if places else 'a place that is not known'}"


def _close(a: Tensor, b: Tensor) -> bool:
    if not a.is_floating_point():
        return bool((a == b).all())
    scale = float(b.abs().max()) if b.numel() else 1.0
    return bool(torch.allclose(a, b, rtol=0.0, atol=TOLERANCE * max(scale, 1e-12), equal_nan=True))


ADVICE = (
    "a channel count is likely written there as a number: take it from the tensor, as x.flatten(1) or x.shape[1] do, "
    "or keep the channels of the layers before it with exclude"
)


def _user_line(error: Exception) -> str:
    """ "net.py:14: x = x.view(-1, 512)": the innermost line outside of torch."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/torch/" not in f.filename]
    frames = [f for f in frames if f.filename != __file__]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}: {frames[-1].line}" if frames else "a place unknown"
