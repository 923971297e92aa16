"""What int8 and half of the multiply-adds cost networks of eight kinds, by the score of each kind's own task.

    python -m benchmarks.any_task --data DIR [CASE ...]

Segmentation, speech by recurrent and by convolutional networks, super-resolution, landmarks, text with a mask, an image
with a row of a table, embeddings: each is trained from random weights, pruned to half of its multiply-adds, and written
in float and int8 for three engines. The integers are found without labels, in the way that scores best on the
validation split; the test split is read once for each file. DIR has the data sets ``camvid`` and ``fsdd`` as they
unpack; a case whose data is not there is left out, and that is told. All else is made from what scikit-learn and Python
ship.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from benchmarks.common.frame import Run, benchmark


@benchmark("any_task", __doc__, seeds="0,1,2")
@click.option("--data", "folder", required=True, type=click.Path(path_type=Path, exists=True), help="Data sets.")
@click.argument("names", nargs=-1, metavar="[CASE]...")
def main(run: Run, folder: Path, names: tuple[str, ...]) -> None:
    from benchmarks.any_task import cases
    from benchmarks.any_task.measure import measured
    from benchmarks.common.results import Column

    rows: list[dict[str, Any]] = []
    for name in names or cases.NAMES:
        case = cases.case(name)
        try:
            data = case.data(folder)
        except FileNotFoundError as missing:
            run.note(f"{name}: left out, {missing} is not there.")
            continue
        for seed in run.seeds:
            place = run.work / f"{name}-{seed}"
            place.mkdir(parents=True, exist_ok=True)
            found = run.part(f"{name} {seed}", partial(measured, case, data, place, seed, quick=run.quick))
            mine = [{"case": name, "seed": seed, **row} for row in found]
            for row in mine:
                run.say(str(row))
            judge(run, name, seed, mine, case.most_lost)
            rows += mine
    run.table(
        (
            Column(key="case", title="case"),
            Column(key="seed", title="seed"),
            Column(key="network", title="network"),
            Column(key="numbers", title="numbers"),
            Column(key="way", title="way"),
            Column(key="format", title="format"),
            Column(key="score", title="test score", decimals=2),
            Column(key="lost", title="lost", decimals=2),
            Column(key="macs", title="multiply-adds"),
            Column(key="bytes", title="bytes"),
        ),
        rows,
    )


def judge(run: Run, name: str, seed: int, rows: list[dict[str, Any]], most: float) -> None:
    """Hold the int8 files against the network in float, as trained; those of half the MACs may lose twice as much."""
    from benchmarks.any_task.measure import AS_TRAINED, HALF

    for network, limit in ((AS_TRAINED, most), (HALF, 2 * most)):
        lost = max(row["lost"] for row in rows if (row["network"], row["numbers"]) == (network, "int8"))
        run.bar(f"{name}, seed {seed}, {network}, int8: lost in the worst format", lost, limit, "at most")


if __name__ == "__main__":
    main()
