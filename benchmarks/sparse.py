"""ResNet-20 on CIFAR-10 with 90 % of its weights at zero: what it loses, and what the file takes when it is packed.

    python benchmarks/sparse.py --data DIR [--seeds 0,1,2] [--epochs 60] [--threads 1] [-o out/sparse]

DIR is CIFAR-10 as an image folder (train/<class>/*, test/<class>/*). The network is the one in
``benchmarks/checkpoints``; its weights go by magnitude, gradually (Zhu and Gupta, 2017), while it is trained on the
labels and distilled from itself as it was. Started again after an interruption, it goes on after the last whole epoch;
a seed that is done is read again. The test split is read once for each file. ``--patterns`` compares the granularities
in bytes and time, untrained.
"""

from __future__ import annotations

import gzip
import json
import platform
import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import torch
import zstandard
from rich.console import Console
from rich.table import Table

from compress import Context, deploy
from compress.artifact import save
from compress.cli.session import Options, progress_bars
from compress.data import Data, DataConfig
from compress.data import load as load_data
from compress.load import Network
from compress.packing import pack, unpack
from compress.pipeline import advance, fold_for_export, open_network
from compress.sparsify import Sparsify
from compress.stage import Progress
from compress.train import Training

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = ROOT / "benchmarks" / "checkpoints" / "resnet20_cifar10.safetensors"
MOST_LOST, SMALLEST_RATIO = 0.7, 6.0
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
    return Sparsify(sparsity=0.9, scope=scope, schedule="gradual", end=0.5, training=training)  # type: ignore[arg-type]


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


def one_seed(data: Data, dense: Network, wanted: Sparsify, seed: int, output: Path, threads: int) -> dict[str, Any]:
    """The figures of one seed, kept in ``output``."""
    kept = output / "figures.json"
    settings = wanted.model_dump(mode="json")
    if kept.exists():
        figures: dict[str, Any] = json.loads(kept.read_text())
        if figures["settings"] == settings:
            return figures
        raise click.ClickException(f"{output} holds a run with other settings; remove it or give another -o")
    output.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with progress_bars(Options()) as progress:
        context = Context(dense.example_inputs, data, dense.model, seed, progress, str(output))
        sparse, record = advance(dense, wanted, context, name="sparsify")
    trained_s = time.perf_counter() - start
    weights = {edit.layer: (edit.before, edit.after) for edit in record.edits}
    total = sum(dense.model.get_parameter(f"{layer}.weight").numel() for layer in weights)
    parameters = sum(p.numel() for p in sparse.model.parameters())
    figures = {
        "settings": settings,
        "seed": seed,
        "layer_nonzeros": {layer: after for layer, (_, after) in weights.items()},
        "sparsity": 1 - sum(int(str(after)) for _, after in weights.values()) / total,
        "sparsity_of_all": sum(int((p == 0).sum()) for p in sparse.model.parameters()) / parameters,
        "validation_top1": (record.before.top1, record.after.top1),
        "train_s": trained_s,
    }
    for name, network in (("dense", dense), ("sparse", sparse)):
        file = output / f"{name}.onnx"
        folded = fold_for_export(network)
        deploy.export(folded, name, file)
        figures[name] = {
            "bytes": stored(file),
            "test_top1": deploy.accuracy(deploy.Deployed(name, file), data, threads),
        }
    save(sparse, output / "sparse", overwrite=True, metrics={"stage": record.model_dump(mode="json")})
    kept.write_text(json.dumps(figures, indent=1) + "\n")
    return figures


