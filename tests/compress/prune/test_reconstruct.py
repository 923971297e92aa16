"""Least squares against numpy, patches against torch's unfold, exact recovery, the guard, and batch norm statistics."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import models
from compress.core.least_squares import LeastSquares, patches
from compress.data import Data, SampleSplit
from compress.edits import replay
from compress.errors import InvalidInput
from compress.graph.trace import trace
from compress.prune.channels.groups import channels
from compress.prune.repair import REPAIRS, repair
from compress.prune.repair.reconstruct import reconstruct
from compress.stage import Context, Edit
from compress.training.batch_norm import reestimate_batch_norm

BOTH = (REPAIRS.read("recalibrate_bn"), REPAIRS.read("reconstruct"))
RECALIBRATED = BOTH[:1]


def samples(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cut(model: nn.Module, image: Tensor, choice: dict[str, Sequence[int]]) -> tuple[nn.Module, tuple[Edit, ...]]:
    """A copy of ``model`` without these output channels of these layers."""
    found = channels(trace(copy.deepcopy(model), (image,)))
    units = [
        unit
        for layer, indices in choice.items()
        for group in found.groups
        if layer in group.layers
        for unit in group.units
        if set(unit.cuts[f"{layer}.weight", 0]) & set(indices)
    ]
    changes = found.edits(units)
    pruned = copy.deepcopy(model)
    replay(pruned, changes)
    return pruned, changes


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_streamed_normal_equations_are_numpys_least_squares(centred: bool, ridge: float) -> None:
    generator = np.random.default_rng(0)
    x, y = generator.normal(2.0, 1.0, (2, 60, 5)), generator.normal(-1.0, 3.0, (2, 60, 3))
    equations = LeastSquares(centred)
    for start in range(0, 60, 17):
        part = slice(start, start + 17)
        equations.add(torch.from_numpy(x[:, part]), torch.from_numpy(y[:, part]))
    delta, shift = equations.solve(ridge)
    for g in range(2):
        a, b = x[g], y[g]
        inner = a - a.mean(0) if centred else a
        weight = np.sqrt(ridge * np.square(inner).sum() / 5)
        rows = np.hstack([a, np.ones((60, 1))]) if centred else a
        penalty = np.eye(5, rows.shape[1]) * weight
        expected = np.linalg.lstsq(np.vstack([rows, penalty]), np.vstack([b, np.zeros((5, 3))]), rcond=None)[0]
        np.testing.assert_allclose(delta[g], expected[:5], atol=1e-10)
        np.testing.assert_allclose(shift[g], expected[5] if centred else np.zeros(3), atol=1e-10)


def test_inputs_that_are_always_zero_do_not_stop_the_solution() -> None:
    x, y = samples(1, 50, 4).double(), samples(1, 50, 2, seed=1).double()
    x[..., 2] = 0
    equations = LeastSquares(centred=False)
    equations.add(x, y)
    delta, _ = equations.solve(0.0)
    expected = np.linalg.lstsq(x[0].numpy(), y[0].numpy(), rcond=None)[0]
    np.testing.assert_allclose(delta[0], expected, atol=1e-9)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3), nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2)),
        nn.Conv2d(4, 6, 3, padding=1, groups=2), nn.Conv2d(4, 6, 3, padding=2, padding_mode="reflect"),
        nn.Conv2d(4, 6, 4, padding="same"), nn.Conv1d(4, 6, 5, stride=3, padding=2), nn.Conv3d(4, 6, 2, padding=1),
        nn.Conv2d(4, 8, 3, padding=1, groups=4),
    ],
    ids=str,
)  # fmt: skip
def test_patches_times_weights_are_the_convolution(layer: nn.Conv2d) -> None:
    x = samples(3, 4, *(9, 8, 7)[: layer.weight.ndim - 2])
    y = layer(x)
    flat = y.movedim(1, -1).reshape(-1, y.shape[1])
    at = torch.randperm(len(flat))[:40]
    rows = patches(layer, x, y.shape[2:], at)
    weight = layer.weight.reshape(layer.groups, -1, rows.shape[-1])
    assert layer.bias is not None
    found = torch.einsum("pgi,goi->pgo", rows, weight).reshape(len(at), -1) + layer.bias
    torch.testing.assert_close(found, flat[at], rtol=1e-4, atol=1e-5)


def redundant(second: nn.Module, flat: bool = False) -> nn.Module:
    """A convolution whose channel 7 is 0.5 times channel 2, also after the ReLU, then ``second`` and a classifier."""
    torch.manual_seed(0)
    first = nn.Conv2d(3, 8, 3, padding=1)
    with torch.no_grad():
        first.weight[7] = 0.5 * first.weight[2]
        first.bias[7] = 0.5 * first.bias[2]  # type: ignore[index]
    tail = [nn.Flatten()] if flat else []
    return nn.Sequential(first, nn.ReLU(), *tail, second).double().eval()


@pytest.mark.parametrize(
    ("second", "flat"),
    [(nn.Conv2d(8, 5, 3, padding=1), False), (nn.Conv2d(8, 5, 3, stride=2, bias=False), False),
     (nn.Linear(8 * 36, 5), True), (nn.Linear(8 * 36, 5, bias=False), True)],
    ids=str,
)  # fmt: skip
def test_a_channel_that_the_others_make_up_for_is_restored_exactly(second: nn.Module, flat: bool) -> None:
    model, x = redundant(second, flat), samples(400, 3, 6, 6)
    pruned, changes = cut(model, x[:1].double(), {"0": [7]})
    fresh = samples(20, 3, 6, 6, seed=9).double()
    assert (pruned(fresh) - model(fresh)).abs().max() > 1e-2
    done, skipped = reconstruct(model, pruned, changes, SampleSplit(x, None), ridges=(0.0,))
    assert [edit.layer for edit in done] == ["3" if flat else "2"] and not skipped
    assert done[0].before > 1e-4 and done[0].after < 1e-15  # type: ignore[operator]
    assert (pruned(fresh) - model(fresh)).abs().max() < 1e-8


def test_the_outputs_that_are_left_are_matched_and_grouped_layers_are_refit() -> None:
    torch.manual_seed(1)
    first = nn.Conv2d(3, 8, 1)
    with torch.no_grad():  # each group has a channel that another one of it makes up for
        for gone, source in ((3, 1), (7, 5)):
            first.weight[gone] = first.weight[source]
            first.bias[gone] = first.bias[source]  # type: ignore[index]
    model = nn.Sequential(first, nn.ReLU(), nn.Conv2d(8, 6, 3, groups=2), nn.ReLU(), nn.Conv2d(6, 4, 1)).double().eval()
    x = samples(300, 3, 5, 5)
    pruned, changes = cut(model, x[:1].double(), {"0": [3]})
    assert pruned.get_parameter("2.weight").shape == (6, 3, 3, 3)
    reconstruct(model, pruned, changes, SampleSplit(x, None), ridges=(0.0,))
    fresh = samples(10, 3, 5, 5, seed=5).double()
    assert (pruned(fresh) - model(fresh)).abs().max() < 1e-8
    both, changes = cut(model, x[:1].double(), {"0": [3], "2": [1, 4]})
    reconstruct(model, both, changes, SampleSplit(x, None), ridges=(0.0,))
    kept = next(e.kept for e in changes if (e.layer, e.what, e.axis) == ("2", "weight", 0))
    assert kept is not None
    torch.testing.assert_close(both[:3](fresh), model[:3](fresh)[:, list(kept)], rtol=0, atol=1e-8)  # type: ignore[index]


def test_later_layers_see_the_repaired_ones() -> None:
    """The last refit solves the least squares over the inputs that the network has in the end."""
    torch.manual_seed(2)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 4),
    ).double().eval()  # fmt: skip
    x = samples(200, 3, 8, 8)
    pruned, changes = cut(model, x[:1].double(), {"0": [0, 1, 2], "2": [3, 4, 5]})
    done, _ = reconstruct(model, pruned, changes, SampleSplit(x, None), ridges=(0.0,))
    assert [edit.layer for edit in done] == ["2", "6"]
    order = torch.cat([b for b, *_ in SampleSplit(torch.arange(200)[:, None], None).batches(32, shuffle_seed=(0, 0))])
    held = torch.cat([torch.arange(len(part)) % 4 == 3 for part in order.split(32)])
    used = x[order.flatten().long()][~held].double()
    with torch.no_grad():
        inputs, target = pruned[:6](used), model(used)  # type: ignore[index]
    rows = np.hstack([inputs.numpy(), np.ones((len(used), 1))])
    expected = np.linalg.lstsq(rows, target.numpy(), rcond=None)[0]
    np.testing.assert_allclose(pruned.get_parameter("6.weight").detach().T, expected[:-1], atol=1e-8)
    np.testing.assert_allclose(pruned.get_parameter("6.bias").detach(), expected[-1], atol=1e-8)


def test_a_refit_that_does_not_help_on_samples_held_out_is_not_made() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 3)).double().eval()
    x = samples(12, 40)  # nine samples for 39 weights
    pruned, changes = cut(model, x[:1].double(), {"0": [5]})
    before = copy.deepcopy(pruned.state_dict())
    done, skipped = reconstruct(model, pruned, changes, SampleSplit(x, None), ridges=(0.0,))
    if not done:
        assert "held out" in skipped[0].reason
    noise = copy.deepcopy(pruned)
    noise.load_state_dict(before)
    _, skipped = reconstruct(model, noise, changes, SampleSplit(x, None), samples=4, ridges=(0.0,))
    assert [skip.layer for skip in skipped] == ["1"] and "held out" in skipped[0].reason
    assert all(torch.equal(a, b) for a, b in zip(noise.state_dict().values(), before.values(), strict=True))


class Odd(nn.Module):
    """Layers that are not refit: a transposed convolution, one called twice, one called by its weight, a tied one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 1)
        self.up = nn.ConvTranspose2d(8, 4, 2)
        self.twice = nn.Conv2d(8, 4, 1)
        self.called = nn.Conv2d(8, 4, 1)
        self.tied = nn.Conv2d(8, 4, 1)
        self.other = nn.Conv2d(8, 4, 1)
        self.other.weight = self.tied.weight

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        again = self.twice(x) + self.twice(x * 2) + functional.conv2d(x, self.called.weight, self.called.bias)
        return again + self.up(x)[:, :, 1:, 1:] + self.tied(x) + self.other(x)


