"""Engines that average windows of integers without a change of scale: what is read and what is yielded share one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from ..graph import Graph
from ..integers.encoding import Encoding
from .sites import source_of

aten = torch.ops.aten


def pools_in_one_scale(graph: Graph, encodings: Mapping[str, Encoding]) -> dict[str, Encoding]:
    """``encodings`` in which the average of windows has the range of what it averages, and the other way round.

    Both get the smallest range that holds both, and so does every tensor that shares the encoding of either, such as
    the parts of a concatenation: nothing is rounded once more. LiteRT's specification of 8-bit integers wants that of
    AVERAGE_POOL_2D ("input and outputs must all have same scale/zero_point").
    """
    found = dict(encodings)
    activations = [node.name for node in graph.nodes if node.name in found]
    for node in graph.calls(aten.avg_pool2d.default):
        source = source_of(node.args[0])
        read, made = found.get(source.name) if source is not None else None, found.get(node.name)
        if read is None or made is None or read == made or read.bits != made.bits:
            continue
        low, high = min(*read.low, *made.low), max(*read.high, *made.high)
        both = replace(read, low=(low,), high=(high,))
        found.update({name: both for name in activations if found[name] in (read, made)})
    return found
