"""Exported files, run by ONNX Runtime and held against torch."""

from __future__ import annotations

import logging
import stat
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import models
from compress import Context, Result
from compress.data import Data, SampleSplit
from compress.errors import GateFailed, InvalidInput
from compress.quantize import Quantize, simulate
from export.format import Exported
from export.onnx import exporter as onnx_format
from export.onnx.edits import rewrite
from export.onnx.exporter import export_onnx
from runtimes.runtime import load
from tests.support.small_networks import (
    EXACT_TARGET,
    SHAPES,
    Joined,
    PoolFirst,
    Tokens,
    TwoInputs,
    Unfolded,
    context_on,
    file_outputs,
    made,
    snr_db,
)
from tests.support.zoo_networks import CLASSIFIERS

FLOAT_PRODUCTS = {
    "Conv",
    "Gemm",
    "MatMul",
    "Add",
    "Concat",
    "GlobalAveragePool",
    "AveragePool",
    "FusedConv",
    "Relu",
    "Clip",
}


@cache
def quantized(kind: type[nn.Module]) -> tuple[Result, tuple[Tensor, ...], Context]:
    """A network of this kind with its encodings, its inputs and its context."""
    model, inputs, context = made(kind)
    return Quantize().apply(model, context), inputs, context


@pytest.fixture(scope="module")
def int8_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[type[nn.Module]], Exported]:
    """Gives the int8 file of a kind of network, exported once."""

    @cache
    def export(kind: type[nn.Module]) -> Exported:
        result, _, context = quantized(kind)  # type: ignore[arg-type]
        path = tmp_path_factory.mktemp(kind.__name__) / "new" / "net.onnx"
        return export_onnx(result.model, context.example_inputs, path, encodings=result.encodings)

    return export  # type: ignore[return-value]


