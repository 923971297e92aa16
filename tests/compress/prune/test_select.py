"""Repair without being asked, whole blocks first, and the knapsack of widths."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import models
from compress.cost.count import cost
from compress.data import Data, SampleSplit
from compress.edits import replay
from compress.errors import InvalidInput
from compress.graph.trace import trace
from compress.prune import Prune
from compress.prune.channels.groups import channels
from compress.prune.repair.recalibrate_bn import output_error
from compress.prune.select import SELECTIONS
from compress.prune.select.knapsack import Losses
from compress.prune.surgery.choose import Range, Selection
from compress.prune.surgery.goal import Curve
from compress.stage import Context
from compress.training.loop import Training

IMAGE = (3, 16, 16)


def pictures(count: int, seed: int) -> SampleSplit:
    generator = torch.Generator().manual_seed(seed)
    return SampleSplit(torch.randn(count, *IMAGE, generator=generator), torch.arange(count) % 5)


@pytest.fixture(scope="module")
def noise() -> Data:
    return Data("noise", {name: pictures(64, seed) for seed, name in enumerate(("train", "calibration", "validation"))})  # type: ignore[misc]


@pytest.fixture(scope="module")
def resnet(noise: Data) -> nn.Module:
    from compress.training.batch_norm import reestimate_batch_norm

    torch.manual_seed(0)
    model = models.build("resnet20", width=8, num_classes=5).eval()
    reestimate_batch_norm(model, noise.split("calibration"))
    return model


def context(data: Data | None) -> Context:
    return Context((torch.zeros(1, *IMAGE),), data)


def macs(model: nn.Module) -> int:
    return cost(model, (torch.zeros(1, *IMAGE),)).macs


def test_with_data_and_no_training_it_repairs(resnet: nn.Module, noise: Data) -> None:
    bare = Prune(ratio=0.3, round_to=1, repair=()).apply(resnet, context(noise))
    left = Prune(ratio=0.3, round_to=1).apply(resnet, context(noise))
    named = Prune(ratio=0.3, round_to=1, repair="reconstruct").apply(resnet, context(noise))
    fresh = pictures(64, 9)
    errors = [output_error(resnet, result.model, fresh) for result in (bare, left, named)]
    assert errors[1] < 0.7 * errors[0] and errors[1] == errors[2]
    assert any(edit.what == "relative output error" for edit in left.edits)
    assert not any(edit.what == "relative output error" for edit in bare.edits)


def test_without_data_or_with_training_it_does_not(resnet: nn.Module, noise: Data) -> None:
    training = Training(epochs=1, batch_size=32, precision="fp32", learning_rate=1e-3)
    for stage, data in ((Prune(ratio=0.3), None), (Prune(ratio=0.3, training=training), noise)):
        edits = stage.apply(resnet, context(data)).edits
        assert not any(edit.what == "relative output error" for edit in edits)
    with pytest.raises(InvalidInput, match="needs calibration samples; give --data"):
        Prune(ratio=0.3, repair="reconstruct").apply(resnet, context(None))


def test_blocks_go_first_and_count_for_the_target(resnet: nn.Module, noise: Data) -> None:
    result = Prune(macs=2.5, blocks=2, round_to=1).apply(resnet, context(noise))
    gone = [edit for edit in result.edits if edit.kind == "module"]
    assert len(gone) == 2 and result.edits[:2] == tuple(gone)
    assert macs(resnet) / 2.5 * 0.9 < macs(result.model) <= macs(resnet) / 2.5
    again = models.build("resnet20", width=8, num_classes=5)
    replay(again, [edit for edit in result.edits if edit.kind != "weights"])
    assert str(again.eval()) == str(result.model)


class Chain(nn.Module):
    """Three layers of channels that do not touch, so that what each costs adds up: (N, 3, 16, 16) -> (N, 6)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.ModuleList(nn.Conv2d(3, width, 3) for width in (4, 6, 8))
        self.second = nn.ModuleList(nn.Conv2d(width, 2, 3) for width in (4, 6, 8))

    def forward(self, x: Tensor) -> Tensor:
        pairs = zip(self.first, self.second, strict=True)
        return torch.cat([after(torch.relu(before(x))).mean((2, 3)) for before, after in pairs], 1)


def test_the_knapsack_is_exact_where_costs_add_up() -> None:
    torch.manual_seed(0)
    groups = channels(trace(Chain().eval(), (torch.zeros(1, *IMAGE),))).groups
    sizes = [len(group.units) for group in groups]
    assert sizes == [4, 6, 8]
    curves = [Curve((0.5, 0.75), losses, 0.0) for losses in ((1.0, 5.0), (0.2, 0.3), (2.0, 2.5))]
    ranges = [Range(size, 1, 1, "") for size in sizes]
    prices = (7, 3, 5)

    def price(kept: object) -> float:
        return sum(p * k for p, k in zip(prices, kept, strict=True))  # type: ignore[call-overload]

    selection = Selection(groups, [torch.rand(n) for n in sizes], ranges, SELECTIONS.read("knapsack"), curves, price)
    for budget in (80, 60, 45, 30):
        wanted, kept = selection.within(price, budget)
        found = sum(curve.loss(1 - keep / size) for curve, keep, size in zip(curves, wanted, sizes, strict=True))
        least = min(
            sum(curve.loss(1 - keep / size) for curve, keep, size in zip(curves, choice, sizes, strict=True))
            for choice in product(*(range(1, size + 1) for size in sizes))
            if price(choice) <= budget
        )
        assert price(kept) <= budget and found == pytest.approx(least, abs=1e-9)


def test_the_knapsack_reaches_the_target_and_keeps_its_scan(resnet: nn.Module, noise: Data, tmp_path: Path) -> None:
    stream = ("conv1", "layer*.*.conv2", "layer*.shortcut*")
    stage = Prune(macs=2, select={"knapsack": {"shares": [0.5, 0.75], "samples": 32}}, exclude=stream, round_to=1)
    with pytest.raises(InvalidInput, match="knapsack measures losses on validation samples"):
        stage.apply(resnet, context(None))
    result = stage.apply(resnet, replace(context(noise), checkpoints=str(tmp_path)))
    assert macs(resnet) / 2 * 0.95 < macs(result.model) <= macs(resnet) / 2
    scanned = Losses.model_validate_json((tmp_path / "prune-knapsack.json").read_text())
    assert len(scanned.groups) == 9 and all(len(group.losses) == 2 for group in scanned.groups)
    again = stage.apply(resnet, replace(context(noise), checkpoints=str(tmp_path)))
    assert again.edits == result.edits
