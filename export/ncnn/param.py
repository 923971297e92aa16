"""The .param file of ncnn: a line per layer, text.

Format: https://github.com/Tencent/ncnn/wiki/param-and-model-file-structure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

MAGIC = "7767517"
LONGEST = 255
"""Bytes of the longest name that ncnn reads."""


@dataclass
class Layer:
    """An operation: what it reads and writes by the names of blobs, and its parameters by their numbers."""

    kind: str
    name: str
    bottoms: list[str]
    tops: list[str]
    parameters: dict[str, str] = field(default_factory=dict)

    def number(self, key: str, default: int = 0) -> int:
        """The parameter ``key``, an integer."""
        return int(self.parameters.get(key, default))

    def __str__(self) -> str:
        counts = f"{len(self.bottoms)} {len(self.tops)}"
        settings = [f"{key}={value}" for key, value in self.parameters.items()]
        return " ".join([f"{self.kind:<24} {self.name:<24} {counts}", *self.bottoms, *self.tops, *settings])


def read(text: str) -> list[Layer]:
    """The layers of a file, in order.

    >>> [layer] = read("7767517\\n1 1\\nInput in0 0 1 in0 0=8\\n")
    >>> layer.tops, layer.number("0")
    (['in0'], 8)
    """
    lines = text.splitlines()
    if lines[0] != MAGIC:
        raise ValueError(f"expected {MAGIC}, got {lines[0]!r}")
    return [_layer(line.split()) for line in lines[2:]]


def _layer(words: list[str]) -> Layer:
    reads, writes = int(words[2]), int(words[3])
    bottoms, tops, settings = words[4 : 4 + reads], words[4 + reads : 4 + reads + writes], words[4 + reads + writes :]
    return Layer(words[0], words[1], bottoms, tops, dict(word.split("=", 1) for word in settings))


def write(layers: Sequence[Layer]) -> str:
    """The text of a file with these layers."""
    blobs = sum(len(layer.tops) for layer in layers)
    return "\n".join([MAGIC, f"{len(layers)} {blobs}", *map(str, layers), ""])


def consumers(layers: Sequence[Layer], blob: str) -> list[Layer]:
    """The layers that read ``blob``; those behind a Split, which hands it to several, in its place.

    What nothing reads is returned: that reads as a layer "Output".
    """
    parsed: list[Layer] = []
    for layer in layers:
        if blob in layer.bottoms:
            split = layer.kind == "Split"
            parsed += [each for top in layer.tops for each in consumers(layers, top)] if split else [layer]
    return parsed or [Layer("Output", blob, [blob], [])]


def rename(layers: Sequence[Layer], names: Mapping[str, str]) -> None:
    """Give blobs new names, wherever they stand; other blobs that have one of these already make room.

    Raises:
        ValueError: a name is empty, has white space in it, which the format separates words by, or "=", or is of more
            than :data:`LONGEST` bytes.
    """
    for name in names.values():
        if not re.fullmatch(r"[^\s=]+", name):
            raise ValueError(f"{name!r} cannot stand in a .param file")
        if (size := len(name.encode())) > LONGEST:
            raise ValueError(f"'{name[:20]}...' has {size} bytes, and ncnn reads {LONGEST} at most")
    taken = {blob for layer in layers for blob in (*layer.bottoms, *layer.tops)} | set(names.values())
    new = dict(names)
    for blob in sorted(taken & set(names.values()) - set(names)):
        free = f"{blob}_inside"
        while free in taken:
            free += "_"
        taken.add(free)
        new[blob] = free
    for layer in layers:
        layer.bottoms = [new.get(blob, blob) for blob in layer.bottoms]
        layer.tops = [new.get(blob, blob) for blob in layer.tops]


def returned(layers: Sequence[Layer]) -> tuple[str, ...]:
    """The blobs that no layer reads: the network's results, out0 first."""
    read_by = {blob for layer in layers for blob in layer.bottoms}
    blobs = [blob for layer in layers for blob in layer.tops if blob not in read_by]
    return tuple(sorted(blobs, key=lambda blob: (len(blob), blob)))
