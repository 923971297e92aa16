"""Attention loses whole heads or the dimensions within them, and computes what it does with those masked."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from compress.graph import trace as graph
from compress.prune import Prune
from compress.prune.channels import verify
from compress.prune.surgery import cut
from compress.stage import Context
from tests.support.masked_by_hand import halved, shapes


class Tokens(nn.Module):
    """Tokens in, an embedding, something in the middle, and a head: (N, L, 6) -> (N, 5)."""

    def __init__(self, width: int = 16, out: int | None = None) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(6, width), nn.Linear(out or width, 5)

    def middle(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(self.embed(x)).mean(1))


class Residual(Tokens):
    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=batch_first)
        self.up, self.down = nn.Linear(16, 24), nn.Linear(24, 16)

    def middle(self, x: Tensor) -> Tensor:
        y = self.norm1(x) if self.batch_first else self.norm1(x).transpose(0, 1)
        y = self.attention(y, y, y, need_weights=False)[0]
        x = x + (y if self.batch_first else y.transpose(0, 1))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


IN_PROJECTION = {"attention.in_proj_weight": (1,), "layer.self_attn.in_proj_weight": (1,)}


@pytest.mark.parametrize("batch_first", [True, False])
def test_multihead_attention_loses_whole_heads_with_its_stream(batch_first: bool) -> None:
    model = halved(Residual(batch_first), 2, 7, 6, consuming=IN_PROJECTION).model
    attention = model.attention
    assert (attention.num_heads, attention.embed_dim) == (2, 8)
    assert shapes(model, "embed", "attention.in_proj_weight", "attention.in_proj_bias", "attention.out_proj") == [
        (8, 6), (24, 8), (24,), (8, 8),
    ]  # fmt: skip
    assert shapes(model, "norm1", "up", "down", "head") == [(8,), (12, 8), (8, 12), (5, 8)]
    assert attention.out_proj.in_features == attention.out_proj.out_features == 8
    assert model.norm1.normalized_shape == (8,)


def test_attention_to_a_second_input_keeps_its_own_widths() -> None:
    class Cross(Tokens):
        def __init__(self) -> None:
            super().__init__()
            self.memory = nn.Linear(6, 12)
            self.attention = nn.MultiheadAttention(16, 4, kdim=12, vdim=12, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            q, kv = self.embed(x), self.memory(x.flip(1))
            return self.head((q + self.attention(q, kv, kv)[0]).mean(1))

    consuming = {f"attention.{name}_proj_weight": (1,) for name in "qkv"}
    model = halved(Cross(), 2, 5, 6, consuming=consuming).model
    assert shapes(model, "embed", "memory") == [(8, 6), (6, 6)]
    assert shapes(model, *consuming) == [(8, 8), (8, 6), (8, 6)]
    attention = model.attention
    assert (attention.num_heads, attention.embed_dim, attention.kdim, attention.vdim) == (2, 8, 6, 6)


def test_the_size_of_a_head_is_not_taken_for_their_number() -> None:
    class Attending(Tokens):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

        def middle(self, x: Tensor) -> Tensor:
            return self.attention(x, x, x, need_weights=False)[0]

    attention = halved(Attending(), 2, 7, 6, consuming=IN_PROJECTION).model.attention
    assert (attention.num_heads, attention.head_dim) == (2, 4)


@pytest.mark.parametrize("norm_first", [True, False])
def test_transformer_encoder_layer(norm_first: bool) -> None:
    class Encoder(Tokens):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True, norm_first=norm_first)

        def middle(self, x: Tensor) -> Tensor:
            return self.layer(x)

    model = halved(Encoder(), 2, 7, 6, consuming=IN_PROJECTION).model
    assert model.layer.self_attn.num_heads == 2
    assert shapes(model, "embed", "layer.self_attn.in_proj_weight") == [(8, 6), (24, 8)]
    assert shapes(model, "layer.linear1", "layer.linear2", "layer.norm2") == [(12, 8), (8, 12), (8,)]


class Fused(Tokens):
    """One projection for queries, keys and values, and a softmax in the open."""

    def __init__(self, width: int = 16, heads: int = 4, head_dim: int = 4) -> None:
        super().__init__(width)
        self.num_heads, self.head_dim, self.scale = heads, head_dim, head_dim**-0.5
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * heads * head_dim)
        self.project = nn.Linear(heads * head_dim, width)

    def middle(self, x: Tensor) -> Tensor:
        n, length, _ = x.shape
        qkv = self.qkv(self.norm(x)).reshape(n, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        shares = ((q * self.scale) @ k.transpose(-2, -1)).softmax(-1)
        return x + self.project((shares @ v).transpose(1, 2).flatten(2))


def heads_or_dims(model: nn.Module, heads: int, head_dim: int) -> tuple[int, int]:
    """How many heads and dimensions are left of an attention with a fused projection, by its layers and attributes."""
    qkv, project = shapes(model, "qkv", "project")
    assert qkv[0] == 3 * project[1]
    assert project[1] % model.num_heads == 0  # type: ignore[operator]
    return model.num_heads, project[1] // model.num_heads  # type: ignore[operator, return-value]


def test_fused_projection_with_inferred_dimensions() -> None:
    """The view infers the size of a head: it may shrink, or heads may go; the scale is a number and stays."""
    model = halved(Fused(), 2, 7, 6, vanishing=("qkv",)).model
    assert shapes(model, "embed", "qkv", "project", "head") == [(8, 6), (24, 8), (8, 8), (5, 8)]
    assert model.num_heads in (2, 4) and model.scale == 0.5


class FusedByAttributes(Fused):
    """The view names heads and their size, and the output is as wide as the input by name."""

    def middle(self, x: Tensor) -> Tensor:
        n, length, _ = x.shape
        qkv = self.qkv(self.norm(x)).reshape(n, length, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        shares = ((q @ k.transpose(-2, -1)) * self.scale).softmax(-1)
        return x + self.project((shares @ v).transpose(1, 2).reshape(n, length, self.num_heads * self.head_dim))


def test_fused_projection_with_named_dimensions() -> None:
    result = halved(FusedByAttributes(16, 4, 6), 2, 7, 6, vanishing=("qkv",))
    model = result.model
    qkv, project = shapes(model, "qkv", "project")
    assert qkv == (36, 8) and project == (8, 12)
    assert model.num_heads * model.head_dim == 12
    assert model.scale == 6**-0.5


class AsWide(nn.Module):
    """As in vision transformers: ``C // heads`` and ``reshape(B, N, C)``, the width of the module's input."""

    def __init__(self, width: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.num_heads, self.scale = heads, 0.5
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, length, channels = x.shape
        qkv = self.qkv(x).reshape(n, length, 3, self.num_heads, channels // self.num_heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        shares = ((q @ k.transpose(-2, -1)) * self.scale).softmax(-1)
        return self.project((shares @ v).transpose(1, 2).reshape(n, length, channels))


class WithAsWide(Tokens):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width)
        self.norm, self.attention = nn.LayerNorm(width), AsWide(width, heads)

    def middle(self, x: Tensor) -> Tensor:
        return x + self.attention(self.norm(x))


@pytest.mark.parametrize(("width", "heads"), [(16, 4), (24, 4), (24, 2)])
def test_fused_projection_as_wide_as_its_input(width: int, heads: int) -> None:
    model = halved(WithAsWide(width, heads), 2, 7, 6, vanishing=("attention.qkv",)).model
    half = width // 2
    assert shapes(model, "embed", "attention.qkv", "attention.project", "head") == [
        (half, 6), (3 * half, half), (half, half), (5, half),
    ]  # fmt: skip
    assert model.attention.num_heads in (heads // 2, heads)


def test_attention_in_the_network_itself() -> None:
    """The view is as wide as a value that no module receives: followed or left alone, never a refusal of all."""

    class Whole(AsWide):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Linear(6, 16), nn.Linear(16, 5)
            self.up, self.down = nn.Linear(16, 12), nn.Linear(12, 16)

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x)
            x = x + super().forward(x)
            return self.head((x + self.down(torch.relu(self.up(x)))).mean(1))

    model = halved(Whole(), 2, 7, 6, vanishing=("qkv",)).model
    assert shapes(model, "up")[0][0] == 6
    assert shapes(model, "embed")[0][0] == shapes(model, "qkv")[0][1]


class Separate(Tokens):
    def __init__(self) -> None:
        super().__init__()
        self.heads = 4
        self.q, self.k, self.v = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 24)
        self.project = nn.Linear(24, 16)

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def middle(self, x: Tensor) -> Tensor:
        q, k, v = self.split(self.q(x)), self.split(self.k(x)), self.split(self.v(x))
        return x + self.project(self.attend(q, k, v).transpose(1, 2).flatten(2))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (torch.matmul(q, k.transpose(-2, -1)) / 2.0).softmax(-1) @ v


