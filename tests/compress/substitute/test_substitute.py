"""The stage Substitute: what is replaced and what stays, artifacts, and that the network is still one as any other."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from compress import Context, Prune, Quantize
from compress.cli import cli
from compress.compact.substitutions import SUBSTITUTIONS
from compress.cost.count import cost
from compress.data import Data, SampleSplit
from compress.edits import from_json, replay, to_json, undo
from compress.errors import InvalidInput
from compress.fold import Fold
from compress.recipe import Recipe
from compress.replacements import replacement, substituted
from compress.stage import Edit, evaluation_copy
from compress.substitute.stage import Substitute
from compress.training.loop import Training
from export.onnx.exporter import export_onnx
from runtimes.runtime import load
from tests.support.invented_clock import InventedClock
from tests.support.small_classifier import SmallNet, pattern_data

IMAGES = torch.randn(64, 3, 12, 12, generator=torch.Generator().manual_seed(0))


class Wide(nn.Module):
    """A 5x5 and two 3x3 convolutions with a residual: (N, 3, H, W) -> (N, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        self.large = nn.Conv2d(16, 16, 5, padding=2)
        self.small = nn.Conv2d(16, 16, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn(self.stem(x)))
        x = self.relu(self.large(x)) + x
        x = self.relu(self.small(x))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


def wide() -> nn.Module:
    torch.manual_seed(0)
    model = Wide()
    model.train()(IMAGES)
    return model.eval()


def context(images: Tensor = IMAGES, **facts: object) -> Context:
    data = Data("images", {"calibration": SampleSplit(images, None)})
    return Context((images[:1],), data, task="outputs", **facts)  # type: ignore[arg-type]


BOTH = Substitute(with_modules=["stacked_3x3", "depthwise-separable"], steps=8)


def test_each_layer_takes_the_first_that_fits_and_the_network_gets_cheaper() -> None:
    model = wide()
    result = BOTH.apply(model, context())
    after = {edit.layer: edit.after for edit in result.edits if edit.kind == "module"}
    assert after == {
        "large": "substitution stacked_3x3",
        "stem": "substitution depthwise_separable",
        "small": "substitution depthwise_separable",
    }
    assert cost(result.model, (IMAGES[:1],)).macs < 0.7 * cost(model, (IMAGES[:1],)).macs
    parameters = [sum(p.numel() for p in network.parameters()) for network in (result.model, model)]
    assert parameters[0] < 0.6 * parameters[1]
    with torch.no_grad():
        expected, outputs = model(IMAGES), result.model(IMAGES)
    assert float((outputs - expected).square().sum() / expected.square().sum()) < 0.2
    errors = {edit.layer: (edit.before, edit.after) for edit in result.edits if edit.kind == "weights"}
    assert errors.keys() == after.keys()
    assert all(float(str(now)) <= float(str(before)) for before, now in errors.values())


def test_steps_bring_substitutes_closer() -> None:
    model = wide()
    few, many = (
        Substitute(with_modules=["depthwise_separable"], layers=["small"], steps=steps).apply(model, context())
        for steps in (0, 100)
    )
    errors = [next(e.after for e in result.edits if e.kind == "weights") for result in (few, many)]
    assert isinstance(errors[0], float) and isinstance(errors[1], float) and errors[1] <= errors[0]


def test_edits_replay_and_are_undone() -> None:
    model = wide()
    result = BOTH.apply(model, context())
    again = evaluation_copy(model)
    replay(again, [from_json(json.loads(json.dumps(to_json(edit)))) for edit in result.edits])
    again.load_state_dict(result.model.state_dict())
    with torch.no_grad():
        assert torch.equal(again(IMAGES), result.model(IMAGES))
    undo(again, result.edits, model)
    assert type(again.get_submodule("large")) is nn.Conv2d


def test_what_saves_nothing_stays_with_both_figures() -> None:
    stage = Substitute(with_modules=["stacked_3x3", {"depthwise_separable": 16}], steps=0)
    result = stage.apply(wide(), context())
    assert [edit.layer for edit in result.edits if edit.kind == "module"] == ["large"]
    reasons = {skip.layer: skip.reason for skip in result.skipped}
    assert reasons["small"] == (
        "depthwise_separable would save nothing: 331,776 multiply-adds become 921,600 multiply-adds"
    )


def test_layers_by_pattern_and_exclude() -> None:
    result = Substitute(with_modules=["depthwise_separable"], layers=["s*"], exclude=["stem"], steps=0).apply(
        wide(), context()
    )
    assert [edit.layer for edit in result.edits if edit.kind == "module"] == ["small"]
    assert [(skip.layer, skip.reason) for skip in result.skipped] == [("stem", "excluded")]
    with pytest.raises(InvalidInput, match="layers 'nothing\\*' matches no layer"):
        Substitute(with_modules=["depthwise_separable"], layers=["nothing*"]).apply(wide(), context())
    with pytest.raises(InvalidInput, match="calibration samples"):
        BOTH.apply(wide(), Context((IMAGES[:1],)))


def test_the_clock_decides_where_there_is_one() -> None:
    slow = InventedClock(lambda timed: 2.0 if isinstance(timed.model, nn.Sequential) else 1.0)
    with pytest.raises(InvalidInput, match="would save nothing: 1 ms become 2 ms"):
        BOTH.apply(wide(), context(clock=slow))
    fast = InventedClock(lambda timed: 0.5 if isinstance(timed.model, nn.Sequential) else 1.0)
    result = BOTH.model_copy(update={"steps": 0}).apply(wide(), context(clock=fast))
    assert [measured.choice for measured in result.measured] == ["the layers that are replaced"]


def test_layers_that_are_used_in_other_ways_stay() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.twice, self.other = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
            self.tied = nn.Conv2d(3, 3, 3, padding=1)
            self.tied.weight = self.other.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.tied(self.other(self.twice(self.twice(self.first(x)))))

    result = Substitute(with_modules=["depthwise_separable"], steps=0).apply(Tied(), context())
    assert [edit.layer for edit in result.edits if edit.kind == "module"] == ["first"]
    reasons = {skip.layer: skip.reason for skip in result.skipped}
    assert "2 times" in reasons["twice"] and "shares its weight" in reasons["tied"]


@pytest.mark.parametrize("name", SUBSTITUTIONS.names)
def test_an_edit_of_another_layer_is_refused(name: str) -> None:
    text = substituted(SUBSTITUTIONS.read(name))
    with pytest.raises(InvalidInput, match="it is a Linear; its source has changed"):
        replacement(nn.Linear(3, 3), text)


@pytest.mark.parametrize("text", ["nothing", "file.py:build", '{"depthwise_separable": {"multiplier": 1000000000}}'])
def test_an_edit_that_names_no_substitution_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="it is no edit of ours"):
        replay(nn.Sequential(nn.Conv2d(3, 3, 3)), [Edit("0", "module", "Conv2d", f"substitution {text}", "module")])


