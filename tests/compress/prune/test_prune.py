"""The stage: targets, what is chosen, what is left alone, errors, fine-tuning."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

import models
from compress.data import Data, SampleSplit
from compress.edits import from_json, replay, to_json
from compress.errors import InvalidInput
from compress.graph.trace import trace
from compress.prune import Prune
from compress.prune.channels.groups import channels
from compress.stage import Context
from compress.training.loop import Training

IMAGE = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
CONTEXT = Context((IMAGE,))


def resnet(width: int = 16) -> nn.Module:
    torch.manual_seed(0)
    model = models.build("resnet20", width=width, num_classes=5)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.2, 2.0)
    return model.eval()


def chain(*widths: int) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for i, o in zip((3, *widths), widths, strict=False):
        layers += [nn.Conv2d(i, o, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 5)).eval()


def counted_macs(model: nn.Module) -> int:
    """Multiply-adds by running the network and looking at each layer: outputs times the inputs of one output."""
    total = 0

    def count(module: nn.Module, _: object, output: Tensor) -> None:
        nonlocal total
        weight = module.weight
        assert isinstance(weight, Tensor)
        total += output.numel() * weight[0].numel()

    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    with torch.no_grad():
        model(IMAGE)
    for hook in hooks:
        hook.remove()
    return total


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("factor", [1.5, 4.0])
@pytest.mark.parametrize("round_to", [1, 8])
def test_macs_target_is_met_and_not_overshot(scope: str, factor: float, round_to: int) -> None:
    model = resnet(32)
    pruned = Prune(macs=factor, select=scope, round_to=round_to).apply(model, CONTEXT).model
    before, after = counted_macs(model), counted_macs(pruned)
    assert after <= before / factor
    assert after >= before / factor * (0.9 if round_to == 1 else 0.6)


@pytest.mark.parametrize(("name", "width"), [("resnet20", 16), ("mobilenet_v2", 0.25)])
def test_macs_of_candidates_are_those_of_the_pruned_network(name: str, width: float) -> None:
    model = models.build(name, width=width, num_classes=5).eval()
    found = channels(trace(model, (IMAGE,)))
    assert found.macs() == counted_macs(model)
    result = Prune(ratio=0.5, criterion="l2").apply(model, CONTEXT)
    removed = {
        unit.label
        for group in found.groups
        for unit in group.units
        if any(
            edit.kept is not None and (f"{edit.layer}.{edit.what}", edit.axis) in unit.cuts
            and not set(unit.cuts[f"{edit.layer}.{edit.what}", edit.axis or 0]) & set(edit.kept)
            for edit in result.edits
        )
    }  # fmt: skip
    assert found.macs(removed) == counted_macs(result.model) < counted_macs(model)


def test_macs_out_of_reach_says_what_is_reachable() -> None:
    with pytest.raises(InvalidInput, match=r"macs=1000 is out of reach: at most \d+\.\d\d times fewer"):
        Prune(macs=1000).apply(resnet(), CONTEXT)


@pytest.mark.parametrize(
    ("width", "ratio", "round_to", "minimum", "kept"),
    [(32, 0.5, 8, 1, 16), (32, 0.4, 8, 1, 16), (32, 0.3, 8, 1, 24), (32, 0.99, 8, 1, 8), (32, 0.5, 1, 15, 16),
     (20, 0.3, 8, 1, 16), (20, 0.4, 8, 10, 16), (6, 0.5, 8, 1, 3), (32, 0.2, 4, 1, 24), (32, 0.99, 1, 1, 1)],
)  # fmt: skip
def test_widths(width: int, ratio: float, round_to: int, minimum: int, kept: int) -> None:
    model = Prune(ratio=ratio, round_to=round_to, minimum=minimum).apply(chain(width, 8), CONTEXT).model
    assert model.get_parameter("0.weight").shape[0] == kept
    assert model.get_submodule("0").out_channels == model.get_submodule("2").in_channels == kept


@pytest.mark.parametrize("criterion", ["l1", "l2", "bn_scale"])
def test_the_least_important_filters_go(criterion: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 14 * 14, 5))
    weak = [1, 4, 6, 7]
    with torch.no_grad():
        scored = model[1].weight if criterion == "bn_scale" else model[0].weight
        assert isinstance(scored, Tensor)
        scored[weak] *= 0.01
    result = Prune(ratio=0.5, criterion=criterion, round_to=1).apply(model, CONTEXT)
    (edit,) = [e for e in result.edits if (e.layer, e.what) == ("0", "weight")]
    assert edit.kept == (0, 2, 3, 5)
    assert (edit.before, edit.after, edit.axis) == ((8, 3, 3, 3), (4, 3, 3, 3), 0)


def test_global_scope_takes_more_from_the_layer_with_unimportant_filters() -> None:
    model = chain(16, 16)
    with torch.no_grad():
        model[0].weight[2:] *= 1e-3  # type: ignore[index, operator]
    pruned = Prune(ratio=0.4, select="global", round_to=1).apply(model, CONTEXT).model
    assert pruned.get_parameter("0.weight").shape[0] < 6 < 12 < pruned.get_parameter("2.weight").shape[0]


def test_replayed_edits_give_the_same_network_bit_for_bit() -> None:
    model = resnet()
    result = Prune(ratio=0.5).apply(model, CONTEXT)
    fresh = copy.deepcopy(model)
    replay(fresh, [from_json(json.loads(json.dumps(to_json(edit)))) for edit in result.edits])
    assert str(fresh) == str(result.model)
    assert torch.equal(fresh(IMAGE), result.model(IMAGE))
    empty = models.build("resnet20", width=16, num_classes=5).eval()
    replay(empty, result.edits)
    empty.load_state_dict(result.model.state_dict())
    assert torch.equal(empty(IMAGE), result.model(IMAGE))


def test_output_layer_is_untouched_and_reported() -> None:
    result = Prune(ratio=0.5).apply(resnet(), CONTEXT)
    assert result.model.fc.out_features == 5  # type: ignore[union-attr]
    assert ("fc", "its channels are an output of the network") in {(s.layer, s.reason) for s in result.skipped}
    assert all(p.requires_grad for p in result.model.parameters())


def test_excluded_layers_keep_their_channels() -> None:
    result = Prune(ratio=0.5, exclude=("layer1.*.conv1", "layer3.2.conv2")).apply(resnet(), CONTEXT)
    model = result.model
    assert all(model.get_parameter(f"layer1.{i}.conv1.weight").shape[0] == 16 for i in range(3))
    assert model.get_parameter("layer3.0.conv2.weight").shape[0] == 64, "coupled with an excluded layer"
    assert model.get_parameter("layer3.0.conv1.weight").shape[0] == 32
    reasons = {skip.layer: skip.reason for skip in result.skipped}
    assert reasons["layer1.0.conv1"] == "excluded (layer1.0.conv1)"
    assert reasons["layer3.0.conv2"] == "excluded (layer3.2.conv2)"


def test_pruned_twice() -> None:
    once = Prune(ratio=0.5).apply(resnet(32), CONTEXT).model
    twice = Prune(ratio=0.5).apply(once, CONTEXT).model
    shapes = [m.get_parameter("layer3.0.conv1.weight").shape[0] for m in (once, twice)]
    assert shapes == [64, 32]
    assert twice(IMAGE).shape == (1, 5)


def test_bn_scale_skips_layers_without_batch_norm() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), *chain(8, 8)[2:])  # type: ignore[misc]
    result = Prune(ratio=0.5, criterion="bn_scale", round_to=1).apply(model, CONTEXT)
    assert ("3", "bn_scale: no batch normalization follows") in {(s.layer, s.reason) for s in result.skipped}
    with pytest.raises(InvalidInput, match=r"nothing in Sequential can be pruned: .*bn_scale: no batch normalization"):
        Prune(ratio=0.5, criterion="bn_scale").apply(chain(16, 16), CONTEXT)


class WrittenDown(nn.Module):
    def __init__(self, forward: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.fc, self.code = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 5), forward

    def forward(self, x: Tensor) -> Tensor:
        return self.code(self, torch.relu(self.conv(x)))


def viewed(net: nn.Module, x: Tensor) -> Tensor:
    return net.get_submodule("fc")(x.mean((2, 3)).view(-1, 8))


def split_by_number(net: nn.Module, x: Tensor) -> Tensor:
    first, second = x.split(4, dim=1)
    return net.get_submodule("fc")(torch.cat([first, second], 1).mean((2, 3)))


def regrouped(net: nn.Module, x: Tensor) -> Tensor:
    x = x.view(x.shape[0], x.shape[1] // 2, 2, 16, 16).transpose(1, 2).flatten(1, 2)
    return net.get_submodule("fc")(x.mean((2, 3)))


def test_a_channel_count_written_in_the_code_is_named() -> None:
    message = r"conv: the code does not follow its channel count: view at test_prune\.py:\d+: "
    with pytest.raises(InvalidInput, match=message):
        Prune(ratio=0.5, round_to=1).apply(WrittenDown(viewed), CONTEXT)


def test_a_split_by_a_number_keeps_the_channels_before_it() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 3, 1), WrittenDown(split_by_number))
    result = Prune(ratio=0.5, round_to=1).apply(model, CONTEXT)
    assert [result.model.get_parameter(f"{name}.weight").shape[0] for name in ("0", "2.conv")] == [3, 8]
    reason = next(skip.reason for skip in result.skipped if skip.layer == "2.conv")
    assert reason.startswith("the code does not follow its channel count: split at test_prune.py:")


def test_the_dimension_of_a_grid_that_shrinks_is_found_out() -> None:
    torch.manual_seed(0)
    result = Prune(ratio=0.5, round_to=1).apply(WrittenDown(regrouped), CONTEXT)
    (edit,) = [e for e in result.edits if (e.layer, e.what) == ("conv", "weight")]
    assert edit.kept is not None and len(edit.kept) == 4
    assert all(index ^ 1 in edit.kept for index in edit.kept), "pairs of neighbours go together"


def test_a_network_that_runs_but_computes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "compress.prune.channels.verify.masked_outputs", lambda _graph, _labels, _removed, _x: (torch.zeros(1, 5),)
    )
    with pytest.raises(InvalidInput, match="the smaller network computes something else"):
        Prune(ratio=0.5, round_to=1).apply(chain(8, 8), CONTEXT)


@pytest.mark.parametrize(
    ("options", "message"),
    [({}, "exactly one of `ratio`, .* and `latency`, got none"), ({"ratio": 0.5, "macs": 2.0}, "got `ratio`, `macs`"),
     ({"ratio": 1.0}, "less than 1"), ({"ratio": 0.0}, "greater than 0"), ({"macs": 1.0}, "greater than 1"),
     ({"ratio": 0.5, "round_to": 0}, "a whole number from 1 to 1048576, or measured"),
     ({"ratio": 0.5, "criterion": "l3"}, "l1"),
     ({"ratio": 0.5, "rate": 1}, "Extra inputs")],
)  # fmt: skip
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Prune.model_validate(options)


def test_bad_uses() -> None:
    with pytest.raises(InvalidInput, match=r"exclude 'layer9\.\*' matches no layer"):
        Prune(ratio=0.5, exclude=("layer9.*",)).apply(resnet(), CONTEXT)
    with pytest.raises(InvalidInput, match="nothing is removed: with round_to=8"):
        Prune(ratio=0.5).apply(chain(8, 8), CONTEXT)
    with pytest.raises(InvalidInput, match="nothing in Linear can be pruned"):
        Prune(ratio=0.5).apply(nn.Linear(16, 16), Context((torch.randn(1, 16),)))
    with pytest.raises(InvalidInput, match="no data to train on"):
        Prune(ratio=0.5, training=Training(epochs=1)).apply(resnet(), CONTEXT)


@pytest.mark.parametrize("with_teacher", [False, True])
def test_fine_tuning(tmp_path: Path, with_teacher: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    samples = torch.randint(0, 255, (32, 3, 16, 16), generator=generator, dtype=torch.uint8)
    data = Data("noise", {"train": SampleSplit(samples, torch.arange(32) % 5)})
    training = Training(epochs=1, batch_size=16, precision="fp32", learning_rate=1e-4)
    tasks: list[str] = []

    def progress(task: str, done: int, total: int, note: str = "") -> None:
        tasks.append(task)

    teacher = resnet() if with_teacher else None
    context = Context((IMAGE,), data, teacher, progress=progress, checkpoints=str(tmp_path))
    tuned = Prune(ratio=0.5, training=training).apply(resnet(), context)
    plain = Prune(ratio=0.5).apply(resnet(), CONTEXT)
    assert set(tasks) == {"prune", "fine-tune"} and (tmp_path / "prune.ckpt").exists()
    assert not tuned.model.training
    assert tuned.edits[:-1] == plain.edits and tuned.edits[-1].kind == "weights"
    assert not torch.equal(tuned.model.fc.weight, plain.model.fc.weight)  # type: ignore[union-attr,arg-type]