class WithDefaultScale(Separate):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)


class WithOwnScale(Separate):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, scale=0.3)


class ByEinsum(Separate):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        shares = torch.einsum("nhld,nhsd->nhls", q, k).mul(0.4).softmax(-1)
        return torch.einsum("nhls,nhsd->nhld", shares, v)


@pytest.mark.parametrize("build", [Separate, WithOwnScale, ByEinsum])
def test_separate_projections_lose_heads_or_dimensions_of_every_head(build: type[Separate]) -> None:
    model = halved(build(), 2, 7, 6, vanishing=("q", "k")).model
    assert shapes(model, "embed", "q", "k", "v", "project") == [(8, 6), (8, 8), (8, 8), (12, 8), (8, 12)]
    assert model.heads in (2, 4)


def test_the_default_scale_keeps_the_size_of_queries_and_keys() -> None:
    """It is 1 / sqrt(d): fewer dimensions would be another softmax. Those of the values may go, and are inferred."""
    result = halved(WithDefaultScale(), 2, 7, 6)
    model = result.model
    if model.heads == 2:
        assert shapes(model, "q", "k", "v", "project") == [(8, 8), (8, 8), (12, 8), (8, 12)]
    else:
        assert shapes(model, "q", "k", "v", "project") == [(16, 8), (16, 8), (12, 8), (8, 12)]
        assert {"q", "k"} <= {skip.layer for skip in result.skipped if "scale follows its size" in skip.reason}