def test_what_cannot_be_refit_is_told() -> None:
    torch.manual_seed(0)
    model, x = Odd().eval(), samples(64, 3, 4, 4)
    pruned, changes = cut(model, x[:1], {"first": [1, 2]})
    before = copy.deepcopy(pruned.state_dict())
    done, skipped = reconstruct(model, pruned, changes, SampleSplit(x, None))
    reasons = {skip.layer: skip.reason for skip in skipped}
    assert not done and "transposed" in reasons["up"] and "2 times" in reasons["twice"]
    assert "in another way" in reasons["called"] and "shares its weight" in reasons["tied"]
    assert all(torch.equal(a, b) for a, b in zip(pruned.state_dict().values(), before.values(), strict=True))


def test_repair_brings_a_pruned_resnet_nearer() -> None:
    torch.manual_seed(0)
    model = models.build("resnet20", width=8, num_classes=5)
    x = samples(160, 3, 16, 16)
    reestimate_batch_norm(model.eval(), SampleSplit(x, None))
    choice = {f"layer{i}.{j}.conv1": range(0, 8 * 2 ** (i - 1), 4) for i in (1, 2, 3) for j in range(3)}
    pruned, changes = cut(model, x[:1], choice)  # type: ignore[arg-type]
    fresh = samples(64, 3, 16, 16, seed=3)
    with torch.no_grad():
        before = float((pruned(fresh) - model(fresh)).norm())
        modes = [module.training for module in pruned.modules()]
        done, skipped = repair(
            model, pruned, changes, Context((x[:1],), Data("noise", {"calibration": SampleSplit(x, None)})), BOTH
        )
        after = float((pruned(fresh) - model(fresh)).norm())
    assert after < 0.75 * before
    assert modes == [module.training for module in pruned.modules()]
    refit = [edit for edit in done if edit.what == "relative output error"]
    assert len(refit) + sum("not refit" in skip.reason for skip in skipped) == 9
    assert all(edit.after < edit.before and edit.kind == "weights" for edit in refit)  # type: ignore[operator]
    assert sum(edit.what == "running statistics" for edit in done) == 21


