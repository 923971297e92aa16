"""Int8 files of a trained network by three sides, and what they keep of its accuracy."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.common.cifar10 import trained as trained_network
from benchmarks.peers.onnxruntime import METHODS, prepared, quantized
from compress import deploy
from compress.data import Data
from compress.pipeline import fold_for_export
from compress.quantize import Quantize
from compress.sources.load import Network
from compress.stage import Context
from compress.training.loop import Training
from runtimes.checks.check import accuracy
from runtimes.runtime import Options, load

CALIBRATION = 256
SMALL_STEPS: dict[str, Any] = {
    "optimizer": "adamw",
    "learning_rate": 5e-5,
    "weight_decay": 0.0,
    "warmup_epochs": 0.1,
    "augment": ("flip", "crop"),
    "precision": "fp32",
}
PEER_SETTINGS = ("QDQ U8S8 per channel", "QDQ U8S8 per tensor", "QDQ S8S8 per channel")
MSE = {"calibration": "mse", "samples": CALIBRATION}
INT8: dict[str, dict[str, Any]] = {
    "int8, defaults": {},
    "int8, mse, bias correction": {"ranges": MSE, "recover": "bias_correction"},
}
FEW_BITS: dict[str, dict[str, Any]] = {
    "int8, mse, AdaRound": {"ranges": MSE, "recover": "adaround"},
    "W4A8, nearest": {"scheme": "w4a8"},
    "W4A8, AdaRound": {"scheme": "w4a8", "recover": "adaround"},
    "W4A8, blocks": {"scheme": "w4a8", "recover": "brecq"},
}


def top1(file: Path, data: Data) -> float:
    """The accuracy of a file on the test split, in percent."""
    engine = load(file, options=Options(threads=1))
    try:
        return float(accuracy(engine, _labelled(data)))
    finally:
        engine.close()


def _labelled(data: Data) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    for x, y in data.split("test").batches(200):
        assert y is not None, "the test split has labels"
        yield x.numpy(), y.numpy()


def closeness(file: Path, network: Network, data: Data) -> float:
    """How close the file is to the float network on the validation split, in decibel."""
    float_network = deploy.Deployed("validation", file, network)
    return deploy.parity_on(float_network, [(x,) for x, _ in data.split("validation").batches(200)]).snr_db or 0.0


def ours(network: Network, data: Data, file: Path, options: dict[str, Any]) -> dict[str, Any]:
    """The file that the stage with these options and the exporter make, with its agreement on the whole test split."""
    began = time.perf_counter()
    context = Context(network.example_inputs, data=data, teacher=network.model)  # who trains learns from the float one
    stage = Quantize.model_validate({"ranges": {"samples": CALIBRATION}, **options})
    result = stage.apply(network.model, context)
    seconds = time.perf_counter() - began
    made = replace(network, model=result.model, encodings=result.encodings)
    deploy.export(made, file.stem, file)
    samples = len(data.split("test"))
    parity = deploy.parity_on(deploy.Deployed("int8", file, made), [(x,) for x, _ in data.split("test").batches(200)])
    assert parity.samples == samples
    return {"seconds": seconds, "agreement_percent": parity.top1_agreement, "snr_db": parity.snr_db}


def nncf_file(source: Path, target: Path, samples: NDArray[np.float32]) -> None:
    """NNCF's default post-training quantization of an ONNX file."""
    import nncf

    nncf.set_log_level(40)
    model = onnx.load(str(source))
    name = model.graph.input[0].name
    dataset = nncf.Dataset([{name: x[None]} for x in samples])
    onnx.save(nncf.quantize(model, dataset, subset_size=len(samples)), str(target))


def rows(
    name: str, data: Data, folder: Path, *, few_bits: bool, trained: int, with_nncf: bool
) -> Iterator[dict[str, Any]]:
    """A record per file of a network."""
    network = fold_for_export(trained_network(name, data))
    plain = folder / "float.onnx"
    deploy.export(network, "float", plain)
    float_bytes = plain.stat().st_size

    def record(side: str, title: str, file: Path, **more: Any) -> dict[str, Any]:
        ratio = file.stat().st_size / float_bytes
        near = closeness(file, network, data)
        return {
            "network": name,
            "side": side,
            "file": title,
            "top1_percent": top1(file, data),
            "bytes": ratio,
            "validation_db": near,
            **more,
        }

    yield record("float", "float", plain)
    settings = {**INT8, **(FEW_BITS if few_bits else {})}
    if trained:
        settings[f"int8, trained {trained} epochs"] = {"train": Training(epochs=trained, **SMALL_STEPS)}
    for title, options in settings.items():
        file = folder / f"{title}.onnx"
        more = ours(network, data, file, options)
        yield record("ours" if title in INT8 else "ours, more", title, file, **more)
    samples = next(iter(data.split("calibration").batches(CALIBRATION)))[0].numpy()
    ready = prepared(plain, folder)
    for setting in PEER_SETTINGS:
        for method in METHODS:
            file = folder / f"{setting} {method}.onnx"
            quantized(ready, file, [x[None] for x in samples], setting, method)
            yield record("quantize_static", f"{setting}, {method}", file)
    if with_nncf:
        file = folder / "nncf.onnx"
        nncf_file(plain, file, samples)
        yield record("NNCF", "default", file)
