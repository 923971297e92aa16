"""Rounded inputs: values against formulas, gradients against the papers' rules, and what a trace sees."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compress.graph.trace import trace
from compress.rounding.inputs import ResidualSigns, Sign, Signs, Steps, rounding_inputs, rounding_of


def test_signs_and_their_gradient() -> None:
    rounding = Sign(3).train()
    with torch.no_grad():
        rounding.threshold.copy_(torch.tensor([0.0, 0.5, -0.5]))
    x = torch.linspace(-2, 2, 41).repeat(2, 3, 1)[..., None].requires_grad_()
    y = rounding(x)
    shifted = x.detach() - rounding.threshold.detach().view(-1, 1, 1)
    assert torch.equal(y.detach(), torch.where(shifted >= 0, 1.0, -1.0))
    seen = torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    y.backward(seen)
    slope = torch.where(shifted.abs() < 1, 2 - 2 * shifted.abs(), torch.zeros(()))  # Bi-Real Net, equation 7
    assert x.grad is not None and rounding.threshold.grad is not None
    torch.testing.assert_close(x.grad, seen * slope)
    torch.testing.assert_close(rounding.threshold.grad, -(seen * slope).sum((0, 2, 3)))
    assert torch.equal(rounding.eval()(x).detach(), y.detach()), "evaluation gives the same"


@pytest.mark.parametrize("text", ["signs", "signs 3", "residual signs 2", "2 bits", "4 bits signed"])
@pytest.mark.parametrize("last", [False, True])
def test_training_and_evaluation_give_the_same(text: str, last: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 5) if last else torch.randn(4, 5, 3, 3)
    rounding = rounding_of(text, 5, last=last)
    rounding.start(x)
    torch.testing.assert_close(rounding.train()(x).detach(), rounding.eval()(x).detach(), rtol=1e-6, atol=1e-7)
    least = {"signs": 2, "signs 3": 4, "residual signs 2": 4, "2 bits": 4, "4 bits signed": 15}[text]
    assert len(torch.unique(rounding(x).detach())) <= least


@pytest.mark.parametrize("last", [False, True])
def test_signs_part_what_a_relu_leaves(last: bool) -> None:
    x = torch.relu(torch.randn(40, 3, generator=torch.Generator().manual_seed(2)))
    x = x if last else x.view(40, 3, 1, 1)
    rounding = Sign(3, last)
    rounding.start(x - 1)
    assert not bool(rounding.threshold.any())
    rounding.start(x)
    torch.testing.assert_close(rounding.threshold.detach(), x.reshape(40, 3).mean(0))
    assert set(rounding.eval()(x).unique().tolist()) == {-1.0, 1.0}


def test_more_signs_err_less() -> None:
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))
    errors = []
    for rounding in (ResidualSigns(1), ResidualSigns(2), ResidualSigns(3)):
        rounding.eval().start(x)
        errors.append(float((rounding(x) - x).square().mean().detach()))
    assert errors[0] > errors[1] > errors[2]
    several = Signs(3).eval()
    several.start(x)
    assert float((several(x) - x).square().mean().detach()) < errors[0]


def test_steps_are_multiples_within_their_bits() -> None:
    rounding = Steps(2).eval()
    rounding.start(torch.rand(10, 4))
    x = torch.tensor([-1.0, 0.0, 0.1, 0.26, 0.9, 9.0])
    step = float(rounding.step.detach())
    assert torch.equal(rounding(x).detach(), (x * rounding.step.detach().reciprocal()).round().clamp(0, 3) * step)


@pytest.mark.parametrize("layer", [nn.Conv2d(4, 6, 3, padding=1), nn.Conv1d(4, 6, 3), nn.Linear(4, 6)])
def test_a_layer_keeps_its_parameters_and_is_traced_as_plain_operations(layer: nn.Module) -> None:
    made = rounding_inputs(layer, "signs").eval()
    assert made.weight is layer.weight and not hasattr(layer, "rounding")
    x = torch.randn(2, 4, 5, 5) if isinstance(layer, nn.Conv2d) else torch.randn(2, 4, 5)
    x = torch.randn(2, 4) if isinstance(layer, nn.Linear) else x
    expected = layer(torch.where(x >= 0, 1.0, -1.0))
    torch.testing.assert_close(made(x), expected)
    operations = {str(node.target) for node in trace(made, (x,)).calls()}
    assert {"aten.ge.Tensor", "aten.where.ScalarOther"} & operations
    assert not any("autograd" in name or "_Sign" in name for name in operations)
