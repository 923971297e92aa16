"""What rounding ruins is given back until the network loses no more than it may, and hardly more than that."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from compress.core.restoration import Restoration
from compress.data import Data
from compress.errors import InvalidInput
from compress.integers.simulate import simulate
from compress.pipeline.gates import restoration_gates
from compress.quantize import Quantize
from compress.quantize.restore.search import Counts, Search
from compress.report.schema import StageRecord
from compress.stage import Context, Result
from compress.tasks.boxes.precision import AveragePrecision
from compress.tasks.scoring import score_of
from compress.tasks.task import Task
from export.onnx.exporter import export_onnx
from tests.support.command_line import runner
from tests.support.ruined_networks import classifying, data_of, images, regressing, segmenting, unlabelled
from tests.support.small_networks import EXACT_TARGET, file_outputs, snr_db

Made = Callable[[], tuple[nn.Module, Data]]


def restored(make: Made, max_drop: float, task: str | Task | None = None, **settings: object) -> tuple[Result, float]:
    """The network with so much restored, and what it loses, measured by itself."""
    model, data = make()
    context = Context((images(1)[0],), data, task=task)
    stage = Quantize.model_validate(
        {"target": EXACT_TARGET, "revert_slower": False} | settings | {"max_drop": max_drop}
    )
    result = stage.apply(model, context)
    bound = context.task_of(model)
    split = data.split("validation")
    rounded = simulate(result.model, result.encodings, context.example_inputs, target=EXACT_TARGET)
    return result, bound.dropped(score_of(bound, model, split), score_of(bound, rounded, split))


@pytest.mark.parametrize(
    ("make", "task", "max_drop"),
    [
        (classifying, None, 0.5),
        (segmenting, None, 0.5),
        (regressing, "regression", 0.5),
        (unlabelled, None, 1.0),
    ],
)
def test_the_layer_that_ruins_a_network_is_restored_and_no_more(make: Made, task: str | None, max_drop: float) -> None:
    result, lost = restored(make, max_drop, task)
    account = result.restored
    assert account is not None and account.reached
    assert account.before > 5 * max_drop, "8 bits alone lose much more"
    assert lost == pytest.approx(account.after, abs=1e-6) and lost <= max_drop
    layers = {layer for group in account.groups for layer in group.layers}
    assert layers <= {"wild", "after"} and layers
    assert {"before.weight", "last.weight"} <= result.encodings.keys(), "the others stay in integers"
    assert not result.encodings["before.weight"].restored
    told = {skip.layer for skip in result.skipped if "in integers the network loses" in skip.reason}
    assert told == layers
    assert sum(group.gave_back for group in account.groups) == pytest.approx(account.before - account.after)


def test_what_loses_little_enough_stays_as_it_is() -> None:
    result, lost = restored(classifying, 100.0)
    assert result.restored is not None and result.restored.groups == () and result.restored.trials == 1
    assert lost == pytest.approx(result.restored.before)
    assert not any(encoding.restored for encoding in result.encodings.values())


def test_the_file_gives_what_the_restored_network_does(tmp_path: Path) -> None:
    result, _ = restored(classifying, 0.5)
    x, _ = images(32)
    export_onnx(result.model, (x,), tmp_path / "net.onnx", encodings=result.encodings, target=EXACT_TARGET)
    expected = simulate(result.model, result.encodings, (x,), target=EXACT_TARGET)(x)
    (got,) = file_outputs(tmp_path / "net.onnx", (x,), EXACT_TARGET)
    assert snr_db(expected, got) > 60


def test_weights_of_few_bits_get_8_before_they_are_floats() -> None:
    result, lost = restored(unlabelled, 0.05, scheme="w4")
    account = result.restored
    assert account is not None and account.reached and lost <= 0.05 < account.before
    bits = {name: encoding.bits for name, encoding in result.encodings.items()}
    assert 8 in bits.values(), bits
    assert any(group.precision == "int8" for group in account.groups)


def test_restored_layers_have_the_weights_and_biases_from_before_they_were_fitted() -> None:
    model, data = unlabelled()
    context = Context((images(1)[0],), data)
    recover = {
        "recover": [{"adaround": {"iterations": 10}}, "bias_correction"],
        "target": EXACT_TARGET,
        "revert_slower": False,
    }
    result = Quantize.model_validate(recover | {"max_drop": 10.0}).apply(model, context)
    assert result.restored is not None and result.restored.groups
    before, after = dict(model.named_parameters()), dict(result.model.named_parameters())
    layers = {layer for group in result.restored.groups for layer in group.layers}
    assert layers == {"wild", "after"}
    for layer in layers:
        torch.testing.assert_close(after[f"{layer}.bias"], before[f"{layer}.bias"], rtol=0, atol=0)
    assert not torch.equal(after["before.bias"], before["before.bias"]), "it is corrected"


def test_what_cannot_be_reached_is_told_with_the_best_there_is() -> None:
    class Coarse(nn.Module):
        """One layer: what is left of it in float is nothing."""

        def __init__(self) -> None:
            super().__init__()
            self.only = nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.only(x)
            return y

    torch.manual_seed(0)
    x, _ = images()
    result, lost = restored(lambda: (Coarse().eval(), data_of(x, None)), 0.0)
    account = result.restored
    assert account is not None and not account.reached
    assert lost == pytest.approx(account.after) and account.after <= account.before
    assert "the best that keeps something in integers" in account.failure()
    assert any(not encoding.restored for encoding in result.encodings.values())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"budget": {"size": 3}}, "give one"),
        ({"scheme": "ternary"}, "not with the scheme ternary"),
        ({"scheme": "fp16"}, "not with the scheme fp16"),
        ({"max_drop": -1}, "greater than or equal to 0"),
    ],
)
def test_contradictions_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Quantize.model_validate({"max_drop": 1.0} | settings)


def test_a_task_without_a_score_is_refused_before_the_work() -> None:
    model, data = classifying()
    scoreless = Task(name="mine", loss=lambda out, batch: out.square().mean())
    with pytest.raises(InvalidInput, match="the task mine has none"):
        Quantize(max_drop=1.0).apply(model, Context((images(1)[0],), data, task=scoreless))
    with pytest.raises(InvalidInput, match="no data is given"):
        Quantize(max_drop=1.0).apply(model, Context((images(1)[0],)))


def test_samples_on_which_the_network_has_no_score_are_refused_before_the_work() -> None:
    model, data = classifying()
    unseen = Task(name="mine", scores={"mAP": lambda: AveragePrecision(lambda outputs, batch: [])})
    with pytest.raises(InvalidInput, match="max_drop is of mAP, and the network to quantize has none on the valid"):
        Quantize(max_drop=1.0).apply(model, Context((images(1)[0],), data, task=unseen))


@pytest.mark.parametrize("needed", [0, 1, 3, 7, 20])
@pytest.mark.parametrize("widens", [False, True])
def test_the_search_finds_the_fewest_with_few_trials(needed: int, widens: bool) -> None:
    asked: list[Counts] = []

    def lost(counts: Counts) -> float:
        asked.append(counts)
        floats, wide = counts
        return float(max(0, needed - wide) + max(0, needed // 3 - floats))

    search = Search(lost, 0.0, 100, 101, widens)
    found = search.found()
    assert search.seen[found] == 0 and len(asked) == len(set(asked)) <= 26
    assert found == ((needed // 3, needed) if widens else (needed, needed))
    path = search.path(found)
    assert path[0] == (0, 0) and path[-1] == found and all(step in search.seen for step in path)


def test_the_search_gives_the_best_where_nothing_is_enough() -> None:
    search = Search(lambda counts: 5.0 - min(counts[0], 3), 0.0, 4, 6, False)
    assert search.found() == (3, 3) and search.seen[3, 3] == 2.0


def test_a_recipe_fails_where_a_stage_lost_more_than_it_was_allowed() -> None:
    account = Restoration(
        score="top-1", unit="points", split="validation", allowed=0.5, before=9.0, after=0.75, tensors=9, trials=4
    )
    stages = [StageRecord(name="int8", restored=account), StageRecord(name="prune")]
    (gate,) = restoration_gates(stages)
    assert not gate.passed and gate.got == 0.75 and gate.name == "max_drop of int8"
    kept = account.model_copy(update={"after": 0.5 + 1e-9})
    assert restoration_gates([StageRecord(name="int8", restored=kept)])[0].passed


def test_the_command_tells_what_was_restored_and_ends_with_1_where_it_is_too_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    command = runner(monkeypatch, capfd)
    source = tmp_path / "ruined.py"
    source.write_text(
        "from tests.support.ruined_networks import unlabelled\n"
        "def network():\n    return unlabelled()[0]\n"
        "def data():\n    return unlabelled()[1]\n"
    )
    line = f"quantize --model {source}:network --data {source}:data --input-shape 1,3,8,8"
    told = command(f"{line} --max-drop 1 -o {tmp_path / 'int8'}")
    assert "gave back % noise" in told and "after" in told
    manifest = json.loads((tmp_path / "int8" / "manifest.json").read_text())
    account = Restoration.model_validate(manifest["metrics"]["stage"]["restored"])
    assert account.reached and account.groups
    told = command(f"{line} --max-drop 0 -o {tmp_path / 'exact'}", code=1)
    assert "the best that keeps something in integers" in told
    assert (tmp_path / "exact" / "manifest.json").exists()
