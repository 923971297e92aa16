"""What int8 files keep of the accuracy, after training: ours, ONNX Runtime's quantize_static and NNCF, on CIFAR-10.

    python -m benchmarks.int8_accuracy --data DIR [--peers DIR] [--network resnet20]

DIR is CIFAR-10 as an image folder (train/<class>/*, test/<class>/*); the networks are those of
``benchmarks/checkpoints``. Everyone calibrates on the same 256 images. Ours has its defaults and further settings;
quantize_static has three settings of integers with three ways of calibration, NNCF its default. All files run in ONNX
Runtime on the validation split, where each side's setting is chosen (the one closest to float in decibel), and on the
test split, which nothing is chosen on. Agreement is the share of all test images on which file and simulation say the
same class. ``--few-bits`` adds AdaRound, and 4-bit weights rounded to nearest, by AdaRound, and by blocks;
``--trained EPOCHS`` adds int8 after that much training with learned scales (LSQ).
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import click

from benchmarks.common.frame import Run, benchmark, chosen

NETWORKS = ("resnet20", "mobilenet_v2", "shufflenet_v2")
PEERS = ("quantize_static", "NNCF")
MOST_LOST, MOST_LOST_FEW_BITS, LEAST_AGREEMENT, MOST_BYTES = 0.2, 1.0, 99.5, 0.27


def judge(run: Run, name: str, rows: list[dict[str, Any]], few_bits: tuple[str, ...]) -> None:
    """Hold the files of a network against the bars."""
    plain = next(row["top1_percent"] for row in rows if row["side"] == "float")
    best = {}
    for side in ("ours", *PEERS):
        if candidates := [row for row in rows if row["side"] == side]:
            best[side] = max(candidates, key=lambda row: row["validation_db"])
    told = "; ".join(f"of {side} {row['file']} ({row['top1_percent']:.2f} %)" for side, row in best.items())
    run.note(f"{name}, chosen on validation: {told}.")
    mine = best["ours"]
    run.bar(f"{name}, points lost", plain - mine["top1_percent"], MOST_LOST, "at most")
    most = max((row["top1_percent"] for row in best.values()), default=0.0)
    run.bar(f"{name}, top-1 beside the peers' chosen files", mine["top1_percent"], most, "at least", "%")
    run.bar(f"{name}, agreement", mine["agreement_percent"], LEAST_AGREEMENT, "at least", "%")
    run.bar(f"{name}, bytes of float", mine["bytes"], MOST_BYTES, "at most")
    theirs = [row["top1_percent"] for row in rows if row["side"] in PEERS]
    if theirs:
        run.note(f"{name}, best of all the peers' files on test, chosen by nobody: {max(theirs):.2f} %.")
    for row in rows:
        if row["side"] == "ours, more":
            limit = MOST_LOST_FEW_BITS if row["file"] in few_bits else 0.0
            run.bar(f"{name}, {row['file']}, points lost", plain - row["top1_percent"], limit, "at most")


@benchmark("int8_accuracy", __doc__, peers="optional")
@click.option("--data", "source", required=True, help="CIFAR-10 as an image folder.")
@click.option("--network", "names", multiple=True, type=click.Choice(NETWORKS), help="All by default.")
@click.option("--few-bits", is_flag=True, help="4-bit weights too.")
@click.option("--trained", default=0, metavar="EPOCHS", help="Int8 after so much training too (5 minutes an epoch).")
def main(run: Run, source: str, names: tuple[str, ...], few_bits: bool, trained: int) -> None:
    from benchmarks.common.cifar10 import cifar10
    from benchmarks.common.results import Column
    from benchmarks.int8_accuracy.measure import FEW_BITS, rows

    data = cifar10(source)
    every: list[dict[str, Any]] = []
    for name in chosen(names, NETWORKS, quick=run.quick):
        with tempfile.TemporaryDirectory() as folder:
            options: dict[str, Any] = {"few_bits": few_bits, "trained": trained, "with_nncf": run.peers is not None}
            found = run.part(name, partial(_listed, rows, name, data, Path(folder), options), **options)
        every += found
        judge(run, name, found, tuple(FEW_BITS))
    run.table(
        (
            Column(key="network", title="network"),
            Column(key="side", title="side"),
            Column(key="file", title="file"),
            Column(key="top1_percent", title="test top-1", unit="%", decimals=2),
            Column(key="bytes", title="bytes of float", decimals=3),
            Column(key="validation_db", title="closeness to float on validation", unit="dB", decimals=1),
            Column(key="agreement_percent", title="agreement", unit="%", decimals=2),
            Column(key="seconds", title="took", unit="s", decimals=0),
        ),
        ({key: value for key, value in row.items() if key != "snr_db"} for row in every),
    )


def _listed(rows: Any, name: str, data: Any, folder: Path, options: dict[str, Any]) -> list[dict[str, Any]]:
    return list(rows(name, data, folder, **options))


if __name__ == "__main__":
    main()
