"""Text with a mask: which package of Python's standard library a line is from, by a transformer over its bytes."""

from __future__ import annotations

import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.any_task.case import Case, adamw
from compress.data import Data, from_arrays

PACKAGES = ("asyncio", "ctypes", "email", "json", "tkinter", "unittest", "urllib", "xml")
LENGTH, SHORTEST = 48, 24
"""Of a line, in bytes; longer ones are cut, shorter ones left out."""
LINES = 1200
"""Of each package at most."""


class Reader(nn.Module):
    """Bytes ``ids`` (N, 48) and ``mask`` (N, 48), 1 where there is one, to scores of packages (N, 8)."""

    def __init__(self, width: int = 64, heads: int = 4, layers: int = 2) -> None:
        super().__init__()
        self.tokens = nn.Embedding(128, width)
        self.places = nn.Parameter(torch.randn(LENGTH, width) * 0.02)
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, len(PACKAGES))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        there = mask.float()
        x = self.tokens(ids) + self.places
        for layer in self.layers:
            x = layer(x, (1 - there)[:, None, None] * -1e4)
        total = (self.norm(x) * there[..., None]).sum(1) / there.sum(1, keepdim=True)
        return self.head(total)  # type: ignore[no-any-return]


class Layer(nn.Module):
    """Attention and a feed-forward part, each after a norm and added to what it read: (N, L, C) -> (N, L, C)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        y = self.norms[0](x)
        query, key, value = (self._split(layer(y)) for layer in (self.query, self.key, self.value))
        weights = (query @ key.transpose(2, 3) * query.shape[-1] ** -0.5 + hidden).softmax(-1)
        x = x + self.out((weights @ value).transpose(1, 2).flatten(2))
        return x + self.feed(self.norms[1](x))  # type: ignore[no-any-return]

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)  # type: ignore[no-any-return]


def data(_: Path) -> Data:
    """Lines; all of a file are in one split, and none is twice there."""
    parts: dict[str, list[tuple[bytes, int]]] = {"train": [], "validation": [], "test": []}
    library, seen = Path(sysconfig.get_path("stdlib")), set[bytes]()
    generator = np.random.default_rng(0)
    for label, package in enumerate(PACKAGES):
        files = sorted((library / package).rglob("*.py"))
        if not files:
            raise FileNotFoundError(library / package)
        lines: list[bytes] = []
        for file in files:
            stripped = (line.strip() for line in file.read_bytes().splitlines())
            lines += [line for line in stripped if len(line) >= SHORTEST and line.isascii() and line not in seen]
            seen |= set(lines)
        chosen = [lines[i] for i in generator.permutation(len(lines))[:LINES]]
        ends = (0, round(0.7 * len(chosen)), round(0.8 * len(chosen)), len(chosen))
        for split, begin, end in zip(parts, ends, ends[1:], strict=False):
            parts[split] += [(line, label) for line in chosen[begin:end]]
    made: dict[str, Any] = {}
    for split, pairs in parts.items():
        made |= {f"x_{split}": _tokens([line for line, _ in pairs]), f"y_{split}": np.array([y for _, y in pairs])}
    return from_arrays(**made, name="lines of text")


def _tokens(lines: list[bytes]) -> dict[str, NDArray[Any]]:
    ids = np.stack([np.frombuffer(line[:LENGTH].ljust(LENGTH, b"\0"), np.uint8) for line in lines]).astype(np.int64)
    return {"ids": ids, "mask": (ids > 0).astype(np.int64)}


CASE = Case(network=f"{__name__}:Reader", task="classification", data=data, training=adamw(15), most_lost=0.5)
