"""What a format cannot hold is named: the operation, its layer, the line of the user's code, and the way out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compress import deploy
from compress.errors import CompressError
from compress.sources.load import Network
from compress.sources.specification import Source
from export.format import Job, exporter
from runtimes.runtime import load


class Circular(nn.Module):
    """Two convolutions, the second one around a torus: its padding is what several engines do not have."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.around = nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular")

    def forward(self, image: Tensor) -> Tensor:
        return self.around(torch.relu(self.stem(image)))


class Decomposed(nn.Module):
    """A decomposition of matrices, which no format has."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.cholesky(x @ x.transpose(-1, -2) + torch.eye(8))


def refused(model: nn.Module, inputs: tuple[Tensor, ...], format_name: str, folder: Path) -> str:
    wanted = deploy.Wanted(format_name)
    path = folder / f"net{deploy.suffix_of(wanted)}"
    with pytest.raises(CompressError) as caught:
        deploy.export(Network(model.eval(), Source("module", "user"), example_inputs=inputs), "net", path, wanted)
    assert not list(folder.iterdir())
    return str(caught.value)


@pytest.mark.parametrize(("format_name", "package"), [("ncnn", "pnnx"), ("openvino", "openvino")])
def test_padding_around_is_named_with_its_layer(format_name: str, package: str, tmp_path: Path) -> None:
    pytest.importorskip(package)
    torch.manual_seed(0)
    said = refused(Circular(), (torch.randn(2, 3, 8, 8),), format_name, tmp_path)
    assert "pad in around (test_refusals.py:" in said and "--format" in said and "\n" not in said


@pytest.mark.parametrize(("format_name", "package"), [("onnx", "onnx"), ("executorch", "executorch")])
def test_an_operation_that_no_converter_knows_is_named_with_its_line(
    format_name: str, package: str, tmp_path: Path
) -> None:
    pytest.importorskip(package)
    said = refused(Decomposed(), (torch.randn(2, 8, 8),), format_name, tmp_path)
    assert "linalg_cholesky (test_refusals.py:" in said and "torch.linalg.cholesky(x @" in said
    assert "--format" in said and "\n" not in said


RECURRENT = {
    "lstm": lambda: nn.LSTM(6, 5, batch_first=True),
    "lstm in both directions": lambda: nn.LSTM(6, 5, batch_first=True, bidirectional=True),
    "two lstm": lambda: nn.LSTM(6, 5, num_layers=2, batch_first=True),
    "gru": lambda: nn.GRU(6, 5, batch_first=True),
    "rnn": lambda: nn.RNN(6, 5, batch_first=True),
}


class Recurrent(nn.Module):
    """What a recurrent layer yields, through a linear one: (N, 7, 6) -> (N, 7, 3)."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.classify = nn.Linear(10 if layer.bidirectional else 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.layer(x)[0])


@pytest.mark.parametrize("kind", RECURRENT)
def test_ncnn_has_recurrent_layers(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("pnnx")
    torch.manual_seed(0)
    model, x = Recurrent(RECURRENT[kind]()).eval(), torch.randn(1, 7, 6)  # type: ignore[no-untyped-call]
    written = exporter("ncnn").export(Job(model, (x,), "ncnn"), tmp_path / "net.ncnn.param")
    kinds = [line.split()[0] for line in written.file.read_text().splitlines()[2:]]
    assert kinds.count(type(model.layer).__name__) == getattr(model.layer, "num_layers", 1)
    (got,) = load(written.file).run({written.inputs[0]: x.numpy()}).values()
    np.testing.assert_allclose(got, model(x).detach().numpy(), atol=1e-5)


def test_a_recurrent_layer_with_a_state_of_its_own_is_refused_with_its_line(tmp_path: Path) -> None:
    pytest.importorskip("pnnx")

    class Started(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = nn.GRU(6, 5, batch_first=True)
            self.state = nn.Parameter(torch.ones(1, 1, 5))

        def forward(self, x: Tensor) -> Tensor:
            return self.gru(x, self.state)[0]

    said = refused(Started(), (torch.randn(1, 7, 6),), "ncnn", tmp_path)
    assert "starts from a state of its own (test_refusals.py:" in said and "--format" in said
