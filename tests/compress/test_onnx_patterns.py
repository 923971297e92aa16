"""Several nodes of a file that become one operation of torch, against ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor

from compress.graph.trace import trace
from compress.integers.placement import placement_of
from compress.sources.onnx_import import OnnxNetwork, load_onnx
from compress.tasks.built_in.classification import logits_of, task
from compress.tasks.reading import Reading
from compress.training.loop import TaskLoss

NUMBERS = "float three = {3}, float six = {6}, float zero = {0}, float sixth = {0.16666667}, float five = {5}"


def saved(path: Path, body: str, opset: int = 13, **weights: np.ndarray) -> Path:
    """A file (N, 4, 5, 5) -> y with the nodes of ``body``, in the text form of the ONNX project."""
    graph = f"graph (float[N,4,5,5] x) => (float[N,4,5,5] y) <{NUMBERS}> {{ {body} }}"
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> {graph}')
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def compared(path: Path) -> OnnxNetwork:
    """The network of the file, after a look at whether it gives what ONNX Runtime gives."""
    network = load_onnx(path)
    x = 4 * torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (wanted,) = session.run(None, {"x": x.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(network(x).numpy(), wanted, rtol=1e-5, atol=1e-5)
    return network


def operators(network: OnnxNetwork) -> list[str]:
    return [step.operator for step in network.steps]


HARD_SWISH = {
    "divided last": "s = Add(x, three) c = Clip(s, zero, six) m = Mul(x, c) y = Div(m, six)",
    "multiplied last": "s = Add(three, x) c = Clip(s, zero, six) m = Mul(c, x) y = Mul(sixth, m)",
    "divided first": "s = Add(x, three) c = Clip(s, zero, six) h = Div(c, six) y = Mul(h, x)",
    "of a hard sigmoid": "h = HardSigmoid<alpha: float = 0.16666667, beta: float = 0.5>(x) y = Mul(x, h)",
}


@pytest.mark.parametrize("body", HARD_SWISH.values(), ids=HARD_SWISH)
def test_hard_swish_is_one_operation(tmp_path: Path, body: str) -> None:
    assert operators(compared(saved(tmp_path / "a.onnx", body))) == ["HardSwish"]


def test_bounds_of_a_clip_may_be_attributes(tmp_path: Path) -> None:
    body = "s = Add(x, three) c = Clip<min: float = 0.0, max: float = 6.0>(s) m = Mul(x, c) y = Div(m, six)"
    assert operators(compared(saved(tmp_path / "a.onnx", body, opset=9))) == ["HardSwish"]


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        ("s = Add(x, three) c = Clip(s, zero, five) m = Mul(x, c) y = Div(m, six)", "Clip"),
        ("s = Add(x, three) c = Clip(s, zero, six) m = Mul(s, c) y = Div(m, six)", "Clip"),
        ("s = Add(x, three) c = Clip(s, zero, six) m = Mul(x, c) d = Div(m, six) y = Add(d, c)", "Clip"),
        ("h = HardSigmoid(x) y = Mul(x, h)", "HardSigmoid"),
    ],
    ids=["another bound", "of another value", "read elsewhere", "another slope"],
)
def test_what_only_looks_like_a_hard_swish_stays(tmp_path: Path, body: str, kept: str) -> None:
    assert kept in operators(compared(saved(tmp_path / "a.onnx", body)))


def test_hard_sigmoid_of_another_slope_is_one_operation(tmp_path: Path) -> None:
    network = compared(saved(tmp_path / "a.onnx", "s = Add(x, three) c = Clip(s, zero, five) y = Div(c, five)"))
    assert operators(network) == ["HardSigmoid"]
    assert network.steps[0].attributes == {"alpha": 0.2, "beta": pytest.approx(0.6)}


WEIGHT = np.random.default_rng(0).standard_normal((4, 4, 1, 1)).astype(np.float32)
SHIFT = np.arange(4, dtype=np.float32)


@pytest.mark.parametrize("operator", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("shape", [(1, 4, 1, 1), (4, 1, 1)])
def test_a_sum_per_channel_is_the_bias(tmp_path: Path, operator: str, shape: tuple[int, ...]) -> None:
    path = saved(tmp_path / "a.onnx", f"c = {operator}(x, w) y = Add(b, c)", w=WEIGHT, b=SHIFT.reshape(shape))
    network = compared(path)
    assert operators(network) == [operator]
    assert network.get_submodule(network.steps[0].layer).bias.tolist() == SHIFT.tolist()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("body", "shape"),
    [
        ("c = Conv(x, w) y = Add(c, b)", (1, 4, 5, 5)),
        ("c = Conv(x, w) y = Add(c, b)", (5,)),
        ("c = Conv(x, w) d = Add(c, b) y = Add(c, d)", (1, 4, 1, 1)),
    ],
    ids=["per pixel", "per column", "read elsewhere"],
)
def test_another_sum_is_no_bias(tmp_path: Path, body: str, shape: tuple[int, ...]) -> None:
    added = np.resize(SHIFT, shape)
    network = compared(saved(tmp_path / "a.onnx", body, w=WEIGHT, b=added))
    assert operators(network)[:2] == ["Conv", "Add"]


def test_squeeze_and_excitation_as_paddle_writes_it_is_all_in_integers(tmp_path: Path) -> None:
    body = """
        c = Conv(x, w) s = Add(c, three) k = Clip(s, zero, six) m = Mul(c, k) a = Div(m, six)
        p = GlobalAveragePool(a) q = Conv(p, w) r = Add(q, b) u = Relu(r) v = Conv(u, w) t = Add(v, b)
        h = HardSigmoid<alpha: float = 0.2, beta: float = 0.5>(t) z = Mul(a, h) y = Conv(z, w)
    """
    network = compared(saved(tmp_path / "a.onnx", body, w=WEIGHT, b=SHIFT.reshape(1, 4, 1, 1)))
    assert placement_of(trace(network, (torch.zeros(2, 4, 5, 5),))).skipped == ()


def test_the_loss_of_a_network_that_ends_in_a_softmax_is_that_of_its_logits() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5], [0.0, 30.0, -90.0]], requires_grad=True)
    y = torch.tensor([1, 0])

    def gradient(model: torch.nn.Module) -> Tensor:
        (found,) = torch.autograd.grad(TaskLoss(task(Reading()))(model, (logits, y)), logits)
        return found

    assert torch.allclose(gradient(torch.nn.Softmax(1)), gradient(torch.nn.Identity()), atol=1e-6)
    assert logits_of(logits) is logits


PADDED_POOL = "p = Pad(x, pads, fill) y = MaxPool<kernel_shape: ints = [3, 3], strides: ints = [2, 2]>(p)"
LOWEST = float(np.finfo(np.float32).min)


@pytest.mark.parametrize("fill", [-np.inf, LOWEST])
@pytest.mark.parametrize("pads", [(0, 0, 1, 1), (0, 1, 1, 0), (1, 1, 1, 1)])
def test_padding_below_everything_is_that_of_the_maximum(
    tmp_path: Path, fill: float, pads: tuple[int, int, int, int]
) -> None:
    weights = {"pads": np.array([0, 0, *pads[:2], 0, 0, *pads[2:]]), "fill": np.array(fill, np.float32)}
    network = compared(saved(tmp_path / "a.onnx", PADDED_POOL, 13, **weights))
    assert operators(network) == ["MaxPool"]
    x = 4 * torch.randn(1, 4, 5, 5)
    values = [node.meta["val"].shape for node in trace(network, (x,)).calls()]
    assert len(values) <= 3  # the maximum and what cuts it, no padding


@pytest.mark.parametrize(
    "changed",
    [
        {"fill": np.array(-9, np.float32)},
        {"pads": np.array([0, 1, 0, 0, 0, 0, 1, 1])},
        {"pads": np.array([0, 0, -1, 0, 0, 0, 1, 1])},
    ],
    ids=["a number", "of channels", "that cuts"],
)
def test_other_padding_in_front_of_a_maximum_stays(tmp_path: Path, changed: dict[str, np.ndarray]) -> None:
    weights = {"pads": np.array([0, 0, 0, 0, 0, 0, 1, 1]), "fill": np.array(LOWEST, np.float32), **changed}
    assert operators(compared(saved(tmp_path / "a.onnx", PADDED_POOL, 13, **weights))) == ["Pad", "MaxPool"]


def test_a_conversion_to_the_type_that_is_there_is_not_traced(tmp_path: Path) -> None:
    """A trace would hold it and a check of its own, which not every converter has."""
    network = compared(
        saved(tmp_path / "a.onnx", "c = Cast<to: int = 1>(x) y = Pow(c, two)", two=np.array(2.0, np.float32))
    )
    graph = trace(network, (torch.randn(1, 4, 5, 5),))
    assert [node.target for node in graph.calls()] == [torch.ops.aten.pow.Tensor_Scalar]
