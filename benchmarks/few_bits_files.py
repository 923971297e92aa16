"""Files of few bits: how small they are, and how fast a binary network is beside its float twin. Nothing is trained.

    python benchmarks/few_bits_files.py [--threads 1] [--preset standard] [-o out/few_bits_files]

Bytes are those of the whole exported file. Latencies are taken interleaved in one run: the float twin and its int8
file in ONNX Runtime, the binary file in the engine ``bitwise`` and, as any other engine would run it, in ONNX Runtime.
"""

from __future__ import annotations

import platform
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table

from compress import Context, deploy
from compress.data import Data, SampleSplit
from compress.load import Network
from compress.pipeline import fold_for_export, open_network
from compress.quantize import Quantize

INPUT = (1, 3, 32, 32)
SMALLER = {"binary": 24.0, "ternary": 13.0}
FASTER = 2.5
TWINS = ("bireal_resnet18_cifar", "bireal_resnet20")


def rounded(network: Network, scheme: str, **options: Any) -> Network:
    """``network`` as ``scheme`` converts it, on random samples."""
    images = torch.randn(32, *INPUT[1:], generator=torch.Generator().manual_seed(0))
    data = Data("random", {"calibration": SampleSplit(images, None)})
    stage = Quantize(scheme=scheme, samples=32, **options)  # type: ignore[arg-type]
    result = stage.apply(network.model, Context(network.example_inputs, data=data))
    return replace(network, model=result.model, encodings=dict(result.encodings))


def sizes(output: Path) -> tuple[Table, list[str]]:
    """The bytes of ResNet-18 in its CIFAR form, and the bars that are missed."""
    network = open_network("resnet18_cifar", input_shapes=(INPUT,))
    table = Table("resnet18_cifar", "bytes", "times smaller", "bar", title="whole files", title_justify="left")
    base, missed = 0, []
    for scheme in ("float", "int8", "w4a4", "ternary", "ttq", "w2a8", "binary", "w1a8"):
        made = fold_for_export(network) if scheme == "float" else rounded(network, scheme)
        record, _ = deploy.export(made, scheme, output / f"resnet18_cifar-{scheme}.onnx")
        base = base or record.size_bytes or 0
        smaller = base / (record.size_bytes or 1)
        bar = SMALLER.get(scheme)
        table.add_row(scheme, f"{record.size_bytes:,}", f"{smaller:.2f}x", "" if bar is None else f"{bar:g}x")
        if bar is not None and smaller < bar:
            missed.append(f"{scheme} is {smaller:.1f}x smaller, of {bar:g}x")
    return table, missed


def latencies(output: Path, threads: int, preset: str) -> tuple[Table, list[str]]:
    """The time of networks with a shortcut around each convolution, in float, int8 and binary."""
    table = Table("network", "file", "engine", "bytes", "p50 ms", "float / this", title="latency", title_justify="left")
    missed = []
    for name in TWINS:
        network = open_network(name, input_shapes=(INPUT,))
        made = {
            "float": fold_for_export(network),
            "int8": rounded(network, "int8"),
            "binary": rounded(network, "binary", exclude=("steps.*.shortcut.*",)),
        }
        files = [deploy.export(each, kind, output / f"{name}-{kind}.onnx")[1] for kind, each in made.items()]
        files.append(replace(files[-1], name="binary, anywhere", engine="onnxruntime"))
        records = deploy.measure(files, threads=threads, preset=preset)  # type: ignore[arg-type]
        first = records[0].latency_ms.p50 or 0.0
        for file, record in zip(files, records, strict=True):
            p50 = record.latency_ms.p50 or 1.0
            table.add_row(
                name, file.name, str(file.engine), f"{file.path.stat().st_size:,}",
                f"{p50:.3f}" + ("" if record.stable else " (unstable)"), f"{first / p50:.2f}x",
            )  # fmt: skip
            if name == TWINS[0] and file.name == "binary" and first / p50 < FASTER:
                missed.append(f"binary {name} is {first / p50:.2f}x faster, of {FASTER}x")
    return table, missed


@click.command()
@click.option("--threads", default=1, show_default=True)
@click.option("--preset", type=click.Choice(["quick", "standard"]), default="standard", show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("out/few_bits_files"), show_default=True)
def main(threads: int, preset: str, output: Path) -> None:
    """Print the figures; the exit code is 1 where a bar is missed."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    output.mkdir(parents=True, exist_ok=True)
    console = Console(width=130)
    console.print(
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, {deploy.machine().get('cpu')}, {threads} thread(s)"
    )
    small, missed = sizes(output)
    console.print(small)
    fast, more = latencies(output, threads, preset)
    console.print(fast)
    missed += more
    console.print(f"bars not met: {'; '.join(missed)}" if missed else "bars met")
    raise SystemExit(1 if missed else 0)


if __name__ == "__main__":
    main()
