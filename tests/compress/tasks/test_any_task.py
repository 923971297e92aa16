"""Networks that are no classifiers go through every stage by a task of the user's, or without any labels."""

from __future__ import annotations

import logging
from copy import deepcopy
from pathlib import Path
from textwrap import dedent

import pytest
import torch
from torch import Tensor, nn

from compress import Context, Task, deploy
from compress.data import Data, LoaderSplit, from_arrays, from_loaders
from compress.errors import InvalidInput
from compress.pipeline import advance, open_network, run
from compress.prune import Prune
from compress.prune.regularize import Regularize
from compress.prune.sensitivity import Scan
from compress.quantize import Quantize
from compress.recipe import Recipe
from compress.sources.load import Network
from compress.sources.specification import Source
from compress.sparsify import Sparsify
from compress.stage import Result, Stage, evaluation_copy
from compress.tasks.built_in.outputs import noise_percent
from compress.tasks.resolve import resolve
from compress.training.loop import Training
from runtimes.checks.gate import check_folder

FAST = Training(epochs=3, batch_size=16, learning_rate=0.02, precision="fp32", accelerator="cpu", warmup_epochs=0)

CODE = dedent(
    """
    import torch
    from torch import nn
    from torch.nn.functional import cross_entropy
    from compress import Task

    class Segmenter(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
                                      nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
            self.head = nn.Conv2d(8, 3, 1)

        def forward(self, image):
            features = self.body(image)
            return {"out": self.head(features), "features": features.mean((2, 3))}

    def build():
        torch.manual_seed(0)
        return Segmenter()

    def loader(seed, count=48):
        generator = torch.Generator().manual_seed(seed)
        x = torch.rand(count, 1, 8, 8, generator=generator)
        labels = (x[:, 0] * 3).long().clamp(0, 2)
        return [{"image": x[i:i + 16], "map": labels[i:i + 16]} for i in range(0, count, 16)]

    def data():
        return {"train": loader(0, 96), "calibration": loader(1, 32), "validation": loader(2), "test": loader(3)}

    class Pixels:
        higher_is_better = True

        def reset(self):
            self.right = self.seen = 0

        __init__ = reset

        def update(self, outputs, batch):
            self.right += int((outputs["out"].argmax(1) == batch["map"]).sum())
            self.seen += batch["map"].numel()

        def compute(self):
            return 100 * self.right / self.seen

    task = Task(name="segmentation", loss=lambda outputs, batch: cross_entropy(outputs["out"], batch["map"]),
                scores={"pixels": Pixels}, unit=" %")
    """
)


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("segmenter") / "net.py"
    path.write_text(CODE)
    return path


def test_a_recipe_runs_by_the_users_task_from_training_to_the_scored_file(code: Path, tmp_path: Path) -> None:
    recipe = {
        "model": f"{code}:build",
        "data": {"source": f"{code}:data"},
        "task": f"{code}:task",
        "train": FAST.model_copy(update={"epochs": 8}),
        "stages": [
            {"prune": {"ratio": 0.25, "round_to": 1, "training": FAST}},
            {"fold": {}},
            {"quantize": {"revert_slower": False}},
        ],
        "exports": [{"name": "float"}, {"name": "int8", "after": "quantize"}],
        "benchmark": {"preset": "quick"},
        "gates": {"score_drop": {"pixels": 20.0}, "top1_agreement": None},
    }
    report = run(Recipe.model_validate(recipe), tmp_path / "out")
    trained, *_, quantized = report.stages
    assert trained.after.score is not None and trained.after.score.name == "pixels"
    assert trained.after.score.value > (trained.before.score.value if trained.before.score else 100) + 20
    assert [set(record) >= {"loss", "validation_score"} for record in trained.history] == [True] * 8
    last = report.benchmarks[-1]
    assert last.samples == 48 and last.score is not None and str(last.score).endswith(" %")
    assert quantized.after.score is not None and abs(last.score.value - quantized.after.score.value) < 5
    assert list(report.summary.score_drops) == ["pixels"]
    assert [gate.name for gate in report.gates] == ["score_drop of pixels"] and report.gates[0].passed
    assert "pixels" in (tmp_path / "out" / "report.html").read_text()


