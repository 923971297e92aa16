"""Arrays in an ``.npz``: ``x_train``, ``y_train``, ``x_test``, ...; or ``x_calib`` alone.

A network that takes several inputs has them by name: ``x_train_ids`` and ``x_train_mask`` for ``forward(ids, mask)``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InvalidInput
from ..files.untrusted import read_arrays, require_at_most
from .named import Named, NamedPreprocessing
from .partition import DataConfig, Part, deal, given_preprocessing, measured_preprocessing
from .split import SPLITS, Data, Preprocessing, Samples, SampleSplit, Split, SplitName

MOST_CLASSES = 2**17
"""That labels may name: each is a row of a classifier's weights."""
MOST_DIMENSIONS = 8
_WORDS: dict[str, SplitName] = {
    "train": "train", "test": "test", "val": "validation", "validation": "validation",
    "calib": "calibration", "calibration": "calibration",
}  # fmt: skip
_KEY = re.compile(rf"([xy])_({'|'.join(_WORDS)})(?:_(.+))?", re.DOTALL)
TAKEN = (np.bool_, np.int8, np.int16, np.int32, np.int64)
"""Types of samples that reach the network as they are."""


def arrays_file(path: Path, config: DataConfig, seed: int) -> Data:
    return data_of_arrays(path, read_arrays(path, "data"), config, seed)


def data_of_arrays(path: Path | str, arrays: Mapping[str, NDArray[Any]], config: DataConfig, seed: int) -> Data:
    """The data set of ``arrays`` by their names; ``path`` is where they come from, for people."""
    keys = _keys(path, arrays)
    parts = {split: _part(path, arrays, keys, split) for split in SPLITS if ("x", split) in keys}
    _require_alike(path, keys, parts)
    train = parts.pop("train", None)
    if train is not None:
        classes = tuple(str(i) for i in range(_class_count(path, train.labels)))
        data = deal(config, seed, train, parts, classes, lambda x, rest: _preprocessing(config, x, rest))
        return Data(str(path), data.splits, data.preprocessing, data.classes, data.members)
    if not set(parts) & {"calibration", "test"}:
        raise InvalidInput(
            f"data {path}: expected x_train, with y_train where there are labels, or x_calib alone; "
            f"the file has {', '.join(sorted(arrays)) or 'no arrays'}"
        )
    made = {split: part for split, part in parts.items() if split != "validation"}
    preprocessing = _preprocessing(config, next(iter(made.values())).inputs, None)
    splits: dict[SplitName, Split] = {
        split: SampleSplit(part.inputs, part.labels, preprocessing) for split, part in made.items()
    }
    return Data(str(path), splits, preprocessing)


_Keys = dict[tuple[str, SplitName], dict[str, str]]
"""By "x" or "y" and split, the keys of arrays by the names of the inputs or labels; "" where there is one alone."""


def _keys(path: Path | str, arrays: Mapping[str, NDArray[Any]]) -> _Keys:
    keys: _Keys = {}
    for key in arrays:
        found = _KEY.fullmatch(key)
        if not found:
            continue
        named = keys.setdefault((found[1], _WORDS[found[2]]), {})
        name = found[3] or ""
        if named and (name in named or "" in (*named, name)):
            first = next(iter(named.values()))
            raise InvalidInput(
                f"data {path}: {first} and {key}: expected one array of a split, or several that are named after the "
                f"inputs of the network, as {first.split('_')[0]}_train_ids"
            )
        named[name] = key
    return keys


def _part(path: Path | str, arrays: Mapping[str, NDArray[Any]], keys: _Keys, split: SplitName) -> Part:
    """The samples of a split and, but for calibration, their labels."""
    inputs = {name: _samples_array(path, key, arrays[key]) for name, key in keys["x", split].items()}
    (first, x), *others = inputs.items()
    for name, other in others:
        if len(other) != len(x):
            raise InvalidInput(
                f"data {path}: {keys['x', split][name]} has {len(other)} samples, and {keys['x', split][first]} has "
                f"{len(x)}; expected as many of each"
            )
    labels = {} if split == "calibration" else keys.get(("y", split), {})
    read = {name: _labels_array(path, key, arrays[key], len(x)) for name, key in labels.items()}
    return Part(_together(inputs), _together(read) if read else None)


