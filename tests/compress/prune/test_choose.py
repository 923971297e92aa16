"""Targets are reached exactly, by counting the network that comes out; steps, limits, and what is out of reach."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from compress.cost.count import cost
from compress.data import Data, SampleSplit
from compress.edits import from_json, replay, to_json
from compress.errors import InvalidInput
from compress.graph.trace import trace
from compress.prune import Prune
from compress.prune.channels.groups import Group, channels
from compress.prune.select import SELECTIONS
from compress.prune.surgery.choose import Range, Selection
from compress.prune.surgery.cut import Surgery
from compress.prune.surgery.goal import Curve, PruneGoal
from compress.prune.surgery.size_model import SizeModel, Widths
from compress.stage import Context, evaluation_copy
from compress.training.loop import Training

IMAGE = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
CONTEXT = Context((IMAGE,))


class Net(nn.Module):
    """A residual, a depthwise and a grouped convolution: (N, 3, 8, 8) -> (N, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.inner = nn.Conv2d(16, 24, 3, padding=1)
        self.depthwise = nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.outer = nn.Conv2d(24, 16, 1)
        self.grouped = nn.Conv2d(16, 32, 3, groups=4)
        self.fc = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = x + self.outer(torch.relu(self.depthwise(self.inner(x))))
        y: Tensor = self.fc(torch.relu(self.grouped(x)).mean((2, 3)))
        return y


def net() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


def stored_bytes(model: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())


def counted(model: nn.Module, name: str) -> int:
    found = cost(model, (IMAGE,))
    return {"macs": found.macs, "parameters": found.params, "size": stored_bytes(model)}[name]


@pytest.mark.parametrize("name", ["macs", "parameters", "size"])
@pytest.mark.parametrize(("factor", "scope"), [(1.3, "layer"), (2.5, "layer"), (2.0, "global")])
def test_a_factor_is_reached_and_not_passed_by_more_than_rounding(name: str, factor: float, scope: str) -> None:
    stage = Prune.model_validate({name: factor, "select": scope, "round_to": 1})
    result = stage.apply(net(), CONTEXT)
    before, after = counted(net(), name), counted(result.model, name)
    assert before / factor * 0.9 < after <= before / factor


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
def test_a_ratio_is_reached_in_every_layer(ratio: float) -> None:
    model = Prune(ratio=ratio, round_to=1).apply(net(), CONTEXT).model
    widths = {name: model.get_submodule(name).out_channels for name in ("stem", "inner", "outer", "grouped")}
    assert widths == {
        "stem": 16 * (1 - ratio),
        "inner": 24 * (1 - ratio),
        "outer": 16 * (1 - ratio),
        "grouped": 32 * (1 - ratio),
    }


@pytest.mark.parametrize(
    ("name", "words"),
    [("macs", "fewer multiply-adds"), ("parameters", "fewer parameters"), ("size", "fewer bytes of weights")],
)
def test_out_of_reach_tells_what_is_reachable(name: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=rf"{name}=9000 is out of reach: at most \d+\.\d\d times {words}") as error:
        Prune.model_validate({name: 9000, "round_to": 1}).apply(net(), CONTEXT)
    reachable = float(str(error.value).split("at most ")[1].split(" times")[0])
    Prune.model_validate({name: reachable - 0.01, "round_to": 1}).apply(net(), CONTEXT)


def test_a_ratio_beyond_the_rules_tells_what_is_reachable() -> None:
    with pytest.raises(InvalidInput, match=r"ratio=0\.9 is out of reach: at most 0\.\d\d of the channels can go with"):
        Prune(ratio=0.9, minimum=12, round_to=1).apply(net(), CONTEXT)


def test_counts_are_those_of_the_network_that_is_cut() -> None:
    model = net()
    found = channels(trace(evaluation_copy(model), (IMAGE,)))
    generator = torch.Generator().manual_seed(3)
    orders = [torch.randperm(len(g.units), generator=generator).tolist() for g in found.groups]
    counts = SizeModel(found, found.groups, orders)
    assert counts.macs(counts.whole) == found.macs() == counted(model, "macs")
    for seed in range(5):
        generator.manual_seed(seed)
        kept = [int(torch.randint(1, len(g.units) + 1, (), generator=generator)) for g in found.groups]
        pruned = evaluation_copy(model)
        replay(pruned, found.edits(counts.removed(kept)))
        assert counts.macs(kept) == counted(pruned, "macs")
        assert counts.parameters(kept) == counted(pruned, "parameters")
        assert counts.size_bytes(kept) == stored_bytes(pruned)
        originals = dict(found.graph.model.named_parameters())
        for name, tensor in pruned.named_parameters():
            assert counts.shape(originals[name], kept) == tuple(tensor.shape), name


def test_limits_hold_and_the_others_make_up_for_them() -> None:
    free = Prune(macs=2.0, round_to=1).apply(net(), CONTEXT).model
    result = Prune(macs=2.0, round_to=1, limits={"inner": 0.25, "in*": 0.5}).apply(net(), CONTEXT)
    assert result.model.get_submodule("inner").out_channels == 18
    assert counted(result.model, "macs") <= counted(net(), "macs") / 2.0
    assert result.model.get_submodule("stem").out_channels < free.get_submodule("stem").out_channels  # type: ignore[operator]
    zero = Prune(ratio=0.5, round_to=1, limits={"inner": 0.0}).apply(net(), CONTEXT)
    assert zero.model.get_submodule("inner").out_channels == 24
    held = Prune(ratio=0.5, round_to=1, limits={"inner": 0.1}).apply(net(), CONTEXT)
    reasons = {skip.layer: skip.reason for skip in held.skipped}
    assert reasons["inner"].startswith("22 channels stay where 12.0 are wanted") and "limit 0.1" in reasons["inner"]


def test_where_one_group_would_jump_far_below_the_budget_the_others_make_up_for_it() -> None:
    """Attention comes in whole heads, which are a large step."""

    def of_widths(widths: Widths) -> float:
        heads, hidden = widths
        return heads * 16 * (64 + hidden)

    ranges = [Range(4, 1, 1, "heads"), Range(64, 1, 1, "hidden")]
    groups = [Group(torch.arange(n), {("w", 0): torch.arange(n)[:, None]}, (("w", 0),), (), ("w",)) for n in (4, 64)]
    scores = [torch.tensor([1.0, 1.01, 5.0, 6.0]), torch.linspace(2, 9, 64)]
    choice = Selection(groups, scores, ranges, SELECTIONS.read("global"), [None, None], of_widths)
    budget = 0.7 * of_widths([4, 64])
    _, widths = choice.within(of_widths, budget)
    assert 0.9 * budget <= of_widths(widths) <= budget and widths[0] == 3 and widths[1] < 64, "not two of four heads"


def test_limits_that_match_nothing_or_are_no_share() -> None:
    with pytest.raises(InvalidInput, match=r"limits 'layer9\.\*' matches no layer; layers are named like"):
        Prune(ratio=0.5, limits={"layer9.*": 0.5}).apply(net(), CONTEXT)
    with pytest.raises(ValidationError, match="less than 1"):
        Prune(ratio=0.5, limits={"stem": 1.0})


@pytest.mark.parametrize(
    ("target", "scope"), [({"macs": 2.0}, "global"), ({"ratio": 0.5}, "layer"), ({"parameters": 2.0}, "layer")]
)
def test_edits_of_all_steps_rebuild_the_network_and_reach_the_target(target: dict[str, float], scope: str) -> None:
    result = Prune.model_validate({**target, "steps": 3, "round_to": 1, "select": scope}).apply(net(), CONTEXT)
    again = copy.deepcopy(net())
    replay(again, [from_json(json.loads(json.dumps(to_json(edit)))) for edit in result.edits])
    assert torch.equal(again(IMAGE), result.model(IMAGE)) and str(again) == str(result.model)
    assert len({edit.before for edit in result.edits if (edit.layer, edit.what) == ("inner", "out_channels")}) == 3
    for name, factor in target.items():
        if name == "ratio":
            assert [result.model.get_submodule(n).out_channels for n in ("stem", "inner", "grouped")] == [8, 12, 16]
        else:
            assert counted(net(), name) / factor * 0.75 < counted(result.model, name) <= counted(net(), name) / factor


def test_steps_keep_similar_shares_and_are_relative_to_the_beginning() -> None:
    stage, model, baseline = Prune(macs=4.0, round_to=1, steps=2), net(), None
    sizes = [counted(model, "macs")]
    for share in (0.5, 1.0):
        done = stage.surgery.apply(model, CONTEXT, baseline, share)
        model, baseline = done.model, done.baseline
        sizes.append(counted(model, "macs"))
    assert sizes[0] / sizes[1] == pytest.approx(2.0, rel=0.15) and sizes[0] / sizes[2] == pytest.approx(4.0, rel=0.15)
    assert [PruneGoal("ratio", 0.75).after(s).value for s in (0.5, 1.0)] == [0.5, 0.75]


def test_limits_and_rounding_of_a_later_step_are_those_of_the_beginning() -> None:
    model = Prune(macs=3, steps=3, round_to=1, limits={"inner": 0.25}).apply(net(), CONTEXT).model
    assert model.get_submodule("inner").out_channels == 18
    rounded = Prune(ratio=0.5, steps=3, round_to=8).apply(net(), CONTEXT).model
    assert [rounded.get_submodule(n).out_channels for n in ("stem", "inner", "grouped")] == [8, 16, 16]


def data(count: int = 32) -> Data:
    generator = torch.Generator().manual_seed(0)
    samples = torch.randint(0, 255, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)
    return Data("noise", {"train": SampleSplit(samples, torch.arange(count) % 5)})


def test_steps_share_the_epochs_and_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = Training(epochs=5, batch_size=16, precision="fp32", learning_rate=1e-3, warmup_epochs=0)
    stage = Prune(macs=3, steps=3, round_to=1, training=training)
    assert [stage.epochs(step) for step in (1, 2, 3)] == [1, 1, 3]
    whole = stage.apply(net(), Context((IMAGE,), data()))
    assert len(whole.history) == 5 and [e.after for e in whole.edits if e.kind == "weights"] == [
        "1 epochs", "1 epochs", "3 epochs",
    ]  # fmt: skip

    from compress.prune import prune as module

    fine_tune, calls = module.fine_tune, []  # type: ignore[attr-defined]

    def interrupted(*arguments: object, **options: object) -> object:
        calls.append(options["activity"])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return fine_tune(*arguments, **options)  # type: ignore[arg-type]

    context = Context((IMAGE,), data(), checkpoints=str(tmp_path))
    monkeypatch.setattr(module, "fine_tune", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stage.apply(net(), context)
    assert calls == ["fine-tune 1/3", "fine-tune 2/3"]
    chosen: list[float] = []
    original = Surgery.apply

    def watched(*arguments: object) -> object:
        chosen.append(arguments[-1])  # type: ignore[arg-type]
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Surgery, "apply", watched)
    again = stage.apply(net(), context)
    assert chosen == [1.0], "the first two surgeries were made again from what was kept"
    assert again.edits == whole.edits and len(again.history) == 5
    assert all(torch.equal(a, b) for a, b in zip(again.model.parameters(), whole.model.parameters(), strict=True))
    with pytest.raises(InvalidInput, match="it belongs to another pruning"):
        stage.model_copy(update={"macs": 2.0}).apply(net(), context)


def test_equal_accuracy_lost_takes_more_from_the_group_that_costs_less() -> None:
    robust, fragile = Curve((0.5, 0.9), (0.0, 2.0), 0.1), Curve((0.5, 0.9), (10.0, 40.0), 0.1)
    assert robust.share(0.05) == pytest.approx(0.5) and robust.share(1.0) > fragile.share(1.0) > 0
    assert robust.share(1e9) == 0.9
    rising = Curve((0.25, 0.5, 0.75), (1.0, -2.0, 1.0), 0.0).rising[1]
    assert list(rising) == [0.0, 1.0, 1.0, 1.0], "a larger share never costs less"
    groups = channels(trace(net(), (IMAGE,))).groups[:2]
    ranges = [Range(len(g.units), 1, 1, "") for g in groups]
    scores = [torch.rand(len(g.units)) for g in groups]
    selection = Selection(groups, scores, ranges, SELECTIONS.read("sensitivity"), [robust, fragile])
    for share in (0.01, 0.1, 0.4):
        kept = selection.wanted(share)
        assert 1 - kept[0] / len(groups[0].units) > 1 - kept[1] / len(groups[1].units)
    least = selection.within(lambda kept: sum(kept), 10)[1]
    assert sum(least) <= 10
