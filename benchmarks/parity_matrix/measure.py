"""Networks of the zoo that have learnt the digits, as files of every format, and what the gate of ``check`` finds."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from benchmarks.parity_matrix.builder import KINDS
from compress import deploy
from compress.data import Data
from compress.errors import CompressError
from compress.pipeline import fold_for_export, open_network
from compress.quantize import Quantize
from compress.sources.load import Network
from compress.stage import Context
from compress.tasks.built_in.classification import top1
from compress.training.loop import Training
from runtimes.checks import gate
from runtimes.errors import RuntimesError

SAMPLES = 360
TRAINING: dict[str, Any] = {
    "batch_size": 64,
    "optimizer": "adamw",
    "learning_rate": 2e-3,
    "weight_decay": 1e-2,
    "precision": "fp32",
    "accelerator": "cpu",
}
LEARNING_RATE = {"squeezenet_1_1": 5e-4}
"""Of networks without batch norms."""


def trained(name: str, data: Data, weights: Path, epochs: int) -> Network:
    """The network, trained or as it was left by an earlier run."""
    if weights.exists():
        return open_network(name, weights=weights, data=data)
    network = open_network(name, data=data)
    rate = LEARNING_RATE.get(name, TRAINING["learning_rate"])
    result = Training(epochs=epochs, **{**TRAINING, "learning_rate": rate}).apply(
        network.model, Context(network.example_inputs, data)
    )
    weights.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in result.model.state_dict().items()}, weights)
    return open_network(name, weights=weights, data=data)


def cell(network: Network, data: Data, name: str, folder: Path) -> dict[str, Any]:
    """What the gate finds of one file."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        (record,) = deploy.write_folder(network, folder, [deploy.Wanted(name)], data, samples=SAMPLES)
        (checked,) = gate.check_folder(folder)
    except (CompressError, RuntimesError) as error:
        return {"passed": False, "reasons": [str(error)]}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {**gate.to_json(checked), "notes": list(record.notes)}


Remember = Callable[[str, Callable[[], dict[str, Any]]], dict[str, Any]]
"""What returns a cell by its key: one that an earlier run left, or one that is made now."""


def _built(build: Callable[[Network], dict[str, Any]], of_kind: Callable[[str], Network], kind: str) -> dict[str, Any]:
    """What the builder makes of the file of a network, which is made where it is needed."""
    return build(of_kind(kind))


def row(
    name: str,
    data: Data,
    wanted: tuple[str, ...],
    work: Path,
    epochs: int,
    remember: Remember,
    build: Callable[[Network], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """The test accuracy of a network in percent, its cells by format and kind of numbers, and what ``build`` makes of
    its files by kind.
    """
    slug = name.replace(":", "-").replace("=", "-").replace(",", "-")
    network = trained(name, data, work / f"{slug}.safetensors", epochs)
    plain = fold_for_export(network)
    made: dict[str, Network] = {"float32": plain}

    def of_kind(kind: str) -> Network:
        if kind not in made:
            result = Quantize().apply(plain.model, Context(plain.example_inputs, data))
            made[kind] = replace(plain, model=result.model, encodings=dict(result.encodings))
        return made[kind]

    def measured(form: str, kind: str) -> dict[str, Any]:
        return cell(of_kind(kind), data, form, work / f"{slug}-{form}-{kind}")

    cells = {
        f"{form} {kind}": remember(f"{name} {form} {kind}", partial(measured, form, kind))
        for form in wanted
        for kind in KINDS
    }
    builds = {}
    if build is not None:
        builds = {kind: remember(f"{name} builder {kind}", partial(_built, build, of_kind, kind)) for kind in KINDS}
    return {"top1_percent": top1(network.model, data.split("test")), "cells": cells, "builds": builds}
