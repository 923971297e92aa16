"""Data sets: four splits that never overlap, from scikit-learn's digits, an image folder, an .npz or a user's callable.

``load(source)`` returns a :class:`Data`. The train split is what weights are fitted on, calibration what quantizers
observe, validation what choices are made on, and test what is reported, once.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..errors import InvalidInput
from ..sources.specification import require_data
from .digits import digits
from .image_folder import image_folder, sizes_of_images
from .npz import arrays_file
from .partition import DataConfig, partition
from .split import SPLITS, Augmentation, Data, LoaderSplit, Preprocessing, Samples, SampleSplit, Split, SplitName

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
    for name, loader in made.items():
        if not isinstance(loader, Iterable):
            raise InvalidInput(f"data {source}: expected a loader of {name} batches, got {type(loader).__name__}")
    return Data(source, {name: LoaderSplit(loader, f"data {source}: {name}") for name, loader in made.items()})