def session(path: Path, optimized: Path | None = None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def in_torch(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    with torch.no_grad():
        found = model(*inputs)
    return found if isinstance(found, tuple) else (found,)


def operators_that_run(path: Path, tmp_path: Path) -> Counter[str]:
    """The operations of the graph that ONNX Runtime really runs."""
    session(path, tmp_path / "optimized.onnx")
    return Counter(node.op_type for node in onnx.load(str(tmp_path / "optimized.onnx")).graph.node)


@pytest.mark.parametrize("kind", SHAPES, ids=lambda kind: kind.__name__)
def test_files_compute_what_torch_computes(
    kind: type[nn.Module], tmp_path: Path, int8_file: Callable[[type[nn.Module]], Exported]
) -> None:
    result, inputs, context = quantized(kind)  # type: ignore[arg-type]
    example = context.example_inputs
    export_onnx(result.model, example, tmp_path / "float.onnx")
    for ours, theirs in zip(in_torch(result.model, inputs), file_outputs(tmp_path / "float.onnx", inputs), strict=True):
        assert float((ours - theirs).abs().max() / ours.abs().max()) < 1e-4
    simulated = simulate(result.model, result.encodings, example)
    for batch in (1, 7):
        some = tuple(x[:batch] for x in inputs)
        for ours, theirs in zip(in_torch(simulated, some), file_outputs(int8_file(kind).file, some), strict=True):
            assert snr_db(ours, theirs) > 30


@pytest.mark.parametrize("target", ["ort-avx2", "ort-arm"])
def test_other_targets_compute_what_their_simulation_does(target: str, tmp_path: Path) -> None:
    result, inputs, context = quantized(Joined)
    model, encodings = result.model, result.encodings
    export_onnx(model, context.example_inputs, tmp_path / "net.onnx", encodings=encodings, target=target)
    simulated = simulate(model, encodings, context.example_inputs, target=target)
    assert snr_db(in_torch(simulated, inputs)[0], file_outputs(tmp_path / "net.onnx", inputs, target)[0]) > 30
    types = {
        onnx.TensorProto.DataType.Name(t.data_type) for t in onnx.load(str(tmp_path / "net.onnx")).graph.initializer
    }
    assert ("UINT8" in types) == (target == "ort-avx2")


def test_everything_runs_in_integers(tmp_path: Path, int8_file: Callable[[type[nn.Module]], Exported]) -> None:
    found = operators_that_run(int8_file(Joined).file, tmp_path)
    assert not FLOAT_PRODUCTS & set(found), found
    assert found["QLinearConv"] == 4
    assert found["QLinearAdd"] == found["QLinearConcat"] == found["QLinearGlobalAveragePool"] == found["QGemm"] == 1
    assert found["QuantizeLinear"] == 1, "the input; nothing in between goes back to float"
    assert found["DequantizeLinear"] == 0


def test_resnet_runs_in_integers_and_is_small(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = models.build("resnet20", width=5)
    inputs = torch.randn(16, 3, 16, 16)
    model.train()(inputs)
    result = Quantize().apply(model, context_on((inputs,)))
    written = export_onnx(result.model, (inputs[:1],), tmp_path / "net.onnx", encodings=result.encodings)
    found = operators_that_run(tmp_path / "net.onnx", tmp_path)
    assert not FLOAT_PRODUCTS & set(found), found
    assert (found["QLinearConv"], found["QLinearAdd"], found["QGemm"]) == (21, 9, 1)
    assert found["QLinearGlobalAveragePool"] == found["QuantizeLinear"] == 1
    assert not found["DequantizeLinear"]
    assert written.contents.graph_bytes < 14_000  # type: ignore[union-attr]
    weights = sum(p.numel() for n, p in result.model.named_parameters() if n.endswith("weight"))
    assert weights <= written.contents.bytes_by_dtype["int8"] < weights + 600  # type: ignore[union-attr]
    assert {"Relu", "Clip"}.isdisjoint(written.contents.operators)  # type: ignore[union-attr]


def test_layers_that_cannot_run_in_integers_stay_right(tmp_path: Path) -> None:
    model, _, context = made(Unfolded)
    result = Quantize(exclude=("last",)).apply(model, context)
    export_onnx(result.model, context.example_inputs, tmp_path / "net.onnx", encodings=result.encodings)
    found = operators_that_run(tmp_path / "net.onnx", tmp_path)
    assert (found["QLinearConv"], found["ConvTranspose"], found["QLinearAdd"]) == (3, 1, 2)
    assert found["Conv"] + found["FusedConv"] == 1


def test_a_linear_layer_on_tokens_multiplies_integers(
    tmp_path: Path, int8_file: Callable[[type[nn.Module]], Exported]
) -> None:
    written = int8_file(Tokens)
    found = operators_that_run(written.file, tmp_path)
    assert found["MatMulIntegerToFloat"] + found["QLinearMatMul"] == 4
    assert found["MatMul"] + found["FusedMatMul"] == 2, "attention itself stays in float"
    assert written.contents.operators["Transpose"] == 1, "the weights are stored as they are multiplied"  # type: ignore[union-attr]


def test_names_of_the_interface(tmp_path: Path) -> None:
    model, _, context = made(TwoInputs)
    export_onnx(model, context.example_inputs, tmp_path / "net.onnx", metadata={"recipe": "abc"})
    file = onnx.load(str(tmp_path / "net.onnx"))
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*file.graph.input, *file.graph.output)
    }
    assert shapes == {
        "image": ["batch", 3, 8, 8],
        "vector": ["batch", 5],
        "output_0": ["batch", 4],
        "output_1": ["batch", 4],
    }
    assert {p.key: p.value for p in file.metadata_props} == {"recipe": "abc"}
    assert "conv" in [node.name for node in file.graph.node]
    assert {"conv.weight", "linear.bias"} <= {t.name for t in file.graph.initializer}
    export_onnx(model, context.example_inputs, tmp_path / "one.onnx", dynamic_batch=False)
    assert onnx.load(str(tmp_path / "one.onnx")).graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1


def test_the_memory_format_does_not_show_in_the_file(tmp_path: Path) -> None:
    """Training leaves channels-last weights behind; they would be exported as a Gather that orders elements."""
    model = models.build("resnet20", width=4).eval()
    x = torch.randn(2, 3, 32, 32)
    files = [
        onnx_format.export_onnx(model.to(memory_format=form), (x.to(memory_format=form),), tmp_path / name).file  # type: ignore[call-overload]
        for form, name in ((torch.contiguous_format, "a.onnx"), (torch.channels_last, "b.onnx"))
    ]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert model.conv1.weight.is_contiguous(memory_format=torch.channels_last)  # type: ignore[operator, union-attr]


def test_the_file_is_whole_and_says_nothing_of_this_machine(
    int8_file: Callable[[type[nn.Module]], Exported],
) -> None:
    written = int8_file(Joined)
    content = written.file.read_bytes()
    assert written.size_bytes == len(content)
    for word in (b"/work", b"site-packages", b".py", b"stack_trace", b"edgepress::", b"Site"):
        assert word not in content, word
    assert [path.name for path in written.file.parent.iterdir()] == ["net.onnx"]
    assert stat.S_IMODE(written.file.stat().st_mode) == 0o644
    file = onnx.load(str(written.file), load_external_data=False)
    assert not any(tensor.external_data for tensor in file.graph.initializer)
    assert [(item.domain, item.version) for item in file.opset_import] == [("", written.opset)]


def test_two_exports_are_the_same_file(tmp_path: Path, int8_file: Callable[[type[nn.Module]], Exported]) -> None:
    result, _, context = quantized(PoolFirst)
    export_onnx(result.model, context.example_inputs, tmp_path / "net.onnx", encodings=result.encodings)
    assert (tmp_path / "net.onnx").read_bytes() == int8_file(PoolFirst).file.read_bytes()


@pytest.mark.parametrize("opset", [20, 23])
def test_the_opset_is_the_one_asked_for(opset: int, tmp_path: Path) -> None:
    result, _, context = quantized(PoolFirst)
    written = export_onnx(
        result.model, context.example_inputs, tmp_path / "net.onnx", opset=opset, encodings=result.encodings
    )
    assert written.opset == opset
    assert {i.version for i in onnx.load(str(written.file)).opset_import} == {opset}
    session(written.file)


def test_another_opset_than_asked_is_a_failed_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _, context = made(PoolFirst)
    with pytest.raises(InvalidInput, match="opset 7 is not supported"):
        export_onnx(model, context.example_inputs, tmp_path / "net.onnx", opset=7)
    monkeypatch.setattr(onnx_format, "OLDEST_OPSET", 9)
    with pytest.raises(GateFailed, match="asked for opset 13, and the conversion left 18"):
        export_onnx(model, context.example_inputs, tmp_path / "net.onnx", opset=13)
    assert not list(tmp_path.iterdir())


def test_simplified_files_compute_the_same(tmp_path: Path) -> None:
    model, inputs, context = made(PoolFirst)
    written = export_onnx(model, context.example_inputs, tmp_path / "net.onnx", simplify=True)
    assert len(written.notes) == 1
    assert written.notes[0].startswith("simplified")
    ours, theirs = in_torch(model, inputs)[0], file_outputs(tmp_path / "net.onnx", inputs)[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_simplifier_that_breaks_the_file_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxsim

    def broken(file: onnx.ModelProto) -> tuple[onnx.ModelProto, bool]:
        changed = onnx.ModelProto()
        changed.CopyFrom(file)
        tensor = next(t for t in changed.graph.initializer if t.name == "conv.weight")
        tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * 1.5, tensor.name))
        return changed, True

    def failing(file: onnx.ModelProto) -> tuple[onnx.ModelProto, bool]:
        raise RuntimeError(f"{len(file.graph.node)} nodes are too many")

    model, inputs, context = made(PoolFirst)
    for simplify, reason in ((broken, "something else"), (failing, "too many")):
        monkeypatch.setattr(onnxsim, "simplify", simplify)
        written = export_onnx(model, context.example_inputs, tmp_path / "net.onnx", simplify=True)
        assert reason in written.notes[0]
        assert written.notes[0].startswith("not simplified")
        torch.testing.assert_close(
            in_torch(model, inputs)[0], file_outputs(written.file, inputs)[0], rtol=1e-4, atol=1e-4
        )


