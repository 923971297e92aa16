"""Tensors of several names: tied weights, shared biases and statistics, modules under two names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from compress import Context, Fold, Prune, Quantize
from compress.data import Data, SampleSplit
from compress.deploy import export
from compress.edits import replay
from compress.graph.trace import first_names, trace
from compress.pipeline import measure
from compress.quantize import simulate
from compress.share import Share
from compress.sources import artifact
from compress.sources.load import Network
from compress.sources.specification import Source
from compress.sparsify import Sparsify
from compress.stage import Stage
from compress.training.loop import Training
from tests.support.small_networks import snr_db

FAST = Training(epochs=1, batch_size=16, learning_rate=0.01, precision="fp32", accelerator="cpu")


class TwoConvolutions(nn.Module):
    """Two convolutions of one weight, each with a bias and a batch norm of its own: (N, 3, 8, 8) -> (N, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.a, self.b = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.b.weight = self.a.weight
        self.m, self.n = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.m(self.a(torch.relu(self.stem(x)))))
        logits: Tensor = self.fc(torch.relu(self.n(self.b(x))).mean((2, 3)))
        return logits


class SharedBias(nn.Module):
    """Two convolutions of one bias, and batch norms of one scale and one shift."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.b.bias = self.a.bias
        self.m, self.n = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.n.weight, self.n.bias = self.m.weight, self.m.bias
        self.n.running_var = self.m.running_var
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(torch.relu(self.n(self.b(torch.relu(self.m(self.a(x)))))).mean((2, 3)))
        return logits


class Twice(nn.Module):
    """A block that runs twice, under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.a = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.b = self.a
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.b(self.a(torch.relu(self.stem(x)))).mean((2, 3)))
        return logits


class Aliased(nn.Module):
    """Layers that run once, under the second of their names."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.stem = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(3, 8, 3, padding=1)
        self.layers = nn.ModuleList([self.stem, nn.BatchNorm2d(8), self.head])
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.relu(layer(x))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


class Linears(nn.Module):
    """Weights and biases of linear layers tied across: (N, 12) -> (N, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(12, 12) for _ in range(3))
        self.c.weight, self.b.bias = self.b.weight, self.a.bias
        self.fc = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.a, self.b, self.c):
            x = torch.relu(layer(x))
        logits: Tensor = self.fc(x)
        return logits


