"""Weights of few levels in ONNX: packed bytes, what an engine makes of them, and operators of bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from compress import deploy
from compress.quantize import Quantize, simulate
from compress.sources.load import Network
from compress.sources.specification import Source
from export.onnx.bits import packed
from export.onnx.exporter import export_onnx
from runtimes.runtime import load
from tests.support.small_networks import EXACT_TARGET, Three, context_on

BIT_OPERATORS = {"binary": 2, "abc": 18, "horq": 4, "w2a2": 2}
"""Products of bits that the two layers in the middle of Three become."""


@pytest.mark.parametrize("width", packed.WIDTHS)
def test_packing_is_undone(width: int) -> None:
    codes = np.random.default_rng(width).integers(0, 2**width, 1003).astype(np.uint8)
    stored = packed.pack(codes, width)
    assert len(stored) == -(-1003 * width // 8)
    assert np.array_equal(packed.unpack(stored, width, 1003), codes)
    if width == 1:
        assert np.array_equal(stored, np.packbits(codes, bitorder="little"))


@pytest.mark.parametrize("levels", [2, 3, 4, 9, 16, 200])
@pytest.mark.parametrize("kind", ["integers", "floats"])
def test_a_graph_restores_levels(levels: int, kind: str) -> None:
    generator = np.random.default_rng(levels)
    table = np.arange(levels) - levels // 2
    table = table.astype(np.int8) if kind == "integers" else generator.normal(size=levels).astype(np.float32)
    codes = generator.integers(0, levels, (5, 3, 3)).astype(np.uint8)
    graph = onnx.GraphProto(name="restore")
    nodes = packed.restored(graph, "codes", "weight", codes, table)
    graph.node.extend(nodes)
    element = onnx.TensorProto.INT8 if kind == "integers" else onnx.TensorProto.FLOAT
    graph.output.append(onnx.helper.make_tensor_value_info("weight", element, codes.shape))
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
    onnx.checker.check_model(model, full_check=True)
    (got,) = onnx.reference.ReferenceEvaluator(model).run(None, {})
    assert np.array_equal(got, table[codes])
    assert np.array_equal(packed.looked_up(graph)["weight"], table[codes])
    stored = {tensor.name: len(tensor.raw_data) for tensor in graph.initializer}
    assert stored["codes"] == -(-codes.size * packed.width_of(levels) // 8)


@pytest.mark.parametrize(
    "scheme", ["binary", "abc", "horq", "bwn", "w1a8", "ternary", "ttq", "w2a8", "w2a2", "w4a4", "pow2"]
)
def test_files_compute_what_is_simulated(scheme: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, images = Three(), torch.randn(32, 3, 8, 8)
    model.train()(images)
    result = Quantize(scheme=scheme).apply(model.eval(), context_on((images,)))
    file = tmp_path / "net.onnx"
    written = export_onnx(result.model, (images,), file, encodings=result.encodings, target=EXACT_TARGET)
    with torch.no_grad():
        expected = simulate(result.model, result.encodings, (images,), target=EXACT_TARGET)(images).numpy()
    engine = load(file, "onnxruntime")
    feed = {engine.inputs[0].name: images.numpy()}
    (got,) = engine.run(feed).values()
    executed = engine.executed_graph(feed)
    engine.close()
    np.testing.assert_allclose(np.asarray(got), expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    assert executed is not None
    unpacking = {"Gather", "Cast", "Slice", "BitShift", "BitwiseAnd"} & set(executed.ops)
    assert not unpacking, "weights are unpacked when the file is loaded"
    if scheme in ("w1a8", "w2a8"):
        assert executed.ops["QLinearConv"] == 2
        assert not {"Conv", "FusedConv"} & set(executed.ops)
    stored = {tensor.name: tensor for tensor in onnx.load(file).graph.initializer}
    largest = max(np.prod(tensor.dims) for tensor in stored.values() if tensor.data_type == onnx.TensorProto.FLOAT)
    assert largest <= max(256 * 8, 216), "no weight of the middle is stored in floats"
    products = written.contents.operators if written.contents is not None else {}
    assert sum(n for name, n in products.items() if name.startswith("edgepress:")) == BIT_OPERATORS.get(scheme, 0)


@pytest.mark.parametrize("scheme", BIT_OPERATORS)
def test_the_engine_of_bits_agrees_with_the_simulation(scheme: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, images = Three(), torch.randn(32, 3, 8, 8)
    model.train()(images)
    result = Quantize(scheme=scheme).apply(model.eval(), context_on((images,)))
    network = Network(
        result.model, Source("module", "Three"), encodings=dict(result.encodings), example_inputs=(images,)
    )
    record, deployed = deploy.export(network, "bits", tmp_path / "net.onnx")
    assert deployed.engine == "bitwise"
    assert record.parity is not None and record.parity.relative_error < 1e-3  # type: ignore[operator]
    assert sum(count for name, count in record.operators.items() if name.startswith("Bit")) == BIT_OPERATORS[scheme]
    assert record.nodes is not None and record.nodes.integer == BIT_OPERATORS[scheme]


def test_other_targets_have_floats_or_integers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    images = torch.randn(8, 3, 8, 8)
    for scheme, target in (("ternary", "openvino"), ("w2a8", "openvino"), ("binary", "ort-arm")):
        result = Quantize(scheme=scheme).apply(Three().eval(), context_on((images,)))
        network = Network(
            result.model, Source("module", "Three"), encodings=dict(result.encodings), example_inputs=(images,)
        )
        wanted = deploy.Wanted(target=target)
        record, _ = deploy.export(network, scheme, tmp_path / f"{scheme}{deploy.suffix_of(wanted)}", wanted)
        assert record.target == target
