"""Small networks with the shapes that quantization has to know, and data for them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from compress import Context
from compress.data import Data, SampleSplit, Split, SplitName
from compress.data.split import SPLITS
from compress.deploy.clock import MachineClock
from compress.quantize.detect import suited
from runtimes.processor import is_exact
from runtimes.runtime import Options, load

EXACT_TARGET = suited(("ort-x86", "ort-avx2"))
"""Whose files ONNX Runtime's integer kernels compute exactly on this processor."""


class Joined(nn.Module):
    """Concatenation, depthwise convolution, pooling, a residual, ReLU6, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.left = nn.Conv2d(8, 4, 1)
        self.right = nn.Conv2d(8, 4, 3, padding=1)
        self.act = nn.ReLU6()
        self.pool = nn.MaxPool2d(2)
        self.average = nn.AdaptiveAvgPool2d(1)
        self.classify = nn.Linear(8, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = self.pool(torch.relu(self.stem(image)))
        x = x + self.depthwise(x)
        x = torch.cat([self.act(self.left(x)), torch.relu(self.right(x))], 1)
        logits: Tensor = self.classify(self.average(x).flatten(1))
        return logits


class PoolFirst(nn.Module):
    """Pooling before the ReLU, flattened into two linear layers: (N, 1, 12, 12) -> (N, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.hidden = nn.Linear(100, 12)
        self.classify = nn.Linear(12, 4)
        self.drop = nn.Dropout()

    def forward(self, image: Tensor) -> Tensor:
        x = functional.relu(functional.max_pool2d(self.conv(image), 2))
        x = self.drop(torch.relu(self.hidden(x.view(x.shape[0], -1))))
        return torch.log_softmax(self.classify(x), 1)


class Unfolded(nn.Module):
    """A batch normalization that cannot be folded, a ReLU in place, a hard-swish and a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.act = nn.ReLU(inplace=True)
        self.swish = nn.Hardswish()
        self.up = nn.ConvTranspose2d(8, 8, 2, 2)
        self.last = nn.Conv2d(8, 3, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = self.first(image)
        x = x + self.second(self.act(self.norm(x)))
        y: Tensor = self.last(self.up(self.swish(x)))
        return y


class TwoInputs(nn.Module):
    """Two inputs, two results."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.linear = nn.Linear(5, 4)

    def forward(self, image: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
        features = self.conv(image).mean((2, 3))
        return features + self.linear(vector), features


class Tokens(nn.Module):
    """Linear layers on (N, T, C), a shared one among them, and attention in float."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(8, 8)
        self.value = nn.Linear(8, 8, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = torch.softmax(self.query(tokens) @ tokens.transpose(1, 2), -1) @ self.value(tokens)
        y: Tensor = self.query(torch.relu(self.query(x)))
        return y


SHAPES: dict[type[nn.Module], tuple[tuple[int, ...], ...]] = {
    Joined: ((3, 16, 16),),
    PoolFirst: ((1, 12, 12),),
    Unfolded: ((3, 8, 8),),
    TwoInputs: ((3, 8, 8), (5,)),
    Tokens: ((6, 8),),
}


class SeveralInputs:
    """A split that yields several inputs at once."""

    def __init__(self, inputs: tuple[Tensor, ...]) -> None:
        self.inputs = inputs

    def __len__(self) -> int:
        return len(self.inputs[0])

    def batches(self, batch_size: int, **_: object) -> object:
        for start in range(0, len(self), batch_size):
            yield tuple(x[start : start + batch_size] for x in self.inputs), None


def made(kind: type[nn.Module], seed: int = 0, samples: int = 40) -> tuple[nn.Module, tuple[Tensor, ...], Context]:
    """A network of this kind, its inputs, and a context that calibrates on them."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model = kind()
    inputs = tuple(torch.randn(samples, *shape) for shape in SHAPES[kind])
    for _ in range(3):
        model.train()(*inputs)
    model.eval()
    return model, inputs, context_on(inputs)


def context_on(inputs: tuple[Tensor, ...]) -> Context:
    """A context whose calibration samples are ``inputs``."""
    split = SampleSplit(inputs[0], None) if len(inputs) == 1 else SeveralInputs(inputs)
    data = Data("made", {"calibration": split})  # type: ignore[dict-item]
    return Context(tuple(x[:1] for x in inputs), data, clock=MachineClock())


def snr_db(reference: Tensor, other: Tensor) -> float:
    """Signal to noise ratio of ``other`` as a copy of ``reference``, in dB."""
    reference, other = reference.detach(), other.detach()
    noise = (reference - other).double().norm().clamp_min(1e-30)
    return float(20 * torch.log10(reference.double().norm() / noise))


def file_outputs(file: Path, inputs: tuple[Tensor, ...], target: str = "ort-x86") -> tuple[Tensor, ...]:
    """What a file for ``target`` gives for the inputs of its network, in the order of both: as its engine runs it, or
    its integers evaluated in floats where this processor would compute them otherwise than the target's device."""
    engine = load(file, options=Options(reference=not is_exact(target)))
    try:
        feed = {spec.name: x.numpy() for spec, x in zip(engine.inputs, inputs, strict=True)}
        return tuple(torch.from_numpy(y) for y in engine.run(feed).values())
    finally:
        engine.close()


class Three(nn.Module):
    """A stem, a middle and a classifier: (N, 3, 8, 8) -> (N, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.middle = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.hidden = nn.Linear(8, 6)
        self.last = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.middle(self.stem(x)).mean((2, 3))
        logits: torch.Tensor = self.last(torch.relu(self.hidden(x)))
        return logits


def labelled() -> Data:
    """96 images (3, 8, 8) of 4 classes, told by their colour; every split has them all."""
    torch.manual_seed(1)
    y = torch.arange(96) % 4
    x = torch.randn(96, 3, 8, 8) * 0.5
    x += torch.tensor([[2.0, 0, 0], [0, 2, 0], [0, 0, 2], [-1, -1, -1]])[y][:, :, None, None]
    splits: dict[SplitName, Split] = {name: SampleSplit(x, y) for name in SPLITS}
    return Data("made", splits)
