"""Folding keeps the outputs, whatever the layer, and says why where it cannot be done."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from compress.edits import from_json, replay, to_json
from compress.fold import Fold
from compress.stage import Context, Result, Stage
from tests.support.random_weights import randomized
from tests.support.zoo_networks import every_network, small

torch.set_num_threads(1)

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def norms_of(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, _BatchNorm)]


def relative_change(before: Tensor, after: Tensor) -> float:
    return float((before - after).abs().max() / before.abs().max())


def fold(model: nn.Module, *inputs: Tensor) -> Result:
    return Fold().apply(model, Context(example_inputs=inputs))


def folds_away(model: nn.Module, *inputs: Tensor) -> Result:
    """Nothing is left of the batch norms, and the outputs stay, in float32 and to more digits in float64."""
    result = fold(model, *inputs)
    assert norms_of(result.model) == []
    assert result.skipped == ()
    with torch.no_grad():
        assert relative_change(model(*inputs), result.model(*inputs)) < 1e-5
    double_inputs = tuple(x.double() for x in inputs)
    double = copy.deepcopy(model).double()
    in_double = fold(double, *double_inputs)
    with torch.no_grad():
        assert relative_change(double(*double_inputs), in_double.model(*double_inputs)) < 1e-12
    return result


def reason(result: Result, layer: str) -> str:
    (found,) = [skip.reason for skip in result.skipped if skip.layer == layer]
    return found


def image(channels: int, size: int = 6, batch: int = 2) -> Tensor:
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(3))


@settings(max_examples=25, deadline=None)
@given(
    dimensions=st.sampled_from([1, 2, 3]),
    transposed=st.booleans(),
    bias=st.booleans(),
    groups=st.sampled_from([1, 2, 4]),
    per_group=st.sampled_from([(1, 1), (1, 2), (3, 1), (2, 3)]),
    padding=st.integers(0, 1),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 2),
    affine=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_convolution_takes_the_batch_norm_after_it_in(
    dimensions: int,
    transposed: bool,
    bias: bool,
    groups: int,
    per_group: tuple[int, int],
    padding: int,
    stride: int,
    dilation: int,
    affine: bool,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    kind = (TRANSPOSED if transposed else CONVOLUTIONS)[dimensions]
    layer = kind(
        groups * per_group[0],
        groups * per_group[1],
        3,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias=bias,
    )
    norm = NORMS[dimensions](groups * per_group[1], affine=affine)
    model = randomized(nn.Sequential(layer, norm), seed)
    folds_away(model, torch.randn(2, groups * per_group[0], *[6] * dimensions))


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_convolution_takes_the_batch_norm_before_it_in(
    dimensions: int, transposed: bool, groups: int, bias: bool, affine: bool
) -> None:
    torch.manual_seed(0)
    kind, kernel = (TRANSPOSED[dimensions], 1) if transposed else (CONVOLUTIONS[dimensions], 3)
    layer = kind(4, 6, kernel, groups=groups, bias=bias)
    model = randomized(nn.Sequential(NORMS[dimensions](4, affine=affine), layer))
    folds_away(model, torch.randn(2, 4, *[5] * dimensions))


@pytest.mark.parametrize("bias", [True, False])
def test_linear_takes_batch_norms_in_on_both_sides(bias: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 7, bias=bias), nn.BatchNorm1d(7, affine=False), nn.ReLU())
    folds_away(randomized(model), torch.randn(3, 5))


def test_linear_takes_in_a_batch_norm_whose_channels_are_flattened() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3 * 16, 4))
    folds_away(randomized(model), image(3, 4))


def test_string_paddings() -> None:
    torch.manual_seed(0)
    after = nn.Sequential(nn.Conv2d(3, 4, 3, padding="same"), nn.BatchNorm2d(4))
    folds_away(randomized(after), image(3))
    valid = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding="valid"))
    folds_away(randomized(valid), image(3))
    pointwise = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1, padding="same"))
    folds_away(randomized(pointwise), image(3))
    same = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding="same"))
    assert "pads" in reason(fold(randomized(same), image(3)), "0")


@pytest.mark.parametrize(
    "chain",
    [
        lambda: [nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.BatchNorm2d(4)],
        lambda: [nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)],
        lambda: [nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)],
        lambda: [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3), nn.BatchNorm2d(2)],
        lambda: [nn.Conv2d(3, 4, 3), nn.Dropout2d(0.5), nn.Identity(), nn.BatchNorm2d(4), nn.Dropout(0.5)],
    ],
)
def test_chains(chain: Callable[[], list[nn.Module]]) -> None:
    torch.manual_seed(0)
    folds_away(randomized(nn.Sequential(*chain())), image(3, 8))


@pytest.mark.parametrize("name", every_network())
def test_zoo(name: str) -> None:
    torch.manual_seed(0)
    model = randomized_mildly(small(name))
    x = torch.randn(1, 3, 32, 32)
    if not name.startswith(("densenet", "wrn_16", "wrn_28")):
        folds_away(model, x)
        return
    # before a ReLU that is before a convolution, a batch norm has nothing to go into
    result = fold(model, x)
    assert norms_of(result.model) == [skip.layer for skip in result.skipped]
    assert 0 < len(result.skipped) < len(norms_of(model))
    with torch.no_grad():
        assert relative_change(model(x), result.model(x)) < 1e-5


def randomized_mildly(model: nn.Module) -> nn.Module:
    """Statistics that the network has seen, so that no activation explodes over many layers."""
    model.train()
    with torch.no_grad():
        model(torch.randn(4, 3, 32, 32))
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.affine:
            with torch.no_grad():
                module.weight.add_(0.2 * torch.randn(module.num_features, generator=generator))
                module.bias.add_(0.2 * torch.randn(module.num_features, generator=generator))
    return model.eval()


class OutOfOrder(nn.Module):
    """Modules are declared in another order than that in which they run."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_b = nn.BatchNorm2d(4)
        self.conv_a = nn.Conv2d(4, 4, 3, bias=False)
        self.norm_a = nn.BatchNorm2d(4)
        self.conv_b = nn.Conv2d(4, 4, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm_a(self.conv_a(x)))
        return functional.relu(self.norm_b(self.conv_b(x)))


