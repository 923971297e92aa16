"""Data sets: four splits that never overlap, from scikit-learn's digits, an image folder, an .npz or a user's callable.

``load(source)`` returns a :class:`Data`. The train split is what weights are fitted on, calibration what quantizers
observe, validation what choices are made on, and test what is reported, once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .errors import InvalidInput
from .stage import Config

SplitName = Literal["train", "calibration", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "calibration", "validation", "test")
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff"})
IN_MEMORY_BYTES = 2**30

Augmentation = Callable[[Tensor, torch.Generator], Tensor]


class Samples(Protocol):
    """Something indexed by a tensor of positions: a tensor, or images that are decoded when asked for."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: Tensor, /) -> Tensor: ...


class Split(Protocol):
    """One split: batches of ``(inputs, labels)``; ``labels`` is None where the split has none."""

    def __len__(self) -> int: ...

    def batches(
        self,
        batch_size: int,
        *,
        shuffle_seed: tuple[int, int] | None = None,
        augment: Augmentation | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> Iterator[tuple[Tensor, Tensor | None]]: ...


@dataclass(frozen=True)
class Preprocessing:
    """From stored pixels to network inputs: ``(x * scale - mean) / std``, per channel."""

    scale: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __call__(self, raw: Tensor) -> Tensor:
        """(N, C, ...) in any dtype to (N, C, ...) float32."""
        x = raw.float() * self.scale
        if self.mean:
            shape = (1, -1) + (1,) * (x.ndim - 2)
            x = (x - torch.tensor(self.mean).view(shape)) / torch.tensor(self.std).view(shape)
        return x


@dataclass(frozen=True)
class SampleSplit:
    """A split of indexable samples: batches are gathered, augmented, then preprocessed."""

    inputs: Samples
    labels: Tensor | None
    preprocessing: Preprocessing = field(default_factory=Preprocessing)

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
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Batches in stored order, or shuffled by ``shuffle_seed`` = (seed, epoch), then with the last partial batch
        dropped. Of each batch, process ``rank`` of ``world_size`` gets its share, in the same order whatever the count.
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
            if augment is not None:
                raw = augment(raw, generator)
            yield self.preprocessing(raw), None if self.labels is None else self.labels[index]


@dataclass(frozen=True)
class LoaderSplit:
    """A split that a user's loader yields: batches as they come, in the loader's own order and size."""

    loader: Iterable[Any]

    def __len__(self) -> int:
        dataset = getattr(self.loader, "dataset", None)
        return len(dataset) if dataset is not None else sum(len(x) for x, _ in self.batches(1))

    def batches(
        self,
        batch_size: int,
        *,
        shuffle_seed: tuple[int, int] | None = None,
        augment: Augmentation | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """The loader's own batches; ``batch_size`` and ``augment`` are the loader's business."""
        if shuffle_seed is not None:
            torch.manual_seed(shuffle_seed[0] * 1_000_003 + shuffle_seed[1])
        for item in self.loader:
            x, y = (item[0], item[1]) if isinstance(item, (tuple, list)) and len(item) > 1 else (item, None)
            x, y = torch.as_tensor(x), None if y is None else torch.as_tensor(y)
            yield x[rank::world_size], None if y is None else y[rank::world_size]


@dataclass(frozen=True)
class Data:
    """A data set: splits by name (those that exist), how pixels become inputs, and what the labels are called."""

    name: str
    splits: Mapping[SplitName, Split]
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
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
        """One batch of inputs, from the first split that is there."""
        x, _ = next(self.split(next(iter(self.splits))).batches(batch_size))
        return x[:batch_size]


class DataConfig(Config):
    """Where the data comes from and how it is split; ``source`` as on the command line.

    ``mean`` and ``std`` are per channel on the scale 0..1; left out, they are measured on the train split.
    """

    source: str
    size: int | None = None
    channels: int | None = None
    validation: float = 0.1
    calibration: int = 256
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def load(config: DataConfig | str, seed: int = 0) -> Data:
    """The data set that ``config.source`` names.

    Raises:
        InvalidInput: it does not exist, is empty, or is not of the form expected.
    """
    config = DataConfig(source=config) if isinstance(config, str) else config
    source = config.source
    if source == "digits":
        return _digits(config, seed)
    if ":" in source and not Path(source).exists():
        return _from_callable(source)
    path = Path(source)
    if not path.exists():
        raise InvalidInput(
            f"data {source}: no such file or folder; give 'digits', an image folder, an .npz or file.py:callable"
        )
    if path.is_dir():
        return _image_folder(path, config, seed)
    if path.suffix == ".npz":
        return _npz(path, config, seed)
    raise InvalidInput(
        f"data {source}: expected a folder of images or an .npz file, got a {path.suffix or 'plain'} file"
    )


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


def _measured(config: DataConfig, raw: Tensor, scale: float) -> Preprocessing:
    channels = raw.shape[1]
    if config.mean is not None or config.std is not None:
        mean, std = config.mean or (0.0,) * channels, config.std or (1.0,) * channels
        if len(mean) != channels or len(std) != channels:
            raise InvalidInput(
                f"data {config.source}: mean and std need one value for each of {channels} channels, "
                f"got {len(mean)} and {len(std)}"
            )
        return Preprocessing(scale, tuple(mean), tuple(std))
    x = raw[:5000].float().mul_(scale).transpose(0, 1).flatten(1)
    std_measured = x.std(1).clamp_min(1e-3)
    return Preprocessing(
        scale,
        tuple(round(v, 4) for v in x.mean(1).tolist()),
        tuple(round(v, 4) for v in std_measured.tolist()),
    )


def _from_arrays(
    config: DataConfig,
    seed: int,
    train: tuple[Samples, Tensor],
    test: tuple[Samples, Tensor] | None,
    classes: tuple[str, ...],
    scale: float,
    names: tuple[str, ...] = (),
) -> Data:
    inputs, labels = train
    count = len(inputs)
    validation = max(1, round(config.validation * count))
    calibration = min(config.calibration, max(1, (count - validation) // 4))
    parts = partition(labels.numpy(), {"validation": validation, "calibration": calibration}, seed)
    rest = torch.from_numpy(parts["rest"])
    if not len(rest):
        raise InvalidInput(f"data {config.source}: {count} training samples are too few to split")
    preprocessing = _measured(config, inputs[rest[:: max(1, len(rest) // 5000)]], scale)
    splits: dict[SplitName, Split] = {}
    members: dict[SplitName, tuple[str, ...]] = {}
    for name, key in (("train", "rest"), ("calibration", "calibration"), ("validation", "validation")):
        index = torch.from_numpy(parts[key])
        splits[name] = SampleSplit(_select(inputs, index), labels[index], preprocessing)  # type: ignore[index]
        members[name] = tuple(names[i] if names else f"train/{i}" for i in parts[key])  # type: ignore[index]
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


def _digits(config: DataConfig, seed: int) -> Data:
    """UCI optical recognition of handwritten digits as scikit-learn ships it: 1,797 scans of 8x8, resized."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    size = config.size or 32
    images = torch.from_numpy(digits.images).float()[:, None]
    images = torch.nn.functional.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)
    pixels = (images * (255 / 16)).round().clamp(0, 255).to(torch.uint8)
    if config.channels and config.channels > 1:
        pixels = pixels.expand(-1, config.channels, -1, -1).contiguous()
    labels = torch.from_numpy(digits.target).long()
    # The test split is the same whatever the seed, so that figures of different seeds compare.
    parts = partition(labels.numpy(), {"test": 360}, seed=0)
    rest, test = torch.from_numpy(parts["rest"]), torch.from_numpy(parts["test"])
    config = config.model_copy(update={"calibration": min(config.calibration, 128)})
    return _from_arrays(
        config,
        seed,
        (pixels[rest], labels[rest]),
        (pixels[test], labels[test]),
        tuple(str(d) for d in range(10)),
        1 / 255,
    )


@dataclass(frozen=True)
class ImageFiles:
    """Image files as samples: decoded, resized (shorter side, then centre crop) and stacked when asked for."""

    paths: tuple[Path, ...]
    size: tuple[int, int]
    channels: int

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Tensor, /) -> Tensor:
        """(N, C, H, W) uint8."""
        with ThreadPoolExecutor() as pool:
            images = list(pool.map(self._decode, (self.paths[i] for i in index.tolist())))
        return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()

    def _decode(self, path: Path) -> NDArray[np.uint8]:
        from PIL import Image, ImageOps, UnidentifiedImageError

        try:
            with Image.open(path) as image:
                picture = image.convert("L" if self.channels == 1 else "RGB")
                height, width = self.size
                if picture.size != (width, height):
                    picture = ImageOps.fit(picture, (width, height), Image.Resampling.BILINEAR)
                pixels = np.asarray(picture)
        except (UnidentifiedImageError, OSError) as error:
            raise InvalidInput(f"data {path}: not a readable image ({error}); mend or remove the file") from error
        return pixels.reshape(height, width, -1)


def _image_folder(path: Path, config: DataConfig, seed: int) -> Data:
    from PIL import Image, UnidentifiedImageError

    train_folder = path / "train"
    if not train_folder.is_dir():
        raise InvalidInput(f"data {path}: expected {path / 'train'}/<class>/*.jpg (or .png ...), found no train folder")
    classes = tuple(sorted(entry.name for entry in train_folder.iterdir() if entry.is_dir()))
    if not classes:
        raise InvalidInput(f"data {train_folder}: expected one folder per class, found none")

    def listing(folder: Path) -> tuple[tuple[Path, ...], Tensor]:
        paths: list[Path] = []
        labels: list[int] = []
        for label, name in enumerate(classes):
            if not (folder / name).is_dir():
                raise InvalidInput(f"data {folder / name}: no such class folder, but {train_folder / name} exists")
            found = sorted(p for p in (folder / name).iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
            if not found:
                raise InvalidInput(f"data {folder / name}: the class folder has no images")
            paths += found
            labels += [label] * len(found)
        return tuple(paths), torch.tensor(labels)

    paths, labels = listing(train_folder)
    try:
        with Image.open(paths[0]) as first:
            native_width, native_height = first.size
            mode = first.mode
    except (UnidentifiedImageError, OSError) as error:
        raise InvalidInput(f"data {paths[0]}: not a readable image ({error}); mend or remove the file") from error
    size = (config.size, config.size) if config.size else (native_height, native_width)
    channels = config.channels or (1 if mode in ("1", "L", "I;16") else 3)

    def samples(files: tuple[Path, ...]) -> Samples:
        images = ImageFiles(files, size, channels)
        small = len(files) * channels * size[0] * size[1] <= IN_MEMORY_BYTES
        return images[torch.arange(len(files))] if small else images

    test = None
    if (path / "test").is_dir():
        test_paths, test_labels = listing(path / "test")
        test = (samples(test_paths), test_labels)
    return _from_arrays(
        config,
        seed,
        (samples(paths), labels),
        test,
        classes,
        1 / 255,
        tuple(str(p.relative_to(path)) for p in paths),
    )


def _npz(path: Path, config: DataConfig, seed: int) -> Data:
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

    scale = 1.0
    train, test = pair("train"), pair("test")
    calibration = arrays.get("x_calib", arrays.get("x_calibration"))
    if train is not None:
        scale = 1 / 255 if train[0].dtype == torch.uint8 else 1.0
        if scale == 1.0 and config.mean is None:  # floats are taken as already preprocessed
            config = config.model_copy(update={"mean": (0.0,) * train[0].shape[1], "std": (1.0,) * train[0].shape[1]})
        highest = int(train[1].max()) + 1
        data = _from_arrays(config, seed, train, test, tuple(str(i) for i in range(highest)), scale)
        splits = dict(data.splits)
        for name, key in (("validation", "val"), ("validation", "validation")):
            given = pair(key)
            if given is not None:
                splits[name] = SampleSplit(*given, data.preprocessing)  # type: ignore[index]
        if calibration is not None:
            splits["calibration"] = SampleSplit(_samples_array(path, "x_calib", calibration), None, data.preprocessing)
        return Data(str(path), splits, data.preprocessing, data.classes, data.members)
    if calibration is None and test is None:
        raise InvalidInput(
            f"data {path}: expected x_train and y_train, or x_calib alone; "
            f"the file has {', '.join(sorted(arrays)) or 'no arrays'}"
        )
    only: dict[SplitName, Split] = {}
    if calibration is not None:
        x = _samples_array(path, "x_calib", calibration)
        scale = 1 / 255 if x.dtype == torch.uint8 else 1.0
        preprocessing = Preprocessing(scale, config.mean or (), config.std or ((1.0,) * len(config.mean or ())))
        only["calibration"] = SampleSplit(x, None, preprocessing)
    if test is not None:
        scale = 1 / 255 if test[0].dtype == torch.uint8 else 1.0
        preprocessing = Preprocessing(scale, config.mean or (), config.std or ((1.0,) * len(config.mean or ())))
        only["test"] = SampleSplit(*test, preprocessing)
    return Data(str(path), only, preprocessing)


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


def _from_callable(source: str) -> Data:
    from .load import call

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
    return Data(source, {name: LoaderSplit(loader) for name, loader in made.items()})
