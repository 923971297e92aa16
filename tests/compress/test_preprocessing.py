"""A network behind its preprocessing: the same outputs from pixels, the same integers inside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from compress import deploy
from compress.data import Preprocessing
from compress.data import load as load_data
from compress.errors import InvalidInput
from compress.preprocessing import bake
from compress.quantize import Quantize
from compress.sources.load import Network
from compress.sources.specification import Source
from compress.stage import Context
from runtimes.checks.gate import check_folder

SEEN = Preprocessing(1 / 255, (0.5, 0.4, 0.3), (0.2, 0.3, 0.25))


class Gated(nn.Module):
    """Operations whose names in the trace collide with those of the preprocessing: (N, 3, 8, 8) -> (N, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.act = nn.Hardswish()
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.conv(x))
        return self.head((y * y.relu() + y).mean((2, 3)))


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> tuple[Network, Tensor]:
    torch.manual_seed(0)
    model = Gated().eval()
    pixels = torch.randint(0, 256, (64, 3, 8, 8)).float()
    x = SEEN(pixels)
    file = tmp_path_factory.mktemp("data") / "calibration.npz"
    np.savez(file, x_calib=x.numpy())
    result = Quantize().apply(model, Context((x[:4],), data=load_data(str(file))))
    return Network(result.model, Source("file", "net.py"), encodings=result.encodings, example_inputs=(x[:4],)), pixels


def test_pixels_give_what_inputs_gave(quantized: tuple[Network, Tensor]) -> None:
    network, pixels = quantized
    baked = bake(network, SEEN)
    torch.testing.assert_close(baked.example_inputs[0], pixels[:4], atol=1e-3, rtol=0)
    assert len(baked.encodings) == len(network.encodings)
    (before,), (after,) = deploy.reference(network)(SEEN(pixels)), deploy.reference(baked)(pixels)
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)


def test_the_file_takes_pixels(quantized: tuple[Network, Tensor], tmp_path: Path) -> None:
    network, _ = quantized
    record = deploy.write_folder(bake(network, SEEN), tmp_path, [deploy.Wanted()])[0]
    plain, _ = deploy.export(network, "plain", tmp_path / "plain.onnx")
    assert record.nodes is not None and plain.nodes is not None and record.nodes.integer == plain.nodes.integer
    assert all(checked.passed for checked in check_folder(tmp_path))
    assert onnx.load(str(tmp_path / "model.onnx")).graph.input[0].name == "pixels"


def test_other_networks_are_refused() -> None:
    network = Network(nn.Linear(4, 2), Source("file", "net.py"), example_inputs=(torch.zeros(1, 4),))
    with pytest.raises(InvalidInput, match=r"one input \(N, C, H, W\)"):
        bake(network, SEEN)
