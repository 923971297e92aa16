"""Weights from a training of the user's own: saved from Python, or given to an artifact as a file."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import compress
from compress import Context, Network, Prune, Quantize, Result, Share
from compress.data import from_arrays
from compress.errors import InvalidInput
from compress.integers.encoding import Encoding
from compress.quantize.ranges.refit import refit
from compress.quantize.scheme import SCHEMES
from compress.sources import artifact

NET = """
import torch
from torch import nn
def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(576, 4))
"""


@pytest.fixture
def network(tmp_path: Path) -> Network:
    (tmp_path / "net.py").write_text(NET)
    return compress.open_network(f"{tmp_path / 'net.py'}:build", input_shapes=((2, 1, 8, 8),))


def context_of(network: Network) -> Context:
    images = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return Context(network.example_inputs, from_arrays(x_calib=images))


def quantized(network: Network, **settings: object) -> Network:
    return compress.advance(network, Quantize(**settings), context_of(network))[0]


def train(model: nn.Module) -> None:
    """Two steps of a loop of one's own."""
    torch.manual_seed(2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(2):
        optimizer.zero_grad()
        loss: torch.Tensor = model.train()(torch.randn(8, 1, 8, 8)).square().sum()
        loss.backward()
        optimizer.step()


def activations(network: Network) -> dict[str, Encoding]:
    names = dict(network.model.named_parameters())
    return {name: encoding for name, encoding in network.encodings.items() if name not in names}


def test_a_result_is_saved_trained_and_saved_again(network: Network, tmp_path: Path) -> None:
    stage = Prune(ratio=0.5)
    result = stage.apply(network.model, Context(network.example_inputs))
    first = compress.save(result, tmp_path / "pruned", of=network, by=stage)
    opened = compress.open_network(tmp_path / "pruned")
    assert opened.lineage == first.lineage and opened.lineage[0]["config"]["ratio"] == 0.5
    train(opened.model)
    compress.save(opened, tmp_path / "pruned", overwrite=True)
    assert opened.model.training, "the program's own model is left as it is"
    again = compress.open_network(tmp_path / "pruned")
    digest = artifact.weights_digest(opened.model)
    assert artifact.weights_digest(again.model) == digest
    assert [made["stage"] for made in again.lineage] == ["Prune", "weights"] and again.lineage[1]["weights"] == digest
    compress.save(again, tmp_path / "same")
    assert compress.open_network(tmp_path / "same").lineage == again.lineage, "nothing was trained in between"


def test_what_cannot_be_saved_is_told(network: Network, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"of=compress\.open_network"):
        compress.save(Result(network.model), tmp_path / "a")
    wider = replace(network, model=nn.Sequential(*network.model[:4], nn.Linear(576, 5)))  # type: ignore[index]
    with pytest.raises(InvalidInput, match="cannot be read back"):
        compress.save(wider, tmp_path / "a")
    network.model.get_parameter("0.weight").data[0] = torch.nan
    with pytest.raises(InvalidInput, match=r"0\.weight holds 9 values that are not finite"):
        compress.save(network, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_file_of_weights_for_a_pruned_artifact(network: Network, tmp_path: Path) -> None:
    pruned, _ = compress.advance(network, Prune(ratio=0.5), Context(network.example_inputs))
    compress.save(pruned, tmp_path / "pruned")
    train(pruned.model)
    file = tmp_path / "mine.pt"
    torch.save({"state_dict": {f"model.{name}": value for name, value in pruned.model.state_dict().items()}}, file)
    filled = compress.open_network(tmp_path / "pruned", weights=file)
    assert artifact.weights_digest(filled.model) == artifact.weights_digest(pruned.model)
    assert filled.edits == pruned.edits and filled.lineage[-1] == {
        "stage": "weights",
        "config": {"file": str(file), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()},
        "weights": artifact.weights_digest(pruned.model),
    }


def test_weights_of_another_network_are_told_in_one_line(network: Network, tmp_path: Path) -> None:
    pruned, _ = compress.advance(network, Prune(ratio=0.5), Context(network.example_inputs))
    compress.save(pruned, tmp_path / "pruned")
    save_file(network.model.state_dict(), tmp_path / "whole.safetensors")
    with pytest.raises(InvalidInput) as raised:
        compress.open_network(tmp_path / "pruned", weights=tmp_path / "whole.safetensors")
    told = str(raised.value)
    assert "0.weight has shape (16, 1, 3, 3), the network's is (8, 1, 3, 3); " in told and "; and 4 more; " in told
    assert f'compress.open_network("{tmp_path / "pruned"}").model' in told and "\n" not in told
    compress.save(quantized(network), tmp_path / "int8")  # its batch norm is folded
    with pytest.raises(InvalidInput, match=r"unknown \(1\.bias, .*; the network of .*int8"):
        compress.open_network(tmp_path / "int8", weights=tmp_path / "whole.safetensors")


def test_a_quantized_artifact_keeps_ranges_of_activations_alone(
    network: Network, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    int8 = quantized(network, target="ort-x86")
    compress.save(int8, tmp_path / "int8")
    save_file(int8.model.state_dict(), tmp_path / "same.safetensors")
    same = compress.open_network(tmp_path / "int8", weights=tmp_path / "same.safetensors")
    assert (same.encodings, same.lineage) == (int8.encodings, int8.lineage)
    assert "of activations" not in caplog.text
    weight = int8.model.get_parameter("0.weight").detach()
    weight[0] *= 3
    save_file(int8.model.state_dict(), tmp_path / "mine.safetensors")
    with caplog.at_level(logging.WARNING):
        filled = compress.open_network(tmp_path / "int8", weights=tmp_path / "mine.safetensors")
    assert "of activations are those of the weights before" in caplog.text
    assert activations(filled) == activations(int8) and filled.target == "ort-x86"
    encoding = filled.encodings["0.weight"]
    grid = encoding.parameters("int8", narrow=True)
    rounded = grid.dequantize(grid.quantize(weight.numpy(), 0), 0)
    assert torch.allclose(torch.from_numpy(rounded), weight, atol=float(weight.abs().max()) / 200)
    before = int8.encodings["0.weight"]
    assert encoding.high[0] > 2 * before.high[0], "a range that tripled is measured anew"
    compress.save(int8, tmp_path / "trained")
    assert compress.open_network(tmp_path / "trained").encodings == filled.encodings, "as save does it"


@pytest.mark.parametrize("scheme", ["int8", "w4", "w4a8"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_weights_on_their_integers_keep_them(scheme: str, per_channel: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(6, 40, generator=generator)
    encoding = SCHEMES[scheme].weight_encoding("w", weight, per_channel=per_channel)  # type: ignore[index]
    wide = replace(encoding, low=tuple(2 * x for x in encoding.low), high=tuple(2 * x for x in encoding.high))
    grid = wide.parameters("int8", narrow=True)
    rounded = torch.from_numpy(grid.dequantize(grid.quantize(weight.numpy(), 0), 0))
    assert refit(wide, rounded, "w") == wide
    again = refit(wide, weight, "w")
    assert (again.bits, again.axis, again.block, len(again.low)) == (wide.bits, 0, wide.block, len(wide.low))
    assert all(new < old for new, old in zip(again.high, wide.high, strict=True) if old > 0)
    assert per_channel or len(set(again.high)) == 1, "the tensor still has one range"


def test_shorter_floats_and_few_levels(network: Network, tmp_path: Path) -> None:
    half = SCHEMES["fp16"].weight_encoding("w", torch.ones(2, 2))
    assert refit(half, torch.full((2, 2), 2.0), "w").high == (2.0,)
    with pytest.raises(InvalidInput, match="too large for the float16"):
        refit(half, torch.full((2, 2), 1e5), "w")
    shared, _ = compress.advance(network, Share(bits=2), Context(network.example_inputs))
    compress.save(shared, tmp_path / "shared")
    name = next(name for name, encoding in shared.encodings.items() if encoding.kind == "levels")
    state = {key: value.clone() for key, value in shared.model.state_dict().items()}
    state[name.replace("weight", "bias")] += 1
    save_file(state, tmp_path / "biases.safetensors")
    filled = compress.open_network(tmp_path / "shared", weights=tmp_path / "biases.safetensors")
    assert filled.encodings == shared.encodings and filled.lineage[-1]["stage"] == "weights"
    state[name] += 0.1
    save_file(state, tmp_path / "weights.safetensors")
    with pytest.raises(InvalidInput, match=r"beside the 4 .*give the weights to the artifact before that stage"):
        compress.open_network(tmp_path / "shared", weights=tmp_path / "weights.safetensors")
