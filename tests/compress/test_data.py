from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from compress.data import Data, DataConfig, Preprocessing, SampleSplit, load, partition
from compress.errors import InvalidInput
from compress.quantize import Quantize
from compress.stage import Context


def image_folder(root: Path, train: int = 20, test: int = 4, size: tuple[int, int] = (12, 10)) -> Path:
    generator = np.random.default_rng(0)
    for split, count in (("train", train), ("test", test)):
        for label, name in enumerate(("cat", "dog", "eel")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = generator.integers(0, 80, (size[1], size[0], 3), dtype=np.uint8)
                pixels[..., label] += 150
                Image.fromarray(pixels).save(folder / f"{i:02}.png")
    return root


def rows(data: Data, name: str) -> set[bytes]:
    return {x.numpy().tobytes() for batch, *_ in data.split(name).batches(7) for x in batch}  # type: ignore[arg-type]


def check_disjoint(data: Data) -> None:
    names = list(data.splits)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            assert not rows(data, first) & rows(data, second), f"{first} and {second} share samples"


def test_digits_splits_never_overlap_and_cover_all() -> None:
    data = load("digits")
    assert sum(len(split) for split in data.splits.values()) == 1797
    members = [m for group in data.members.values() for m in group]
    assert len(members) == len(set(members)) == 1797
    check_disjoint(data)
    assert data.example(4).shape == (4, 1, 32, 32)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_image_folder_splits_never_overlap(tmp_path: Path, seed: int) -> None:
    data = load(DataConfig(source=str(image_folder(tmp_path)), calibration=9), seed)
    check_disjoint(data)
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 45, "calibration": 9, "validation": 6, "test": 12,
    }  # fmt: skip
    assert data.classes == ("cat", "dog", "eel")
    assert data.example(2).shape == (2, 3, 10, 12)


def test_the_split_is_fixed_by_the_seed(tmp_path: Path) -> None:
    root = str(image_folder(tmp_path))
    assert rows(load(root, 3), "validation") == rows(load(root, 3), "validation")
    assert rows(load(root, 3), "validation") != rows(load(root, 4), "validation")
    assert load(root, 3).members["test"] == load(root, 4).members["test"]
    assert set(load(root, 3).members["validation"]) != set(load(root, 4).members["validation"])


def test_image_folder_labels_follow_class_names_and_resize(tmp_path: Path) -> None:
    data = load(DataConfig(source=str(image_folder(tmp_path)), size=8))
    x, y = next(data.split("test").batches(12))
    assert x.shape == (12, 3, 8, 8)
    assert y is not None and torch.equal(x.mean((2, 3)).argmax(1), y)


def test_validation_is_balanced() -> None:
    labels = np.repeat(np.arange(10), 50)
    parts = partition(labels, {"validation": 40, "calibration": 20}, seed=0)
    for name, each in (("validation", 4), ("calibration", 2)):
        counts = np.bincount(labels[parts[name]], minlength=10)
        assert counts.max() - counts.min() <= 2 and abs(counts.mean() - each) < 1e-9
    assert len(np.unique(np.concatenate(list(parts.values())))) == 500


def test_npz_with_calibration_alone(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(5, 3, 4, 4)).astype(np.float32)
    np.savez(tmp_path / "calib.npz", x_calib=x)
    data = load(str(tmp_path / "calib.npz"))
    assert list(data.splits) == ["calibration"]
    (batch,) = next(data.split("calibration").batches(8))
    assert np.array_equal(batch.numpy(), x)
    with pytest.raises(InvalidInput, match="no train samples"):
        data.split("train")


def test_npz_with_training_data_is_split(npz: Path) -> None:
    data = load(str(npz))
    assert {"train", "calibration", "validation", "test"} == set(data.splits)
    check_disjoint(data)


def test_npz_given_calibration_and_validation_are_used(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)

    def images(n: int) -> np.ndarray:
        return generator.normal(size=(n, 1, 4, 4)).astype(np.float32)

    np.savez(
        tmp_path / "d.npz",
        x_train=images(40),
        y_train=np.arange(40) % 2,
        x_val=images(6),
        y_val=np.arange(6) % 2,
        x_calib=images(7),
    )
    data = load(str(tmp_path / "d.npz"))
    assert len(data.split("validation")) == 6 and len(data.split("calibration")) == 7
    check_disjoint(data)


def test_a_users_loaders(tmp_path: Path) -> None:
    (tmp_path / "loaders.py").write_text(
        "import torch\n"
        "from torch.utils.data import DataLoader, TensorDataset\n"
        "def make(n=8):\n"
        "    def loader(k):\n"
        "        images = torch.full((n, 1, 4, 4), float(k))\n"
        "        return DataLoader(TensorDataset(images, torch.arange(n) % 2), batch_size=4)\n"
        "    return {'train': loader(0), 'validation': loader(1), 'test': loader(2), 'calibration': loader(3)}\n"
    )
    data = load(f"{tmp_path}/loaders.py:make:n=6")
    assert {name: len(split) for name, split in data.splits.items()} == dict.fromkeys(data.splits, 6)
    check_disjoint(data)


def test_preprocessing_against_a_loop() -> None:
    raw = torch.randint(0, 255, (2, 3, 4, 5), dtype=torch.uint8)
    made = Preprocessing(1 / 255, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))(raw)
    for c, (mean, std) in enumerate(((0.1, 0.4), (0.2, 0.5), (0.3, 0.6))):
        expected = (raw[:, c].numpy().astype(np.float64) / 255 - mean) / std
        np.testing.assert_allclose(made[:, c].numpy(), expected, rtol=1e-5, atol=1e-6)


def test_shuffled_batches_are_a_permutation_and_shares_make_the_whole() -> None:
    split = SampleSplit(torch.arange(20).view(20, 1), torch.arange(20))
    whole = [x.flatten().tolist() for x, _ in split.batches(6, shuffle_seed=(0, 1))]
    assert [len(batch) for batch in whole] == [6, 6, 6]  # the last partial batch is dropped
    assert len({v for batch in whole for v in batch}) == 18
    shares = [
        [x.flatten().tolist() for x, _ in split.batches(6, shuffle_seed=(0, 1), rank=rank, world_size=2)]
        for rank in (0, 1)
    ]
    for batch, first, second in zip(whole, *shares, strict=True):
        assert sorted(batch) == sorted(first + second)
    assert whole != [x.flatten().tolist() for x, _ in split.batches(6, shuffle_seed=(0, 2))]


def test_indices_stay_what_they_are(tmp_path: Path) -> None:
    ids = np.arange(24).reshape(6, 4)
    np.savez(tmp_path / "ids.npz", x_calib=ids)
    (batch,), *rest = load(DataConfig(source=str(tmp_path / "ids.npz"))).split("calibration").batches(8)
    assert not rest and batch.dtype == torch.int64 and torch.equal(batch, torch.from_numpy(ids))


def test_samples_that_a_layer_cannot_take_are_told_with_the_layer(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 2))
    ids = torch.tensor([[1, 2]] * 40 + [[3, 10]])
    data = Data("ids", {"calibration": SampleSplit(ids, None)})
    with pytest.raises(
        InvalidInput, match=r"^quantize: layer '0' does not run on calibration samples: index out of range"
    ):
        Quantize().apply(network, Context((ids[:1],), data))
