"""Equalization, absorption, bias correction and smoothing against the papers' equations and the network's outputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from compress import Context
from compress.edits import replay
from compress.graph.trace import trace
from compress.quantize import Quantize, simulate
from compress.quantize.moments import ChannelStatistics, Moments, clipped
from compress.quantize.ranges.calibration import calibration_split
from compress.quantize.recover.absorb import absorb
from compress.quantize.recover.bias_correction import correct_biases, correct_biases_analytically
from compress.quantize.recover.equalize import equalize
from compress.quantize.recover.smooth import ALPHAS, scales, smooth
from compress.stage import Result
from models.mobilenet_v2 import InvertedResidual
from tests.support.small_networks import SHAPES, Joined, Tokens, context_on, made, snr_db


class Chain(nn.Module):
    """A convolution, a depthwise one, a pointwise one and a linear layer, over clips and flattening: one way each."""

    def __init__(self, activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.pointwise = nn.Conv2d(6, 8, 1, bias=False)
        self.pool = nn.MaxPool2d(2)
        self.classify = nn.Linear(8 * 16, 5)
        self.act = activation()

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.stem(x))
        x = self.act(self.depthwise(x))
        y: Tensor = self.classify(self.pool(self.act(self.pointwise(x))).flatten(1))
        return y


def uneven(activation: type[nn.Module] = nn.ReLU) -> tuple[nn.Module, Tensor, Context]:
    """A chain whose channels have very different ranges, and samples."""
    torch.manual_seed(0)
    model = Chain(activation).eval()
    with torch.no_grad():
        for layer in (model.stem, model.depthwise, model.pointwise):
            layer.weight.mul_(
                torch.logspace(-1.5, 0.5, len(layer.weight))[torch.randperm(len(layer.weight))].view(-1, 1, 1, 1)
            )
    samples = torch.randn(40, 3, 8, 8)
    return model, samples, context_on((samples,))


def test_equalized_outputs_stay_and_ranges_are_equal() -> None:
    model, samples, context = uneven()
    expected = model(samples)
    done = equalize(trace(model, context.example_inputs), calibration_split(context), 40, context)
    torch.testing.assert_close(model(samples), expected, rtol=1e-5, atol=1e-5)
    first, second, third = (model.get_parameter(f"{n}.weight").detach() for n in ("stem", "depthwise", "pointwise"))
    ranges = first.abs().amax((1, 2, 3))
    torch.testing.assert_close(ranges, second.abs().amax((1, 2, 3)), rtol=1e-2, atol=0)  # its inputs are its outputs
    torch.testing.assert_close(ranges, third.abs().amax((0, 2, 3)), rtol=1e-2, atol=0)
    last = model.get_parameter("classify.weight").detach().view(5, 8, 16)
    torch.testing.assert_close(third.abs().amax((1, 2, 3)), last.abs().amax((0, 2)), rtol=1e-2, atol=0)
    assert {(edit.layer, edit.what) for edit in done.edits} == {
        *((name, "weight") for name in ("stem", "depthwise", "pointwise", "classify")),
        *((name, "bias") for name in ("stem", "depthwise", "classify")),
    }
    assert all(edit.kind == "weights" for edit in done.edits)
    assert done.skipped == ()


def test_one_pair_is_equation_11() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 5), nn.LeakyReLU(0.2), nn.Linear(5, 3)).eval()
    w1, w2, b1 = (model.get_parameter(n).detach().double().numpy() for n in ("0.weight", "2.weight", "0.bias"))
    context = context_on((torch.randn(8, 4),))
    done = equalize(trace(model, context.example_inputs), calibration_split(context), 8, context)
    for i in range(5):
        r1, r2 = np.abs(w1[i]).max(), np.abs(w2[:, i]).max()
        s = np.sqrt(r1 * r2) / r2
        np.testing.assert_allclose(model.get_parameter("0.weight")[i].detach(), w1[i] / s, rtol=1e-5)
        np.testing.assert_allclose(model.get_parameter("0.bias")[i].detach(), b1[i] / s, rtol=1e-5)
        np.testing.assert_allclose(model.get_parameter("2.weight")[:, i].detach(), w2[:, i] * s, rtol=1e-5)
        assert float(done.scales["0.weight"][i]) == pytest.approx(1 / s)


def test_channels_that_relu6_clips_keep_their_scale() -> None:
    model, samples, context = uneven(nn.ReLU6)
    with torch.no_grad():
        model.get_parameter("stem.bias")[2] = 7.0
        before = model.get_parameter("stem.weight").clone()
        expected = model(samples)
    done = equalize(trace(model, context.example_inputs), calibration_split(context), 40, context)
    torch.testing.assert_close(model(samples), expected, rtol=1e-5, atol=1e-5)
    after = model.get_parameter("stem.weight").detach()
    assert torch.equal(after[2], before[2])
    assert not torch.equal(after[0], before[0])
    reasons = {skip.layer: skip.reason for skip in done.skipped}
    assert "of 6 channels: they reach the bound 6" in reasons["stem"]


@pytest.mark.parametrize("kind", SHAPES, ids=lambda kind: kind.__name__)
def test_other_networks_keep_their_outputs(kind: type[nn.Module]) -> None:
    model, inputs, context = made(kind)
    result = Quantize(recover=["equalize", {"smooth": 0.5}]).apply(model, context)
    with torch.no_grad():
        torch.testing.assert_close(result.model(*inputs), model(*inputs), rtol=1e-4, atol=1e-5)
    if kind is Tokens:
        assert any(s.layer == "query" and "shared with other layers" in s.reason for s in result.skipped)
        assert not any(edit.kind == "weights" for edit in result.edits)
    if kind is Joined:  # everything that is read twice or added
        assert not any(edit.kind == "weights" for edit in result.edits)


def test_functions_that_do_not_scale_are_told() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.SiLU(), nn.Conv2d(4, 4, 1)).eval()
    done = equalize(
        trace(model, (torch.randn(1, 3, 4, 4),)),
        calibration_split(context_on((torch.randn(2, 3, 4, 4),))),
        2,
        context_on((torch.randn(2, 3, 4, 4),)),
    )
    assert [(skip.layer, skip.reason) for skip in done.skipped] == [
        ("0", "not equalized: silu follows it, and does not scale with its input")
    ]


def test_equalization_helps_weights_of_one_range() -> None:
    model, samples, context = uneven()
    expected = model(samples)
    plain, better = (
        snr_db(expected, simulate(r.model, r.encodings, context.example_inputs)(samples))
        for r in (
            Quantize(ranges={"per_channel": False}, recover=recover).apply(model, context)
            for recover in ((), ("equalize",))
        )
    )
    assert better > plain + 4


def test_inverted_residuals() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(InvertedResidual(4, 4, 1, 3), InvertedResidual(4, 6, 2, 3))
    samples = torch.randn(8, 4, 8, 8)
    model.train()(samples)
    model.eval()
    result = Quantize(recover=["equalize"]).apply(model, context_on((samples,)))
    with torch.no_grad():
        torch.testing.assert_close(result.model(samples), model(samples), rtol=1e-5, atol=1e-5)
    equalized = {edit.layer for edit in result.edits if str(edit.after).startswith("equalized")}
    assert len(equalized) == 6, "three layers in each block"


def test_high_biases_are_absorbed() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3)).eval()
    with torch.no_grad():
        model[0].bias.copy_(torch.tensor([9.0, 0.1, 5.0, -3.0]))  # type: ignore[operator]
    samples = torch.randn(20, 3, 8, 8)
    context = context_on((samples,))
    expected, between = model(samples), torch.relu(model[0](samples))
    moments = Moments(model[0].bias.detach().double(), torch.full((4,), 0.9, dtype=torch.float64))  # type: ignore[operator]
    done = absorb(trace(model, context.example_inputs), {"0.weight": moments}, calibration_split(context), 20, context)
    taken = torch.tensor([9.0 - 2.7, 0, 5.0 - 2.7, 0])
    torch.testing.assert_close(done.shifts["0.weight"].float(), taken)
    torch.testing.assert_close(model[0].bias.detach(), torch.tensor([9.0, 0.1, 5.0, -3.0]) - taken)  # type: ignore[operator]
    assert snr_db(expected, model(samples)) > 40
    assert float(torch.relu(model[0](samples)).max()) < float(between.max()) - 2
    assert [edit.what for edit in done.edits] == ["bias", "bias"]


def test_biases_are_not_absorbed_where_padding_would_see_it() -> None:
    model, _, context = uneven()
    with torch.no_grad():
        model.get_parameter("stem.bias").fill_(20.0)
    done = absorb(trace(model, context.example_inputs), {}, calibration_split(context), 40, context)
    assert any(skip.layer == "stem" and "depthwise sees zeros from padding" in skip.reason for skip in done.skipped)
    assert not any(edit.layer == "stem" for edit in done.edits)


def test_statistics_of_channels() -> None:
    values = torch.randn(30, 5, 4, 3, generator=torch.Generator().manual_seed(0)) + 2
    seen = ChannelStatistics(1)
    for batch in values.split(7):
        seen.observe(batch)
    rows = values.double().numpy().swapaxes(0, 1).reshape(5, -1)
    assert seen.moments.deviation is not None and seen.highest is not None
    np.testing.assert_allclose(seen.moments.mean, rows.mean(1), rtol=1e-9)
    np.testing.assert_allclose(seen.moments.deviation, rows.std(1), rtol=1e-9)
    np.testing.assert_allclose(seen.highest, rows.max(1))


@pytest.mark.parametrize(("low", "high"), [(0.0, float("inf")), (0.0, 6.0), (-1.0, 1.0), (float("-inf"), float("inf"))])
def test_clipped_normal_is_that_of_numerical_integration(low: float, high: float) -> None:
    mean, deviation = np.array([-2.0, 0.0, 0.7, 5.5]), np.array([1.0, 0.3, 2.0, 1.5])
    found = clipped(Moments(torch.tensor(mean), torch.tensor(deviation)), low, high)
    assert found is not None and found.deviation is not None
    z = np.linspace(-9, 9, 200_001)[:, None]
    density = np.exp(-(z**2) / 2)
    density /= density.sum()
    values = np.clip(mean + deviation * z, low, high)
    expected = (values * density).sum(0)
    np.testing.assert_allclose(found.mean, expected, atol=1e-4)
    np.testing.assert_allclose(found.deviation, np.sqrt((np.square(values - expected) * density).sum(0)), atol=1e-4)


def quantized(model: nn.Module, context: Context, **options: object) -> Result:
    return Quantize.model_validate({"scheme": "w4a8", **options}).apply(model, context)


def test_empirical_correction_removes_the_shift_of_every_layer() -> None:
    model, samples, context = uneven()
    result = quantized(model, context, recover="bias_correction")
    plain = quantized(model, context)
    assert result.encodings.keys() == plain.encodings.keys()
    simulated = simulate(result.model, result.encodings, context.example_inputs)
    expected = model(samples)
    before = simulate(plain.model, plain.encodings, context.example_inputs)(samples)
    after = simulated(samples)
    assert float((after - expected).mean(0).abs().max()) < 0.1 * float((before - expected).mean(0).abs().max())
    assert snr_db(expected, after) > snr_db(expected, before)
    assert {edit.layer for edit in result.edits if "corrected" in str(edit.after)} == {
        "stem", "depthwise", "pointwise", "classify"
    }  # fmt: skip
    rebuilt = Chain()
    replay(rebuilt, result.edits)  # a bias that is new is rebuilt from the account
    rebuilt.load_state_dict(result.model.state_dict())


def test_analytic_correction_is_the_error_times_the_expected_input() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3, groups=2))
    samples = torch.randn(64, 3, 10, 10)
    for _ in range(60):
        model.train()(samples)
    with torch.no_grad():
        model[1].bias.uniform_(-1, 2)  # type: ignore[operator]
        model[1].weight.uniform_(0.5, 2)  # type: ignore[operator]
    context = context_on((samples,))
    plain = quantized(model.eval(), context)
    result = quantized(model, context, recover="bias_correction=analytic")
    weight = model[3].weight.detach().double()  # type: ignore[operator]
    low, high = (np.asarray(end) for end in (plain.encodings["3.weight"].low, plain.encodings["3.weight"].high))
    step = torch.from_numpy(np.maximum(-low, high) / 7).view(-1, 1, 1, 1)
    error = torch.round(weight / step).clamp(-7, 7) * step - weight
    random = torch.randn(400_000, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    mean = torch.relu(random * model[1].weight.detach() + model[1].bias.detach()).mean(0)  # type: ignore[operator]
    for output in range(4):
        inputs = mean[:3] if output < 2 else mean[3:]
        change = -float((error[output].sum((1, 2)) * inputs).sum())
        got = float(result.model.get_parameter("3.bias")[output] - plain.model.get_parameter("3.bias")[output])
        assert got == pytest.approx(change, abs=0.01)
    assert any(skip.layer == "0" and "do not tell the mean of its input" in skip.reason for skip in result.skipped)


def test_layers_whose_bias_has_no_place_of_its_own_are_told() -> None:
    model, _, context = made(Tokens)
    result = Quantize(recover=[{"bias_correction": "empirical"}]).apply(model, context)
    assert any(skip.layer == "query" and "several calls share it" in skip.reason for skip in result.skipped)
    assert ("value", "bias", None, (8,)) in {(e.layer, e.what, e.before, e.after) for e in result.edits}
    torch.testing.assert_close(result.model.get_parameter("query.bias"), model.get_parameter("query.bias"))


class Block(nn.Module):
    """A transformer block in miniature, some channels of which are outliers: (N, T, 8) -> (N, T, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(8)
        self.qkv = nn.Linear(8, 24)
        self.project = nn.Linear(8, 8)
        self.norm2 = nn.LayerNorm(8)
        self.fc1 = nn.Linear(8, 16)
        self.fc2 = nn.Linear(16, 8)
        self.norm3 = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).chunk(3, -1)
        x = x + self.project(functional.scaled_dot_product_attention(q, k, v))
        x = x + self.fc2(functional.gelu(self.fc1(self.norm2(x))))
        y: Tensor = self.norm3(x)
        return y