class Words(nn.Module):
    """An embedding whose table is the head's weight: (N, 6) of 20 words -> (N, 6, 20)."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 16)
        self.hidden = nn.Linear(16, 16)
        self.head = nn.Linear(16, 20, bias=False)
        self.head.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.relu(self.hidden(self.table(x))))
        return logits


KINDS = (TwoConvolutions, SharedBias, Twice, Aliased, Linears, Words)
STAGES: dict[str, Callable[[], Stage]] = {
    "fold": Fold,
    "int8": Quantize,
    "w4": lambda: Quantize(scheme="w4"),
    "fp16": lambda: Quantize(scheme="fp16"),
    "recovered": lambda: Quantize(recover=["equalize", "absorb", {"smooth": 0.5}, {"bias_correction": "empirical"}]),
    "adaround": lambda: Quantize(ranges={"samples": 16}, recover=[{"adaround": 4}]),
    "aware": lambda: Quantize(train=FAST),
    "signs": lambda: Quantize(scheme="bwn", first_last="same", train=FAST),
    "prune": lambda: Prune(ratio=0.5, round_to=1),
    "sparsify": lambda: Sparsify(sparsity=0.5),
    "share": Share,
}
TRAINED = ("aware", "signs")


def made(kind: type[nn.Module]) -> tuple[nn.Module, Tensor, Context]:
    torch.manual_seed(0)
    model = kind()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.5, 2.0)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_mean)  # type: ignore[arg-type]
    shape = {Linears: (12,), Words: (6,)}.get(kind, (3, 8, 8))
    x = torch.randint(0, 20, (40, *shape)) if kind is Words else torch.randn(40, *shape)
    split = SampleSplit(x, torch.arange(40) % 4)
    return model.eval(), x, Context((x[:4],), Data("random", {"calibration": split, "train": split}))


def ties(model: nn.Module) -> set[frozenset[str]]:
    """The names of each tensor that has several."""
    first = first_names(model)
    groups = {other: frozenset(name for name in first if first[name] == other) for other in first.values()}
    return {names for names in groups.values() if len(names) > 1}


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *((TwoConvolutions, name) for name in STAGES),
        *((Words, name) for name in STAGES if name not in TRAINED),
        *((kind, name) for kind in KINDS[1:-1] for name in ("recovered", "prune")),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_every_stage_keeps_what_is_tied(kind: type[nn.Module], name: str, tmp_path: Path) -> None:
    model, x, context = made(kind)
    result = STAGES[name]().apply(model, context)
    with torch.no_grad():
        before, after = model(x[:8]), result.model(x[:8])
    if name == "fold":
        torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)
    edits = tuple(edit for edit in result.edits if edit.kind not in ("precision", "weights"))
    again = made(kind)[0]
    replay(again, edits)
    again.load_state_dict(result.model.state_dict())
    assert ties(again) == ties(result.model)
    torch.testing.assert_close(again(x[:8]), after)
    network = Network(result.model, Source("zoo", "x"), edits, (), result.encodings, (x[:4],))
    assert measure(network, None).params == sum(p.numel() for p in result.model.parameters())
    if result.encodings:
        simulated = simulate(result.model, result.encodings, (x[:4],))
        assert snr_db(after, simulated(x[:8])) > 8
    if name in ("int8", "w4", "recovered"):
        record, _ = export(network, "tied", tmp_path / "tied.onnx")  # compared with the network in its engine
        assert record.size_bytes > 0  # type: ignore[operator]


@pytest.mark.parametrize("kind", [TwoConvolutions, Linears, Words], ids=lambda kind: kind.__name__)
def test_bytes_are_counted_once(kind: type[nn.Module]) -> None:
    model, x, context = made(kind)
    floats = measure(Network(model, Source("zoo", "x"), example_inputs=(x[:4],)), None)
    assert floats.size_bytes == sum(
        t.numel() * t.element_size() for t in {id(t): t for t in (*model.parameters(), *model.buffers())}.values()
    )
    result = Quantize(scheme="w8").apply(model, context)
    network = Network(result.model, Source("zoo", "x"), (), (), result.encodings, (x[:4],))
    weights = {name: t.numel() for name, t in result.model.named_parameters() if name in result.encodings}
    assert weights.keys() == {n for n, t in result.model.named_parameters() if t.ndim > 1 and "table" not in n} | (
        {"table.weight"} if kind is Words else set()
    )
    table = weights.get("table.weight", 0)  # which the embedding reads in float
    assert measure(network, None).size_bytes == floats.size_bytes - 3 * sum(weights.values()) + 4 * table


def test_a_layer_is_known_by_each_of_its_names() -> None:
    model, _, context = made(Aliased)
    for pattern in ("head", "layers.2"):
        result = Quantize(exclude=(pattern,)).apply(model, context)
        assert "head.weight" not in result.encodings and "stem.weight" in result.encodings
    graph = trace(model, context.example_inputs)
    layers = [graph.layer(node) for node in graph.calls(torch.ops.aten.conv2d.default)]
    assert layers == ["stem", "head"]


def test_weights_on_few_levels_are_no_other_layer_s() -> None:
    model, _, context = made(TwoConvolutions)
    result = Quantize(scheme="bwn", first_last="same", train=FAST).apply(model, context)
    reasons = {skip.layer: skip.reason for skip in result.skipped}
    assert reasons["a"] == "kept in float: it shares its weight with b"
    assert reasons["b"] == "kept in float: it shares its weight with a"
    sparse = Sparsify(sparsity=0.5).apply(*made(Words)[::2])
    assert {skip.layer for skip in sparse.skipped} >= {"table", "head"}
    assert torch.equal(sparse.model.get_parameter("table.weight"), made(Words)[0].get_parameter("table.weight"))


def test_an_artifact_holds_a_tied_tensor_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors import safe_open

    (tmp_path / "net.py").write_text(
        "from torch import nn\n\n\ndef build():\n    net = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))\n"
        "    net[2].weight = net[0].weight\n    return net\n"
    )
    from compress.sources.load import build
    from compress.sources.specification import parse

    model, source = build(parse(f"{tmp_path}/net.py:build"))
    network = Network(model, source, example_inputs=(torch.randn(2, 6),))
    artifact.save(network, tmp_path / "out")
    with safe_open(tmp_path / "out" / "weights.safetensors", "pt") as file:
        assert sorted(file.keys()) == ["0.bias", "0.weight", "2.bias"]
    again = artifact.load(tmp_path / "out").model
    assert again[2].weight is again[0].weight and torch.equal(again[0].weight, model[0].weight)  # type: ignore[index]
