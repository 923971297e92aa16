"""One small data set of boxes in every form that folders of boxes have."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

Box = tuple[str, tuple[int, int, int, int]]
"""The class of an object, and its x1, y1, x2, y2 in whole pixels."""
NAMES = ("bee", "cat")
SIZE = (30, 40)
"""Height and width of the images."""

SCENES: dict[str, list[list[Box]]] = {
    "train": [
        [("cat", (4, 6, 14, 20))],
        [("bee", (20, 2, 38, 12)), ("cat", (0, 0, 8, 30))],
        [],
        [("bee", (10, 10, 30, 20))],
        [("cat", (30, 20, 40, 30))],
        [("bee", (2, 2, 12, 12))],
    ],
    "val": [[("bee", (5, 5, 15, 25))], [("cat", (1, 1, 39, 29))]],
    "test": [[("cat", (16, 8, 24, 28)), ("bee", (0, 0, 4, 4))]],
}


def picture(boxes: list[Box]) -> Image.Image:
    """Dark, and bright within the boxes."""
    pixels = np.zeros((*SIZE, 3), np.uint8)
    for _, (x1, y1, x2, y2) in boxes:
        pixels[y1:y2, x1:x2] = 255
    return Image.fromarray(pixels)


def _images(folder: Path, split: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i, boxes in enumerate(SCENES[split]):
        picture(boxes).save(folder / f"{split}{i}.png")


def xml(boxes: list[Box], difficult: int = 0) -> str:
    """An annotation of Pascal VOC."""
    edges = ("xmin", "ymin", "xmax", "ymax")
    height, width = SIZE
    objects = ""
    for name, (x1, y1, x2, y2) in boxes:
        box = "".join(f"<{k}>{v}</{k}>" for k, v in zip(edges, (x1 + 1, y1 + 1, x2, y2), strict=True))
        objects += f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{box}</bndbox></object>"
    return f"<annotation><size><width>{width}</width><height>{height}</height></size>{objects}</annotation>"


def voc(root: Path) -> None:
    for part in ("Annotations", "ImageSets/Main"):
        (root / part).mkdir(parents=True)
    for split, scenes in SCENES.items():
        _images(root / "JPEGImages", split)
        for i, boxes in enumerate(scenes):
            (root / "Annotations" / f"{split}{i}.xml").write_text(xml(boxes))
        names = "".join(f"{split}{i}\n" for i in range(len(scenes)))
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text(names)


def voc_beside(root: Path) -> None:
    for split, scenes in SCENES.items():
        _images(root / split, split)
        for i, boxes in enumerate(scenes):
            (root / split / f"{split}{i}.xml").write_text(xml(boxes))


def _coco(split: str, placeholder: bool = False) -> str:
    height, width = SIZE
    ids = {"bee": 7, "cat": 11}
    categories = [{"id": i, "name": name, "supercategory": "animals"} for name, i in reversed(ids.items())]
    if placeholder:
        categories.append({"id": 0, "name": "animals", "supercategory": "none"})
    scenes = SCENES[split]
    images = [
        {"id": 100 + i, "file_name": f"{split}{i}.png", "height": height, "width": width} for i in range(len(scenes))
    ]
    annotations = [
        {"id": 1, "image_id": 100 + i, "category_id": ids[name], "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": 0}
        for i, boxes in enumerate(scenes)
        for name, (x1, y1, x2, y2) in boxes
    ]
    return json.dumps({"images": images, "annotations": annotations, "categories": categories})


def coco(root: Path) -> None:
    (root / "annotations").mkdir(parents=True)
    for split in SCENES:
        _images(root / f"{split}2017", split)
        (root / "annotations" / f"instances_{split}2017.json").write_text(_coco(split))


def coco_in_images(root: Path) -> None:
    (root / "annotations").mkdir(parents=True)
    for split in SCENES:
        _images(root / "images", split)
        (root / "annotations" / f"{split}.json").write_text(_coco(split))


def roboflow(root: Path) -> None:
    for split in SCENES:
        folder = root / ("valid" if split == "val" else split)
        _images(folder, split)
        (folder / "_annotations.coco.json").write_text(_coco(split, placeholder=True))


def _yolo_lines(boxes: list[Box]) -> str:
    height, width = SIZE
    lines = []
    for name, (x1, y1, x2, y2) in boxes:
        shares = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
        lines.append(f"{NAMES.index(name)} {' '.join(map(str, shares))}\n")
    return "".join(lines)


def _yolo(root: Path, images: str, labels: str) -> None:
    for split, scenes in SCENES.items():
        _images(root / images.format(split), split)
        folder = root / labels.format(split)
        folder.mkdir(parents=True)
        for i, boxes in enumerate(scenes):
            if boxes:
                (folder / f"{split}{i}.txt").write_text(_yolo_lines(boxes))


def yolo(root: Path) -> None:
    _yolo(root, "images/{}", "labels/{}")
    (root / "data.yaml").write_text("path: ../elsewhere\ntrain: images/train\nnc: 2\nnames:\n  0: bee\n  1: cat\n")


def yolo_by_split(root: Path) -> None:
    _yolo(root, "{}/images", "{}/labels")
    (root / "data.yaml").write_text("names: [bee, cat]\n")


def yolo_with_list(root: Path) -> None:
    _yolo(root, "images/{}", "labels/{}")
    (root / "classes.txt").write_text("bee\ncat\n")


FORMS: dict[str, Callable[[Path], None]] = {
    made.__name__: made
    for made in (voc, voc_beside, coco, coco_in_images, roboflow, yolo, yolo_by_split, yolo_with_list)
}
