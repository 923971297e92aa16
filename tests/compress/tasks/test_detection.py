"""Detection from scenes to scored files: trained, pruned, distilled, in integers, in several formats."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress import Context, GridLoss, detection
from compress.data import Data, from_loaders
from compress.deploy import Deployed, Wanted, export, scores, suffix_of
from compress.errors import InvalidInput
from compress.pipeline import open_network, run
from compress.prune import Prune
from compress.prune.sensitivity import Scan
from compress.quantize import Quantize
from compress.recipe import Recipe
from compress.sources.load import Network
from compress.stage import Stage
from compress.tasks.resolve import require_fits, resolve
from compress.tasks.scoring import evaluate
from compress.training.loop import Training
from runtimes.checks.gate import check_folder
from tests.support.digit_scenes import crowds

DETECTOR = "fcos:num_classes=2,in_channels=1,width=0.25,image_size=64"
CODE = dedent(
    """
    from compress import GridLoss, detection
    from tests.support.digit_scenes import crowds

    def loader(count, seed):
        images, targets = crowds(count, seed=seed)
        return [(images[i:i + 8], targets[i:i + 8]) for i in range(0, count, 8)]

    def data():
        parts = {"train": (64, 0), "calibration": (16, 1), "validation": (16, 2), "test": (16, 2)}
        return {name: loader(*part) for name, part in parts.items()}

    task = detection(loss=GridLoss())
    """
)
TRAINING: dict[str, Any] = {
    "epochs": 8, "batch_size": 8, "optimizer": "adamw", "learning_rate": 5e-3, "weight_decay": 0.01,
    "precision": "fp32", "accelerator": "cpu", "warmup_epochs": 1, "gradient_clip": 10,
}  # fmt: skip


def batches(count: int, seed: int) -> list[tuple[Tensor, list[dict[str, Tensor]]]]:
    images, targets = crowds(count, seed=seed)
    return [(images[i : i + 8], targets[i : i + 8]) for i in range(0, count, 8)]


@pytest.fixture(scope="module")
def scenes() -> Data:
    parts = {"train": 64, "calibration": 16, "validation": 16, "test": 16}
    split = {name: batches(count, seed) for seed, (name, count) in enumerate(parts.items())}
    return from_loaders(name="scenes", **split)


@pytest.fixture(scope="module")
def detector(scenes: Data) -> Network:
    network = open_network(DETECTOR, data=scenes)
    task = detection(loss=GridLoss())
    trained = Training(**TRAINING).apply(network.model, Context(network.example_inputs, scenes, task=task))
    network.model.load_state_dict(trained.model.state_dict())
    return network


@pytest.mark.slow
def test_a_detector_goes_from_training_to_scored_files(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(CODE)
    recipe = {
        "model": DETECTOR,
        "data": {"source": f"{tmp_path}/net.py:data"},
        "task": f"{tmp_path}/net.py:task",
        "train": TRAINING,
        "stages": [
            {"prune": {"ratio": 0.2, "training": {**TRAINING, "epochs": 2, "learning_rate": 2e-3}}},
            {"quantize": {"revert_slower": False}},
        ],
        "exports": [
            {"name": "float"},
            {"name": "int8", "after": "quantize"},
            {"name": "int8-openvino", "after": "quantize", "format": "openvino"},
        ],
        "benchmark": {"preset": "quick"},
        "gates": {"score_drop": {"mAP": 30.0}, "top1_agreement": None},
    }
    report = run(Recipe.model_validate(recipe), tmp_path / "out")
    trained, *_, quantized = report.stages
    assert trained.before.score is not None and trained.after.score is not None and quantized.after.score is not None
    assert [score.name for score in trained.after.scores] == ["mAP", "mAP50"]
    assert trained.after.score.value > trained.before.score.value + 10
    files = {each.name: each for each in report.benchmarks}
    assert set(files) == {"float", "int8", "int8-openvino"}
    for file in files.values():
        assert file.samples == 16 and [score.name for score in file.scores] == ["mAP", "mAP50"]
    assert files["int8"].score is not None
    assert files["int8"].score.value == pytest.approx(quantized.after.score.value, abs=1.0)
    assert [gate.name for gate in report.gates] == ["score_drop of mAP"] and report.gates[0].passed
    assert all(each.passed for each in check_folder(tmp_path / "out" / "exports"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["executorch", "litert", "ncnn", "onnx", "openvino"])
def test_a_detector_is_written_in_every_format(name: str, detector: Network, scenes: Data, tmp_path: Path) -> None:
    context = Context(detector.example_inputs, scenes, task="detection")
    target = Wanted(name).resolved()[1]
    result = Quantize.model_validate({"target": target, "revert_slower": False}).apply(detector.model, context)
    rounded = replace(detector, model=result.model, encodings=result.encodings)
    expected = evaluate(resolve("detection", detector.model, scenes), detector.model, scenes.split("test"))["mAP"]
    for network in (detector, rounded):
        record, file = export(network, name, tmp_path / f"{network is rounded}{suffix_of(Wanted(name))}", Wanted(name))
        assert record.parity is not None
        found = {score.name: score.value for score in scores(file, scenes, "detection")}
        assert found["mAP"] == pytest.approx(expected, abs=0.1 if network is detector else 8)


STAGES: dict[str, Stage] = {
    "prune": Prune.model_validate({"ratio": 0.2, "criterion": "taylor", "training": {**TRAINING, "epochs": 1}}),
    "quantize": Quantize.model_validate(
        {"revert_slower": False, "train": {"epochs": 1, "batch_size": 8, "accelerator": "cpu"}}
    ),
}


@pytest.mark.parametrize("name", STAGES)
def test_without_labels_training_draws_to_the_network_as_it_was(name: str, detector: Network, scenes: Data) -> None:
    unlabelled = from_loaders(train=[(x,) for x, _ in batches(32, 0)], calibration=[(x,) for x, _ in batches(16, 1)])
    context = Context(detector.example_inputs, unlabelled, task=detection(), teacher=detector.model)
    result = STAGES[name].apply(detector.model, context)
    assert all(record["loss"] >= 0 for record in result.history) and result.history
    task = resolve("detection", detector.model, scenes)
    before, after = (evaluate(task, model, scenes.split("test"))["mAP"] for model in (detector.model, result.model))
    assert after > before - 40


def test_a_scan_tells_what_a_layer_costs_of_map(detector: Network, scenes: Data) -> None:
    context = Context(detector.example_inputs, scenes, task="detection")
    found = Scan(ratios=(0.5,), samples=8).measure(detector.model, context)
    assert found.score.name == "mAP" and found.groups


def test_a_file_is_scored_by_what_comes_back_flat(detector: Network, scenes: Data, tmp_path: Path) -> None:
    """Without its network a file gives tensors in order, boxes before scores."""
    export(detector, "float", tmp_path / "float.onnx")
    expected = evaluate(resolve("detection", detector.model, scenes), detector.model, scenes.split("test"))
    alone = scores(Deployed("float", tmp_path / "float.onnx"), scenes, "detection")
    assert {score.name: score.value for score in alone} == pytest.approx(dict(expected), abs=0.05)
    assert expected["mAP50"] > expected["mAP"] > 5


class Yolo(nn.Module):
    """The boxes of a detector as exports of YOLO give them: (N, 4 + C, A)."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, image: Tensor) -> Tensor:
        boxes, scores = self.detector(image)
        first, last = boxes[..., :2], boxes[..., 2:]
        return torch.cat([(first + last) / 2, last - first, scores.sigmoid()], -1).transpose(1, 2)


