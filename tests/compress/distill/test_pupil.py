"""Several losses at once: the layers they look at, what is trained with the student, and what stays of it."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from compress.data import Data
from compress.distill import Distill
from compress.distill.features import survey
from compress.distill.layers import by_name, by_stage
from compress.distill.losses import LOSSES, LayerPair
from compress.distill.losses.hint import Hint
from compress.distill.pupil import Lecture, Pupil
from compress.errors import InvalidInput
from compress.prune import Prune
from compress.recipe import Recipe
from compress.stage import Context
from compress.training.loop import Training, compiled
from models.resnet import CifarResNet
from tests.support.small_classifier import SmallNet

FAST = Training(epochs=2, batch_size=8, learning_rate=0.05, precision="fp32", accelerator="cpu")
ALL = ("logits", "dkd", "hint", "attention", "sp", "rkd", "crd:memory=16", "mgd")


def first_pair(pupil: Pupil) -> LayerPair:
    """The layers that the student's first lesson is about."""
    pair: LayerPair = pupil.lessons[0].layers[0]  # type: ignore[index, assignment]
    return pair


@pytest.fixture
def teacher() -> nn.Module:
    torch.manual_seed(1)
    return SmallNet(12).eval()


@pytest.fixture
def context(teacher: nn.Module, data: Data) -> Context:
    return Context((data.example(2),), data, teacher=teacher)


@pytest.mark.parametrize("name", ["attention", "crd", "dkd", "hint", "logits", "mgd", "rkd", "sp"])
def test_every_loss_trains_a_student(name: str, small_net: nn.Module, context: Context) -> None:
    before = copy.deepcopy(small_net.state_dict())
    result = Distill(losses=(name,), training=FAST).apply(small_net, context)
    assert len(result.history) == 2 and list(result.model.state_dict()) == list(before), "nothing of a loss stays"
    assert not torch.equal(result.model.conv1.weight, before["conv1.weight"])  # type: ignore[union-attr, arg-type]
    assert not any(module._forward_hooks for module in result.model.modules())
    assert all(torch.equal(value, before[key]) for key, value in small_net.state_dict().items())


def test_the_sum_is_that_of_the_losses_by_their_weights(small_net: nn.Module, context: Context, data: Data) -> None:
    batch = next(iter(data.split("train").batches(8)))
    seen: list[float] = []
    for losses in (("dkd",), ("hint:conv2=conv2",), ("dkd:weight=3", "hint:conv2=conv2:weight=2")):
        stage = Distill(losses=losses, training=FAST.model_copy(update={"teacher_weight": 1.0}))
        torch.manual_seed(0)
        seen.append(float(stage.trial(context.of(small_net))(small_net, batch).detach()))
    assert seen[2] == pytest.approx(3 * seen[0] + 2 * seen[1], rel=1e-5)


