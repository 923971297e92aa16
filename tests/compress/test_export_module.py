"""A bare module, exported and held against its file; and data from arrays, tensors and loaders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import compress
from compress import Context, Prune, Quantize
from compress.data import Data, from_arrays, from_loaders, load
from compress.deploy import Wanted
from compress.errors import GateFailed, InvalidInput
from runtimes.checks import gate
from runtimes.runtime import load as load_file


class Sum(nn.Module):
    """(N, 4) and (N, 4) -> (N, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return self.linear(first + second)


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.Flatten(),
        nn.Linear(8 * 36, 5),
    ).eval()  # fmt: skip


IMAGES = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def run_file(path: Path, x: Tensor) -> np.ndarray:
    engine = load_file(path)
    try:
        return next(iter(engine.run({engine.inputs[0].name: x.numpy()}).values()))
    finally:
        engine.close()


def test_a_module_in_floats(tmp_path: Path) -> None:
    model = small().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    path = tmp_path / "new" / "net.onnx"
    record = compress.export(model, IMAGES[:2], path)
    assert record.parity is not None and record.parity.relative_error is not None
    assert record.parity.relative_error < 1e-4 and record.file == str(path)
    assert record.size_bytes == path.stat().st_size and record.engine == "onnxruntime"
    assert model.training and all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert "BatchNormalization" not in {node.op_type for node in onnx.load(path).graph.node}
    with torch.no_grad():
        np.testing.assert_allclose(run_file(path, IMAGES[:7]), model.eval()(IMAGES[:7]).numpy(), atol=1e-4)


def test_pruned_quantized_exported_and_run(tmp_path: Path) -> None:
    data = from_arrays(x_calib=IMAGES)
    context = Context((data.example(4),), data)
    pruned = Prune(ratio=0.5).apply(small(), context)
    result = Quantize().apply(pruned.model, context)
    record = compress.export(result.model, context.example_inputs, tmp_path / "int8.onnx", encodings=result.encodings)
    assert record.nodes is not None and record.nodes.integer >= 3 and record.nodes.float == 0
    with torch.no_grad():
        expected = pruned.model.eval()(IMAGES[:16]).numpy()
    got = run_file(tmp_path / "int8.onnx", IMAGES[:16])
    assert got.shape == (16, 5) and np.abs(got - expected).max() < 0.1 * np.abs(expected).max()
    elsewhere = compress.export(
        result.model, context.example_inputs, tmp_path / "arm.onnx", encodings=result.encodings,
        wanted=Wanted(target="ort-arm"),
    )  # fmt: skip
    assert elsewhere.target == "ort-arm" and elsewhere.format == "onnx"


def test_a_module_of_two_inputs(tmp_path: Path) -> None:
    record = compress.export(Sum(), (torch.randn(2, 4), torch.randn(2, 4)), tmp_path / "sum.onnx")
    assert record.parity is not None and [value.name for value in onnx.load(tmp_path / "sum.onnx").graph.input] == [
        "first",
        "second",
    ]


def test_what_cannot_be_exported_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    model, path = small(), tmp_path / "net.onnx"
    with pytest.raises(InvalidInput, match=r"net\.bin: expected a name that ends in .*\.onnx"):
        compress.export(model, IMAGES[:1], tmp_path / "net.bin")
    with pytest.raises(InvalidInput, match=r"net\.onnx: files of the format litert end in \.tflite"):
        compress.export(model, IMAGES[:1], path, wanted=Wanted(format="litert"))
    with pytest.raises(InvalidInput, match=r"model Sequential: does not run on inputs of shape \(1, 2, 8, 8\)"):
        compress.export(model, IMAGES[:1, :2], path)
    with pytest.raises(InvalidInput, match=r"takes 2 inputs \(first, second\), and 1 was given"):
        compress.export(Sum(), torch.randn(1, 4), path)
    quantized = Quantize().apply(model, Context((IMAGES[:1],), from_arrays(x_calib=IMAGES)))
    with pytest.raises(InvalidInput, match="is no tensor of this network; they were made for another one"):
        compress.export(Sum(), (torch.randn(1, 4), torch.randn(1, 4)), path, encodings=quantized.encodings)
    with torch.no_grad():
        next(model.parameters())[0, 0, 0, 0] = torch.nan
    with pytest.raises(InvalidInput, match=r"model Sequential: 0\.weight"):
        compress.export(model, IMAGES[:1], path)
    assert not list(tmp_path.iterdir())


