"""Discrimination-aware scores: closed forms, channels that carry the classes, what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, cross_entropy

from compress.data import Data, SampleSplit
from compress.errors import InvalidInput
from compress.graph.trace import trace
from compress.prune import Prune
from compress.prune.channels.groups import channels
from compress.prune.criteria import CRITERIA
from compress.prune.criteria.discrimination import Head, discrimination_scores
from compress.stage import Context

TOLD = (1, 4)
"""The channels that differ by class."""


def planted(count: int = 192, seed: int = 0) -> Context:
    """Three classes of (6, 4, 4) images: two channels follow the class, the others are noise of the same power."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    images = torch.randn(count, 6, 4, 4, generator=generator)
    for place, channel in enumerate(TOLD):
        mean = torch.tensor([[1.2, -1.2, 0.0], [0.0, 1.2, -1.2]])[place][labels]
        images[:, channel] = 0.2 * images[:, channel] + mean[:, None, None]
    images /= images.square().mean((0, 2, 3), keepdim=True).sqrt()
    return Context((torch.zeros(1, 6, 4, 4),), Data("planted", {"train": SampleSplit(images, labels)}))


def network(seed: int = 0) -> nn.Sequential:
    """Its first layer hands the six channels on, so that they are what is scored at the second."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(6, 6, 1, bias=False), nn.Conv2d(6, 10, 3, padding=1), nn.BatchNorm2d(10), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(10, 3),
    )  # fmt: skip
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(6)[:, :, None, None])  # type: ignore[operator]
    return model.eval()


def samples(context: Context, batches: int) -> list[tuple[Tensor, Tensor]]:
    assert context.data is not None
    return list(context.data.split("train").batches(32, shuffle_seed=(context.seed, 0)))[:batches]


def scored(model: nn.Module, context: Context, names: list[str], axis: int = 1, **options: Any) -> list[Tensor]:
    tensors = dict(model.named_parameters())
    sites = [(name, axis) for name in names]
    found = discrimination_scores(model, tensors, sites, context, **({"batches": 6} | options))
    return [found[site] for site in sites]


@pytest.mark.parametrize("seed", range(2))
def test_channels_that_carry_the_classes_have_the_highest_scores(seed: int) -> None:
    model, context = network(seed), planted(seed=seed)
    found = channels(trace(model, context.example_inputs))
    first = next(i for i, group in enumerate(found.groups) if group.layers == ("0",))
    scores = CRITERIA.read("discrimination").score(found.groups, found, context)[first]
    assert set(scores.argsort(descending=True)[:2].tolist()) == set(TOLD)
    noise = [i for i in range(6) if i not in TOLD]
    assert float(scores[list(TOLD)].min()) > 3 * float(scores[noise].max())
    l1 = CRITERIA.read("l1").score(found.groups, found, context)[first]
    assert float(l1.max() - l1.min()) < 1e-6, "the weights do not tell them apart"
    if seed == 0:
        assert torch.equal(scores, CRITERIA.read("discrimination").score(found.groups, found, context)[first])


def test_the_stage_keeps_them() -> None:
    result = Prune(ratio=2 / 3, criterion="discrimination", round_to=1).apply(network(), planted())
    (kept,) = (edit.kept for edit in result.edits if edit.layer == "0" and edit.what == "weight")
    assert kept == TOLD


def test_reconstruction_alone_is_a_correlation() -> None:
    """Without the classes: dL/dW = -E[(y - b) x] / outputs where W is zero, of a linear layer."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(96, 7), nn.ReLU(), nn.Linear(7, 3)).eval()
    context = planted(64)
    (by_input,) = scored(model, context, ["1.weight"], batches=2, balance=0.0)
    (by_filter,) = scored(model, context, ["1.weight"], axis=0, batches=2, balance=0.0)
    x = torch.cat([x for x, _ in samples(context, 2)]).flatten(1).double().numpy()
    y = x @ model[1].weight.detach().double().numpy().T  # type: ignore[operator]
    gradient = -(y.T @ x) / len(x) / 7
    np.testing.assert_allclose(by_input.numpy(), (gradient**2).sum(0), rtol=1e-4)
    np.testing.assert_allclose(by_filter.numpy(), (gradient**2).sum(1), rtol=1e-4)


