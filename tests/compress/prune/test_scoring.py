"""Scores of units: what is gathered from data, coupled layers together, criteria of one's own, bad input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, relu

from compress.data import Data, LoaderSplit, SampleSplit
from compress.errors import InvalidInput
from compress.graph.trace import trace
from compress.prune import Prune
from compress.prune.channels.groups import Channels, Group, channels
from compress.prune.criteria import CRITERIA
from compress.prune.criteria.activation_mean import ActivationMean
from compress.prune.criteria.fpgm import fpgm
from compress.prune.criteria.obd import Obd, obd
from compress.prune.scoring.scores import filter_norms
from compress.stage import Context

IMAGE = torch.zeros(1, 3, 8, 8)
DATA_DRIVEN = ("taylor", "obd", "apoz", "activation_mean")


def group_scores(
    groups: Sequence[Group], found: Channels, criterion: Any, context: Context, **settings: Any
) -> list[Tensor]:
    """The scores of a criterion, given as in a recipe, with settings."""
    name = criterion if isinstance(criterion, str) else None
    made = CRITERIA.read({name: settings}) if name else CRITERIA.of_user(criterion, settings)  # type: ignore[misc]
    return made.score(groups, found, context)


class Block(nn.Module):
    """A residual block, a grouped convolution, functions instead of modules: (N, 3, 8, 8) -> (N, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.inner, self.inner_norm = nn.Conv2d(8, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.outer = nn.Conv2d(6, 8, 1)
        self.grouped = nn.Conv2d(8, 8, 3, groups=2)
        self.hidden, self.classify = nn.Linear(8 * 9, 10), nn.Linear(10, 4)

    def forward(self, image: Tensor) -> Tensor:
        x = relu(self.stem_norm(self.stem(image)))
        x = relu(x + self.outer(relu(self.inner_norm(self.inner(x)))))
        x = nn.functional.max_pool2d(relu(self.grouped(x)), 2)
        x = relu(self.hidden(x.flatten(1)))
        logits: Tensor = self.classify(x)
        return logits


def block(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = Block()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.4)
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


def context_of(count: int = 40, shape: tuple[int, ...] = (3, 8, 8), classes: int = 4, seed: int = 0) -> Context:
    generator = torch.Generator().manual_seed(seed)
    images, labels = torch.randn(count, *shape, generator=generator), torch.arange(count) % classes
    return Context((torch.zeros(1, *shape),), Data("made", {"train": SampleSplit(images, labels)}))


@cache
def found_in_block() -> Channels:
    return found_in(block())


def found_in(model: nn.Module, example: Tensor = IMAGE) -> Channels:
    return channels(trace(model, (example,)))


def naive(found: Channels, of_site: Callable[[str, int], np.ndarray], names: set[str]) -> list[list[list[float]]]:
    """[group][site][unit]: the mean of a unit's indices, for the producing sites of parameters in ``names``."""
    return [
        [
            [float(np.mean([of_site(*site)[i] for i in unit.cuts[site]])) for unit in group.units]
            for site in group.filters
            if site[0] in names
        ]
        for group in found.groups
    ]


def samples(context: Context, size: int) -> list[tuple[Tensor, Tensor]]:
    assert context.data is not None
    return list(context.data.split("train").batches(size, shuffle_seed=(context.seed, 0)))


@pytest.mark.parametrize(("count", "batches", "sizes"), [(1, 4, [1]), (21, 9, [8, 8]), (70, 1, [8] * 4)])
def test_taylor_by_hand(count: int, batches: int, sizes: list[int]) -> None:
    model, context = block(), context_of(count)
    found = found_in(model)
    scores = group_scores(found.groups, found, "taylor", context, members="filters", batches=batches)
    expected: dict[str, np.ndarray] = {}
    used = samples(context, 8)[: len(sizes)]
    assert [len(y) for _, y in used] == sizes
    for x, y in used:
        model.zero_grad()
        cross_entropy(model(x), y).backward()
        for name, weight in model.named_parameters():
            assert weight.grad is not None
            if name.endswith("weight"):
                change = (weight.grad * weight).detach().double().numpy()
                squares = change.reshape(len(change), -1).sum(1) ** 2
                expected[name] = expected.get(name, 0.0) + squares / len(used)
    layers = naive(found, lambda name, _: expected[name], set(expected))
    for score, of_group in zip(scores, layers, strict=True):
        np.testing.assert_allclose(score.numpy(), np.mean(of_group, 0), rtol=1e-3, atol=1e-12)


def test_taylor_is_the_derivative_by_a_gate_on_the_channels() -> None:
    """As Molchanov et al. (2019) have it: channels times gates of ones, and the squares of the gates' derivatives."""
    torch.manual_seed(0)
    first, second, classify = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 5, 3), nn.Linear(5 * 16, 4)
    context = context_of(8)
    model = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Flatten(), classify).eval()
    found = found_in(model)
    scores = group_scores(found.groups, found, "taylor", context)
    ((x, y),) = samples(context, 8)
    gates = torch.ones(6, requires_grad=True), torch.ones(5, requires_grad=True)
    hidden = relu(second(relu(first(x)) * gates[0][:, None, None])) * gates[1][:, None, None]
    derivatives = torch.autograd.grad(cross_entropy(classify(hidden.flatten(1)), y), gates)
    np.testing.assert_allclose(scores[0].numpy(), derivatives[0].square().numpy(), rtol=1e-4, atol=1e-12)
    assert found.groups[1].filters == (("2.weight", 0),)


