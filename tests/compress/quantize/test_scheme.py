"""Schemes: what they encode, and what their simulation computes."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from compress import Context
from compress.cli.quantize import command
from compress.errors import InvalidInput
from compress.quantize import Encoding, Quantize, simulate
from compress.quantize.scheme import SCHEMES, SchemeName, scheme_of
from tests.support.small_networks import PoolFirst, context_on, made, snr_db


def test_the_table_the_type_and_the_command_line_agree() -> None:
    assert tuple(SCHEMES) == get_args(SchemeName)
    option = next(p for p in command.params if p.name == "scheme")
    assert tuple(option.type.choices) == tuple(SCHEMES)  # type: ignore[attr-defined]
    assert all(scheme.gain for scheme in SCHEMES.values())


@pytest.mark.parametrize("name", [name for name, scheme in SCHEMES.items() if scheme.kind != "levels"])
def test_bits_of_weights_and_activations(name: SchemeName) -> None:
    model, _, context = made(PoolFirst)
    scheme = SCHEMES[name]
    result = Quantize(scheme=name).apply(model, context)
    weights = {key: e for key, e in result.encodings.items() if key.endswith("weight")}
    activations = {key: e for key, e in result.encodings.items() if key not in weights}
    assert set(weights) == {"conv.weight", "hidden.weight", "classify.weight"}
    assert {e.bits for e in weights.values()} == {scheme.weight_bits}
    assert {e.bits for e in activations.values()} == ({scheme.activation_bits} if scheme.activation_bits else set())
    assert {edit.after for edit in result.edits if edit.kind == "precision"} == {scheme.stored}
    assert weights["conv.weight"].block is None, "convolutions have a scale per channel"
    assert weights["hidden.weight"].block == scheme.block
    assert scheme_of(weights.values(), activations.values()) == name


def test_mixed_schemes_have_no_name() -> None:
    eight, four = Encoding((0.0,), (1.0,)), Encoding((0.0,), (1.0,), bits=4)
    assert scheme_of([eight, four], [eight]) is None
    assert scheme_of([], []) is None


@pytest.mark.parametrize("name", ["w8", "w4", "fp16", "bf16"])
def test_weights_alone_need_no_samples_and_round_as_numpy_does(name: SchemeName) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(75, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    x = torch.randn(5, 75)
    result = Quantize(scheme=name).apply(model, Context((x,)))
    simulated = simulate(result.model, result.encodings, (x,))

    def rounded(weight: np.ndarray) -> np.ndarray:
        if name == "fp16":
            return weight.astype(np.float16).astype(np.float32)
        if name == "bf16":
            return torch.from_numpy(weight).bfloat16().float().numpy()
        most, size = (127, weight.shape[1]) if name == "w8" else (7, 32)
        made = np.empty_like(weight)
        for row in range(len(weight)):
            for start in range(0, weight.shape[1], size):
                part = weight[row, start : start + size]
                scale = np.float32(np.abs(part).max() / most)
                made[row, start : start + size] = np.clip(np.rint(part / scale), -most, most) * scale
        return made

    y = x.numpy()
    for number in (0, 2):
        weight, bias = (model.get_parameter(f"{number}.{what}").detach().numpy() for what in ("weight", "bias"))
        y = y @ rounded(weight).T + bias
        y = np.maximum(y, 0) if number == 0 else y
    with torch.no_grad():
        np.testing.assert_allclose(simulated(x).numpy(), y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["w4", "w4a8", "fp16"])
def test_gradients_pass(name: SchemeName) -> None:
    model, inputs, context = made(PoolFirst)
    result = Quantize(scheme=name).apply(model, context)
    simulate(result.model, result.encodings, context.example_inputs)(inputs[0]).square().sum().backward()
    for key, parameter in result.model.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.abs().sum() > 0), key


def test_more_bits_are_nearer() -> None:
    model, inputs, context = made(PoolFirst)
    found = {}
    for name in ("w4", "w8", "bf16", "fp16"):
        result = Quantize(scheme=name).apply(model, context)
        with torch.no_grad():
            rounded = simulate(result.model, result.encodings, context.example_inputs)(*inputs)
            found[name] = snr_db(result.model(*inputs), rounded)
    assert found["w4"] < found["w8"] < found["bf16"] < found["fp16"]


def test_values_too_large_for_float16() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    with torch.no_grad():
        model.get_parameter("0.weight")[0, 0] = 1e5
    with pytest.raises(InvalidInput, match=r"0\.weight has values beyond 65504, too large for float16; use bf16"):
        Quantize(scheme="fp16").apply(model, context_on((torch.randn(4, 2),)))


def test_encodings_in_blocks_of_another_network_are_refused() -> None:
    x = torch.randn(4, 40)
    encodings = Quantize(scheme="w4").apply(nn.Sequential(nn.Linear(40, 3)), Context((x,))).encodings
    with pytest.raises(InvalidInput, match=r"0\.weight has 9 blocks of 32, and its encoding 6"):
        simulate(nn.Sequential(nn.Linear(80, 3)), encodings, (torch.randn(4, 80),))


def test_an_input_whose_name_python_has_taken() -> None:
    """torch.export calls the input of nn.Sequential "input", and its module "input_1"."""
    model, x = nn.Sequential(nn.Linear(4, 2)), torch.randn(6, 4)
    result = Quantize().apply(model, context_on((x,)))
    with torch.no_grad():
        assert snr_db(model(x), simulate(result.model, result.encodings, (x,))(x)) > 25
