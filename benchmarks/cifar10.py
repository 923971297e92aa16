"""ResNet-20 on CIFAR-10: what the whole chain (prune, distil, fold, quantize, export) costs in test accuracy.

    python benchmarks/cifar10.py --data DIR [--seeds 0,1,2] [-o out/cifar10] [--baseline]

DIR is CIFAR-10 as an image folder (train/<class>/*, test/<class>/*). ``--baseline`` trains the network that
``benchmarks/checkpoints`` holds first; without it the shipped one is used. Half an hour per seed on two cores; started
again after an interruption, it goes on where it stopped. Everything is chosen on the validation split; the test split
is read once per exported file.
"""

from __future__ import annotations

import platform
import statistics
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from compress.cli.session import Options, progress_bars
from compress.pipeline import run
from compress.recipe import read
from compress.report import Report
from compress.report import read as read_report

ROOT = Path(__file__).resolve().parent.parent


def result(recipe: str, data: Path, output: Path, seed: int, overrides: tuple[str, ...]) -> Report:
    """The report of one run; a finished one is read again."""
    if not (output / "report.json").exists():
        with progress_bars(Options()) as progress:
            # A gate that fails is a figure to print, not an end.
            changes = [f"data.source={data.resolve()}", f"seed={seed}", "gates={top1_agreement: null}", *overrides]
            run(read(ROOT / "recipes" / recipe, changes), output, progress=progress)
    return read_report(output)


@click.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--seeds", default="0")
@click.option("--baseline", is_flag=True)
@click.option("--set", "overrides", multiple=True, help="Change a setting of recipes/cifar10.yaml.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("out/cifar10"))
def main(data: Path, seeds: str, baseline: bool, overrides: tuple[str, ...], output: Path) -> None:
    """Print the figures."""
    console = Console(width=120)
    weights = ROOT / "benchmarks" / "checkpoints" / "resnet20_cifar10.safetensors"
    if baseline:
        trained = result("cifar10-baseline.yaml", data, output / "baseline", 0, ())
        console.print(f"baseline: {trained.benchmarks[0].top1:.2f} % of the test split")
        weights = output / "baseline" / "0-baseline" / "weights.safetensors"
    table = Table(
        "seed", "file", "test top-1 %", "MACs ratio", "bytes", "p50 ms", "agreement %", "integer / float nodes"
    )
    drops = []
    for seed in (int(part) for part in seeds.split(",")):
        report = result("cifar10.yaml", data, output / f"seed{seed}", seed, (f"weights={weights}", *overrides))
        for record, exported in zip(report.benchmarks, report.exports, strict=True):
            nodes = exported.nodes
            table.add_row(
                str(seed),
                record.name,
                f"{record.top1:.2f}",
                "" if record.name == "baseline" else f"{report.summary.macs_ratio:.2f}",
                f"{exported.size_bytes:,}",
                f"{record.latency_ms.p50:.3f}" + ("" if record.stable else " (unstable)"),
                f"{record.parity.top1_agreement:.2f}" if record.parity else "",
                f"{nodes.integer} / {nodes.float}" if nodes else "",
            )
        drops.append(report.summary.top1_drop)
    console.print(f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, {report.machine.get('cpu')}")
    console.print(table)
    spread = f", standard deviation {statistics.stdev(drops):.2f}" if len(drops) > 1 else ""
    console.print(f"lost over the chain: mean {statistics.mean(drops):.2f} points over {len(drops)} seed(s){spread}")


if __name__ == "__main__":
    main()
