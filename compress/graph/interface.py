"""What the inputs and outputs of a network are called, so that its files call them the same."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn
from torch.fx import Node
from torch.utils._pytree import GetAttrKey, MappingKey, SequenceKey, tree_flatten_with_path, tree_unflatten

from .trace import Graph


@dataclass(frozen=True)
class Names:
    """Of the inputs and outputs of a network, each in its order; no name stands twice."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def names_of(graph: Graph) -> Names:
    """The names that the traced network itself knows.

    A network may tell them as ``input_names`` and ``output_names``, as one that came from an ONNX file does: those of
    its file. Else inputs are called as the arguments of ``forward``. Outputs are called by their keys where ``forward``
    returns a mapping or a named tuple, else "output", or "output_0", "output_1", ... if there are several.
    """
    stated = [getattr(graph.model, attribute, None) for attribute in ("input_names", "output_names")]
    inputs = tuple(stated[0] or (node.name for node in graph.inputs))
    outputs = tuple(stated[1] or _result_names(graph))
    unique = _unique((*inputs, *outputs))
    return Names(unique[: len(inputs)], unique[len(inputs) :])


def told_by(network: nn.Module, attribute: str) -> tuple[str, ...]:
    """The names that ``network`` tells in ``attribute`` (``input_names`` or ``output_names``); none if it does not."""
    return tuple(getattr(network, attribute, None) or ())


def _result_names(graph: Graph) -> list[str]:
    """A name for each tensor that ``forward`` returns, in the order of the traced outputs."""
    structure = graph.program.call_spec.out_spec
    returned = next(node for node in graph.program.graph.nodes if node.op == "output").args[0]
    assert structure is not None and isinstance(returned, (tuple, list)), "a traced network returns a structure"
    leaves = list(returned)[len(returned) - structure.num_leaves :]
    with_paths, _ = tree_flatten_with_path(tree_unflatten(leaves, structure))
    paths = [path for path, leaf in with_paths if isinstance(leaf, Node)]
    if all(path and isinstance(path[0], (MappingKey, GetAttrKey)) for path in paths):
        return ["_".join(_key(key) for key in path) for path in paths]
    return ["output"] if len(paths) == 1 else [f"output_{number}" for number in range(len(paths))]


def _key(key: object) -> str:
    if isinstance(key, MappingKey):
        return str(key.key)
    return str(key.idx if isinstance(key, SequenceKey) else getattr(key, "name", key))


def _unique(names: Iterable[str]) -> tuple[str, ...]:
    """``names`` with a number behind those that stood before.

    >>> _unique(["x", "y", "x", "x_2", ""])
    ('x', 'y', 'x_2', 'x_2_2', 'value')
    """
    taken: dict[str, None] = {}
    for name in names:
        wanted, count = name or "value", 1
        candidate = wanted
        while candidate in taken:
            count += 1
            candidate = f"{wanted}_{count}"
        taken[candidate] = None
    return tuple(taken)
