"""A detector trained on BCCD, and int8 files of it by three sides, each scored in ONNX Runtime."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.common.steps import account, applied
from benchmarks.detection.data import CLASSES
from benchmarks.int8_accuracy.measure import nncf_file
from benchmarks.peers.onnxruntime import METHODS, prepared, quantized
from compress import Context, GridLoss, Quantize, Training, deploy, detection
from compress.data import Data, SplitName
from compress.pipeline import open_network
from compress.sources.load import Network

CALIBRATION = 128
WITH_LABELS, WITHOUT_LABELS = detection(loss=GridLoss()), detection()
SETTINGS: dict[str, dict[str, Any]] = {
    "plain min-max": {"ranges": {"samples": CALIBRATION}},
    "mse, bias correction": {"ranges": {"calibration": "mse", "samples": CALIBRATION}, "recover": "bias_correction"},
}
PEER_SETTINGS = ("QDQ U8S8 per channel", "QDQ U8S8 per tensor", "QDQ S8S8 per channel")


def trained(data: Data, folder: Path, seed: int, epochs: int, width: float) -> tuple[Network, float]:
    """The detector after its training, from random weights of ``seed``; and the minutes that it took."""
    height, right = data.example().shape[2:]
    words = f"fcos:num_classes={len(CLASSES)},image_size={height}x{right},width={width:g}"
    network = open_network(words, data=data, seed=seed, task=WITH_LABELS)
    training = Training(
        epochs=epochs,
        batch_size=8,
        optimizer="adamw",
        learning_rate=2e-3,
        weight_decay=0.02,
        warmup_epochs=2,
        gradient_clip=10,
        precision="fp32",
        accelerator="cpu",
    )
    unwatched = replace(data, splits={name: split for name, split in data.splits.items() if name != "validation"})
    made = applied(network, training, unwatched, folder, name="train", teacher=None, seed=seed, task=WITH_LABELS)
    return made, account(folder)["minutes"]


def makers(
    network: Network, data: Data, folder: Path, *, seed: int, epochs: int, with_nncf: bool
) -> Iterator[tuple[str, str, Callable[[Path], object]]]:
    """Of each file the side, a title, and what writes it.

    Args:
        network: with its batch norms folded.
        folder: for what the tools of the other sides read.
        epochs: of training towards the float network, without labels.
        with_nncf: whether NNCF is there.
    """
    yield "float", "float", partial(deploy.export, network, "float")
    ours = {
        **SETTINGS,
        f"trained {epochs} epochs without labels": {
            "ranges": {"samples": CALIBRATION},
            "train": {"epochs": epochs, "batch_size": 8},
        },
    }
    for title, settings in ours.items():
        yield "ours", title, partial(_ours, network, data, seed, settings)
    for setting, method in product(PEER_SETTINGS, METHODS):
        make = partial(_quantize_static, network, data, folder, setting, method)
        yield "quantize_static", f"{setting}, {method}", make
    if with_nncf:
        yield "NNCF", "default", partial(_nncf, network, data, folder)


def record(make: Callable[[Path], object], file: Path, data: Data) -> dict[str, Any]:
    """What a file scores on the validation and the test split once it is made, its bytes, and the seconds it took."""
    file.unlink(missing_ok=True)
    began = time.perf_counter()
    make(file)
    seconds = time.perf_counter() - began
    found = {split: _scores(file, data, split) for split in ("validation", "test")}
    return {
        "bytes": file.stat().st_size,
        "validation_map_percent": found["validation"]["mAP"],
        "map_percent": found["test"]["mAP"],
        "map50_percent": found["test"]["mAP50"],
        "seconds": seconds,
    }


def _ours(network: Network, data: Data, seed: int, settings: dict[str, Any], file: Path) -> None:
    context = Context(network.example_inputs, data, teacher=network.model, seed=seed, task=WITHOUT_LABELS)
    stage = Quantize.model_validate({"revert_slower": False, **settings})
    result = stage.apply(network.model, context)
    deploy.export(replace(network, model=result.model, encodings=result.encodings), file.stem, file)


def _quantize_static(network: Network, data: Data, folder: Path, setting: str, method: str, file: Path) -> None:
    quantized(
        prepared(_plain(network, folder), folder), file, [image[None] for image in _images(data)], setting, method
    )


def _nncf(network: Network, data: Data, folder: Path, file: Path) -> None:
    nncf_file(_plain(network, folder), file, _images(data))


def _plain(network: Network, folder: Path) -> Path:
    """The file in float that the other sides start from."""
    file = folder / "plain.onnx"
    deploy.export(network, "float", file)
    return file


def _images(data: Data) -> NDArray[np.float32]:
    """What everyone calibrates on, (N, 3, H, W)."""
    images = torch.cat([batch[0] for batch in data.split("calibration").batches(CALIBRATION)])
    return images[:CALIBRATION].numpy()


def _scores(file: Path, data: Data, split: SplitName) -> dict[str, float]:
    """What a file scores in ONNX Runtime, by name."""
    tested = replace(data, splits={"test": data.split(split)})
    return {score.name: score.value for score in deploy.scores(deploy.Deployed(split, file), tested, WITH_LABELS)}