def test_obd_of_two_even_classes_is_exact() -> None:
    """With p = 1/2 for both classes every drawn label gives the same square: h = x^2 / 4 for either row."""
    torch.manual_seed(0)
    model = nn.Linear(5, 2, bias=False)
    with torch.no_grad():
        model.weight[1] = model.weight[0]
    context = context_of(1, (5,), 2)
    ((x, _),) = samples(context, 1)
    weight = model.weight.detach()
    scores = Obd(batches=1).site_scores([("weight", 0), ("weight", 1)], model, {"weight": model.weight}, context)
    terms = 0.5 * (x.square() / 4) * weight.square()
    np.testing.assert_allclose(scores["weight", 0].numpy(), terms.sum(1).numpy(), rtol=1e-5)
    np.testing.assert_allclose(scores["weight", 1].numpy(), terms.sum(0).numpy(), rtol=1e-5)


def test_obd_estimates_the_diagonal_of_the_hessian(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a linear softmax classifier it is the mean of p (1 - p) x^2, known in closed form; 2000 draws of labels."""
    monkeypatch.setattr("compress.prune.scoring.gradients.GRADIENT_BATCH", 2)
    torch.manual_seed(0)
    model = nn.Linear(6, 3)
    context = context_of(4000, (6,), 3)
    scores = Obd(batches=125).site_scores([("weight", 0), ("weight", 1)], model, {"weight": model.weight}, context)
    x = torch.cat([x for x, _ in samples(context, 32)])
    p = model(x).softmax(1).detach()
    diagonal = torch.einsum("nc,ni->ci", p * (1 - p), x.square()) / len(x)
    exact = torch.autograd.functional.hessian(
        lambda w: cross_entropy(x @ w.T + model.bias.detach(), torch.zeros(len(x), dtype=torch.long)),
        model.weight.detach(),
    )
    torch.testing.assert_close(diagonal, torch.einsum("cici->ci", exact), rtol=1e-4, atol=1e-6)
    for axis in (0, 1):
        expected = obd(model.weight, diagonal, axis)
        np.testing.assert_allclose(scores["weight", axis].numpy(), expected.numpy(), rtol=0.12)


def test_gradients_leave_no_trace() -> None:
    model, context = block(), context_of()
    reference = group_scores(found_in(model).groups, found_in(model), "taylor", context)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    found = found_in(model)
    with torch.no_grad():
        frozen = group_scores(found.groups, found, "taylor", context)
    for a, b in zip(reference, frozen, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-9)
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())


def test_activation_mean_of_functions_and_modules() -> None:
    model, context = block(), context_of(64)
    found = found_in(model)
    scores = group_scores(found.groups, found, "activation_mean", context, normalize="none")
    outputs: dict[str, Tensor] = {}
    for name, module in model.named_children():
        module.register_forward_hook(lambda _, __, y, name=name: outputs.update({f"{name}.weight": y.detach()}))
    with torch.no_grad():
        model(torch.cat([x for x, _ in samples(context, 32)]))
    expected = {n: y.abs().transpose(0, 1).flatten(1).mean(1).numpy() for n, y in outputs.items() if "norm" not in n}
    layers = naive(found, lambda name, _: expected[name], set(expected))
    for score, of_group in zip(scores, layers, strict=True):
        np.testing.assert_allclose(score.numpy(), np.mean(of_group, 0), rtol=1e-4)


def test_apoz_after_the_activation_that_follows() -> None:
    """Through batch norm, a residual sum and a concatenation, to a function or a ReLU6 module."""

    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right, self.norm = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 6, 1), nn.BatchNorm2d(10)
            self.act, self.middle, self.side = nn.ReLU6(), nn.Conv2d(10, 5, 1), nn.Conv2d(3, 5, 1)
            self.classify = nn.Linear(5, 4)

        def forward(self, x: Tensor) -> Tensor:
            joined = self.act(self.norm(torch.cat([self.left(x), self.right(x)], 1)))
            y: Tensor = self.classify((self.middle(joined) + self.side(x)).clamp(min=0).mean((2, 3)))
            return y

    torch.manual_seed(0)
    model, context = Joined().eval(), context_of(64)
    with torch.no_grad():
        for name, index in (("left", 1), ("right", 4), ("middle", 2), ("side", 2)):
            model.get_parameter(f"{name}.bias")[index] = -100
    found = found_in(model)
    scores = dict(
        zip((g.layers for g in found.groups), group_scores(found.groups, found, "apoz", context), strict=True)
    )
    x = torch.cat([x for x, _ in samples(context, 32)])
    with torch.no_grad():
        joined = model.act(model.norm(torch.cat([model.left(x), model.right(x)], 1)))
        summed = (model.middle(joined) + model.side(x)).clamp(min=0)
    for layers, value in ((("left",), joined[:, :4]), (("right",), joined[:, 4:]), (("middle", "side"), summed)):
        nonzero = (value != 0).double().transpose(0, 1).flatten(1).mean(1)
        match = next(score for names, score in scores.items() if set(names) == set(layers))
        np.testing.assert_allclose(match.numpy(), nonzero.numpy(), rtol=1e-9)
        assert int((match == 0).sum()) == 1, "the dead one"


def test_activations_of_transposed_convolutions_and_layers_called_twice() -> None:
    class Up(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.grouped = nn.ConvTranspose2d(4, 6, 2, 2, groups=2)
            self.depthwise = nn.ConvTranspose2d(6, 12, 2, 2, groups=6)
            self.twice = nn.Linear(12, 12)

        def forward(self, x: Tensor) -> Tensor:
            x = self.depthwise(self.grouped(x)).mean((2, 3))
            y: Tensor = self.twice(self.twice(x))
            return y

    torch.manual_seed(0)
    model, context = Up().eval(), context_of(32, (4, 4, 4))
    parameters = dict(model.named_parameters())
    sites = [("grouped.weight", 1), ("depthwise.weight", 0), ("twice.weight", 0)]
    scores = ActivationMean(batches=1).site_scores(sites, model, parameters, context)
    ((x, _),) = samples(context, 32)
    with torch.no_grad():
        first = model.grouped(x)
        second = model.depthwise(first)
        third = model.twice(second.mean((2, 3)))
        fourth = model.twice(third)
    grouped = first.abs().mean((0, 2, 3)).view(2, 3).mean(0)
    np.testing.assert_allclose(scores[sites[0]].numpy(), grouped.numpy(), rtol=1e-5)
    depthwise = second.abs().mean((0, 2, 3)).view(6, 2).mean(1)
    np.testing.assert_allclose(scores[sites[1]].numpy(), depthwise.numpy(), rtol=1e-5)
    np.testing.assert_allclose(scores[sites[2]].numpy(), ((third.abs() + fourth.abs()) / 2).mean(0).numpy(), rtol=1e-5)


def own(weight: Tensor, axis: int) -> Tensor:
    return weight.movedim(axis, 0).flatten(1).abs().amax(1)


@pytest.mark.parametrize("criterion", ["l1", "l2", "bn_scale", "fpgm", "lamp", *DATA_DRIVEN, own])
def test_planted_dead_channels_go_and_no_others(criterion: Any) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip
    torch.manual_seed(0)
    for module in model:
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.uniform_(module.weight, 0.3, 0.6)
            module.weight.data *= torch.randint(0, 2, module.weight.shape) * 2 - 1
    dead = {0: (1, 4, 6), 3: (0, 2, 7)}
    with torch.no_grad():
        for place, gone in dead.items():
            for tensor in (model[place].weight, model[place].bias, model[place + 1].weight):
                assert isinstance(tensor, Tensor)
                tensor[list(gone)] = 0
            live = [i for i in range(8) if i not in gone]
            model[place + 1].bias[live] = torch.linspace(0.2, 0.5, 5)  # type: ignore[operator]
    context = context_of(64)
    result = Prune(ratio=3 / 8, criterion=criterion, select="global", round_to=1).apply(model.eval(), context)
    kept = {int(e.layer): e.kept for e in result.edits if e.what == "weight" and e.axis == 0 and e.layer in "03"}
    assert kept == {place: tuple(i for i in range(8) if i not in gone) for place, gone in dead.items()}
    (x, _), *_ = samples(context, 32)
    torch.testing.assert_close(result.model(x), model(x))


def coupled() -> tuple[nn.Module, Channels, int]:
    """The block, its channels, and which group is that of the residual sum."""
    found = found_in_block()
    return found.graph.model, found, next(i for i, group in enumerate(found.groups) if len(group.layers) == 2)


@pytest.mark.parametrize("aggregate", ["mean", "max", "sum", "first"])
@pytest.mark.parametrize("normalize", ["mean", "max", "gaussian", "none"])
def test_coupled_layers(aggregate: Any, normalize: Any) -> None:
    model, found, residual = coupled()
    scores = group_scores(found.groups, found, "l2", Context((IMAGE,)), aggregate=aggregate, normalize=normalize)
    rows = []
    for name in ("stem.weight", "outer.weight"):
        norms = model.get_parameter(name).detach().double().flatten(1).norm(dim=1).numpy()
        divided = {
            "mean": norms / norms.mean(), "max": norms / norms.max(),
            "gaussian": (norms - norms.mean()) / norms.std(), "none": norms,
        }[normalize]  # fmt: skip
        rows.append([np.mean(divided[list(u.cuts[name, 0])]) for u in found.groups[residual].units])
    together = {"mean": np.mean, "max": np.max, "sum": np.sum, "first": lambda rows, _: rows[0]}[aggregate]
    np.testing.assert_allclose(scores[residual].numpy(), together(np.array(rows), 0), rtol=1e-9)  # type: ignore[operator]


def test_all_members_are_those_of_depgraph() -> None:
    """Squared norms of all weights of the group, in and out, summed: Fang et al. (2023)."""
    model, found, residual = coupled()

    def squares(weight: Tensor, axis: int) -> Tensor:
        return filter_norms(weight, axis, 2).square()

    scores = group_scores(found.groups, found, squares, Context((IMAGE,)), aggregate="sum", members="all")
    expected = []
    for unit in found.groups[residual].units:
        total = 0.0
        for name, axis in (("stem.weight", 0), ("outer.weight", 0), ("stem_norm.weight", 0), ("inner.weight", 1),
                           ("grouped.weight", 1)):  # fmt: skip
            weight = model.get_parameter(name).detach().double().movedim(axis, 0)
            total += float(np.mean([float(weight[i].square().sum()) for i in unit.cuts[name, axis]]))
        expected.append(total)
    np.testing.assert_allclose(scores[residual].numpy(), expected, rtol=1e-9)


def test_lamp_orders_a_group_by_its_squared_norms() -> None:
    _, found, residual = coupled()
    scores = group_scores(found.groups, found, "lamp", Context((IMAGE,)))
    assert all(float(score.max()) == 1.0 and float(score.min()) > 0 for score in scores)
    group = found.groups[residual]
    shares = sum(
        (norms / norms.mean())[torch.tensor([u.cuts[site] for u in group.units])].mean(1)
        for site, norms in (
            (site, filter_norms(found.graph.model.get_parameter(site[0]), 0, 2).square()) for site in group.filters
        )
    )
    assert isinstance(shares, Tensor)
    assert torch.equal(scores[residual].argsort(), shares.argsort())


def test_random_follows_the_seed() -> None:
    _, found, _ = coupled()
    first, again, other = (
        group_scores(found.groups, found, "random", Context((IMAGE,), seed=seed)) for seed in (3, 3, 4)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0]) and not torch.equal(first[0][:6], first[1][:6])


@pytest.mark.parametrize("criterion", DATA_DRIVEN)
def test_scores_from_data_follow_the_seed_and_see_a_bounded_number_of_batches(criterion: str) -> None:
    asked: list[tuple[int, object]] = []

    class Counted(SampleSplit):
        def batches(self, batch_size: int, *, augment: Any = None, **options: Any) -> Any:
            for batch in super().batches(batch_size, augment=augment, **options):
                asked.append((len(batch[0]), augment))
                yield batch

    context = context_of(200)
    assert context.data is not None
    split = context.data.split("train")
    assert isinstance(split, SampleSplit)
    counted = Context((IMAGE,), Data("made", {"train": Counted(split.inputs, split.labels)}))
    found = found_in_block()
    groups = [group for group in found.groups if CRITERIA.read(criterion).blind_to(group, found) is None]
    first = group_scores(groups, found, criterion, counted, batches=2)
    assert 64 <= sum(count for count, _ in asked) <= 96 and {augment for _, augment in asked} == {None}
    again = group_scores(groups, found, criterion, context, batches=2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_a_loaders_batches_are_cut_to_size() -> None:
    context = context_of(64)
    x, y = torch.cat([x for x, _ in samples(context, 32)]), torch.cat([y for _, y in samples(context, 32)])
    loader = Context((IMAGE,), Data("loader", {"train": LoaderSplit([(x, y)])}))
    found = found_in_block()
    for criterion in ("taylor", "apoz"):
        pair = [group_scores(found.groups, found, criterion, c) for c in (context, loader)]
        for a, b in zip(*pair, strict=True):
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-6)


def test_activations_of_a_network_for_one_batch_size() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.classify = nn.Conv2d(3, 6, 3), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.classify(relu(self.conv(x)).mean((2, 3)).view(4, -1))
            return y

    torch.manual_seed(0)
    model, example = Fixed().eval(), torch.zeros(4, 3, 8, 8)
    context = context_of(32)
    found = found_in(model, example)
    (score,) = group_scores(found.groups, found, "activation_mean", Context((example,), context.data), normalize="none")
    ((x, _),) = samples(context, 32)
    np.testing.assert_allclose(score.numpy(), model.conv(x).abs().mean((0, 2, 3)).detach().numpy(), rtol=1e-5)


def test_a_criterion_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "LIMIT = 3\n"
        "def norm(weight, axis, order=2):\n    return weight.movedim(axis, 0).flatten(1).norm(order, dim=1)\n"
    )
    model, context = block(), Context((IMAGE,))
    found = found_in(model)

    def scores(criterion: Any) -> list[Tensor]:
        return group_scores(found.groups, found, criterion, context, normalize="mean")

    for text, name in ((f"{tmp_path}/own.py:norm", "l2"), (f"{tmp_path}/own.py:norm:order=1", "l1")):
        for a, b in zip(scores(text), scores(name), strict=True):
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-5)
    pair = [
        Prune(ratio=0.5, criterion=c, round_to=1).apply(model, context).edits for c in (f"{tmp_path}/own.py:norm", "l2")
    ]
    assert pair[0] == pair[1]
    for text, message in (
        (f"{tmp_path}/own.py:nrom", r"has no nrom; it has norm"),
        (f"{tmp_path}/own.py:LIMIT", r"expected a function \(weight, axis\) -> scores, got int"),
        (f"{tmp_path}/gone.py:norm", "no such file"),
    ):
        with pytest.raises(InvalidInput, match=message):
            scores(text)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda weight, axis: torch.ones(3), r"expected a tensor of 8 scores, .*got shape \(3,\)"),
        (lambda weight, axis: weight.flatten(1).norm(dim=1) * float("nan"), "8 of 8 scores are not finite"),
        (lambda weight, axis: [1.0] * weight.shape[axis], "expected a tensor of 8 scores, .*got list"),
        (lambda weight: weight, "it failed: TypeError"),
    ],
)
def test_bad_criteria_of_ones_own(function: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=rf"criterion .*<lambda> on stem\.weight, dimension 0: {message}"):
        Prune(ratio=0.5, criterion=function, round_to=1).apply(block(), Context((IMAGE,)))


def test_scores_below_zero_have_no_mean_to_divide_by() -> None:
    found = found_in_block()

    def negative(weight: Tensor, axis: int) -> Tensor:
        return -fpgm(weight, axis)

    with pytest.raises(InvalidInput, match=r"scores below zero on stem\.weight.*normalize by gaussian or none"):
        group_scores(found.groups, found, negative, Context((IMAGE,)), normalize="mean")
    with pytest.raises(InvalidInput, match="lamp divides magnitudes"):
        group_scores(found.groups, found, "lamp", Context((IMAGE,)), normalize="gaussian")


@pytest.mark.parametrize("criterion", DATA_DRIVEN)
def test_data_that_is_missing_or_does_not_fit(criterion: str) -> None:
    found = found_in_block()

    def score(data: Data | None) -> list[Tensor]:
        return group_scores(found.groups, found, criterion, Context((IMAGE,), data))

    images = torch.randn(8, 3, 8, 8)
    for data, message in (
        (None, "looks at samples, and no data is given; give --data"),
        (Data("d", {"test": SampleSplit(images, None)}), "data d has only test"),
        (Data("d", {"train": SampleSplit(images[:0], None)}), "the train split is empty"),
        (Data("d", {"train": SampleSplit(images[:, :, :4], torch.zeros(8).long())}), r"\(3, 4, 8\).*\(3, 8, 8\)"),
        (Data("d", {"train": SampleSplit(images / 0, torch.zeros(8).long())}), "hold NaN or infinity"),
    ):
        with pytest.raises(InvalidInput, match=rf"prune: criterion {criterion}.*{message}"):
            score(data)


def test_labels_that_are_missing_or_do_not_fit() -> None:
    found, images = found_in_block(), torch.randn(8, 3, 8, 8)

    def score(criterion: str, labels: Tensor | None) -> list[Tensor]:
        data = Data("d", {"calibration": SampleSplit(images, labels)})
        return group_scores(found.groups, found, criterion, Context((IMAGE,), data))

    with pytest.raises(InvalidInput, match=r"criterion taylor: training: labels go up to 10, and the network has 4"):
        score("taylor", torch.full((8,), 10))
    for criterion in ("taylor", "obd"):
        assert all(bool((s >= 0).all()) and len(s.unique()) > 1 for s in score(criterion, None)), "targets are drawn"
    pooled = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1)).eval()
    found = found_in(pooled)
    assert all(bool((s >= 0).all()) and len(s.unique()) > 1 for s in score("obd", None)), "it need be no classifier"
    assert torch.equal(score("taylor", None)[0], score("taylor", torch.zeros(8))[0]), "labels of no task are not used"


def test_what_a_criterion_cannot_tell_apart() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.SiLU(), nn.Flatten(), nn.Linear(128, 4)
    ).eval()
    found = found_in(model)
    reasons = [
        [CRITERIA.read(name).blind_to(group, found) for group in found.groups] for name in ("bn_scale", "apoz", "l2")
    ]
    assert reasons == [
        [None, "bn_scale: no batch normalization follows"],
        [None, "apoz: no activation with zeros (ReLU) follows"],
        [None, None],
    ]
    with pytest.raises(InvalidInput, match=r"criterion apoz tells nothing about 3: no activation with zeros"):
        group_scores(found.groups, found, "apoz", context_of())
