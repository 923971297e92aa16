"""A real ONNX file that none of us made, to a pruned LiteRT file in int8, by the three commands of the README.

python benchmarks/real_onnx.py --model cls.onnx [-o out/real_onnx]

The file is PaddleOCR's classifier of text direction (a MobileNetV3 that tells upright lines from lines turned by 180
degrees), as the package ``rapidocr`` ships it: pip download --no-deps rapidocr; unzip rapidocr-*.whl '*_cls_*.onnx'.
Its training images are not public, so lines of text are drawn here with the fonts that matplotlib ships, cut out and
filled up as PaddleOCR does it: other fonts for training, calibration and validation than for the test. Prints the
accuracy of the original file and of what came out, each in its engine, with bytes and latency. About ten minutes.
"""

from __future__ import annotations

import argparse
import doctest
import json
import pickletools
import re
import subprocess
import sys
import typing
from pathlib import Path

import click
import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from compress import deploy
from compress.data import load as load_data

HEIGHT, WIDTH = 48, 192
FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
TRAINING_FONTS = (
    "DejaVuSans.ttf",
    "DejaVuSansMono-Bold.ttf",
    "DejaVuSerif-Italic.ttf",
    "STIXGeneral.ttf",
    "DejaVuSans-Oblique.ttf",
    "STIXGeneralBol.ttf",
    "cmss10.ttf",
    "cmtt10.ttf",
)
TEST_FONTS = ("DejaVuSerif-Bold.ttf", "DejaVuSansMono-Oblique.ttf", "STIXGeneralItalic.ttf", "cmr10.ttf")
PROSE = " ".join(module.__doc__ or "" for module in (argparse, doctest, json, pickletools, typing))
WORDS = sorted(set(re.findall(r"[A-Za-z]{3,12}", PROSE)))


def line(rng: np.random.Generator, fonts: tuple[str, ...]) -> NDArray[np.float32]:
    """An upright line of two or three words as a detector cuts it out, (48, width, 3), width at most 192: -1 to 1."""
    text = " ".join(rng.choice(WORDS, rng.integers(2, 4)))
    paper, ink = rng.integers(150, 256, 3), rng.integers(0, 100, 3)
    if rng.random() < 0.3:
        paper, ink = ink, paper
    font = ImageFont.truetype(str(FONTS / rng.choice(fonts)), 40)
    left, top, right, bottom = font.getbbox(text)
    before, after, above, below = (int(margin) for margin in rng.integers(1, 8, 4))
    size = int(right - left) + before + after, int(bottom - top) + above + below
    image = Image.new("RGB", size, tuple(int(c) for c in paper))
    ImageDraw.Draw(image).text((before - left, above - top), text, tuple(int(c) for c in ink), font)
    image = image.resize((min(WIDTH, round(size[0] * HEIGHT / size[1])), HEIGHT), Image.Resampling.BILINEAR)
    pixels = np.asarray(image, np.float32) + rng.normal(0, rng.uniform(0, 12), (HEIGHT, image.width, 3))
    return np.clip(pixels, 0, 255).astype(np.float32) / 127.5 - 1


def lines(count: int, fonts: tuple[str, ...], seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Lines (count, 3, 48, 192) and their classes, half of them turned; as PaddleOCR does, filled with 0 on the right.

    Lines keep their ratio of height to width, unless they are longer than the image.
    """
    rng = np.random.default_rng(seed)
    x = np.zeros((count, 3, HEIGHT, WIDTH), np.float32)
    y = rng.integers(0, 2, count)
    for image, turned in zip(x, y, strict=True):
        pixels = line(rng, fonts)
        image[:, :, : pixels.shape[1]] = (pixels[::-1, ::-1] if turned else pixels).transpose(2, 0, 1)
    return x, y.astype(np.int64)


def run(*words: str) -> None:
    """A command as a user types it."""
    print("$ compress", *words, flush=True)
    subprocess.run([str(Path(sys.executable).with_name("compress")), *words], check=True)


@click.command()
@click.option("--model", type=click.Path(path_type=Path, exists=True), required=True, help="The ONNX file.")
@click.option("--epochs", default=8, show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), default="out/real_onnx", show_default=True)
def main(model: Path, epochs: int, output: Path) -> None:
    """Print what the three commands print, and the figures."""
    output.mkdir(parents=True, exist_ok=True)
    source = output / "text.npz"
    splits = (("train", 4000, TRAINING_FONTS), ("val", 500, TRAINING_FONTS), ("test", 1000, TEST_FONTS))
    arrays: dict[str, NDArray[np.generic]] = {}
    for seed, (name, count, fonts) in enumerate(splits):
        arrays[f"x_{name}"], arrays[f"y_{name}"] = lines(count, fonts, seed)
    np.savez(source, **arrays)  # type: ignore[arg-type]
    common = ("--data", str(source), "--overwrite", "-q")
    run("prune", str(model), "--ratio", "0.3", "--epochs", str(epochs), "--batch-size", "64",
        "--teacher", str(model), "--lr", "0.02", "-o", str(output / "pruned"), *common)  # fmt: skip
    run("quantize", str(output / "pruned"), "--keep-slower", "-o", str(output / "int8"), *common)
    run("export", str(output / "int8"), "--format", "litert", "-o", str(output / "files"), *common)
    run("check", str(output / "files"))
    data = load_data(str(source))
    files = [deploy.Deployed("original, float", model), deploy.Deployed("ours", output / "files" / "model.tflite")]
    one = (torch.from_numpy(arrays["x_test"][:1]),)
    for record in deploy.measure(files, data=data, inputs=one, preset="quick"):
        told = {"file": record.name, "engine": record.runtime, "bytes": record.size_bytes, "top1": record.top1}
        print(json.dumps({**told, "samples": record.samples, "p50_ms": record.latency_ms.p50}))


if __name__ == "__main__":
    main()