def test_the_console_stays_quiet(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model, _, context = made(PoolFirst)
    level = logging.getLogger("torch.onnx").level
    export_onnx(model, context.example_inputs, tmp_path / "net.onnx")
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("torch.onnx").level == level


def test_encodings_of_another_network_are_refused(tmp_path: Path) -> None:
    result, _, context = quantized(Joined)
    model, encodings = result.model, result.encodings
    other, inputs, _ = made(PoolFirst)
    with pytest.raises(InvalidInput, match="quantize again"):
        export_onnx(other, inputs, tmp_path / "net.onnx", encodings=encodings)
    with pytest.raises(InvalidInput, match="target 'tpu'"):
        export_onnx(model, context.example_inputs, tmp_path / "net.onnx", encodings=encodings, target="tpu")
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    model, _, context = made(PoolFirst)
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match="cannot be written"):
        export_onnx(model, context.example_inputs, tmp_path / "file" / "net.onnx")


def test_a_failed_export_leaves_the_older_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _, context = made(PoolFirst)
    (tmp_path / "net.onnx").write_text("older")
    monkeypatch.setattr(onnx_format, "OLDEST_OPSET", 9)
    with pytest.raises(GateFailed):
        export_onnx(model, context.example_inputs, tmp_path / "net.onnx", opset=13)
    assert (tmp_path / "net.onnx").read_text() == "older"