def segmented(code: Path) -> tuple[nn.Module, Context]:
    from compress.data import load

    data = load(f"{code}:data")
    network = open_network(f"{code}:build", data=data)
    return network.model, Context(network.example_inputs, data, task=f"{code}:task")


BRIEF = {"epochs": 3, "batch_size": 16}
STAGES: dict[str, Stage] = {
    "taylor": Prune(ratio=0.25, criterion="taylor", round_to=1, repair=()),
    "obd": Prune(ratio=0.25, criterion="obd", round_to=1, repair=("recalibrate_bn", "reconstruct")),
    "sensitivity": Prune(macs=1.3, select="sensitivity", round_to=1, repair=()),
    "knapsack": Prune(macs=1.3, select="knapsack", round_to=1),
    "regularize": Regularize(method="group_lasso", training=FAST),
    "sparsify": Sparsify(sparsity=0.5, criterion="obd", samples=8),
    "budget": Quantize.model_validate({"budget": {"sensitivity": "hessian", "size": 3.0}, "revert_slower": False}),
    "trained": Quantize.model_validate({"train": BRIEF, "revert_slower": False}),
    "brecq": Quantize.model_validate({"scheme": "w4a8", "recover": [{"brecq": 20}]}),
    "ternary": Quantize.model_validate({"scheme": "ternary", "train": BRIEF}),
}


@pytest.mark.parametrize("unlabelled", [False, True], ids=["task", "outputs"])
@pytest.mark.parametrize("name", STAGES)
def test_every_stage_works_for_a_network_that_is_no_classifier(name: str, unlabelled: bool, code: Path) -> None:
    model, context = segmented(code)
    context = Context(context.example_inputs, context.data, task="outputs" if unlabelled else context.task)
    if name == "budget":
        context = Context(context.example_inputs, context.data, task=context.task, clock=deploy.MachineClock())
    result: Result = STAGES[name].apply(model, context)
    before, after = model(*context.example_inputs), result.model(*context.example_inputs)
    assert set(after) == set(before) and after["out"].shape == before["out"].shape
    assert all(bool(torch.isfinite(value).all()) for value in after.values())


def test_without_labels_training_brings_a_pruned_network_back_to_what_it_was(code: Path) -> None:
    model, context = segmented(code)
    context = Context(context.example_inputs, context.data, task="outputs")
    scores = {}
    for name, stage in (
        ("cut", Prune(ratio=0.5, round_to=1, repair=())),
        ("tuned", Prune(ratio=0.5, round_to=1, repair=(), training=FAST.model_copy(update={"epochs": 12}))),
    ):
        network = open_network(f"{code}:build", data=context.data)
        network.model.load_state_dict(model.state_dict())
        _, record = advance(network, stage, context, name=name)
        assert record.before.score is not None and record.before.score.written(record.before.score.value) == "exact"
        assert record.after.score is not None and record.after.score.name == "SNR"
        scores[name] = record.after.score.value
    assert noise_percent(scores["tuned"]) < 0.7 * noise_percent(scores["cut"])


def test_a_match_that_is_relative_to_small_outputs_does_not_make_training_diverge() -> None:
    """The default match to a teacher, with labels: its gradients are those of outputs of the size 1."""
    torch.manual_seed(0)
    inputs = torch.randn(64, 4)
    head = nn.Linear(8, 1)
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), head)
    with torch.no_grad():
        head.weight.mul_(1e-3)
        head.bias.fill_(0.5)
    data = from_arrays(x_train=inputs, y_train=network(inputs).detach())
    own = Task(loss=lambda outputs, batch: (outputs - batch[1]).square().mean())
    context = Context((inputs[:1],), data, teacher=deepcopy(network), task=own)
    training = FAST.model_copy(update={"batch_size": 8, "epochs": 4, "learning_rate": 0.05})
    result = Prune(ratio=0.25, round_to=1, training=training).apply(network, context)
    assert bool(torch.isfinite(result.model(inputs)).all())