class ByEinsumWeights(Tokens):
    """Projections by parameters of (heads, width, dim)."""

    def __init__(self) -> None:
        super().__init__()
        self.wq, self.wk = nn.Parameter(torch.randn(4, 16, 6)), nn.Parameter(torch.randn(4, 16, 6))
        self.wv, self.wo = nn.Parameter(torch.randn(4, 16, 6)), nn.Parameter(torch.randn(4, 6, 16))

    def middle(self, x: Tensor) -> Tensor:
        q = torch.einsum("nlc,hcd->nhld", x, self.wq)
        k = torch.einsum("nlc,hcd->nhld", x, self.wk)
        v = torch.einsum("nlc,hcd->nhld", x, self.wv)
        shares = torch.softmax(q @ k.mT * 0.4, -1)
        return x + torch.einsum("nhld,hdc->nlc", shares @ v, self.wo)


def test_einsum_with_weights_per_head() -> None:
    consuming = {"wq": (0, 1, 2), "wk": (0, 1, 2), "wv": (1,), "wo": (0, 1)}
    model = halved(ByEinsumWeights(), 2, 7, 6, consuming=consuming).model
    wq, wk, wv, wo = shapes(model, "wq", "wk", "wv", "wo")
    assert wq == wk and wq[1] == wo[2] == 8
    assert (wv[0], wv[2]) == (wo[0], wo[1]) and wv[0] == wq[0]
    assert wq[0] * wq[2] < 24 and wv[0] * wv[2] < 24


class Windowed(nn.Module):
    """Windows of a map, a bias per head from a table, and masks between: as in Swin (Liu et al., 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.window, self.num_heads = 2, 4
        self.embed, self.norm = nn.Conv2d(3, 24, 1), nn.LayerNorm(24)
        self.qkv, self.project, self.head = nn.Linear(24, 72), nn.Linear(24, 24), nn.Linear(24, 5)
        self.table = nn.Parameter(torch.zeros(9, 4))
        at = torch.stack(torch.meshgrid(torch.arange(2), torch.arange(2), indexing="ij")).flatten(1)
        apart = (at[:, :, None] - at[:, None]).permute(1, 2, 0) + 1
        self.register_buffer("index", (apart[..., 0] * 3 + apart[..., 1]).flatten())
        self.index: Tensor

    def attend(self, x: Tensor) -> Tensor:
        n, length, channels = x.shape
        qkv = self.qkv(x).reshape(n, length, 3, self.num_heads, channels // self.num_heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0] * 0.4, qkv[1], qkv[2]
        bias = self.table[self.index].view(length, length, -1).permute(2, 0, 1).contiguous()
        shares = (q.matmul(k.transpose(-2, -1)) + bias.unsqueeze(0)).softmax(-1)
        return self.project(shares.matmul(v).transpose(1, 2).reshape(n, length, channels))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).permute(0, 2, 3, 1)
        n, h, w, c = x.shape
        s = self.window
        y = torch.roll(self.norm(x), (-1, -1), (1, 2))
        y = y.view(n, h // s, s, w // s, s, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, s * s, c)
        y = self.attend(y).view(n, h // s, w // s, s, s, c).permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, c)
        x = x + torch.roll(y, (1, 1), (1, 2))
        return self.head(x.mean((1, 2)))


def test_windows_with_a_bias_table_per_head() -> None:
    """The table has a column per head: where heads go they take their columns, where dimensions go all stay."""
    model = halved(Windowed(), 2, 3, 4, 4, vanishing=("qkv",)).model
    assert shapes(model, "embed", "norm", "qkv", "project", "head") == [
        (12, 3, 1, 1), (12,), (36, 12), (12, 12), (5, 12),
    ]  # fmt: skip
    assert shapes(model, "table") == [(9, model.num_heads)]
    assert model.num_heads in (2, 4) and model.window == 2


class ClassToken(nn.Module):
    """A class token, positions and layer scale, as in DeiT III and CaiT (Touvron et al., 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 2, 2)
        self.token, self.position = nn.Parameter(torch.zeros(1, 1, 16)), nn.Parameter(torch.zeros(1, 17, 16))
        self.norm, self.last = nn.LayerNorm(16), nn.LayerNorm(16)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.gamma1, self.gamma2 = nn.Parameter(torch.ones(16)), nn.Parameter(torch.ones(16))
        self.up, self.down, self.head = nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        y = self.norm(x)
        x = x + self.gamma1 * self.attention(y, y, y)[0]
        x = x + self.gamma2 * self.down(F.gelu(self.up(x)))
        return self.head(self.last(x)[:, 0])


