"""Every surgery is checked: the smaller network computes what the masked one does, or nothing is cut there."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..edits import replay
from ..graph import Graph
from ..stage import Context, evaluation_copy
from .channels import Channels, Unit, channels, edits
from .masked import masked_outputs

TOLERANCE = 1e-3
"""Of the largest output: float32 sums in another order stay far below, a wrong channel far above."""


def readable(graph: Graph, context: Context) -> Channels:
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
            if difference(trial, found, units, context) is None:
                choices[place] = choice
                break
        else:
            choices[place] = idle or 0
    return channels(graph, choices)


def difference(pruned: nn.Module, found: Channels, removed: Sequence[Unit], context: Context) -> str | None:
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


ADVICE = (
    "a channel count is likely written there as a number: take it from the tensor, as x.flatten(1) or x.shape[1] do, "
    "or keep the channels of the layers before it with exclude"
)


def _user_line(error: Exception) -> str:
    """ "net.py:14: x = x.view(-1, 512)": the innermost line outside of torch."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/torch/" not in f.filename]
    frames = [f for f in frames if f.filename != __file__]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}: {frames[-1].line}" if frames else "a place unknown"
