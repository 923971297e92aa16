"""Folders of masks: the same classes from every form, moved with the pixels, and damaged files told in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from compress.data import Data, DataConfig, load, masks
from compress.errors import InvalidInput
from compress.tasks.built_in import segmentation
from compress.tasks.reading import Reading
from compress.tasks.resolve import require_fits

SIZE = (12, 20)
COUNTS = {"train": 8, "val": 2, "test": 3}
COLOURS = np.array([[0, 0, 0], [128, 64, 0], [0, 0, 200]], np.uint8)


def mask(seed: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Classes 0, 1 and 2, and 255, in blocks of 4."""
    blocks = np.random.default_rng(seed).choice(np.array([0, 1, 2, 255], np.uint8), (SIZE[0] // 4, SIZE[1] // 4))
    blocks[0, :4] = 0, 1, 2, 255
    return blocks.repeat(4, 0).repeat(4, 1)


def write(root: Path, images: str, masks: str, kind: str = "L", ending: str = "") -> None:
    """Pictures whose red is 60 times the class (255 where there is none) and their masks."""
    for n, (split, count) in enumerate(COUNTS.items()):
        for folder in (images, masks):
            (root / folder.format(split)).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            classes = mask(10 * n + i)
            red = np.where(classes == 255, 255, classes * 60).astype(np.uint8)
            picture = np.stack([red, np.full_like(red, i * 9), np.full_like(red, n * 9)], -1)
            Image.fromarray(picture).save(root / images.format(split) / f"{split}{i}.png")
            drawn = Image.fromarray(classes)
            if kind == "P":
                drawn.putpalette([200, 3, 9] * 256)
            elif kind == "RGB":
                drawn = Image.fromarray(np.append(COLOURS, [[9, 9, 9]], 0)[np.minimum(classes, 3)].astype(np.uint8))
            elif kind == "I;16":
                drawn = Image.fromarray(classes.astype(np.uint16))
            drawn.save(root / masks.format(split) / f"{split}{i}{ending}.png")


def loaded(root: Path, **settings: Any) -> Data:
    return load(DataConfig(source=str(root), calibration=2, mean=(0.0,) * 3, std=(1.0,) * 3, **settings))


FORMS: dict[str, tuple[str, str, str]] = {
    "by split": ("{}/images", "{}/masks", ""),
    "by split, labels": ("{}/images", "{}/labels", "_L"),
    "by kind": ("images/{}", "masks/{}", ""),
    "by kind, annotations": ("images/{}", "annotations/{}", "_mask"),
    "CamVid": ("{}", "{}annot", ""),
    "CamVid, labels": ("{}", "{}_labels", "_L"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["L", "P", "I;16", "RGB"])
def test_every_form_tells_the_same_classes(form: str, kind: str, tmp_path: Path) -> None:
    images, where, ending = FORMS[form]
    write(tmp_path, images, where, kind, ending)
    if kind == "RGB":
        (tmp_path / "class_dict.csv").write_text("name,r,g,b\na,0,0,0\nb,128,64,0\nc, 0, 0, 200\nVoid,9,9,9\n")
    data = loaded(tmp_path)
    assert data.classes == (("a", "b", "c") if kind == "RGB" else ("0", "1", "2"))
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 6, "calibration": 2, "validation": 2, "test": 3,
    }  # fmt: skip
    for split in data.splits.values():
        for x, y in split.batches(2):
            assert y.dtype == torch.int64 and y.shape == (len(x), *SIZE)
            red = (x[:, 0] * 255).round().long()
            assert torch.equal(torch.where(y == 255, 255, y * 60), red)


@pytest.mark.parametrize("resize", ["crop", "stretch", "letterbox"])
@pytest.mark.parametrize("size", [(24, 40), (12, 12), (9, 31)])
def test_masks_lie_where_the_pixels_are(resize: str, size: tuple[int, int], tmp_path: Path) -> None:
    write(tmp_path, "images/{}", "masks/{}")
    for x, y in loaded(tmp_path, size=size, resize=resize).split("test").batches(8):
        assert x.shape[2:] == y.shape[1:] == size
        red = (x[:, 0] * 255).round().long()
        expected = torch.where(y == 255, 255, y * 60)
        padded = (x * 255).round().long().eq(114).all(1)
        assert bool((y[padded] == 255).all()) and bool(padded.any()) == (resize == "letterbox" and size != (24, 40))
        inner = (~padded).float()
        alike = ((red - expected).abs() <= 30) & ~padded  # the borders of blocks are blended in the image alone
        assert alike.sum() / inner.sum() > 0.5
        assert set(y.unique().tolist()) <= {0, 1, 2, 255}
        if size == (12, 12) and resize == "crop":
            assert torch.equal(red, expected)


def test_large_masks_are_decoded_when_they_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "images/{}", "masks/{}")
    held = [y for _, y in loaded(tmp_path).split("train").batches(3)]
    monkeypatch.setattr(masks, "IN_MEMORY_BYTES", 100)
    with pytest.raises(InvalidInput, match=r"masks/train: the masks are too large .* classes.txt"):
        loaded(tmp_path)
    (tmp_path / "classes.txt").write_text("sky\nroad\ncar\n")
    data = loaded(tmp_path)
    assert data.classes == ("sky", "road", "car")
    assert all(torch.equal(a, y) for a, (_, y) in zip(held, data.split("train").batches(3), strict=True))


def test_two_greys_are_two_classes_where_a_table_says_so(tmp_path: Path) -> None:
    write(tmp_path, "images/{}", "masks/{}")
    for file in (tmp_path / "masks").rglob("*.png"):
        Image.fromarray((np.asarray(Image.open(file)) == 1).astype(np.uint8) * 255).save(file)
    with pytest.raises(InvalidInput, match=r"hold class 0 and 255, which is none, alone; where it is one, say so"):
        loaded(tmp_path)
    (tmp_path / "classes.txt").write_text("background 0 0 0\nobject 255 255 255\n")
    data = loaded(tmp_path)
    assert data.classes == ("background", "object")
    ((x, y),) = data.split("test").batches(8)
    assert torch.equal(y == 1, (x[:, 0] * 255).round() == 60)


def test_a_class_called_void_is_none(tmp_path: Path) -> None:
    write(tmp_path, "images/{}", "masks/{}")
    (tmp_path / "classes.txt").write_text("sky\nroad\nvoid\n")
    data = loaded(tmp_path)
    assert data.classes == ("sky", "road")
    assert {v for split in data.splits.values() for _, y in split.batches(4) for v in y.unique().tolist()} == {
        0,
        1,
        255,
    }


def test_a_class_that_the_network_lacks_is_told_before_the_work(tmp_path: Path) -> None:
    write(tmp_path, "images/{}", "masks/{}")
    task = segmentation.task(Reading())
    require_fits(task, nn.Conv2d(3, 3, 1), loaded(tmp_path), ["train", "test"])
    with pytest.raises(InvalidInput, match=r"classes from 0 to 1, as the network has 2"):
        require_fits(task, nn.Conv2d(3, 2, 1), loaded(tmp_path), ["train"])


def written(name: str, text: str) -> Callable[[Path], object]:
    return lambda root: (root / name).write_text(text)


def _first(root: Path) -> Path:
    return root / "masks" / "train" / "train0.png"


DAMAGES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "no mask": ("L", lambda root: _first(root).unlink(), "train0.png: no mask for it; expected"),
    "no picture": ("L", lambda root: _first(root).write_text("no"), "masks/train/train0.png: not a readable image"),
    "another size": ("L", lambda root: Image.new("L", (20, 11)).save(_first(root)), "20x11 pixels, and its image"),
    "a JPEG": ("L", lambda root: _first(root).rename(_first(root).with_suffix(".jpg")), ".jpg changes the numbers"),
    "16 bits": ("L", lambda root: Image.new("I;16", (20, 12), 900).save(_first(root)), "class 900; expected 0 to 254"),
    "colours without a table": ("RGB", lambda root: None, "it has colours, and nothing tells which class each is"),
    "a colour in no table": (
        "RGB", written("classes.txt", "a 0 0 0\nb 128 64 0\nc 0 0 200\n"),
        "have colours as 9 9 9, which classes.txt does not list",
    ),
    "a class without a name": ("L", written("classes.txt", "a\nb\n"), "class 2, and classes.txt"),
    "no names": ("L", written("classes.txt", "# a\n"), "expected the names of the classes"),
    "a name twice": ("L", written("classes.txt", "a\na\nb"), "each once, got a twice"),
    "a colour twice": ("L", written("labels.txt", "a 1 2 3\nb 1 2 3\n"), "have the colour 1 2 3"),
    "half a table": ("L", written("classes.txt", "a 1 2 3\nb\n"), "line 2: expected a name with"),
    "a colour of 256": ("L", written("classes.txt", "a 1 2 256\n"), "line 1: expected a name with"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_masks_are_told_in_one_line(name: str, tmp_path: Path) -> None:
    kind, damage, says = DAMAGES[name]
    write(tmp_path, "images/{}", "masks/{}", kind)
    damage(tmp_path)
    with pytest.raises(InvalidInput) as refused:
        loaded(tmp_path)
    told = str(refused.value)
    assert told.startswith(f"data {tmp_path}") and says in told and "\n" not in told, told


def test_tables_of_colours_in_the_forms_of_tools(tmp_path: Path) -> None:
    write(tmp_path, "images/{}", "masks/{}", "RGB")
    for name, text in {
        "label_colors.txt": "0 0 0\ta\n128 64 0\tbig cat\n0 0 200\t\tc\n9 9 9 Void\n",
        "labelmap.txt": "# label:color_rgb:parts:actions\na:0,0,0::\nbig cat:128,64,0::\nc:0,0,200::\nvoid:9,9,9::\n",
        "classes.txt": "a 0 0 0\nbig cat 128 64 0\nc,0,0,200\nignore 9 9 9\n",
    }.items():
        (tmp_path / name).write_text(text)
        assert loaded(tmp_path).classes == ("a", "big cat", "c")
        (tmp_path / name).unlink()
