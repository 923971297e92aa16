from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from torch import nn

from compress.data import Data
from compress.distill import Distill, Distillation, objective_for, soft_target_loss
from compress.errors import InvalidInput
from compress.stage import Context
from compress.tasks.built_in.classification import task
from compress.tasks.reading import Reading
from compress.training.loop import Training, fit

FAST = Training(epochs=4, batch_size=8, learning_rate=0.05, precision="fp32", accelerator="cpu")


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_soft_target_loss_against_scipy(temperature: float) -> None:
    generator = np.random.default_rng(0)
    student, teacher = generator.normal(size=(2, 6, 5)) * 3
    p, log_p = softmax(teacher / temperature, 1), log_softmax(teacher / temperature, 1)
    divergence = (p * (log_p - log_softmax(student / temperature, 1))).sum(1).mean()
    found = soft_target_loss(torch.from_numpy(student), torch.from_numpy(teacher), temperature)
    assert float(found) == pytest.approx(divergence * temperature**2, rel=1e-5)


def test_a_student_that_equals_its_teacher_has_no_soft_loss() -> None:
    logits = torch.randn(4, 7)
    assert float(soft_target_loss(logits, logits, 4.0)) == pytest.approx(0, abs=1e-6)


def test_weights_blend_both_losses(small_net: nn.Module) -> None:
    x, y = torch.randn(5, 1, 8, 8), torch.tensor([0, 1, 2, 0, 1])
    teacher = copy.deepcopy(small_net)
    for parameter in teacher.parameters():
        parameter.data.mul_(1.3)
    own = task(Reading(), temperature=2.0)
    hard, soft, both = (Distillation(teacher, own, weight)(small_net, (x, y)).item() for weight in (0.0, 1.0, 0.25))
    assert both == pytest.approx(0.25 * soft + 0.75 * hard, rel=1e-5)
    assert hard == pytest.approx(nn.functional.cross_entropy(small_net(x), y).item(), rel=1e-5)


def test_a_student_comes_nearer_to_its_teacher(small_net: nn.Module, data: Data) -> None:
    teacher = copy.deepcopy(small_net)
    fit(teacher, data, FAST.model_copy(update={"epochs": 8}))
    x = data.example(16)
    before = soft_target_loss(small_net(x), teacher(x), 4.0)
    stage = Distill(training=FAST.model_copy(update={"teacher_weight": 1.0}))
    result = stage.apply(small_net, Context((x,), data, teacher=teacher))
    after = soft_target_loss(result.model(x), teacher(x), 4.0)
    assert after.item() < before.item() / 2
    assert len(result.history) == 4


def test_the_teacher_given_stays_as_it_is(small_net: nn.Module) -> None:
    """Training wants channels last; a network that is exported later must not notice."""
    objective = objective_for(task(Reading()), small_net, FAST)
    assert isinstance(objective, Distillation) and objective.teacher is not small_net
    assert small_net.conv2.weight.is_contiguous() and not objective.teacher.conv2.weight.is_contiguous()  # type: ignore[operator, union-attr]


def test_needs_a_teacher_and_data(small_net: nn.Module, data: Data) -> None:
    x = data.example(1)
    with pytest.raises(InvalidInput, match="--teacher"):
        Distill().apply(small_net, Context((x,), data))
    with pytest.raises(InvalidInput, match="--data"):
        Distill().apply(small_net, Context((x,), teacher=small_net))
