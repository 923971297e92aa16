"""The trace of the Hessian against the whole Hessian, and what it says of layers."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from compress.data import Data
from compress.errors import InvalidInput
from compress.quantize import Quantize
from compress.quantize.budget import hessian
from compress.quantize.budget.hessian import HessianScan, hessian_traces
from compress.quantize.budget.precisions import Candidates
from compress.stage import Context
from compress.tasks.built_in import classification, outputs
from compress.tasks.reading import Reading
from tests.support.small_networks import Unfolded, made


class Tiny(nn.Module):
    """Two linear layers: (N, 2) -> (N, 3)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(2, 2)
        self.last = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(torch.tanh(self.first(x)))
        return y


def exact_trace(net: Tiny, layer: str, x: Tensor, labels: Tensor) -> float:
    def loss(weight: Tensor) -> Tensor:
        return cross_entropy(torch.func.functional_call(net, {f"{layer}.weight": weight}, (x,)), labels)

    weight = net.get_parameter(f"{layer}.weight").detach()
    matrix = torch.autograd.functional.hessian(loss, weight)
    return float(matrix.reshape(weight.numel(), weight.numel()).trace())


@pytest.mark.parametrize("labelled", [True, False])
def test_the_trace_is_that_of_the_whole_hessian(labelled: bool) -> None:
    net = Tiny().eval().requires_grad_(False)
    x, y = torch.randn(40, 2), torch.randint(0, 3, (40,))
    batches = [((x[i : i + 10],), (x[i : i + 10], y[i : i + 10])) for i in range(0, 40, 10)]
    own = classification.task(Reading()) if labelled else replace(classification.task(Reading()), loss=None)
    own = own if labelled else replace(own, match=lambda a, b: cross_entropy(a, b.softmax(1)))
    found = hessian_traces(net, [net.first.weight, net.last.weight], batches, own, draws=100)
    assert not net.first.weight.requires_grad
    labels = y if labelled else net(x).softmax(1)
    for trace, layer in zip(found, ("first", "last"), strict=True):
        exact = exact_trace(net, layer, x, labels)
        assert abs(trace.value - exact) < 4 * trace.error + 1e-6 and trace.error < 0.5 * abs(exact)


def test_all_signs_together_give_it_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Tiny().eval()
    x, y = torch.randn(20, 2), torch.randint(0, 3, (20,))
    signs = iter([torch.tensor(row, dtype=torch.float32).view(2, 2) for row in product((-1, 1), repeat=4)])
    monkeypatch.setattr(hessian, "_signs", lambda tensor, generator: next(signs))
    (trace,) = hessian_traces(net, [net.first.weight], [((x,), (x, y))], classification.task(Reading()), draws=16)
    assert trace.value == pytest.approx(exact_trace(net, "first", x, y), rel=1e-4)


def test_the_sensitivity_is_the_mean_of_the_diagonal_times_the_error_of_rounding(
    data: Data, small_net: nn.Module
) -> None:
    context = Context((data.example(),), data)
    result = Quantize().apply(small_net, context)
    candidates = Candidates.of(result.model, result.encodings, context.example_inputs, target="ort-x86")
    found = HessianScan(samples=24, draws=2).measure(candidates, context)
    for unit, layer in zip(candidates.units, found.layers, strict=True):
        four = candidates.weights["int4"][unit.name].parameters("int8", narrow=True)
        weight = unit.tensor.detach().numpy()
        error = float(((four.dequantize(four.quantize(weight, 0), 0) - weight).astype("float64") ** 2).sum())
        assert layer.trace is not None and layer.hessian is not None
        assert layer.loss("int4", "hessian") == pytest.approx(max(0.0, layer.trace) * error, rel=1e-4)
        assert layer.hessian[0] >= layer.hessian[1] >= layer.hessian[2] == 0
        with pytest.raises(InvalidInput, match=r"does not tell what .* costs in int4 by snr"):
            layer.loss("int4", "snr")


def test_a_network_without_logits_is_no_classifier_and_has_the_curvature_of_its_match() -> None:
    model, inputs, _ = made(Unfolded)
    weight = [model.get_parameter("first.weight")]
    sampled = [(inputs, (inputs, torch.zeros(len(inputs[0]), dtype=torch.long)))]
    with pytest.raises(InvalidInput, match=r"is \(40, classes\), and the network gives \(40, 3, 16, 16\)"):
        hessian_traces(model, weight, sampled, classification.task(Reading()))
    (trace,) = hessian_traces(model, weight, sampled, outputs.task(Reading()))
    assert trace.value > 3 * trace.error > 0
