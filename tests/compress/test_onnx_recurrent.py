"""Recurrent layers of ONNX files: every form is what ONNX Runtime computes; modules of torch wherever one does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import NodeProto, TensorProto, helper
from torch import nn

from compress import Context, Prune, Quantize, deploy
from compress.data import Data, SampleSplit
from compress.errors import InvalidInput
from compress.sources.load import Network
from compress.sources.onnx_import import load_onnx
from compress.sources.specification import Source
from tests.support.onnx_files import FLOAT, real, write

make_node = helper.make_node
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
OUTPUTS = {"LSTM": ("y", "h", "c"), "GRU": ("y", "h"), "RNN": ("y", "h")}
STEPS, BATCH, INPUTS, HIDDEN = 5, 2, 3, 4


def recurrent(
    path: Path,
    kind: str,
    extra: Mapping[int, str] | None = None,
    weights: Mapping[str, Any] | None = None,
    before: tuple[NodeProto, ...] = (),
    bias: bool = True,
    **attributes: Any,
) -> Path:
    """A file with one recurrent layer, of which all outputs are the file's."""
    directions = 2 if attributes.get("direction") == "bidirectional" else 1
    gates = GATES[kind] * HIDDEN
    held = {"w": real(directions, gates, INPUTS) / 2, "r": real(directions, gates, HIDDEN) / 2}
    held |= {"b": real(directions, 2 * gates)} if bias else {}
    names = ["x", "w", "r", "b" if bias else "", "", "", "", ""]
    for place, name in (extra or {}).items():
        names[place] = name
    while not names[-1]:
        names.pop()
    shape = [BATCH, STEPS, INPUTS] if attributes.get("layout") else [STEPS, BATCH, INPUTS]
    node = make_node(kind, names, list(OUTPUTS[kind]), hidden_size=HIDDEN, **attributes)
    outputs: dict[str, int] = dict.fromkeys(OUTPUTS[kind], FLOAT)
    return write(path, [*before, node], {"x": (FLOAT, shape)}, {**held, **(weights or {})}, outputs)


def modules(network: nn.Module) -> list[nn.RNNBase]:
    return [module for module in network.modules() if isinstance(module, nn.RNNBase)]


DIRECTIONS = ("forward", "reverse", "bidirectional")


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("bias", [True, False])
def test_layers_become_modules(kind: str, direction: str, bias: bool, tmp_path: Path) -> None:
    attributes: dict[str, Any] = {"linear_before_reset": 1} if kind == "GRU" else {}
    network = load_onnx(recurrent(tmp_path / "net.onnx", kind, bias=bias, direction=direction, **attributes))
    (module,) = modules(network)
    assert type(module).__name__ == kind
    assert (module.bidirectional, module.bias) == (direction == "bidirectional", bias)
    y, *last = network(torch.randn(STEPS, BATCH, INPUTS))
    directions = 2 if direction == "bidirectional" else 1
    assert y.shape == (STEPS, directions, BATCH, HIDDEN)
    assert [tuple(each.shape) for each in last] == [(directions, BATCH, HIDDEN)] * (2 if kind == "LSTM" else 1)


def test_a_recurrent_layer_with_relu(tmp_path: Path) -> None:
    network = load_onnx(recurrent(tmp_path / "net.onnx", "RNN", activations=["Relu"]))
    assert [module.nonlinearity for module in modules(network)] == ["relu"]


FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "reset before": ("GRU", {}),
    "reset before, both directions": ("GRU", {"direction": "bidirectional"}),
    "clipped": ("LSTM", {"clip": 0.5}),
    "clipped, reset before": ("GRU", {"clip": 0.5}),
    "clipped, without gates": ("RNN", {"clip": 0.5}),
    "coupled gates": ("LSTM", {"input_forget": 1}),
    "activations of Keras": ("LSTM", {"activations": ["HardSigmoid", "Tanh", "Tanh"]}),
    "backwards": ("LSTM", {"clip": 1.0, "direction": "reverse"}),
    "two activations": ("RNN", {"activations": ["Tanh", "Relu"], "direction": "bidirectional"}),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_without_a_module_are_computed_step_by_step(form: str, tmp_path: Path) -> None:
    kind, attributes = FORMS[form]
    network = load_onnx(recurrent(tmp_path / "net.onnx", kind, **attributes))
    assert not modules(network)


def test_peepholes(tmp_path: Path) -> None:
    path = recurrent(tmp_path / "net.onnx", "LSTM", {7: "p"}, {"p": real(1, 3 * HIDDEN)})
    assert not modules(load_onnx(path))


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_states_to_begin_with(kind: str, tmp_path: Path) -> None:
    states = {"h0": real(1, BATCH, HIDDEN), "c0": real(1, BATCH, HIDDEN)}
    extra = {5: "h0", 6: "c0"} if kind == "LSTM" else {5: "h0"}
    attributes: dict[str, Any] = {"linear_before_reset": 1} if kind == "GRU" else {}
    network = load_onnx(recurrent(tmp_path / "net.onnx", kind, extra, states, **attributes))
    assert len(modules(network)) == 1
    assert modules(load_onnx(recurrent(tmp_path / "one.onnx", "LSTM", {6: "c0"}, states)))


def test_a_state_of_zeros_that_the_file_makes_falls_away(tmp_path: Path) -> None:
    """As tf2onnx writes it: zeros, spread over the batch of the input."""
    before = (
        make_node("Shape", ["x"], ["s"], start=1, end=2),
        make_node("Concat", ["one", "s", "size"], ["full"], axis=0),
        make_node("Expand", ["zero", "full"], ["h0"]),
    )
    weights = {"one": np.array([1]), "size": np.array([HIDDEN]), "zero": np.zeros((1, 1, 1), np.float32)}
    network = load_onnx(recurrent(tmp_path / "net.onnx", "LSTM", {5: "h0", 6: "h0"}, weights, before))
    (step,) = [step for step in network.steps if step.operator == "LSTM"]
    assert step.inputs == ("x", "", "", "", "", "", "")