def test_a_file_is_not_replaced_unless_asked(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"mine")
    with pytest.raises(InvalidInput, match="exists"):
        compress.export(small(), IMAGES[:1], path)
    assert path.read_bytes() == b"mine"
    compress.export(small(), IMAGES[:1], path, overwrite=True)
    onnx.checker.check_model(str(path))


def test_a_file_that_computes_something_else_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "judge", lambda kind, parity: ["wrong"])
    with pytest.raises(GateFailed, match="wrong"):
        compress.export(small(), IMAGES[:1], tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def splits_of(data: Data) -> dict[str, list[tuple[Tensor, Tensor | None]]]:
    return {name: list(split.batches(16)) for name, split in data.splits.items()}


@pytest.mark.parametrize("as_tensors", [True, False])
def test_arrays_are_dealt_out_as_those_of_a_file(tmp_path: Path, as_tensors: bool) -> None:
    generator = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        "x_train": generator.integers(0, 256, (40, 3, 4, 4), dtype=np.uint8),
        "y_train": np.arange(40) % 4,
        "x_test": generator.integers(0, 256, (8, 3, 4, 4), dtype=np.uint8),
        "y_test": np.arange(8) % 4,
    }
    np.savez(tmp_path / "data.npz", **arrays)
    stored = load(str(tmp_path / "data.npz"), 3)
    given: dict[str, Any] = {name: torch.from_numpy(x) if as_tensors else x for name, x in arrays.items()}
    made = from_arrays(**given, seed=3)
    assert made.classes == stored.classes == ("0", "1", "2", "3") and made.preprocessing == stored.preprocessing
    ours, theirs = splits_of(made), splits_of(stored)
    assert set(ours) == {"train", "calibration", "validation", "test"} == set(theirs)
    for name, batches in ours.items():
        for (x, y), (other, labels) in zip(batches, theirs[name], strict=True):
            assert torch.equal(x, other) and y is not None and labels is not None and torch.equal(y, labels)


def test_samples_without_labels_and_with_a_scale() -> None:
    floats = from_arrays(x_calib=IMAGES)
    assert list(floats.splits) == ["calibration"] and torch.equal(floats.example(64), IMAGES)
    pixels = from_arrays(x_calib=np.full((2, 3, 2, 2), 255, np.uint8), mean=(0.5,) * 3, std=(0.25,) * 3)
    assert torch.equal(pixels.example(2), torch.full((2, 3, 2, 2), 2.0))


def test_what_is_wrong_with_arrays_is_told() -> None:
    bare = from_arrays(x_train=IMAGES)
    assert not bare.classes and all(len(batch) == 1 for batch in bare.split("train").batches(16)), "no labels"
    with pytest.raises(InvalidInput, match=r"data arrays: y_train must be numbers, labels of each of 64 samples"):
        from_arrays(x_train=IMAGES, y_train=torch.zeros(3))
    with pytest.raises(
        InvalidInput, match="data arrays: expected x_train, with y_train where there are labels, or x_calib alone"
    ):
        from_arrays()


def test_loaders() -> None:
    batches = DataLoader(TensorDataset(IMAGES, torch.arange(64) % 5), batch_size=16)
    data = from_loaders(train=batches, calibration=[IMAGES[:16]])
    assert len(data.split("train")) == 64 and data.example().shape == (1, 3, 8, 8)
    x, *rest = data.split("calibration").batches(4)
    assert not rest and torch.equal(x, IMAGES[:16])
    with pytest.raises(InvalidInput, match="data loaders: expected a loader of test batches, got int"):
        from_loaders(test=3)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="data loaders: expected a loader"):
        from_loaders()
