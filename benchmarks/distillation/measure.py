"""One student trained by a recipe, and what it reaches."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from benchmarks.common.cifar10 import cifar10, trained
from benchmarks.distillation.recipes import Recipe
from compress import Context
from compress.data import Data, SampleSplit, Split, SplitName
from compress.distill import Distill
from compress.stage import Stage
from compress.tasks.built_in.classification import top1
from compress.training.loop import Training
from models.resnet import CifarResNet

BATCH, LEARNING_RATE = 32, 0.1


@dataclass(frozen=True)
class Setup:
    """The data, the teacher and the budget that all recipes share.

    Args:
        folder: of CIFAR-10.
        images: to train on: the first of a fixed order of those that are neither for validation nor for calibration.
    """

    folder: Path
    images: int
    epochs: int

    @cached_property
    def data(self) -> Data:
        """CIFAR-10 with fewer images to train on; the other splits are whole."""
        whole = cifar10(self.folder)
        split = whole.split("train")
        assert isinstance(split, SampleSplit) and split.labels is not None, "an image folder is indexed"
        some = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))[: self.images]
        fewer = replace(split, inputs=split.inputs[some], labels=split.labels[some])
        return replace(whole, splits={**whole.splits, "train": fewer})

    @cached_property
    def teacher(self) -> nn.Module:
        """The ResNet-20 that was trained on all images."""
        return trained("resnet20", self.data).model

    def top1(self, recipe: Recipe, seed: int, split: str) -> float:
        """The top-1 in percent, on a split, of a student that was trained by the recipe."""
        torch.manual_seed(seed)
        student = CifarResNet(8, width=8).eval()
        training = Training(
            epochs=self.epochs,
            batch_size=BATCH,
            learning_rate=LEARNING_RATE,
            warmup_epochs=0.5,
            augment=("flip", "crop"),
            precision="fp32",
            accelerator="cpu",
            teacher_weight=recipe.teacher_weight,
        )
        stage: Stage = (
            Distill.model_validate({"losses": recipe.losses, "training": training}) if recipe.losses else training
        )
        # A training would score every epoch on other splits.
        splits: dict[SplitName, Split] = {"train": self.data.split("train")}
        context = Context(self.data.batch(2)[:1], replace(self.data, splits=splits), self.teacher, seed)
        model = stage.apply(student, context).model
        return top1(model, self.data.split("validation" if split == "validation" else "test"))


def difference(scores: Sequence[float], others: Sequence[float]) -> str:
    """The mean of the differences of scores in pairs, with the half width of its 95 % interval.

    >>> difference([51.0, 52.0, 53.5], [50.0, 50.5, 51.5])
    '+1.50 ± 1.24'
    """
    from scipy.stats import t

    apart = [a - b for a, b in zip(scores, others, strict=True)]
    if not any(apart):
        return "-"
    told = f"{statistics.mean(apart):+.2f}"
    if len(apart) < 2:
        return told
    half = float(t.ppf(0.975, len(apart) - 1)) * statistics.stdev(apart) / math.sqrt(len(apart))
    return f"{told} ± {half:.2f}"
