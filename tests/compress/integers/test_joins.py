"""Heads that are joined at the end keep scales of their own, where one would drown a part."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from compress.integers.simulate import simulate
from compress.pipeline import advance
from compress.quantize import Quantize
from compress.sources.load import Network
from compress.sources.specification import Source
from compress.stage import Result
from compress.tasks.noise import Noise
from export.onnx.exporter import export_onnx
from tests.support.small_networks import EXACT_TARGET, context_on, file_outputs, snr_db


class Head(nn.Module):
    """Boxes of hundreds of pixels and scores of 0 to 1 as one tensor: (N, 3, 8, 8) -> (N, 64, 4 + 5).

    Args:
        size: of the largest boxes.
        mixed: a layer reads what is joined.
    """

    def __init__(self, size: float = 640.0, mixed: bool = False) -> None:
        super().__init__()
        self.size = size
        self.body = nn.Conv2d(3, 16, 3, padding=1)
        self.boxes = nn.Conv2d(16, 4, 1)
        self.scores = nn.Conv2d(16, 5, 1)
        self.mix = nn.Conv2d(9, 9, 1) if mixed else nn.Identity()
        with torch.no_grad():
            self.boxes.weight *= size / 2
            assert self.boxes.bias is not None
            self.boxes.bias.add_(size / 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.body(x))
        joined = torch.cat([self.boxes(x), torch.sigmoid(self.scores(x))], 1)
        y: Tensor = self.mix(joined).flatten(2).transpose(1, 2)
        return y


def quantized(model: nn.Module) -> tuple[Result, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(16, 3, 8, 8)
    return Quantize(target=EXACT_TARGET, revert_slower=False).apply(model, context_on((x,))), x


def made(size: float = 640.0, mixed: bool = False) -> nn.Module:
    torch.manual_seed(0)
    return Head(size, mixed).eval()


def test_scores_beside_boxes_keep_a_scale_of_their_own(tmp_path: Path) -> None:
    model = made()
    result, x = quantized(model)
    assert {"conv2d_1", "sigmoid"} <= result.encodings.keys() and "cat" not in result.encodings
    assert result.encodings["sigmoid"].high[0] <= 1.0 < 100.0 < result.encodings["conv2d_1"].high[0]
    (told,) = [skip.reason for skip in result.skipped if skip.reason.startswith("cat runs")]
    assert "which keep scales of their own" in told
    rounded = simulate(result.model, result.encodings, (x,), target=EXACT_TARGET)
    noise = Noise()
    noise.see([rounded(x)], [model(x)])
    assert len(noise.outputs[0].of_parts) == 2 and noise.worst_snr_db > 25
    export_onnx(result.model, (x,), tmp_path / "net.onnx", encodings=result.encodings, target=EXACT_TARGET)
    (got,) = file_outputs(tmp_path / "net.onnx", (x,), EXACT_TARGET)
    assert snr_db(rounded(x)[..., 4:], got[..., 4:]) > 60


@pytest.mark.parametrize(("size", "mixed"), [(2.0, False), (640.0, True)])
def test_what_is_alike_or_multiplied_has_one_scale(size: float, mixed: bool) -> None:
    result, _ = quantized(made(size, mixed))
    assert "cat" in result.encodings
    assert not any(skip.reason.startswith("cat runs") for skip in result.skipped)


def test_a_part_of_an_output_that_is_lost_is_told() -> None:
    """Boxes and scores that one layer yields have one scale: nothing can be put between them."""
    torch.manual_seed(0)
    x = torch.randn(16, 3, 8, 8)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 9, 1)).eval()
    with torch.no_grad():
        model[2].weight[:4] *= 1000  # type: ignore[index,operator]
    context = context_on((x,))
    network = Network(model, Source("zoo", "net"), example_inputs=(x[:1],))
    _, record = advance(network, Quantize(target=EXACT_TARGET, revert_slower=False), context, name="quantize")
    (output,) = record.outputs
    assert output.part_snr_db is not None and output.snr_db is not None
    assert output.part_snr_db < 10 < output.snr_db
    (told,) = record.warnings
    assert "output output: its channels of small values have" in told and "--max-drop" in told
