"""Sparse networks as files: trained, packed by several means, and timed."""

from __future__ import annotations

import gzip
import tempfile
from pathlib import Path
from typing import Any

import zstandard

from benchmarks.common import cifar10
from benchmarks.common.steps import account, applied
from compress import Context, deploy
from compress.packing import pack, unpack
from compress.pipeline import advance, fold_for_export
from compress.recipe import Benchmark
from compress.sparsify import Sparsify
from compress.training.loop import Training

PATTERNS: dict[str, dict[str, Any]] = {
    "dense": {},
    "weight": {"sparsity": 0.9, "scope": "global"},
    "kernel": {"granularity": "kernel", "sparsity": 0.9},
    "row": {"granularity": "row", "sparsity": 0.9},
    "block": {"granularity": "block", "block": (4, 4), "sparsity": 0.9},
    "n:m": {"granularity": "n:m", "n": 2, "m": 4},
}


def stage(epochs: int, learning_rate: float, weight_decay: float, scope: str) -> Sparsify:
    """90 % of the weights, gradually over the first half of the training."""
    training = Training(
        epochs=epochs,
        batch_size=128,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        augment=("flip", "crop"),
    )
    settings = {"sparsity": 0.9, "scope": scope, "schedule": "gradual", "end": 0.5, "training": training}
    return Sparsify.model_validate(settings)


def stored(file: Path) -> dict[str, int]:
    """Bytes of an ONNX file as it is, compressed by others, and packed (and restored, bit for bit)."""
    content = file.read_bytes()
    packed = file.with_name(f"{file.name}.packed")
    made = pack(file, packed, overwrite=True)
    with tempfile.TemporaryDirectory() as folder:
        unpack(packed, Path(folder, file.name))
        assert Path(folder, file.name).read_bytes() == content, "unpacking restores the file bit for bit"
    return {
        "onnx": len(content),
        "gzip": len(gzip.compress(content, 9)),
        "zstd": len(zstandard.compress(content, 19)),
        "packed": made.packed_bytes,
    }


def one_seed(source: Path, wanted: Sparsify, seed: int, work: Path, threads: int) -> dict[str, Any]:
    """The figures of one seed: zeros, validation accuracy, and for both networks bytes and test accuracy."""
    data = cifar10.cifar10(source, seed)
    dense = cifar10.trained("resnet20", data)
    sparse = applied(dense, wanted, data, work / "sparse", name="sparsify", teacher=dense, seed=seed)
    record = account(work / "sparse")
    nonzeros = {edit["layer"]: int(edit["after"]) for edit in record["stage"]["edits"]}
    total = sum(dense.model.get_parameter(f"{layer}.weight").numel() for layer in nonzeros)
    figures: dict[str, Any] = {
        "zeros_percent": 100 * (1 - sum(nonzeros.values()) / total),
        "validation": [record["stage"]["before"]["scores"][0]["value"], record["stage"]["after"]["scores"][0]["value"]],
        "minutes": record["minutes"],
    }
    for name, network in (("dense", dense), ("sparse", sparse)):
        file = work / f"{name}.onnx"
        deploy.export(fold_for_export(network), name, file)
        top1 = deploy.accuracy(deploy.Deployed(name, file), data, threads)
        figures[name] = {**stored(file), "top1_percent": top1}
    return figures


def patterns(work: Path, threads: int) -> list[dict[str, Any]]:
    """Bytes and time of each granularity, cut in one shot without training: accuracy plays no part here."""
    dense = cifar10.trained("resnet20")
    files, sizes = [], []
    for name, options in PATTERNS.items():
        network = dense
        if options:
            network, _ = advance(dense, Sparsify(**options), Context(dense.example_inputs), name="sparsify")
        folded = fold_for_export(network)
        file = work / f"pattern-{name.replace(':', 'of')}.onnx"
        deploy.export(folded, name, file)
        files.append(deploy.Deployed(name, file, folded))
        sizes.append(stored(file))
    records = deploy.measure(files, request=Benchmark(threads=threads, preset="quick").request)
    return [
        {"pattern": name, **size, "p50_ms": record.latency_ms.p50, "stable": record.valid}
        for name, size, record in zip(PATTERNS, sizes, records, strict=True)
    ]
