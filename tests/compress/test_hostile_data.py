"""Data that no classifier can be trained or measured on is refused in one line, before either begins."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from compress.data import Data, DataConfig, LoaderSplit, SampleSplit, load
from compress.errors import InvalidInput
from compress.tasks.built_in import classification
from compress.tasks.built_in.classification import class_scores, top1
from compress.tasks.reading import Reading
from compress.tasks.resolve import require_fits
from compress.training.augmentation import augmentation
from compress.training.loop import Training, fit
from runtimes.files.untrusted import limits_lifted

X = np.random.default_rng(0).integers(0, 255, (12, 1, 8, 8), dtype=np.uint8)
Y = np.arange(12) % 3
FLOATS = X.astype(np.float32)


def with_value(value: float) -> np.ndarray[Any, Any]:
    spoilt = FLOATS.copy()
    spoilt[3, 0, 2, 2] = value
    return spoilt


ARRAYS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "no samples": ({"y_train": Y}, ("expected x_train, with y_train", "the file has y_train")),
    "nothing": ({}, ("expected x_train", "no arrays")),
    "labels of rank 0": ({"x_train": X, "y_train": np.array(3)}, ("y_train must be numbers", "shape ()")),
    "labels of no values": ({"x_train": X, "y_train": X[:, :0]}, ("y_train must be numbers", "(12, 0, 8, 8)")),
    "NaN as labels": ({"x_train": X, "y_train": Y * np.nan}, ("y_train holds values that are not finite",)),
    "labels beyond float32": ({"x_train": X, "y_train": Y * 1e300}, ("y_train holds values that are not finite",)),
    "words as labels": ({"x_train": X, "y_train": Y.astype(str)}, ("y_train", "array of numbers", "<U")),
    "complex labels": ({"x_train": X, "y_train": Y * 1j}, ("y_train", "array of numbers", "complex128")),
    "fewer labels": ({"x_train": X, "y_train": Y[:5]}, ("y_train must be numbers", "12 samples", "(5,)")),
    "more labels": ({"x_train": X, "y_train": np.tile(Y, 2)}, ("y_train must be numbers", "(24,)")),
    "a label of 1e7": ({"x_train": X, "y_train": Y * 5_000_000}, ("10,000,001 classes", "--large-files")),
    "a label of 2**64": ({"x_train": X, "y_train": Y.astype(np.uint64) * 2**63}, ("y_train goes up to", "64 bits")),
    "wrong test labels": ({"x_train": X, "y_train": Y, "x_test": X, "y_test": Y + np.inf}, ("y_test holds",)),
    "wrong validation": ({"x_train": X, "y_train": Y, "x_val": X, "y_val": Y[:1]}, ("y_val must be",)),
    "no images": ({"x_train": X[:0], "y_train": Y[:0]}, ("x_train must be (N, ...)", "(0, 1, 8, 8)")),
    "images of no size": ({"x_calib": X[:, :, :0]}, ("x_calib must be (N, ...)", "(12, 1, 0, 8)")),
    "images of rank 0": ({"x_calib": np.array(1.0)}, ("x_calib must be", "()")),
    "pixels of rank 1": ({"x_calib": X[:, 0, 0, 0]}, ("x_calib must be float32", "uint8 of shape (12,)")),
    "images of rank 9": ({"x_calib": np.zeros((1,) * 9)}, ("x_calib must be",)),
    "NaN": ({"x_calib": with_value(np.nan)}, ("x_calib", "not finite")),
    "infinity": ({"x_train": with_value(-np.inf), "y_train": Y}, ("x_train", "not finite")),
    "beyond float32": ({"x_calib": with_value(1.0).astype(float) * 1e300}, ("x_calib", "not finite")),
    "complex": ({"x_calib": FLOATS * 1j}, ("x_calib", "complex64")),
    "text": ({"x_calib": X.astype(str)}, ("x_calib", "<U3")),
    "objects": ({"x_calib": X.astype(object)}, ("x_calib", "Python objects")),
    "objects beside": ({"x_calib": FLOATS, "note": np.array({})}, ("note", "Python objects")),
    "unsigned integers": ({"x_calib": X.astype(np.uint16)}, ("x_calib must be float32, uint8 (pixels)", "uint16")),
    "other sizes": ({"x_train": X, "y_train": Y, "x_test": X[..., :4], "y_test": Y}, ("x_test", "(1, 8, 4)")),
    "one and several": ({"x_train": X, "x_train_ids": Y}, ("x_train and x_train_ids: expected one array of a split",)),
    "two of one split": ({"x_val": X, "x_validation": X}, ("x_val and x_validation: expected one array",)),
    "fewer masks": ({"x_train_a": X, "x_train_b": X[:3]}, ("x_train_b has 3 samples, and x_train_a has 12",)),
    "inputs missing": ({"x_train_a": X, "x_train_b": X, "x_test_a": X}, ("x_test_a and", "(b); give each split all",)),
    "a name missing": ({"x_train_a": X, "x_test": X}, ("x_test and x_train_a are not the same",)),
    "other ids": ({"x_train_a": X, "x_test_a": FLOATS}, ("x_test_a has samples of float32", "x_train_a of uint8")),
    "NaN among others": ({"x_calib_a": X, "x_calib_b": with_value(np.nan)}, ("x_calib_b", "not finite")),
    "other types": ({"x_train": X, "y_train": Y, "x_calib": FLOATS}, ("x_calib", "float32", "x_train", "uint8")),
}  # fmt: skip


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_that_do_not_fit_are_refused(name: str, tmp_path: Path) -> None:
    arrays, says = ARRAYS[name]
    path = tmp_path / "d.npz"
    np.savez(path, allow_pickle=True, **arrays)
    with pytest.raises(InvalidInput) as refused:
        load(str(path))
    told = str(refused.value)
    assert told.startswith(f"data {path}") and "\n" not in told and len(told) < 400
    assert all(text in told for text in says), told


LABELS = {
    "floats": (Y * 0.5, torch.float32, "float32 of the shape (1,)"),
    "shares": (np.eye(12, 3), torch.float32, "float32 of the shape (1, 3)"),
    "maps": (X[:, 0], torch.uint8, "uint8 of the shape (1, 8, 8)"),
    "truths": (Y > 0, torch.bool, "bool of the shape (1,)"),
    "vectors of integers": (np.ones((12, 2), np.int16), torch.int64, "int64 of the shape (1, 2)"),
    "negative": (Y - 1, torch.int64, "expected classes from 0 on, got -1"),
}


@pytest.mark.parametrize("name", LABELS)
def test_labels_of_other_tasks_are_read_and_no_classes(name: str, tmp_path: Path) -> None:
    labels, dtype, says = LABELS[name]
    np.savez(tmp_path / "d.npz", x_train=X, y_train=labels, x_test=X, y_test=labels)
    data = load(DataConfig(source=str(tmp_path / "d.npz"), calibration=3))
    dealt = [batch for name, split in data.splits.items() if name != "test" for batch in split.batches(12)]
    assert data.classes == () and sum(len(y) for _, y in dealt) == 12
    images = torch.cat([x for x, _ in dealt])
    assert len(images.flatten(1).unique(dim=0)) == 12 and {y.dtype for _, y in dealt} == {dtype}
    (_, kept), *_ = data.split("test").batches(12)
    assert torch.equal(kept.double(), torch.from_numpy(labels.astype(float).astype(np.float32)).double())
    with pytest.raises(InvalidInput) as refused:
        require_fits(CLASSIFICATION, Plain(), data, ["test"])
    assert says in str(refused.value) and "data " in str(refused.value) and "test split" in str(refused.value)


def test_arrays_of_many_classes_pass_where_large_files_are_wanted(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x_train=X, y_train=Y * 100_000)
    with limits_lifted():
        assert len(load(str(tmp_path / "d.npz")).classes) == 200_001


def test_mean_and_std_are_one_for_each_channel(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x_calib=FLOATS)
    config = DataConfig(source=str(tmp_path / "d.npz"), mean=(0.5, 0.5), std=(1.0, 1.0))
    with pytest.raises(InvalidInput, match="one value for each of 1 channels, got 2 and 2"):
        load(config)
    data = load(config.model_copy(update={"mean": None, "std": (2.0,)}))
    assert torch.equal(data.example(12), torch.from_numpy(FLOATS) / 2)


def png(width: int, height: int) -> bytes:
    """A PNG that claims a size, and has nothing to show for it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    told = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", told) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def truncated(path: Path) -> None:
    Image.effect_noise((8, 8), 90).save(path)
    path.write_bytes(path.read_bytes()[:-40])


IMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a bomb": (lambda path: path.write_bytes(png(10_000, 10_000)), "100,000,000 pixels, and"),
    "a larger bomb": (lambda path: path.write_bytes(png(2**31 - 1, 2**31 - 1)), "make the image smaller"),
    "no pixels": (lambda path: path.write_bytes(png(8, 8)), "not a readable image"),
    "truncated": (truncated, "not a readable image"),
    "empty": (Path.touch, "not a readable image"),
    "text": (lambda path: path.write_text("no picture"), "not a readable image"),
    "a program": (lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n"), "readable"),
    "a pipe": (os.mkfifo, "a named pipe"),
    "a folder": (Path.mkdir, "a folder"),
    "a broken link": (lambda path: path.symlink_to("gone.png"), "no such file"),
}  # fmt: skip


@pytest.mark.parametrize("first", [True, False], ids=["first", "among others"])
@pytest.mark.parametrize("name", IMAGES)
def test_images_that_cannot_be_read_are_refused(name: str, first: bool, tmp_path: Path) -> None:
    make, says = IMAGES[name]
    for label in ("a", "b"):
        (tmp_path / "train" / label).mkdir(parents=True)
        for number in range(4):
            Image.fromarray(X[number, 0]).save(tmp_path / "train" / label / f"{number}.png")
    spoilt = tmp_path / "train" / "a" / ("0.png" if first else "3.png")
    spoilt.unlink()
    make(spoilt)
    with pytest.raises(InvalidInput) as refused:
        load(str(tmp_path))
    told = str(refused.value)
    assert told.startswith(f"data {spoilt}") and says in told and "\n" not in told, told


