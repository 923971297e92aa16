"""ResNet-20 trained with weights and activations of few bits, and the accuracy of its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.common.steps import account, applied
from compress import deploy
from compress.data import Data
from compress.pipeline import open_network
from compress.quantize import Quantize, simulate
from compress.sources.load import Network
from compress.tasks.built_in.classification import top1
from compress.training.loop import Training

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


def stage(scheme: str, epochs: int | None) -> Quantize:
    """The stage of a scheme, with its training."""
    settings = {**COMMON, **SCHEMES[scheme], **({"epochs": epochs} if epochs is not None else {})}
    options: dict[str, Any] = {"binary": {"exclude": ("steps.*.shortcut.*",)}, "w2a8": {"ranges": "mse"}}
    return Quantize.model_validate({"scheme": scheme, "train": Training(**settings), **options.get(scheme, {})})


def trained(scheme: str, epochs: int | None, data: Data, teacher: Network, work: Path, seed: int) -> Network:
    """The network of a scheme, trained now or before."""
    source = open_network("bireal_resnet20", data=data) if scheme == "binary" else teacher
    wanted = stage(scheme, epochs)
    return applied(source, wanted, data, work / scheme, name="quantize", teacher=teacher, seed=seed)


def figures(scheme: str, made: Network, data: Data, work: Path) -> dict[str, Any]:
    """Bytes, accuracy of file and simulation on the test split, agreement of both, and the curve of the training."""
    file = work / f"{scheme}.onnx"
    deploy.export(made, scheme, file)
    deployed = deploy.Deployed(scheme, file, made)
    parity = deploy.parity_on(deployed, [(x,) for x, _ in data.split("test").batches(200)])
    simulated = simulate(made.model, made.encodings, made.example_inputs)
    metrics = account(work / scheme)
    return {
        "bytes": file.stat().st_size,
        "top1_percent": deploy.accuracy(deployed, data),
        "simulated_percent": top1(simulated, data.split("test")),
        "agreement_percent": parity.top1_agreement,
        "minutes": metrics["minutes"],
        "curve": ", ".join(f"{each['validation_score']:.2f}" for each in metrics["stage"]["history"]),
    }
