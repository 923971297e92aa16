"""Widths by measured latency against widths by rounding, at the same number of multiply-adds.

    python -m benchmarks.widths                            # int8, 1 thread
    python -m benchmarks.widths --precision float --macs 4

ResNet-20 (the shipped CIFAR-10 baseline) is pruned to the same target by each rule, without fine-tuning: accuracy is
not looked at. The files are quantized on random inputs, which latency does not depend on, and timed interleaved.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from benchmarks.common.frame import Run, benchmark

if TYPE_CHECKING:
    from torch import nn

    from compress.sources.load import Network

RULES: tuple[int | str, ...] = (1, 2, 8, "measured")


def for_deployment(network: Network, precision: str) -> Network:
    """The network folded and, in int8, quantized on random inputs."""
    from compress import Context, Fold, Quantize
    from compress.data import Data, SampleSplit

    x = network.example_inputs
    context = Context(x, Data("random", {"calibration": SampleSplit(x[0], None)}))
    folded = replace(network, model=Fold().apply(network.model, context).model)
    if precision != "int8":
        return folded
    quantized = Quantize().apply(folded.model, context)
    return replace(folded, model=quantized.model, encodings=dict(quantized.encodings))


def widths(model: nn.Module) -> str:
    """The output channels of the convolutions, in order."""
    from torch import nn

    return " ".join(str(m.out_channels) for m in model.modules() if isinstance(m, nn.Conv2d))


@benchmark("widths", __doc__)
@click.option("--precision", type=click.Choice(["int8", "float"]), default="int8", show_default=True)
@click.option("--macs", type=float, default=2.5, show_default=True, help="Times fewer multiply-adds.")
@click.option("--preset", type=click.Choice(["quick", "default"]), default="default", show_default=True)
def main(run: Run, precision: str, macs: float, preset: Literal["quick", "default"]) -> None:
    from benchmarks.common.cifar10 import trained
    from benchmarks.common.results import Column
    from compress import Context, MachineClock, Prune, deploy
    from compress.cost.count import cost
    from compress.recipe import Benchmark

    base = trained()
    networks = {"not pruned": base}
    for rule in RULES[:1] if run.quick else RULES:
        options = {"round_to": rule, "latency_precision": precision, "threads": run.threads}
        stage = Prune.model_validate({"macs": macs, "criterion": "l2", **options})
        context = Context(base.example_inputs, clock=MachineClock())
        networks[f"round_to: {rule}"] = replace(base, model=stage.apply(base.model, context).model)
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for number, (name, network) in enumerate(networks.items()):
            path = Path(folder, f"{number}.onnx")
            deploy.export(for_deployment(network, precision), name, path)
            files.append(deploy.Deployed(name, path))
        how = Benchmark(threads=run.threads, preset="quick" if run.quick else preset)
        records = deploy.measure(files, request=how.request)
    whole = cost(base.model, base.example_inputs).macs
    rows = []
    for (name, network), record in zip(networks.items(), records, strict=True):
        left, latency = cost(network.model, network.example_inputs).macs, record.latency_ms
        timing = {"p50_ms": latency.p50, "p90_ms": latency.p90, "stable": record.valid}
        rows.append({"rule": name, "macs": left, "ratio": whole / left, **timing, "widths": widths(network.model)})
    run.table(
        (
            Column(key="rule", title="rule"),
            Column(key="macs", title="multiply-adds"),
            Column(key="ratio", title="fewer", unit="x", decimals=2),
            Column(key="p50_ms", title="p50", unit="ms", decimals=3),
            Column(key="p90_ms", title="p90", unit="ms", decimals=3),
            Column(key="stable", title="stable"),
            Column(key="widths", title="widths"),
        ),
        rows,
        title=f"ResNet-20, {precision}",
    )


if __name__ == "__main__":
    main()
