"""What a network is tried on: shapes as they are written, and why it does not run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from compress.errors import InvalidInput
from compress.graph.trace import one_sample
from compress.pipeline import open_network
from compress.sources.load import check_runs, fitting_inputs
from compress.sources.specification import readings


class Sound(nn.Module):
    """(N, 2, length) -> (N, 3); a convolution over one dimension takes samples without a batch as well."""

    def __init__(self, channels: int = 2) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv1d(channels, 4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.conv(x).mean(-1))
        return logits


class Sequence(nn.Module):
    """(N, steps, 6) -> (N, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.fc = nn.GRU(6, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.rnn(x)[0][:, -1])
        return logits


class Words(nn.Module):
    """Numbers of words and a mask, (N, steps) each -> (N, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.fc = nn.Embedding(7, 4), nn.Linear(4, 3)

    def forward(self, words: Tensor, mask: Tensor) -> Tensor:
        logits: Tensor = self.fc((self.table(words) * mask[..., None]).mean(1))
        return logits


class Fixed(nn.Module):
    """Its code holds the batch as a number."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 2, 3), nn.Linear(72, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.conv(x).view(1, 72))
        return logits


CASES: list[tuple[nn.Module, tuple[str, ...], tuple[tuple[int, ...], ...]]] = [
    (nn.Linear(12, 3), ("12",), ((1, 12),)),
    (nn.Linear(12, 3), ("1,12",), ((1, 12),)),
    (nn.Linear(12, 3), ("5,12",), ((5, 12),)),
    (nn.Conv2d(3, 4, 3), ("3,8,8",), ((1, 3, 8, 8),)),
    (nn.Conv2d(3, 4, 3), ("2,3,8,8",), ((2, 3, 8, 8),)),
    (nn.Conv2d(3, 4, 3), ("3x8x8",), ((1, 3, 8, 8),)),
    (nn.Conv3d(2, 4, 3), ("2,6,8,8",), ((1, 2, 6, 8, 8),)),
    (nn.Conv3d(2, 4, 3), ("1,2,6,8,8",), ((1, 2, 6, 8, 8),)),
    (Sound(), ("2,50",), ((1, 2, 50),)),
    (Sound(), ("1,2,50",), ((1, 2, 50),)),
    (Sound(1), ("1,50",), ((1, 1, 50),)),
    (Sequence(), ("9,6",), ((1, 9, 6),)),
    (Sequence(), ("1,9,6",), ((1, 9, 6),)),
    (nn.Bilinear(4, 5, 3), ("4", "5"), ((1, 4), (1, 5))),
    (nn.Bilinear(4, 5, 3), ("2,4", "2,5"), ((2, 4), (2, 5))),
    (Words(), ("1,9", "1,9"), ((1, 9), (1, 9))),
    (Words(), ("9", "9"), ((1, 9), (1, 9))),
    (Fixed(), ("1,8,8",), ((1, 1, 8, 8),)),
]


@pytest.mark.parametrize(("model", "texts", "shapes"), CASES, ids=lambda value: str(value).partition("(\n")[0])
def test_a_batch_is_put_in_front_where_one_is_needed(
    model: nn.Module, texts: tuple[str, ...], shapes: tuple[tuple[int, ...], ...]
) -> None:
    likely, other = zip(*(readings(text) for text in texts), strict=True)
    inputs = fitting_inputs(model.eval(), likely, other)
    assert tuple(tuple(x.shape) for x in inputs) == shapes
    check_runs(model, inputs, "net")
    if isinstance(model, Words):
        assert inputs[0].dtype == torch.int64 and int(inputs[0].max()) < 7


def test_a_file_tells_how_many_sizes_its_inputs_have(tmp_path: Path) -> None:
    torch.onnx.export(Sound().eval(), (torch.zeros(1, 2, 50),), tmp_path / "net.onnx", dynamo=False)
    for text in ("2,50", "1,2,50"):
        likely, other = readings(text)
        network = open_network(str(tmp_path / "net.onnx"), input_shapes=(likely,), other_shapes=(other,))
        assert tuple(network.example_inputs[0].shape) == (1, 2, 50)


NET = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x{more}):
        {line}
        return {result}
"""
FAILING = {
    "a name": ("", "y = self.fcc(x)", "y", r"AttributeError: .*'fcc' at .*net\.py:12: y = self\.fcc\(x\); mend it"),
    "a key": ("", "y = {}['a']", "y", r"KeyError: 'a' at .*net\.py:12: .*; mend it there"),
    "its own error": ("", "raise RuntimeError('no licence')", "x", r"RuntimeError: no licence at .*:12: .*; mend it"),
    "too few": (
        ", mask",
        "pass",
        "x",
        r"takes 2 inputs \(x, mask\), and 1 was given; give --input-shape once",
    ),
    "types": ("", "y = self.fc(x.half())", "y", r"net\.py:12: .*; give a network in float32"),
    "a shape": ("", "y = self.fc(x[:, :2])", "y", r"net\.py:12: .*; check --input-shape and the data"),
    "unpacking": ("", "n, c, h, w = x.shape", "x", r"net\.py:12: .*; check --input-shape and the data"),
    "nothing": ("", "self.fc(x)", "None", r"its forward returns a NoneType, expected tensors"),
    "infinity": ("", "y = self.fc(x) / 0", "[(y,)]", r"its output is not finite"),
}


@pytest.mark.parametrize(("more", "line", "result", "says"), FAILING.values(), ids=FAILING)
def test_why_a_network_does_not_run(tmp_path: Path, more: str, line: str, result: str, says: str) -> None:
    (tmp_path / "net.py").write_text(NET.replace("{more}", more).replace("{line}", line).replace("{result}", result))
    likely, other = readings("4")
    with pytest.raises(InvalidInput, match=says) as raised:
        open_network(f"{tmp_path}/net.py:Net", input_shapes=(likely,), other_shapes=(other,))
    message = str(raised.value)
    assert "\n" not in message
    assert ("--input-shape" in message) == ("--input-shape" in says)


def test_one_sample_of_inputs_with_and_without_dimensions() -> None:
    assert [tuple(x.shape) for x in one_sample((torch.zeros(3, 2), torch.tensor(1.0)))] == [(1, 2), ()]
