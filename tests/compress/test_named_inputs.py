"""Networks of several inputs, whose samples an .npz has by name, go from their data to files that are scored."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
import torch

from compress import MachineClock
from compress.data import DataConfig, from_arrays, load
from compress.errors import InvalidInput
from compress.pipeline import open_network, run
from compress.quantize import Quantize
from compress.recipe import Recipe
from compress.stage import Context

CODE = dedent(
    """
    import torch
    from torch import nn

    class Text(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.wide, self.head = nn.Embedding(20, 16), nn.Linear(16, 32), nn.Linear(32, 2)

        def forward(self, ids, mask):
            weights = mask.to(torch.float32).unsqueeze(-1)
            mean = (self.table(ids) * weights).sum(1) / weights.sum(1).clamp(min=1.0)
            return self.head(torch.relu(self.wide(mean)))

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.wide, self.head = nn.Conv2d(1, 8, 3), nn.Linear(4, 8), nn.Linear(16, 2)

        def forward(self, image, table):
            seen = torch.relu(self.conv(image)).mean((2, 3))
            return self.head(torch.cat([seen, torch.relu(self.wide(table))], 1))

    def text():
        torch.manual_seed(0)
        return Text()

    def both():
        torch.manual_seed(0)
        return Both()
    """
)


def text(count: int, seed: int) -> tuple[dict[str, np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
    """Words of which those that are not masked are below 10 (class 0), or not."""
    generator = np.random.default_rng(seed)
    y = np.arange(count) % 2
    mask = np.arange(6)[None] < generator.integers(2, 7, (count, 1))
    ids = generator.integers(0, 10, (count, 6)) + 10 * np.where(mask, y[:, None], generator.integers(0, 2, (count, 6)))
    return {"mask": mask.astype(np.int64), "ids": ids}, y


def both(count: int, seed: int) -> tuple[dict[str, np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
    """Images that are brighter where the class is 1, beside numbers that are larger."""
    generator = np.random.default_rng(seed)
    y = np.arange(count) % 2
    image = generator.integers(0, 150, (count, 1, 6, 6)) + 80 * y[:, None, None, None]
    return {"table": generator.normal(size=(count, 4)) + y[:, None], "image": image.astype(np.uint8)}, y


KINDS = {"text": text, "both": both}


def written(root: Path, kind: str) -> Path:
    arrays: dict[str, Any] = {}
    for i, (split, count) in enumerate((("train", 96), ("val", 32), ("test", 32))):
        inputs, arrays[f"y_{split}"] = KINDS[kind](count, i)
        arrays |= {f"x_{split}_{name}": x for name, x in inputs.items()}
    np.savez(root / "d.npz", **arrays)
    (root / "net.py").write_text(CODE)
    return root / "d.npz"


@pytest.mark.parametrize("kind", KINDS)
def test_from_the_data_to_a_scored_file_and_back_from_onnx(kind: str, tmp_path: Path) -> None:
    source = written(tmp_path, kind)
    training = {"epochs": 5, "batch_size": 8, "learning_rate": 0.05, "precision": "fp32", "accelerator": "cpu"}
    recipe: dict[str, Any] = {
        "model": f"{tmp_path}/net.py:{kind}",
        "data": {"source": str(source), "calibration": 16},
        "train": training,
        "stages": [{"prune": {"ratio": 0.25, "round_to": 1}}, {"quantize": {"revert_slower": False}}],
        "exports": [{"name": "float", "after": "baseline"}, {"name": "int8"}],
        "benchmark": {"preset": "quick"},
    }
    report = run(Recipe.model_validate(recipe), tmp_path / "out")
    assert [stage.after.score.value > 90 for stage in report.stages if stage.after.score] == [True] * 3
    assert [record.samples for record in report.benchmarks] == [32, 32]
    scored = {record.name: record for record in report.benchmarks}
    assert all(record.score is not None and record.score.value > 90 for record in scored.values())
    data = load(str(source))
    network = open_network(str(tmp_path / "out" / "exports" / "float.onnx"), data=data)
    order = ("ids", "mask") if kind == "text" else ("image", "table")
    assert [x.shape[1:] for x in network.example_inputs] == [data.batch()[0][name].shape[1:] for name in order]
    context = Context(network.example_inputs, data, clock=MachineClock())
    done = Quantize(revert_slower=False).apply(network.model, context)
    task = context.task_of(done.model)
    assert task.name == "classification"
    ((inputs, labels),) = data.splits["test"].batches(32)
    with torch.no_grad():
        right = (done.model(*(inputs[name] for name in order)).argmax(1) == labels).float().mean()
    assert right > 0.9


def test_samples_of_any_type_and_rank(tmp_path: Path) -> None:
    arrays = {
        "truth": np.arange(12).reshape(6, 2) % 2 == 0, "small": np.arange(6, dtype=np.int8), "long": np.arange(6),
        "half": np.ones((6, 2), np.float16), "short": np.ones((6, 1, 2, 2, 2, 2), np.int16),
        "pixels": np.full((6, 3, 2, 2), 255, np.uint8),
    }  # fmt: skip
    np.savez(tmp_path / "d.npz", **{f"x_calib_{name}": x for name, x in arrays.items()})
    ((inputs,),) = load(str(tmp_path / "d.npz")).splits["calibration"].batches(8)
    assert {name: x.dtype for name, x in inputs.items()} == {
        "truth": torch.bool, "small": torch.int8, "half": torch.float32, "short": torch.int16, "long": torch.int64,
        "pixels": torch.float32,
    }  # fmt: skip
    for name, x in arrays.items():
        assert name == "pixels" or torch.equal(inputs[name].double(), torch.from_numpy(x.astype(float)))
    assert torch.equal(inputs["pixels"], torch.ones(6, 3, 2, 2))


def test_splits_and_several_labels_go_together() -> None:
    x = {"a": np.arange(40.0)[:, None], "b": np.arange(40)}
    data = from_arrays(x_train=x, y_train={"first": np.arange(40), "second": np.arange(40.0) * 2}, name="both")
    seen = []
    for split in data.splits.values():
        for inputs, labels in split.batches(7, shuffle_seed=(0, 0)):
            assert torch.equal(inputs["a"][:, 0].long(), inputs["b"]) and torch.equal(labels["first"], inputs["b"])
            assert torch.equal(labels["second"], inputs["b"] * 2.0)
        seen += [b for inputs, _ in split.batches(40) for b in inputs["b"].tolist()]
    assert sorted(seen) == list(range(40)) and set(data.splits) == {"train", "calibration", "validation"}


def test_a_mean_is_for_the_one_input_of_pixels(tmp_path: Path) -> None:
    source = str(written(tmp_path, "both"))
    data = load(DataConfig(source=source, mean=(0.5,), std=(2.0,)))
    ((inputs, _),) = data.splits["test"].batches(32)
    raw = np.load(source)
    np.testing.assert_allclose(inputs["image"], (raw["x_test_image"] / 255 - 0.5) / 2, atol=1e-6)
    np.testing.assert_allclose(inputs["table"], raw["x_test_table"], atol=1e-6)
    with pytest.raises(InvalidInput, match=r"mean and std are for one input of pixels .* there are 0"):
        load(DataConfig(source=str(written(tmp_path, "text")), mean=(0.5,)))


def test_inputs_of_other_names_are_told(tmp_path: Path) -> None:
    source = written(tmp_path, "both")
    data = load(str(source))
    with pytest.raises(
        InvalidInput, match=r"expected ids, mask as the network's forward names them, got (image|table)"
    ):
        open_network(f"{tmp_path}/net.py:text", data=data)
