"""What weights and activations of few bits keep of the accuracy of ResNet-20 on CIFAR-10, after training.

    python benchmarks/few_bits_accuracy.py --data DIR [--schemes w4a4,w2a8,ttq,ternary,binary] [--epochs N]
                                           [--threads 1] [--seed 0] [-o out/few_bits]

DIR is CIFAR-10 as an image folder (train/<class>/*, test/<class>/*). All but ``binary`` start from the network in
``benchmarks/checkpoints`` and are distilled from it; ``binary`` is the zoo's ``bireal_resnet20`` (a shortcut around
each convolution, RPReLU), trained from random weights in two stages, signs of the inputs first, and distilled from the
same teacher, by SGD, which learns it faster than AdamW; its 1x1 shortcuts stay in float. ``w2a8`` calibrates by the
squared error, chosen on validation. The last epoch counts; test accuracy is that of the deployed file in its engine,
read once, beside that of the float file and of the simulation. Started again after an interruption, a training goes on
after its last whole epoch, and one that is finished is read again. 1.5 to 2.5 minutes an epoch on one thread, two hours
for ``binary``.
"""

from __future__ import annotations

import json
import platform
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table

from compress import Context, deploy
from compress.artifact import load as load_artifact
from compress.artifact import save
from compress.cli.session import Options, progress_bars
from compress.data import Data, DataConfig
from compress.data import load as load_data
from compress.load import Network
from compress.pipeline import advance, fold_for_export, open_network
from compress.quantize import Quantize, simulate
from compress.train import Training, top1

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = ROOT / "benchmarks" / "checkpoints" / "resnet20_cifar10.safetensors"
COMMON: dict[str, Any] = {
    "optimizer": "adamw",
    "precision": "auto",
    "batch_size": 128,
    "weight_decay": 0.0,
    "warmup_epochs": 0.2,
    "augment": ("flip", "crop"),
}
SCHEMES: dict[str, dict[str, Any]] = {
    "w4a4": {"epochs": 6, "learning_rate": 1e-3, "compiled": True},
    "w2a8": {"epochs": 6, "learning_rate": 1e-3},
    "ttq": {"epochs": 8, "learning_rate": 1e-3},
    "ternary": {"epochs": 4, "learning_rate": 1e-3},
    "binary": {"epochs": 48, "optimizer": "sgd", "learning_rate": 0.1, "weight_decay": 1e-4, "compiled": True},
}
BARS = {"w4a4": 0.5, "w2a8": 0.7, "ttq": 1.0, "ternary": 1.5, "binary": 6.0}
"""Points of test accuracy that each may lose."""


def stage(scheme: str, epochs: int | None) -> Quantize:
    """The stage of a scheme, with its training."""
    settings = {**COMMON, **SCHEMES[scheme], **({"epochs": epochs} if epochs is not None else {})}
    options: dict[str, Any] = {"binary": {"exclude": ("steps.*.shortcut.*",)}, "w2a8": {"calibration": "mse"}}
    return Quantize(scheme=scheme, training=Training(**settings), **options.get(scheme, {}))  # type: ignore[arg-type]


def trained(scheme: str, epochs: int | None, data: Data, teacher: Network, output: Path, seed: int) -> Network:
    """The network of a scheme, trained now or before."""
    folder = output / scheme
    if (folder / "manifest.json").exists():
        return load_artifact(folder)
    output.mkdir(parents=True, exist_ok=True)
    checkpoints = output / f"{scheme}-checkpoints"
    checkpoints.mkdir(exist_ok=True)
    torch.manual_seed(seed)
    source = open_network("bireal_resnet20", data=data) if scheme == "binary" else teacher
    began = time.perf_counter()
    with progress_bars(Options()) as progress:
        context = Context(source.example_inputs, data, teacher.model, seed, progress, str(checkpoints))
        made, record = advance(source, stage(scheme, epochs), context, name="quantize")
    metrics = {"stage": record.model_dump(mode="json"), "minutes": (time.perf_counter() - began) / 60}
    save(made, folder, overwrite=True, metrics=metrics)
    return made


def figures(scheme: str, made: Network, data: Data, output: Path) -> dict[str, Any]:
    """Bytes, accuracy of file and simulation on the test split, agreement of both, and the curve of the training."""
    file = output / f"{scheme}.onnx"
    deploy.export(made, scheme, file)
    deployed = deploy.Deployed(scheme, file, made)
    parity = deploy.parity_on(deployed, [(x,) for x, _ in data.split("test").batches(200)])
    simulated = simulate(made.model, made.encodings, made.example_inputs)
    told = json.loads((output / scheme / "manifest.json").read_text())["metrics"]
    return {
        "bytes": file.stat().st_size,
        "test_top1": deploy.accuracy(deployed, data),
        "simulated_top1": top1(simulated, data.split("test")),
        "agreement": parity.top1_agreement,
        "minutes": told["minutes"],
        "validation_curve": [round(each["validation_top1"], 2) for each in told["stage"]["history"]],
    }


@click.command()
@click.option("--data", "folder", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--schemes", default=",".join(SCHEMES), show_default=True)
@click.option("--epochs", type=int, help="Of every scheme, to try it.")
@click.option("--threads", default=1, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--train-only", is_flag=True, help="Leave the test split alone.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("out/few_bits"), show_default=True)
def main(
    folder: Path, schemes: str, epochs: int | None, threads: int, seed: int, train_only: bool, output: Path
) -> None:
    """Print the figures; the exit code is 1 where a bar is missed."""
    torch.set_num_threads(threads)
    console = Console(width=140)
    console.print(f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, {deploy.machine().get('cpu')}, seed {seed}")
    data = load_data(DataConfig(source=str(folder), validation=0.05, calibration=512), seed)
    teacher = open_network("resnet20", weights=WEIGHTS, data=data)
    networks = {name: trained(name, epochs, data, teacher, output, seed) for name in schemes.split(",")}
    if train_only:
        return
    plain = fold_for_export(teacher)
    file = output / "float.onnx"
    deploy.export(plain, "float", file)
    base, size = deploy.accuracy(deploy.Deployed("float", file), data), file.stat().st_size
    table = Table("scheme", "test top-1 %", "lost", "bar", "simulated %", "agreement %", "bytes", "smaller", "minutes")
    table.add_row("float", f"{base:.2f}", "", "", "", "", f"{size:,}", "", "")
    missed = []
    found: dict[str, Any] = {"float": {"bytes": size, "test_top1": base}}
    for name, network in networks.items():
        one = found[name] = figures(name, network, data, output)
        lost = base - one["test_top1"]
        if lost > BARS[name]:
            missed.append(f"{name} lost {lost:.2f} points of at most {BARS[name]}")
        table.add_row(
            name, f"{one['test_top1']:.2f}", f"{lost:.2f}", f"{BARS[name]}", f"{one['simulated_top1']:.2f}",
            f"{one['agreement']:.2f}", f"{one['bytes']:,}", f"{size / one['bytes']:.1f}x", f"{one['minutes']:.0f}",
        )  # fmt: skip
    console.print(table)
    for name in networks:
        console.print(f"{name}: validation top-1 by epoch {found[name]['validation_curve']}")
    (output / "figures.json").write_text(json.dumps(found, indent=1) + "\n")
    console.print(f"bars not met: {'; '.join(missed)}" if missed else "bars met")
    raise SystemExit(1 if missed else 0)


if __name__ == "__main__":
    main()
