"""Samples of several parts, each under a name: the inputs of a network that takes several, or several labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from .split import Preprocessing


@dataclass(frozen=True)
class Named:
    """Tensors of as many samples each, by name; a batch of them is a dict."""

    parts: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(next(iter(self.parts.values())))

    def __getitem__(self, index: Tensor, /) -> dict[str, Tensor]:
        return {name: part[index] for name, part in self.parts.items()}

    def subset(self, index: Tensor) -> Named:
        """Some of the samples."""
        return Named(self[index])

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All that is held."""
        return tuple(self.parts.values())


@dataclass(frozen=True)
class NamedPreprocessing:
    """What becomes of each input of a network that takes several."""

    each: Mapping[str, Preprocessing]

    def __call__(self, raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inputs by name, of stored samples by name."""
        return {name: self.each[name](part) for name, part in raw.items()}
