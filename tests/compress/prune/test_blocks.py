"""Depth pruning: which blocks are found, which go, and that the rest computes what it did with them bypassed."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from pydantic import ValidationError
from torch import Tensor, nn

import models
from compress.cli import cli
from compress.cost.count import cost
from compress.data import Data, SampleSplit
from compress.edits import from_json, replay, to_json
from compress.errors import InvalidInput
from compress.graph.trace import trace
from compress.prune import Prune, RemoveBlocks
from compress.prune.channels.residual import blocks
from compress.prune.scoring.block_importance import First, block_influence, influences, relative_change
from compress.sources import artifact
from compress.sources.load import Network
from compress.sources.specification import parse
from compress.stage import Context, Result
from compress.tasks.built_in.classification import top1
from compress.training.loop import Training

IMAGE = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
CONTEXT = Context((IMAGE,))
ELIGIBLE = ("layer1.0", "layer1.1", "layer1.2", "layer2.1", "layer2.2", "layer3.1", "layer3.2")


def resnet(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = models.build("resnet20", width=8, num_classes=5)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.2, 2.0)
                module.bias.normal_()
    return model.eval()


class Layer(nn.Module):
    """A transformer layer with the norms first: (N, L, C) -> (N, L, C)."""

    def __init__(self, width: int = 8, scale: float = 1.0) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).chunk(3, -1)
        x = x + self.scale * self.proj(nn.functional.scaled_dot_product_attention(q, k, v))
        merged: Tensor = x + self.scale * self.down(nn.functional.gelu(self.up(self.norm2(x))))
        return merged


class Transformer(nn.Module):
    """Patches, a class token, layers and a head: (N, 3, 16, 16) -> (N, 5)."""

    def __init__(self, scales: tuple[float, ...] = (1.0, 0.01, 0.5, 0.1)) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.position = nn.Parameter(torch.randn(1, 17, 8))
        self.layers = nn.ModuleList(Layer(scale=scale) for scale in scales)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        for layer in self.layers:
            x = layer(x)
        return self.head(x[:, 0])


def transformer() -> nn.Module:
    torch.manual_seed(0)
    return Transformer().eval()


def sums() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 3, 1), *(Sum("plain") for _ in range(5)), nn.Conv2d(3, 3, 1)).eval()


def bypassed(model: nn.Module, names: tuple[str, ...], x: Tensor) -> Tensor:
    """The output where hooks let the named modules yield what they were given."""
    hooks = []
    copied = copy.deepcopy(model)
    for name in names:
        given: list[Tensor] = []
        block = copied.get_submodule(name)
        hooks.append(block.register_forward_pre_hook(lambda _, args, given=given: given.append(args[0].clone())))
        hooks.append(block.register_forward_hook(lambda _, args, out, given=given: given.pop()))
    with torch.no_grad():
        found: Tensor = copied(x)
    return found


def gone(result: Result) -> tuple[str, ...]:
    return tuple(edit.layer for edit in result.edits if edit.kind == "module")


def labelled(model: nn.Module, count: int = 64) -> Data:
    """Images whose labels are what ``model`` says: it is right on all of them."""
    samples = torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        split = SampleSplit(samples, model(samples).argmax(1))
    return Data("its own", {"train": split, "validation": split, "calibration": SampleSplit(samples, None)})


def test_blocks_of_resnet20() -> None:
    found, skipped = blocks(trace(resnet(), (IMAGE,)))
    assert tuple(block.name for block in found) == ELIGIBLE
    reasons = {skip.layer: skip.reason for skip in skipped}
    assert set(reasons) == {"layer2.0", "layer3.0"}
    assert reasons["layer2.0"] == "its output (1, 16, 8, 8) has another shape than its input (1, 8, 16, 16)"


@pytest.mark.parametrize(
    ("build", "eligible", "count", "criterion"),
    [(resnet, 7, 3, "magnitude"), (transformer, 4, 1, "similarity"), (transformer, 4, 3, "magnitude")],
)
def test_what_is_left_equals_the_network_with_the_blocks_bypassed(
    build: Callable[[], nn.Module], eligible: int, count: int, criterion: str
) -> None:
    model = build()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = RemoveBlocks(count=count, criterion=criterion).apply(model, CONTEXT)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    names = gone(result)
    assert len(names) == count and type(result.model) is type(model) and not result.model.training
    assert all(isinstance(result.model.get_submodule(name), nn.Identity) for name in names)
    x = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(result.model(x), bypassed(model, names, x), rtol=0, atol=1e-6)
        assert not torch.allclose(result.model(x), model(x))
    parameters = [sum(p.numel() for p in m.parameters()) for m in (model, result.model)]
    assert parameters[1] < parameters[0]
    assert len(blocks(trace(result.model, (IMAGE,)))[0]) == eligible - count


def test_every_eligible_block_can_go() -> None:
    model = sums()
    result = RemoveBlocks(count=5).apply(model, CONTEXT)
    assert gone(result) == ("1", "2", "3", "4", "5")
    torch.testing.assert_close(result.model(IMAGE), model[6](model[0](IMAGE)))  # type: ignore[index]


def test_influence_against_numpy() -> None:
    rng = np.random.default_rng(0)
    for shape in ((2, 3, 4), (2, 3, 4, 4), (5, 6)):
        before, after = rng.normal(size=shape), rng.normal(size=shape)
        vectors = (2 * 3, 4) if len(shape) == 3 else (shape[0], -1)
        cosines, changes = [], []
        for a, b in zip(before.reshape(vectors), after.reshape(vectors), strict=True):
            cosines.append(1 - float(a @ b) / float(np.sqrt(a @ a) * np.sqrt(b @ b)))
            changes.append(float(np.sqrt(((b - a) ** 2).sum()) / np.sqrt((a**2).sum())))
        tensors = torch.from_numpy(before), torch.from_numpy(after)
        np.testing.assert_allclose(block_influence(*tensors).numpy(), cosines, rtol=1e-12)
        np.testing.assert_allclose(relative_change(*tensors).numpy(), changes, rtol=1e-12)
    x = torch.randn(4, 7)
    torch.testing.assert_close(block_influence(x, 3 * x), torch.zeros(4).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(block_influence(x, -x), torch.full((4,), 2.0).double())
    torch.testing.assert_close(relative_change(x, 3 * x), torch.full((4,), 2.0).double())


@pytest.mark.parametrize("criterion", ["similarity", "magnitude"])
def test_the_blocks_that_change_least_go(criterion: str) -> None:
    result = RemoveBlocks(count=2, criterion=criterion).apply(transformer(), CONTEXT)
    assert gone(result) == ("layers.1", "layers.3"), "scaled by 0.01 and 0.1"


def test_influences_of_all_blocks_are_measured_on_the_calibration_samples() -> None:
    model = transformer()
    data = labelled(model)
    measured = influences(model, ["layers.0", "layers.1"], "similarity", Context((IMAGE,), data), samples=40)
    samples = torch.cat([x for x, *_ in First(data.split("calibration"), 40).batches(64)])
    assert len(samples) == 40
    x = model.patches(samples).flatten(2).transpose(1, 2)  # type: ignore[operator]
    x = torch.cat([model.token.expand(40, -1, -1), x], 1) + model.position  # type: ignore[operator]
    x = x.detach()
    for name in ("layers.0", "layers.1"):
        y = model.get_submodule(name)(x).detach()
        assert measured[name] == pytest.approx(block_influence(x, y).mean().item(), rel=1e-6)
        x = y
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_by_accuracy_the_block_that_costs_least_goes() -> None:
    model = resnet()
    data = labelled(model)
    drops = {}
    for name in ELIGIBLE:
        correct = bypassed(model, (name,), torch.cat([x for x, _ in data.split("validation").batches(64)]))
        labels = torch.cat([y for _, y in data.split("validation").batches(64) if y is not None])
        drops[name] = 100.0 * (1 - float((correct.argmax(1) == labels).double().mean()))
    context = Context((IMAGE,), data)
    assert influences(model, ELIGIBLE, "accuracy", context, 512) == pytest.approx(drops)
    assert len(set(drops.values())) > 2
    result = RemoveBlocks(count=1).apply(model, context)  # accuracy, as there are labels
    (name,) = gone(result)
    assert drops[name] == min(drops.values())
    assert top1(result.model, data.split("validation")) == pytest.approx(100 - drops[name])


@pytest.mark.parametrize("factor", [1.1, 2.0])
def test_macs_target_is_met_with_as_few_blocks_as_the_order_allows(factor: float) -> None:
    model = sums()
    result = RemoveBlocks(macs=factor).apply(model, CONTEXT)
    before, after = cost(model, (IMAGE,)).macs, cost(result.model, (IMAGE,)).macs
    assert after <= before / factor
    fewer = RemoveBlocks(count=max(1, len(gone(result)) - 1)).apply(model, CONTEXT)
    assert set(gone(fewer)) <= set(gone(result))
    if len(gone(result)) > 1:
        assert cost(fewer.model, (IMAGE,)).macs > before / factor


def test_edits_replay_on_a_fresh_network_and_from_an_artifact(tmp_path: Path) -> None:
    model = resnet()
    context = Context((IMAGE,))
    removed = RemoveBlocks(count=2).apply(model, context)
    narrower = Prune(ratio=0.5, round_to=1).apply(removed.model, context)
    edits = (*removed.edits, *narrower.edits)
    fresh = models.build("resnet20", width=8, num_classes=5).eval()
    replay(fresh, [from_json(json.loads(json.dumps(to_json(edit)))) for edit in edits])
    fresh.load_state_dict(narrower.model.state_dict())
    assert str(fresh) == str(narrower.model) and torch.equal(fresh(IMAGE), narrower.model(IMAGE))
    source = parse("resnet20:width=8,num_classes=5")
    artifact.save(Network(narrower.model, source, edits, example_inputs=(IMAGE,)), tmp_path / "a")
    assert torch.equal(artifact.load(tmp_path / "a").model(IMAGE), narrower.model(IMAGE))


def test_fine_tuning(tmp_path: Path) -> None:
    model = transformer()
    data = labelled(model)
    training = Training(epochs=1, batch_size=32, precision="fp32", learning_rate=1e-3, accelerator="cpu")
    tasks: set[str] = set()
    context = Context(
        (IMAGE,), data, model, checkpoints=str(tmp_path), progress=lambda task, done, total, note="": tasks.add(task)
    )
    tuned = RemoveBlocks(count=1, training=training).apply(model, context)
    plain = RemoveBlocks(count=1).apply(model, context)
    assert tuned.edits[:-1] == plain.edits and tuned.edits[-1].kind == "weights" and len(tuned.history) == 1
    assert not torch.equal(tuned.model.head.weight, plain.model.head.weight)  # type: ignore[union-attr,arg-type]
    assert tasks == {"measure blocks", "fine-tune"} and (tmp_path / "remove_blocks.ckpt").exists()
    assert not tuned.model.training


class Sum(nn.Module):
    """``x + f(x)``, in variants; each but the first cannot be removed."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.f, self.g = kind, nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.stride = 1

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        if self.kind == "projected":
            return self.f(x) + self.g(x)
        if self.kind == "activated":
            return torch.relu(x) + self.f(x)
        if self.kind == "scaled":
            return x * 0.5 + self.f(x)
        if self.kind == "two results":
            return x + self.f(x), self.g(x)
        if self.kind == "two inputs":
            assert other is not None
            return x + self.f(other)
        if self.kind == "smaller":
            return x[..., 1:] + self.f(x)[..., 1:]
        if self.kind == "not after the sum":
            return self.g(x + self.f(x))
        return torch.relu_(x + self.f(x))


