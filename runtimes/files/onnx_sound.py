"""What a file must keep to before anything computes with it: its texts, its tensors, its graphs and functions.

The parsers and engines that read it afterwards trust it in these points, and crash or never end where it lies.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import Message  # type: ignore[import-untyped]
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto

from ..errors import InvalidModel
from .untrusted import OPTION, large_files

MOST_NODES = 100_000
"""Nodes of a file with its functions written out."""
_VALUE_BYTES = 2**30
_MOST_SIZES = 64  # elements of a weight that may be sizes of others
_MOST_TURNS = 2**20
_DEEPEST = 100  # calls of functions within functions
_LARGEST = 2**31 - 1  # what the sizes of a window may be
_COUNTS = frozenset({"group", "blocksize", "num_groups", "num_outputs", "size", "dilations", "strides", "kernel_shape"})
"""Attributes that are at least 1, whatever operator they belong to."""
_BITS: Mapping[int, int] = {
    **dict.fromkeys((TensorProto.INT8, TensorProto.UINT8, TensorProto.BOOL), 8),
    **dict.fromkeys(range(TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E5M2FNUZ + 1), 8),
    **dict.fromkeys((TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT16, TensorProto.UINT16), 16),
    **dict.fromkeys((TensorProto.FLOAT, TensorProto.INT32, TensorProto.UINT32), 32),
    **dict.fromkeys((TensorProto.DOUBLE, TensorProto.INT64, TensorProto.UINT64, TensorProto.COMPLEX64), 64),
    **dict.fromkeys((TensorProto.UINT4, TensorProto.INT4, TensorProto.FLOAT4E2M1), 4),
    TensorProto.COMPLEX128: 128,
}
_FIELDS: Mapping[int, str] = {
    TensorProto.FLOAT: "float_data",
    TensorProto.COMPLEX64: "float_data",
    TensorProto.DOUBLE: "double_data",
    TensorProto.COMPLEX128: "double_data",
    TensorProto.INT64: "int64_data",
    TensorProto.UINT64: "uint64_data",
    TensorProto.UINT32: "uint64_data",
    TensorProto.STRING: "string_data",
}


def require_sound(model: ModelProto, where: str) -> None:
    """Raise InvalidModel, beginning with ``where``, at the first point that the file does not keep to."""
    _require_texts(model, where)
    _require_versions(model, where)
    _require_expandable(model, where)
    _require_graph(model.graph, where, ())
    for function in model.functions:
        _require_nodes(function.node, function.output, where, ({*function.input},), "function " + short(function.name))


def require_sound_file(path: Path) -> None:
    """Raise InvalidModel if the ONNX file at ``path`` is not sound, or computes a value that is larger than files may.

    One that cannot be parsed is left to its engine.
    """
    try:
        model = onnx.load_model(str(path), format="protobuf", load_external_data=False)
    except Exception:  # noqa: BLE001 - an engine tells what it cannot read, and some read more
        return
    require_sound(model, str(path))
    if not large_files():
        _require_few_turns(model, str(path))
        _require_small(model, str(path))


def _require_few_turns(model: ModelProto, where: str) -> None:
    """No loop takes turns without end, as far as their number stands in the file."""
    nodes = list(_all_nodes(model.graph.node))
    turns = {tensor.name: tensor for tensor in model.graph.initializer}
    turns |= {
        node.output[0]: node.attribute[0].t
        for node in nodes
        if node.op_type == "Constant" and node.output and node.attribute and node.attribute[0].HasField("t")
    }
    for index, node in enumerate(nodes):
        turns_of_loop = turns.get(node.input[0]) if node.op_type == "Loop" and node.input else None
        if turns_of_loop is None or turns_of_loop.data_type != TensorProto.INT64 or math.prod(turns_of_loop.dims) != 1:
            continue
        number = (
            int.from_bytes(turns_of_loop.raw_data, "little", signed=True)
            if turns_of_loop.raw_data
            else max(turns_of_loop.int64_data, default=0)
        )
        if number > _MOST_TURNS:
            raise InvalidModel(
                f"{where}: {called(node, index)} takes {number:,} turns; the most is {_MOST_TURNS:,}, add {OPTION} if "
                "you trust who wrote the file"
            )


def _require_small(model: ModelProto, where: str) -> None:
    """No value takes too much memory, as far as its sizes follow from the file, with 1 for those that it leaves open.

    The weights of ``model`` are lost.
    """
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) > _MOST_SIZES:
            for field in ("raw_data", *_FIELDS.values(), "int32_data"):
                tensor.ClearField(field)
    try:
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except Exception:  # noqa: BLE001 - what is wrong with it is told by the engine
        return
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        sizes = [size.dim_value for size in kind.shape.dim if size.dim_value > 0]
        taken = math.prod(sizes) * _BITS.get(kind.elem_type, 8) // 8
        if taken > _VALUE_BYTES:
            raise InvalidModel(
                f"{where}: the value {short(value.name)} of sizes {_few(sizes)} would take {taken:,} bytes; the most "
                f"is {_VALUE_BYTES:,}, add {OPTION} if you trust who wrote the file"
            )


def cut(name: str) -> str:
    """``name``, with the middle left out where it is long."""
    return name if len(name) <= 100 else f"{name[:60]}...{name[-30:]}"


def short(name: str) -> str:
    """``name`` as messages show it: quoted, and cut where it is long."""
    return repr(cut(name))


def called(node: NodeProto, index: int) -> str:
    """The node as messages show it: its place and operator, and its name if it has one."""
    named = f" {short(node.name)}" if node.name else ""
    return f"node {index}{named} ({node.op_type[:60]})"


def type_name(element: int) -> str:
    """The name of an element type of ONNX, or that it has none."""
    known = TensorProto.DataType.values()
    return str(TensorProto.DataType.Name(element)) if element in known else f"{element} (none that is known)"


def _require_texts(model: ModelProto, where: str) -> None:
    messages: list[Message] = [model]
    while messages:
        message = messages.pop()
        for field, value in message.ListFields():
            if field.type not in (field.TYPE_STRING, field.TYPE_MESSAGE):
                continue
            items = value if field.is_repeated else (value,)
            if field.type == field.TYPE_MESSAGE:
                messages.extend(items)
                continue
            for item in items:
                if isinstance(item, bytes):
                    raise InvalidModel(
                        f"{where}: the {field.name} of a {message.DESCRIPTOR.name} is not UTF-8: {item[:40]!r}; export "
                        "the network again with names of plain text"
                    )


def _require_versions(model: ModelProto, where: str) -> None:
    newest = onnx.defs.onnx_opset_version()
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx") and not 1 <= entry.version <= newest:
            raise InvalidModel(
                f"{where}: is of opset {entry.version}; expected 1 to {newest}; convert it with onnx.version_converter"
            )


# --- functions -------------------------------------------------------------------------------------------------------

_Key = tuple[str, str, str]


def _key(owner: NodeProto | FunctionProto) -> _Key:
    name = owner.op_type if isinstance(owner, NodeProto) else owner.name
    return ("" if owner.domain == "ai.onnx" else owner.domain), name, owner.overload


def _require_expandable(model: ModelProto, where: str) -> None:
    """Functions end, and written out they make no more nodes than a file may have."""
    functions = {_key(function): function for function in model.functions}
    if len(functions) < len(model.functions):
        twice = Counter(map(_key, model.functions)).most_common(1)[0][0]
        raise InvalidModel(f"{where}: the function {short(twice[1])} is defined twice; expected once")
    calls = {
        key: Counter(_key(node) for node in _all_nodes(function.node) if _key(node) in functions)
        for key, function in functions.items()
    }
    sizes: dict[_Key, int] = {}
    depths: dict[_Key, int] = {}
    for key in _callees_first(calls, where):
        own = sum(1 for _ in _all_nodes(functions[key].node))
        sizes[key] = own + sum(count * sizes[inner] for inner, count in calls[key].items())
        depths[key] = 1 + max((depths[inner] for inner in calls[key]), default=0)
        if depths[key] > _DEEPEST:
            raise InvalidModel(f"{where}: its functions call each other {depths[key]} deep; the most is {_DEEPEST}")
    total = sum(1 + sizes.get(_key(node), 0) for node in _all_nodes(model.graph.node))
    if total > MOST_NODES:
        written = " with its functions written out" if functions else ""
        raise InvalidModel(f"{where}: it has {total:.3g} nodes{written}; the most is {MOST_NODES:,}")


def _callees_first(calls: Mapping[_Key, Collection[_Key]], where: str) -> Iterator[_Key]:
    """Every function after those that it calls."""
    done: set[_Key] = set()
    for start in calls:
        path: dict[_Key, Iterator[_Key]] = {start: iter(calls[start])} if start not in done else {}
        while path:
            key, rest = next(reversed(path.items()))
            inner = next((each for each in rest if each not in done), None)
            if inner is None:
                done.add(key)
                del path[key]
                yield key
            elif inner in path:
                raise InvalidModel(f"{where}: the function {short(inner[1])} calls itself; functions must end")
            else:
                path[inner] = iter(calls[inner])


def _all_nodes(nodes: Sequence[NodeProto]) -> Iterator[NodeProto]:
    """The nodes and those of all graphs within them."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                yield from _all_nodes(graph.node)


