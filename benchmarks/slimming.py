"""Network slimming (Liu et al., 2017) on CIFAR-10: how small a VGG becomes at the accuracy of its full-size twin.

    python -m benchmarks.slimming --data DIR [--model vgg16_bn] [--width 0.5] [--epochs 30] [--fine-tune 10]
                                  [--ratio 0.75] [--strength 5e-4] [--threads 1] [--seeds 0]

DIR is CIFAR-10 as an image folder (train/<class>/*, test/<class>/*). Two runs from the same random weights: a baseline
of ``epochs + fine-tune`` epochs; and ``epochs`` with an l1 penalty on the batch norm scales, a global cut by scale,
then ``fine-tune`` epochs. Both train equally long. The last epoch counts, and the test split is read once per network,
from its file in ONNX Runtime. Started again after an interruption, it goes on where it stopped.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchmarks.common.frame import Run, benchmark

if TYPE_CHECKING:
    from compress.report import Report

CUT_PERCENT, PARAMETERS, POINTS = 70.0, 8.0, 0.1
"""The bars: at least so much of the channels cut and parameters divided, at most so much of test top-1 lost."""


def channels_cut(slim: Report) -> tuple[int, int]:
    """Channels of all batch norms before the cut, and those that it took."""
    norms = [layer.output_shape for layer in slim.layers.before if "batch_norm" in (layer.operation or "")]
    before = sum(shape[1] for shape in norms if shape is not None)
    (prune,) = (stage for stage in slim.stages if stage.name == "prune")
    widths = [(edit.before, edit.after) for edit in prune.edits if edit.what == "num_features"]
    return before, sum(was - now for was, now in widths if isinstance(was, int) and isinstance(now, int))


@benchmark("slimming", __doc__, seeds="0")
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
def main(
    run: Run,
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
) -> None:
    from benchmarks.common.recipes import reported
    from benchmarks.common.results import Column
    from compress.recipe import Recipe

    if run.quick:
        epochs, fine_tune = 1, 1
    source = data if data == "digits" else str(Path(data).resolve())
    training = {"batch_size": 128, "augment": ["crop"] if data == "digits" else ["flip", "crop"]}
    whole_training = {**training, "epochs": epochs + fine_tune, "learning_rate": learning_rate}
    penalized = {**training, "epochs": epochs, "learning_rate": learning_rate}
    tuned = {**training, "epochs": fine_tune, "learning_rate": fine_tune_rate}
    prune = {"ratio": ratio, "criterion": "bn_scale", "select": "global", "round_to": 1, "minimum": minimum}
    stages = [
        {"regularize": {"method": "slimming", "strength": strength, "training": penalized}},
        {"prune": {**prune, "repair": ["reconstruct"], "training": tuned}},
    ]
    rows: list[dict[str, Any]] = []
    lost = []
    for seed in run.seeds:
        common: dict[str, Any] = {
            "model": f"{model}:width={width:g}",
            "data": {"source": source, "validation": 0.05, "calibration": 512},
            "seed": seed,
            "teacher": None,
            "gates": {"top1_agreement": None},
            "benchmark": {"preset": "quick", "threads": 1},
        }
        dense = {**common, "train": whole_training, "exports": [{"name": "baseline"}]}
        baseline = reported(Recipe.model_validate(dense), run.work / f"baseline-{seed}")
        narrow = {**common, "stages": stages, "exports": [{"name": "slimmed", "after": "prune"}]}
        slim = reported(Recipe.model_validate(narrow), run.work / f"slimmed-{seed}")
        whole, gone = channels_cut(slim)
        regularized, pruned = slim.stages[0], slim.stages[-1]
        first, last = slim.benchmarks[-1].score, baseline.benchmarks[-1].score
        assert first is not None and last is not None, "the data has a test split"
        cut_percent, smaller = 100 * gone / whole, slim.summary.params_ratio or 0.0
        lost.append(last.dropped(first))
        dense_row = {"network": f"{model}, {epochs + fine_tune} epochs", "top1_percent": last.value}
        rows.append({"seed": seed, **dense_row, "params": pruned.before.params})
        rows.append(
            {
                "seed": seed,
                "network": f"slimmed, {epochs} + {fine_tune} epochs",
                "top1_percent": first.value,
                "cut_percent": cut_percent,
                "params": pruned.after.params,
                "params_ratio": smaller,
                "macs_ratio": slim.summary.macs_ratio,
            }
        )
        share = regularized.history[-1]["near_zero_percent"]
        run.note(f"Seed {seed}: {share:.1f} % of the scales ended below 1 % of what they began with.")
        run.bar(f"seed {seed}, channels cut", cut_percent, CUT_PERCENT, "at least", "%")
        run.bar(f"seed {seed}, parameters, times fewer", smaller, PARAMETERS, "at least", "x")
    run.table(
        (
            Column(key="seed", title="seed"),
            Column(key="network", title="network"),
            Column(key="top1_percent", title="test top-1", unit="%", decimals=2),
            Column(key="cut_percent", title="channels cut", unit="%", decimals=1),
            Column(key="params", title="parameters"),
            Column(key="params_ratio", title="times fewer", unit="x", decimals=2),
            Column(key="macs_ratio", title="multiply-adds, times fewer", unit="x", decimals=2),
        ),
        rows,
    )
    spread = f", standard deviation {statistics.stdev(lost):.2f}" if len(lost) > 1 else ""
    run.note(f"Lost: mean {statistics.mean(lost):.2f} points over {len(lost)} seed(s){spread}.")
    run.bar("points lost, mean", round(statistics.mean(lost), 6), POINTS, "at most")


if __name__ == "__main__":
    main()
