"""Splits: batches of samples and labels, and how stored pixels become a network's inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ..core.arithmetic import arranged
from ..errors import CompressError, InvalidInput
from .batch import count_of, mapped, part_of, tensors_of

SplitName = Literal["train", "calibration", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "calibration", "validation", "test")

LOOKED_AT_ONCE = 256
"""Labels."""

Augmentation = Callable[[Any, Any, torch.Generator], tuple[Any, Any]]
"""Of stored samples and their labels, both changed alike."""


class Samples(Protocol):
    """Something indexed by a tensor of positions: a tensor, images that are decoded then, or parts by name."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: Tensor, /) -> Any: ...


class Labels(Protocol):
    """Labels of samples, indexed by a tensor of positions: a tensor, or what gives a part of a batch for them."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: Tensor, /) -> Any: ...


class Split(Protocol):
    """One split, in batches: tensors in any nesting, samples first in each; what they mean the task knows."""

    def __len__(self) -> int: ...

    def batches(
        self,
        batch_size: int,
        *,
        shuffle_seed: tuple[int, int] | None = None,
        augment: Augmentation | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> Iterator[Any]: ...


@dataclass(frozen=True)
class Preprocessing:
    """From stored pixels to network inputs: ``(x * scale - mean) / std``, per channel."""

    scale: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __call__(self, raw: Tensor) -> Tensor:
        """(N, C, ...) pixels or floats to (N, C, ...) float32; truths, and integers with a sign, stay as they are."""
        if raw.dtype != torch.uint8 and not raw.is_floating_point():
            return raw
        x = raw.float() * self.scale
        if self.mean:
            shape = (1, -1) + (1,) * (x.ndim - 2)
            x = (x - torch.tensor(self.mean).view(shape)) / torch.tensor(self.std).view(shape)
        return x


@dataclass(frozen=True)
class SampleSplit:
    """A split of indexable samples: batches are gathered, augmented, then preprocessed."""

    inputs: Samples
    labels: Labels | None
    preprocessing: Callable[[Any], Any] = field(default_factory=Preprocessing)

    def __len__(self) -> int:
        return len(self.inputs)

    def batches(
        self,
        batch_size: int,
        *,
        shuffle_seed: tuple[int, int] | None = None,
        augment: Augmentation | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> Iterator[tuple[Any, ...]]:
        """Batches ``(samples, labels)``, or ``(samples,)`` where there are no labels: in stored order, or shuffled by
        ``shuffle_seed`` = (seed, epoch), then with the last partial batch dropped. Of each batch, process ``rank`` of
        ``world_size`` gets its share, in the same order whatever the count.
        """
        count = len(self)
        generator = torch.Generator()
        if shuffle_seed is None:
            order = torch.arange(count)
            stop = count
        else:
            seed, epoch = shuffle_seed
            generator.manual_seed(seed * 1_000_003 + epoch)
            order = torch.randperm(count, generator=generator)
            generator.manual_seed((seed * 1_000_003 + epoch) * 64 + rank + 1)
            stop = max(count - count % batch_size, min(count, batch_size))
        for start in range(0, stop, batch_size):
            index = order[start : start + batch_size][rank::world_size]
            raw = self.inputs[index]
            labels = None if self.labels is None else self.labels[index]
            if augment is not None:
                raw, labels = augment(raw, labels, generator)
            x = self.preprocessing(raw)
            yield (x,) if labels is None else (x, labels)

    def labels_in_memory(self) -> Iterator[Any]:
        """All labels, in parts; none where they are decoded when they are asked for."""
        if isinstance(self.labels, Tensor):
            yield self.labels
        elif self.labels is not None and not hasattr(self.labels, "paths"):
            for index in torch.arange(len(self.labels)).split(LOOKED_AT_ONCE):
                yield self.labels[index]


@dataclass(frozen=True)
class LoaderSplit:
    """A split that a user's loader yields: batches as they come, in the loader's own order and size.

    What it yields that is no batch, or holds NaN or infinity, is an InvalidInput that ``name`` begins.
    """

    loader: Iterable[Any]
    name: str = "data loader"

    def __len__(self) -> int:
        dataset = getattr(self.loader, "dataset", None)
        return len(dataset) if isinstance(dataset, Sized) else sum(count_of(batch) for batch in self.batches(1))

    def batches(
        self,
        batch_size: int,
        *,
        shuffle_seed: tuple[int, int] | None = None,
        augment: Augmentation | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> Iterator[Any]:
        """The loader's own batches; ``batch_size`` and ``augment`` are the loader's business."""
        if shuffle_seed is not None:
            torch.manual_seed(shuffle_seed[0] * 1_000_003 + shuffle_seed[1])
        for item in self._items():
            batch = self._batch(item)
            yield batch if world_size == 1 else part_of(batch, count_of(batch), slice(rank, None, world_size))

    def _batch(self, item: Any) -> Any:
        """A batch of the loader: its arrays as tensors, all of them looked at."""
        batch = tree_map(_as_tensor, item)
        tensors = tensors_of(batch)
        first = next((tensor for tensor in tensors if tensor.ndim), None)
        if first is None or not first.numel():
            got = f"an array of the shape {tuple(first.shape)}" if first is not None else type(item).__name__
            raise InvalidInput(f"{self.name}: expected a batch of tensors (N, ...), got {got}")
        for tensor in tensors:
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise InvalidInput(f"{self.name}: a batch holds values that are not finite (NaN or infinity)")
        return mapped(batch, lambda tensor: arranged(tensor, torch.contiguous_format))

    def _items(self) -> Iterator[Any]:
        try:
            yield from self.loader
        except CompressError:
            raise
        except Exception as error:
            first = (str(error).strip().splitlines() or [""])[0]
            raise InvalidInput(f"{self.name}: the loader failed: {type(error).__name__}: {first}") from error


def _as_tensor(leaf: Any) -> Any:
    """An array as a tensor; what is none, as it is."""
    if not isinstance(leaf, (np.ndarray, np.generic)) or leaf.dtype.kind not in "biufc":
        return leaf
    return torch.as_tensor(leaf)


@dataclass(frozen=True)
class Slice:
    """The first ``samples`` of a split."""

    split: Split
    samples: int

    def __len__(self) -> int:
        return min(self.samples, len(self.split))

    def batches(self, batch_size: int, **_: object) -> Iterator[Any]:
        """Batches in stored order until there are ``samples``."""
        left = self.samples
        for batch in self.split.batches(batch_size):
            count = count_of(batch)
            yield part_of(batch, count, slice(0, left))
            left -= count
            if left <= 0:
                return


@dataclass(frozen=True)
class Data:
    """A data set: splits by name (those that exist), how pixels become inputs, and what the labels are called."""

    name: str
    splits: Mapping[SplitName, Split]
    preprocessing: Callable[[Any], Any] = field(default_factory=Preprocessing)
    classes: tuple[str, ...] = ()
    members: Mapping[SplitName, tuple[str, ...]] = field(default_factory=dict)

    def split(self, name: SplitName) -> Split:
        """The split called ``name``.

        Raises:
            InvalidInput: the data set has none.
        """
        if name not in self.splits:
            raise InvalidInput(
                f"data {self.name}: no {name} samples, and this command needs them; it has {', '.join(self.splits)}"
            )
        return self.splits[name]

    def example(self, batch_size: int = 1) -> Tensor:
        """The first tensor of one batch: the input of a network that takes one."""
        return tensors_of(self.batch(batch_size))[0]

    def batch(self, batch_size: int = 1) -> Any:
        """One batch, from the first split that is there.

        Raises:
            InvalidInput: the split has no samples.
        """
        name = next(iter(self.splits))
        batch = next(iter(self.splits[name].batches(batch_size)), None)
        if batch is None:
            raise InvalidInput(f"data {self.name}: the {name} split has no samples")
        return part_of(batch, count_of(batch), slice(0, batch_size))