def test_the_last_layer_is_judged_by_the_logits() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(96, 3)).eval()
    context = planted(70)
    (found,) = scored(model, context, ["1.weight"], batches=3, balance=2.0)
    used = samples(context, 3)
    assert [len(x) for x, _ in used] == [32, 32]
    x = torch.cat([x for x, _ in used]).flatten(1).double().numpy()
    truth = np.eye(3)[torch.cat([y for _, y in used]).numpy()]
    bias = model[1].bias.detach().double().numpy()  # type: ignore[operator]
    share = np.exp(bias) / np.exp(bias).sum()
    y = x @ model[1].weight.detach().double().numpy().T  # type: ignore[operator]
    gradient = (-(y.T @ x) / 3 + 2.0 * (share - truth).T @ x) / len(x)
    np.testing.assert_allclose(found.numpy(), (gradient**2).sum(0), rtol=1e-4)


def test_a_layer_with_a_classifier_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient by autograd through a convolution and the classifier that was trained, whose bias it learnt."""
    made: list[Head] = []
    initialize = Head.__init__

    def remembered(self: Head, *sizes: int) -> None:
        initialize(self, *sizes)
        made.append(self)

    monkeypatch.setattr(Head, "__init__", remembered)
    model, context = network(), planted()
    (found,) = scored(model, context, ["1.weight"])
    head = made[0].double()
    x, y = (torch.cat(parts) for parts in zip(*samples(context, 6), strict=True))
    x = x.double()
    weight, bias = model[1].weight.detach().double(), model[1].bias.detach().double()  # type: ignore[operator]
    zeros = torch.zeros_like(weight).requires_grad_()

    def logits(values: Tensor) -> Tensor:
        norm = head.norm
        assert norm.running_mean is not None and norm.running_var is not None
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        shifted = (values - norm.running_mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None]
        return head.linear(shifted.clamp(min=0).mean((2, 3)))

    whole, without = conv2d(x, weight, bias, padding=1), conv2d(x, zeros, bias, padding=1)
    loss = (whole - without).square().mean() / 2 + cross_entropy(logits(without), y)
    (gradient,) = torch.autograd.grad(loss, zeros)
    np.testing.assert_allclose(found.numpy(), gradient.square().sum((0, 2, 3)).numpy(), rtol=1e-4)
    with torch.no_grad():
        assert float(cross_entropy(logits(whole), y)) < 0.8 * float(np.log(3)), "the classifier has learnt"


def test_it_leaves_the_network_as_it_was() -> None:
    model, context = network(), planted(64)
    model[1].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        scored(model, context, ["1.weight", "6.weight"], batches=1)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model[1].weight.requires_grad and not model.training


class Mixed(nn.Module):
    """A layer called twice, tokens, groups, a transposed convolution and a weight that is computed on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(6, 8, 2, 2, groups=2)
        self.grouped, self.twice = nn.Conv2d(8, 8, 3, groups=4), nn.Linear(8, 8)
        self.scaled, self.classify = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.grouped(torch.relu_(self.up(x)))).flatten(2).transpose(1, 2)
        x = torch.relu(self.twice(torch.relu(self.twice(x))))
        y: Tensor = self.classify(nn.functional.linear(x, self.scaled.weight * 2).mean(1))
        return y


def test_layers_of_all_kinds() -> None:
    torch.manual_seed(0)
    model, context = Mixed().eval(), planted(64)
    tensors = dict(model.named_parameters())
    sites = [("up.weight", 0), ("grouped.weight", 1), ("twice.weight", 1), ("scaled.weight", 1), ("classify.weight", 1)]
    found = discrimination_scores(model, tensors, sites, context, 2)
    assert {site: len(scores) for site, scores in found.items()} == {
        ("up.weight", 0): 6, ("grouped.weight", 1): 2, ("twice.weight", 1): 8, ("classify.weight", 1): 8
    }  # fmt: skip
    assert all(bool((scores > 0).any()) and scores.dtype == torch.float64 for scores in found.values())


def test_what_is_refused() -> None:
    context = planted(64)
    images = torch.zeros(8, 6, 4, 4)

    def refused(expected: str, labels: Tensor | None, model: nn.Module | None = None) -> None:
        data = Data("bad", {"train": SampleSplit(images, labels)})
        with pytest.raises(InvalidInput, match=expected):
            scored(model or network(), Context(context.example_inputs, data), ["1.weight"])

    refused("needs labels of classes, and the samples have none", None)
    refused(
        r"labels \(N,\) from 0 to 2, as the network has 3 outputs, got torch.int64 of shape \(8,\) up to 3",
        torch.arange(8) % 4,
    )
    refused("needs labels of classes", torch.zeros(8))
    refused("needs labels of classes", torch.arange(8) % 3, network()[:2])
    with pytest.raises(InvalidInput, match="no data is given"):
        scored(network(), Context(context.example_inputs), ["1.weight"])
