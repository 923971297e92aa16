"""ResNet-20 on CIFAR-10: what the whole chain (prune, distil, fold, quantize, export) costs in test accuracy.

    python -m benchmarks.cifar10 --data DIR [--seeds 0,1,2] [--baseline]

DIR is CIFAR-10 as an image folder (train/<class>/*, test/<class>/*). ``--baseline`` trains the network that
``benchmarks/checkpoints`` holds first; without it the shipped one is used. Half an hour per seed on two cores; started
again after an interruption, it goes on where it stopped. Everything is chosen on the validation split; the test split
is read once per exported file. ``--quick`` is one epoch.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import click

from benchmarks.common.frame import ROOT, Run, benchmark


@benchmark("cifar10", __doc__, seeds="0")
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--baseline", is_flag=True)
@click.option("--set", "overrides", multiple=True, help="Change a setting of recipes/cifar10.yaml.")
def main(run: Run, data: Path, baseline: bool, overrides: tuple[str, ...]) -> None:
    from benchmarks.common.cifar10 import CHECKPOINTS
    from benchmarks.common.recipes import reported
    from benchmarks.common.results import Column
    from compress.recipe import read

    # A gate that fails is a figure to print, not an end.
    always = [f"data.source={data.resolve()}", "gates={top1_agreement: null}"]
    weights = CHECKPOINTS / "resnet20_cifar10.safetensors"
    if baseline:
        recipe = read(ROOT / "recipes" / "cifar10-baseline.yaml", [*always, "seed=0"])
        trained = reported(recipe, run.work / "baseline")
        run.note(f"The baseline has {trained.benchmarks[0].score} of the test split.")
        weights = run.work / "baseline" / "0-baseline" / "weights.safetensors"
    quick = ["stages.0.prune.training.epochs=1"] if run.quick else []
    rows: list[dict[str, Any]] = []
    drops = []
    for seed in run.seeds:
        changes = [*always, f"seed={seed}", f"weights={weights}", *quick, *overrides]
        report = reported(read(ROOT / "recipes" / "cifar10.yaml", changes), run.work / f"seed{seed}")
        for record, exported in zip(report.benchmarks, report.exports, strict=True):
            nodes = exported.nodes
            rows.append(
                {
                    "seed": seed,
                    "file": record.name,
                    "top1_percent": record.score.value if record.score else None,
                    "macs_ratio": 1.0 if record.name == "baseline" else report.summary.macs_ratio,
                    "bytes": exported.size_bytes,
                    "p50_ms": record.latency_ms.p50,
                    "stable": record.valid,
                    "agreement_percent": record.parity.top1_agreement if record.parity else None,
                    "nodes": f"{nodes.integer} / {nodes.float}" if nodes else None,
                }
            )
        assert report.summary.score_drop is not None, "the data has a test split"
        drops.append(report.summary.score_drop)
    run.table(
        (
            Column(key="seed", title="seed"),
            Column(key="file", title="file"),
            Column(key="top1_percent", title="test top-1", unit="%", decimals=2),
            Column(key="macs_ratio", title="multiply-adds, times fewer", unit="x", decimals=2),
            Column(key="bytes", title="bytes"),
            Column(key="p50_ms", title="p50", unit="ms", decimals=3),
            Column(key="stable", title="stable"),
            Column(key="agreement_percent", title="agreement with its network", unit="%", decimals=2),
            Column(key="nodes", title="integer / float nodes"),
        ),
        rows,
    )
    spread = f", standard deviation {statistics.stdev(drops):.2f}" if len(drops) > 1 else ""
    run.note(f"Lost over the chain: mean {statistics.mean(drops):.2f} points over {len(drops)} seed(s){spread}.")


if __name__ == "__main__":
    main()
