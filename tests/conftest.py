"""What many tests share: small networks, small data, one thread."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from compress.data import Data, Preprocessing, SampleSplit

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _own_state(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What tests name as code to run is not remembered for the user who runs them."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


FIRST = ("executorch", "coreml", "litert", "tests/cli/", "test_resume", "test_train")
"""What is in the names of tests that begin the run: those of engines that take long to import, so that one process does
it for all of them, and those that are long themselves, so that none of them is left alone at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put what takes long first; neighbours stay neighbours."""
    items.sort(key=lambda item: next((i for i, name in enumerate(FIRST) if name in item.nodeid), len(FIRST)))


class SmallNet(nn.Module):
    """Two convolutions with batch norm and a residual: (N, 1, 8, 8) -> (N, 3)."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)) + x)
        return self.fc(x.mean((2, 3)))


SMALL_NET = """
from torch import nn
import torch


class SmallNet(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3, padding=1)
        self.bn = nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, 10)

    def forward(self, x):
        return self.fc(torch.relu(self.bn(self.conv(x))).mean((2, 3)))


def build(width=8):
    torch.manual_seed(0)
    return SmallNet(width)
"""


@pytest.fixture
def small_net() -> nn.Module:
    torch.manual_seed(0)
    return SmallNet().eval()


@pytest.fixture
def small_net_file(tmp_path: Path) -> Path:
    path = tmp_path / "net.py"
    path.write_text(SMALL_NET)
    return path


def pattern_data(count: int = 96, seed: int = 0) -> Data:
    """Three classes of 8x8 images that differ by a bright quadrant: learnt in a few steps."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    images = torch.randint(0, 60, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
    for i, label in enumerate(labels.tolist()):
        images[i, 0, 4 * (label // 2) : 4 * (label // 2) + 4, 4 * (label % 2) : 4 * (label % 2) + 4] += 150
    scale = Preprocessing(1 / 255, (0.3,), (0.3,))
    quarter = count // 4
    names = ("train", "calibration", "validation", "test")
    splits = {
        name: SampleSplit(images[i * quarter : (i + 1) * quarter], labels[i * quarter : (i + 1) * quarter], scale)
        for i, name in enumerate(names)
    }
    return Data("pattern", splits, scale, ("a", "b", "c"))


@pytest.fixture
def data() -> Data:
    return pattern_data()


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    """An .npz of ten classes of 1x8x8 images."""
    generator = np.random.default_rng(0)
    path = tmp_path / "data.npz"
    np.savez(
        path,
        x_train=generator.integers(0, 255, (120, 1, 8, 8), dtype=np.uint8),
        y_train=np.arange(120) % 10,
        x_test=generator.integers(0, 255, (20, 1, 8, 8), dtype=np.uint8),
        y_test=np.arange(20) % 10,
    )
    return path


@pytest.fixture
def cpp_compiler() -> None:
    """Skips where there is none: ``torch.compile`` needs one on a CPU."""
    if shutil.which(os.environ.get("CXX", "c++")) is None:
        pytest.skip("torch.compile needs a C++ compiler")
