"""Data sets: four splits that never overlap, from scikit-learn's digits, an image folder, an .npz or a user's callable.

``load(source)`` returns a :class:`Data`. The train split is what weights are fitted on, calibration what quantizers
observe, validation what choices are made on, and test what is reported, once.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InvalidInput
from ..sources.specification import require_data
from .digits import digits
from .folders import image_folder, sizes_of_images
from .npz import arrays_file, data_of_arrays
from .partition import DataConfig, partition
from .split import SPLITS, Augmentation, Data, LoaderSplit, Preprocessing, Samples, SampleSplit, Split, SplitName

Array: TypeAlias = Tensor | NDArray[Any]
Arrays: TypeAlias = Array | Mapping[str, Array]

__all__ = [
    "Augmentation",
    "Data",
    "DataConfig",
    "LoaderSplit",
    "Preprocessing",
    "SampleSplit",
    "Samples",
    "Split",
    "SplitName",
    "from_arrays",
    "from_loaders",
    "load",
    "partition",
    "sizes_of_images",
]


def load(config: DataConfig | str, seed: int = 0) -> Data:
    """The data set that ``config.source`` names.

    Raises:
        InvalidInput: it does not exist, is empty, or is not of the form expected.
    """
    config = DataConfig(source=config) if isinstance(config, str) else config
    source = config.source
    if source == "digits":
        return digits(config, seed)
    if ":" in source and not Path(source).exists():
        return _from_callable(source)
    require_data(source)
    path = Path(source)
    if path.is_dir():
        return image_folder(path, config, seed)
    if path.suffix == ".npz":
        return arrays_file(path, config, seed)
    raise InvalidInput(
        f"data {source}: expected a folder of images or an .npz file, got a {path.suffix or 'plain'} file"
    )


def _from_callable(source: str) -> Data:
    from ..sources.load import call

    made = call(source)
    if isinstance(made, Data):
        return made
    if isinstance(made, (tuple, list)) and 2 <= len(made) <= 4:
        order: tuple[SplitName, ...] = (
            ("train", "test") if len(made) == 2 else ("train", "validation", "test", "calibration")
        )
        made = dict(zip(order, made, strict=False))
    if not isinstance(made, dict) or not made or not set(made) <= set(SPLITS):
        raise InvalidInput(
            f"data {source}: expected a dict of loaders by split ({', '.join(SPLITS)}) or a tuple "
            f"(train, test) or (train, validation, test), got {type(made).__name__}"
        )
    return _of_loaders(source, made)


def _of_loaders(source: str, loaders: Mapping[SplitName, Iterable[Any]]) -> Data:
    for name, loader in loaders.items():
        if not isinstance(loader, Iterable):
            raise InvalidInput(f"data {source}: expected a loader of {name} batches, got {type(loader).__name__}")
        if isinstance(loader, (Generator, map, zip)):
            raise InvalidInput(
                f"data {source}: the {name} loader is a {type(loader).__name__}, which can be gone through once; give "
                "a DataLoader, a list of batches, or an object whose __iter__ begins anew"
            )
    return Data(source, {name: LoaderSplit(loader, f"data {source}: {name}") for name, loader in loaders.items()})


def from_arrays(
    *,
    x_train: Arrays | None = None,
    y_train: Arrays | None = None,
    x_validation: Arrays | None = None,
    y_validation: Arrays | None = None,
    x_test: Arrays | None = None,
    y_test: Arrays | None = None,
    x_calib: Arrays | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    seed: int = 0,
    name: str = "arrays",
) -> Data:
    """A data set of tensors or numpy arrays, the same as of an ``.npz`` that holds them under these names.

    ``x_calib`` alone is enough to quantize. Validation and calibration samples are taken out of those to train on where
    they are not given.

    Args:
        x_train: samples (N, C, H, W), or of other shapes with N in front: floats, which the network takes as they are;
            uint8, which are pixels; or truths and integers with a sign, as of indices. Where the network takes several
            inputs, a mapping from the names of its parameters. Likewise the others.
        y_train: labels with N in front: (N,) integers, the class of each sample, or numbers of any shape for other
            tasks, or several by name; left out, there are no labels. Likewise the others.
        mean: of each channel on the scale 0 to 1; left out, it is measured on pixels to train on.
        std: the standard deviation of each channel, likewise.
        seed: of what is taken out.
        name: of the data, for people.

    Raises:
        InvalidInput: samples differ in shape or type, or are not of these kinds.
    """
    given = {
        "x_train": x_train, "y_train": y_train, "x_validation": x_validation, "y_validation": y_validation,
        "x_test": x_test, "y_test": y_test, "x_calib": x_calib,
    }  # fmt: skip
    arrays: dict[str, NDArray[Any]] = {}
    for key, part in given.items():
        for of, array in part.items() if isinstance(part, Mapping) else (("", part),):
            if array is not None:
                arrays[f"{key}_{of}" if of else key] = _as_array(array)
    return data_of_arrays(name, arrays, DataConfig(source=name, mean=mean, std=std), seed)


def _as_array(array: Array) -> NDArray[Any]:
    if isinstance(array, Tensor):
        array = array.detach().cpu()
        return (array.float() if array.dtype in (torch.bfloat16, torch.float16) else array).numpy()
    return np.asarray(array)


def from_loaders(
    *,
    train: Iterable[Any] | None = None,
    calibration: Iterable[Any] | None = None,
    validation: Iterable[Any] | None = None,
    test: Iterable[Any] | None = None,
    name: str = "loaders",
) -> Data:
    """A data set of loaders, whose batches are taken as they come: tensors in any nesting, which the task reads.

    Args:
        train: may be iterated any number of times, as a :class:`torch.utils.data.DataLoader`. Likewise the others.
        name: of the data, for people.

    Raises:
        InvalidInput: one cannot be iterated, or there is none.
    """
    given: dict[SplitName, Iterable[Any] | None] = {
        "train": train, "calibration": calibration, "validation": validation, "test": test
    }  # fmt: skip
    loaders = {split: loader for split, loader in given.items() if loader is not None}
    if not loaders:
        raise InvalidInput(f"data {name}: expected a loader for at least one of {', '.join(SPLITS)}")
    return _of_loaders(name, loaders)
