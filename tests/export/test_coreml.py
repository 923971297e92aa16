"""Core ML packages, read back with coremltools' own reader and computed step by step in torch."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.errors import InvalidInput
from compress.files.outputs import new_files
from compress.quantize import Quantize, simulate
from export.facts import formats
from export.format import Exported, Job, exporter
from tests.support.small_networks import Joined, made, snr_db

ct = pytest.importorskip("coremltools")

LABELS = ("ant", "bee", "cat", "dog", "é")


@cache
def quantized(scheme: str) -> tuple[Any, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The network with its encodings, samples, and an example of its input."""
    model, inputs, context = made(Joined)
    return Quantize(scheme=scheme).apply(model, context), inputs, context.example_inputs


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    """Float, with 16 bits, with 8 bits, and as a classifier of (N, H, W, C) images."""
    result, _, example = quantized("int8")
    half, _, _ = quantized("fp16")
    folder = tmp_path_factory.mktemp("coreml")
    jobs = {
        "float": Job(result.model, example, "coreml"),
        "fp16": Job(half.model, example, "coreml", encodings=half.encodings),
        "int8": Job(
            result.model,
            example,
            "coreml",
            encodings=result.encodings,
            layout="nhwc",
            labels=LABELS,
            metadata={"made by": "a test"},
        ),
    }
    return {name: exporter("coreml").export(job, folder / f"{name}.mlpackage") for name, job in jobs.items()}


def program_of(package: Path) -> Any:
    """The program in a package, by coremltools' reader."""
    from coremltools.converters.mil.frontend.milproto.load import load

    specification = ct.utils.load_spec(str(package))
    return load(specification, specification.specificationVersion, str(package / "Data/com.apple.CoreML/weights"))