def outlying() -> tuple[nn.Module, Tensor, Context]:
    torch.manual_seed(0)
    model = Block().eval()
    with torch.no_grad():
        for norm in (model.norm1, model.norm2):
            norm.weight.copy_(torch.tensor([1.0, 60, 1, 0.5, 30, 1, 1, 0.1]))
    samples = torch.randn(40, 6, 8)
    return model, samples, context_on((samples,))


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.8, "search"])
def test_smoothed_outputs_stay(alpha: float | str) -> None:
    model, samples, context = outlying()
    expected = model(samples)
    result = Quantize(recover=[{"smooth": alpha}]).apply(model, context)
    largest = float(expected.detach().abs().max())
    torch.testing.assert_close(result.model(samples) / largest, expected / largest, rtol=0, atol=2e-5)
    assert ("norm3", "not smoothed: the network returns its output") in {(s.layer, s.reason) for s in result.skipped}
    assert {e.layer for e in result.edits if e.kind == "weights"} == {"norm1", "qkv", "norm2", "fc1"}


def test_smoothing_is_equation_4() -> None:
    model, samples, context = outlying()
    weight, norm = (
        model.get_parameter("qkv.weight").detach().clone(),
        model.get_parameter("norm1.weight").detach().clone(),
    )
    largest = model.get_submodule("norm1")(samples).detach().abs().amax((0, 1))
    smooth(trace(model, context.example_inputs, dynamic_batch=True), 0.3, calibration_split(context), 40, context)
    for j in range(8):
        s = float(largest[j]) ** 0.3 / float(weight[:, j].abs().max()) ** 0.7
        torch.testing.assert_close(model.get_parameter("qkv.weight")[:, j], weight[:, j] * s)
        torch.testing.assert_close(model.get_parameter("norm1.weight")[j], norm[j] / s)


