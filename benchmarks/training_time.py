"""Seconds that an epoch of training takes as it is and by ``torch.compile``, and what compiling costs to begin with.

    python benchmarks/training_time.py [--jobs float,binary,...] [--images 1280] [--epochs 4] [--threads 1] [-o FILE]

Random 32x32 images in batches of 128, a teacher of the zoo's ``resnet20``; each job is trained both ways in turn.
An epoch is the median of those after the first, in seconds of the processor; what the first takes longer, by the clock
and with the compiler's processes, is the price of the beginning.
"""

from __future__ import annotations

import json
import platform
import statistics
import tempfile
import time
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from compress import Context, deploy
from compress.data import Data
from compress.data import load as load_data
from compress.distill import Distill
from compress.pipeline import open_network
from compress.quantize import Quantize
from compress.stage import Stage
from compress.train import Training

JOBS: dict[str, tuple[str, str | None]] = {
    "ResNet-20 float": ("resnet20", None),
    "VGG-11 of half width float": ("vgg11_bn:width=0.5", None),
    "ResNet-20 ttq": ("resnet20", "ttq"),
    "ResNet-20 w4a4": ("resnet20", "w4a4"),
    "Bi-Real ResNet-20 binary": ("bireal_resnet20", "binary"),
}
"""By name: a network of the zoo, and the scheme that it is trained in."""


def images(count: int, folder: Path) -> Data:
    """Random images with random labels of ten classes."""
    generator = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for split, number in (("train", count), ("test", 128)):
        arrays[f"x_{split}"] = generator.integers(0, 256, (number, 3, 32, 32), dtype=np.uint8)
        arrays[f"y_{split}"] = np.arange(number) % 10
    file = folder / "images.npz"
    np.savez(file, **arrays)
    return load_data(str(file))


def epochs(model: str, scheme: str | None, data: Data, training: Training) -> tuple[float, float]:
    """Seconds of the processor that an epoch takes, and of the clock that the first one takes longer."""
    torch.manual_seed(0)
    torch.compiler.reset()
    network, teacher = open_network(model, data=data), open_network("resnet20", data=data)
    stamps = [(time.process_time(), time.perf_counter())]

    def progress(task: str, done: int, total: int, note: str = "") -> None:  # noqa: ARG001 - as stages call it
        if "loss" in note:
            stamps.append((time.process_time(), time.perf_counter()))

    stage: Stage = Distill(training=training)
    if scheme is not None:
        stage = Quantize.model_validate({"scheme": scheme, "training": training})
    stage.apply(network.model, Context(network.example_inputs, data, teacher.model, 0, progress))
    worked, passed = ([b - a for a, b in pairwise(times)] for times in zip(*stamps, strict=True))
    return statistics.median(worked[1:]), passed[0] - statistics.median(passed[1:])


@click.command()
@click.option("--jobs", default=",".join(JOBS), help="Some of them, by parts of their names, with commas.")
@click.option("--images", "count", default=1280, show_default=True)
@click.option("--epochs", "number", default=4, show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("out/training_time.json"))
def main(jobs: str, count: int, number: int, threads: int, output: Path) -> None:
    """Print a table."""
    torch.set_num_threads(threads)
    console = Console(width=140)
    console.print(f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, {deploy.machine().get('cpu')}, seed 0")
    table = Table("job", "an epoch, s", "compiled, s", "times faster", "to begin, s")
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        data = images(count, Path(folder))
        for name, (model, scheme) in JOBS.items():
            if not any(part.strip() in name for part in jobs.split(",")):
                continue
            training = Training(epochs=number, optimizer="adamw", learning_rate=1e-4, augment=("flip", "crop"))
            usual, _ = epochs(model, scheme, data, training)
            faster, begin = epochs(model, scheme, data, training.model_copy(update={"compiled": True}))
            found[name] = {"plain": usual, "compiled": faster, "begin": begin}
            table.add_row(name, f"{usual:.2f}", f"{faster:.2f}", f"{usual / faster:.2f}x", f"{begin:.0f}")
    console.print(table)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