def test_batch_first(tmp_path: Path) -> None:
    """ONNX Runtime has no such layout; the specification does, and the two differ by transposition alone."""
    network = load_onnx(recurrent(tmp_path / "net.onnx", "LSTM", layout=1), verify=False)
    x = torch.randn(BATCH, STEPS, INPUTS)
    y, h, _ = network(x)
    out, (last, _) = modules(network)[0](x.transpose(0, 1))
    torch.testing.assert_close(y[:, :, 0], out.transpose(0, 1))
    torch.testing.assert_close(h, last.transpose(0, 1))


def test_lengths_that_are_those_of_the_input(tmp_path: Path) -> None:
    path = recurrent(tmp_path / "net.onnx", "LSTM", {4: "lengths"}, {"lengths": np.full(BATCH, STEPS, np.int32)})
    assert modules(load_onnx(path))


def test_a_sequence_that_ends_early_is_refused(tmp_path: Path) -> None:
    path = recurrent(tmp_path / "net.onnx", "LSTM", {4: "lengths"}, {"lengths": np.array([STEPS, 2], np.int32)})
    with pytest.raises(InvalidInput, match=r"node .*LSTM.*ends before the 5 steps .*sequence_lens.* is not supported"):
        load_onnx(path)


def test_an_activation_with_factors_is_refused(tmp_path: Path) -> None:
    path = recurrent(tmp_path / "net.onnx", "RNN", activations=["ScaledTanh"], activation_alpha=[1.0])
    with pytest.raises(InvalidInput, match="activations of ScaledTanh"):
        load_onnx(path)


def sound(path: Path) -> Path:
    """Two convolutions, an LSTM over what they yield, and a linear layer: (N, 3, 6) -> (6, N, 5), sample second."""
    nodes = [
        make_node("Conv", ["x", "a", "ab"], ["p"], pads=[1, 1]),
        make_node("Relu", ["p"], ["q"]),
        make_node("Conv", ["q", "c", "cb"], ["s"], pads=[1, 1]),
        make_node("Transpose", ["s"], ["t"], perm=[2, 0, 1]),
        make_node("LSTM", ["t", "w", "r", "b"], ["u"], hidden_size=HIDDEN),
        make_node("Squeeze", ["u", "one"], ["v"]),
        make_node("MatMul", ["v", "m"], ["y"]),
    ]
    weights = {
        "a": real(16, 3, 3),
        "ab": real(16),
        "c": real(8, 16, 3),
        "cb": real(8),
        "one": np.array([1]),
        "w": real(1, 4 * HIDDEN, 8) / 3,
        "r": real(1, 4 * HIDDEN, HIDDEN) / 3,
        "b": real(1, 8 * HIDDEN),
        "m": real(HIDDEN, 5),
    }
    return write(path, nodes, {"x": (FLOAT, ["n", 3, 6])}, weights)


def test_pruning_and_integers_leave_it_alone_with_a_reason(tmp_path: Path) -> None:
    network = load_onnx(sound(tmp_path / "net.onnx"))
    context = Context((torch.randn(2, 3, 6),), Data("noise", {"calibration": SampleSplit(torch.randn(16, 3, 6), None)}))
    pruned = Prune(ratio=0.5).apply(network, context)
    weights = pruned.model.state_dict()
    assert weights["a.weight" if "a.weight" in weights else "conv_1.weight"].shape[0] == 8
    assert any("cannot be followed: lstm" in skip.reason for skip in pruned.skipped)
    assert [module.state_dict()["weight_ih_l0"].shape for module in modules(pruned.model)] == [(4 * HIDDEN, 8)]
    quantized = Quantize().apply(pruned.model, context)
    assert [skip.reason for skip in quantized.skipped if "lstm" in skip.reason] == ["lstm runs in float"]
    assert sum("weight" in name for name in quantized.encodings) == 3


@pytest.mark.parametrize("format_name", ["onnx", "litert"])
def test_files_hold_it_whole_or_in_its_parts(format_name: str, tmp_path: Path) -> None:
    """Samples lie along the second dimension of the output; LiteRT takes one at a time."""
    pytest.importorskip({"onnx": "onnxruntime", "litert": "litert_torch"}[format_name])
    network = load_onnx(sound(tmp_path / "net.onnx"))
    source = Source("onnx", str(tmp_path / "net.onnx"))
    wanted = deploy.Wanted(format_name)
    path = tmp_path / f"out{deploy.suffix_of(wanted)}"
    record, _ = deploy.export(Network(network, source, example_inputs=(torch.randn(3, 3, 6),)), "net", path, wanted)
    assert ((record.parity is not None and record.parity.snr_db) or 0) > 80
    assert record.operators.get("LSTM", 0) == (1 if format_name == "onnx" else 0)


def test_weights_that_are_computed(tmp_path: Path) -> None:
    gates = 4 * HIDDEN
    nodes = [make_node("Mul", ["w", "scale"], ["ww"]), make_node("LSTM", ["x", "ww", "r"], ["y"], hidden_size=HIDDEN)]
    path = write(
        tmp_path / "net.onnx",
        nodes,
        {"x": (FLOAT, [STEPS, BATCH, INPUTS]), "scale": (TensorProto.FLOAT, [1])},
        {"w": real(1, gates, INPUTS), "r": real(1, gates, HIDDEN)},
    )
    assert not modules(load_onnx(path))