def patterns(dense: Network, output: Path, threads: int, progress: Progress) -> Table:
    """Bytes and time of each granularity, cut in one shot without training: accuracy plays no part here."""
    files, sizes = [], []
    output.mkdir(parents=True, exist_ok=True)
    for name, options in PATTERNS.items():
        network = dense
        if options:
            network, _ = advance(dense, Sparsify(**options), Context(dense.example_inputs), name="sparsify")
        folded = fold_for_export(network)
        file = output / f"pattern-{name.replace(':', 'of')}.onnx"
        deploy.export(folded, name, file)
        files.append(deploy.Deployed(name, file, folded))
        sizes.append(stored(file))
    records = deploy.measure(files, threads=threads, preset="quick", progress=progress)
    table = Table("pattern", "onnx bytes", "packed bytes", "packed, times smaller", "p50 ms", "speed")
    first = records[0].latency_ms.p50
    for name, size, record in zip(PATTERNS, sizes, records, strict=True):
        p50 = record.latency_ms.p50
        assert p50 is not None and first is not None, "the files were timed"
        table.add_row(
            name, f"{size['onnx']:,}", f"{size['packed']:,}", f"{sizes[0]['onnx'] / size['packed']:.2f}",
            f"{p50:.3f}" + ("" if record.stable else " (unstable)"), f"{first / p50:.2f}x",
        )  # fmt: skip
    return table


@click.command()
@click.option("--data", "folder", type=click.Path(path_type=Path, exists=True))
@click.option("--seeds", default="0", show_default=True)
@click.option("--epochs", default=60, show_default=True)
@click.option("--lr", "learning_rate", default=0.1, show_default=True)
@click.option("--weight-decay", default=2e-4, show_default=True)
@click.option("--scope", type=click.Choice(["global", "layer"]), default="global", show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option("--patterns", "compare", is_flag=True, help="Compare the granularities instead; needs no data.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("out/sparse"), show_default=True)
def main(
    folder: Path | None, seeds: str, epochs: int, learning_rate: float, weight_decay: float, scope: str, threads: int,
    compare: bool, output: Path,
) -> None:  # fmt: skip
    """Print the figures; the exit code is 1 where a bar is missed."""
    torch.set_num_threads(threads)
    console = Console(width=140)
    console.print(f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, {deploy.machine().get('cpu')}")
    if compare:
        dense = open_network("resnet20", weights=WEIGHTS, input_shapes=((1, 3, 32, 32),))
        with progress_bars(Options()) as progress:
            table = patterns(dense, output, threads, progress)
        console.print(table)
        return
    if folder is None:
        raise click.UsageError("give --data, CIFAR-10 as an image folder, or --patterns")
    wanted = stage(epochs, learning_rate, weight_decay, scope)
    columns = ("seed", "file", "test top-1 %", "zeros %", "onnx", "gzip -9", "zstd -19", "packed", "times smaller")
    table = Table(*columns, title="bytes; times smaller than the dense ONNX file", title_justify="left")
    drops, ratios = [], []
    for seed in (int(part) for part in seeds.split(",")):
        data = load_data(DataConfig(source=str(folder), validation=0.05, calibration=512), seed)
        dense = open_network("resnet20", weights=WEIGHTS, data=data)
        figures = one_seed(data, dense, wanted, seed, output / f"seed{seed}", threads)
        base = figures["dense"]["bytes"]["onnx"]
        for name in ("dense", "sparse"):
            size = figures[name]["bytes"]
            zeros = f"{100 * figures['sparsity']:.2f}" if name == "sparse" else ""
            counts = (f"{size[key]:,}" for key in ("onnx", "gzip", "zstd", "packed"))
            table.add_row(
                str(seed), name, f"{figures[name]['test_top1']:.2f}", zeros, *counts, f"{base / size['packed']:.2f}"
            )
        drops.append(figures["dense"]["test_top1"] - figures["sparse"]["test_top1"])
        ratios.append(base / figures["sparse"]["bytes"]["packed"])
        minutes = figures["train_s"] / 60
        console.print(f"seed {seed}: validation top-1 {figures['validation_top1']}, last sitting {minutes:.0f} minutes")
    console.print(table)
    spread = f", standard deviation {statistics.stdev(drops):.2f}" if len(drops) > 1 else ""
    console.print(f"lost: mean {statistics.mean(drops):.2f} points over {len(drops)} seed(s){spread}")
    console.print("packed files are what travels; unpacked, on the device, the sparse file has the dense one's bytes")
    missed = [text for text, fails in (
        (f"at most {MOST_LOST} points lost", statistics.mean(drops) > MOST_LOST),
        (f"at least {SMALLEST_RATIO:g} times smaller", min(ratios) < SMALLEST_RATIO),
    ) if fails]  # fmt: skip
    console.print(f"bars missed: {'; '.join(missed)}" if missed else "both bars are met")
    if missed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
