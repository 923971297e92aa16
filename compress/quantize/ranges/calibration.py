"""Calibration: a traced network run on samples, with the values of some of its nodes shown to those who watch them.

Whatever is learnt from samples after training (ranges, means, how rounding errs) is learnt through here: samples that
do not fit the network, and values that are not finite, are refused in one place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor
from torch.fx import Interpreter, Node

from ...data import Split
from ...errors import InvalidInput, first_line
from ...graph.trace import Graph, one_sample
from ...stage import Context

BATCH = 32
BATCH_VALUES = 2**19
"""The most samples that run at once, and, where one is large, input values: more would only take memory."""

Watcher = Callable[[Tensor], None]
"""Told the value of a node for a batch, as it is computed: it may be changed in place later on, so keep a copy."""


def calibration_split(context: Context) -> Split:
    """The samples that quantization may look at.

    Raises:
        InvalidInput: there are none.
    """
    if context.data is None:
        raise InvalidInput("quantize: needs calibration samples, and no data is given; give --data")
    return context.data.split("calibration")


def observe(
    graph: Graph,
    watchers: Mapping[str, Watcher],
    split: Split,
    samples: int,
    context: Context,
    *,
    activity: str = "calibrate",
) -> None:
    """Run at most ``samples`` samples of ``split`` through ``graph``, batch by batch and without gradients.

    Args:
        watchers: told the values of the node of this name, batch by batch in order.
        activity: what the progress calls it.

    Raises:
        InvalidInput: the split is empty, its samples are not what the network takes, or a watched value is not finite.
    """
    program = _Watched(graph, watchers)
    seen = 0
    with torch.no_grad():
        for inputs, count in calibration_batches(graph, split, samples, context):
            program.run(*graph.arguments(inputs))
            seen += count
            context.progress(activity, seen, min(samples, max(len(split), seen)))


def calibration_batches(
    graph: Graph, split: Split, samples: int, context: Context, *, batch_size: int | None = None
) -> Iterator[tuple[tuple[Tensor, ...], int]]:
    """The inputs of ``graph``, batch first and on the device of the example inputs, and how many samples they are.

    At most ``samples`` in the order of ``split``. A network that was traced for one batch size only gets batches of
    that size, the last filled up with samples seen before: the number tells how many are new.

    Raises:
        InvalidInput: the split is empty, or its samples are not what the network takes.
    """
    placeholders = sum(1 for node in graph.nodes if node.op == "placeholder" and graph.tensor(node) is None)
    if placeholders != len(graph.inputs):
        raise InvalidInput("quantize: the network holds a value that is no tensor, and cannot be run in parts")
    fixed = _fixed_batch(graph)
    if batch_size is None:
        values = sum(x.numel() for x in one_sample(context.example_inputs))
        batch_size = max(1, min(BATCH, BATCH_VALUES // max(1, values)))
    seen = 0
    for batch in _batches(split, fixed or batch_size, context):
        inputs = _fitting(graph, tuple(x[: samples - seen] for x in batch))
        count = len(inputs[0])
        if fixed is not None and count != fixed:
            inputs = tuple(x.repeat(-(-fixed // count), *(1 for _ in x.shape[1:]))[:fixed] for x in inputs)
        yield tuple(x.to(given.device) for x, given in zip(inputs, context.example_inputs, strict=True)), count
        seen += count
        if seen >= samples:
            return
    if not seen:
        raise InvalidInput("quantize: the calibration split is empty; give it samples")


class _Watched(Interpreter):
    """Runs a traced program and shows the values of its nodes to their watchers."""

    def __init__(self, graph: Graph, watchers: Mapping[str, Watcher]) -> None:
        super().__init__(graph.program.graph_module)
        self.extra_traceback = False  # what goes wrong is told in one line
        self.traced = graph
        self.watchers = watchers

    def run_node(self, n: Node) -> object:
        try:
            value = super().run_node(n)
        except (IndexError, RuntimeError) as error:  # on these samples; the example inputs ran
            layer, reason = self.traced.layer(n) or n.name, first_line(error)
            raise InvalidInput(f"quantize: layer {layer!r} does not run on calibration samples: {reason}") from error
        if n.name in self.watchers:
            assert isinstance(value, Tensor), n.name
            require_finite(self.traced, n, value)
            self.watchers[n.name](value.detach())
        return value


def require_finite(graph: Graph, node: Node, value: Tensor) -> None:
    """Refuse NaN and infinity among the values of ``node``.

    Raises:
        InvalidInput: there are some.
    """
    if value.numel() and not math.isfinite(sum(float(end) for end in torch.aminmax(value))):  # which hand on NaN
        place = "the calibration samples" if node.op == "placeholder" else f"layer {graph.layer(node) or node.name!r}"
        raise InvalidInput(
            f"quantize: {place}: values are not all finite (NaN or infinity) in calibration; they come from {node.name}"
        )


def _fitting(graph: Graph, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """``inputs`` as the network takes them: whole numbers where it takes integers."""
    fitting = []
    for x, node in zip(inputs, graph.inputs, strict=True):
        expected = tuple(node.meta["val"].shape)[1:]
        if tuple(x.shape[1:]) != expected:
            raise InvalidInput(
                f"quantize: calibration samples have the shape {tuple(x.shape[1:])}, and the network was given "
                f"{tuple(int(s) for s in expected)} as example input {node.name!r}; give --data and "
                "--input-shape that agree"
            )
        dtype = node.meta["val"].dtype
        if x.dtype != dtype and not dtype.is_floating_point and not torch.equal(x.to(dtype).to(x.dtype), x):
            raise InvalidInput(
                f"quantize: calibration samples are {x.dtype}, and example input {node.name!r} of the network is "
                f"{dtype}; give whole numbers"
            )
        fitting.append(x.to(dtype))
    return tuple(fitting)


def _fixed_batch(graph: Graph) -> int | None:
    """The batch size, where the trace holds for that one only."""
    if not graph.inputs:
        return None
    size: int | torch.SymInt = graph.inputs[0].meta["val"].shape[0]
    if isinstance(size, torch.SymInt):
        number: int | None = size.node.maybe_as_int()
        return number
    return size


def _batches(split: Split, batch_size: int, context: Context) -> Iterator[tuple[Tensor, ...]]:
    for batch in split.batches(batch_size):
        tensors = context.read(batch)
        count = len(tensors[0])
        for start in range(0, count, batch_size):
            part = tuple(x[start : start + batch_size] for x in tensors)
            if len(part[0]):
                yield part