# --- graphs ----------------------------------------------------------------------------------------------------------


def _require_graph(graph: GraphProto, where: str, outer: tuple[Collection[str], ...]) -> None:
    inputs = [value.name for value in graph.input]
    weights = [tensor.name for tensor in graph.initializer]
    weights += [sparse.values.name for sparse in graph.sparse_initializer]
    for kind, names in (("input", inputs), ("initializer", weights), ("output", [v.name for v in graph.output])):
        twice = next((name for name, count in Counter(names).items() if count > 1), None)
        if twice is not None:
            raise InvalidModel(f"{where}: the {kind} {short(twice)} is there twice; expected every name once")
    for value in graph.input:
        negative = [d.dim_value for d in value.type.tensor_type.shape.dim if d.dim_value < -1]
        if negative:
            raise InvalidModel(
                f"{where}: the input {short(value.name)} has a size of {negative[0]}; expected 1 or more"
            )
    for tensor in graph.initializer:
        _require_tensor(tensor, f"{where}: the initializer {short(tensor.name)}")
    outputs = [value.name for value in graph.output]
    _require_nodes(graph.node, outputs, where, (*outer, {*inputs, *weights}), "graph")


def _require_nodes(
    nodes: Sequence[NodeProto], outputs: Sequence[str], where: str, scopes: tuple[Collection[str], ...], of: str
) -> None:
    """Every value is made once, before it is used."""
    made: set[str] = set()
    scopes = (*scopes, made)
    for index, node in enumerate(nodes):
        here = f"{where}: {called(node, index)}"
        for name in node.input:
            if name and not any(name in scope for scope in scopes):
                raise InvalidModel(f"{here} takes {short(name)}, {_why_missing(nodes, name)}")
        for attribute in node.attribute:
            _require_attribute(attribute, here)
            for graph in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                _require_graph(graph, here, scopes)
        for name in node.output:
            if name and (name in made or name in scopes[-2]):
                raise InvalidModel(f"{here} yields {short(name)}, which is there already; expected every name once")
            if name:
                made.add(name)
    missing = next((name for name in outputs if not any(name in scope for scope in scopes)), None)
    if missing is not None:
        raise InvalidModel(f"{where}: the output {short(missing)} of the {of} is made by no node; export it again")


