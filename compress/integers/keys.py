"""Keys of encodings that outlive a trace: by layer and output, not by the names that a version of torch gives to nodes.

``layer1.0.conv1:output`` is what that module yields, ``layer1.0:add`` what an addition in the code of ``layer1.0``
does; the second time that a module or an operation in it is called, ``.2`` follows. ``:input`` is the network's first
input, and ``tokens:value`` a parameter as a value that weights multiply. Encodings of weights have the parameters' own
names, which hold no colon.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from typing import TypeVar

from torch import Tensor
from torch.fx import Node

from ..errors import InvalidInput
from ..graph.trace import Graph, named_tensors
from .encoding import Encoding
from .placement import NOTHING

PARTS = ("_gate", "_shifted", "_scaled")
"""Ends of the names of nodes that an activation function is decomposed into; see :mod:`compress.integers.decompose`."""

T = TypeVar("T")


def keys_of(graph: Graph) -> dict[str, str]:
    """The key of every placeholder and of every call that computes tensors, by the name of its node.

    Operations that do nothing in evaluation have none.
    """
    calls = [node for node in graph.calls() if node.target not in NOTHING and _computes(node)]
    operations: dict[str, set[str]] = {}
    for node in calls:
        operations.setdefault(graph.layer(node), set()).add(_operation(node))
    modules = dict(graph.model.named_modules())
    seen: Counter[str] = Counter()
    keys: dict[str, str] = {}
    tensors = {name for name, _ in named_tensors(graph.model)}
    for node in graph.nodes:
        if node.op == "placeholder":
            name = graph.tensor_name(node)
            own = ":input" if name is None else f"{name}:value" if name in tensors else ":constant"
            keys[node.name] = _numbered(own, seen)
    for node in calls:
        layer = graph.layer(node)
        module = modules.get(layer)
        alone = layer and module is not None and not any(module.children()) and len(operations[layer]) == 1
        keys[node.name] = _numbered(f"{layer}:{'output' if alone else _operation(node)}", seen)
    return keys


def digest_of(graph: Graph) -> str:
    """SHA-256 of the keys of a graph, and of which of them read which: the same for two traces of one structure."""
    keys = keys_of(graph)
    digest = hashlib.sha256()
    for node in graph.nodes:
        if node.name in keys:
            digest.update(f"{keys[node.name]} {_operation(node)} {' '.join(_read(node, keys))}\n".encode())
    return digest.hexdigest()


def with_keys(graph: Graph, encodings: Mapping[str, Encoding]) -> dict[str, Encoding]:
    """``encodings``, by the names of nodes of ``graph``, by keys instead; those of parameters keep their names.

    Raises:
        InvalidInput: an encoding is of no tensor of this graph.
    """
    return _renamed(graph, encodings, keys_of(graph))


def with_nodes(graph: Graph, encodings: Mapping[str, Encoding]) -> dict[str, Encoding]:
    """``encodings``, by keys, by the names of nodes of ``graph`` instead: undoes :func:`with_keys`, in any trace.

    Raises:
        InvalidInput: an encoding is of no tensor of this graph.
    """
    return _renamed(graph, encodings, {key: name for name, key in keys_of(graph).items()})


def _renamed(graph: Graph, encodings: Mapping[str, T], names: Mapping[str, str]) -> dict[str, T]:
    tensors = {name for name, _ in named_tensors(graph.model)}
    renamed = {}
    for name, encoding in encodings.items():
        stem, end = next(((name.removesuffix(part), part) for part in PARTS if name.endswith(part)), (name, ""))
        new = name if name in tensors else names.get(name) or (f"{names[stem]}{end}" if stem in names else None)
        if new is None:
            raise InvalidInput(
                f"encodings: {name!r} is no tensor of this network; they were made for another one, quantize again"
            )
        renamed[new] = encoding
    return renamed


def _numbered(key: str, seen: Counter[str]) -> str:
    seen[key] += 1
    return key if seen[key] == 1 else f"{key}.{seen[key]}"


def _computes(node: Node) -> bool:
    """Whether ``node`` yields a tensor, or several; not the size of one, for instance."""
    value = node.meta.get("val")
    return isinstance(value, Tensor) or (isinstance(value, tuple | list) and any(isinstance(x, Tensor) for x in value))


def _operation(node: Node) -> str:
    """The name of an operation without its overload, and whether it works in place: "add", "conv2d", "getitem"."""
    name = str(getattr(node.target, "_opname", None) or getattr(node.target, "__name__", node.target))
    return "input" if node.op == "placeholder" else name.strip("_")


def _read(node: Node, keys: Mapping[str, str]) -> list[str]:
    """The keys of what ``node`` reads, past operations that do nothing."""
    read = []
    for source in node.all_input_nodes:
        while source.name not in keys and source.target in NOTHING and source.all_input_nodes:
            source = source.all_input_nodes[0]
        read.append(keys.get(source.name, ""))
    return [key for key in read if key]
