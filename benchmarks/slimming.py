"""Network slimming (Liu et al., 2017) on CIFAR-10: how small a VGG becomes at the accuracy of its full-size twin.

    python benchmarks/slimming.py --data DIR [--model vgg16_bn] [--width 0.5] [--epochs 30] [--fine-tune 10]
                                  [--ratio 0.75] [--strength 5e-4] [--threads 1] [--seeds 0] [-o out/slimming]

DIR is CIFAR-10 as an image folder (train/<class>/*, test/<class>/*). Two runs from the same random weights: a baseline
of ``epochs + fine-tune`` epochs; and ``epochs`` with an l1 penalty on the batch norm scales, a global cut by scale,
then ``fine-tune`` epochs. Both train equally long. The last epoch counts, and the test split is read once per network,
from its file in ONNX Runtime. Started again after an interruption, it goes on where it stopped.
"""

from __future__ import annotations

import platform
import statistics
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table

from compress.cli.session import Options, progress_bars
from compress.pipeline import run
from compress.recipe import Recipe
from compress.report import Report
from compress.report import read as read_report

CUT_PERCENT, PARAMETERS, POINTS = 70.0, 8.0, 0.1
"""The bars: at least so much of the channels cut and parameters divided, at most so much of test top-1 lost."""


def result(settings: Mapping[str, Any], output: Path) -> Report:
    """The report of one run; a finished one is read again."""
    if not (output / "report.json").exists():
        with progress_bars(Options()) as progress:
            run(Recipe.model_validate(settings), output, progress=progress)
    return read_report(output)


def channels_cut(slim: Report) -> tuple[int, int]:
    """Channels of all batch norms before the cut, and those that it took."""
    norms = [layer.output_shape for layer in slim.layers.before if "batch_norm" in (layer.operation or "")]
    before = sum(shape[1] for shape in norms if shape is not None)
    (prune,) = (stage for stage in slim.stages if stage.name == "prune")
    widths = [(edit.before, edit.after) for edit in prune.edits if edit.what == "num_features"]
    return before, sum(was - now for was, now in widths if isinstance(was, int) and isinstance(now, int))


@click.command()
@click.option("--data", required=True, help="An image folder, or digits to try it.")
@click.option("--model", default="vgg16_bn", show_default=True)
@click.option("--width", type=float, default=0.5, show_default=True)
@click.option("--epochs", type=click.IntRange(1), default=30, show_default=True, help="With the penalty.")
@click.option("--fine-tune", type=click.IntRange(1), default=10, show_default=True, help="Epochs after the cut.")
@click.option("--ratio", type=float, default=0.75, show_default=True, help="Share of the channels that is cut.")
@click.option("--strength", type=float, default=5e-4, show_default=True, help="Of the penalty.")
@click.option("--minimum", type=int, default=4, show_default=True, help="Channels that every layer keeps.")
@click.option("--learning-rate", type=float, default=0.1, show_default=True)
@click.option("--fine-tune-rate", type=float, default=0.05, show_default=True)
@click.option("--threads", type=int, default=1, show_default=True)
@click.option("--seeds", default="0", show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("out/slimming"), show_default=True)
def main(
    data: str,
    model: str,
    width: float,
    epochs: int,
    fine_tune: int,
    ratio: float,
    strength: float,
    minimum: int,
    learning_rate: float,
    fine_tune_rate: float,
    threads: int,
    seeds: str,
    output: Path,
) -> None:
    """Print the figures, and whether the bars are met."""
    torch.set_num_threads(threads)
    console = Console(width=130)
    source = data if data == "digits" else str(Path(data).resolve())
    training = {"batch_size": 128, "augment": ["crop"] if data == "digits" else ["flip", "crop"]}
    table = Table("seed", "network", "test top-1 %", "channels cut %", "parameters", "ratio", "MACs ratio")
    table.columns[1].no_wrap = True
    drops, passed = [], True
    for seed in (int(part) for part in seeds.split(",")):
        common: dict[str, Any] = {
            "model": f"{model}:width={width:g}",
            "data": {"source": source, "validation": 0.05, "calibration": 512},
            "seed": seed,
            "teacher": None,
            "gates": {"top1_agreement": None},
            "benchmark": {"preset": "quick", "threads": 1},
        }
        baseline = result(
            {
                **common,
                "train": {**training, "epochs": epochs + fine_tune, "learning_rate": learning_rate},
                "exports": [{"name": "baseline"}],
            },
            output / f"baseline-{seed}",
        )
        penalized = {**training, "epochs": epochs, "learning_rate": learning_rate}
        tuned = {**training, "epochs": fine_tune, "learning_rate": fine_tune_rate}
        prune = {"ratio": ratio, "criterion": "bn_scale", "select": "global", "round_to": 1, "minimum": minimum}
        slim = result(
            {
                **common,
                "stages": [
                    {"regularize": {"method": "slimming", "strength": strength, "training": penalized}},
                    {"prune": {**prune, "repair": ["reconstruct"], "training": tuned}},
                ],
                "exports": [{"name": "slimmed", "after": "prune"}],
            },
            output / f"slimmed-{seed}",
        )
        whole, gone = channels_cut(slim)
        regularized, pruned = slim.stages[0], slim.stages[-1]
        first, last = slim.benchmarks[-1].top1, baseline.benchmarks[-1].top1
        assert first is not None and last is not None, "the data has a test split"
        params, macs = slim.summary.params_ratio or 0.0, slim.summary.macs_ratio or 0.0
        drops.append(last - first)
        passed &= 100 * gone / whole >= CUT_PERCENT and params >= PARAMETERS
        table.add_row(
            str(seed), f"{model}, {epochs + fine_tune} epochs", f"{last:.2f}", "", _thousands(pruned.before.params)
        )
        table.add_row(
            "",
            f"slimmed, {epochs} + {fine_tune} epochs",
            f"{first:.2f}",
            f"{100 * gone / whole:.1f}",
            _thousands(pruned.after.params),
            f"{params:.2f}x",
            f"{macs:.2f}x",
        )
        share = regularized.history[-1]["near_zero_percent"]
        console.print(f"seed {seed}: {share:.1f} % of the scales ended below 1 % of what they began with")
    console.print(f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, {baseline.machine.get('cpu')}")
    console.print(table)
    spread = f", standard deviation {statistics.stdev(drops):.2f}" if len(drops) > 1 else ""
    console.print(f"lost: mean {statistics.mean(drops):.2f} points over {len(drops)} seed(s){spread}")
    passed &= round(statistics.mean(drops), 6) <= POINTS
    console.print(
        f"bars (at least {CUT_PERCENT:g} % of the channels cut, {PARAMETERS:g}x fewer parameters, at most {POINTS:g} "
        f"points lost): {'met' if passed else 'not met'}"
    )


def _thousands(count: int | None) -> str:
    return "" if count is None else f"{count:,}"


if __name__ == "__main__":
    main()
