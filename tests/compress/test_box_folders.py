"""Folders of boxes: the same objects from every form, moved with the pixels, and damaged files told in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from compress.data import Data, DataConfig, load
from compress.errors import InvalidInput
from tests.support.box_folders import FORMS, NAMES, SCENES, SIZE, coco, voc, xml, yolo

SPLITS = {"train": "train", "val": "validation", "test": "test"}


def loaded(root: Path, **settings: Any) -> Data:
    return load(DataConfig(source=str(root), calibration=1, **settings))


def targets(data: Data, split: str) -> list[tuple[Tensor, dict[str, Tensor]]]:
    """Image and target, one by one."""
    batches = list(data.split(split).batches(4))  # type: ignore[arg-type]
    return [pair for images, found in batches for pair in zip(images, found, strict=True)]


def plain(target: dict[str, Tensor]) -> list[tuple[str, tuple[int, ...]]]:
    boxes = [tuple(box) for box in target["boxes"].round().int().tolist()]
    return list(zip((NAMES[i] for i in target["labels"].tolist()), boxes, strict=True))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_tells_the_same_objects(form: str, tmp_path: Path) -> None:
    FORMS[form](tmp_path)
    data = loaded(tmp_path)
    assert data.classes == NAMES and set(data.splits) == {"train", "calibration", "validation", "test"}
    for name in ("val", "test"):
        assert [plain(target) for _, target in targets(data, SPLITS[name])] == SCENES[name]
    dealt = [plain(target) for split in ("train", "calibration") for _, target in targets(data, split)]
    assert sorted(dealt) == sorted(SCENES["train"])
    images, found = next(data.split("train").batches(2))
    assert images.shape == (2, 3, *SIZE) and images.dtype == torch.float32 and len(found) == 2
    assert {(t["boxes"].dtype, t["labels"].dtype, t["boxes"].shape[1]) for t in found} == {
        (torch.float32, torch.int64, 4)
    }


@pytest.mark.parametrize("resize", ["crop", "stretch", "letterbox", None])
@pytest.mark.parametrize("size", [(60, 40), (15, 80), (24, 24)])
def test_boxes_lie_where_the_pixels_are(resize: str | None, size: tuple[int, int], tmp_path: Path) -> None:
    yolo(tmp_path)
    data = loaded(tmp_path, size=size, resize=resize, mean=(0.0,) * 3, std=(1.0,) * 3)
    seen = 0
    for split in data.splits:
        for image, target in targets(data, split):
            if len(target["labels"]) != 1:
                continue
            bright = (image[0] > 0.5).nonzero()  # the grey of a letterbox is below
            (y1, x1), (y2, x2) = bright.amin(0).tolist(), (bright.amax(0) + 1).tolist()
            np.testing.assert_allclose(target["boxes"][0].numpy(), (x1, y1, x2, y2), atol=1.01)
            seen += 1
    assert seen >= 5
    whole = targets(loaded(tmp_path, size=size, resize="stretch"), "validation")[1][1]["boxes"][0]
    found = targets(data, "validation")[1][1]["boxes"][0]
    if resize is None:
        assert torch.equal(whole, found)


def test_what_lies_outside_of_a_crop_is_no_object(tmp_path: Path) -> None:
    yolo(tmp_path)
    data = loaded(tmp_path, size=(30, 10), resize="crop")
    ((_, target),) = targets(data, "test")
    assert plain(target) == [("cat", (1, 8, 9, 28))]
    assert target["boxes"].shape == (1, 4)


def test_difficult_objects_and_crowds_are_apart(tmp_path: Path) -> None:
    voc(tmp_path / "voc")
    (tmp_path / "voc" / "Annotations" / "test0.xml").write_text(xml(SCENES["test"][0], difficult=1))
    coco(tmp_path / "coco")
    file = tmp_path / "coco" / "annotations" / "instances_test2017.json"
    content = json.loads(file.read_text())
    for entry in content["annotations"]:
        entry["iscrowd"] = 1
    file.write_text(json.dumps(content))
    for root in (tmp_path / "voc", tmp_path / "coco"):
        data = loaded(root)
        ((_, target),) = targets(data, "test")
        assert len(target["boxes"]) == len(target["labels"]) == 0
        assert plain({"boxes": target["ignored_boxes"], "labels": target["ignored_labels"]}) == SCENES["test"][0]
        assert all(set(other) == {"boxes", "labels"} for _, other in targets(data, "validation"))


def test_a_box_without_an_area_is_left_out_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    yolo(tmp_path)
    (tmp_path / "labels" / "test" / "test0.txt").write_text("0 0.5 0.5 0.5 0\n1 0.5 0.5 0.5 0.5\n0 0 0 1 1 0.5 0.2\n")
    ((_, target),) = targets(loaded(tmp_path), "test")
    assert plain(target) == [("cat", (10, 8, 30, 22)), ("bee", (0, 0, 40, 30))]
    assert "1 boxes without an area" in caplog.text and "test0.txt" in caplog.text


def test_without_image_sets_all_images_are_to_train_on(tmp_path: Path) -> None:
    voc(tmp_path)
    for file in (tmp_path / "ImageSets" / "Main").iterdir():
        file.unlink()
    data = loaded(tmp_path)
    assert sum(len(split) for split in data.splits.values()) == 9 and "test" not in data.splits
    (tmp_path / "ImageSets" / "Main" / "trainval.txt").write_text("train0\ntrain1\ntrain3\nval0\n")
    assert sum(len(split) for split in loaded(tmp_path).splits.values()) == 4


def test_names_of_images_may_hold_spaces(tmp_path: Path) -> None:
    voc(tmp_path)
    for i in range(2):
        (tmp_path / "JPEGImages" / f"val{i}.png").rename(tmp_path / "JPEGImages" / f"my photo {i}.png")
        (tmp_path / "Annotations" / f"val{i}.xml").rename(tmp_path / "Annotations" / f"my photo {i}.xml")
    (tmp_path / "ImageSets" / "Main" / "val.txt").write_text("my photo 0 \nmy photo 1  -1\n")
    assert [plain(target) for _, target in targets(loaded(tmp_path), "validation")] == SCENES["val"]


def test_without_any_object_nothing_tells_the_classes_of_voc(tmp_path: Path) -> None:
    voc(tmp_path)
    for file in (tmp_path / "Annotations").iterdir():
        file.write_text(xml([]))
    with pytest.raises(InvalidInput, match="none of its annotations has an <object>"):
        loaded(tmp_path)


def changed(name: str, old: str, new: str) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        file = root / name
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new, 1))

    return damage


def written(name: str, text: str) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        (root / name).write_text(text)

    return damage


LAUGHS = '<!DOCTYPE a [<!ENTITY b "ha">]><annotation><object><name>&b;</name></object></annotation>'
XML, JSON, TXT = "Annotations/train1.xml", "annotations/instances_train2017.json", "labels/train/train1.txt"
DAMAGES: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "XML cut off": ("voc", changed(XML, "</annotation>", ""), f"{XML}: not XML (no element found"),
    "entities": ("voc", written(XML, LAUGHS), f"{XML}: XML with a document type"),
    "XML of another kind": ("voc", written(XML, "<html/>"), f"{XML}: expected <annotation>"),
    "no XML": ("voc", lambda root: (root / XML).unlink(), f"{XML}: no such file"),
    "a word as an edge": ("voc", changed(XML, "<xmax>38", "<xmax>far"), "object 1: expected a number as <xmax>"),
    "NaN as an edge": ("voc", changed(XML, "<xmax>38", "<xmax>nan"), "object 1: expected a number as <xmax>"),
    "edges turned": ("voc", changed(XML, "<xmax>38", "<xmax>3"), "object 1: expected xmin <= xmax"),
    "no name": ("voc", changed(XML, "<name>cat</name>", ""), "object 2: expected a <name>"),
    "no box": ("voc", changed(XML, "bndbox", "polygon"), "not XML"),
    "another size": ("voc", changed(XML, "<width>40", "<width>41"), "has 41x30 pixels, and the image has 40x30"),
    "an image too many": ("voc", written("ImageSets/Main/test.txt", "test7"), "test.txt: it names test7, and there"),
    "no images": ("voc", written("ImageSets/Main/test.txt", "\n"), "test.txt: it names no images"),
    "JSON cut off": ("coco", changed(JSON, "]}", ""), f"{JSON}: "),
    "JSON of another kind": ("coco", written(JSON, "[]"), f"{JSON}: expected COCO's JSON"),
    "no image": ("coco", lambda root: (root / "train2017/train2.png").unlink(), "train2017/train2.png: no such file"),
    "an image outside": ("coco", changed(JSON, "train0.png", "../train0.png"), "images[0].file_name: expected"),
    "an unknown image": ("coco", changed(JSON, '"image_id": 101', '"image_id": 7'), "annotations[1].image_id"),
    "a list as an image": ("coco", changed(JSON, '"image_id": 101', '"image_id": []'), "annotations[1]: expected"),
    "a list as an id": ("coco", changed(JSON, '"id": 101', '"id": []'), "images[1]: expected"),
    "an unknown category": ("coco", changed(JSON, '"category_id": 7', '"category_id": 3'), "[1].category_id: "),
    "a list as a category": ("coco", changed(JSON, '"category_id": 7', '"category_id": []'), "[1].category_id: "),
    "three numbers": ("coco", changed(JSON, "[20, 2, 18, 10]", "[20, 2, 18]"), "annotations[1].bbox: expected"),
    "infinity": ("coco", changed(JSON, "[20, 2,", "[20, Infinity,"), "annotations[1].bbox: expected"),
    "a negative width": ("coco", changed(JSON, "18, 10]", "-18, 10]"), "expected a width and a height of 0 or more"),
    "a category twice": ("coco", changed(JSON, '"id": 11', '"id": 7'), "categories[1].id: 7 is there twice"),
    "an image's id twice": ("coco", changed(JSON, '"id": 101', '"id": 100'), "images[1].id: 100 is that of images[0]"),
    "categories with other names": ("coco", changed("annotations/instances_val2017.json", '"bee"', '"ant"'),
                                    "instances_val2017.json: category 7 is 'ant', and in instances_train2017.json"),
    "another size in JSON": ("coco", changed(JSON, '"width": 40', '"width": 4'), "train0.png has 4x30 pixels"),
    "a class too many": ("yolo", written(TXT, "0 .5 .5 .1 .1\n2 .5 .5 .1 .1\n"), f"{TXT}: line 2: expected a class"),
    "pixels": ("yolo", written(TXT, "0 12 14 4 4\n"), f"{TXT}: line 1: expected shares"),
    "NaN": ("yolo", written(TXT, "0 nan .5 .5 .5\n"), f"{TXT}: line 1: expected shares"),
    "words": ("yolo", written(TXT, "cat .1 .1 .1 .1\n"), f"{TXT}: line 1: expected a class and x, y"),
    "too few": ("yolo", written(TXT, "0 .1 .1 .1\n"), f"{TXT}: line 1: expected a class and x, y"),
    "no names": ("yolo", lambda root: (root / "data.yaml").unlink(), "need the names of the classes; add classes.txt"),
    "other names": ("yolo", written("data.yaml", "names: 3"), "data.yaml: expected names, a list"),
    "numbers left out": ("yolo", written("data.yaml", "names: {0: a, 2: b}"), "data.yaml: expected names, a list"),
    "a name twice": ("yolo", written("data.yaml", "names: [a, a]"), "data.yaml: expected the names of the classes"),
    "no YAML": ("yolo", written("data.yaml", "names: ["), "data.yaml: line 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_annotations_are_told_in_one_line(name: str, tmp_path: Path) -> None:
    form, damage, says = DAMAGES[name]
    FORMS[form](tmp_path)
    damage(tmp_path)
    with pytest.raises(InvalidInput) as refused:
        loaded(tmp_path)
    told = str(refused.value)
    assert told.startswith(f"data {tmp_path}") and says in told and "\n" not in told, told


def test_a_damaged_image_is_told(tmp_path: Path) -> None:
    coco(tmp_path)
    (tmp_path / "val2017" / "val0.png").write_bytes(b"no picture")
    with pytest.raises(InvalidInput, match=r"val2017/val0.png: not a readable image"):
        loaded(tmp_path)


def test_images_of_several_sizes_need_one(tmp_path: Path) -> None:
    yolo(tmp_path)
    Image.new("RGB", (20, 20)).save(tmp_path / "images" / "train" / "train0.png")
    with pytest.raises(InvalidInput, match="different sizes"):
        loaded(tmp_path)
    assert loaded(tmp_path, size=16).example().shape == (1, 3, 16, 16)