def computed(package: Path, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the program's operations yield, as Core ML documents them, one after the other in torch."""
    function = program_of(package).functions["main"]
    known: dict[str, Any] = {}
    for name, variable in function.inputs.items():
        known[variable.name] = inputs[name]
    for operation in function.operations:
        given = {
            name: [_value(each, known) for each in one] if isinstance(one, (list, tuple)) else _value(one, known)
            for name, one in operation.inputs.items()
        }
        if operation.op_type != "const":
            known[operation.outputs[0].name] = OPERATIONS[operation.op_type](given)
    return {variable.name: known[variable.name] for variable in function.outputs if variable.name in known}


def _value(variable: Any, known: dict[str, Any]) -> Any:
    if variable.name in known:
        return known[variable.name]
    value = variable.val
    return torch.from_numpy(np.array(value)) if isinstance(value, np.ndarray) and value.ndim else value


def _convolve(given: dict[str, Any]) -> Tensor:
    top, bottom, left, right = given["pad"] if given["pad_type"] == "custom" else (0, 0, 0, 0)
    x = functional.pad(given["x"], (int(left), int(right), int(top), int(bottom)))
    weight = given["weight"].to(x.dtype)
    return functional.conv2d(x, weight, given["bias"].to(x.dtype), given["strides"].tolist(), groups=given["groups"])


def _along(values: Any, rank: int, axis: int | None) -> Any:
    if not isinstance(values, Tensor) or values.ndim == 0:
        return float(values)
    return values.double().reshape([-1 if place == axis else 1 for place in range(rank)])


def _restore(integers: Tensor, given: dict[str, Any]) -> Tensor:
    axis, zero = given.get("axis"), given.get("zero_point", 0)
    return (
        (integers.double() - _along(zero, integers.ndim, axis)) * _along(given["scale"], integers.ndim, axis)
    ).float()


def _quantize(given: dict[str, Any]) -> Tensor:
    real = given["input"].double() / _along(given["scale"], given["input"].ndim, None)
    return torch.round(real).clamp(-128, 127).to(torch.int8)


OPERATIONS: dict[str, Any] = {
    "conv": _convolve,
    "relu": lambda given: torch.relu(given["x"]),
    "clip": lambda given: given["x"].clamp(float(given["alpha"]), float(given["beta"])),
    "max_pool": lambda given: functional.max_pool2d(
        given["x"], given["kernel_sizes"].tolist(), given["strides"].tolist()
    ),
    "add": lambda given: given["x"] + given["y"],
    "concat": lambda given: torch.cat(given["values"], int(given["axis"])),
    "reduce_mean": lambda given: given["x"].mean(given["axes"].tolist(), bool(given["keep_dims"])),
    "reshape": lambda given: given["x"].reshape([int(size) for size in given["shape"]]),
    "transpose": lambda given: given["x"].permute(given["perm"].tolist()),
    "linear": lambda given: functional.linear(
        given["x"], given["weight"].to(given["x"].dtype), given["bias"].to(given["x"].dtype)
    ),
    "quantize": _quantize,
    "dequantize": lambda given: _restore(given["input"], given),
    "constexpr_affine_dequantize": lambda given: _restore(given["quantized_data"], given),
    "cast": lambda given: given["x"].to({"fp16": torch.float16, "fp32": torch.float32}[given["dtype"]]),
    "classify": lambda given: given["probabilities"],
}


def operators(package: Path) -> Counter[str]:
    return Counter(each.op_type for each in program_of(package).functions["main"].operations)


def test_float_program_computes_what_torch_computes(packages: dict[str, Exported]) -> None:
    result, inputs, _ = quantized("int8")
    written = packages["float"]
    assert (written.inputs, written.outputs) == (("image",), ("output",))
    image = ct.utils.load_spec(str(written.file)).description.input[0].type.multiArrayType
    assert next((each.lowerBound, each.upperBound) for each in image.shapeRange.sizeRanges) == (1, 256)
    with torch.no_grad():
        expected = result.model(inputs[0])
    # The size of the batch is an operand of the reshape: it is what is computed for one sample.
    actual = torch.cat([computed(written.file, {"image": x[None]})["output"] for x in inputs[0][:4]])
    assert float((expected[:4] - actual).abs().max() / expected.abs().max()) < 1e-5


def test_integer_program_computes_what_the_simulation_does(packages: dict[str, Exported]) -> None:
    result, inputs, example = quantized("int8")
    simulated = simulate(result.model, result.encodings, example, target="coreml")
    found = []
    for x in inputs[0][:8]:
        outputs = computed(packages["int8"].file, {"image": x[None].permute(0, 2, 3, 1)})
        found.append(next(iter(outputs.values())))
    with torch.no_grad():
        expected = simulated(inputs[0][:8])
    assert snr_db(expected, torch.cat(found)) > 40


def test_integer_program_has_integers(packages: dict[str, Exported]) -> None:
    found = operators(packages["int8"].file)
    assert found["conv"] == 4 and found["linear"] == 1
    assert found["constexpr_affine_dequantize"] == 5, "each weight is stored in integers"
    assert found["quantize"] >= 8
    for operation in program_of(packages["int8"].file).functions["main"].operations:
        if operation.op_type == "quantize":
            assert operation.inputs["output_dtype"].val == "int8"
            assert operation.inputs.get("zero_point") is None or not np.any(operation.inputs["zero_point"].val)
        if operation.op_type == "constexpr_affine_dequantize":
            assert operation.inputs["quantized_data"].val.dtype == np.int8
        if operation.op_type in ("conv", "linear"):
            assert operation.inputs["x"].op.op_type in ("dequantize", "reshape", "transpose")


def test_half_program_computes_and_stores_halves(packages: dict[str, Exported]) -> None:
    result, inputs, _ = quantized("fp16")
    package = packages["fp16"].file
    weights = [
        operation.inputs["weight"].val
        for operation in program_of(package).functions["main"].operations
        if operation.op_type in ("conv", "linear")
    ]
    assert {weight.dtype for weight in weights} == {np.dtype(np.float16)}
    image = ct.utils.load_spec(str(package)).description.input[0].type.multiArrayType
    assert image.dataType == ct.proto.FeatureTypes_pb2.ArrayFeatureType.FLOAT32
    with torch.no_grad():
        expected = result.model(inputs[0][:1])
    actual = computed(package, {"image": inputs[0][:1]})["output"].float()
    assert float((expected - actual).abs().max() / expected.abs().max()) < 1e-2


def test_labels_and_metadata_are_in_the_package(packages: dict[str, Exported]) -> None:

    specification = ct.utils.load_spec(str(packages["int8"].file))
    assert specification.description.predictedFeatureName == "classLabel"
    assert packages["int8"].outputs == ("classLabel", "classLabel_probs")
    assert specification.description.metadata.userDefined["made by"] == "a test"
    assert list(specification.description.input[0].type.multiArrayType.shape) == [1, 16, 16, 3]
    assert any("batch size is fixed" in note for note in packages["int8"].notes)


def test_package_is_what_was_accounted_for(packages: dict[str, Exported]) -> None:
    for written in packages.values():
        files = sorted(file.relative_to(written.file) for file in written.file.rglob("*") if file.is_file())
        assert [str(file) for file in files] == [
            "Data/com.apple.CoreML/model.mlmodel",
            "Data/com.apple.CoreML/weights/weight.bin",
            "Manifest.json",
        ]
        assert written.size_bytes == sum((written.file / file).stat().st_size for file in files)
    folder = packages["float"].file.parent
    assert sorted(each.name for each in folder.iterdir()) == ["float.mlpackage", "fp16.mlpackage", "int8.mlpackage"]


class Inverted(nn.Module):
    """An operation that Core ML does not have."""

    def forward(self, matrix: Tensor) -> Tensor:
        return torch.special.i0(matrix)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"interface": "int8"}, "int8 inputs"),
        ({"labels": ("a", "b")}, "2 labels"),
        ({"model": Inverted()}, r"test_coreml\.py:\d+: return torch\.special\.i0.*does not convert special_i0"),
    ],
    ids=["interface", "labels", "operation"],
)
def test_what_cannot_be_written_leaves_nothing(settings: dict[str, Any], told: str, tmp_path: Path) -> None:
    result, _, example = quantized("int8")
    job = Job(**{"model": result.model, "example_inputs": example, "target": "coreml", **settings})
    with pytest.raises(InvalidInput, match=told) as caught:
        exporter("coreml").export(job, tmp_path / "net.mlpackage")
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_a_package_is_replaced_whole(packages: dict[str, Exported], tmp_path: Path) -> None:
    target = tmp_path / "net.mlpackage"
    for content in ("old", "new"):
        with new_files(target, overwrite=True) as folder:
            (folder / target.name / content).mkdir(parents=True)
    assert [each.name for each in target.iterdir()] == ["new"]


def test_name_tells_the_kind(tmp_path: Path) -> None:
    result, _, example = quantized("int8")
    with pytest.raises(InvalidInput, match=r"\.mlpackage"):
        exporter("coreml").export(Job(result.model, example, "coreml"), tmp_path / "net.zip")
    assert formats()["coreml"].suffix == ".mlpackage"