class Dense(nn.Module):
    """Three scores for each pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class Named(Dense):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:  # type: ignore[override]
        return {"out": self.conv(x).mean((2, 3))}


class Plain(Dense):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).mean((2, 3))


def data_of(labels: torch.Tensor, samples: int = 12) -> Data:
    split = SampleSplit(torch.from_numpy(FLOATS[:samples]), labels)
    return Data("d.npz", {"train": split, "validation": split})


CLASSES = torch.from_numpy(Y)
CLASSIFICATION = classification.task(Reading())
TRAINING = Training(epochs=1, batch_size=4, precision="fp32", accelerator="cpu", warmup_epochs=0)
NO_CLASSIFIERS = {
    "scores for each pixel": (Dense, CLASSES, "(N, 3, 8, 8)"),
    "a mapping": (Named, CLASSES, "the network gives dict"),
    "labels for each pixel": (Dense, torch.from_numpy(X[:, 0]), "expected a class, an integer, for each"),
    "floats as labels": (Plain, CLASSES.float(), "float32"),
    "shares as labels": (Plain, torch.eye(3).repeat(4, 1), "expected a class"),
    "a class too many": (Plain, CLASSES + 1, "labels go up to 3, and the network has 3 classes, 0 to 2"),
    "a negative class": (Plain, CLASSES - 1, "expected classes from 0 on, got -1"),
}


@pytest.mark.parametrize("name", NO_CLASSIFIERS)
def test_what_is_no_classifier_is_neither_trained_nor_measured(name: str) -> None:
    kind, labels, says = NO_CLASSIFIERS[name]
    model, data = kind().eval(), data_of(labels)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for attempt in (
        lambda: require_fits(CLASSIFICATION, model, data, ["train"]),
        lambda: top1(model, data.split("validation"), 12),
        lambda: fit(model, data, TRAINING.model_copy(update={"batch_size": 12}), CLASSIFICATION),
    ):
        with pytest.raises(InvalidInput) as refused:
            attempt()
        told = str(refused.value)
        size = (told.count("(1, ") and 1) or 12
        assert says.replace("(N, ", f"({size}, ") in told, told
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_label_in_the_last_sample_is_seen_before_the_first_step() -> None:
    labels = CLASSES.clone()
    labels[-1] = 255
    with pytest.raises(InvalidInput, match=r"d.npz: train split: labels go up to 255"):
        require_fits(CLASSIFICATION, Plain(), data_of(labels), ["train"])
    require_fits(CLASSIFICATION, Plain(), data_of(CLASSES), ["train", "validation", "test"])
    assert class_scores(torch.ones(12, 3), CLASSES, "here").shape == (12, 3)


@pytest.mark.parametrize(
    "items, says",
    [
        ([(torch.ones(0, 1, 8, 8), torch.ones(0))], "got an array of the shape (0, 1, 8, 8)"),
        ([torch.tensor(3.0)], "expected a batch of tensors (N, ...), got Tensor"),
        ([{"image": "cat.png"}], "expected a batch of tensors (N, ...), got dict"),
        ([("cat.png", 1)], "expected a batch of tensors (N, ...), got tuple"),
        ([(torch.full((1, 1, 8, 8), torch.nan), torch.ones(1))], "not finite"),
    ],
    ids=["empty", "rank", "mapping", "text", "NaN"],
)
def test_what_a_loader_yields_is_looked_at(items: list[Any], says: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        list(LoaderSplit(items, "data l.py:make: train").batches(4))
    assert str(refused.value).startswith("data l.py:make: train: ") and says in str(refused.value)


def test_labels_for_another_number_of_samples_are_seen() -> None:
    split = LoaderSplit([(torch.ones(2, 1, 8, 8), torch.ones(3, dtype=torch.long))], "l.py:make: train")
    with pytest.raises(InvalidInput, match=r"whose output for 3 samples is \(3, classes\), .* \(2, 3\)"):
        require_fits(CLASSIFICATION, Plain(), Data("l.py:make", {"train": split}), ["train"])


def test_a_loader_that_fails_or_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "loaders.py").write_text(
        "class Failing:\n    def __iter__(self):\n        yield 1 / 0\n"
        "def failing():\n    return {'train': Failing()}\n"
        "def none():\n    return {'train': 3}\n"
        "def empty():\n    return {'train': []}\n"
    )
    with pytest.raises(InvalidInput, match="train: the loader failed: ZeroDivisionError"):
        load(f"{tmp_path}/loaders.py:failing").example()
    with pytest.raises(InvalidInput, match="expected a loader of train batches, got int"):
        load(f"{tmp_path}/loaders.py:none")
    with pytest.raises(InvalidInput, match="the train split has no samples"):
        load(f"{tmp_path}/loaders.py:empty").example()


def test_augmentations_are_of_images() -> None:
    with pytest.raises(InvalidInput, match=r"augment: it is for images \(N, C, H, W\), .* \(8,\)"):
        augmentation(torch.ones(2, 8), None, torch.Generator(), ["flip"])
    assert augmentation(torch.ones(2, 8), None, torch.Generator(), [])[0].shape == (2, 8)


def test_one_sample_at_a_time_leaves_batch_norm_nothing() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.BatchNorm1d(3))
    with pytest.raises(InvalidInput, match="a batch of 1 leaves batch norm one value"):
        fit(model, data_of(CLASSES), TRAINING.model_copy(update={"batch_size": 1}))
