"""ResNet-20 on CIFAR-10 at fewer multiply-adds: test accuracy after the same fine-tuning, beside Torch-Pruning.

    python -m benchmarks.pruning_accuracy --data DIR --peers DIR [--ratios 2.5,4] [--seeds 0,1,2]

DIR is CIFAR-10 as an image folder (train/<class>/*, test/<class>/*). Both sides start from
``benchmarks/checkpoints/resnet20_cifar10.safetensors`` and are fine-tuned by the same ``Training``. Each
side's way to choose the channels is itself chosen on the validation split: a quarter of an epoch for every candidate, a
whole epoch for the best two. The test split is read once per finished run. Started again after an interruption, it goes
on where it stopped; every result is a JSON file in the work folder.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchmarks.common.frame import Run, benchmark

if TYPE_CHECKING:
    from benchmarks.pruning_accuracy.measure import Arm, Comparison


@benchmark("pruning_accuracy", __doc__, seeds="0,1,2", peers=True)
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--ratios", default="2.5,4", show_default=True)
@click.option("--epochs", default=4, show_default=True)
@click.option("--labels-only", is_flag=True, help="Leave out the rows with the baseline as teacher.")
def main(run: Run, data: Path, ratios: str, epochs: int, labels_only: bool) -> None:
    from benchmarks.common.cifar10 import cifar10
    from benchmarks.pruning_accuracy.measure import ARMS, SHORT, SIDES, Comparison

    if run.quick:
        ratios, epochs = "4", 1
    training = SHORT.model_copy(update={"epochs": epochs, "warmup_epochs": 0.5})
    comparison = Comparison(cifar10(data), run.work, training)
    wanted = [float(part) for part in ratios.split(",")]
    best: dict[tuple[float, str], str] = {}
    for ratio in wanted:
        screening_table(run, ratio, comparison)
        for side in SIDES:
            best[ratio, side] = comparison.screening(ratio, side, "epoch")[0]["name"]
    runs: dict[tuple[float, Arm], list[dict[str, Any]]] = defaultdict(list)
    for seed in run.seeds:
        for ratio in wanted:
            for arm in ARMS[:2] if labels_only else ARMS:
                done = comparison.final(ratio, arm, best[ratio, arm.side], seed)
                runs[ratio, arm].append(done)
                run.say(f"{ratio:g}x, {arm}, seed {seed}: test {done['test']:.2f}, {done['seconds']:.0f} s")
    final_table(run, runs, best)
    run.note(f"Fine-tuning: `{training.model_dump(mode='json')}`.")


def screening_table(run: Run, ratio: float, comparison: Comparison) -> None:
    """Add the candidates of both sides at one ratio, with their accuracy on validation."""
    from benchmarks.common.results import Column
    from benchmarks.pruning_accuracy.measure import SIDES

    rows = []
    for side in SIDES:
        longer = {record["name"]: record["after"] for record in comparison.screening(ratio, side, "epoch")}
        for record in comparison.screening(ratio, side, "quarter"):
            accuracy = {"before": record["before"], "quarter": record["after"], "epoch": longer.get(record["name"])}
            size = {"macs_ratio": record["macs_ratio"], "params": record["parameters"]}
            rows.append({"side": side, "candidate": record["name"], **size, **accuracy})
    run.table(
        (
            Column(key="side", title="side"),
            Column(key="candidate", title="candidate"),
            Column(key="macs_ratio", title="multiply-adds, times fewer", unit="x", decimals=2),
            Column(key="params", title="parameters"),
            Column(key="before", title="as it comes out", unit="%", decimals=2),
            Column(key="quarter", title="after a quarter of an epoch", unit="%", decimals=2),
            Column(key="epoch", title="after an epoch", unit="%", decimals=2),
        ),
        rows,
        title=f"{ratio:g}x fewer multiply-adds: validation top-1 of the candidates",
    )


def final_table(
    run: Run, runs: dict[tuple[float, Arm], list[dict[str, Any]]], best: dict[tuple[float, str], str]
) -> None:
    """Add the finished runs, and the gain over Torch-Pruning on labels alone."""
    from benchmarks.common.results import Column
    from benchmarks.pruning_accuracy.measure import Arm

    rows = []
    for (ratio, arm), done in sorted(runs.items()):
        tests = [each["test"] for each in done]
        theirs = statistics.mean(each["test"] for each in runs[ratio, Arm("torch-pruning")])
        rows.append(
            {
                "ratio": ratio,
                "side": str(arm),
                "candidate": best[ratio, arm.side],
                "macs_ratio": done[0]["macs_ratio"],
                "params": done[0]["parameters"],
                "validation": " ".join(f"{each['validation']:.2f}" for each in done),
                "tests": " ".join(f"{test:.2f}" for test in tests),
                "mean_percent": statistics.mean(tests),
                "deviation": statistics.stdev(tests) if len(tests) > 1 else None,
                "gain": statistics.mean(tests) - theirs,
            }
        )
    run.table(
        (
            Column(key="ratio", title="times fewer multiply-adds", unit="x"),
            Column(key="side", title="side"),
            Column(key="candidate", title="candidate"),
            Column(key="macs_ratio", title="exactly", unit="x", decimals=3),
            Column(key="params", title="parameters"),
            Column(key="validation", title="validation %, by seed"),
            Column(key="tests", title="test top-1 %, by seed"),
            Column(key="mean_percent", title="mean", unit="%", decimals=2),
            Column(key="deviation", title="standard deviation", decimals=2),
            Column(key="gain", title="points beside Torch-Pruning on labels alone", decimals=2),
        ),
        rows,
        title="test top-1 after fine-tuning",
    )


if __name__ == "__main__":
    main()