def test_class_token_position_embedding_and_layer_scale_follow() -> None:
    model = halved(ClassToken(), 2, 3, 8, 8, consuming=IN_PROJECTION).model
    assert shapes(model, "patches", "token", "position", "gamma1", "gamma2", "last") == [
        (8, 3, 2, 2), (1, 1, 8), (1, 17, 8), (8,), (8,), (8,),
    ]  # fmt: skip
    assert shapes(model, "attention.in_proj_weight", "up", "down", "head") == [(24, 8), (16, 8), (8, 16), (5, 8)]
    assert model.attention.num_heads == 2


def test_causal_language_model_with_tied_embedding() -> None:
    """Rows of the table are words and stay; its columns are the stream. The tied output keeps the same tensor."""

    class Language(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.norm = nn.Embedding(11, 16), nn.LayerNorm(16)
            self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
            self.head = nn.Linear(16, 11, bias=False)
            self.head.weight = self.words.weight

        def forward(self, x: Tensor) -> Tensor:
            ids = (x.abs() * 3).long() % 11
            y = self.words(ids)
            mask = torch.full((5, 5), float("-inf"), dtype=y.dtype).triu(1)
            y = y + self.attention(y, y, y, attn_mask=mask)[0]
            return self.head(self.norm(y))

    model = halved(Language(), 2, 5, consuming=IN_PROJECTION).model
    assert model.head.weight is model.words.weight
    assert shapes(model, "words", "norm", "attention.in_proj_weight") == [(11, 8), (8,), (24, 8)]
    assert (model.words.embedding_dim, model.head.in_features, model.attention.num_heads) == (8, 8, 2)


def test_a_second_pruning_goes_on() -> None:
    """What is left of attention has the same shape of code and is pruned again."""
    once = halved(Residual(batch_first=True), 2, 7, 6, consuming=IN_PROJECTION).model
    twice = halved(once, 2, 7, 6, consuming=IN_PROJECTION).model
    assert twice.attention.num_heads == 1
    assert shapes(twice, "embed", "attention.in_proj_weight", "up") == [(4, 6), (12, 4), (6, 4)]


def test_trials_neither_trace_again_nor_copy_what_they_do_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ways to read the code of attention are tried on the one graph, whose network stays as it is."""
    traces, trials = [], []
    traced, compared = graph.trace, verify.difference

    def trace(model: nn.Module, *arguments: object, **options: object) -> object:
        traces.append((model, {name: value.clone() for name, value in model.state_dict().items()}))
        return traced(model, *arguments, **options)  # type: ignore[arg-type]

    def difference(pruned: nn.Module, *arguments: object) -> str | None:
        trials.append({id(parameter) for parameter in pruned.parameters()})
        return compared(pruned, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(cut, "trace", trace)
    monkeypatch.setattr(verify, "trace", trace)
    monkeypatch.setattr(verify, "difference", difference)
    torch.manual_seed(0)
    model = Residual(True).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    done = Prune(ratio=0.5, round_to=1, repair=()).apply(model, Context((torch.randn(2, 7, 6),)))
    assert len(traces) == 1 and trials
    read, values = traces[0]
    own = {id(parameter) for parameter in read.parameters()}
    assert all(trial & own for trial in trials)
    assert all(torch.equal(value, values[name]) for name, value in read.state_dict().items())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not {id(parameter) for parameter in done.model.parameters()} & own
