"""Where QuantizeLinear and DequantizeLinear go: one function per decision, on a graph whose tensors are marked.

An engine that knows the pattern (ONNX Runtime, TensorRT, OpenVINO) runs ``DequantizeLinear -> Conv -> QuantizeLinear``
as one integer convolution. The file itself stays standard ONNX, right on any engine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, numpy_helper

from compress.errors import GateFailed
from compress.quantize.encoding import Encoding, Integer, IntegerParameters
from compress.quantize.flavour import Flavour, bias_parameters
from compress.quantize.sites import Product

from . import rewrite


@dataclass(frozen=True)
class Marked:
    """What a mark stands for: its parameters, the integers, and the axis of the channels, if it is a parameter."""

    parameters: IntegerParameters
    dtype: Integer | str
    stored: bool = False


def activation_mark(name: str) -> str:
    """The mark of what the node ``name`` yields."""
    return f"activation {name}"


def weight_mark(product: Product) -> str:
    """The mark of the weight that ``product`` reads."""
    return f"weight {product.node.name}"


def bias_mark(product: Product) -> str:
    """The mark of the bias that ``product`` reads."""
    return f"bias {product.node.name}"


def marks(
    flavour: Flavour,
    encodings: Mapping[str, Encoding],
    activations: Iterable[str],
    products: Iterable[tuple[Product, NDArray[np.float32] | None]],
) -> dict[str, Marked]:
    """The parameters of every mark, in ``flavour``.

    Args:
        activations: names of the encoded nodes.
        products: those that run in integers, each with the values of its bias.
    """
    found: dict[str, Marked] = {}
    for name in activations:
        found[activation_mark(name)] = Marked(flavour.activation_parameters(encodings[name]), flavour.activation)
    for product, bias in products:
        input_scale = float(found[activation_mark(product.read)].parameters.scale)
        weight = flavour.weight_parameters(encodings[product.weight], input_scale, bias)
        found[weight_mark(product)] = Marked(weight, "int8", stored=True)
        if bias is not None:
            found[bias_mark(product)] = Marked(bias_parameters(input_scale, weight), "int32", stored=True)
    return found


def place(graph: GraphProto, marked: Mapping[str, Marked]) -> int:
    """Replace every mark by QuantizeLinear and DequantizeLinear, or by stored integers; returns how many there were.

    Raises:
        GateFailed: a mark did not come through the conversion to ONNX.
    """
    found = {_name(node) for node in _marks(graph)}
    lost = [name for name in marked if name not in found]
    if lost:
        raise GateFailed(f"export: the tensor of the {lost[0]} is gone after the conversion to ONNX; exclude its layer")
    for node in _marks(graph):
        if marked[_name(node)].stored:
            _store_integers(graph, node, marked[_name(node)])
    let_rounding_clip(graph, marked)
    drop_repeated_marks(graph, marked)
    for node in _marks(graph):
        _quantize(graph, node, marked[_name(node)])
    rewrite.drop_unused(graph)
    _restore_names(graph)
    return len(found)


def _restore_names(graph: GraphProto) -> None:
    """Let the integers of a parameter have its name, where nothing else has it."""
    taken = set(rewrite.constants(graph))
    for name in sorted(taken):
        parameter = name.partition("/")[0]
        if parameter != name and parameter not in taken:
            taken.add(parameter)
            rewrite.rename(graph, {name: parameter})


def let_rounding_clip(graph: GraphProto, marked: Mapping[str, Marked]) -> int:
    """Remove each Relu and Clip of which nothing is left to do once its output is rounded; returns how many.

    The integers end at 0 (their least value stands for 0) and, for a Clip, no later than at its upper bound, so
    rounding clips by itself, and the convolution before is followed by QuantizeLinear at once, as engines want it.
    """
    stored, readers = rewrite.constants(graph), rewrite.readers(graph)
    returned = {value.name for value in graph.output}
    idle = []
    for node in graph.node:
        if node.op_type not in ("Relu", "Clip") or node.output[0] in returned:
            continue
        following = readers.get(node.output[0], [])
        if len(following) != 1 or following[0].op_type != "Site":
            continue
        parameters = marked[_name(following[0])].parameters
        bounds = _bounds(node, stored)
        if bounds is None or int(parameters.zero_point) != parameters.low:
            continue
        low, high = bounds
        reaches_top = np.rint(np.float32(high) / parameters.scale) + parameters.zero_point >= parameters.high
        if low == 0 and reaches_top:
            idle.append(node)
    return rewrite.bypass(graph, idle)


def _bounds(node: NodeProto, stored: Mapping[str, onnx.TensorProto]) -> tuple[float, float] | None:
    if node.op_type == "Relu":
        return 0.0, np.inf
    bounds = []
    for position, unset in ((1, -np.inf), (2, np.inf)):
        name = node.input[position] if len(node.input) > position else ""
        if name and name not in stored:
            return None
        bounds.append(float(numpy_helper.to_array(stored[name])) if name else unset)
    return bounds[0], bounds[1]


def drop_repeated_marks(graph: GraphProto, marked: Mapping[str, Marked]) -> int:
    """Remove each mark right behind another one with the same parameters: rounding twice is rounding once."""
    yielding = rewrite.producers(graph)
    repeated = []
    for node in _marks(graph):
        before = yielding.get(node.input[0])
        if before is None or before.op_type != "Site":
            continue
        first, second = marked[_name(before)].parameters, marked[_name(node)].parameters
        if first.scale == second.scale and first.zero_point == second.zero_point:
            repeated.append(node)
    return rewrite.bypass(graph, repeated)


def _marks(graph: GraphProto) -> list[NodeProto]:
    return [node for node in graph.node if node.op_type == "Site"]


def _name(node: NodeProto) -> str:
    value = rewrite.attribute(node, "name")
    assert isinstance(value, bytes)
    return value.decode()


def _quantize(graph: GraphProto, mark: NodeProto, what: Marked) -> None:
    """An activation: QuantizeLinear and DequantizeLinear in the place of its mark."""
    position = list(graph.node).index(mark)
    target = mark.output[0]
    integers = f"{target}_integers"
    scale = rewrite.store(graph, f"{target}_scale", np.asarray(what.parameters.scale, np.float32))
    zero = rewrite.store(graph, f"{target}_zero", np.asarray(what.parameters.zero_point, what.dtype))
    pair = (
        onnx.helper.make_node("QuantizeLinear", [mark.input[0], scale, zero], [integers]),
        onnx.helper.make_node("DequantizeLinear", [integers, scale, zero], [target]),
    )
    graph.node.remove(mark)
    for offset, node in enumerate(pair):
        graph.node.insert(position + offset, node)


def _store_integers(graph: GraphProto, mark: NodeProto, what: Marked) -> None:
    """A parameter: stored as integers, per output channel, with DequantizeLinear in the place of its mark."""
    stored = rewrite.constants(graph)
    if mark.input[0] not in stored:
        raise GateFailed(
            f"export: the {_name(mark)} is no stored tensor after the conversion to ONNX; exclude its layer"
        )
    real = numpy_helper.to_array(stored[mark.input[0]])
    axis, target = 0, mark.output[0]
    integers = what.parameters.quantize(real, 0).astype(what.dtype)
    following = rewrite.readers(graph).get(target, [])
    if len(following) == 1 and following[0].op_type == "Transpose" and real.ndim == 2:
        integers, axis, target = integers.T, 1, following[0].output[0]
        graph.node.remove(following[0])
    position = list(graph.node).index(mark)
    value = rewrite.store(graph, f"{mark.input[0]}/{target}", integers)
    scale = rewrite.store(graph, f"{target}_scale", what.parameters.scale)
    zero = rewrite.store(graph, f"{target}_zero", what.parameters.zero_point.astype(what.dtype))
    node = onnx.helper.make_node("DequantizeLinear", [value, scale, zero], [target], axis=axis)
    graph.node.remove(mark)
    graph.node.insert(position, node)
