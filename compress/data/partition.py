"""One set of samples dealt out to the splits: disjoint, balanced over the classes, fixed by the seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from ..core.config import Config
from ..core.config import Samples as Count
from ..core.settings import required, setting
from ..errors import InvalidInput
from .split import Data, Preprocessing, Samples, SampleSplit, Split, SplitName

MEASURED_SAMPLES, MEASURED_VALUES = 5000, 2**28
"""What mean and standard deviation are taken of, at most."""


LARGEST_SIDE, MOST_CHANNELS = 2**14, 2**12
"""Of images."""
Side = Annotated[int, Field(ge=1, le=LARGEST_SIDE)]


class DataConfig(Config):
    """Where the data comes from and how it is split."""

    source: Annotated[
        str, required("digits, an image folder, an .npz, or file.py:callable that returns loaders.", flag="--data")
    ]
    size: Side | tuple[Side, Side] | None = setting(
        None,
        "Of images, which are resized to it: the side, or height and width; left out, what the network takes where it "
        "tells, or that of the images where all have one.",
        unit="pixels",
    )
    channels: int | None = setting(
        None, "Of images: 1 for grey, 3 for colours; left out, as they are.", ge=1, le=MOST_CHANNELS
    )
    validation: float = setting(
        0.1,
        "The share of the train split that is kept for validation, where there is no such split.",
        flag="--validation-share",
        gt=0,
        lt=1,
    )
    calibration: Count = setting(
        256, "Samples of the train split that are kept for calibration.", flag="--calibration-samples"
    )
    mean: tuple[Annotated[float, Field(ge=-1e6, le=1e6)], ...] | None = setting(
        None,
        "Of each channel on the scale 0..1; left out, measured on the train split.",
        min_length=1,
        max_length=2**12,
    )
    std: tuple[Annotated[float, Field(ge=1e-6, le=1e6)], ...] | None = setting(
        None, "The standard deviation of each channel, likewise.", min_length=1, max_length=2**12
    )

    @property
    def height_width(self) -> tuple[int, int] | None:
        """The size of images, where it is said."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size


def partition(labels: NDArray[np.int64], sizes: Mapping[str, int], seed: int) -> dict[str, NDArray[np.int64]]:
    """Disjoint, class-balanced sets of positions: for each name about ``size`` of them; the rest under ``"rest"``.

    The same labels and seed give the same sets.
    """
    generator = np.random.default_rng(seed)
    # Samples in random order within their class, then dealt out class by class, so that any prefix is balanced.
    order = generator.permutation(len(labels))
    rank_in_class = np.empty(len(labels))
    for label in np.unique(labels):
        members = order[labels[order] == label]
        rank_in_class[members] = (np.arange(len(members)) + generator.random(len(members))) / len(members)
    dealt = np.argsort(rank_in_class, kind="stable")
    parts: dict[str, NDArray[np.int64]] = {}
    start = 0
    for name, size in sizes.items():
        parts[name] = np.sort(dealt[start : start + size])
        start += size
    parts["rest"] = np.sort(dealt[start:])
    return parts


def given_preprocessing(config: DataConfig, channels: int, scale: float) -> Preprocessing | None:
    """The mean and the standard deviation that the user gave, if any.

    Raises:
        InvalidInput: there is not one value for each of the channels.
    """
    if config.mean is None and config.std is None:
        return None
    mean, std = config.mean or (0.0,) * channels, config.std or (1.0,) * channels
    if len(mean) != channels or len(std) != channels:
        raise InvalidInput(
            f"data {config.source}: mean and std need one value for each of {channels} channels, "
            f"got {len(mean)} and {len(std)}"
        )
    return Preprocessing(scale, tuple(mean), tuple(std))


def _measured(inputs: Samples, positions: Tensor, scale: float) -> Preprocessing:
    """The mean and the standard deviation of some samples, of as many as fit well into memory."""
    most = max(2, min(MEASURED_SAMPLES, MEASURED_VALUES // inputs[positions[:1]].numel()))
    raw = inputs[positions[:: -(-len(positions) // most)]]
    x = raw.float().mul_(scale).transpose(0, 1).flatten(1)
    std = x.std(1, correction=min(1, x.shape[1] - 1)).clamp_min(1e-3)
    return Preprocessing(
        scale,
        tuple(round(v, 4) for v in x.mean(1).tolist()),
        tuple(round(v, 4) for v in std.tolist()),
    )


def deal(
    config: DataConfig,
    seed: int,
    train: tuple[Samples, Tensor | None],
    test: tuple[Samples, Tensor | None] | None,
    classes: tuple[str, ...],
    scale: float,
    names: tuple[str, ...] = (),
) -> Data:
    """The splits of a data set: those to train on dealt out to train, calibration and validation, balanced over the
    classes where the labels are some (``classes`` names them), and those to test on as they are.
    """
    inputs, labels = train
    count = len(inputs)
    validation = max(1, round(config.validation * count))
    calibration = min(config.calibration, max(1, (count - validation) // 4))
    dealt_by = labels.numpy() if labels is not None and classes else np.zeros(count, np.int64)
    parts = partition(dealt_by, {"validation": validation, "calibration": calibration}, seed)
    rest = torch.from_numpy(parts["rest"])
    if not len(rest):
        raise InvalidInput(f"data {config.source}: {count} training samples are too few to split")
    preprocessing = given_preprocessing(config, inputs[rest[:1]].shape[1], scale) or _measured(inputs, rest, scale)
    splits: dict[SplitName, Split] = {}
    members: dict[SplitName, tuple[str, ...]] = {}
    dealt: tuple[SplitName, ...] = ("train", "calibration", "validation")
    for name in dealt:
        positions = parts["rest" if name == "train" else name]
        index = torch.from_numpy(positions)
        own = None if labels is None else labels[index]
        splits[name] = SampleSplit(_select(inputs, index), own, preprocessing)
        members[name] = tuple(names[i] if names else f"train/{i}" for i in positions)
    if test is not None:
        splits["test"] = SampleSplit(test[0], test[1], preprocessing)
        members["test"] = tuple(f"test/{i}" for i in range(len(test[0])))
    return Data(config.source, splits, preprocessing, classes, members)


def _select(samples: Samples, index: Tensor) -> Samples:
    return samples[index] if isinstance(samples, Tensor) else _Subset(samples, index)


@dataclass(frozen=True)
class _Subset:
    samples: Samples
    index: Tensor

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: Tensor, /) -> Tensor:
        return self.samples[self.index[index]]
