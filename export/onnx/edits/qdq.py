"""Where QuantizeLinear and DequantizeLinear go: one function per decision, on a graph whose tensors are marked.

An engine that knows the pattern (ONNX Runtime, TensorRT, OpenVINO) runs ``DequantizeLinear -> Conv -> QuantizeLinear``
as one integer convolution. The file itself stays standard ONNX, right on any engine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, numpy_helper

from compress.errors import GateFailed
from compress.integers.encoding import Encoding, Integer, IntegerParameters
from compress.integers.placement import IntegerLayer
from compress.integers.plan import LayerPlan, Plan
from compress.integers.target import Target

from ..bits import packed
from . import rewrite

Form = Literal["value", "dequantize", "multiply", "cast", "levels"]
MOVES = ("Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split", "MaxPool")


@dataclass(frozen=True)
class Marked:
    """What a mark stands for.

    Args:
        dtype: the type that its integers, or shorter floats, have in the file.
        form: how it is written. ``value``: an activation, as QuantizeLinear and DequantizeLinear. The others are stored
            parameters: ``dequantize`` as integers behind DequantizeLinear, ``multiply`` as integers behind Cast and
            Mul, and ``cast`` as shorter floats behind Cast, both of which ONNX Runtime computes once, at load;
            ``levels`` as codes behind what looks them up.
        parameters: its scale and zero point; None for floats.
        widened: 4-bit integers are cast to int8 before DequantizeLinear: folded at load, they are a plain int8 weight.
        turned: a matrix is stored as (features, channels), as MatMul reads it: engines multiply by its integers.
        levels: the few values of the weight, which is then stored as codes, of integers too.
    """

    dtype: Integer | Literal["int32", "float16", "bfloat16", "float32"]
    form: Form
    parameters: IntegerParameters | None = None
    widened: bool = False
    turned: bool = False
    levels: Encoding | None = None

    @property
    def rounding(self) -> IntegerParameters:
        """The parameters of what becomes integers."""
        assert self.parameters is not None, f"{self.dtype} has no scale"
        return self.parameters


def activation_mark(name: str) -> str:
    """The mark of what the node ``name`` yields."""
    return f"activation {name}"


def weight_mark(product: IntegerLayer) -> str:
    """The mark of the weight that ``product`` reads."""
    return f"weight {product.node.name}"


def bias_mark(product: IntegerLayer) -> str:
    """The mark of the bias that ``product`` reads."""
    return f"bias {product.node.name}"


def marks(planned: Plan) -> dict[str, Marked]:
    """What each mark of the planned tensors stands for."""
    marked = {activation_mark(name): Marked(x.dtype, "value", x.parameters) for name, x in planned.values.items()}
    for each in planned.layers:
        marked[weight_mark(each.layer)] = _weight(planned.target, each)
        if each.bias is not None:
            marked[bias_mark(each.layer)] = Marked("int32", "dequantize", each.bias.parameters)
    return marked


def _weight(target: Target, planned: LayerPlan) -> Marked:
    """How a weight is written."""
    encoding, weight = planned.encoding, planned.weight
    if encoding.kind == "levels":
        return Marked("float32", "levels", levels=encoding)
    if encoding.kind != "integer":
        return Marked(encoding.kind, "cast")
    assert weight is not None, "these engines store all integers as such"
    dtype = weight.dtype
    matrix = planned.layer.node.args[1].meta["val"].ndim == 2  # type: ignore[union-attr]
    if planned.levels is not None:
        return Marked("int8", "dequantize", weight.parameters, turned=matrix, levels=planned.levels)
    if planned.read is not None:
        return Marked(dtype, "dequantize", weight.parameters, widened=dtype == "int4")
    if encoding.restored and target.casts_weights:
        return Marked(dtype, "multiply", weight.parameters)  # behind DequantizeLinear they would multiply as integers
    form: Form = "multiply" if target.casts_weights and not matrix else "dequantize"
    return Marked(dtype, form, weight.parameters, turned=matrix)


def place(graph: GraphProto, marked: Mapping[str, Marked], *, past_moves: bool = False) -> int:
    """Replace every mark by QuantizeLinear and DequantizeLinear, or by stored integers; returns how many there were.

    Args:
        past_moves: leave out what stands behind an operation that only moves or selects what was rounded before it.

    Raises:
        GateFailed: a mark did not come through the conversion to ONNX.
    """
    placed = {mark_name(node) for node in _marks(graph)}
    lost = [name for name in marked if name not in placed]
    if lost:
        raise GateFailed(f"export: the tensor of the {lost[0]} is gone after the conversion to ONNX; exclude its layer")
    for node in _marks(graph):
        if marked[mark_name(node)].form != "value":
            _store(graph, node, marked[mark_name(node)])
    if any(what.turned for what in marked.values()):
        part_clips(graph)
    let_rounding_clip(graph, marked)
    drop_repeated_marks(graph, marked, past_moves=past_moves)
    for node in _marks(graph):
        _quantize(graph, node, marked[mark_name(node)])
    rewrite.drop_unused(graph)
    _restore_names(graph)
    return len(placed)


def keep_in_float(graph: GraphProto) -> int:
    """Put a LeakyRelu of slope 1 between each product of float weights and its QuantizeLinear; returns how many.

    ONNX Runtime takes weights between DequantizeLinear and QuantizeLinear for integers that were forgotten, and rounds
    them when it loads the file (its ``WeightBiasQuantization``). It fuses this LeakyRelu, which changes no value, into
    the product, at no cost.
    """
    yielding, readers = rewrite.producers(graph), rewrite.readers(graph)
    returned = {value.name for value in graph.output}

    def made_by(name: str) -> str:
        return yielding[name].op_type if name in yielding else ""

    count = 0
    for node in [node for node in graph.node if node.op_type in ("Conv", "ConvTranspose", "Gemm")]:
        read, weight, result = node.input[0], node.input[1], node.output[0]
        rounded = [reader.op_type for reader in readers.get(result, [])] == ["QuantizeLinear"]
        if made_by(read) != "DequantizeLinear" or made_by(weight) == "DequantizeLinear":
            continue
        if rounded and result not in returned:
            node.output[0] = f"{result}_in_float"
            identity = onnx.helper.make_node("LeakyRelu", [node.output[0]], [result], alpha=1.0)
            graph.node.insert(rewrite.place_of(graph, node) + 1, identity)
            count += 1
    return count


def _restore_names(graph: GraphProto) -> None:
    """Let the integers of a parameter have its name, where nothing else has it."""
    stored = rewrite.constants(graph)
    taken = {*stored, *rewrite.producers(graph), *(value.name for value in graph.input)}
    for name in sorted(stored):
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
        parameters = marked[mark_name(following[0])].rounding
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


def part_clips(graph: GraphProto) -> int:
    """Write each Relu and Clip behind a product of a stored matrix of integers as Max and Min; returns how many.

    ONNX Runtime takes DequantizeLinear, MatMul and Relu for one integer product without its QuantizeLinear, and then
    neither multiplies by the integers themselves (MatMulNBits) nor restores the floats once, at load.
    """
    stored, yielding = rewrite.constants(graph), rewrite.producers(graph)
    count = 0
    for node in [node for node in graph.node if node.op_type in ("Relu", "Clip")]:
        product = yielding.get(node.input[0])
        if product is not None and product.op_type == "Add":  # a bias
            products = (yielding.get(name) for name in product.input)
            product = next((p for p in products if p is not None and p.op_type == "MatMul"), None)
        weight = None if product is None or product.op_type not in ("MatMul", "Gemm") else product.input[1]
        restored = yielding.get(weight or "")
        if restored is None or restored.op_type != "DequantizeLinear" or restored.input[0] not in stored:
            continue
        bounds = _bounds(node, stored)
        if bounds is None:
            continue
        position, source, target = rewrite.place_of(graph, node), node.input[0], node.output[0]
        written = [(op, bound) for op, bound in zip(("Max", "Min"), bounds, strict=True) if np.isfinite(bound)]
        graph.node.remove(node)
        for number, (op, bound) in enumerate(written):
            value = rewrite.store(graph, f"{target}_{op}", np.asarray(bound, np.float32))
            result = target if number == len(written) - 1 else f"{target}_clipped"
            graph.node.insert(position + number, onnx.helper.make_node(op, [source, value], [result]))
            source = result
        count += 1
    return count


def drop_repeated_marks(graph: GraphProto, marked: Mapping[str, Marked], *, past_moves: bool = False) -> int:
    """Remove each mark right behind another one with the same parameters: rounding twice is rounding once.

    With ``past_moves``, those as well that only operations that move or select values stand between: engines that carry
    scales through these by themselves (OpenVINO) fuse them only if nothing is in between, a channel shuffle for one.
    """
    yielding = rewrite.producers(graph)
    repeated = []
    for node in _marks(graph):
        before = yielding.get(node.input[0])
        while past_moves and before is not None and before.op_type in MOVES:
            before = yielding.get(before.input[0])
        if before is None or before.op_type != "Site":
            continue
        first, second = marked[mark_name(before)].rounding, marked[mark_name(node)].rounding
        if first.scale == second.scale and first.zero_point == second.zero_point:
            repeated.append(node)
    return rewrite.bypass(graph, repeated)


def _marks(graph: GraphProto) -> list[NodeProto]:
    return [node for node in graph.node if node.op_type == "Site"]


def mark_name(node: NodeProto) -> str:
    """The name of a mark."""
    value = rewrite.attribute(node, "name")
    assert isinstance(value, bytes)
    return value.decode()


def _quantize(graph: GraphProto, mark: NodeProto, what: Marked) -> None:
    """An activation: QuantizeLinear and DequantizeLinear in the place of its mark."""
    position = rewrite.place_of(graph, mark)
    target = mark.output[0]
    integers = f"{target}_integers"
    scale = rewrite.store(graph, f"{target}_scale", np.asarray(what.rounding.scale, np.float32))
    zero = rewrite.store(graph, f"{target}_zero", np.asarray(what.rounding.zero_point, what.dtype))
    pair = (
        onnx.helper.make_node("QuantizeLinear", [mark.input[0], scale, zero], [integers]),
        onnx.helper.make_node("DequantizeLinear", [integers, scale, zero], [target]),
    )
    graph.node.remove(mark)
    for offset, node in enumerate(pair):
        graph.node.insert(position + offset, node)


def _store(graph: GraphProto, mark: NodeProto, what: Marked) -> None:
    """A parameter: stored in fewer bits, with what restores its values in the place of its mark."""
    stored = rewrite.constants(graph)
    if mark.input[0] not in stored:
        raise GateFailed(
            f"export: the {mark_name(mark)} is no stored tensor after the conversion to ONNX; exclude its layer"
        )
    real = numpy_helper.to_array(stored[mark.input[0]])
    position = rewrite.place_of(graph, mark)
    turns = real.ndim == 2 and what.form != "levels"
    turned, target = _turn(graph, mark, what) if turns else (False, mark.output[0])
    name = f"{mark.input[0]}/{target}"
    if what.form == "levels":
        assert what.levels is not None, "a weight of few levels"
        nodes = _look_up(graph, name, mark.output[0], what.levels, real)
    elif what.form == "cast":
        values: NDArray[Any] = real.astype(_dtype(what.dtype))
        value = rewrite.store(graph, name, values.T if turned else values)
        nodes = [_cast(value, onnx.TensorProto.FLOAT, target)]
    else:
        integers = what.rounding.quantize(real, 0).astype(_dtype(what.dtype))
        integers = integers.T if turned else integers
        if what.levels is not None:
            value, nodes = f"{target}_int8", _look_up_integers(graph, name, f"{target}_int8", what, integers)
            nodes += _dequantize(graph, value, target, what, len(real), turned=turned)
            _put(graph, mark, position, nodes)
            return
        value = rewrite.store(graph, name, integers)
        if what.form == "multiply":
            nodes = _multiply(graph, value, target, what.rounding.scale.reshape(-1, *(1,) * (real.ndim - 1)))
        else:
            nodes = _dequantize(graph, value, target, what, len(real), turned=turned)
    _put(graph, mark, position, nodes)


def _put(graph: GraphProto, mark: NodeProto, position: int, nodes: Iterable[NodeProto]) -> None:
    """Put ``nodes`` in the place of a mark."""
    graph.node.remove(mark)
    for offset, node in enumerate(nodes):
        graph.node.insert(position + offset, node)


def _look_up(graph: GraphProto, name: str, target: str, levels: Encoding, real: NDArray[np.float32]) -> list[NodeProto]:
    """Levels looked up by packed codes, times the factors of their channels."""
    assert levels.levels is not None, "a weight of few levels"
    rows = np.asarray(levels.levels, np.float32)
    codes, units = levels.codes(real), f"{target}_units"
    along = (-1, *(1,) * (real.ndim - 1))
    factors = rewrite.store(graph, f"{target}_scale", np.asarray(levels.high, np.float32).reshape(along))
    if len(rows) == 1:
        nodes = packed.restored(graph, name, units, codes, rows[0])
    else:
        first = np.arange(len(rows), dtype=np.int32).reshape(along) * np.int32(rows.shape[1])
        places = [f"{target}_codes", rewrite.store(graph, f"{target}_rows", first)]
        every = rewrite.store(graph, f"{target}_every_level", rows.ravel())
        nodes = [
            *packed.restored(graph, name, places[0], codes, packed.numbers(rows.shape[1])),
            onnx.helper.make_node("Add", places, [f"{target}_places"]),
            onnx.helper.make_node("Gather", [every, f"{target}_places"], [units], axis=0),
        ]
    return [*nodes, onnx.helper.make_node("Mul", [units, factors], [target])]


def _look_up_integers(
    graph: GraphProto, name: str, target: str, what: Marked, integers: NDArray[np.int8]
) -> list[NodeProto]:
    """Integers looked up by packed codes."""
    assert what.levels is not None and what.levels.levels is not None, "a weight of few levels"
    scale = what.rounding.scale[np.argmax(np.abs(what.levels.high))]
    steps = np.rint(what.levels.table()[np.argmax(np.abs(what.levels.high))] / scale)
    known = np.union1d(steps, -steps).astype(np.int8)  # a channel with a negative factor has the others
    return packed.restored(graph, name, target, np.searchsorted(known, integers).astype(np.uint8), known)


def _turn(graph: GraphProto, mark: NodeProto, what: Marked) -> tuple[bool, str]:
    """Whether the matrix behind ``mark`` is stored transposed, and the value that it then is; who reads it follows."""
    following = rewrite.readers(graph).get(mark.output[0], [])
    if len(following) != 1:
        return False, mark.output[0]
    reader = following[0]
    if reader.op_type == "Transpose":
        graph.node.remove(reader)
        return True, reader.output[0]
    if what.turned and reader.op_type == "Gemm" and rewrite.attribute(reader, "transB", 0) == 1:
        reader.attribute.remove(next(item for item in reader.attribute if item.name == "transB"))
        return True, mark.output[0]
    return False, mark.output[0]


def _dequantize(
    graph: GraphProto, value: str, target: str, what: Marked, channels: int, *, turned: bool
) -> list[NodeProto]:
    """DequantizeLinear, per output channel or per block of input features."""
    parameters = what.rounding
    arrays: list[NDArray[Any]] = [parameters.scale, parameters.zero_point]
    attributes: dict[str, Any] = {"axis": int(turned)}
    if parameters.block is not None:
        arrays = [x.reshape(channels, -1).T if turned else x.reshape(channels, -1) for x in arrays]
        attributes = {"axis": int(not turned), "block_size": parameters.block}
    names = [value, rewrite.store(graph, f"{target}_scale", arrays[0])]
    nodes = []
    if what.widened:
        nodes.append(_cast(value, onnx.TensorProto.INT8, f"{target}_int8"))
        names[0] = f"{target}_int8"
    if not what.turned:  # engines take a weight alone without its zero point, which is 0
        zero_type = _dtype("int8" if what.widened else what.dtype)
        names.append(rewrite.store(graph, f"{target}_zero", arrays[1].astype(zero_type)))
    return [*nodes, onnx.helper.make_node("DequantizeLinear", names, [target], **attributes)]


def _multiply(graph: GraphProto, value: str, target: str, scales: NDArray[np.float32]) -> list[NodeProto]:
    """Cast to float, and Mul by the scales."""
    names = [f"{target}_float", rewrite.store(graph, f"{target}_scale", scales)]
    return [_cast(value, onnx.TensorProto.FLOAT, names[0]), onnx.helper.make_node("Mul", names, [target])]


def _cast(source: str, to: int, target: str) -> NodeProto:
    return onnx.helper.make_node("Cast", [source], [target], to=to)


def _dtype(name: str) -> np.dtype[Any]:
    """The type called ``name``, those included that numpy itself has not ("int4", "bfloat16")."""
    return onnx.helper.tensor_dtype_to_np_dtype(onnx.TensorProto.DataType.Value(name.upper()))