def test_the_network_is_pruned_folded_quantized_and_exported_after(tmp_path: Path) -> None:
    result = BOTH.apply(wide(), context())
    pruned = Prune(ratio=0.5).apply(result.model, context())
    assert cost(pruned.model, (IMAGES[:1],)).macs < 0.7 * cost(result.model, (IMAGES[:1],)).macs
    folded = Fold().apply(pruned.model, context()).model
    export_onnx(folded, (IMAGES[:1],), tmp_path / "float.onnx")
    engine = load(tmp_path / "float.onnx")
    (outputs,) = engine.run({engine.inputs[0].name: IMAGES.numpy()}).values()
    engine.close()
    with torch.no_grad():
        np.testing.assert_allclose(np.asarray(outputs), pruned.model(IMAGES).numpy(), atol=1e-4)
    quantized = Quantize().apply(folded, context())
    export_onnx(quantized.model, (IMAGES[:1],), tmp_path / "int8.onnx", encodings=quantized.encodings)
    engine = load(tmp_path / "int8.onnx")
    executed = engine.executed_graph({engine.inputs[0].name: IMAGES.numpy()})
    engine.close()
    assert executed is not None and executed.float == 0


def test_the_whole_is_trained_towards_what_it_gave_before() -> None:
    torch.manual_seed(0)
    model = SmallNet()
    training = Training(epochs=1, batch_size=8)
    stage = Substitute(with_modules=["depthwise_separable"], layers=["conv2"], steps=2, training=training)
    result = stage.apply(model, Context((torch.zeros(1, 1, 8, 8),), pattern_data()))
    assert len(result.history) == 1 and not result.model.training
    assert result.edits[-1].after == "1 epochs"


def test_commands_and_recipes_take_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["substitute", "resnet20:width=4", "--data", "digits", "--with", "depthwise-separable", "--saves", "macs"]
    done = CliRunner().invoke(cli, [*words, "--layers", "layer3.2*", "--steps", "2", "--samples", "64", "-o", str(out)])
    assert done.exit_code == 0, done.output
    manifest = json.loads((out / "manifest.json").read_text())
    replaced = [edit["layer"] for edit in manifest["edits"] if edit["kind"] == "module"]
    assert replaced == ["layer3.2.conv1", "layer3.2.conv2"]
    again = CliRunner().invoke(cli, ["analyze", str(out)])
    assert again.exit_code == 0 and "layer3.2.conv1" in again.output
    stage = {"with_modules": [{"depthwise_separable": {"multiplier": 2}}], "layers": ["layer1*"]}
    recipe = Recipe.model_validate({"model": "resnet20", "stages": [{"substitute": stage}]})
    assert isinstance(recipe.stages[0].stage, Substitute)
