"""TensorRT's exporter against an imitation of its API, and the line for trtexec."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from compress.errors import GateFailed, InvalidInput, PackageMissing
from compress.quantize import Quantize
from export.facts import formats
from export.format import Exported, Job, exporter
from export.tensorrt import builder, trtexec
from runtimes.tensorrt.builder import build as build_engine
from runtimes.tensorrt.library import Library
from tests.support.imitated_tensorrt import Imitation
from tests.support.small_networks import context_on

NAME = "export.tensorrt.exporter"


class Residual(nn.Module):
    """A convolution, a sum and a pooling: (N, 3, 8, 8) -> (N, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        x = torch.relu(self.first(image))
        return torch.relu(x + self.second(x)).mean((2, 3))


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[Imitation]:
    made = Imitation()
    monkeypatch.setitem(sys.modules, "tensorrt", made.module())
    monkeypatch.delitem(sys.modules, NAME, raising=False)
    yield made
    sys.modules.pop(NAME, None)
    importlib.import_module("export.tensorrt").__dict__.pop("exporter", None)


@pytest.fixture(scope="module")
def quantized() -> tuple[nn.Module, dict[str, Any], tuple[Tensor, ...]]:
    torch.manual_seed(0)
    model, inputs = Residual().eval(), (torch.randn(4, 3, 8, 8),)
    result = Quantize().apply(model, context_on(inputs))
    return result.model, dict(result.encodings), inputs


def export(folder: Path, quantized: tuple[Any, Any, Any], **job: Any) -> Exported:
    model, encodings, inputs = quantized
    made = Job(model, (inputs[0][:2],), "tensorrt", encodings, **job)
    return exporter("tensorrt").export(made, folder / "net.engine")


def test_an_engine_is_built_from_a_strongly_typed_network(
    world: Imitation, tmp_path: Path, quantized: tuple[Any, Any, Any]
) -> None:
    (tmp_path / "tensorrt.timing_cache").write_bytes(b"old times")
    account = export(tmp_path, quantized, labels=("a",))
    assert [call[0] for call in world.calls] == [
        *("create_network", "init_libnvinfer_plugins", "parse_from_file", "set_memory_pool_limit", "set_timing_cache"),
        *("set_shape", "add_optimization_profile", "build_serialized_network"),
    ]
    assert world.named("create_network") == [(2,)], "1 << STRONGLY_TYPED"
    assert world.named("set_timing_cache") == [(b"old times", "detailed")]
    assert world.named("set_shape") == [("image", (1, 3, 8, 8), (2, 3, 8, 8), (32, 3, 8, 8))]
    parsed = onnx.ModelProto.FromString(world.named("parse_from_file")[0][0])
    zeros = [t for t in parsed.graph.initializer if t.data_type == onnx.TensorProto.INT8 and not t.dims]
    assert zeros and all(not any(onnx.numpy_helper.to_array(t).reshape(-1)) for t in zeros), "symmetric"
    assert account.file.read_bytes() == b"engine" and account.size_bytes == 6
    assert (tmp_path / "tensorrt.timing_cache").read_bytes() == b"times"
    assert (account.inputs, account.outputs) == (("image",), ("output",))
    assert any("labels" in note for note in account.notes)


def test_fixed_batches_need_no_profile_and_channels_last_has_its_own_order(
    world: Imitation, tmp_path: Path, quantized: tuple[Any, Any, Any]
) -> None:
    world.takes_cache = False
    (tmp_path / "tensorrt.timing_cache").write_bytes(b"of another GPU")
    export(tmp_path, quantized, dynamic_batch=False)
    assert not world.named("set_shape")
    assert [call[0] for call in world.named("set_timing_cache")] == [b"of another GPU", b""]
    export(tmp_path, quantized, layout="nhwc")
    assert world.named("set_shape") == [("image", (1, 8, 8, 3), (2, 8, 8, 3), (32, 8, 8, 3))]


def test_version_11_may_know_the_flag_no_more(world: Imitation, tmp_path: Path) -> None:
    trt = sys.modules["tensorrt"]
    trt.__dict__.update(__version__="11.4.0", NetworkDefinitionCreationFlag=object())
    build(tmp_path / "net.engine")
    assert world.named("create_network") == [(0,)]


def build(path: Path) -> None:
    """Build an engine from the file ``path``, whose content no one reads."""
    path.write_bytes(b"network")
    try:
        library = Library(sys.modules["tensorrt"], "TensorRT")
        wishes = builder.Wishes()
        builder.built(lambda: build_engine(library, path, wishes), wishes, f"export {path}")
    finally:
        path.unlink()


def test_every_error_of_the_parser_is_told_with_its_node(world: Imitation, tmp_path: Path) -> None:
    world.parser_errors = [("first", "Conv", "Assertion failed:\n wrong"), ("", "Pad", "unsupported")]
    with pytest.raises(InvalidInput, match=r"first \(Conv\): Assertion failed: wrong; node 3 \(Pad\): unsupported"):
        build(tmp_path / "net.engine")


def test_failures_say_what_to_do(world: Imitation, tmp_path: Path, quantized: tuple[Any, Any, Any]) -> None:
    world.builds = False
    with pytest.raises(GateFailed, match=r"cannot build the engine: no implementation for node conv$"):
        export(tmp_path, quantized)
    world.gpu = False
    with pytest.raises(PackageMissing, match=r"finds no GPU .*error: 100.* run on the device: trtexec --onnx=NET.onnx"):
        build(tmp_path / "net.engine")
    with pytest.raises(InvalidInput, match="leave --interface out"):
        export(tmp_path, quantized, interface="int8")
    sys.modules["tensorrt"].__dict__["__version__"] = "8.6.1"
    with pytest.raises(PackageMissing, match=r"TensorRT 8\.6\.1 is too old"):
        export(tmp_path, quantized)
    assert not list(tmp_path.iterdir())


def test_an_accelerator_runs_what_it_can_and_the_rest_is_named(
    world: Imitation, tmp_path: Path, quantized: tuple[Any, Any, Any]
) -> None:
    account = export(tmp_path, quantized, dynamic_batch=False, dla_core=1)
    assert world.named("parser set_flag") == [("adjust",)]
    assert world.named("set_flag") == [("fallback", "dla", 1)]
    assert "core 1 of the deep learning accelerator; 1 layers fall back to the GPU: softmax" in account.notes
    with pytest.raises(GateFailed, match=r"core 2 of the deep learning accelerator: this device has 2"):
        export(tmp_path, quantized, dynamic_batch=False, dla_core=2)


def test_without_tensorrt_the_command_line_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, NAME, raising=False)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(PackageMissing, match=r"pip install tensorrt .*trtexec --onnx=NET.onnx .*--stronglyTyped"):
        exporter("tensorrt")
    assert formats()["tensorrt"].engine == "tensorrt"


def test_the_line_for_trtexec() -> None:
    def image(name: str, *dims: int | str) -> onnx.ValueInfoProto:
        return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, dims)

    model = onnx.ModelProto(graph=onnx.GraphProto(input=[image("a", "batch", 3, 8, 8), image("b", 1, 5)]))
    shapes = trtexec.profiles(model, [(64, 3, 8, 8), (1, 5)])
    assert trtexec.command("my net.onnx", "net.engine", shapes) == (
        "trtexec '--onnx=my net.onnx' --saveEngine=net.engine --stronglyTyped --profilingVerbosity=detailed "
        "--minShapes=a:1x3x8x8 --optShapes=a:64x3x8x8 --maxShapes=a:64x3x8x8"
    )