def _why_missing(nodes: Sequence[NodeProto], name: str) -> str:
    makers = {output: index for index, node in enumerate(nodes) for output in node.output if output}
    if name not in makers:
        return "which nothing yields; export the network again"
    # Whether what yields it needs, over others, what is made of it.
    needed, waiting = {makers[name]}, [makers[name]]
    while waiting:
        for each in nodes[waiting.pop()].input:
            maker = makers.get(each)
            if each == name:
                return "which is made of it: the graph runs in a circle; export the network again"
            if maker is not None and maker not in needed:
                needed.add(maker)
                waiting.append(maker)
    return f"which node {makers[name]} yields later; expected nodes in the order in which they run: sort them"


def _require_attribute(attribute: AttributeProto, here: str) -> None:
    name, numbers = attribute.name, [*attribute.ints, *([attribute.i] if attribute.HasField("i") else [])]
    if name in _COUNTS and numbers and not all(1 <= number <= _LARGEST for number in numbers):
        raise InvalidModel(f"{here}: {name} is {_few(numbers)}; expected 1 or more" + _most(numbers))
    if name in ("pads", "output_padding") and any(abs(number) > _LARGEST for number in numbers):
        raise InvalidModel(f"{here}: {name} is {_few(numbers)}; expected less than 2^31")
    tensors = [attribute.t] if attribute.HasField("t") else []
    for tensor in (*tensors, *attribute.tensors):
        _require_tensor(tensor, f"{here}: its tensor {name}")


def _most(numbers: Sequence[int]) -> str:
    return ", and less than 2^31" if max(numbers) > _LARGEST else ""


def _few(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:6])) + (", ..." if len(numbers) > 6 else "")


# --- tensors ---------------------------------------------------------------------------------------------------------


def _require_tensor(tensor: TensorProto, what: str) -> None:
    """Its type is known, its sizes are not negative, and it stores as many elements as they say."""
    if tensor.data_type not in TensorProto.DataType.values() or tensor.data_type == TensorProto.UNDEFINED:
        raise InvalidModel(f"{what} is of type {type_name(tensor.data_type)}; export the network again")
    if any(size < 0 for size in tensor.dims):
        raise InvalidModel(f"{what} has the sizes {_few(tensor.dims)}; expected none below 0")
    elements = math.prod(tensor.dims)
    if tensor.data_location == TensorProto.EXTERNAL or tensor.data_type not in (*_BITS, TensorProto.STRING):
        return  # where elements lie elsewhere, or of a type that is refused anyway
    if tensor.HasField("raw_data"):
        wanted, stored, unit = bytes_of(tensor), len(tensor.raw_data), "bytes"
    else:
        values: Any = getattr(tensor, _FIELDS.get(tensor.data_type, "int32_data"))
        parts = 2 if tensor.data_type in (TensorProto.COMPLEX64, TensorProto.COMPLEX128) else 1
        packed = 8 // _BITS[tensor.data_type] if _BITS.get(tensor.data_type, 8) < 8 else 1
        wanted, stored, unit = -(-elements * parts // packed), len(values), "values"
    if stored != wanted:
        raise InvalidModel(
            f"{what} of sizes {_few(tensor.dims) or '()'} stores {stored:,} {unit}; expected {wanted:,}; the file is "
            "damaged: export it again"
        )


def bytes_of(tensor: TensorProto) -> int:
    """The bytes that the elements of ``tensor`` take where they are stored raw."""
    return -(-int(math.prod(tensor.dims)) * _BITS.get(tensor.data_type, 8) // 8)
