"""Both sides' ways to choose channels of ResNet-20, their screening on validation, and the fine-tunings that count."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.common.frame import write_whole
from benchmarks.peers.importances import TorchPruning, baseline, multiply_adds, widths
from compress.cost.count import cost
from compress.data import Data, SampleSplit
from compress.distill import objective_for
from compress.fold import Fold
from compress.prune import Prune
from compress.stage import Context
from compress.tasks.built_in.classification import top1
from compress.training.loop import Training, fit

SHORT = Training(epochs=1, batch_size=128, learning_rate=0.02, warmup_epochs=0.1, augment=("flip", "crop"))
FINALISTS = 2

STREAM = ("conv1", "layer*.*.conv2", "layer*.shortcut*")
BOTH = ["reconstruct", "recalibrate_bn"]
"""What is done after the cut: layers that lost inputs are refit, and batch norms are measured again."""

STRONG = [{"reconstruct": {"ridges": [0.1]}}, "recalibrate_bn"]


class Ours:
    """The candidates, each what a user of Prune can ask for.

    They differ in where channels go: within the blocks alone ("same share", "scan"), or in the residual stream too; and
    in whether whole blocks go before them. The scan is the selection ``knapsack``: each layer alone is cut to several
    widths and refit, and the widths are those with the least sum of losses within the budget.
    """

    def __init__(self, data: Data, checkpoints: Path) -> None:
        checkpoints.mkdir(parents=True, exist_ok=True)
        self.context = Context((data.example(8),), data, checkpoints=str(checkpoints))
        self.network = baseline()

    def candidates(self) -> dict[str, Callable[[float], nn.Module]]:
        within: dict[str, Any] = {"exclude": STREAM, "repair": BOTH}
        scanned = {**within, "select": "knapsack", "limits": {"*": 15 / 16}}
        stream: dict[str, Any] = {"select": "global", "repair": STRONG}
        settings: dict[str, dict[str, Any]] = {
            "l2, same share": within,
            "l2, scan": scanned,
            "l2, scan, at least 1-8": {**scanned, "limits": {"*": 7 / 8}},
            "taylor, scan": {**scanned, "criterion": "taylor"},
            "l2 with the stream, ridge 0.1": stream,
            "without 2 blocks, l2 with the stream, ridge 0.1": {**stream, "blocks": 2},
            "without 3 blocks, l2 with the stream, ridge 0.1": {**stream, "blocks": 3},
        }
        return {name: partial(self.pruned, **each) for name, each in settings.items()}

    def pruned(self, ratio: float, **settings: Any) -> nn.Module:
        """ResNet-20 with so many times fewer multiply-adds."""
        stage = Prune.model_validate({"macs": ratio, "round_to": 1, "criterion": "l2", **settings})
        return stage.apply(self.network, self.context).model


def part(data: Data, share: float) -> Data:
    """The train split alone, every 1/``share``-th sample of it: what a fine-tuning sees."""
    train = data.split("train")
    assert isinstance(train, SampleSplit) and train.labels is not None
    index = torch.arange(0, len(train), round(1 / share))
    if len(index) == len(train):
        return Data(data.name, {"train": train}, data.preprocessing)
    return Data(data.name, {"train": SampleSplit(train.inputs[index], train.labels[index], train.preprocessing)})


def kept(file: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``make`` returns, from ``file`` where it is there already."""
    if not file.exists():
        write_whole(file, json.dumps(make(), indent=1))
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def screened(file: Path, create: Callable[[], nn.Module], data: Data, share: float) -> dict[str, Any]:
    """Validation accuracy of a candidate as it comes out and after a short fine-tuning."""

    def make() -> dict[str, Any]:
        start = time.perf_counter()
        network = create()
        example, validation = data.example(8), data.split("validation")
        record: dict[str, Any] = {
            "macs_ratio": multiply_adds(baseline(), example) / multiply_adds(network, example),
            "parameters": sum(p.numel() for p in network.parameters()),
            "widths": widths(network),
            "build_s": time.perf_counter() - start,
            "before": top1(network, validation),
        }
        fit(network, part(data, share), SHORT)
        record["learning_rate"] = SHORT.learning_rate
        return record | {"after": top1(network, validation), "seconds": time.perf_counter() - start}

    return kept(file, make)


SIDES = ("ours", "torch-pruning")


@dataclass(frozen=True, order=True)
class Arm:
    """What is compared: a side, with or without the baseline as teacher."""

    side: str
    distil: bool = False

    def __str__(self) -> str:
        return f"{self.side}, distilled" if self.distil else self.side


ARMS = tuple(Arm(side, distil) for distil in (False, True) for side in SIDES)


@dataclass(frozen=True)
class Comparison:
    """Everything that is kept in ``output``, one JSON file per result."""

    data: Data
    output: Path
    training: Training

    @cached_property
    def sides(self) -> dict[str, Ours | TorchPruning]:
        return {
            "ours": Ours(self.data, self.output / "scan"),
            "torch-pruning": TorchPruning(self.data, self.data.example(8)),
        }

    def screening(self, ratio: float, side: str, round_: str) -> list[dict[str, Any]]:
        """The records of the candidates in a round, best first: all "quarter", the best of them "epoch"."""
        names = list(self.sides[side].candidates())
        share = 1.0
        if round_ == "quarter":
            share = 0.25
        else:
            names = [record["name"] for record in self.screening(ratio, side, "quarter")[:FINALISTS]]
        records = []
        for name in names:
            file = self.output / round_ / f"{ratio:g}" / f"{side} {name}.json"
            create = partial(self.sides[side].candidates()[name], ratio)
            records.append({"name": name} | screened(file, create, self.data, share))
        return sorted(records, key=lambda record: -record["after"])

    def final(self, ratio: float, arm: Arm, name: str, seed: int) -> dict[str, Any]:
        """One finished fine-tuning: the last epoch's accuracy on validation and test."""
        tag = f"{arm.side} {name}{' distilled' if arm.distil else ''} seed {seed}"
        file = self.output / "final" / f"{ratio:g}" / f"{tag}.json"

        def make() -> dict[str, Any]:
            start = time.perf_counter()
            network = self.sides[arm.side].candidates()[name](ratio)
            checkpoint = file.with_suffix(".ckpt")
            teacher = Fold().apply(baseline(), Context((self.data.example(8),))).model if arm.distil else None
            only_train, example = part(self.data, 1.0), self.data.example(8)
            task = Context((example,), only_train).task_of(network)
            objective = objective_for(task, teacher, self.training)
            options: dict[str, Any] = {"objective": objective, "seed": seed, "checkpoint": checkpoint}
            history = fit(network, only_train, self.training, task, **options)
            counted = cost(network, (example,)).macs
            assert counted == multiply_adds(network, example)
            record = {
                "macs_ratio": multiply_adds(baseline(), example) / counted,
                "parameters": sum(p.numel() for p in network.parameters()),
                "widths": widths(network),
                "validation": top1(network, self.data.split("validation")),
                "test": top1(network, self.data.split("test")),
                "training": self.training.model_dump(mode="json"),
                "history": history,
                "seconds": time.perf_counter() - start,
                "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
            }
            checkpoint.unlink(missing_ok=True)
            return record

        return kept(file, make)
