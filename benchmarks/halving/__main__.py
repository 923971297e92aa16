"""How many networks of torchvision (or families of timm) can be halved: ours beside Torch-Pruning, with random weights.

    python -m benchmarks.halving --peers DIR [--zoo timm] [--only 'resnet*'] [--pruner ours]

A network is halved where, with half the channels asked for, it still runs on the example input with outputs of the
same shape, and has at most 0.6 times its parameters or its multiply-adds (both are printed). Each runs in a process of
its own, on one thread, with 60 seconds of the processor and 4 GB for the pruning. Of ours it is also checked that the
smaller network computes what the original does with the removed channels at zero, in float64 to 1e-8.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from functools import partial
from typing import Any

import click

from benchmarks.common.frame import Run, benchmark

TORCHVISION_COUNT = 70
TITLES = {"torch-pruning": "Torch-Pruning", "ours": "ours"}


def row_of(record: dict[str, Any]) -> dict[str, Any]:
    """A record as a row of the table."""
    note = record.get("error") or record.get("masking_failed") or ""
    if not note or note == "little is cut":
        note = "; ".join([note, *(f"{n}x {reason}" for reason, n in list(record.get("skipped", {}).items())[:2])])
    return {
        "network": record["name"],
        "pruner": TITLES[record["pruner"]],
        "halved": record["halved"],
        "params_ratio": record.get("params_ratio"),
        "macs_ratio": record.get("macs_ratio"),
        "seconds": record.get("seconds"),
        "peak_mb": record.get("peak_mb"),
        "masking_error": record.get("masking_error"),
        "note": note[:150].lstrip("; "),
    }


@benchmark("halving", __doc__, peers=True)
@click.option("--zoo", type=click.Choice(["torchvision", "timm"]), default="torchvision", show_default=True)
@click.option("--only", multiple=True, help="Pattern of names, as 'resnet*'; may be repeated.")
@click.option("--pruner", type=click.Choice(["ours", "torch-pruning", "both"]), default="both", show_default=True)
@click.option("--jobs", default=1, show_default=True, help="Networks at a time.")
@click.option("--seconds", default=60.0, show_default=True, help="Of the processor, for pruning one network.")
def main(run: Run, zoo: str, only: tuple[str, ...], pruner: str, jobs: int, seconds: float) -> None:
    from benchmarks.common.results import Column
    from benchmarks.halving.measure import examine, processes, timm_families
    from benchmarks.peers.networks import torchvision_names

    context = processes(str(run.peers))
    everything = torchvision_names() if zoo == "torchvision" else timm_families(run.work / "timm_families.json")
    names = everything[:TORCHVISION_COUNT] if zoo == "torchvision" else everything
    if only:
        names = [name for name in everything if any(fnmatch(name, pattern) for pattern in only)]
    elif left_out := [name for name in everything if name not in names]:
        run.note(f"{len(names)} networks; left out as the largest: {', '.join(left_out)}.")
    if run.quick:
        names = names[:1]
    pruners = ["torch-pruning", "ours"] if pruner == "both" else [pruner]

    def measured(pair: tuple[str, str]) -> dict[str, Any]:
        record = run.part(f"{zoo} {' '.join(pair)}", partial(examine, context, zoo, *pair, seconds), seconds=seconds)
        run.say(str(row_of(record)))
        return record

    with ThreadPoolExecutor(jobs) as pool:
        records = list(pool.map(measured, [(name, each) for name in names for each in pruners]))
    run.table(
        (
            Column(key="network", title="network"),
            Column(key="pruner", title="pruner"),
            Column(key="halved", title="halved"),
            Column(key="params_ratio", title="parameters left", decimals=3),
            Column(key="macs_ratio", title="multiply-adds left", decimals=3),
            Column(key="seconds", title="of the processor", unit="s", decimals=1),
            Column(key="peak_mb", title="memory", unit="MB", decimals=0),
            Column(key="masking_error", title="from its masked original"),
            Column(key="note", title="why, or what was left alone"),
        ),
        map(row_of, records),
    )
    for each in pruners:
        halved = sum(record["halved"] for record in records if record["pruner"] == each)
        run.note(f"Halved by {TITLES[each]}: {halved} of {len(names)}.")
        if each == "ours":
            run.bar("halved by ours", halved, len(names), "at least")
    exact = [record["masking_error"] for record in records if "masking_error" in record]
    if exact:
        run.bar("largest difference from a masked original, of the largest output", max(exact), 1e-8, "at most")


if __name__ == "__main__":
    main()
