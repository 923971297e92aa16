"""Networks that 8-bit integers ruin in one known place, and what they are to tell.

They are fitted to images whose colour tells all there is to know, and then a channel of the values between two layers
is made a thousand times larger, and its weights in the next layer as much smaller: the same function, in floats.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss, one_hot

from compress.data import Data, SampleSplit, Split, SplitName
from compress.data.split import SPLITS

FACTOR = 1000.0
COLOURS = torch.tensor([[2.0, 0, 0], [0, 2, 0], [0, 0, 2], [-1, -1, -1]])


class Ruined(nn.Module):
    """Three layers, the values between ``wild`` and ``after`` in one enormous range: (N, 3, 8, 8) -> (N, 4, 8, 8).

    Args:
        pooled: over the image: -> (N, 4).
    """

    def __init__(self, pooled: bool = True) -> None:
        super().__init__()
        self.pooled = pooled
        self.before = nn.Conv2d(3, 8, 1)
        self.wild = nn.Conv2d(8, 8, 1)
        self.after = nn.Conv2d(8, 8, 1)
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.after(torch.relu(self.wild(torch.relu(self.before(x))))))
        x = self.last(x)
        return x.mean((2, 3)) if self.pooled else x


def images(count: int = 96) -> tuple[Tensor, Tensor]:
    """Images (N, 3, 8, 8), and the class of each, from 0 to 3, which its colour tells."""
    torch.manual_seed(1)
    labels = torch.arange(count) % 4
    return torch.randn(count, 3, 8, 8) * 0.3 + COLOURS[labels][:, :, None, None], labels


def data_of(x: Tensor, y: Tensor | None) -> Data:
    """Every split has all samples."""
    splits: dict[SplitName, Split] = {name: SampleSplit(x, y) for name in SPLITS}
    return Data("made", splits)


@cache
def classifying() -> tuple[nn.Module, Data]:
    """A network that tells the class of an image."""
    x, y = images()
    return _fitted(Ruined(), x, lambda out: cross_entropy(out, y)), data_of(x, y)


@cache
def segmenting() -> tuple[nn.Module, Data]:
    """A network that tells the class of each pixel: the left half of an image is of another class than the right."""
    x, y = images()
    x[:, :, :, 4:] = x.roll(1, 0)[:, :, :, 4:]
    maps = y[:, None, None].repeat(1, 8, 8)
    maps[:, :, 4:] = maps.roll(1, 0)[:, :, 4:]
    return _fitted(Ruined(pooled=False), x, lambda out: cross_entropy(out, maps)), data_of(x, maps)


@cache
def regressing() -> tuple[nn.Module, Data]:
    """A network that tells four numbers of an image."""
    x, y = images()
    numbers = one_hot(y, 4).float() + 0.1 * x.mean((2, 3)).repeat(1, 2)[:, :4]
    return _fitted(Ruined(), x, lambda out: mse_loss(out, numbers)), data_of(x, numbers)


@cache
def unlabelled() -> tuple[nn.Module, Data]:
    """The network of :func:`classifying`, and images without labels."""
    model, _ = classifying()
    x, _ = images()
    return model, data_of(x, None)


def _fitted(model: nn.Module, x: Tensor, loss: Callable[[Tensor], Tensor]) -> nn.Module:
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    assert isinstance(model, Ruined) and model.wild.bias is not None
    nn.init.ones_(model.wild.bias)  # no channel is 0 throughout
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(60):
        optimizer.zero_grad()
        loss(model(x)).backward()
        optimizer.step()
    with torch.no_grad():
        model.wild.weight[0] *= FACTOR
        model.wild.bias[0] *= FACTOR
        model.after.weight[:, 0] /= FACTOR
    return model.eval()