def test_the_graph_decides_and_not_the_order_of_modules() -> None:
    torch.manual_seed(0)
    model = randomized(OutOfOrder())
    result = folds_away(model, image(4, 8))
    folded_with = {edit.layer: edit.after for edit in result.edits if edit.what == "weight"}
    assert folded_with == {"conv_a": "folded with norm_a", "conv_b": "folded with norm_b"}


def test_the_original_is_untouched() -> None:
    torch.manual_seed(0)
    model = randomized(OutOfOrder())
    model.train()
    before = copy.deepcopy(model.state_dict())
    stage = Fold()
    assert isinstance(stage, Stage)
    result = stage.apply(model, Context(example_inputs=(image(4, 8),)))
    assert model.training
    assert norms_of(model) == ["norm_b", "norm_a"]
    assert model.conv_a.bias is None
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert type(result.model) is OutOfOrder


@pytest.mark.parametrize("name", every_network())
def test_edits_rebuild_the_network_from_its_source(name: str) -> None:
    torch.manual_seed(0)
    result = fold(randomized_mildly(small(name)), torch.randn(1, 3, 32, 32))
    fresh = small(name).eval()
    replay(fresh, [from_json(to_json(edit)) for edit in result.edits])
    fresh.load_state_dict(result.model.state_dict(), strict=True)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(fresh(x), result.model(x))


class Shared(nn.Module):
    """One convolution is called twice, each time followed by a batch norm of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.first = nn.BatchNorm2d(3)
        self.second = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.conv(functional.relu(self.first(self.conv(x)))))


class Tied(Shared):
    """Two convolutions hold the same parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Conv2d(3, 3, 1)
        self.other.weight = self.conv.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.other(functional.relu(self.first(self.conv(x)))))


