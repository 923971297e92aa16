"""The stage Quantize: ranges against hooks of torch, accounts, refusals; and its simulation."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

import models
from compress import Context
from compress.data import Data, LoaderSplit
from compress.errors import InvalidInput
from compress.quantize import Encoding, Quantize, simulate
from compress.quantize.ranges.observers import Calibration
from tests.support.small_networks import SHAPES, Joined, PoolFirst, TwoInputs, Unfolded, context_on, made, snr_db
from tests.support.zoo_networks import every_network, small


@pytest.mark.parametrize("kind", SHAPES, ids=lambda kind: kind.__name__)
def test_the_network_is_kept_and_its_simulation_is_near(kind: type[nn.Module]) -> None:
    model, inputs, context = made(kind)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = Quantize().apply(model, context)
    assert type(result.model) is kind
    assert result.model is not model
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    simulated = simulate(result.model, result.encodings, context.example_inputs)
    with torch.no_grad():
        reference, kept, rounded = (
            y if isinstance(y, tuple) else (y,) for y in (model(*inputs), result.model(*inputs), simulated(*inputs))
        )
    for a, b, c in zip(reference, kept, rounded, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        assert 25 < snr_db(b, c) < 80, "8 bits are near, and they round"


def test_ranges_are_those_of_the_values() -> None:
    model, inputs, context = made(Joined)
    seen: dict[str, Tensor] = {}
    result = Quantize(ranges={"samples": 33}).apply(model, context)
    model.get_submodule("stem").register_forward_hook(lambda _m, _i, out: seen.update(relu=torch.relu(out)))
    model.get_submodule("depthwise").register_forward_hook(lambda _m, _i, out: seen.update(conv2d_1=out))
    with torch.no_grad():
        model(inputs[0][:33])
    for name, values in {**seen, "image": inputs[0][:33]}.items():
        encoding = result.encodings[name]
        np.testing.assert_allclose(encoding.low[0], float(values.min()), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(encoding.high[0], float(values.max()), rtol=1e-5)
    weight = model.get_parameter("right.weight")
    assert result.encodings["right.weight"] == Encoding(
        tuple(weight.amin((1, 2, 3)).tolist()), tuple(weight.amax((1, 2, 3)).tolist()), symmetric=True, axis=0
    )


def test_percentiles_are_within_the_extremes() -> None:
    model, _, context = made(Joined)
    extremes = Quantize().apply(model, context).encodings
    inner = Quantize(ranges={"calibration": "percentile", "percentile": 99}).apply(model, context).encodings
    assert inner.keys() == extremes.keys()
    narrower = 0
    for name, encoding in inner.items():
        assert extremes[name].low[0] <= encoding.low[0] <= encoding.high[0] <= extremes[name].high[0]
        narrower += encoding.high[0] < extremes[name].high[0]
    assert narrower > 5


def test_what_was_done_is_accounted_for() -> None:
    model, _, context = made(Unfolded)
    result = Quantize(exclude=("last",)).apply(model, context)
    done = [(edit.layer, edit.what, edit.before, edit.after) for edit in result.edits if edit.kind == "precision"]
    assert done == [(layer, "weight", "float32", "int8") for layer in ("first", "norm", "second")]
    assert "last.weight" not in result.encodings
    assert {skip.layer for skip in result.skipped} == {"up", "last"}
    json.dumps({name: encoding.to_json() for name, encoding in result.encodings.items()})


def test_batch_normalizations_are_folded_first() -> None:
    torch.manual_seed(0)
    model = models.build("resnet20", width=4)
    model.train()(torch.randn(16, 3, 16, 16))
    inputs = torch.randn(8, 3, 16, 16)
    result = Quantize().apply(model, context_on((inputs,)))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in result.model.modules())
    assert model.training, "the network given is left as it was"
    with torch.no_grad():
        torch.testing.assert_close(result.model(inputs), model.eval()(inputs), rtol=1e-4, atol=1e-5)
    kinds = [edit.kind for edit in result.edits]
    assert kinds.index("precision") > kinds.index("module"), "folding comes first in the account"
    assert kinds.count("precision") == 22
    assert result.skipped == ()


def test_gradients_pass_the_simulation() -> None:
    model, inputs, context = made(PoolFirst)
    result = Quantize().apply(model, context)
    simulated = simulate(result.model, result.encodings, context.example_inputs)
    simulated(inputs[0]).square().sum().backward()
    exact = {name: p.grad.clone() for name, p in result.model.named_parameters() if p.grad is not None}
    assert set(exact) == {name for name, _ in result.model.named_parameters()}
    result.model.zero_grad()
    result.model(inputs[0]).square().sum().backward()
    for name, parameter in result.model.named_parameters():
        assert parameter.grad is not None
        similarity = torch.cosine_similarity(exact[name].flatten(), parameter.grad.flatten(), 0)
        assert similarity > 0.95, name


def test_a_simulation_of_other_encodings_is_refused() -> None:
    model, _, context = made(Joined)
    encodings = Quantize().apply(model, context).encodings
    other, inputs, _ = made(PoolFirst)
    with pytest.raises(InvalidInput, match="no tensor of this network"):
        simulate(other, encodings, inputs)
    short = {**encodings, "left.weight": Encoding((-1.0,), (1.0,), symmetric=True, axis=0)}
    with pytest.raises(InvalidInput, match=r"left.weight has 4 output channels, and its encoding 1"):
        simulate(model, short, context.example_inputs)
    with pytest.raises(InvalidInput, match="target 'gpu'"):
        simulate(model, encodings, context.example_inputs, target="gpu")


def test_a_network_that_runs_on_one_batch_size_only() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.linear = nn.Linear(4 * 36, 2)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.linear(self.conv(x).reshape(4, 144))
            return y

    torch.manual_seed(0)
    samples = torch.randn(10, 3, 8, 8)
    context = Context((samples[:4],), context_on((samples,)).data)
    result = Quantize().apply(Fixed(), context)
    assert result.encodings["x"] == Encoding((float(samples.min()),), (float(samples.max()),))


def test_no_calibration_samples() -> None:
    model, inputs, context = made(Joined)
    with pytest.raises(InvalidInput, match="needs calibration samples"):
        Quantize().apply(model, Context(context.example_inputs))
    with pytest.raises(InvalidInput, match="no calibration samples"):
        Quantize().apply(model, Context(context.example_inputs, Data("d", {})))
    with pytest.raises(InvalidInput, match="empty"):
        Quantize().apply(model, Context(context.example_inputs, Data("d", {"calibration": LoaderSplit([])})))
    wrong = Data("d", {"calibration": LoaderSplit([torch.randn(4, 3, 8, 8)])})
    with pytest.raises(InvalidInput, match=r"shape \(3, 8, 8\).*\(3, 16, 16\)"):
        Quantize().apply(model, Context(context.example_inputs, wrong))
    two, _, two_context = made(TwoInputs)
    with pytest.raises(InvalidInput, match="takes 2 inputs"):
        Quantize().apply(two, Context(two_context.example_inputs, context_on(inputs).data))


def test_values_that_are_not_finite() -> None:
    model, inputs, context = made(Joined)
    with torch.no_grad():
        model.get_parameter("left.weight")[0, 0] = torch.nan
    with pytest.raises(InvalidInput, match=r"left\.weight"):
        Quantize().apply(model, context)
    model, inputs, _ = made(Joined)
    inputs[0][5, 0, 3, 3] = torch.inf
    with pytest.raises(InvalidInput, match="calibration samples"):
        Quantize().apply(model, context_on(inputs))
    model, inputs, context = made(Joined)
    with torch.no_grad():
        model.get_parameter("depthwise.weight").fill_(3e38)
    with pytest.raises(InvalidInput, match="depthwise"):
        Quantize().apply(model, context)


@pytest.mark.parametrize(
    "wrong",
    [
        {"ranges": {"percentile": 101}},
        {"ranges": {"samples": 0}},
        {"scheme": "int3"},
        {"bits": 8},
        {"recover": [{"smooth": 1.5}]},
        {"recover": [{"smooth": "s"}]},
        {"ranges": {"momentum": 1}},
    ],
)
def test_options_out_of_range_are_errors(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Quantize.model_validate(wrong)


@pytest.mark.parametrize("name", every_network())
def test_every_kind_of_network_in_the_zoo(name: str) -> None:
    torch.set_num_threads(1)
    model = small(name)
    inputs = torch.randn(8, 3, 32, 32)
    for _ in range(3):
        model.train()(inputs)
    result = Quantize().apply(model, context_on((inputs,)))
    layers = [f"{n}.weight" for n, m in result.model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert layers, "every network of the zoo has layers to quantize"
    assert set(layers) <= set(result.encodings)
    simulated = simulate(result.model, result.encodings, (inputs[:1],))
    with torch.no_grad():
        assert snr_db(result.model(inputs), simulated(inputs)) > 15


@pytest.mark.parametrize("options", [{"calibration": name} for name in ("moving_average", "entropy", "mse")])
def test_other_calibrations_are_within_what_was_seen(options: dict[str, str]) -> None:
    model, inputs, context = made(PoolFirst)
    extremes = Quantize().apply(model, context).encodings
    result = Quantize.model_validate({"ranges": {**options, "weight_calibration": "mse"}}).apply(model, context)
    assert result.encodings.keys() == extremes.keys()
    for name, encoding in result.encodings.items():
        assert all(a >= min(0, b) - 1e-6 for a, b in zip(encoding.low, extremes[name].low, strict=True))
        assert all(a <= max(0, b) + 1e-6 for a, b in zip(encoding.high, extremes[name].high, strict=True))
    simulated = simulate(result.model, result.encodings, context.example_inputs)
    with torch.no_grad():
        assert snr_db(model(*inputs), simulated(*inputs)) > 20


def test_all_steps_together_on_a_residual_network() -> None:
    torch.manual_seed(0)
    model = models.build("resnet20", width=4)
    inputs = torch.randn(8, 3, 16, 16)
    model.train()(inputs)
    context = context_on((inputs,))
    recover = ["recalibrate_bn", "equalize", "absorb", {"smooth": 0.5}, {"bias_correction": "empirical"}]
    result = Quantize(scheme="w4a8", recover=recover).apply(model, context)
    assert {str(edit.after).split(" ")[0] for edit in result.edits if edit.kind == "weights"} >= {
        "folded",
        "equalized",
        "corrected",
    }
    assert {encoding.bits for encoding in result.encodings.values()} == {4, 8}
    shorter = Quantize(scheme="fp16", recover=["bias_correction"])
    assert shorter.apply(model, Context(context.example_inputs)).encodings


def test_statistics_of_batch_norms_are_measured_again_first() -> None:
    model, inputs, context = made(Unfolded)
    with torch.no_grad():
        model.get_buffer("norm.running_mean").fill_(3.0)
    result = Quantize(scheme="w8", recover=["recalibrate_bn"]).apply(model, context)
    expected = model.get_submodule("first")(inputs[0]).mean((0, 2, 3))
    torch.testing.assert_close(result.model.get_buffer("norm.running_mean"), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("calibration", ["minmax", "percentile", "entropy"])
def test_wild_and_missing_values_are_told(calibration: Calibration, caplog: pytest.LogCaptureFixture) -> None:
    model, (image,), _ = made(Joined)
    image = image.clone()
    image[3, 0, 2, 2] = 1e4
    with torch.no_grad():
        model.get_parameter("stem.bias").fill_(-1e9)
    with caplog.at_level("WARNING", "compress"):
        result = Quantize(ranges={"calibration": calibration}).apply(model, context_on((image,)))
    wild, zero = (record.getMessage() for record in caplog.records)
    assert "values far beyond all others" in wild and "image: 1e+04, others within" in wild
    assert ("they are cut off" in wild) == (calibration != "minmax")
    assert zero.startswith("calibration: all values are zero in ")
    assert (result.encodings["image"].high[0] > 9000) == (calibration == "minmax")