def test_the_same_in_recipes_in_python_and_as_it_is_typed() -> None:
    typed = Distill.model_validate({"losses": ["dkd", "hint:layer2=layer3:weight=2"]})
    recipe = Recipe.model_validate(
        {
            "model": "resnet20",
            "stages": [{"distill": {"losses": ["dkd", {"hint": {"layers": {"layer2": "layer3"}, "weight": 2}}]}}],
        }
    )
    assert recipe.stages[0].stage == typed
    assert Distill().model_dump()["losses"] == ("logits",)
    by_list = LOSSES.read({"hint": {"layers": ["layer1"]}})
    assert LOSSES.read("hint:layer1") == Hint(layers={"layer1": "layer1"}) == by_list
    assert LOSSES.read("sp=3000").weight == 3000


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("none", "expected at least one of .*dkd.*to learn from labels alone, train"),
        ("kd", "expected one of attention, .*, got 'kd'"),
        ("dkd:gamma", "dkd: expected setting=value, of weight, alpha, beta, got 'gamma'"),
        ("hint:weight=-1", "hint.weight: Input should be greater than or equal to 0"),
    ],
)
def test_what_is_no_loss_is_told(written: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Distill.model_validate({"losses": written})


def test_layers_by_stage_by_name_and_by_pattern() -> None:
    x = torch.zeros(2, 3, 32, 32)
    student, teacher = (survey(CifarResNet(depth, width=8), (x,))[1] for depth in (8, 14))
    assert by_stage(student, teacher) == [(name, name) for name in ("layer1", "layer2", "layer3")]
    assert by_stage(student, teacher, last=True) == [("layer3", "layer3")]
    assert by_name({"layer*": "layer*"}, student, teacher, "hint") == by_stage(student, teacher)
    assert by_name({"layer2.0": "layer2.1"}, student, teacher, "hint") == [("layer2.0", "layer2.1")]
    with pytest.raises(InvalidInput, match=r"layer1\.\* stands for 1 layers of the student .* 2 of the teacher"):
        by_name({"layer1.*": "layer1.*"}, student, teacher, "hint")
    tokens = {"patch": (2, 8, 7, 7), "block1": (2, 49, 8), "block2": (2, 49, 8), "norm": (2, 8)}
    assert by_stage(tokens, tokens) == [("patch", "patch"), ("block2", "block2")]
    assert by_stage({"a": (2, 4), "b": (2, 6)}, {"c": (2, 9)}) == [("b", "c")]


def test_a_pruned_student_learns_the_channels_that_it_kept(data: Data) -> None:
    """A student of which nothing but channels differs has no hint loss at a layer before the first removed weight."""
    torch.manual_seed(0)
    teacher = CifarResNet(8, width=8, in_channels=1, num_classes=3).eval()
    x = data.example(4)
    pruned = Prune(ratio=0.5, round_to=1).apply(teacher, Context((x,), data))
    stage = Distill(losses=("hint:conv1",), training=FAST)
    context = Context((x,), data, teacher=teacher, edits=pruned.edits).of(teacher)
    pupil = stage.pupil(pruned.model, context)
    pair = first_pair(pupil)
    assert pair.kept is not None and len(pair.kept) == pruned.model.conv1.out_channels < 8  # type: ignore[union-attr, operator]
    assert not list(pupil.lessons.parameters()), "no projection is trained"
    assert torch.equal(teacher.conv1(x)[:, list(pair.kept)], pruned.model.conv1(x))  # type: ignore[operator]
    unknown = stage.pupil(pruned.model, Context((x,), data, teacher=teacher).of(teacher))
    assert next(unknown.lessons.parameters()).shape[:2] == (8, pruned.model.conv1.out_channels)  # type: ignore[union-attr]


def test_kept_channels_of_a_stage_are_those_of_its_sum(data: Data) -> None:
    torch.manual_seed(0)
    teacher = CifarResNet(8, width=8, in_channels=1, num_classes=3).eval()
    nn.init.normal_(teacher.get_parameter("layer1.0.bn2.bias"))
    x = data.example(4)
    once = Prune(ratio=0.25, round_to=1).apply(teacher, Context((x,), data))
    twice = Prune(ratio=0.25, round_to=1).apply(once.model, Context((x,), data))
    stage = Distill(losses=("hint:layer1",), training=FAST)
    context = Context((x,), data, teacher=teacher, edits=(*once.edits, *twice.edits)).of(teacher)
    pair = first_pair(stage.pupil(twice.model, context))
    assert pair.kept is not None and len(pair.kept) < 8
    mine, theirs = (network.get_parameter("layer1.0.bn2.bias") for network in (twice.model, teacher))
    assert torch.equal(mine, theirs[list(pair.kept)])


class Interrupt(Exception):
    """As of a user."""


def test_an_interrupted_training_goes_on_with_adapters_and_memory(
    small_net: nn.Module, context: Context, tmp_path: Path
) -> None:
    stage = Distill(losses=("crd:memory=16", "mgd"), training=FAST)
    whole = stage.apply(small_net, context)

    def stop(task: str, done: int, total: int, note: str = "") -> None:
        if "epoch 2" in note:
            raise Interrupt

    halted = Context(context.example_inputs, context.data, context.teacher, progress=stop, checkpoints=str(tmp_path))
    with pytest.raises(Interrupt):
        stage.apply(small_net, halted)
    again = stage.apply(
        small_net, Context(context.example_inputs, context.data, context.teacher, checkpoints=str(tmp_path))
    )
    saved = torch.load(tmp_path / "distill.ckpt", weights_only=True)["model"]
    assert int(saved["lessons.0.terms.0.terms.0.stored"]) > 16 and "lessons.0.terms.1.adapters.0.first.weight" in saved
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name


def test_an_average_of_the_weights_is_that_of_the_student(small_net: nn.Module, context: Context) -> None:
    stage = Distill(losses=("hint", "crd:memory=8"), training=FAST.model_copy(update={"ema": 0.9}))
    assert len(stage.apply(small_net, context).history) == 2


@pytest.mark.slow
def test_two_processes_train_one_student(small_net: nn.Module, context: Context) -> None:
    two = Distill(losses=("dkd", "hint"), training=FAST.model_copy(update={"devices": 2}))
    result = two.apply(small_net, context)
    assert not torch.equal(result.model.conv1.weight, small_net.conv1.weight)  # type: ignore[union-attr, arg-type]
    assert not any(module._forward_hooks for module in result.model.modules())


@pytest.mark.slow
def test_compiled_passes_give_the_same_loss(small_net: nn.Module, context: Context, data: Data) -> None:
    batch = next(iter(data.split("train").batches(8)))
    stage = Distill(losses=("dkd", "hint"), training=FAST)
    pupil = stage.pupil(copy.deepcopy(small_net), context.of(small_net))
    objective = Lecture(pupil.blend.task)
    with pupil.attentive():
        plain = objective(pupil, batch)
        fused = objective(compiled(pupil, FAST.model_copy(update={"compiled": True})), batch)
    torch.testing.assert_close(fused, plain, rtol=1e-4, atol=1e-4)


def test_a_loss_that_cannot_serve_is_refused_before_the_work(small_net: nn.Module, context: Context) -> None:
    with pytest.raises(InvalidInput, match=r"loss hint: the student has no layer layer9 .*; it has conv1, bn1"):
        Distill(losses=("hint:layer9",), training=FAST).apply(small_net, context)