class TwoConsumers(nn.Module):
    """The convolution's output goes around the batch norm as well."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.norm(y) + y


class Returned(TwoConsumers):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        y = self.conv(x)
        return self.norm(y), y


class CalledTwice(TwoConsumers):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(functional.relu(self.norm(self.conv(x))))


class FeedsTwo(nn.Module):
    """A batch norm before a convolution feeds something else as well."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return self.conv(y) + y


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3)
        self.register_buffer("mean", torch.randn(3))
        self.register_buffer("variance", torch.rand(3) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return functional.batch_norm(self.conv(x), self.mean, self.variance)  # type: ignore[arg-type]


class NormAndActivation(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name that torch gives it
        return functional.relu(super().forward(input))


class LooksAtItsNorm(TwoConsumers):
    """User code that needs the batch norm to be one."""

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) * self.norm.num_features


class HiddenNorm(TwoConsumers):
    """The batch norm is called through a list that torch knows nothing of."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = [self.norm]

    def forward(self, x: Tensor) -> Tensor:
        return self.steps[0](self.conv(x))


class Unused(TwoConsumers):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class KernelOfItsOwn(nn.Module):
    """A convolution as a function, with a parameter and no bias."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(3, 3, 3, 3))
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(functional.conv2d(x, self.kernel))


class Centred(nn.Conv2d):
    """A convolution that computes with another weight than it stores."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.weight - self.weight.mean(), self.bias)


def centred() -> nn.Module:
    return nn.Sequential(Centred(3, 3, 3), nn.BatchNorm2d(3))


SKIPPED: list[tuple[Callable[[], nn.Module], str, str]] = [
    (Shared, "first", "the weights of conv2d of conv are used 2 times"),
    (Shared, "second", "the weights of conv2d of conv are used 2 times"),
    (Tied, "first", "are used 2 times"),
    (TwoConsumers, "norm", "the output of conv2d of conv goes to add as well"),
    (Returned, "norm", "goes to the network's output as well"),
    (CalledTwice, "norm", "called 2 times"),
    (FeedsTwo, "norm", "its output goes to 2 places"),
    (Functional, "", "functional.batch_norm(self.conv(x), self.mean, self.variance)"),
    (Unused, "norm", "no call of it"),
    (KernelOfItsOwn, "norm", "no place for one"),
    (centred, "1", "computed, not stored"),
    (LooksAtItsNorm, "norm", "does not run: AttributeError"),
    (lambda: nn.Sequential(nn.Conv2d(3, 3, 3), NormAndActivation(3)), "1", "relu"),
    (lambda: nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3, track_running_stats=False)), "1", "of the batch"),
    (lambda: nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 3, padding=1)), "0", "pads its input with 0"),
    (lambda: nn.Sequential(nn.BatchNorm2d(3), nn.ConvTranspose2d(3, 3, 3)), "0", "pads its input with 0"),
    (lambda: nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3), nn.ReLU()), "1", "comes from relu of 0"),
    (lambda: nn.Sequential(nn.BatchNorm2d(3), nn.ZeroPad2d(1), nn.Conv2d(3, 3, 3)), "0", "goes to pad of 1"),
]


@pytest.mark.parametrize(("build", "layer", "expected"), SKIPPED)
def test_what_cannot_be_folded_is_left_with_a_reason(build: Callable[[], nn.Module], layer: str, expected: str) -> None:
    torch.manual_seed(0)
    model = randomized(build())
    x = image(3)
    result = fold(model, x)
    assert expected in reason(result, layer)
    assert norms_of(result.model) == norms_of(model)
    assert result.edits == ()
    with torch.no_grad():
        for before, after in zip(model(x), result.model(x), strict=True):
            assert torch.equal(before, after)


def test_one_network_that_folds_in_part() -> None:
    torch.manual_seed(0)
    model = randomized(
        nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), TwoConsumers(), nn.ReLU(), LooksAtItsNorm())
    )
    x = image(3, 10)
    result = fold(model, x)
    assert norms_of(result.model) == ["3.norm", "5.norm"]
    assert {skip.layer for skip in result.skipped} == {"3.norm", "5.norm"}
    with torch.no_grad():
        assert relative_change(model(x), result.model(x)) < 1e-5


def test_a_fold_that_changes_the_outputs_is_not_done() -> None:
    torch.manual_seed(0)
    model = randomized(HiddenNorm())
    x = image(3)
    result = fold(model, x)
    assert "changes the outputs by" in reason(result, "norm")
    assert norms_of(result.model) == ["norm"]
    with torch.no_grad():
        assert torch.equal(model(x), result.model(x))


def test_a_shift_of_zero_passes_a_padding() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(3, affine=False)
    assert norm.running_var is not None
    norm.running_var.copy_(torch.tensor([0.5, 2.0, 3.0]))
    folds_away(nn.Sequential(norm, nn.Conv2d(3, 4, 3, padding=1)).eval(), image(3))


def test_a_norm_with_two_names_is_replaced_under_both() -> None:
    class Alias(TwoConsumers):
        def __init__(self) -> None:
            super().__init__()
            self.steps = nn.Sequential(self.conv, self.norm)

        def forward(self, x: Tensor) -> Tensor:
            return self.steps(x)

    torch.manual_seed(0)
    result = folds_away(randomized(Alias()), image(3))
    assert {edit.layer for edit in result.edits if edit.kind == "module"} == {"norm", "steps.1"}


def test_parameters_in_one_storage_are_folded_apart() -> None:
    class Views(Shared):
        def __init__(self) -> None:
            super().__init__()
            self.other = nn.Conv2d(3, 3, 1)
            self.other.weight = nn.Parameter(self.conv.weight.detach())

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.conv(functional.relu(self.other(x))))

    torch.manual_seed(0)
    model = randomized(Views())
    x = image(3)
    result = fold(model, x)
    with torch.no_grad():
        assert relative_change(model(x), result.model(x)) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_floats(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = randomized(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))).to(dtype)
    x = image(3).to(dtype)
    result = fold(model, x)
    assert norms_of(result.model) == []
    assert {p.dtype for p in result.model.parameters()} == {dtype}
    with torch.no_grad():
        assert relative_change(model(x).float(), result.model(x).float()) < 8 * torch.finfo(dtype).eps


def test_statistics_that_are_not_finite() -> None:
    model = randomized(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)))
    model[1].running_mean[0] = float("nan")  # type: ignore[operator]
    assert "not finite" in reason(fold(model, image(3)), "1")


def test_sequence_inputs_whose_second_dimension_is_no_channel() -> None:
    """A linear layer on (N, L, C) mixes the last dimension; a batch norm after it scales the second."""
    torch.manual_seed(0)
    model = randomized(nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5)))
    result = fold(model, torch.randn(2, 5, 4))
    assert "dimension 1" in reason(result, "1")
    assert norms_of(result.model) == ["1"]
