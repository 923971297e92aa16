"""Arrays in an ``.npz``: ``x_train``, ``y_train``, ``x_test``, ...; or ``x_calib`` alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InvalidInput
from ..files.untrusted import read_arrays, require_at_most
from .partition import DataConfig, Part, deal, given_preprocessing
from .split import Data, Preprocessing, SampleSplit, Split, SplitName

MOST_CLASSES = 2**17
"""That labels may name: each is a row of a classifier's weights."""


def arrays_file(path: Path, config: DataConfig, seed: int) -> Data:
    return data_of_arrays(path, read_arrays(path, "data"), config, seed)


def data_of_arrays(path: Path | str, arrays: Mapping[str, NDArray[Any]], config: DataConfig, seed: int) -> Data:
    """The data set of ``arrays`` by their names; ``path`` is where they come from, for people."""

    def pair(name: str) -> tuple[Tensor, Tensor | None] | None:
        if f"x_{name}" not in arrays:
            return None
        x = _samples_array(path, f"x_{name}", arrays[f"x_{name}"])
        y = arrays.get(f"y_{name}")
        if y is None:
            return x, None
        return x, _labels_array(path, f"y_{name}", y, len(x))

    given = {name: pair(name) for name in ("train", "test", "val", "validation")}
    train, test = given["train"], given["test"]
    validation = given["validation"] or given["val"]
    name = next((name for name in ("x_calib", "x_calibration") if name in arrays), None)
    calibration = None if name is None else _samples_array(path, name, arrays[name])
    _require_alike(path, {"x_train": train, "x_test": test, "x_validation": validation}, name, calibration)
    if train is not None:
        scale = _scale(train[0])
        if scale == 1.0 and config.mean is None:  # floats are taken as already preprocessed
            config = config.model_copy(update={"mean": (0.0,) * train[0].shape[1], "std": (1.0,) * train[0].shape[1]})
        classes = _class_count(path, train[1])
        others: dict[SplitName, tuple[Tensor, Tensor | None] | None] = {
            "validation": validation,
            "calibration": None if calibration is None else (calibration, None),
            "test": test,
        }
        given_parts = {split: Part(*pair) for split, pair in others.items() if pair is not None}
        data = deal(config, seed, Part(*train), given_parts, tuple(str(i) for i in range(classes)), scale)
        return Data(str(path), data.splits, data.preprocessing, data.classes, data.members)
    if calibration is None and test is None:
        raise InvalidInput(
            f"data {path}: expected x_train, with y_train where there are labels, or x_calib alone; "
            f"the file has {', '.join(sorted(arrays)) or 'no arrays'}"
        )
    only: dict[SplitName, tuple[Tensor, Tensor | None]] = {}
    if calibration is not None:
        only["calibration"] = (calibration, None)
    if test is not None:
        only["test"] = test
    made: dict[SplitName, Split] = {}
    for split, (x, labels) in only.items():
        scale = _scale(x)
        preprocessing = given_preprocessing(config, x.shape[1], scale) or Preprocessing(scale)
        made[split] = SampleSplit(x, labels, preprocessing)
    return Data(str(path), made, preprocessing)


def _require_alike(
    path: Path | str,
    pairs: Mapping[str, tuple[Tensor, Tensor | None] | None],
    name: str | None,
    calibration: Tensor | None,
) -> None:
    """Raise InvalidInput unless all samples have one shape and one type, as one network takes them."""
    found = {key: pair[0] for key, pair in pairs.items() if pair is not None}
    if name is not None and calibration is not None:
        found[name] = calibration
    for key, x in found.items():
        first, other = next(iter(found.items()))
        if x.shape[1:] != other.shape[1:] or x.dtype != other.dtype:
            raise InvalidInput(
                f"data {path}: {key} has samples of {_kind(x)}, and {first} of {_kind(other)}; make them alike"
            )


def _kind(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape[1:])}"


def _scale(x: Tensor) -> float:
    """Bytes are pixels, 0..255; floats are taken as they are."""
    return 1 / 255 if x.dtype == torch.uint8 else 1.0


def _samples_array(path: Path | str, name: str, array: NDArray[Any]) -> Tensor:
    if not 2 <= array.ndim <= 5 or not array.size:
        raise InvalidInput(f"data {path}: {name} must be (N, C, H, W), each of at least 1, got shape {array.shape}")
    if array.dtype == np.float64:
        with np.errstate(over="ignore"):  # it is told of as an infinity
            array = array.astype(np.float32)
    if array.dtype in (np.int32, np.int64):  # indices, as of tokens
        return torch.from_numpy(array)
    if array.dtype not in (np.float32, np.uint8):
        raise InvalidInput(
            f"data {path}: {name} must be float32, uint8 (pixels), or int32 or int64 (indices), got {array.dtype}"
        )
    if array.dtype == np.float32 and not np.isfinite(array).all():
        raise InvalidInput(f"data {path}: {name} holds values that are not finite (NaN or infinity)")
    return torch.from_numpy(array)


def _labels_array(path: Path | str, name: str, array: NDArray[Any], count: int) -> Tensor:
    """Labels (N, ...) of numbers: whole ones of a single value each as int64, and of several values as they are stored
    where that is in bytes or truths; floats as float32. What they must be for a task, the task says.
    """
    if array.shape[:1] != (count,) or array.dtype.kind not in "biuf" or not array.size:
        raise InvalidInput(
            f"data {path}: {name} must be numbers, labels of each of {count} samples with the samples first, got shape "
            f"{array.shape} of {array.dtype}"
        )
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):  # it is told of as an infinity
            array = array.astype(np.float32)
        if not np.isfinite(array).all():
            raise InvalidInput(f"data {path}: {name} holds values that are not finite (NaN or infinity)")
        return torch.from_numpy(array)
    if array.dtype.kind == "u" and int(array.max()) > np.iinfo(np.int64).max:
        raise InvalidInput(f"data {path}: {name} goes up to {array.max()}; labels are integers of 64 bits at most")
    if array.dtype == np.bool_ or (array.dtype == np.uint8 and array.ndim > 1):
        return torch.from_numpy(array)
    return torch.from_numpy(array.astype(np.int64))


def _class_count(path: Path | str, labels: Tensor | None) -> int:
    """How many classes there are where labels are one whole number of 0 or more for each sample; else 0."""
    if labels is None or labels.dtype != torch.int64 or labels.ndim != 1 or int(labels.min()) < 0:
        return 0
    count = int(labels.max()) + 1
    require_at_most(count, MOST_CLASSES, "classes (the highest of y_train, and 0)", f"data {path}")
    return count
