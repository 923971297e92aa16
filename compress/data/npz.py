"""Arrays in an ``.npz``: ``x_train``, ``y_train``, ``x_test``, ...; or ``x_calib`` alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InvalidInput
from .partition import DataConfig, deal
from .split import Data, Preprocessing, SampleSplit, Split, SplitName


def arrays_file(path: Path, config: DataConfig, seed: int) -> Data:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (ValueError, OSError, EOFError, KeyError) as error:
        raise InvalidInput(f"data {path}: not a readable .npz of plain arrays ({error})") from error
    except Exception as error:  # zipfile.BadZipFile and zlib.error are not OSErrors
        raise InvalidInput(f"data {path}: the file is damaged ({error})") from error

    def pair(name: str) -> tuple[Tensor, Tensor] | None:
        if f"x_{name}" not in arrays:
            return None
        x = _samples_array(path, f"x_{name}", arrays[f"x_{name}"])
        y = arrays.get(f"y_{name}")
        if y is None:
            raise InvalidInput(f"data {path}: x_{name} has no labels; expected an array y_{name} of {len(x)} integers")
        if len(y) != len(x) or y.ndim != 1 or not np.issubdtype(y.dtype, np.integer):
            raise InvalidInput(f"data {path}: y_{name} must be {len(x)} integers, got shape {y.shape} of {y.dtype}")
        return x, torch.from_numpy(y.astype(np.int64))

    train, test = pair("train"), pair("test")
    calibration = arrays.get("x_calib", arrays.get("x_calibration"))
    if train is not None:
        scale = _scale(train[0])
        if scale == 1.0 and config.mean is None:  # floats are taken as already preprocessed
            config = config.model_copy(update={"mean": (0.0,) * train[0].shape[1], "std": (1.0,) * train[0].shape[1]})
        highest = int(train[1].max()) + 1
        data = deal(config, seed, train, test, tuple(str(i) for i in range(highest)), scale)
        splits = dict(data.splits)
        for key in ("val", "validation"):
            given = pair(key)
            if given is not None:
                splits["validation"] = SampleSplit(*given, data.preprocessing)
        if calibration is not None:
            splits["calibration"] = SampleSplit(_samples_array(path, "x_calib", calibration), None, data.preprocessing)
        return Data(str(path), splits, data.preprocessing, data.classes, data.members)
    if calibration is None and test is None:
        raise InvalidInput(
            f"data {path}: expected x_train and y_train, or x_calib alone; "
            f"the file has {', '.join(sorted(arrays)) or 'no arrays'}"
        )
    only: dict[SplitName, tuple[Tensor, Tensor | None]] = {}
    if calibration is not None:
        only["calibration"] = (_samples_array(path, "x_calib", calibration), None)
    if test is not None:
        only["test"] = test
    mean = config.mean or ()
    made: dict[SplitName, Split] = {}
    for name, (x, labels) in only.items():
        preprocessing = Preprocessing(_scale(x), mean, config.std or (1.0,) * len(mean))
        made[name] = SampleSplit(x, labels, preprocessing)
    return Data(str(path), made, preprocessing)


def _scale(x: Tensor) -> float:
    """Bytes are pixels, 0..255; floats are taken as they are."""
    return 1 / 255 if x.dtype == torch.uint8 else 1.0


def _samples_array(path: Path, name: str, array: NDArray[Any]) -> Tensor:
    if array.ndim < 2 or not len(array):
        raise InvalidInput(f"data {path}: {name} must be (N, C, H, W) with N of at least 1, got shape {array.shape}")
    if array.dtype == np.float64:
        array = array.astype(np.float32)
    if array.dtype not in (np.float32, np.uint8):
        raise InvalidInput(f"data {path}: {name} must be float32 or uint8, got {array.dtype}")
    if not np.isfinite(array).all():
        raise InvalidInput(f"data {path}: {name} holds values that are not finite (NaN or infinity)")
    return torch.from_numpy(array)
