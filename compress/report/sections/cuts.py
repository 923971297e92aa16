"""What pruning took where: the channels and multiply-adds of every layer before and after a stage."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TypeGuard

from ..quantities import percent, plural
from ..schema import EditRecord, LayerRecord, Report, StageRecord

_WIDTH_ATTRIBUTES = ("out_channels", "out_features")


@dataclass(frozen=True)
class LayerCut:
    """A layer (or several, where ``layers`` is more than 1) before and after a stage; 0 channels after: it is gone.

    Multiply-adds are of one input, None where they are not known.
    """

    layer: str
    before: int
    after: int
    macs_before: float | None = None
    macs_after: float | None = None
    layers: int = 1

    @property
    def lost(self) -> float:
        """The share of its channels that went."""
        return 1 - self.after / self.before if self.before else 0.0

    @property
    def macs_kept(self) -> float | None:
        """The share of its multiply-adds that is left."""
        return self.macs_after / self.macs_before if self.macs_before and self.macs_after is not None else None


def stage_cuts(report: Report) -> dict[int, tuple[LayerCut, ...]]:
    """By the index of every stage that took channels or whole layers: the layers of the network, in its order.

    The layers are those with weights that the report tells the costs of, and all that were cut. Multiply-adds follow
    from the shapes of the weights: a layer computes each weight as often as before.
    """
    now = {layer.layer: _whole(layer) for layer in report.layers.before if _width(layer)}
    cuts = {}
    for index, stage in enumerate(report.stages):
        after = _after(stage, now)
        if any(cut.after < cut.before for cut in after.values()):
            cuts[index] = tuple(after.values())
        now = {
            name: replace(cut, before=cut.after, macs_before=cut.macs_after) for name, cut in after.items() if cut.after
        }
    return cuts


def title(cuts: Sequence[LayerCut]) -> str:
    """The outcome in a sentence: "12 of 48 channels went, from 2 of 3 layers; conv1 lost the most, 50 %"."""
    before, after = sum(cut.before for cut in cuts), sum(cut.after for cut in cuts)
    touched = [cut for cut in cuts if cut.after < cut.before]
    whole = [cut for cut in touched if not cut.after]
    text = f"{before - after:,} of {before:,} channels went, from {len(touched)} of {plural(len(cuts), 'layer')}"
    if whole:
        return f"{text}, {len(whole)} of which {'is' if len(whole) == 1 else 'are'} gone"
    most = max(touched, key=lambda cut: cut.lost)
    if most.lost - min(cut.lost for cut in touched) < 0.005:
        return f"{text}; {'it' if len(touched) == 1 else 'each'} lost {percent(100 * most.lost, 0)}"
    return f"{text}; {most.layer} lost the most, {percent(100 * most.lost, 0)}"


def shares(cuts: Sequence[LayerCut]) -> list[tuple[float | None, float | None]]:
    """The share of the multiply-adds of the whole network that each layer has before and after."""
    before, after = (sum(getattr(cut, side) or 0 for cut in cuts) for side in ("macs_before", "macs_after"))

    def share(part: float | None, whole: float) -> float | None:
        return part / whole if part is not None and whole else None

    return [(share(cut.macs_before, before), share(cut.macs_after, after)) for cut in cuts]


def folded(cuts: Sequence[LayerCut], most: int) -> tuple[LayerCut, ...]:
    """At most so many rows, where names allow it: neighbours under the same parent put together."""
    rows = tuple(cuts)
    for depth in range(max((cut.layer.count(".") for cut in cuts), default=0), 0, -1):
        if len(rows) <= most:
            break
        groups = groupby(cuts, key=lambda cut: ".".join(cut.layer.split(".")[:depth]))
        rows = tuple(_together(name, tuple(group)) for name, group in groups)
    return rows


def _together(name: str, cuts: Sequence[LayerCut]) -> LayerCut:
    if len(cuts) == 1:
        return cuts[0]

    def total(parts: Sequence[float | None]) -> float | None:
        known = [part for part in parts if part is not None]
        return sum(known) if len(known) == len(parts) else None

    return LayerCut(
        name,
        sum(cut.before for cut in cuts),
        sum(cut.after for cut in cuts),
        total([cut.macs_before for cut in cuts]),
        total([cut.macs_after for cut in cuts]),
        len(cuts),
    )


def _width(layer: LayerRecord) -> int | None:
    """Output channels: the last dimension for a linear layer, otherwise the second."""
    if not layer.macs or not layer.output_shape or len(layer.output_shape) < 2:
        return None
    return layer.output_shape[-1 if layer.operation == "linear" else 1]


def _whole(layer: LayerRecord) -> LayerCut:
    width = _width(layer) or 0
    return LayerCut(layer.layer, width, width, layer.macs, layer.macs)


def _is_size(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**40


def _elements(shape: object) -> int:
    """The number of elements of a tensor of this shape; 0 of what is no shape."""
    if not isinstance(shape, tuple) or len(shape) > 8:
        return 0
    return math.prod(size if _is_size(size) else 0 for size in shape)


def _after(stage: StageRecord, now: Mapping[str, LayerCut]) -> dict[str, LayerCut]:
    """Every layer as ``stage`` found it and left it."""
    cuts = {name: replace(cut, after=cut.before, macs_after=cut.macs_before) for name, cut in now.items()}
    for layer, (before, after) in _merged(stage, _WIDTH_ATTRIBUTES, "attribute").items():
        if _is_size(before) and _is_size(after):
            known = cuts.get(layer, LayerCut(layer, before, before))
            cuts[layer] = replace(known, before=before, after=after)
    for layer, (before, after) in _merged(stage, ("weight",), "tensor").items():
        known_macs = cuts[layer].macs_before if layer in cuts else None
        if known_macs is not None and _elements(before):
            left = known_macs * min(1.0, _elements(after) / _elements(before))
            cuts[layer] = replace(cuts[layer], macs_after=left)
    for edit in stage.edits:
        if edit.kind == "module" and edit.after == "Identity":
            for name in (name for name in cuts if f"{name}.".startswith(f"{edit.layer}.")):
                cuts[name] = replace(cuts[name], after=0, macs_after=0)
    return cuts


def _merged(stage: StageRecord, names: Sequence[str], kind: str) -> dict[str, tuple[object, object]]:
    """By layer, the first ``before`` and the last ``after`` of the edits of such attributes or tensors."""
    sizes: dict[str, tuple[object, object]] = {}
    edits: list[EditRecord] = [edit for edit in stage.edits if edit.kind == kind and edit.what in names]
    for edit in edits:
        sizes[edit.layer] = (sizes[edit.layer][0] if edit.layer in sizes else edit.before, edit.after)
    return sizes
