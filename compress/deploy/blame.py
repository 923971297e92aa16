"""Which operation of a network a format or its engine gets wrong, found by trying each one alone.

A converter that refuses a network, or a file that computes something else, often does not tell which operation is at
fault. Every operation of the trace is then written as a network of its own, on the values that it had, until one fails
in the same way.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.fx import Graph as FxGraph
from torch.fx import GraphModule, Node

from ..errors import CompressError
from ..graph.trace import Graph, trace
from ..graph.values import values_of
from ..siblings import export, runtimes

SECONDS = 60.0
"""For all operations together; what was not tried by then is not named."""


@dataclass(frozen=True)
class Culprit:
    """An operation that fails alone as the whole network did.

    Args:
        operation: its ATen name: "pad".
        layer: the module in whose ``forward`` it is called; "" is the network itself.
        source: the line of the user's code.
    """

    operation: str
    layer: str
    source: str

    def __str__(self) -> str:
        """ "pad in conv1 (net.py:14: x = self.conv1(x))"."""
        where = f" in {self.layer}" if self.layer else ""
        return f"{self.operation}{where}" + ("" if self.source == "unknown place" else f" ({self.source})")


def refused(name: str, job: export.format.Job, reason: str) -> Culprit | None:
    """The first operation that the exporter ``name`` refuses alone with the ``reason`` that it gave for the network."""

    def fails(alone: nn.Module, inputs: tuple[Tensor, ...], folder: Path) -> bool:
        try:
            _written(name, job, alone, inputs, folder)
        except CompressError as error:
            parts = _plain(getattr(error, "reason", "")).split("; ")
            return any(part and part in _plain(reason) for part in parts)
        return False

    return _first(job, fails)


def miscomputed(name: str, engine: str, job: export.format.Job) -> Culprit | None:
    """The first operation whose file, in float32 and alone, does not compute what it computes in torch."""

    def fails(alone: nn.Module, inputs: tuple[Tensor, ...], folder: Path) -> bool:
        try:
            written = _written(name, job, alone, inputs, folder)
            session = runtimes.runtime.load(written.file, engine)
            try:
                got = runtimes.bound.call(
                    session, runtimes.bound.Binding(written.inputs, written.outputs), [x.numpy() for x in inputs]
                )
            finally:
                session.close()
            wanted = [tensor.detach().numpy() for tensor in _tuple(alone(*(x.clone() for x in inputs)))]
            pairs = [{f"{place:03}": array for place, array in enumerate(arrays)} for arrays in (wanted, got)]
            return bool(runtimes.checks.gate.judge("float32", runtimes.checks.check.compare(*pairs)))
        except (CompressError, runtimes.errors.RuntimesError):
            return False  # an operation that cannot stand alone says nothing

    return _first(job, fails)


def _plain(reason: str) -> str:
    """A reason without the names and numbers that converters give to nodes."""
    return re.sub(r"%\w+|\d+", "", reason)


def _written(
    name: str, job: export.format.Job, alone: nn.Module, inputs: tuple[Tensor, ...], folder: Path
) -> export.format.Exported:
    plain = replace(
        job, model=alone, example_inputs=inputs, encodings={}, dynamic_batch=False, dynamic_size=False, labels=(),
        interface="float32", layout="nchw", simplify=False,
    )  # fmt: skip
    return export.format.exporter(name).export(plain, folder / f"alone{export.facts.formats()[name].suffix}")


def _first(job: export.format.Job, fails: Callable[[nn.Module, tuple[Tensor, ...], Path], bool]) -> Culprit | None:
    until = time.monotonic() + SECONDS
    try:
        graph = trace(job.model, job.example_inputs)
        with tempfile.TemporaryDirectory() as folder:
            for number, (node, alone, inputs) in enumerate(_operations(graph, job.example_inputs)):
                if time.monotonic() > until:
                    return None
                inside = Path(folder, str(number))
                inside.mkdir()
                if fails(alone, inputs, inside):
                    return Culprit(_name(node), graph.layer(node), graph.source(node))
    except Exception:  # noqa: BLE001 - the refusal stands, with or without a name
        return None
    return None


def _operations(graph: Graph, inputs: tuple[Tensor, ...]) -> Iterator[tuple[Node, nn.Module, tuple[Tensor, ...]]]:
    """Each different operation of the graph on tensors, as a network of its own, with the values that it had."""
    values = values_of(graph, inputs)
    seen: set[tuple[object, ...]] = set()
    for node in graph.calls():
        read = [each for each in dict.fromkeys(node.all_input_nodes) if graph.tensor(each) is None]
        taken = [values.get(each) for each in read]
        if not taken or not all(isinstance(x, Tensor) for x in taken) or not _is_tensors(values.get(node)):
            continue
        shapes = [(tuple(x.shape), x.dtype) for x in taken if isinstance(x, Tensor)]
        held = [tuple(t.shape) for each in node.all_input_nodes if (t := graph.tensor(each)) is not None]
        alike = (node.target, _settings(node), tuple(shapes), tuple(held))
        if alike in seen:
            continue
        seen.add(alike)
        yield node, _alone(graph, node, read), tuple(x for x in taken if isinstance(x, Tensor))


def _settings(node: Node) -> str:
    """The arguments of a call that are no tensors."""
    return str(torch.fx.map_arg((node.args, dict(node.kwargs)), lambda _: None))


def _alone(graph: Graph, node: Node, read: list[Node]) -> nn.Module:
    """``node`` as a network: it takes what ``read`` yield, and holds its own parameters."""
    root = nn.Module()
    made = FxGraph()
    placed: dict[Node, Node] = {each: made.placeholder(f"x{place}") for place, each in enumerate(read)}
    for each in node.all_input_nodes:
        tensor = graph.tensor(each)
        if tensor is not None and each not in placed:
            name = f"tensor{len(placed)}"
            root.register_buffer(name, tensor.detach())
            placed[each] = made.get_attr(name)
    made.output(made.node_copy(node, lambda each: placed[each]))
    return GraphModule(root, made).eval()


def _is_tensors(value: object) -> bool:
    return all(isinstance(each, Tensor) for each in _tuple(value))


def _tuple(value: object) -> tuple[Tensor, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)  # type: ignore[return-value]


def _name(node: Node) -> str:
    schema = getattr(node.target, "_schema", None)
    return str(schema.name if schema is not None else node.target).rpartition("::")[2].strip("_")