def test_a_scan_tells_what_is_lost_of_the_users_score(code: Path) -> None:
    model, context = segmented(code)
    found = Scan(ratios=(0.5,), samples=32).measure(model, context)
    assert found.score.name == "pixels" and 0 <= found.score.value <= 100 and found.samples == 32
    bare = Scan(ratios=(0.5,), samples=32).measure(model, Context(context.example_inputs, context.data, task="outputs"))
    assert bare.score.name == "SNR" and all(0 < loss < 1000 for group in bare.groups for loss in group.losses)


def test_labels_of_no_task_are_told_of_and_not_trained_on(code: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, context = segmented(code)
    maps = [(batch["image"], batch["map"]) for batch in context.data.split("train").batches(16)] if context.data else []
    data = from_loaders(train=maps, name="maps")
    with caplog.at_level(logging.WARNING, "compress"):
        assert resolve(None, evaluation_copy(model), data).name == "outputs"
    (entry,) = caplog.records
    assert "data maps: its labels are not used" in entry.getMessage() and "--task" in entry.getMessage()
    with pytest.raises(InvalidInput, match=r"train: the data maps has no labels that the network could learn"):
        FAST.apply(model, Context(context.example_inputs, data))


class TwoInputs(nn.Module):
    """Text with a mask: two integer inputs, one output of two values."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(20, 8)
        self.fc = nn.Linear(8, 2)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        kept = mask.unsqueeze(-1).float()
        pooled = (self.table(ids) * kept).sum(1) / kept.sum(1).clamp_min(1.0)
        result: Tensor = self.fc(pooled)
        return result


def text(count: int, labels: bool) -> list[tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(count)
    ids, mask = torch.randint(0, 20, (count, 6), generator=generator), torch.ones(count, 6, dtype=torch.long)
    mask[:, 4:] = 0
    return [(ids, mask, ids[:, 0] // 10)] if labels else [(ids, mask)]


@pytest.mark.parametrize("labels", [True, False], ids=["classes", "no labels"])
def test_a_mask_is_an_input_and_no_label(labels: bool) -> None:
    calibration, validation = (LoaderSplit(text(count, labels), "text") for count in (32, 24))
    data = Data("text", {"calibration": calibration, "validation": validation})
    model = TwoInputs().eval()
    context = Context(tuple(x[:2] for x in text(8, False)[0]), data)
    task = context.task_of(model)
    assert task.name == ("classification" if labels else "outputs")
    result = Quantize(revert_slower=False).apply(model, context)
    assert any(name.startswith("fc") for name in result.encodings)


def test_outputs_that_are_no_classes_are_not_held_to_the_first_of_them(tmp_path: Path) -> None:
    """Two places of a landmark that lie close together may change places by rounding."""
    torch.manual_seed(0)
    places = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 6)).eval()
    images = torch.rand(160, 1, 8, 8)
    for labelled in (False, True):
        labels = torch.randint(0, 6, (160,)) if labelled else torch.rand(160, 6)
        data = from_loaders(calibration=[(images[:32],)], test=[(images, labels)], name=f"places {labelled}")
        context = Context((images[:1],), data)
        result = Quantize(revert_slower=False).apply(places, context)
        source = Source("module", "tests", "places")
        network = Network(result.model, source, encodings=dict(result.encodings), example_inputs=(images[:1],))
        folder = tmp_path / str(labelled)
        folder.mkdir()
        deploy.write_folder(network, folder, [deploy.Wanted()], data)
        (checked,) = check_folder(folder)
        assert checked.passed and checked.parity is not None and checked.parity.samples == 160
        assert (checked.parity.top1_agreement is not None) is labelled and (checked.top1 is not None) is labelled
        (record,) = deploy.measure([deploy.Deployed("file", folder / "model.onnx", network)], data=data)
        assert record.parity is not None and (record.parity.top1_agreement is not None) is labelled
        assert [score.name for score in record.scores] == (["top-1"] if labelled else ["SNR"])
