"""Stages that train for long: their networks are kept as artifacts, and an interrupted training goes on."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Protocol

import torch

from compress import Context
from compress.cli.session import Options, progress_bars
from compress.data import Data
from compress.pipeline import advance
from compress.sources.artifact import load as load_artifact
from compress.sources.artifact import save
from compress.sources.load import Network
from compress.stage import Stage
from compress.tasks.task import Task


class Settings(Stage, Protocol):
    """A stage that tells its settings, as all configurations do."""

    def model_dump(self, *, mode: str) -> dict[str, Any]: ...


def applied(
    source: Network,
    stage: Settings,
    data: Data,
    folder: Path,
    *,
    name: str,
    teacher: Network | None,
    seed: int = 0,
    task: Task | None = None,
) -> Network:
    """Return the network after ``stage``, made now or by an earlier run with the same settings.

    Args:
        source: what the stage is applied to.
        stage: with its training.
        data: what it trains on.
        folder: of the artifact; checkpoints lie beside it until the stage is done.
        name: of the stage in the artifact's account.
        teacher: whose outputs the training learns from as well.
        seed: of the training.
        task: what a batch means; left out, the one that fits.
    """
    settings = stage.model_dump(mode="json")
    if (folder / "manifest.json").exists() and account(folder)["settings"] == settings:
        return load_artifact(folder)
    checkpoints = folder.with_name(f"{folder.name}-checkpoints")
    checkpoints.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    began = time.perf_counter()
    with progress_bars(Options()) as progress:
        guide = None if teacher is None else teacher.model
        context = Context(source.example_inputs, data, guide, seed, progress, str(checkpoints), task=task)
        made, record = advance(source, stage, context, name=name)
    minutes = (time.perf_counter() - began) / 60
    metrics = {"stage": record.model_dump(mode="json"), "settings": settings, "minutes": minutes}
    save(made, folder, overwrite=True, metrics=metrics)
    return made


def account(folder: Path) -> dict[str, Any]:
    """Return what an artifact says of its making: the account of the "stage", its "settings", the "minutes"."""
    metrics: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["metrics"]
    return metrics
