"""What is to be told of a file because of how its network was made: for another target, or partly in floats."""

from __future__ import annotations

from collections.abc import Iterator

from ..integers.target import TARGETS
from ..siblings import export as exporters
from ..sources.load import Network

NAMES = 5
"""Layers that a note names."""


def notes_on(network: Network, job: exporters.format.Job) -> Iterator[str]:
    """What was chosen or learnt for another target than the file's, and which layers it computes in floats."""
    yield from _measured_elsewhere(network, job.target)
    yield from _learnt_elsewhere(network, job.target)
    if network.target != job.target:
        yield from _in_floats(job)


def _measured_elsewhere(network: Network, target: str) -> Iterator[str]:
    """A note on each choice by latency that was measured on another machine than the target."""
    for made in network.lineage:
        for measured in made.get("measured", ()):
            if measured["target"] != target:
                yield (
                    f"{made['stage']}: {measured['choice']} were chosen by latencies for {measured['target']} "
                    f"({measured['engine']} on {measured['cpu']}); those of {target} may want others"
                )


def _learnt_elsewhere(network: Network, target: str) -> Iterator[str]:
    """A note on what was fitted to integers of other values than those of the target."""
    made = next((made for made in reversed(network.lineage) if made.get("target")), None)
    if not network.encodings or made is None or made["target"] not in TARGETS or not made.get("learnt"):
        return
    if not TARGETS[made["target"]].rounds_as(TARGETS[target]):
        yield (
            f"{made['stage']}: weights and biases were fitted to the integers of {made['target']} "
            f"({', '.join(made['learnt'])}), and those of {target} have other values; quantize with --target {target}"
        )


def _in_floats(job: exporters.format.Job) -> Iterator[str]:
    """A note on the layers that have integers in the network, for each reason why they are floats in the file."""
    layers: dict[str, list[str]] = {}
    for each in job.plan.layers:
        chosen = each.encoding.restored or each.encoding.kind != "integer"
        if each.reason and not chosen and each.layer.read in job.encodings:
            layers.setdefault(each.reason, []).append(each.layer.layer)
    for reason, names in layers.items():
        more = f" and {len(names) - NAMES} more" if len(names) > NAMES else ""
        yield f"{', '.join(names[:NAMES])}{more}: {reason}"
