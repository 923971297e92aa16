"""Every network of the zoo goes through the whole pipeline: fold, prune, quantize, export."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from compress import Context, Fold, Prune, Quantize
from compress.quantize import simulate
from export.onnx.exporter import export_onnx
from tests.support.small_networks import context_on, snr_db
from tests.support.zoo_networks import CLASSIFIERS, small

pytestmark = pytest.mark.slow


def trained_a_little(name: str) -> tuple[nn.Module, Tensor]:
    """The network in evaluation mode, narrow, its batch norms near what flows there, and images."""
    network = small(name)
    images = torch.randn(8, 3, 32, 32)
    with torch.no_grad():
        for _ in range(5):
            network.train()(images)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.8, 1.2)
                module.bias.normal_(0, 0.1)
    return network.eval(), images


def outputs(network: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        scores: Tensor = network(images)
    assert torch.isfinite(scores).all()
    return scores


def in_engine(file: Path, images: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: images.numpy()})[0])


def error(expected: Tensor, found: Tensor) -> float:
    assert expected.shape == found.shape
    return float((expected - found).abs().max() / expected.abs().max())


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_folds_prunes_quantizes_and_exports(name: str, tmp_path: Path) -> None:
    network, images = trained_a_little(name)
    folded = Fold().apply(network, Context((images[:1],))).model
    assert error(outputs(network, images), outputs(folded, images)) < 1e-4
    pruned = Prune(ratio=0.3, round_to=1).apply(network, Context((images[:1],))).model
    reference = outputs(pruned, images)
    assert _parameters(pruned) < 0.9 * _parameters(network)
    result = Quantize().apply(pruned, context_on((images,)))
    layers = {f"{n}.weight" for n, m in result.model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    assert layers <= set(result.encodings)
    simulated = outputs(simulate(result.model, result.encodings, (images[:1],)), images)
    assert snr_db(reference, simulated) > 10
    export_onnx(result.model, (images[:1],), tmp_path / "float.onnx")
    assert error(reference, in_engine(tmp_path / "float.onnx", images)) < 1e-4
    export_onnx(result.model, (images[:1],), tmp_path / "int8.onnx", encodings=result.encodings)
    assert snr_db(simulated, in_engine(tmp_path / "int8.onnx", images)) > 25


def _parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
