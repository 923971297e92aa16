"""One set of samples dealt out to the splits: disjoint, balanced over the classes, fixed by the seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from ..core.config import Config
from ..core.config import Samples as Count
from ..core.settings import required, setting
from ..errors import InvalidInput
from .placement import Resize
from .split import SPLITS, Data, Labels, Preprocessing, Samples, SampleSplit, Split, SplitName

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
    resize: Resize | None = setting(
        None,
        "How images come to that size: crop, the shorter side and then the middle; stretch, the whole image in another "
        "shape; letterbox, the whole image in its own shape with grey around it. Masks and boxes follow. Left out, "
        "crop, and stretch for boxes, none of which is lost.",
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


def measured_preprocessing(config: DataConfig, inputs: Samples, positions: Tensor, scale: float) -> Preprocessing:
    """The mean and the standard deviation that the user gave, or else those of the samples at ``positions``.

    They are measured on as many as fit well into memory.

    Raises:
        InvalidInput: the user did not give one value for each channel.
    """
    first = inputs[positions[:1]]
    given = given_preprocessing(config, first.shape[1], scale)
    if given is not None:
        return given
    most = max(2, min(MEASURED_SAMPLES, MEASURED_VALUES // first.numel()))
    raw = inputs[positions[:: -(-len(positions) // most)]]
    x = raw.float().mul_(scale).transpose(0, 1).flatten(1)
    std = x.std(1, correction=min(1, x.shape[1] - 1)).clamp_min(1e-3)
    return Preprocessing(
        scale,
        tuple(round(v, 4) for v in x.mean(1).tolist()),
        tuple(round(v, 4) for v in std.tolist()),
    )


@dataclass(frozen=True)
class Part:
    """Samples as they are stored, their labels if there are any, and what the samples are called, for people."""

    inputs: Samples
    labels: Labels | None = None
    names: tuple[str, ...] = ()


def deal(
    config: DataConfig,
    seed: int,
    train: Part,
    given: Mapping[SplitName, Part],
    classes: tuple[str, ...],
    preprocess: Callable[[Samples, Tensor], Callable[[Any], Any]],
) -> Data:
    """The splits of a data set: those that are ``given`` as they are, and those to train on dealt out to train,
    calibration and, where it is not given, validation; balanced where the labels are ``classes``, one for each sample.

    Args:
        preprocess: of the samples, and the positions of those to train on, how they become inputs.
    """
    count = len(train.inputs)
    validation = 0 if "validation" in given else max(1, round(config.validation * count))
    calibration = 0 if "calibration" in given else min(config.calibration, max(1, (count - validation) // 4))
    sizes = {name: size for name, size in (("validation", validation), ("calibration", calibration)) if size}
    parts = partition(_dealt_by(train, classes), sizes, seed)
    rest = torch.from_numpy(parts["rest"])
    if not len(rest):
        raise InvalidInput(f"data {config.source}: {count} training samples are too few to split")
    preprocessing = preprocess(train.inputs, rest)
    splits: dict[SplitName, Split] = {}
    members: dict[SplitName, tuple[str, ...]] = {}
    for name in SPLITS:
        part = given.get(name)
        positions = parts.get("rest" if name == "train" else name)
        if part is None and positions is None:
            continue
        if part is None:
            part = _select(train, torch.from_numpy(positions))
        names = part.names or tuple(f"{name}/{i}" for i in range(len(part.inputs)))
        splits[name], members[name] = SampleSplit(part.inputs, part.labels, preprocessing), names
    return Data(config.source, splits, preprocessing, classes, members)


def _dealt_by(train: Part, classes: tuple[str, ...]) -> NDArray[np.int64]:
    """The class of each sample, where it has one; else they are all alike."""
    labels = train.labels
    single = classes and isinstance(labels, Tensor) and labels.ndim == 1
    return labels.numpy() if single and isinstance(labels, Tensor) else np.zeros(len(train.inputs), np.int64)


def _select(part: Part, index: Tensor) -> Part:
    """Some of the samples of a part, which are those to train on."""
    names = tuple(part.names[i] if part.names else f"train/{i}" for i in index.tolist())
    return Part(_at(part.inputs, index), None if part.labels is None else _at(part.labels, index), names)


def _at(samples: Any, index: Tensor) -> Any:
    return samples[index] if isinstance(samples, Tensor) else samples.subset(index)
