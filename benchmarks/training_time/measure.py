"""Epochs of training on random images, timed."""

from __future__ import annotations

import statistics
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compress import Context
from compress.data import Data
from compress.data import load as load_data
from compress.distill import Distill
from compress.pipeline import open_network
from compress.quantize import Quantize
from compress.stage import Stage
from compress.training.loop import Training


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
        stage = Quantize.model_validate({"scheme": scheme, "train": training})
    stage.apply(network.model, Context(network.example_inputs, data, teacher.model, 0, progress))
    worked, passed = ([b - a for a, b in pairwise(times)] for times in zip(*stamps, strict=True))
    return statistics.median(worked[1:]), passed[0] - statistics.median(passed[1:])
