"""The property: a pruned network equals the network with the removed channels masked to zero."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from compress.graph.trace import trace
from compress.prune import Prune
from compress.prune.channels.groups import channels
from compress.prune.channels.masked import masked_outputs
from compress.stage import Context, Edit, Result
from tests.support.random_weights import randomized
from tests.support.zoo_networks import FAST, every_network, small

CONSUMED_FIRST = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def masked(model: nn.Module, edits: tuple[Edit, ...], products: tuple[str, ...] = ()) -> nn.Module:
    """A copy of ``model`` whose convolutions and products do not see the channels that ``edits`` take away.

    ``products`` are parameters used as ``x @ weight``, whose first dimension consumes.
    """
    model = copy.deepcopy(model)
    for edit in edits:
        if edit.kind != "tensor":
            continue
        module = model.get_submodule(edit.layer)
        tensor = getattr(module, edit.what)
        first = isinstance(module, CONSUMED_FIRST) or edit.what in products
        depthwise = isinstance(module, CONSUMED_FIRST) and module.groups == module.in_channels
        if tensor.ndim < 2 or depthwise or edit.axis != (0 if first else 1):
            continue
        assert edit.kept is not None
        gone = [i for i in range(tensor.shape[edit.axis]) if i not in edit.kept]
        with torch.no_grad():
            tensor.index_fill_(edit.axis, torch.tensor(gone), 0)
    return model


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def prune_and_compare(
    model: nn.Module, shape: tuple[int, ...], ratio: float = 0.5, products: tuple[str, ...] = (), **options: object
) -> Result:
    model = randomized(model.double())
    before = copy.deepcopy(model.state_dict())
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    result = Prune(ratio=ratio, round_to=1, **options).apply(model, Context((x,)))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        expected, found = masked(model, result.edits, products)(x), result.model(x)
    assert found.shape == expected.shape
    assert float(expected.std()) > 1e-6, "the comparison would not see a difference"
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8 * float(expected.abs().max()))
    assert parameters(result.model) < parameters(model)
    assert type(result.model) is type(model)
    assert not result.model.training
    return result


# shuffles in groups take a minute; zeros are seen by layer norms (tests/compress/prune/test_attention.py has those)
@pytest.mark.parametrize("name", every_network(FAST - {"shufflenet_v1_g3"}, without={"vit_tiny"}))
def test_zoo_network_equals_its_masked_self(name: str) -> None:
    torch.manual_seed(0)
    prune_and_compare(small(name, num_classes=5), (1, 3, 32, 32), ratio=0.4)


def conv(i: int, o: int, k: int = 3, **options: int | bool) -> nn.Conv2d:
    return nn.Conv2d(i, o, k, padding=k // 2, **options)  # type: ignore[arg-type]


class Body(nn.Module):
    """A stem, something in the middle, and a head: (N, 3, 8, 8) -> (N, 5)."""

    def __init__(self, width: int = 8, out: int | None = None) -> None:
        super().__init__()
        self.stem = conv(3, width)
        self.bn = nn.BatchNorm2d(width)
        self.head = nn.Linear(out or width, 5)

    def middle(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        x = self.middle(torch.relu(self.bn(self.stem(x))))
        return self.head(x.mean((2, 3)))


class Residual(Body):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(8, 6), conv(6, 8), conv(8, 8, 1)

    def middle(self, x: Tensor) -> Tensor:
        y = x + self.b(F.relu6(self.a(x)))
        return F.silu(y) + self.c(y) * 0.5


class Dense(Body):
    def __init__(self) -> None:
        super().__init__(out=8 + 4 + 6)
        self.a, self.bn_a, self.b = conv(8, 4), nn.BatchNorm2d(12), conv(12, 6)
        self.bn_b = nn.BatchNorm2d(18)

    def middle(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn_a(torch.cat([x, self.a(x)], 1)))
        return torch.relu(self.bn_b(torch.cat([x, self.b(x)], 1)))


class Depthwise(Body):
    def __init__(self) -> None:
        super().__init__(out=10)
        self.dw, self.point = conv(8, 8, groups=8), conv(8, 6, 1)
        self.doubled, self.last = conv(6, 12, groups=6), conv(12, 10, 1)

    def middle(self, x: Tensor) -> Tensor:
        x = torch.relu(self.point(F.hardswish(self.dw(x))))
        return self.last(torch.relu(self.doubled(x)))


class Grouped(Body):
    def __init__(self) -> None:
        super().__init__(width=12, out=8)
        self.a, self.b, self.c = conv(12, 8, groups=2), conv(8, 16, groups=4), conv(16, 8, 1)

    def middle(self, x: Tensor) -> Tensor:
        return self.c(torch.relu(self.b(torch.relu(self.a(x)))))


class Shuffled(Body):
    def __init__(self) -> None:
        super().__init__(width=12, out=6)
        self.a, self.builtin, self.b = conv(12, 12, 1, groups=3), nn.ChannelShuffle(3), conv(12, 6)

    def middle(self, x: Tensor) -> Tensor:
        x = self.builtin(torch.relu(self.a(x)))
        n, c, h, w = x.shape
        return self.b(x.view(n, 3, c // 3, h, w).transpose(1, 2).reshape(n, c, h, w))


class SqueezeExcite(Body):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.spatial, self.c = nn.Linear(8, 4), nn.Linear(4, 8), conv(8, 1), conv(8, 8)

    def middle(self, x: Tensor) -> Tensor:
        s = torch.sigmoid(self.b(F.relu(self.a(x.mean((2, 3))))))
        x = x * s[:, :, None, None]
        return self.c(x * torch.sigmoid(self.spatial(x)))


class Flattened(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(3, 6), conv(6, 8)
        self.bn = nn.BatchNorm1d(8 * 4 * 4)
        self.fc, self.out = nn.Linear(8 * 4 * 4, 10), nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(torch.relu(self.b(torch.relu(self.a(x)))), 2)
        return self.out(F.gelu(self.fc(self.bn(x.flatten(1)))))


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w1, self.b1 = nn.Parameter(torch.randn(8, 3, 3, 3)), nn.Parameter(torch.randn(8))
        self.w2 = nn.Parameter(torch.randn(6, 8, 1, 1))
        self.product, self.w3 = nn.Parameter(torch.randn(6, 7)), nn.Parameter(torch.randn(5, 7))
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("var", torch.ones(8))
        self.mean: Tensor
        self.var: Tensor

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.w1, self.b1, padding=1)
        x = F.batch_norm(x, self.mean, self.var.abs() + 1).relu_()
        x = F.adaptive_avg_pool2d(F.conv2d(x, self.w2), 1).flatten(1)
        return F.linear(torch.tanh(x @ self.product), self.w3)


class BareParameters(Body):
    def __init__(self) -> None:
        super().__init__(out=6)
        self.gamma, self.beta = nn.Parameter(torch.ones(8)), nn.Parameter(torch.ones(1, 8, 1, 1))
        self.position = nn.Parameter(torch.ones(1, 6, 8, 8))
        self.prelu, self.a = nn.PReLU(8), conv(8, 6)

    def middle(self, x: Tensor) -> Tensor:
        x = self.prelu(x * self.gamma.view(1, -1, 1, 1) + self.beta)
        return torch.relu(self.a(x) + self.position)


class Tied(Body):
    def __init__(self) -> None:
        super().__init__(out=8)
        self.a, self.b = conv(8, 8), conv(8, 8)
        self.b.weight = self.a.weight
        self.c, self.d = conv(8, 6), conv(6, 8)

    def middle(self, x: Tensor) -> Tensor:
        x = torch.relu(self.b(torch.relu(self.a(x))))
        for _ in range(2):  # one module, called twice
            x = self.d(torch.relu(self.c(x)))
        return x


class Split(Body):
    def __init__(self) -> None:
        super().__init__(width=12, out=8)
        self.a, self.b, self.gate = conv(6, 8), conv(6, 8), conv(8, 16)

    def middle(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, 1)
        x = self.a(first) + self.b(second)
        return F.glu(self.gate(x), dim=1)


class SplitByHalf(Body):
    def __init__(self) -> None:
        super().__init__(width=12, out=6)
        self.a = conv(6, 6)

    def middle(self, x: Tensor) -> Tensor:
        first, second = torch.split(x, x.shape[1] // 2, dim=1)
        return first * torch.sigmoid(self.a(second))


class Transposed(Body):
    def __init__(self) -> None:
        super().__init__(out=6)
        self.up = nn.ConvTranspose2d(8, 8, 2, stride=2)
        self.dw = nn.ConvTranspose2d(8, 8, 3, padding=1, groups=8)
        self.bn2 = nn.BatchNorm2d(8)
        self.grouped = nn.ConvTranspose2d(8, 12, 2, stride=2, groups=2)
        self.last = conv(12, 6)

    def middle(self, x: Tensor) -> Tensor:
        x = self.bn2(self.dw(torch.relu(self.up(x))))
        return self.last(torch.relu(self.grouped(torch.relu(x))))


class PixelShuffled(Body):
    def __init__(self) -> None:
        super().__init__(width=16, out=6)
        self.shuffle, self.a, self.unshuffle, self.b = nn.PixelShuffle(2), conv(4, 4), nn.PixelUnshuffle(2), conv(16, 6)

    def middle(self, x: Tensor) -> Tensor:
        x = F.interpolate(self.shuffle(x), scale_factor=2, mode="bilinear")
        return self.b(self.unshuffle(torch.relu(self.a(x))))


class PartlyPinned(nn.Module):
    """Concatenation with the input, constants, statistics over channels, an unknown operation, a second output used."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(3, 8), conv(11, 8), conv(8, 8)
        self.gn, self.d, self.e = nn.GroupNorm(2, 8), conv(8, 6), conv(6, 6)
        self.out = nn.Linear(6, 5)
        self.constant = torch.linspace(0.5, 1.5, 8).view(1, 8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.b(torch.cat([torch.relu(self.a(x)), x], 1)))
        x = self.gn(self.c(x) * self.constant.to(x))
        x = self.e(torch.cumsum(torch.relu(self.d(x)), 1))
        return self.out(x.flip(2).amax((2, 3)))


