"""ResNet-20 on CIFAR-10 with 90 % of its weights at zero: what it loses, and what the file takes when it is packed.

    python -m benchmarks.sparse --data DIR [--seeds 0,1,2] [--epochs 60] [--threads 1]
    python -m benchmarks.sparse --patterns

DIR is CIFAR-10 as an image folder (train/<class>/*, test/<class>/*). The network is the one in
``benchmarks/checkpoints``; its weights go by magnitude, gradually (Zhu and Gupta, 2017), while it is trained on the
labels and distilled from itself as it was. Started again after an interruption, it goes on after the last whole epoch;
a seed that is done is read again. The test split is read once for each file. ``--patterns`` compares the granularities
in bytes and time, untrained.
"""

from __future__ import annotations

import statistics
from functools import partial
from pathlib import Path

import click

from benchmarks.common.frame import Run, benchmark

MOST_LOST, SMALLEST_RATIO = 0.7, 6.0


@benchmark("sparse", __doc__, seeds="0")
@click.option("--data", "folder", type=click.Path(path_type=Path, exists=True))
@click.option("--epochs", default=60, show_default=True)
@click.option("--lr", "learning_rate", default=0.1, show_default=True)
@click.option("--weight-decay", default=2e-4, show_default=True)
@click.option("--scope", type=click.Choice(["global", "layer"]), default="global", show_default=True)
@click.option("--patterns", "compare", is_flag=True, help="Compare the granularities instead; needs no data.")
def main(
    run: Run, folder: Path | None, epochs: int, learning_rate: float, weight_decay: float, scope: str, compare: bool
) -> None:
    if compare:
        compare_patterns(run)
        return
    if folder is None:
        raise click.UsageError("give --data, CIFAR-10 as an image folder, or --patterns")
    from benchmarks.common.results import Column
    from benchmarks.sparse.measure import one_seed, stage

    epochs = 1 if run.quick else epochs
    settings = {"epochs": epochs, "learning_rate": learning_rate, "weight_decay": weight_decay, "scope": scope}
    wanted = stage(epochs, learning_rate, weight_decay, scope)
    rows, lost, ratios = [], [], []
    for seed in run.seeds:
        measure = partial(one_seed, folder, wanted, seed, run.work / f"seed{seed}", run.threads)
        figures = run.part(f"seed {seed}", measure, **settings)
        base = figures["dense"]["onnx"]
        for name in ("dense", "sparse"):
            sizes = figures[name]
            zeros = figures["zeros_percent"] if name == "sparse" else None
            rows.append(
                {"seed": seed, "file": name, **sizes, "zeros_percent": zeros, "smaller": base / sizes["packed"]}
            )
        lost.append(figures["dense"]["top1_percent"] - figures["sparse"]["top1_percent"])
        ratios.append(base / figures["sparse"]["packed"])
        before, after = figures["validation"]
        run.note(f"Seed {seed}: validation top-1 from {before:.2f} to {after:.2f} %, {figures['minutes']:.0f} minutes.")
    run.table(
        (
            Column(key="seed", title="seed"),
            Column(key="file", title="file"),
            Column(key="top1_percent", title="test top-1", unit="%", decimals=2),
            Column(key="zeros_percent", title="zeros", unit="%", decimals=2),
            Column(key="onnx", title="bytes of ONNX"),
            Column(key="gzip", title="gzip -9"),
            Column(key="zstd", title="zstd -19"),
            Column(key="packed", title="packed"),
            Column(key="smaller", title="packed, times smaller than dense", unit="x", decimals=2),
        ),
        rows,
    )
    spread = f", standard deviation {statistics.stdev(lost):.2f}" if len(lost) > 1 else ""
    run.note(f"Lost: mean {statistics.mean(lost):.2f} points over {len(lost)} seed(s){spread}.")
    run.note("Packed files are what travels; unpacked, on the device, the sparse file has the dense one's bytes.")
    run.bar("points lost, mean", statistics.mean(lost), MOST_LOST, "at most")
    run.bar("times smaller, at the least", min(ratios), SMALLEST_RATIO, "at least", "x")


def compare_patterns(run: Run) -> None:
    """Add the table of granularities."""
    from benchmarks.common.results import Column
    from benchmarks.sparse.measure import patterns

    rows = patterns(run.work, run.threads)
    dense = rows[0]
    run.table(
        (
            Column(key="pattern", title="pattern"),
            Column(key="onnx", title="bytes of ONNX"),
            Column(key="gzip", title="gzip -9"),
            Column(key="zstd", title="zstd -19"),
            Column(key="packed", title="packed"),
            Column(key="smaller", title="packed, times smaller than dense", unit="x", decimals=2),
            Column(key="p50_ms", title="p50", unit="ms", decimals=3),
            Column(key="stable", title="stable"),
            Column(key="faster", title="times faster than dense", unit="x", decimals=2),
        ),
        ({**row, "smaller": dense["onnx"] / row["packed"], "faster": dense["p50_ms"] / row["p50_ms"]} for row in rows),
        title="granularities, untrained",
    )


if __name__ == "__main__":
    main()
