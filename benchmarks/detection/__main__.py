"""What int8 files of a detector keep of its mean average precision: ours, quantize_static and NNCF, on blood cells.

    python -m benchmarks.detection --data bccd.tar.xz [--peers DIR]

The data is BCCD (Pascal VOC: JPEGImages, Annotations, ImageSets/Main), a folder or an archive of it. The
detector of the zoo is trained from random weights on its 205 images, flipped at random. Everyone then calibrates on the
same 128 of these, without labels. Ours is plain min-max ranges, ranges by squared error with biases corrected, and
weights and scales trained towards the float network. quantize_static has three settings of integers with three ways of
calibration, NNCF its default. All files run in ONNX Runtime; each side's file is chosen by its mAP on the validation
split, and only then looked at on the test split.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from benchmarks.common.frame import Run, benchmark, slug

PEERS = ("quantize_static", "NNCF")
MOST_LOST = 0.6


def judge(run: Run, seed: int, rows: list[dict[str, Any]]) -> None:
    """Hold the files of a seed against the bars."""
    plain = next(row["map_percent"] for row in rows if row["side"] == "float")
    best = {}
    for side in ("ours", *PEERS):
        if candidates := [row for row in rows if row["side"] == side]:
            best[side] = max(candidates, key=lambda row: row["validation_map_percent"])
    told = "; ".join(f"of {side} {row['file']} ({row['map_percent']:.2f} %)" for side, row in best.items())
    run.note(f"Seed {seed}, chosen on validation: {told}.")
    run.bar(f"seed {seed}, points of mAP lost", plain - best["ours"]["map_percent"], MOST_LOST, "at most")
    most = max((best[side]["map_percent"] for side in PEERS if side in best), default=0.0)
    run.bar(f"seed {seed}, mAP beside the peers' chosen files", best["ours"]["map_percent"], most, "at least", "%")


@benchmark("detection", __doc__, seeds="0", peers="optional")
@click.option("--data", "source", required=True, type=click.Path(path_type=Path, exists=True), help="BCCD.")
@click.option("--size", default="192x256", show_default=True, help="Height and width that photographs are scaled to.")
@click.option("--epochs", default=40, show_default=True, help="Of the training.")
@click.option("--width", default=0.5, show_default=True, help="Of the detector.")
@click.option("--int8-epochs", default=4, show_default=True, help="Of the training in int8, without labels.")
def main(run: Run, source: Path, size: str, epochs: int, width: float, int8_epochs: int) -> None:
    from benchmarks.common.results import Column
    from benchmarks.detection.data import bccd
    from benchmarks.detection.measure import makers, record, trained
    from compress.pipeline import fold_for_export
    from models.zoo import sides

    data = bccd(source, run.work, sides(size), run.quick)
    epochs, int8_epochs = (1, 1) if run.quick else (epochs, int8_epochs)
    every: list[dict[str, Any]] = []
    for seed in run.seeds:
        network, minutes = trained(data, run.work / f"{size}-width-{width:g}-seed-{seed}", seed, epochs, width)
        options = {"epochs": epochs, "width": width, "size": size}
        run.say(f"seed {seed}: trained in {minutes:.1f} minutes")
        folder = run.work / f"{size}-width-{width:g}-seed-{seed}-files"
        folder.mkdir(exist_ok=True)
        network, found = fold_for_export(network), []
        files = makers(network, data, folder, seed=seed, epochs=int8_epochs, with_nncf=run.peers is not None)
        for side, title, make in files:
            name = f"seed {seed} {side} {title}"
            measure = partial(record, make, folder / f"{slug(f'{side} {title}')}.onnx", data)
            found.append({"seed": seed, "side": side, "file": title, **run.part(name, measure, **options)})
            run.say(str(found[-1]))
        every += found
        judge(run, seed, found)
        run.note(f"Seed {seed}: {epochs} epochs in {minutes:.0f} minutes.")
    if run.peers is None:
        run.note("NNCF was not there (`--peers`).")
    run.table(
        (
            Column(key="seed", title="seed"),
            Column(key="side", title="side"),
            Column(key="file", title="file"),
            Column(key="map_percent", title="test mAP", unit="%", decimals=2),
            Column(key="map50_percent", title="test mAP50", unit="%", decimals=2),
            Column(key="validation_map_percent", title="validation mAP", unit="%", decimals=2),
            Column(key="bytes", title="bytes"),
            Column(key="seconds", title="took", unit="s", decimals=0),
        ),
        every,
    )


if __name__ == "__main__":
    main()
