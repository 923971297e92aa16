"""Sizes that code holds as attributes follow the cut; code that cannot follow keeps its channels, and is named."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from compress.prune import Prune
from compress.stage import Context, Result
from tests.support.masked_by_hand import Halved, halved, shapes


def conv(i: int, o: int, k: int = 3, **options: int | bool) -> nn.Conv2d:
    return nn.Conv2d(i, o, k, padding=k // 2, **options)  # type: ignore[arg-type]


class Body(nn.Module):
    """A stem, something in the middle, and a head: (N, 3, 8, 8) -> (N, 5)."""

    def __init__(self, width: int = 8, out: int | None = None) -> None:
        super().__init__()
        self.stem, self.head = conv(3, width), nn.Linear(out or width, 5)

    def middle(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(torch.relu(self.stem(x))).mean((2, 3)))


MAPS = (2, 3, 8, 8)


def reasons(result: Result | Halved, layer: str) -> str:
    return "; ".join(skip.reason for skip in result.skipped if skip.layer == layer)


# Normalizations: statistics are of the channels that are left.


class ConvNeXt(Body):
    """A block of Liu et al. (2022): layer norm on channels-last maps, an inverted bottleneck, layer scale."""

    def __init__(self) -> None:
        super().__init__(12)
        self.depthwise, self.norm = conv(12, 12, 7, groups=12), nn.LayerNorm(12)
        self.up, self.down, self.gamma = nn.Linear(12, 24), nn.Linear(24, 12), nn.Parameter(torch.ones(12))
        self.shrink = nn.Conv2d(12, 12, 2, 2)

    def middle(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.gamma * self.down(F.gelu(self.up(y)))
        return self.shrink(x + y.permute(0, 3, 1, 2))


def test_layer_norm_on_channels_last_maps() -> None:
    model = halved(ConvNeXt(), *MAPS).model
    assert shapes(model, "stem", "depthwise", "norm", "up", "down", "gamma", "shrink") == [
        (6, 3, 3, 3), (6, 1, 7, 7), (6,), (12, 6), (6, 12), (6,), (6, 6, 2, 2),
    ]  # fmt: skip
    assert (model.depthwise.groups, model.norm.normalized_shape) == (6, (6,))


class ChannelNorm(nn.Module):
    """Layer normalization over dimension 1, written out; ``kept`` is for the mask of these tests."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.kept: list[int] | None = None

    def forward(self, x: Tensor) -> Tensor:
        part = x if self.kept is None else x[:, self.kept]
        mean = part.mean(1, keepdim=True)
        variance = self.spread(part, mean)
        x = (x - mean) / torch.sqrt(variance + 1e-6)
        return self.weight[:, None, None] * x + self.bias[:, None, None]

    def spread(self, part: Tensor, mean: Tensor) -> Tensor:
        return (part - mean).pow(2).mean(1, keepdim=True)


class ByVar(ChannelNorm):
    def spread(self, part: Tensor, mean: Tensor) -> Tensor:
        return part.var(1, keepdim=True, unbiased=True)


@pytest.mark.parametrize("norm", [ChannelNorm, ByVar])
def test_a_layer_norm_written_out(norm: type[ChannelNorm]) -> None:
    class Normed(Body):
        def __init__(self) -> None:
            super().__init__(12)
            self.norm, self.last = norm(12), conv(12, 12, 1)

        def middle(self, x: Tensor) -> Tensor:
            return torch.tanh(self.last(self.norm(x)))

    model = halved(Normed(), *MAPS).model
    assert shapes(model, "stem", "norm", "last", "head") == [(6, 3, 3, 3), (6,), (6, 6, 1, 1), (5, 6)]


class GroupNormed(Body):
    def __init__(self, groups: int) -> None:
        super().__init__(12)
        self.norm, self.last = nn.GroupNorm(groups, 12), conv(12, 12, 1)

    def middle(self, x: Tensor) -> Tensor:
        return torch.relu(self.last(torch.relu(self.norm(x))))


