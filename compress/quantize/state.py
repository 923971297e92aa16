"""What the steps of quantization hand on: the network as it is by now, and what is the same for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from torch import nn

from ..core.restoration import Restoration
from ..data import Split
from ..graph.trace import Graph, trace
from ..integers.encoding import Encoding
from ..integers.placement import Placement, placement_of
from ..stage import Context, Edit, Measured, Skip
from .scheme import Scheme

if TYPE_CHECKING:
    from ..integers.target import TargetName
    from .moments import Moments


@dataclass(frozen=True)
class Job:
    """What is the same for every step.

    Args:
        split: the calibration samples; None where no step looks at any.
        count: of these, at most.
        grid: the target in whose integers weights are learnt.
        exclude: patterns of layers that stay in float.
        quantize_outputs: what the network returns is rounded too.
        needs: what the recovery methods need of the other steps.
    """

    context: Context
    scheme: Scheme
    split: Split | None
    count: int
    grid: TargetName
    exclude: tuple[str, ...] = ()
    quantize_outputs: bool = False
    needs: frozenset[str] = frozenset()

    @property
    def samples(self) -> Split:
        """The calibration samples."""
        assert self.split is not None, "a step that looks at samples says so"
        return self.split


@dataclass(frozen=True)
class State:
    """A network on its way through the steps, and the account of what was done to it.

    The network is a copy that belongs to the steps: they may change its weights in place. All else is replaced.

    Args:
        traced: the graph of the network and where its integers are, once its layers stay what they are.
        encodings: by parameter name and by node of the trace.
        apart: concatenations that run in float, so that what they join keeps ranges of its own, and why, by node.
        moments: of the outputs of layers that a batch norm was folded into, by weight name.
        levels: the encodings of weights that have few levels, by weight name.
        unrounded: the network with the weights that it had before roundings were learnt, where a step wants it.
        floats: the layers that a budget leaves in float.
        history: a record per epoch of training.
        measured: choices by latencies.
        restored: what was given back in precision, where that was asked for.
    """

    network: nn.Module
    traced: tuple[Graph, Placement] | None = None
    encodings: Mapping[str, Encoding] = field(default_factory=dict)
    apart: Mapping[str, str] = field(default_factory=dict)
    moments: Mapping[str, Moments] = field(default_factory=dict)
    levels: Mapping[str, Encoding] = field(default_factory=dict)
    unrounded: nn.Module | None = None
    floats: tuple[str, ...] = ()
    edits: tuple[Edit, ...] = ()
    skipped: tuple[Skip, ...] = ()
    history: tuple[Mapping[str, float], ...] = ()
    measured: tuple[Measured, ...] = ()
    restored: Restoration | None = None

    def after(self, edits: Iterable[Edit] = (), skipped: Iterable[Skip] = (), **changes: Any) -> State:
        """This state with ``changes``, and more in the account."""
        return replace(self, edits=(*self.edits, *edits), skipped=(*self.skipped, *skipped), **changes)

    def placed(self, job: Job) -> State:
        """With its graph, and where its integers are."""
        graph = trace(self.network, job.context.example_inputs, dynamic_batch=True)
        placement = placement_of(graph, job.exclude, results=job.quantize_outputs, apart=self.apart)
        return replace(self, traced=(graph, placement))

    def with_apart(self, job: Job, reasons: Mapping[str, str]) -> State:
        """With these concatenations in float, too, so that what they join keeps ranges of its own."""
        return replace(self, apart={**self.apart, **reasons}).placed(job)

    @property
    def graph(self) -> Graph:
        """The traced graph of the network."""
        assert self.traced is not None, "steps that read the graph come after it was traced"
        return self.traced[0]

    @property
    def placement(self) -> Placement:
        """Where the network's integers are."""
        assert self.traced is not None, "steps that read the placement come after it was found"
        return self.traced[1]