class Sequence(nn.Module):
    """Linear layers over (N, L, C), a 1d convolution, layer norm and padding with zero channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm = nn.Linear(4, 8), nn.Linear(8, 6), nn.LayerNorm(6)
        self.c, self.d = nn.Conv1d(6, 8, 3), nn.Conv1d(10, 6, 1)
        self.out = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.b(F.gelu(self.a(x)))).permute(0, 2, 1)
        x = F.pad(torch.relu(self.c(x)), (0, 0, 1, 1))
        return self.out(self.d(x).mean(2))


BODIES: tuple[Callable[[], nn.Module], ...] = (
    Residual, Dense, Depthwise, Grouped, Shuffled, SqueezeExcite, Flattened, BareParameters, Tied, Split, SplitByHalf,
    Transposed, PixelShuffled, PartlyPinned,
)  # fmt: skip


@pytest.mark.parametrize("build", BODIES)
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_network_equals_its_masked_self(build: Callable[[], nn.Module], scope: str) -> None:
    torch.manual_seed(0)
    prune_and_compare(build(), (2, 3, 8, 8), select=scope)


def test_functional_network_equals_its_masked_self() -> None:
    result = prune_and_compare(Functional(), (2, 3, 8, 8), products=("product",))
    model = result.model
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert shapes["w1"] == (4, 3, 3, 3) and shapes["b1"] == shapes["var"] == (4,)
    assert shapes["w2"] == (3, 4, 1, 1) and shapes["product"] == (3, 4) and shapes["w3"] == (5, 4)


def test_sequence_network_equals_its_masked_self() -> None:
    result = prune_and_compare(Sequence(), (2, 12, 4), exclude=("b",))  # the reference here knows no layer norm
    assert result.model.a.out_features == 4  # type: ignore[union-attr]


def sizes(model: nn.Module, *names: str) -> list[tuple[int, ...]]:
    return [tuple(model.get_parameter(f"{name}.weight").shape) for name in names]


def test_shapes_after_pruning_half() -> None:
    """Each structure is really cut, and not left alone."""
    context = Context((torch.randn(1, 3, 8, 8),))

    def half(model: nn.Module) -> nn.Module:
        return Prune(ratio=0.5, round_to=1).apply(model, context).model

    torch.manual_seed(0)
    assert sizes(half(Residual()), "stem", "a", "b", "c", "head") == [
        (4, 3, 3, 3), (3, 4, 3, 3), (4, 3, 3, 3), (4, 4, 1, 1), (5, 4),
    ]  # fmt: skip
    assert sizes(half(Dense()), "stem", "a", "b", "bn_b", "head") == [
        (4, 3, 3, 3), (2, 4, 3, 3), (3, 6, 3, 3), (9,), (5, 9),
    ]  # fmt: skip
    depthwise = half(Depthwise())
    assert sizes(depthwise, "dw", "point", "doubled", "last") == [
        (4, 1, 3, 3),
        (3, 4, 1, 1),
        (6, 1, 3, 3),
        (5, 6, 1, 1),
    ]
    assert depthwise.dw.groups == 4 and depthwise.doubled.groups == 3  # type: ignore[union-attr]
    assert depthwise.doubled.out_channels == 6  # type: ignore[union-attr]
    grouped = half(Grouped())
    assert sizes(grouped, "stem", "a", "b", "c") == [(6, 3, 3, 3), (4, 3, 3, 3), (8, 1, 3, 3), (4, 8, 1, 1)]
    assert (grouped.a.groups, grouped.b.groups, grouped.b.in_channels) == (2, 4, 4)  # type: ignore[union-attr]
    assert sizes(half(SqueezeExcite()), "stem", "a", "b", "spatial") == [(4, 3, 3, 3), (2, 4), (4, 2), (1, 4, 3, 3)]
    assert sizes(half(Flattened()), "b", "bn", "fc") == [(4, 3, 3, 3), (64,), (5, 64)]
    assert sizes(half(Split()), "stem", "a", "b", "gate") == [(6, 3, 3, 3), (4, 3, 3, 3), (4, 3, 3, 3), (8, 4, 3, 3)]
    transposed = half(Transposed())
    assert sizes(transposed, "up", "dw", "grouped", "last") == [
        (4, 4, 2, 2), (4, 1, 3, 3), (4, 3, 2, 2), (3, 6, 3, 3),
    ]  # fmt: skip
    assert transposed.dw.groups == 4 and transposed.grouped.out_channels == 6  # type: ignore[union-attr]
    tied = half(Tied())
    assert tied.a.weight is tied.b.weight  # type: ignore[union-attr]
    assert sizes(tied, "a", "c", "d") == [(4, 4, 3, 3), (3, 4, 3, 3), (4, 3, 3, 3)]
    pinned = half(PartlyPinned())
    assert sizes(pinned, "a", "b", "c", "d", "e") == [
        (4, 3, 3, 3), (4, 7, 3, 3), (8, 4, 3, 3), (6, 8, 3, 3), (3, 6, 3, 3),
    ]  # fmt: skip


def test_what_cannot_be_followed_is_kept_and_named() -> None:
    found = channels(trace(PartlyPinned().eval(), (torch.randn(1, 3, 8, 8),)))
    reasons = {skip.layer: skip.reason for skip in found.skipped}
    assert set(reasons) == {"c", "d", "out"}
    assert "mixed with others: cumsum at test_prune_channels.py" in reasons["d"]
    assert reasons["out"] == "its channels are an output of the network"


def test_an_unknown_operation_keeps_its_channels() -> None:
    class Unknown(Body):
        def middle(self, x: Tensor) -> Tensor:
            return x.index_select(1, torch.arange(8).flip(0)) + F.unfold(x, 1).view_as(x)

    found = channels(trace(Unknown().eval(), (torch.randn(1, 3, 8, 8),)))
    assert found.groups == ()
    assert "stem" in {skip.layer for skip in found.skipped}


def test_masked_outputs_agree_with_zeroed_weights() -> None:
    """The mask that guards every use, against the one of this file."""
    torch.manual_seed(0)
    model = randomized(Residual().double())
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    found = channels(trace(model, (x,)))
    removed = [unit for group in found.groups for unit in group.units[::2]]
    by_hand = copy.deepcopy(model)
    with torch.no_grad():
        for unit in removed:
            for (name, axis), indices in unit.cuts.items():
                if axis == 1:
                    by_hand.get_parameter(name)[:, list(indices)] = 0
        (found_output,) = masked_outputs(found.graph, found.labels, {unit.label for unit in removed}, (x,))
        torch.testing.assert_close(found_output, by_hand(x), rtol=1e-10, atol=1e-10)
        assert not torch.allclose(found_output, model(x))


class Drawn(nn.Module):
    """A network from a list of moves: each makes the next map from the maps so far."""

    def __init__(self, moves: list[tuple[str, int, int]]) -> None:
        super().__init__()
        self.moves = moves
        self.layers = nn.ModuleList()
        widths = [4]
        self.stem = conv(3, 4)
        for kind, source, size in moves:
            width = widths[source % len(widths)]
            layer: nn.Module = nn.Identity()
            if kind == "conv":
                layer, width = conv(width, 2 * size), 2 * size
            elif kind == "depthwise":
                layer = conv(width, width, groups=width)
            elif kind == "grouped":
                layer, width = conv(width, 4 * size, groups=2), 4 * size
            elif kind == "bn":
                layer = nn.BatchNorm2d(width)
            elif kind == "add":
                layer = conv(widths[-1], width, 1)
            elif kind == "cat":
                width += widths[-1]
            elif kind == "scale":
                layer = nn.Linear(widths[-1], width)
            self.layers.append(layer)
            widths.append(width)
        self.head = nn.Linear(widths[-1], 3)

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.stem(x)]
        for (kind, source, _), layer in zip(self.moves, self.layers, strict=True):
            y, last = maps[source % len(maps)], maps[-1]
            if kind == "add":
                y = y + layer(last)
            elif kind == "cat":
                y = torch.cat([y, last], 1)
            elif kind == "scale":
                y = y * torch.sigmoid(layer(last.mean((2, 3))))[:, :, None, None]
            elif kind == "shuffle":
                n, c, h, w = y.shape
                y = y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
            elif kind == "sum":
                y = y + y
            elif kind == "halves":
                first, second = y.chunk(2, 1)
                y = torch.cat([second, torch.relu(first)], 1)
            else:
                y = torch.relu(layer(y))
            maps.append(y)
        return self.head(maps[-1].mean((2, 3)))


KINDS = ("conv", "depthwise", "grouped", "bn", "add", "cat", "scale", "shuffle", "sum", "halves")


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    moves=st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 6), st.integers(1, 3)), min_size=1, max_size=7),
    ratio=st.sampled_from([0.3, 0.6, 0.9]),
)
def test_random_networks_equal_their_masked_selves(moves: list[tuple[str, int, int]], ratio: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(conv(3, 6), nn.ReLU(), conv(6, 3), Drawn(moves))  # two layers that can always be pruned
    prune_and_compare(model, (1, 3, 6, 6), ratio=ratio)