class Chosen(nn.Module):
    """A detector that returns a mapping for each image, as torchvision's do."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, image: Tensor) -> list[dict[str, Tensor]]:
        boxes, scores = self.detector(image)
        best, labels = scores.sigmoid().max(-1)
        return [{"boxes": b, "labels": k, "scores": s} for b, s, k in zip(boxes, best, labels, strict=True)]


def test_the_task_is_taken_where_network_and_labels_are_of_its_kind(detector: Network, scenes: Data) -> None:
    expected = evaluate(resolve("detection", detector.model, scenes), detector.model, scenes.split("test"))
    for network in (detector.model, Yolo(detector.model), Chosen(detector.model)):
        task = resolve(None, network, scenes)
        assert task.name == "detection"
        require_fits(task, network, scenes, ["train", "test"])
        found = evaluate(task, network, scenes.split("test"))
        if isinstance(network, Yolo):
            assert found == pytest.approx(dict(expected), abs=1e-3)
        assert found["mAP"] >= 0


def test_what_a_network_returns_is_decoded_by_the_users_function(detector: Network, scenes: Data) -> None:
    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.detector = detector.model

        def forward(self, image: Tensor) -> list[Tensor]:
            boxes, scores = self.detector(image)
            return [boxes[:, :64] / 64, boxes[:, 64:] / 64, scores]

    def decode(outputs: list[Tensor]) -> tuple[Tensor, Tensor]:
        return torch.cat(outputs[:2], 1) * 64, outputs[2]

    task = resolve(detection(decode=decode), Parts(), scenes)
    expected = evaluate(resolve("detection", detector.model, scenes), detector.model, scenes.split("test"))
    assert evaluate(task, Parts(), scenes.split("test")) == pytest.approx(dict(expected), abs=1e-3)
    require_fits(task, Parts(), scenes, ["test"])
    inputs = detector.example_inputs
    assert float(task.match(Parts()(*inputs), Parts()(*inputs))) == pytest.approx(0, abs=1e-6)
    with pytest.raises(InvalidInput, match=r"expected a pair .* got \(float32 .*; give a task of your own, compress"):
        require_fits(resolve("detection", Parts(), scenes), Parts(), scenes, ["test"])


def test_other_classes_and_other_outputs_are_told_of_in_one_line(detector: Network, scenes: Data) -> None:
    task = resolve("detection", detector.model, scenes)
    one_class = open_network(DETECTOR.replace("num_classes=2", "num_classes=1"), data=scenes).model
    with pytest.raises(InvalidInput, match="labels go up to 1, and the network has 1 classes, 0 to 0"):
        require_fits(task, one_class, scenes, ["train"])
    transposed = Yolo(detector.model)(*detector.example_inputs).transpose(1, 2)
    assert task.fits is not None
    for outputs in (transposed, torch.zeros(1, 7, 7), {"logits": transposed}):
        with pytest.raises(InvalidInput, match=r"^data: expected a pair") as refused:
            task.fits(outputs, (detector.example_inputs[0], []), "data")
        assert "\n" not in str(refused.value)