@pytest.mark.parametrize("groups", [1, 3])
def test_group_norm_loses_the_same_channels_in_every_group(groups: int) -> None:
    model = halved(GroupNormed(groups), *MAPS).model
    assert shapes(model, "stem", "norm", "last") == [(6, 3, 3, 3), (6,), (6, 6, 1, 1)]
    assert (model.norm.num_groups, model.norm.num_channels) == (groups, 6)


def test_a_group_per_channel_cannot_lose_one() -> None:
    result = halved(GroupNormed(12), *MAPS)
    assert shapes(result.model, "stem", "norm", "last") == [(12, 3, 3, 3), (12,), (6, 12, 1, 1)]
    assert reasons(result, "stem")


def test_rms_norm() -> None:
    class Normed(Body):
        def __init__(self) -> None:
            super().__init__(12)
            self.norm, self.last = nn.RMSNorm(12, eps=1e-6), nn.Linear(12, 10)
            self.head = nn.Linear(10, 5)

        def middle(self, x: Tensor) -> Tensor:
            return torch.relu(self.last(self.norm(x.permute(0, 2, 3, 1)))).permute(0, 3, 1, 2)

    model = halved(Normed(), *MAPS).model
    assert shapes(model, "stem", "norm", "last", "head") == [(6, 3, 3, 3), (6,), (5, 6), (5, 5)]
    assert model.norm.normalized_shape == (6,)


class Standardized(nn.Conv2d):
    """A convolution with standardized weights (Qiao et al., 2019), by way of batch normalization as timm writes it.

    ``kept_inputs`` is for the mask of these tests.
    """

    kept_inputs: list[int] | None = None

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight if self.kept_inputs is None else self.weight[:, self.kept_inputs]
        x = x if self.kept_inputs is None else x[:, self.kept_inputs]
        return F.conv2d(x, self.standardized(weight), self.bias, self.stride, self.padding)

    def standardized(self, weight: Tensor) -> Tensor:
        flat = weight.reshape(1, self.out_channels, -1)
        return F.batch_norm(flat, None, None, training=True, eps=1e-6).reshape_as(weight)


class StandardizedByHand(Standardized):
    def standardized(self, weight: Tensor) -> Tensor:
        mean = weight.mean((1, 2, 3), keepdim=True)
        return (weight - mean) / (weight.std((1, 2, 3), keepdim=True) + 1e-5)


@pytest.mark.parametrize("layer", [Standardized, StandardizedByHand])
def test_standardized_weights(layer: type[nn.Conv2d]) -> None:
    """Where inputs go, the mean and deviation of a filter are of what is left of it: no zeroed weight tells that."""

    class Weights(Body):
        def __init__(self) -> None:
            super().__init__(8)
            self.a, self.b = layer(8, 8, 3, padding=1), layer(8, 6, 1)
            self.head = nn.Linear(6, 5)

        def middle(self, x: Tensor) -> Tensor:
            return torch.relu(self.b(torch.relu(self.a(x))))

    model = halved(Weights(), *MAPS).model
    assert shapes(model, "stem", "a", "b", "head") == [(4, 3, 3, 3), (4, 4, 3, 3), (3, 4, 1, 1), (5, 3)]
    assert (model.a.out_channels, model.b.in_channels) == (4, 4)


class Shares(nn.Linear):
    """Shares of the channels by a softmax over them; ``kept`` is for the mask of these tests."""

    kept: list[int] | None = None

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        if self.kept is None:
            return y.softmax(1)
        return torch.zeros_like(y).index_copy(1, torch.tensor(self.kept), y[:, self.kept].softmax(1))


class SoftGate(Body):
    def __init__(self) -> None:
        super().__init__(8)
        self.gate, self.last = Shares(8, 8), conv(8, 8, 1)

    def middle(self, x: Tensor) -> Tensor:
        return torch.relu(self.last(x * self.gate(x.mean((2, 3)))[:, :, None, None]))


def test_softmax_over_channels() -> None:
    model = halved(SoftGate(), *MAPS).model
    assert shapes(model, "stem", "gate", "last", "head") == [(4, 3, 3, 3), (4, 4), (4, 4, 1, 1), (5, 4)]


# Layers that evaluation does not use.