def test_smoothing_helps_outliers_and_a_search_is_no_worse() -> None:
    model, samples, context = outlying()
    expected = model(samples)

    def snr(alpha: float | str | None) -> float:
        recover = [] if alpha is None else [{"smooth": alpha}]
        result = Quantize(recover=recover).apply(model, context)
        return snr_db(expected, simulate(result.model, result.encodings, context.example_inputs)(samples))

    plain, half, searched = snr(None), snr(0.5), snr("search")
    assert half > plain + 1
    assert searched > half - 1
    assert 0.5 in ALPHAS


def test_channels_without_values_keep_their_scale() -> None:
    found = scales(torch.tensor([0.0, 2.0, 3.0]), torch.tensor([[1.0, 0.0, 4.0], [1.0, 0.0, -9.0]]), 0.5)
    torch.testing.assert_close(found, torch.tensor([1.0, 1.0, (3 / 9) ** 0.5]))


def test_smoothing_passes_through_attention_of_torch() -> None:
    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(8)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(x)
            y: Tensor = self.attention(x, x, x, need_weights=False)[0]
            return y

    torch.manual_seed(0)
    model, samples = Attends().eval(), torch.randn(10, 5, 8)
    expected = model(samples)
    context = context_on((samples,))
    edits, skipped = smooth(trace(model, context.example_inputs), 0.5, calibration_split(context), 10, context)
    torch.testing.assert_close(model(samples), expected, rtol=1e-5, atol=1e-5)
    assert {edit.what for edit in edits} == {"weight", "bias", "in_proj_weight"}, skipped


def test_corrections_alone_leave_weights() -> None:
    model, _, context = uneven()
    result = Quantize(scheme="w4a8").apply(model, context)
    network = result.model
    before = {name: value.clone() for name, value in network.state_dict().items()}
    split = calibration_split(context)
    edits, skipped = correct_biases(network, model, result.encodings, split, 40, context, target="ort-x86")
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {f"{edit.layer}.bias" for edit in edits} == {"stem.bias", "depthwise.bias", "classify.bias"}
    assert [skip.layer for skip in skipped] == ["pointwise"]
    assert correct_biases_analytically(network, result.encodings, {}, context, target="ort-x86")[0] == ()
