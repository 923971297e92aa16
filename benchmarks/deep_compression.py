"""Deep Compression of a VGG with batch norm on CIFAR-10: prune, share, entropy-code (Han et al., 2016).

    python benchmarks/deep_compression.py --data DIR [--weights FILE] [--model vgg11_bn:width=0.5] [--epochs 18]
                                          [--sparsity 0.93] [--prune-epochs 30] [--bits 5,4] [--share-epochs 3]
                                          [--threads 1] [--seed 0] [-o out/deep]

DIR is CIFAR-10 as an image folder (train/<class>/*, test/<class>/*). Without ``--weights`` the dense network is trained
first, for ``epochs``. Its weights go by magnitude, gradually, while it is distilled from itself as it was; then every
layer gets a codebook whose values are trained; the packed file is what is counted. Bytes are told apart: to download,
on disk, in memory. The last epoch counts, and the test split is read once for each file. Started again after an
interruption, it goes on after the last whole epoch. About two minutes an epoch on one thread.
"""

from __future__ import annotations

import json
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table

from compress import Context, deploy
from compress.artifact import load as load_artifact
from compress.artifact import save
from compress.cli.session import Options, progress_bars
from compress.data import Data, DataConfig
from compress.data import load as load_data
from compress.load import Network
from compress.packing import pack, unpack
from compress.pipeline import advance, fold_for_export, open_network
from compress.share import Share
from compress.sparsify import Sparsify
from compress.stage import Stage
from compress.train import Training

SMALLER, AIM, MOST_LOST = 49.0, 100.0, 0.2
AUGMENT: dict[str, Any] = {"batch_size": 128, "augment": ("flip", "crop")}


def step(
    source: Network, stage: Stage, data: Data, teacher: Network | None, folder: Path, seed: int, name: str
) -> Network:
    """The network after ``stage``, made now or before."""
    if (folder / "manifest.json").exists():
        return load_artifact(folder)
    checkpoints = folder.with_name(f"{folder.name}-checkpoints")
    checkpoints.mkdir(parents=True, exist_ok=True)
    with progress_bars(Options()) as progress:
        guide = None if teacher is None else teacher.model
        context = Context(source.example_inputs, data, guide, seed, progress, str(checkpoints))
        made, record = advance(source, stage, context, name=name)
    save(made, folder, overwrite=True, metrics={"stage": record.model_dump(mode="json")})
    return made


@click.command()
@click.option("--data", "folder", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--weights", type=click.Path(path_type=Path, exists=True), help="Of the dense network.")
@click.option("--model", default="vgg11_bn:width=0.5", show_default=True)
@click.option("--epochs", default=18, show_default=True)
@click.option("--sparsity", default=0.93, show_default=True)
@click.option("--prune-epochs", default=30, show_default=True)
@click.option("--bits", default="5,4", show_default=True)
@click.option("--share-epochs", default=3, show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("out/deep"), show_default=True)
def main(
    folder: Path, weights: Path | None, model: str, epochs: int, sparsity: float, prune_epochs: int, bits: str,
    share_epochs: int, threads: int, seed: int, output: Path,
) -> None:  # fmt: skip
    """Print the figures; the exit code is 1 where a bar is missed."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    console = Console(width=140)
    console.print(f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, {deploy.machine().get('cpu')}, seed {seed}")
    data = load_data(DataConfig(source=str(folder), validation=0.05, calibration=512), seed)
    dense = open_network(model, weights=weights, data=data)
    if weights is None:
        dense = step(dense, Training(epochs=epochs, **AUGMENT), data, None, output / "dense", seed, "train")
    pruning = Training(epochs=prune_epochs, learning_rate=0.05, weight_decay=2e-4, warmup_epochs=0.5, **AUGMENT)
    stage = Sparsify(sparsity=sparsity, scope="global", schedule="gradual", end=0.35, training=pruning)
    sparse = step(dense, stage, data, dense, output / f"sparse-{sparsity:g}", seed, "sparsify")
    networks = {"dense": fold_for_export(dense), f"sparse {sparsity:.0%}": fold_for_export(sparse)}
    for each in (int(part) for part in bits.split(",")):
        learning = Training(epochs=share_epochs, optimizer="adamw", learning_rate=3e-4, weight_decay=0.0, **AUGMENT)
        sharing = Share(bits=each, training=learning if share_epochs else None)
        place = output / f"shared-{sparsity:g}-{each}"
        networks[f"shared, {each} bits"] = step(sparse, sharing, data, dense, place, seed, "share")
    table = Table("file", "test top-1 %", "lost", "to download", "times smaller", "on disk", "in memory")
    found: dict[str, Any] = {}
    for name, network in networks.items():
        file = output / f"{name.replace(' ', '-').replace(',', '').replace('%', '')}.onnx"
        _, deployed = deploy.export(network, name, file)
        packed = pack(file, file.with_name(f"{file.name}.packed"), overwrite=True)
        back = file.with_name(f"{file.stem}-unpacked.onnx")
        unpack(packed.path, back, overwrite=True)
        assert back.read_bytes() == file.read_bytes(), "unpacking restores the file bit for bit"
        found[name] = {
            "top1": deploy.accuracy(deployed, data, threads),
            "bytes": file.stat().st_size,
            "packed_bytes": packed.packed_bytes,
            "memory_bytes": packed.memory_bytes,
        }
        base, one = found["dense"], found[name]
        table.add_row(
            name, f"{one['top1']:.2f}", f"{base['top1'] - one['top1']:.2f}", f"{one['packed_bytes']:,}",
            f"{base['bytes'] / one['packed_bytes']:.1f}x", f"{one['bytes']:,}", f"{one['memory_bytes']:,}",
        )  # fmt: skip
    console.print(table)
    (output / "figures.json").write_text(json.dumps(found, indent=1) + "\n")
    base = found["dense"]
    kept = [one for name, one in found.items() if name.startswith("shared") and base["top1"] - one["top1"] <= MOST_LOST]
    best = max((base["bytes"] / one["packed_bytes"] for one in kept), default=0.0)
    told = f"{best:.1f}x smaller with at most {MOST_LOST} points lost (bar {SMALLER:g}x, aim {AIM:g}x)"
    console.print(f"{told}: {'met' if best >= SMALLER else 'not met'}")
    raise SystemExit(0 if best >= SMALLER else 1)


if __name__ == "__main__":
    main()