class Auxiliary(Body):
    def __init__(self) -> None:
        super().__init__(8)
        self.a, self.auxiliary = conv(8, 8), nn.Linear(8, 5)
        self.never = nn.Linear(8, 7)

    def middle(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        if self.training:
            self.seen = self.auxiliary(x.mean((2, 3)))
        return x

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y + self.seen if self.training else y


def test_an_auxiliary_head_follows_and_a_layer_never_used_stays() -> None:
    result = halved(Auxiliary(), *MAPS)
    model = result.model
    assert shapes(model, "a", "head", "auxiliary") == [(4, 4, 3, 3), (5, 4), (5, 4)]
    assert model.auxiliary.in_features == 4
    assert shapes(model, "never") == [(7, 8)]
    assert all(edit.layer != "never" for edit in result.edits)


def test_a_layer_never_used_is_told() -> None:
    result = Prune(ratio=0.5, round_to=1).apply(Auxiliary().eval(), Context((torch.randn(MAPS),)))
    assert reasons(result, "never") == "no operation uses it"


# Attributes that the code reads.


class ListOfSizes(Body):
    """Unequal parts, their sizes in a list."""

    def __init__(self) -> None:
        super().__init__(12, 8)
        self.sizes = [4, 8]
        self.a, self.b = conv(4, 8), conv(8, 8)

    def middle(self, x: Tensor) -> Tensor:
        first, second = torch.split(x, self.sizes, dim=1)
        return torch.relu(self.a(first)) + torch.relu(self.b(second))


def test_sizes_in_a_list_follow() -> None:
    model = halved(ListOfSizes(), *MAPS).model
    assert shapes(model, "stem", "a", "b") == [(6, 3, 3, 3), (4, 2, 3, 3), (4, 4, 3, 3)]
    assert model.sizes == [2, 4]


class TwoAttributes(ListOfSizes):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = 4, 8

    def middle(self, x: Tensor) -> Tensor:
        first, second = x.split((self.left, self.right), 1)
        return torch.relu(self.a(first)) + torch.relu(self.b(second))


def test_sizes_in_two_attributes_follow() -> None:
    model = halved(TwoAttributes(), *MAPS).model
    assert shapes(model, "stem", "a", "b") == [(6, 3, 3, 3), (4, 2, 3, 3), (4, 4, 3, 3)]
    assert (model.left, model.right) == (2, 4)


class Slices(Body):
    """Two parts by position, the border in an attribute, as in partial convolutions (Chen et al., 2023)."""

    def __init__(self) -> None:
        super().__init__(12)
        self.part = 4
        self.a, self.last = conv(4, 4), conv(12, 12, 1)

    def middle(self, x: Tensor) -> Tensor:
        first, rest = x[:, : self.part], x[:, self.part :]
        return torch.relu(self.last(torch.cat([torch.relu(self.a(first)), rest], 1)))


def test_a_border_in_an_attribute_follows() -> None:
    model = halved(Slices(), *MAPS).model
    (stem, *_), (a, a_in, *_), (_, last_in, *_) = shapes(model, "stem", "a", "last")
    assert a_in == model.part and last_in == a + stem - model.part
    assert shapes(model, "last")[0][0] == 6
    assert stem < 12 or model.part == 4


class Coincidence(nn.Module):
    """Four heads, and four as a window that has nothing to do with them."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.kernel_size = 4, 4
        self.qkv, self.project = nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:  # (N, L, 16)
        n, length, _ = x.shape
        q, k, v = self.qkv(x).view(n, length, 3, self.heads, 4).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, length, -1)
        return F.avg_pool1d(self.project(y).transpose(1, 2), self.kernel_size).transpose(1, 2)


class WithCoincidence(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.attention = nn.Linear(6, 16), Coincidence()
        self.up, self.head = nn.Linear(16, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.up(self.attention(self.embed(x)))).flatten(0, 1))


def test_an_attribute_of_the_same_value_stays() -> None:
    """Only one of two equal attributes is the number of heads: the other is not touched, or both stay."""
    model = halved(WithCoincidence(), 2, 8, 6, by_hand=False).model
    assert model.attention.kernel_size == 4
    assert shapes(model, "up")[0][0] == 6
    heads = model.attention.heads
    assert shapes(model, "attention.qkv", "attention.project")[0][0] == 3 * 4 * heads
    assert shapes(model, "attention.project")[0][1] == 4 * heads
    assert heads in (2, 4)


# Code that cannot follow.


class NumberInView(Body):
    """A number of channels in the code, after the layers a and b and before c and d."""

    def __init__(self) -> None:
        super().__init__(8)
        self.a, self.b, self.c, self.d = conv(8, 8), conv(8, 8), nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(torch.relu(self.a(torch.relu(self.stem(x)))))
        x = x.mean((2, 3)).view(-1, 8)  # the number
        return self.head(torch.relu(self.d(torch.relu(self.c(x)))))


def test_a_number_in_a_view_keeps_its_channels_and_is_named() -> None:
    result = halved(NumberInView(), *MAPS)
    assert shapes(result.model, "stem", "a", "b", "c", "d", "head") == [
        (4, 3, 3, 3), (4, 4, 3, 3), (8, 4, 3, 3), (6, 8), (4, 6), (5, 4),
    ]  # fmt: skip
    assert "test_code_follows.py" in reasons(result, "b") and "# the number" in reasons(result, "b")
    assert "a" not in {skip.layer for skip in result.skipped}


class NumberInSlice(Body):
    def __init__(self) -> None:
        super().__init__(12)
        self.a, self.last = conv(4, 4), conv(12, 12, 1)

    def middle(self, x: Tensor) -> Tensor:
        return torch.relu(self.last(torch.cat([torch.relu(self.a(x[:, :4])), x[:, 4:]], 1)))


def test_a_number_in_a_slice_is_not_followed_wrongly() -> None:
    """The slice holds 4 whatever is cut: channels may only go where the number does not matter."""
    model = halved(NumberInSlice(), *MAPS).model
    assert shapes(model, "a")[0][1] == 4
    assert shapes(model, "last")[0][0] == 6


# Parts, patches and sharing.


class Chunked(Body):
    def __init__(self) -> None:
        super().__init__(12, 6)
        self.a, self.b, self.c = conv(4, 6), conv(4, 6), conv(4, 6)

    def middle(self, x: Tensor) -> Tensor:
        first, second, third = x.chunk(3, 1)
        return self.a(first) * torch.sigmoid(self.b(second)) + self.c(third)


class Unfolded(Body):
    """A convolution as patches and a product."""

    def __init__(self) -> None:
        super().__init__(8, 6)
        self.product = nn.Linear(8 * 9, 6)

    def middle(self, x: Tensor) -> Tensor:
        patches = F.unfold(x, 3, padding=1).transpose(1, 2)  # (N, H * W, C * 9)
        return torch.relu(self.product(patches)).transpose(1, 2).unflatten(2, (8, 8))


class Shared(Body):
    """One weight in a convolution of one pass and in another with its own bias."""

    def __init__(self) -> None:
        super().__init__(8)
        self.a, self.b = conv(8, 8), conv(8, 8)
        self.b.weight = self.a.weight
        self.last = conv(8, 6)
        self.head = nn.Linear(6, 5)

    def middle(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.b(torch.relu(self.a(x)))))


CASES: list[tuple[Callable[[], Body], dict[str, tuple[int, ...]]]] = [
    (Chunked, {"stem": (6, 3, 3, 3), "a": (3, 2, 3, 3), "b": (3, 2, 3, 3), "c": (3, 2, 3, 3), "head": (5, 3)}),
    (Unfolded, {"stem": (4, 3, 3, 3), "product": (3, 36), "head": (5, 3)}),
    (Shared, {"stem": (4, 3, 3, 3), "a": (4, 4, 3, 3), "b": (4, 4, 3, 3), "last": (3, 4, 3, 3), "head": (5, 3)}),
]


@pytest.mark.parametrize(("build", "expected"), CASES)
def test_parts_patches_and_shared_weights(build: Callable[[], Body], expected: dict[str, tuple[int, ...]]) -> None:
    model = halved(build(), *MAPS).model
    assert dict(zip(expected, shapes(model, *expected), strict=True)) == expected
    if build is Shared:
        assert model.a.weight is model.b.weight