class Around(nn.Module):
    """One good block, and one of another kind."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.stem, self.good, self.other = kind, nn.Conv2d(3, 3, 1), Sum("plain"), Sum(kind)

    def forward(self, x: Tensor) -> Tensor:
        x = self.good(self.stem(x))
        if self.kind == "two results":
            a, b = self.other(x)
            return a * b
        if self.kind == "two inputs":
            return self.other(x, torch.relu(x)) * 2
        if self.kind == "called twice":
            return self.other(self.other(x))
        if self.kind == "looked at":
            return self.other(x) * self.other.stride
        if self.kind == "of the network":
            return x + self.stem(x)
        return self.other(x)


@pytest.mark.parametrize(
    ("kind", "layer", "reason"),
    [
        ("projected", "other", "its shortcut is not the identity"),
        ("activated", "other", "its shortcut is not the identity"),
        ("scaled", "other", "its shortcut is not the identity"),
        ("not after the sum", "other", "its shortcut is not the identity"),
        ("two results", "other", "returns 2 tensors"),
        ("two inputs", "other", "takes 2 tensors"),
        ("called twice", "other", "is used more than once"),
        ("smaller", "other", "has another shape than its input"),
        ("looked at", "other", "without it the network fails ('Identity' object has no attribute 'stride')"),
        ("of the network", "", "its own forward adds, at test_blocks.py:"),
    ],
)
def test_modules_that_stay_and_why(kind: str, layer: str, reason: str) -> None:
    torch.manual_seed(0)
    result = RemoveBlocks(count=1).apply(Around(kind).eval(), CONTEXT)
    assert gone(result) == ("good",)
    ((found, told),) = [(skip.layer, skip.reason) for skip in result.skipped]
    assert found == layer and reason in told


def test_too_few_blocks_tells_why_others_stay() -> None:
    with pytest.raises(InvalidInput, match=r"count=2, and only 1 can be removed \(good\); other stays: its shortcut"):
        RemoveBlocks(count=2).apply(Around("projected").eval(), CONTEXT)


def test_a_plain_pair_of_blocks_and_exclusions() -> None:
    torch.manual_seed(0)
    model = Around("plain").eval()
    result = RemoveBlocks(count=2).apply(model, CONTEXT)
    assert gone(result) == ("good", "other") and result.skipped == ()
    kept = RemoveBlocks(count=1, exclude=("goo*",)).apply(model, CONTEXT)
    assert gone(kept) == ("other",) and [(s.layer, s.reason) for s in kept.skipped] == [("good", "excluded")]


def test_shared_blocks_stay() -> None:
    torch.manual_seed(0)
    shared = Sum("plain")
    model = nn.Sequential(nn.Conv2d(3, 3, 1), shared, Sum("plain"), shared).eval()
    result = RemoveBlocks(count=1).apply(model, CONTEXT)
    assert gone(result) == ("2",)
    assert {(s.layer, s.reason) for s in result.skipped} <= {
        ("1", "is used more than once"),
        ("3", "is used more than once"),
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [({}, r"exactly one of .*count.* and .*macs"), ({"count": 1, "macs": 2.0}, r"exactly one of .*count.* and .*macs"),
     ({"count": 0}, "greater than or equal to 1"), ({"macs": 1.0}, "greater than 1"),
     ({"count": 1, "criterion": "l1"}, "accuracy"), ({"count": 1, "samples": 0}, "greater than or equal to 1"),
     ({"count": 1, "ratio": 0.5}, "Extra inputs")],
)  # fmt: skip
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RemoveBlocks.model_validate(options)


def test_bad_uses() -> None:
    model = sums()
    with pytest.raises(
        InvalidInput, match=r"macs=50 is out of reach: at most 3\.50 times fewer without all of 1, 2, 3"
    ):
        RemoveBlocks(macs=50).apply(model, CONTEXT)
    with pytest.raises(InvalidInput, match=r"count=6, and only 5 can be removed \(1, 2, 3, 4, 5\)$"):
        RemoveBlocks(count=6).apply(model, CONTEXT)
    with pytest.raises(InvalidInput, match=r"exclude 'layer9\.\*' matches no layer"):
        RemoveBlocks(count=1, exclude=("layer9.*",)).apply(model, CONTEXT)
    with pytest.raises(InvalidInput, match="Conv2d has no block to remove: it has no residual sums"):
        RemoveBlocks(count=1).apply(nn.Conv2d(3, 3, 1), CONTEXT)
    with pytest.raises(InvalidInput, match="Sequential has no block to remove: 1: excluded"):
        RemoveBlocks(count=1, exclude=("*",)).apply(model, CONTEXT)
    with pytest.raises(InvalidInput, match="no data to train on"):
        RemoveBlocks(count=1, training=Training(epochs=1)).apply(model, CONTEXT)
    with pytest.raises(InvalidInput, match="criterion accuracy needs labelled validation samples"):
        RemoveBlocks(count=1, criterion="accuracy").apply(model, CONTEXT)


NET = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        return torch.relu(x + self.conv(x))


def build():
    return nn.Sequential(nn.Conv2d(1, 4, 1), Block(), Block(), Block(), nn.Flatten(), nn.Linear(256, 3))
"""


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NET)
    arguments = ["remove-blocks", "net.py:build", "--input-shape", "1,8,8", "--count", "2", "-q", "--json"]
    ran = CliRunner().invoke(cli, [*arguments, "-o", "shallow"], catch_exceptions=False)
    assert ran.exit_code == 0
    record = json.loads(ran.stdout)
    assert record["name"] == "remove_blocks" and record["config"]["count"] == 2
    assert record["before"]["macs"] - record["after"]["macs"] == 2 * 4 * 4 * 9 * 64
    loaded = artifact.load(tmp_path / "shallow")
    assert sum(isinstance(module, nn.Identity) for module in loaded.model) == 2  # type: ignore[attr-defined]
    with pytest.raises(InvalidInput, match=r"exactly one of .*count.* and .*macs"):
        CliRunner().invoke(cli, [*arguments, "--macs", "2", "-o", "other"], catch_exceptions=False)