def _together(parts: Mapping[str, Tensor]) -> Tensor | Named:
    """The one part, or all by name."""
    return parts[""] if "" in parts else Named(parts)


def _inputs_of(samples: Samples) -> Mapping[str, Tensor]:
    if isinstance(samples, Named):
        return samples.parts
    assert isinstance(samples, Tensor), "arrays are held"
    return {"": samples}


def _require_alike(path: Path | str, keys: _Keys, parts: Mapping[SplitName, Part]) -> None:
    """Raise InvalidInput unless all splits have the same inputs, of one shape and type each."""
    first: dict[str, tuple[str, Tensor]] = {}
    for split, part in parts.items():
        named = keys["x", split]
        if first and set(named) != set(first):
            missing = sorted(set(first) ^ set(named))
            raise InvalidInput(
                f"data {path}: {', '.join(named.values())} and {', '.join(key for key, _ in first.values())} are not "
                f"the same inputs ({', '.join(missing) or 'one has no name'}); give each split all inputs"
            )
        for name, x in _inputs_of(part.inputs).items():
            key, other = first.setdefault(name, (named[name], x))
            if x.shape[1:] != other.shape[1:] or x.dtype != other.dtype:
                raise InvalidInput(
                    f"data {path}: {named[name]} has samples of {_kind(x)}, and {key} of {_kind(other)}; "
                    "make them alike"
                )


def _kind(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape[1:])}"


def _preprocessing(config: DataConfig, samples: Samples, positions: Tensor | None) -> Callable[[Any], Any]:
    """What becomes of samples; mean and deviation of pixels are those at ``positions``, where there are any."""
    inputs = _inputs_of(samples)
    pixels = [name for name, x in inputs.items() if x.dtype == torch.uint8]
    if isinstance(samples, Named) and len(pixels) != 1 and (config.mean is not None or config.std is not None):
        raise InvalidInput(
            f"data {config.source}: mean and std are for one input of pixels (uint8), and of {', '.join(inputs)} there "
            f"are {len(pixels)}; store floats that need neither"
        )
    each = {name: _of_input(config, x, positions, isinstance(samples, Named)) for name, x in inputs.items()}
    return NamedPreprocessing(each) if isinstance(samples, Named) else each[""]


def _of_input(config: DataConfig, x: Tensor, positions: Tensor | None, among_others: bool) -> Preprocessing:
    """Bytes are pixels, 0..255; all others are taken as they are, unless they are the one input and have a mean."""
    if x.dtype == torch.uint8 and positions is not None:
        return measured_preprocessing(config, x, positions, 1 / 255)
    scale = 1 / 255 if x.dtype == torch.uint8 else 1.0
    if x.ndim < 2 or (among_others and x.dtype != torch.uint8):
        return Preprocessing(scale)
    return given_preprocessing(config, x.shape[1], scale) or Preprocessing(scale)


def _samples_array(path: Path | str, name: str, array: NDArray[Any]) -> Tensor:
    if not 1 <= array.ndim <= MOST_DIMENSIONS or not array.size:
        raise InvalidInput(
            f"data {path}: {name} must be (N, ...), samples first, as (N, C, H, W), each of at least 1, got shape "
            f"{array.shape}"
        )
    if array.dtype in (np.float16, np.float64):
        with np.errstate(over="ignore"):  # it is told of as an infinity
            array = array.astype(np.float32)
    if array.dtype in TAKEN:
        return torch.from_numpy(array)
    if array.dtype not in (np.float32, np.uint8) or (array.dtype == np.uint8 and array.ndim == 1):
        raise InvalidInput(
            f"data {path}: {name} must be float32, uint8 (pixels), or bool or int8 to int64 (taken as they are), got "
            f"{array.dtype} of shape {array.shape}"
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


def _class_count(path: Path | str, labels: Any) -> int:
    """How many classes there are where labels are one whole number of 0 or more for each sample; else 0."""
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.ndim != 1 or int(labels.min()) < 0:
        return 0
    count = int(labels.max()) + 1
    require_at_most(count, MOST_CLASSES, "classes (the highest of y_train, and 0)", f"data {path}")
    return count