def test_a_dead_channel_keeps_its_bias(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    with torch.no_grad():
        model.get_parameter("0.weight")[1] = 0
        model.get_parameter("0.bias")[1] = 2.5
    inputs = torch.randn(8, 3, 4, 4)
    encodings = Quantize().apply(model, context_on((inputs,))).encodings
    export_onnx(model, (inputs[:1],), tmp_path / "net.onnx", encodings=encodings)
    assert snr_db(in_torch(model, (inputs,))[0], file_outputs(tmp_path / "net.onnx", (inputs,))[0]) > 30


@pytest.mark.parametrize("form", ["keep", "drop", "adaptive"])
def test_means_over_space_become_global_average_pools(form: str, tmp_path: Path) -> None:
    class Mean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if form == "adaptive":
                return nn.functional.adaptive_avg_pool2d(x, 1)
            return x.mean((2, 3), keepdim=form == "keep")

    inputs = torch.randn(2, 3, 4, 6)
    written = export_onnx(Mean(), (inputs,), tmp_path / "net.onnx")
    assert written.contents.operators == {"GlobalAveragePool": 1, **({"Flatten": 1} if form == "drop" else {})}  # type: ignore[union-attr]
    torch.testing.assert_close(file_outputs(written.file, (inputs,))[0], Mean()(inputs))


def test_other_means_are_left_alone(tmp_path: Path) -> None:
    class Mean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((1, 2))

    inputs = torch.randn(2, 3, 4, 6)
    written = export_onnx(Mean(), (inputs,), tmp_path / "net.onnx")
    assert written.contents.operators == {"ReduceMean": 1}  # type: ignore[union-attr]


def test_equal_constants_are_stored_once() -> None:
    values = [np.float32(0.5), np.float32(0.5), np.zeros(1, np.float32), np.float32(0.25), np.zeros(1, np.int32)]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Sum", [f"c{i}" for i in range(5)], ["y"])],
        "g",
        [],
        [],
        [onnx.numpy_helper.from_array(np.asarray(value), f"c{i}") for i, value in enumerate(values)],
    )
    assert rewrite.share_constants(graph) == 1
    assert list(graph.node[0].input) == ["c0", "c0", "c2", "c3", "c4"]
    assert [tensor.name for tensor in graph.initializer] == ["c0", "c2", "c3", "c4"]


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_network_of_the_zoo(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = models.build(name)
    inputs = torch.randn(8, 3, 32, 32)
    for _ in range(3):
        model.train()(inputs)
    result = Quantize().apply(model, context_on((inputs,)))
    export_onnx(result.model, (inputs[:1],), tmp_path / "float.onnx")
    reference = in_torch(model.eval(), (inputs,))[0]
    theirs = file_outputs(tmp_path / "float.onnx", (inputs,))[0]
    assert float((reference - theirs).abs().max() / reference.abs().max()) < 1e-4
    export_onnx(result.model, (inputs[:1],), tmp_path / "int8.onnx", encodings=result.encodings)
    simulated = in_torch(simulate(result.model, result.encodings, (inputs[:1],)), (inputs,))[0]
    assert snr_db(simulated, file_outputs(tmp_path / "int8.onnx", (inputs,))[0]) > 25
    found = operators_that_run(tmp_path / "int8.onnx", tmp_path)
    assert not {"Conv", "Gemm", "FusedConv"} & set(found), found
    if not result.skipped:
        assert not FLOAT_PRODUCTS & set(found), found


class Chain(nn.Module):
    """Three layers in a row, the one in the middle between integers on both sides."""

    def __init__(self, linear: bool, clips: bool) -> None:
        super().__init__()
        made = (lambda a, b: nn.Linear(a, b)) if linear else (lambda a, b: nn.Conv2d(a, b, 3))
        self.first, self.middle, self.last = made(3, 8), made(8, 8), made(8, 4)
        self.clip = nn.ReLU() if clips else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.clip(self.middle(torch.relu(self.first(x)))))


@pytest.mark.parametrize("clips", [True, False])
@pytest.mark.parametrize("linear", [True, False])
def test_a_layer_in_float_between_integers_is_not_rounded_by_the_engine(
    linear: bool, clips: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    x = torch.rand(4, 3) if linear else torch.rand(4, 3, 10, 10)
    data = Data("random", {"calibration": SampleSplit(x, None)})
    result = Quantize(exclude=("middle",)).apply(Chain(linear, clips).eval(), Context((x,), data))
    assert "middle.weight" not in result.encodings
    file = tmp_path / "m.onnx"
    export_onnx(result.model, (x,), file, encodings=dict(result.encodings), target=EXACT_TARGET)
    engine = load(file)
    try:
        executed = engine.executed_graph({engine.inputs[0].name: x.numpy()})
    finally:
        engine.close()
    assert executed is not None
    kinds = [executed.ops.get(name, 0) for name in ("QLinearConv", "QGemm", "Conv", "FusedGemm")]
    assert kinds == ([0, 2, 0, 1] if linear else [2, 0, 1, 0]), executed.ops
