"""Names of tensors: those of the network's layers, in place of the converter's paths of classes."""

from __future__ import annotations

from typing import Any

from torch import nn

from .file import File
from .weights import PRODUCTS

PARTS = {1: "weight", 2: "bias"}


def name_tensors(file: File, model: nn.Module) -> None:
    """Call what an operator yields by its layer ("layer1.0.conv2"), weights and biases too; no name twice."""
    layers = _paths(model)
    made: dict[int, str] = {}
    for operator in file.operators:
        kind = file.kind(operator)
        layer = _layer(file.tensors[operator.outputs[0]].name.decode(), layers) or kind.lower()
        for index in operator.outputs:
            made.setdefault(index, layer)
        for place, index in enumerate(operator.inputs):
            if index >= 0 and index not in made and index not in file.graph.inputs:
                part = PARTS.get(place) if kind in PRODUCTS else None
                made[index] = f"{layer}.{part}" if part else f"{layer}.{kind.lower()}_{place}"
    taken: dict[str, int] = {}
    for index, name in made.items():
        count = taken.get(name, 0)
        taken[name] = count + 1
        tensor: Any = file.tensors[index]
        tensor.name = (f"{name}:{count}" if count else name).encode()


def _layer(path: str, layers: dict[str, str]) -> str:
    """The layer that the converter's name of a tensor tells: of several that were fused, the last."""
    named = [layers[piece] for piece in path.split(";") if layers.get(piece)]
    return named[-1] if named else ""


def _paths(model: nn.Module) -> dict[str, str]:
    """The qualified name of every module by the converter's path of it: classes and names from the outermost in."""
    paths: dict[str, str] = {}

    def visit(module: nn.Module, name: str, outer: str, label: str) -> None:
        kind = type(module)
        path = f"{outer}{kind.__module__}.{kind.__qualname__}{label}"
        paths[path] = name
        for child, inner in module.named_children():
            visit(inner, f"{name}.{child}" if name else child, f"{path}/", f"_{child}")

    visit(model, "", "", "")
    return paths
