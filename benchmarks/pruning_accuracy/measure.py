"""Both sides' ways to choose channels of ResNet-20, their screening on validation, and the fine-tunings that count."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.common.frame import write_whole
from benchmarks.peers.importances import TorchPruning, baseline, multiply_adds, widths
from compress.arithmetic import native_bfloat16
from compress.batch_norm import reestimate_batch_norm
from compress.cost import cost
from compress.data import Data, SampleSplit
from compress.distill import objective_for
from compress.fold import Fold
from compress.prune import Prune
from compress.prune.blocks import RemoveBlocks
from compress.prune.repair.reconstruct import RIDGES, reconstruct
from compress.stage import Context, Edit
from compress.train import Training, fit, top1

SHORT = Training(epochs=1, batch_size=128, learning_rate=0.02, warmup_epochs=0.1, augment=("flip", "crop"))
FINALISTS = 2

STREAM = ("conv1", "layer*.*.conv2", "layer*.shortcut*")
BLOCKS = tuple(f"layer{stage}.{block}" for stage in (1, 2, 3) for block in range(3))
SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 1)


class Ours:
    """Channels go, whole blocks before them or not; the layers that read cut channels are refit by least squares to the
    outputs of the baseline, and the batch norms are measured again.

    The candidates differ in where channels go: within the blocks alone ("same share", "scan"), or in the residual
    stream too. The scan cuts one block at a time to several widths, refits it, and takes the validation loss. The
    widths are then those with the least sum of increases within the budget: an exact knapsack, with increases
    interpolated linearly.
    """

    def __init__(self, data: Data, scan: Path) -> None:
        self.example = data.example(8)
        self.context = Context((self.example,), data)
        self.calibration, self.validation = data.split("calibration"), data.split("validation")
        self.network = baseline()
        self.widths = {block: self.inner(self.network, block).out_channels for block in BLOCKS}
        self.scan = kept(scan, self.scanned)

    def candidates(self) -> dict[str, Callable[[float], nn.Module]]:
        return {
            "l2, same share": lambda ratio: self.pruned(ratio, exclude=STREAM),
            "l2, scan": self.scanned_widths,
            "l2, scan, at least 1-8": lambda ratio: self.scanned_widths(ratio, least=1 / 8),
            "taylor, scan": lambda ratio: self.scanned_widths(ratio, criterion="taylor"),
            "l2 with the stream, ridge 0.1": lambda ratio: self.pruned(ratio, (0.1,), select="global"),
            "without 2 blocks, l2 with the stream, ridge 0.1": lambda ratio: self.shallower(ratio, 2),
            "without 3 blocks, l2 with the stream, ridge 0.1": lambda ratio: self.shallower(ratio, 3),
        }

    @staticmethod
    def inner(model: nn.Module, block: str) -> nn.Conv2d:
        layer = model.get_submodule(f"{block}.conv1")
        assert isinstance(layer, nn.Conv2d)
        return layer

    def pruned(self, ratio: float, ridges: Sequence[float] = RIDGES, **settings: Any) -> nn.Module:
        result = Prune(macs=ratio, round_to=1, criterion="l2", **settings).apply(self.network, self.context)
        return self.repaired(result.model, result.edits, ridges)

    def shallower(self, ratio: float, blocks: int) -> nn.Module:
        """First whole blocks go, then channels; the refit is to the outputs of the whole network."""
        shorter = RemoveBlocks(count=blocks).apply(self.network, self.context).model
        left = ratio * multiply_adds(shorter, self.example) / multiply_adds(self.network, self.example)
        result = Prune(macs=left, round_to=1, criterion="l2", select="global").apply(shorter, self.context)
        return self.repaired(result.model, result.edits, (0.1,))

    def scanned_widths(
        self, ratio: float, ridges: Sequence[float] = RIDGES, criterion: str = "l2", least: float = 0
    ) -> nn.Module:
        budget = multiply_adds(self.network, self.example) / ratio
        return self.repaired(*self.cut(self.allocated(budget, least), criterion), ridges)

    def repaired(self, pruned: nn.Module, edits: Sequence[Edit], ridges: Sequence[float]) -> nn.Module:
        """What reads cut channels refit, then the batch norms measured again."""
        reconstruct(self.network, pruned, edits, self.calibration, ridges=ridges)
        reestimate_batch_norm(pruned, self.calibration)
        return pruned.eval()

    def cut(self, plan: Mapping[str, int], criterion: str) -> tuple[nn.Module, list[Edit]]:
        """The network with ``plan[block]`` channels within each block, and the edits that made it."""
        model, made = self.network, list[Edit]()
        convolutions = [name for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)]
        for block, keep in plan.items():
            if keep < self.widths[block]:
                others = tuple(name for name in convolutions if name != f"{block}.conv1")
                share = 1 - keep / self.widths[block]
                result = Prune(ratio=share, round_to=1, criterion=criterion, exclude=others).apply(model, self.context)
                model = result.model
                made += result.edits
                assert self.inner(model, block).out_channels == keep
        return model, made

    def loss(self, model: nn.Module, samples: int = 1280) -> float:
        total, seen = 0.0, 0
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=native_bfloat16("cpu")):
            for x, y in self.validation.batches(256):
                if seen >= samples or y is None:
                    break
                total += float(cross_entropy(model(x).float(), y, reduction="sum"))
                seen += len(y)
        return total / seen

    def scanned(self) -> dict[str, Any]:
        """For each block, the increase of the loss at some widths; fewer channels never count as better."""
        found: dict[str, Any] = {}
        base = self.loss(self.network)
        for block, full in self.widths.items():
            losses = {full: 0.0}
            for keep in sorted({int(full * share) for share in SHARES[:-1]}, reverse=True):
                model, edits = self.cut({block: keep}, "l2")
                reconstruct(self.network, model, edits, self.calibration)
                losses[keep] = max(self.loss(model) - base, *losses.values())
            found[block] = [[keep, losses[keep]] for keep in sorted(losses)]
        return found

    def allocated(self, budget: float, least: float) -> dict[str, int]:
        """The widths of the blocks with the least sum of increases: a knapsack over their multiply-adds."""
        resolutions = {"1": 32, "2": 16, "3": 8}
        costs = {
            block: 9 * resolutions[block[5]] ** 2 * (self.inner(self.network, block).in_channels + full)
            for block, full in self.widths.items()
        }
        fixed = multiply_adds(self.network, self.example) - sum(costs[b] * full for b, full in self.widths.items())
        unit = math.gcd(*costs.values())
        room = int((budget - fixed) // unit)
        best: list[tuple[float, dict[str, int]] | None] = [(0.0, {})] + [None] * room
        for block, full in self.widths.items():
            points, increases = zip(*self.scan[block], strict=True)
            after: list[tuple[float, dict[str, int]] | None] = [None] * (room + 1)
            for keep in range(max(points[0], math.ceil(least * full)), full + 1):
                worse, weight = float(np.interp(keep, points, increases)), keep * costs[block] // unit
                for used, before in enumerate(best[: room + 1 - weight]):
                    there = after[used + weight]
                    if before is not None and (there is None or before[0] + worse < there[0]):
                        after[used + weight] = (before[0] + worse, {**before[1], block: keep})
            best = after
        reached = [entry for entry in best if entry is not None]
        if not reached:
            raise click.ClickException(f"no widths with at most {budget:,.0f} multiply-adds")
        return min(reached, key=lambda entry: entry[0])[1]


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
            "ours": Ours(self.data, self.output / "scan.json"),
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
            objective = objective_for(teacher, self.training)
            only_train = part(self.data, 1.0)
            history = fit(network, only_train, self.training, objective=objective, seed=seed, checkpoint=checkpoint)
            example = self.data.example(8)
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
