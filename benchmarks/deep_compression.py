"""Deep Compression of a VGG with batch norm on CIFAR-10: prune, share, entropy-code (Han et al., 2016).

    python -m benchmarks.deep_compression --data DIR [--weights FILE] [--model vgg11_bn:width=0.5] [--epochs 18]
                                          [--sparsity 0.93] [--prune-epochs 30] [--bits 5,4] [--share-epochs 3]

DIR is CIFAR-10 as an image folder (train/<class>/*, test/<class>/*). Without ``--weights`` the dense network is trained
first, for ``epochs``. Its weights go by magnitude, gradually, while it is distilled from itself as it was; then every
layer gets a codebook whose values are trained; the packed file is what is counted. Bytes are told apart: to download,
on disk, in memory. The last epoch counts, and the test split is read once for each file. Started again after an
interruption, it goes on after the last whole epoch. About two minutes an epoch on one thread.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchmarks.common.frame import Run, benchmark, numbers, slug

if TYPE_CHECKING:
    from compress.data import Data
    from compress.sources.load import Network

SMALLER, AIM, MOST_LOST = 49.0, 100.0, 0.2
AUGMENT: dict[str, Any] = {"batch_size": 128, "augment": ("flip", "crop")}


def packed(network: Network, name: str, file: Path, data: Data, threads: int) -> dict[str, Any]:
    """The file of a network and what it takes when it is packed; unpacking must restore it bit for bit."""
    from compress import deploy
    from compress.packing import pack, unpack

    _, deployed = deploy.export(network, name, file)
    small = pack(file, file.with_name(f"{file.name}.packed"), overwrite=True)
    back = file.with_name(f"{file.stem}-unpacked.onnx")
    unpack(small.path, back, overwrite=True)
    assert back.read_bytes() == file.read_bytes(), "unpacking restores the file bit for bit"
    return {
        "top1_percent": deploy.accuracy(deployed, data, threads),
        "disk_bytes": file.stat().st_size,
        "packed_bytes": small.packed_bytes,
        "memory_bytes": small.memory_bytes,
    }


@benchmark("deep_compression", __doc__, seeds="0")
@click.option("--data", "folder", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--weights", type=click.Path(path_type=Path, exists=True), help="Of the dense network.")
@click.option("--model", default="vgg11_bn:width=0.5", show_default=True)
@click.option("--epochs", default=18, show_default=True)
@click.option("--sparsity", default=0.93, show_default=True)
@click.option("--prune-epochs", default=30, show_default=True)
@click.option("--bits", default="5,4", show_default=True, type=numbers)
@click.option("--share-epochs", default=3, show_default=True)
def main(
    run: Run, folder: Path, weights: Path | None, model: str, epochs: int, sparsity: float, prune_epochs: int,
    bits: tuple[int, ...], share_epochs: int,
) -> None:  # fmt: skip
    from benchmarks.common.cifar10 import cifar10
    from benchmarks.common.results import Column
    from benchmarks.common.steps import applied
    from compress.pipeline import fold_for_export, open_network
    from compress.share import Share
    from compress.sparsify import Sparsify
    from compress.training.loop import Training

    if run.quick:
        epochs, prune_epochs, share_epochs, bits = 1, 1, 1, bits[:1]
    seed, *_ = run.seeds
    data = cifar10(folder, seed)
    dense = open_network(model, weights=weights, data=data)
    if weights is None:
        stage = Training(epochs=epochs, **AUGMENT)
        dense = applied(dense, stage, data, run.work / "dense", name="train", teacher=None, seed=seed)
    pruning = Training(epochs=prune_epochs, learning_rate=0.05, weight_decay=2e-4, warmup_epochs=0.5, **AUGMENT)
    gradual = Sparsify(sparsity=sparsity, scope="global", schedule="gradual", end=0.35, training=pruning)
    place = run.work / f"sparse-{sparsity:g}"
    sparse = applied(dense, gradual, data, place, name="sparsify", teacher=dense, seed=seed)
    networks = {"dense": fold_for_export(dense), f"sparse {sparsity:.0%}": fold_for_export(sparse)}
    for each in bits:
        learning = Training(epochs=share_epochs, optimizer="adamw", learning_rate=3e-4, weight_decay=0.0, **AUGMENT)
        sharing = Share(bits=each, training=learning if share_epochs else None)
        place = run.work / f"shared-{sparsity:g}-{each}"
        networks[f"shared, {each} bits"] = fold_for_export(
            applied(sparse, sharing, data, place, name="share", teacher=dense, seed=seed)
        )
    rows: list[dict[str, Any]] = []
    for name, network in networks.items():
        file = run.work / f"{slug(name)}.onnx"
        row = run.part(name, partial(packed, network, name, file, data, run.threads), sparsity=sparsity, model=model)
        base = rows[0] if rows else row
        lost, smaller = base["top1_percent"] - row["top1_percent"], base["disk_bytes"] / row["packed_bytes"]
        rows.append({"file": name, **row, "lost": lost, "smaller": smaller})
    run.table(
        (
            Column(key="file", title="file"),
            Column(key="top1_percent", title="test top-1", unit="%", decimals=2),
            Column(key="lost", title="lost", decimals=2),
            Column(key="packed_bytes", title="bytes to download"),
            Column(key="smaller", title="times smaller", unit="x", decimals=1),
            Column(key="disk_bytes", title="on disk"),
            Column(key="memory_bytes", title="in memory"),
        ),
        rows,
    )
    near = [row["smaller"] for row in rows if row["file"].startswith("shared") and row["lost"] <= MOST_LOST]
    what = f"times smaller with at most {MOST_LOST} points lost (aim {AIM:g}x)"
    run.bar(what, max(near, default=0.0), SMALLER, "at least", "x")


if __name__ == "__main__":
    main()
