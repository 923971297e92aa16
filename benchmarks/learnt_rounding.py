"""What learning the roundings of 4-bit weights takes and gives back: ResNet-20 on digits of 16x16, over seeds.

    python -m benchmarks.learnt_rounding [--seeds 0,1,2] [--iterations 2000]

Each seed trains a network for eight epochs on scikit-learn's digits, and quantizes it to ``w4a8`` three times: rounded
to nearest, by AdaRound and by BRECQ. Time is that of the whole stage, in seconds of the processor and by the clock.
Validation (180 images) is what choices would be made on; test accuracy is read once, of the network as its integers
compute it.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import click

from benchmarks.common.frame import Run, benchmark

METHODS = ("nearest", "adaround", "brecq")


@benchmark("learnt_rounding", __doc__, seeds="0,1,2")
@click.option("--iterations", default=2000, show_default=True, help="Of each layer or block.")
def main(run: Run, iterations: int) -> None:
    import statistics

    from benchmarks.common.results import Column

    if run.quick:
        iterations = 50
    rows = [
        run.part(f"seed-{seed}", partial(_of_seed, seed, iterations), seed=seed, iterations=iterations)
        for seed in (run.seeds[:1] if run.quick else run.seeds)
    ]
    table: list[dict[str, Any]] = []
    for method in METHODS:
        mean = {key: statistics.mean(row[method][key] for row in rows) for key in rows[0][method]}
        each = ", ".join(f"{row[method]['test_percent']:.2f}" for row in rows)
        table.append({"method": method, **mean, "each": each})
    run.table(
        (
            Column(key="method", title="weights are rounded by"),
            Column(key="cpu_s", title="CPU time, mean", unit="s", decimals=1),
            Column(key="clock_s", title="by the clock, mean", unit="s", decimals=1),
            Column(key="validation_percent", title="validation top-1, mean", unit="%", decimals=2),
            Column(key="test_percent", title="test top-1, mean", unit="%", decimals=2),
            Column(key="each", title="test top-1 of each seed"),
        ),
        table,
    )
    floats = ", ".join(f"{row['float']['test_percent']:.2f}" for row in rows)
    run.note(f"Test top-1 of the float networks, by seed: {floats} %. {iterations} iterations.")
    run.bar("AdaRound, seconds by the clock", table[1]["clock_s"], 60, "at most")
    run.bar("BRECQ, seconds by the clock", table[2]["clock_s"], 60, "at most")


def _of_seed(seed: int, iterations: int) -> dict[str, dict[str, float]]:
    """Time and accuracies by method, with those of the float network."""
    from compress import Context
    from compress import data as data_sets
    from compress.pipeline import open_network, train
    from compress.quantize import Quantize, simulate
    from compress.tasks.built_in.classification import top1
    from compress.training.loop import Training

    data = data_sets.load(data_sets.DataConfig(source="digits", size=16), seed)
    network = open_network("resnet20", data=data, seed=seed)
    context = Context(network.example_inputs, data, seed=seed)
    network, _ = train(network, data, Training(epochs=8, batch_size=64), context)
    figures: dict[str, dict[str, float]] = {"float": _accuracies(network.model, data, top1)}
    for method in METHODS:
        recover = () if method == "nearest" else ({method: iterations},)
        stage = Quantize.model_validate({"scheme": "w4a8", "recover": recover})
        clock, processor = time.perf_counter(), time.process_time()
        result = stage.apply(network.model, context)
        spent = {"clock_s": time.perf_counter() - clock, "cpu_s": time.process_time() - processor}
        rounded = simulate(result.model, result.encodings, network.example_inputs)
        figures[method] = {**spent, **_accuracies(rounded, data, top1)}
    return figures


def _accuracies(model: Any, data: Any, top1: Any) -> dict[str, float]:
    return {f"{name}_percent": top1(model, data.split(name)) for name in ("validation", "test")}


if __name__ == "__main__":
    main()