def test_statistics_that_lead_away_from_the_original_are_not_taken() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    model.get_buffer("1.running_mean").fill_(0.5)  # of other data than what calibrates
    model.get_buffer("1.running_var").fill_(4.0)
    x = samples(64, 3, 6, 6)
    pruned, changes = cut(model, x[:1], {"0": [1]})
    before = copy.deepcopy(pruned.state_dict())
    context = Context((x[:1],), Data("other", {"calibration": SampleSplit(x, None)}))
    done, skipped = repair(model, pruned, changes, context, RECALIBRATED)
    assert not done and "away from" in skipped[-1].reason
    assert all(torch.equal(a, b) for a, b in zip(pruned.state_dict().values(), before.values(), strict=True))


def test_repair_needs_calibration_samples(small_net: nn.Module) -> None:
    context = Context((samples(1, 1, 8, 8),))
    with pytest.raises(InvalidInput, match="calibration"):
        repair(small_net, copy.deepcopy(small_net), (), context, BOTH)
    only_test = Data("d", {"test": SampleSplit(samples(4, 1, 8, 8), None)})
    with pytest.raises(InvalidInput, match="no calibration samples"):
        repair(small_net, copy.deepcopy(small_net), (), Context(context.example_inputs, only_test), BOTH)
    assert repair(small_net, small_net, (), context, ()) == ((), ())


