"""A detector trained on BCCD, and int8 files of it by three sides, each scored in ONNX Runtime."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.common.steps import account, applied
from benchmarks.detection.data import CLASSES
from benchmarks.int8_accuracy.measure import nncf_file
from benchmarks.peers.onnxruntime import METHODS, prepared, quantized
from compress import Context, GridLoss, Quantize, Training, deploy, detection
from compress.data import Data
from compress.pipeline import fold_for_export, open_network
from compress.sources.load import Network

CALIBRATION = 128
WITH_LABELS, WITHOUT_LABELS = detection(loss=GridLoss()), detection()
SETTINGS: dict[str, dict[str, Any]] = {
    "plain min-max": {},
    "mse, bias correction": {"ranges": {"calibration": "mse"}, "recover": "bias_correction"},
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


def rows(
    network: Network, data: Data, folder: Path, *, seed: int, epochs: int, with_nncf: bool
) -> Iterator[dict[str, Any]]:
    """A record of each file: its scores on the validation and the test split, and its bytes.

    Args:
        epochs: of training towards the float network, without labels.
        with_nncf: whether NNCF is there.
    """
    network = fold_for_export(network)
    plain = folder / "float.onnx"
    deploy.export(network, "float", plain)

    def record(side: str, title: str, file: Path, seconds: float | None = None) -> dict[str, Any]:
        found = {split: _scores(file, data, split) for split in ("validation", "test")}
        return {
            "seed": seed,
            "side": side,
            "file": title,
            "bytes": file.stat().st_size,
            "validation_map_percent": found["validation"]["mAP"],
            "map_percent": found["test"]["mAP"],
            "map50_percent": found["test"]["mAP50"],
            "seconds": seconds,
        }

    yield record("float", "float", plain)
    ours = {**SETTINGS, f"trained {epochs} epochs without labels": {"train": {"epochs": epochs, "batch_size": 8}}}
    for title, settings in ours.items():
        file = folder / f"{title}.onnx"
        began = time.perf_counter()
        context = Context(network.example_inputs, data, teacher=network.model, seed=seed, task=WITHOUT_LABELS)
        stage = Quantize.model_validate({"revert_slower": False, **settings})
        result = stage.apply(network.model, context)
        deploy.export(replace(network, model=result.model, encodings=result.encodings), title, file)
        yield record("ours", title, file, time.perf_counter() - began)
    images = torch.cat([batch[0] for batch in data.split("calibration").batches(CALIBRATION)])[:CALIBRATION].numpy()
    ready = prepared(plain, folder)
    for setting in PEER_SETTINGS:
        for method in METHODS:
            file = folder / f"{setting} {method}.onnx"
            began = time.perf_counter()
            quantized(ready, file, [image[None] for image in images], setting, method)
            yield record("quantize_static", f"{setting}, {method}", file, time.perf_counter() - began)
    if with_nncf:
        file = folder / "nncf.onnx"
        began = time.perf_counter()
        nncf_file(plain, file, images)
        yield record("NNCF", "default", file, time.perf_counter() - began)


def _scores(file: Path, data: Data, split: Any) -> dict[str, float]:
    """What a file scores in ONNX Runtime, by name."""
    tested = replace(data, splits={"test": data.split(split)})
    return {score.name: score.value for score in deploy.scores(deploy.Deployed(split, file), tested, WITH_LABELS)}
