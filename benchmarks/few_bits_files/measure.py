"""Networks of few bits as files: bytes, and latencies beside their float twins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from compress import Context, deploy
from compress.data import Data, SampleSplit
from compress.pipeline import fold_for_export, open_network
from compress.quantize import Quantize
from compress.recipe import Benchmark
from compress.sources.load import Network
from runtimes.measure.presets import PresetName

INPUT = (1, 3, 32, 32)


def rounded(network: Network, scheme: str, **options: Any) -> Network:
    """``network`` as ``scheme`` converts it, on random samples."""
    images = torch.randn(32, *INPUT[1:], generator=torch.Generator().manual_seed(0))
    data = Data("random", {"calibration": SampleSplit(images, None)})
    stage = Quantize.model_validate({"scheme": scheme, "ranges": {"samples": 32}, **options})
    result = stage.apply(network.model, Context(network.example_inputs, data=data))
    return replace(network, model=result.model, encodings=dict(result.encodings))


def size(scheme: str, folder: Path) -> int:
    """The bytes of ResNet-18 in its CIFAR form, as a whole file of ``scheme``."""
    network = open_network("resnet18_cifar", input_shapes=(INPUT,))
    made = fold_for_export(network) if scheme == "float" else rounded(network, scheme)
    record, _ = deploy.export(made, scheme, folder / f"resnet18_cifar-{scheme}.onnx")
    assert record.size_bytes is not None, "the file was written"
    return record.size_bytes


def latencies(name: str, folder: Path, threads: int, preset: PresetName) -> list[dict[str, Any]]:
    """The files of a network with a shortcut around each convolution, in float, int8 and binary, timed in turn."""
    network = open_network(name, input_shapes=(INPUT,))
    made = {
        "float": fold_for_export(network),
        "int8": rounded(network, "int8"),
        "binary": rounded(network, "binary", exclude=("steps.*.shortcut.*",)),
    }
    files = [deploy.export(each, kind, folder / f"{name}-{kind}.onnx")[1] for kind, each in made.items()]
    files.append(replace(files[-1], name="binary, anywhere", engine="onnxruntime"))
    records = deploy.measure(files, request=Benchmark(threads=threads, preset=preset).request)
    first = records[0].latency_ms.p50
    rows = []
    for file, record in zip(files, records, strict=True):
        p50 = record.latency_ms.p50
        assert p50 is not None and first is not None, "the files were timed"
        rows.append(
            {
                "network": name,
                "file": file.name,
                "engine": str(file.engine),
                "bytes": file.path.stat().st_size,
                "p50_ms": p50,
                "stable": record.valid,
                "faster": first / p50,
            }
        )
    return rows
