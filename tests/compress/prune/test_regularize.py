"""Penalties against autograd and closed forms, what each method leaves in the network, and the stage."""

from __future__ import annotations

import copy
import shlex
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from compress.cli import main
from compress.data import Data, DataConfig
from compress.data import load as load_data
from compress.errors import InvalidInput
from compress.graph.trace import trace
from compress.prune import Prune
from compress.prune.channels.groups import Channels, channels
from compress.prune.regularize import Regularize
from compress.prune.regularize.members import filters, produced, scales
from compress.prune.regularize.penalties import GroupNorm, Growing, L1Scales, Soft, growing_factor, lowest
from compress.recipe import Recipe
from compress.stage import Context
from compress.training.loop import Training, fit
from compress.training.optimizer import learning_rate_factor
from tests.support.small_classifier import SmallNet, pattern_data

TRAINING = Training(epochs=2, batch_size=8, learning_rate=0.05, precision="fp32", accelerator="cpu")
IMAGE = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Tall(nn.Module):
    """A plain convolution with a bias, a depthwise one, and a residual whose scales are coupled."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False)
        self.norm2 = nn.BatchNorm2d(6)
        self.inner = nn.Conv2d(6, 4, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(4)
        self.outer = nn.Conv2d(4, 6, 1, bias=False)
        self.norm4 = nn.BatchNorm2d(6)
        self.fc = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm2(self.depthwise(torch.relu(self.norm(self.first(x))))))
        x = x + self.norm4(self.outer(torch.relu(self.norm3(self.inner(x)))))
        return self.fc(x.mean((2, 3)))


def tall() -> tuple[nn.Module, Channels]:
    torch.manual_seed(0)
    model = Tall().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(-1.0, 1.0)
    return model, channels(trace(copy.deepcopy(model), (IMAGE,)))


def test_members_are_what_makes_the_units() -> None:
    _, found = tall()
    wide = next(group for group in found.groups if len(group.units) == 6)
    assert {part.name for part in filters(wide, found).slices} == {
        "first.weight", "first.bias", "depthwise.weight", "outer.weight",
    }  # fmt: skip
    assert {part.name for part in scales(wide).slices} == {"norm.weight", "norm2.weight", "norm4.weight"}
    everything = {part.name for part in produced(wide, found).slices}
    assert everything >= {"norm.bias", "norm2.bias", "norm4.bias", "first.bias", "norm.weight", "outer.weight"}
    assert not everything & {"fc.weight", "inner.weight", "norm.running_mean"}


def test_units_that_are_zero_change_nothing_when_they_are_cut() -> None:
    model, found = tall()
    for group in found.groups:
        keep = torch.ones(len(group.units))
        keep[::2] = 0
        produced(group, found).scale(model, keep)
    result = Prune(ratio=0.5, criterion="l2", round_to=1).apply(model, Context((IMAGE,)))
    x = torch.randn(4, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(result.model(x), model(x), rtol=1e-5, atol=1e-5)


def test_norms_are_those_of_the_units_put_in_one_vector() -> None:
    model, found = tall()
    wide = next(group for group in found.groups if len(group.units) == 6)
    parameters = dict(model.named_parameters())
    expected = [
        torch.cat([parameters[n][u].detach().flatten() for n in ("norm.weight", "norm2.weight", "norm4.weight")]).norm()
        for u in range(6)
    ]
    torch.testing.assert_close(scales(wide).norms(model), torch.stack(expected))


def test_the_slimming_subgradient_is_autograds() -> None:
    model, found = tall()
    model.get_parameter("norm.weight").data[2] = 0.0
    x, y = torch.randn(8, 1, 8, 8), torch.arange(8) % 3
    ours, theirs = copy.deepcopy(model), copy.deepcopy(model)
    loss = nn.functional.cross_entropy(theirs(x), y)
    gammas = [p for n, p in theirs.named_parameters() if "norm" in n and n.endswith("weight")]
    (loss + 0.3 * sum(gamma.abs().sum() for gamma in gammas)).backward()
    penalty = L1Scales(ours, [scales(group) for group in found.groups], TRAINING, 0.3)
    nn.functional.cross_entropy(ours(x), y).backward()
    penalty.after_backward(ours, 1, 10)
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)


def test_the_group_step_minimizes_the_proximal_objective() -> None:
    """argmin over w of ``||w - v||^2 / 2 + t ||w||``, by gradient descent in float64."""
    model, found = tall()
    model.double()
    group = next(group for group in found.groups if len(group.units) == 4)
    members = produced(group, found)
    strength = 0.5
    penalty = GroupNorm(model, [members], [filters(group, found)], TRAINING, strength)
    before = {part.name: model.get_parameter(part.name).detach().clone() for part in members.slices}
    penalty.act(model, 5, 10)
    step = TRAINING.learning_rate * learning_rate_factor(4, 10, 5, "cosine") / (1 - TRAINING.momentum)
    assert penalty.step_size(5, 10) == pytest.approx(step)
    for unit in range(4):
        v = torch.cat([value[unit].flatten() for value in before.values()])
        after = torch.cat([model.get_parameter(name)[unit].detach().flatten() for name in before])
        w = v.clone().requires_grad_()
        optimizer = torch.optim.LBFGS([w], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-14)

        def closure(
            w: torch.Tensor = w, v: torch.Tensor = v, optimizer: torch.optim.Optimizer = optimizer
        ) -> torch.Tensor:
            optimizer.zero_grad()
            objective = (w - v).square().sum() / 2 + step * strength * w.norm()
            objective.backward()
            return objective

        optimizer.step(closure)
        torch.testing.assert_close(after, w.detach(), rtol=1e-6, atol=1e-8)


def test_a_strong_group_step_gives_exact_zeros() -> None:
    model, found = tall()
    members = [produced(group, found) for group in found.groups]
    penalty = GroupNorm(model, members, [filters(group, found) for group in found.groups], TRAINING, 1e3)
    for _ in range(2):  # the second step meets norms of zero
        penalty.act(model, 5, 10)
    assert all(bool((part.norms(model) == 0).all()) for part in members)
    assert penalty.near_zero_percent(model) == 100


def test_the_growing_factor_rises_in_equal_steps_and_stays() -> None:
    factors = [growing_factor(step, 400, 2.0) for step in range(1, 401)]
    assert factors[0] == 0 and factors[299] == factors[-1] == 2.0
    rises = {round(b - a, 9) for a, b in pairwise(factors)}
    assert rises == {0.0, round(2.0 / 30, 9)}, "increments after every tenth step"
    short = [growing_factor(step, 8, 1.0) for step in range(1, 9)]
    assert short == sorted(short) and short[-1] == 1.0


def test_growing_shrinks_the_chosen_units_alone_by_the_implicit_step() -> None:
    model, found = tall()
    groups = found.groups
    whole, weights = [produced(g, found) for g in groups], [filters(g, found) for g in groups]
    penalty = Growing(model, whole, weights, TRAINING, 2.0, 0.5)
    before = [members.norms(model) for members in whole]
    penalty.act(model, 8, 10)
    factor = 1 / (1 + penalty.step_size(8, 10) * 2.0)
    for members, norms, chosen in zip(whole, before, penalty.chosen, strict=True):
        assert int(chosen.sum()) == members.units // 2
        torch.testing.assert_close(members.norms(model), torch.where(chosen, norms * factor, norms))


def test_soft_pruning_zeroes_the_lowest_filters_and_no_others() -> None:
    model, found = tall()
    with torch.no_grad():
        for name, weak in (("inner.weight", [1, 3]), ("first.weight", [0, 5]), ("depthwise.weight", [0, 5]),
                           ("outer.weight", [0, 5])):  # fmt: skip
            model.get_parameter(name)[weak] *= 0.1
    before = copy.deepcopy(model)
    weights = [filters(g, found) for g in found.groups]
    soft = Soft(model, [produced(g, found) for g in found.groups], weights, TRAINING, 0.34)
    soft.end_epoch(model)
    gone = {"first": [0, 5], "depthwise": [0, 5], "outer": [0, 5], "inner": [1]}
    norms = before.get_parameter("inner.weight").detach().flatten(1).norm(dim=1)
    gone["inner"] = [min((1, 3), key=lambda unit: float(norms[unit]))]  # round(0.34 * 4) = 1
    for name, value in model.named_parameters():
        expected = before.get_parameter(name).detach().clone()
        layer = name.rpartition(".")[0]
        if layer in gone:
            expected[gone[layer]] = 0
        assert torch.equal(value, expected), name
    soft.finish(model)
    for norm, layer in (("norm", "first"), ("norm2", "depthwise"), ("norm3", "inner"), ("norm4", "outer")):
        for what in ("weight", "bias"):
            zero = (model.get_parameter(f"{norm}.{what}") == 0).nonzero().flatten().tolist()
            assert zero == gone[layer]
    assert [int(lowest(members, model, 0.99).sum()) for members in weights] == [m.units - 1 for m in weights]


def test_a_zeroed_filter_comes_back() -> None:
    data = pattern_data()
    torch.manual_seed(0)
    model = SmallNet()
    with torch.no_grad():
        model.bn1.bias.fill_(0.1)  # a unit that a ReLU holds at 0 has no gradient
        model.bn2.bias.fill_(0.1)
    found = channels(trace(copy.deepcopy(model), (IMAGE,)))
    weights = [filters(group, found) for group in found.groups]
    soft = Soft(model, [produced(group, found) for group in found.groups], weights, TRAINING, 0.5)
    soft.end_epoch(model)
    zeroed = [members.norms(model) == 0 for members in weights]
    assert all(int(zero.sum()) == 4 for zero in zeroed)
    fit(model, data, TRAINING)
    assert any(bool((members.norms(model)[zero] > 0).any()) for members, zero in zip(weights, zeroed, strict=True))


@pytest.fixture(scope="module")
def digits() -> Data:
    return load_data(DataConfig(source="digits", size=8))


def near_zero(model: nn.Module) -> int:
    return int(sum((m.weight.abs() < 0.05).sum() for m in model.modules() if isinstance(m, nn.BatchNorm2d)))


def plain() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    ).eval()  # fmt: skip


@pytest.mark.parametrize(
    ("method", "strength", "ratio", "criterion"),
    [("slimming", 0.05, None, "bn_scale"), ("group_slimming", 0.05, None, "bn_scale"), ("group_lasso", 0.2, None, "l2"),
     ("growing", None, 0.5, "l2"), ("soft", None, 0.5, "l2")],
)  # fmt: skip
def test_channels_become_unimportant_on_digits(
    digits: Data, method: str, strength: float | None, ratio: float | None, criterion: str
) -> None:
    training = TRAINING.model_copy(update={"epochs": 3, "batch_size": 64, "learning_rate": 0.1})
    model, context = plain(), Context((digits.example(2),), digits)
    untouched = copy.deepcopy(model)
    stage = Regularize(method=method, strength=strength, ratio=ratio, training=training)
    result = stage.apply(model, context)
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), untouched.state_dict().values(), strict=True)
    )
    assert [p.shape for p in result.model.parameters()] == [p.shape for p in model.parameters()]
    reached = [edit for edit in result.edits if "below 1%" in edit.what]
    assert [edit.layer for edit in reached] == ["0", "4"] and all(edit.before == 0 for edit in reached)
    assert sum(edit.after for edit in reached) > 3  # type: ignore[misc]
    assert len(result.history) == 3 and all(edit.kind == "weights" for edit in result.edits)
    share = sum(edit.after for edit in reached) / 32  # type: ignore[misc]
    assert result.history[-1]["near_zero_percent"] == pytest.approx(100 * share)
    if "slimming" in method:
        without = copy.deepcopy(model)
        fit(without, digits, training)
        assert near_zero(result.model) > near_zero(without) + 3
    cut = Prune(ratio=0.5 * share, criterion=criterion, select="global", round_to=1)
    pruned = cut.apply(result.model, context).model
    x = digits.example(64)
    with torch.no_grad():
        agreement = (pruned(x).argmax(1) == result.model(x).argmax(1)).double().mean()
    assert agreement > 0.95 or "slimming" in method  # shifts of slimmed units are not zero


def test_the_rest_of_a_training_is_as_without(small_net: nn.Module, data: Data) -> None:
    """A penalty of next to nothing leaves the weights where a training without one does."""
    alone = copy.deepcopy(small_net)
    fit(alone, data, TRAINING)
    stage = Regularize(method="slimming", strength=1e-30, training=TRAINING)
    result = stage.apply(small_net, Context((data.example(1),), data))
    for a, b in zip(alone.state_dict().values(), result.model.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    "settings", [{"method": "soft", "ratio": 0.5}, {"method": "growing", "ratio": 0.5}, {"method": "group_lasso"}]
)
def test_an_interrupted_one_resumes_with_the_same_result(
    small_net: nn.Module, data: Data, tmp_path: Path, settings: dict[str, object]
) -> None:
    training = TRAINING.model_copy(update={"epochs": 3})
    stage = Regularize.model_validate({**settings, "training": training})

    def context(folder: Path | None, stop: int | None = None) -> Context:
        def progress(task: str, done: int, total: int, note: str = "") -> None:
            if stop is not None and note.startswith(f"epoch {stop}/"):
                raise KeyboardInterrupt

        return Context((data.example(1),), data, progress=progress, checkpoints=str(folder) if folder else None)

    whole = stage.apply(small_net, context(None))
    with pytest.raises(KeyboardInterrupt):
        stage.apply(small_net, context(tmp_path, stop=3))
    assert (tmp_path / "regularize.ckpt").exists()
    resumed = stage.apply(small_net, context(tmp_path))
    assert resumed.history == whole.history and resumed.edits == whole.edits
    for a, b in zip(whole.model.state_dict().values(), resumed.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    other = stage.model_copy(update={"ratio": 0.25} if stage.ratio else {"strength": 0.3})
    with pytest.raises(InvalidInput, match="another method, strength or ratio"):
        other.apply(small_net, context(tmp_path))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"method": "slim"}, "slimming"), ({"method": "soft"}, "soft needs a `ratio`"),
     ({"method": "growing", "ratio": 1.0}, "less than 1"), ({"ratio": 0.5}, "slimming takes no `ratio`"),
     ({"method": "soft", "ratio": 0.5, "strength": 1.0}, "soft takes no `strength`"),
     ({"strength": 0.0}, "greater than 0"), ({"training": {"epochs": 0}}, "at least 1")],
)  # fmt: skip
def test_bad_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Regularize.model_validate(settings)


def test_bad_uses(data: Data) -> None:
    with pytest.raises(InvalidInput, match="regularize: it needs data"):
        Regularize().apply(plain(), Context((IMAGE,)))
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3))
    context = Context((data.example(1),), data)
    with pytest.raises(InvalidInput, match=r"nothing in Sequential can be pruned: .*no batch normalization"):
        Regularize().apply(flat, context)
    assert Regularize(method="group_lasso", training=TRAINING).apply(flat, context).skipped


def test_a_recipe_has_the_stage() -> None:
    recipe = Recipe.model_validate(
        {"model": "resnet20", "stages": [{"regularize": {"method": "soft", "ratio": 0.3}}, {"prune": {"ratio": 0.3}}]}
    )
    assert isinstance(recipe.stages[0].stage, Regularize) and recipe.step_names == ("regularize", "prune")


def test_the_command(
    npz: Path, small_net_file: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(npz.parent)

    def run(line: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["compress", *shlex.split(line)])
        with pytest.raises(SystemExit) as end:
            main()
        assert isinstance(end.value.code, int)
        return end.value.code, "".join(capfd.readouterr())

    fast = "--epochs 1 --batch-size 16 --precision fp32 --accelerator cpu --data data.npz"
    code, said = run(f"regularize net.py:build --method group_lasso --strength 0.01 {fast} -v -o out")
    assert code == 0 and "units of 8 below 1%" in said and (npz.parent / "out" / "manifest.json").exists()
    for line, says in (
        (f"regularize net.py:build --method soft {fast} -o bad", "soft needs a --ratio"),
        (f"regularize net.py:build --method soft --ratio 2 {fast} -o bad", "ratio"),
        (f"regularize net.py:build --exclude nothing.* {fast} -o bad", "matches no layer"),
        ("regularize net.py:build --input-shape 1,8,8 -o bad", "--data"),
        (f"regularize net.py:build --method slim {fast} -o bad", "slim"),
    ):
        code, said = run(line)
        assert code == 2 and says in said and said.count("\n") <= 3, said
        assert not (npz.parent / "bad").exists()
