"""Stages whose channels are split, concatenated and shuffled in every block."""

import copy

import pytest
import torch
from torch import Tensor, nn

from compress.edits import replay
from compress.graph.trace import trace
from compress.prune import Prune
from compress.prune.channels.groups import channels
from compress.prune.channels.shuffles import families, narrow
from compress.stage import Context, evaluation_copy
from tests.support.random_weights import randomized

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
CONTEXT = Context((IMAGE,))


class Block(nn.Module):
    """A unit of ShuffleNet V2: half of the channels pass by."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.branch = nn.Sequential(
            nn.Conv2d(half, half, 1, bias=False),
            nn.BatchNorm2d(half),
            nn.ReLU(),
            nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False),
            nn.BatchNorm2d(half),
            nn.Conv2d(half, half, 1, bias=False),
            nn.BatchNorm2d(half),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        passed, changed = x.chunk(2, dim=1)
        x = torch.cat([passed, self.branch(changed)], 1)
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class Shuffled(nn.Module):
    """A stem whose channels are pinned to be even by the blocks, four blocks and a head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.blocks = nn.Sequential(*(Block(width) for _ in range(4)))
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


@pytest.mark.parametrize("width", [20, 28, 40])
def test_a_shuffled_stage_equals_itself_with_the_channels_masked(width: int) -> None:
    torch.manual_seed(0)
    model = randomized(Shuffled(width).double(), 1)
    found = channels(trace(evaluation_copy(model), (IMAGE,)))
    (family,) = families(found)
    assert {"blocks.0.branch.5", "blocks.3.branch.5"} <= set(family.layers)
    narrowed, edits, skipped = narrow(model, found, 0.5, CONTEXT)
    assert skipped == ()
    assert narrowed.blocks[1].branch[5].out_channels == width // 4  # type: ignore[union-attr, index]
    # Where a batch norm has lost channels, the original makes zeros of them.
    masked = copy.deepcopy(model)
    orders = []
    for edit in edits:
        if edit.kind == "tensor" and isinstance(module := masked.get_submodule(edit.layer), nn.BatchNorm2d):
            assert edit.kept is not None and isinstance(edit.before, tuple)
            gone = [index for index in range(edit.before[0]) if index not in edit.kept]
            orders.append(list(edit.kept) == sorted(edit.kept))
            if edit.what in ("weight", "bias"):
                getattr(module, edit.what).data[gone] = 0
    with torch.no_grad():
        torch.testing.assert_close(narrowed(IMAGE), masked(IMAGE), rtol=1e-8, atol=1e-10)
    replayed = copy.deepcopy(model)
    replay(replayed, edits)
    assert torch.equal(replayed(IMAGE), narrowed(IMAGE))


def test_prune_narrows_shuffled_stages_first() -> None:
    torch.manual_seed(0)
    model = randomized(Shuffled(24).double(), 1)
    result = Prune(ratio=0.5, round_to=2).apply(model, CONTEXT)
    widths = {name: m.out_channels for name, m in result.model.named_modules() if isinstance(m, nn.Conv2d)}
    assert widths["stem.0"] == 12 and set(widths.values()) == {6, 12}
    assert not [skip for skip in result.skipped if "depend on each other" in skip.reason]
    replayed = copy.deepcopy(model)
    replay(replayed, result.edits)
    assert torch.equal(replayed(IMAGE), result.model(IMAGE))


def test_an_excluded_stage_stays() -> None:
    torch.manual_seed(0)
    model = randomized(Shuffled(24).double(), 1)
    result = Prune(ratio=0.5, round_to=2, exclude=("blocks.1.branch.5",)).apply(model, CONTEXT)
    assert result.model.stem[0].out_channels == 24  # type: ignore[union-attr, index]
    assert any("excluded" in skip.reason for skip in result.skipped)
