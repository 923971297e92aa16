"""What int8 files keep of the accuracy, after training: ours, ONNX Runtime's quantize_static and NNCF, on CIFAR-10.

python benchmarks/int8_accuracy.py --data DIR [--peers DIR] [--network resnet20] [-o out/int8_accuracy.json]

DIR is CIFAR-10 as an image folder (train/<class>/*, test/<class>/*); the networks are those of
``benchmarks/checkpoints``. Everyone calibrates on the same 256 images. Ours has its defaults and further settings;
quantize_static has three settings of integers with three ways of calibration, NNCF its default. All files run in ONNX
Runtime on the validation split, where each side's setting is chosen (the one closest to float in decibel), and on the
test split, which nothing is chosen on. Agreement is the share of all test images on which file and simulation say the
same class. ``--few-bits`` adds AdaRound, and 4-bit weights rounded to nearest, by AdaRound, and by blocks;
``--trained EPOCHS`` adds int8 after that much training with learned scales (LSQ). NNCF comes from ``--peers``:
pip install --no-deps --target DIR nncf==3.4.0 ninja openvino-telemetry "pydot<4.0.2" pyparsing tabulate
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import torch
from int8_peers import METHODS, prepared, quantized
from numpy.typing import NDArray

from compress import deploy
from compress.data import Data, DataConfig
from compress.data import load as load_data
from compress.load import Network
from compress.pipeline import fold_for_export, open_network
from compress.quantize import Quantize
from compress.stage import Context
from compress.train import Training
from runtimes.check import accuracy
from runtimes.runtime import Options, load

FOLDER = Path(__file__).resolve().parent / "checkpoints"
NETWORKS = {
    "resnet20": ("resnet20", "resnet20_cifar10"),
    "mobilenet_v2": ("mobilenet_v2:width=0.35", "mobilenet_v2_cifar10"),
    "shufflenet_v2": ("shufflenet_v2_x1_0:width=0.5", "shufflenet_v2_cifar10"),
}
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
PEERS = ("quantize_static", "NNCF")
MOST_LOST, MOST_LOST_FEW_BITS, LEAST_AGREEMENT, MOST_BYTES = 0.2, 1.0, 99.5, 0.27
INT8: dict[str, dict[str, Any]] = {
    "int8, defaults": {},
    "int8, mse, bias correction": {"calibration": "mse", "bias_correction": "empirical"},
}
FEW_BITS: dict[str, dict[str, Any]] = {
    "int8, mse, AdaRound": {"calibration": "mse", "rounding": "adaround"},
    "W4A8, nearest": {"scheme": "w4a8"},
    "W4A8, AdaRound": {"scheme": "w4a8", "rounding": "adaround"},
    "W4A8, blocks": {"scheme": "w4a8", "rounding": "brecq"},
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
    result = Quantize(samples=CALIBRATION, **options).apply(network.model, context)
    seconds = time.perf_counter() - began
    made = replace(network, model=result.model, encodings=result.encodings)
    deploy.export(made, file.stem, file)
    samples = len(data.split("test"))
    parity = deploy.parity_on(deploy.Deployed("int8", file, made), [(x,) for x, _ in data.split("test").batches(200)])
    assert parity.samples == samples
    return {"seconds": seconds, "agreement": parity.top1_agreement, "snr_db": parity.snr_db}


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
    specification, weights = NETWORKS[name]
    network = fold_for_export(open_network(specification, weights=FOLDER / f"{weights}.safetensors", data=data))
    plain = folder / "float.onnx"
    deploy.export(network, "float", plain)
    float_bytes = plain.stat().st_size

    def record(side: str, title: str, file: Path, **more: Any) -> dict[str, Any]:
        ratio = file.stat().st_size / float_bytes
        near = closeness(file, network, data)
        told = {"network": name, "side": side, "file": title, "top1": top1(file, data), "bytes": ratio}
        return {**told, "validation_db": near, **more}

    yield record("float", "float", plain)
    settings = {**INT8, **(FEW_BITS if few_bits else {})}
    if trained:
        settings[f"int8, trained {trained} epochs"] = {"training": Training(epochs=trained, **SMALL_STEPS)}
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


@click.command()
@click.option("--data", "source", required=True, help="CIFAR-10 as an image folder.")
@click.option("--network", "names", multiple=True, type=click.Choice(list(NETWORKS)), help="All by default.")
@click.option("--few-bits", is_flag=True, help="4-bit weights too.")
@click.option("--trained", default=0, metavar="EPOCHS", help="Int8 after so much training too (5 minutes an epoch).")
@click.option("--peers", default=lambda: os.environ.get("EDGEPRESS_PEERS"), help="Folder with NNCF; without it, none.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default="out/int8_accuracy.json", show_default=True)
def main(source: str, names: tuple[str, ...], few_bits: bool, trained: int, peers: str | None, output: Path) -> None:
    """Print a row per file, and whether the bars hold for each network."""
    torch.set_num_threads(1)
    if peers:
        sys.path.insert(0, peers)
    data = load_data(DataConfig(source=source, validation=0.05, calibration=512))
    output.parent.mkdir(parents=True, exist_ok=True)
    found: list[dict[str, Any]] = []
    for name in names or NETWORKS:
        with tempfile.TemporaryDirectory() as folder:
            for each in rows(name, data, Path(folder), few_bits=few_bits, trained=trained, with_nncf=bool(peers)):
                found.append(each)
                output.write_text(json.dumps(found, indent=1))
                told = (
                    "" if "agreement" not in each else f"  agreement {each['agreement']:.2f} %, {each['seconds']:.0f} s"
                )
                print(
                    f"{name:<14} {each['side']:<16} {each['file']:<34} {each['top1']:6.2f} %  "
                    f"bytes {each['bytes']:.3f}  validation {each['validation_db']:.1f} dB{told}",
                    flush=True,
                )
        _judge(name, [each for each in found if each["network"] == name])


def _judge(name: str, found: list[dict[str, Any]]) -> None:
    plain = next(each["top1"] for each in found if each["side"] == "float")
    chosen = {}
    for side in ("ours", "quantize_static", "NNCF"):
        candidates = [each for each in found if each["side"] == side]
        if candidates:
            chosen[side] = max(candidates, key=lambda each: each["validation_db"])
    mine = chosen["ours"]
    lost = plain - mine["top1"]
    for side, each in chosen.items():
        print(f"{name}: chosen of {side}: {each['file']}: {each['top1']:.2f} %")
    print(
        f"{name}: lost {lost:.2f} (bar {MOST_LOST}: {lost <= MOST_LOST}); at least each peer: "
        f"{mine['top1'] >= max(each['top1'] for each in chosen.values())}; "
        f"best of all peers' files on test, chosen by nobody: "
        f"{max((each['top1'] for each in found if each['side'] in PEERS), default=0):.2f}; "
        f"agreement {mine['agreement']:.2f} (bar {LEAST_AGREEMENT}: {mine['agreement'] >= LEAST_AGREEMENT}); "
        f"bytes {mine['bytes']:.3f} (bar {MOST_BYTES}: {mine['bytes'] <= MOST_BYTES})"
    )
    for each in found:
        if each["side"] == "ours, more":
            lost = plain - each["top1"]
            bar = MOST_LOST_FEW_BITS if each["file"] in FEW_BITS else 0.0
            print(f"{name}: {each['file']} lost {lost:.2f} (bar {bar}: {lost <= bar})")


if __name__ == "__main__":
    main()