def test_batch_norm_statistics_are_the_averages_of_the_batches() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, momentum=0.3), nn.ReLU(), nn.Dropout(0.9), nn.Conv2d(3, 4, 1),
        nn.BatchNorm2d(4),
    ).double().eval()  # fmt: skip
    x = samples(70, 2, 6, 6)
    weights = [p.clone() for p in model.parameters()]
    done, skipped = reestimate_batch_norm(model, SampleSplit(x, None), batches=3, batch_size=16, seed=4)
    assert [edit.layer for edit in done] == ["1", "5"] and done[0].after == "of 48 calibration samples" and not skipped
    means: list[list[Tensor]] = [[], []]
    variances: list[list[Tensor]] = [[], []]
    batches = [b for b, *_ in SampleSplit(x, None).batches(16, shuffle_seed=(4, 0))][:3]
    for batch in batches:
        value = batch.double()
        for i, start in enumerate((0, 4)):
            value = model[start](value)
            means[i].append(value.mean((0, 2, 3)))
            variances[i].append(value.transpose(0, 1).flatten(1).var(1))
            value = torch.relu(functional.batch_norm(value, None, None, training=True))
    for i, name in enumerate(("1", "5")):
        torch.testing.assert_close(model.get_buffer(f"{name}.running_mean"), torch.stack(means[i]).mean(0))
        torch.testing.assert_close(model.get_buffer(f"{name}.running_var"), torch.stack(variances[i]).mean(0))
    assert model.get_submodule("1").momentum == 0.3 and not any(module.training for module in model.modules())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), weights, strict=True))


def test_batch_norm_statistics_of_augmented_samples() -> None:
    """Cropping pads with zeros, which lowers the mean of bright images."""
    model = nn.Sequential(nn.BatchNorm2d(1)).eval()
    split = SampleSplit(torch.full((64, 1, 16, 16), 200, dtype=torch.uint8), None)
    reestimate_batch_norm(model, split)
    assert float(model.get_buffer("0.running_mean")) == pytest.approx(200)
    reestimate_batch_norm(model, split, augment=("crop",))
    assert 150 < float(model.get_buffer("0.running_mean")) < 190


def test_batch_norm_statistics_that_stay() -> None:
    class Partly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
            self.stateless = nn.BatchNorm2d(2, track_running_stats=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.stateless(self.used(x))

    model, split = Partly().train(), SampleSplit(samples(16, 2, 4, 4), None)
    model.unused.running_mean.fill_(7.0)  # type: ignore[union-attr]
    done, skipped = reestimate_batch_norm(model, split)
    assert [edit.layer for edit in done] == ["used"] and model.training
    assert {skip.layer: skip.reason for skip in skipped} == {
        "unused": "is not called: its statistics stay",
        "stateless": "has no running statistics: it always takes the batch's",
    }
    assert torch.equal(model.unused.running_mean, torch.full((2,), 7.0))  # type: ignore[arg-type]
    plain = nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU())
    state = copy.deepcopy(plain.state_dict())
    assert reestimate_batch_norm(plain, split) == ((), ())
    assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), state.values(), strict=True))


def test_batches_without_a_variance_are_an_error_and_change_nothing() -> None:
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(8)).eval()
    model.get_buffer("1.running_mean").fill_(3.0)
    with pytest.raises(InvalidInput, match="one value per channel"):
        reestimate_batch_norm(model, SampleSplit(samples(1, 8), None))
    assert torch.equal(model.get_buffer("1.running_mean"), torch.full((8,), 3.0)) and not model.training
