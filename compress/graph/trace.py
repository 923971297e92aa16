"""One trace for everyone: the graph of a network, from ``torch.export``, with the way back to its modules and source.

Folding, pruning, costing, quantization and the exporters all read this graph, so that a layer is known by what flows
through it and never by the order or the names of modules.
"""

from __future__ import annotations

import gc
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import Node
from torch.nn import functional
from torch.utils._pytree import tree_unflatten

from ..errors import InvalidInput, first_line


def one_sample(inputs: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """The inputs, cut to the first sample; one without dimensions stays as it is.

    So do all where they have no number of samples in common, as a sequence and the state that it starts from.
    """
    inputs = tuple(inputs)
    if len({x.shape[0] for x in inputs if x.ndim}) > 1:
        return inputs
    return tuple(x[:1] if x.ndim else x for x in inputs)


@dataclass(frozen=True)
class Graph:
    """A traced network: ``program.graph`` holds ATen operations in the order in which they run.

    ``model`` is the network that was traced (its parameters are the program's own, not copies).
    """

    model: nn.Module
    program: ExportedProgram

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Every node: placeholders (parameters, buffers, inputs), calls, output."""
        return tuple(self.program.graph.nodes)

    def calls(self, *operations: object) -> Iterator[Node]:
        """The call nodes, or those that call one of ``operations`` (as ``torch.ops.aten.relu.default``)."""
        for node in self.program.graph.nodes:
            if node.op == "call_function" and (not operations or node.target in operations):
                yield node

    @cached_property
    def _tensor_names(self) -> dict[str, str]:
        signature = self.program.graph_signature
        stored = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        first = first_names(self.model)
        return {
            **{node: first.get(name, name) for node, name in stored.items()},
            **signature.inputs_to_lifted_tensor_constants,
        }

    def tensor_name(self, node: object) -> str | None:
        """The qualified name ("layer1.0.conv1.weight") of the parameter or buffer that ``node`` stands for, if any.

        A tensor of several names has the one that :func:`first_names` tells, wherever it is read.
        """
        return self._tensor_names.get(node.name) if isinstance(node, Node) else None

    def tensor(self, node: object) -> Tensor | None:
        """The parameter or buffer that ``node`` stands for, if any."""
        name = self.tensor_name(node)
        if name is None:
            return None
        owner, _, attribute = name.rpartition(".")
        try:
            value = getattr(self.model.get_submodule(owner), attribute)
        except AttributeError:  # a constant that torch.export lifted out of the code
            value = self.program.constants.get(name)
        return value if isinstance(value, Tensor) else None

    @cached_property
    def inputs(self) -> tuple[Node, ...]:
        """The placeholders of the network's own inputs, in order."""
        names = set(self.program.graph_signature.user_inputs)
        return tuple(n for n in self.program.graph.nodes if n.op == "placeholder" and n.name in names)

    def arguments(self, inputs: tuple[Tensor, ...]) -> list[Tensor]:
        """What an interpreter of the graph is run on: the network's own tensors and ``inputs``, in its order."""
        remaining = iter(inputs)
        placeholders = (node for node in self.program.graph.nodes if node.op == "placeholder")
        tensors = (self.tensor(node) for node in placeholders)
        return [next(remaining) if tensor is None else tensor for tensor in tensors]

    @cached_property
    def unused(self) -> tuple[str, ...]:
        """The names of the parameters that no operation uses, as of auxiliary classifiers in evaluation mode."""
        names = self.program.graph_signature.inputs_to_parameters
        placeholders = [node for node in self.program.graph.nodes if node.op == "placeholder" and node.name in names]
        used = {id(self.tensor(node)) for node in placeholders if node.users}  # a shared one may have two
        return tuple(names[node.name] for node in placeholders if id(self.tensor(node)) not in used)

    @cached_property
    def outputs(self) -> tuple[Node, ...]:
        """The nodes whose values the network returns, in order."""
        output = next(n for n in self.program.graph.nodes if n.op == "output")
        return tuple(n for n in output.args[0] if isinstance(n, Node))

    def nested(self, values: Sequence[Tensor]) -> Any:
        """What the network returns, from the values of its :attr:`outputs`: in the nesting that its code gives them."""
        spec = self.program.call_spec.out_spec
        leaves = list(values)
        return tree_unflatten(leaves, spec) if spec is not None and spec.num_leaves == len(leaves) else tuple(leaves)

    def layer(self, node: Node) -> str:
        """The qualified name of the module in whose forward ``node`` is called; "" is the network itself.

        A module of several names has the first of them, as in ``named_modules``.
        """
        return (self.layers(node) or ("",))[-1]

    def layers(self, node: Node) -> tuple[str, ...]:
        """The qualified names of all modules in whose forward ``node`` is called, the network ("") first."""
        stack = node.meta.get("nn_module_stack") or {}
        # A module called again carries a call count: "conv@1".
        names = (re.sub(r"@\d+", "", name) for name, _ in stack.values())
        return tuple(self.module_names.get(name, name) for name in names)

    def readers(self, tensor: Tensor) -> tuple[str, ...]:
        """The layers whose operations read a parameter or buffer, under whatever name, in the order of their calls."""
        places = [n for n in self.program.graph.nodes if n.op == "placeholder" and self.tensor(n) is tensor]
        users = {user for place in places for user in place.users}
        return tuple(dict.fromkeys(self.layer(node) for node in self.program.graph.nodes if node in users))

    @cached_property
    def module_names(self) -> dict[str, str]:
        """For every name of a module the first that it has."""
        first: dict[nn.Module, str] = {}
        return {name: first.setdefault(m, name) for name, m in self.model.named_modules(remove_duplicate=False)}

    def source(self, node: Node) -> str:
        """Where the user's code calls ``node``: "net.py:14: x = self.fc(x)", the innermost line outside of torch."""
        lines = (node.meta.get("stack_trace") or "").strip().splitlines()
        innermost = "unknown place"
        for header, code in pairwise(lines):
            match = re.match(r'\s*File "(.+)", line (\d+)', header)
            if match and "/torch/" not in match[1]:
                innermost = f"{match[1].rsplit('/', 1)[-1]}:{match[2]}: {code.strip()}"
        return innermost


def named_tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters and buffers by all their names: one that modules share is there several times."""
    return [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]


def first_names(model: nn.Module) -> dict[str, str]:
    """For every name of a parameter or buffer the one that the tensor goes by everywhere: the first that it has."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(tensor), name) for name, tensor in named_tensors(model)}


def shape_of(node: Node) -> tuple[int, ...]:
    """The shape of the tensor that ``node`` yields, as traced; a dynamic dimension reads as its traced size."""
    value = node.meta["val"]
    return tuple(int(size) for size in value.shape)


def argument(node: Node, name: str) -> Any:
    """What the call ``node`` is given for the argument ``name`` of its operation's schema, or that argument's default.

    Raises:
        KeyError: the operation has no such argument.
    """
    for place, described in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
        if described.name == name:
            return node.args[place] if place < len(node.args) else node.kwargs.get(name, described.default_value)
    raise KeyError(f"{node.target} has no argument {name!r}")


def trace(
    model: nn.Module,
    example_inputs: tuple[Tensor, ...],
    *,
    dynamic_batch: bool = False,
    dynamic_size: bool = False,
    training: bool = False,
) -> Graph:
    """The graph of ``model`` in evaluation mode on inputs of these shapes; the model's mode is left as it was.

    Args:
        training: trace what training runs instead (auxiliary classifiers); a batch of one is doubled.
        dynamic_batch: let the first dimension of every input vary, where the network allows it; where its code fixes
            the batch, the trace falls back to the given size.
        dynamic_size: let height and width of images (N, C, H, W) vary as well.

    Raises:
        InvalidInput: the network does not run on these inputs, its code cannot be traced, or it fixes the size of the
            images that shall vary.
    """
    modes = {module: module.training for module in model.modules()}
    model.train(training)
    if training:
        example_inputs = tuple(torch.cat([x, x]) if x.ndim and x.shape[0] == 1 else x for x in example_inputs)
    try:
        with warnings.catch_warnings(), without_collection():
            warnings.simplefilter("ignore")
            if dynamic_batch or dynamic_size:
                # A dimension of size 1 would be traced as a constant.
                doubled = tuple(torch.cat([x, x]) if x.ndim and x.shape[0] == 1 else x for x in example_inputs)
                varying = {0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO} if dynamic_size else {0: Dim.AUTO}
                shapes = tuple({d: v for d, v in varying.items() if d < x.ndim} if x.ndim else None for x in doubled)
                with suppress(Exception):  # whatever the reason, the static trace below decides
                    traced = Graph(model, torch.export.export(model, doubled, dynamic_shapes=shapes, strict=False))
                    if not dynamic_size or (_sizes_vary(traced) and _runs_larger(model, doubled)):
                        return traced
                if dynamic_size:
                    raise InvalidInput(
                        f"model {type(model).__name__}: its code fixes the size of its images; leave --dynamic-size out"
                    )
            return Graph(model, torch.export.export(model, example_inputs, strict=False))
    except InvalidInput:
        raise
    except Exception as error:
        shapes_text = ", ".join(str(tuple(x.shape)) for x in example_inputs)
        raise InvalidInput(
            f"model {type(model).__name__}: cannot be traced on inputs of shape {shapes_text}: {first_line(error)}"
        ) from error
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def without_collection() -> Iterator[None]:
    """Put garbage collection off: what torch allocates while it traces stays, and looking through it takes long."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _sizes_vary(graph: Graph) -> bool:
    """Whether the height and width of every image among the inputs were left open."""
    shapes = [node.meta["val"].shape for node in graph.inputs]
    return all(isinstance(size, torch.SymInt) for shape in shapes if len(shape) == 4 for size in shape[2:])


def _runs_larger(model: nn.Module, inputs: tuple[Tensor, ...]) -> bool:
    """Whether the network really takes larger images; raises what it raises if not."""
    with torch.no_grad():
        model(*(functional.interpolate(x, scale_factor=2) if x.ndim == 4 else x for x in inputs))
    return True
