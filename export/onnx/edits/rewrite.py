"""Edits of an ONNX graph in place: one function per edit, each returning how much it changed."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, numpy_helper

from compress.graph.interface import Names

SHARED_BYTES = 2**14


def readers(graph: GraphProto) -> dict[str, list[NodeProto]]:
    """The nodes that read each value."""
    by_value: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            by_value.setdefault(name, []).append(node)
    return by_value


def producers(graph: GraphProto) -> dict[str, NodeProto]:
    """The node that yields each value."""
    return {name: node for node in graph.node for name in node.output if name}


def place_of(graph: GraphProto, node: NodeProto) -> int:
    """The position of ``node``, told by the value that it yields: comparing nodes takes long."""
    return next(place for place, each in enumerate(graph.node) if each.output[:1] == node.output[:1])


def constants(graph: GraphProto) -> dict[str, onnx.TensorProto]:
    """The stored tensors."""
    return {tensor.name: tensor for tensor in graph.initializer}


def attribute(node: NodeProto, name: str, default: object = None) -> object:
    """The value of an attribute of ``node``."""
    return next((onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def rename(graph: GraphProto, names: Mapping[str, str]) -> int:
    """Give values new names, wherever they stand; returns how many places changed."""
    changed = 0
    for node in graph.node:
        for sequence in (node.input, node.output):
            for position, name in enumerate(sequence):
                if name in names:
                    sequence[position] = names[name]
                    changed += 1
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        if value.name in names:
            value.name = names[value.name]
            changed += 1
    return changed


def bypass(graph: GraphProto, nodes: Iterable[NodeProto]) -> int:
    """Remove nodes that pass their first input on; what read their output reads that. Returns how many.

    A node whose output the graph returns keeps that name: what yields its input takes it over.
    """
    returned = {value.name for value in graph.output}
    fed = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    count = 0
    for node in nodes:
        source, target = node.input[0], node.output[0]
        if target in returned and (source in returned or source in fed):
            continue
        graph.node.remove(node)
        rename(graph, {source: target} if target in returned else {target: source})
        count += 1
    return count


def drop_unused(graph: GraphProto) -> int:
    """Remove nodes and stored tensors that nothing reads; returns how many."""
    count = 0
    while True:
        used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
        used |= {name for node in graph.node for name in _outer_names(node)}
        dead = [node for node in graph.node if not any(name in used for name in node.output)]
        for node in dead:
            graph.node.remove(node)
        count += len(dead)
        if not dead:
            break
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)
        count += 1
    return count


def _outer_names(node: NodeProto) -> Iterable[str]:
    """Values that the subgraphs of ``node`` read."""
    for item in node.attribute:
        for graph in (*([item.g] if item.HasField("g") else []), *item.graphs):
            for inner in graph.node:
                yield from inner.input
                yield from _outer_names(inner)
            yield from (value.name for value in graph.output)


def has_subgraphs(graph: GraphProto) -> bool:
    """Whether a node holds graphs of its own (If, Loop, Scan)."""
    return any(item.HasField("g") or item.graphs for node in graph.node for item in node.attribute)


def use_global_average_pool(graph: GraphProto) -> int:
    """Write a mean over height and width as GlobalAveragePool, which engines run in integers; returns how many."""
    stored, ranks = constants(graph), _ranks(graph)
    returned = {value.name for value in graph.output}
    count = 0
    for node in [node for node in graph.node if node.op_type == "ReduceMean" and ranks.get(node.input[0]) == 4]:
        axes = attribute(node, "axes")
        if axes is None and len(node.input) > 1 and node.input[1] in stored:
            axes = numpy_helper.to_array(stored[node.input[1]]).tolist()
        if not isinstance(axes, list) or sorted(axis % 4 for axis in axes) != [2, 3]:
            continue
        source, target = node.input[0], node.output[0]
        position = place_of(graph, node)
        written = [onnx.helper.make_node("GlobalAveragePool", [source], [target], name=node.name)]
        written[0].metadata_props.extend(node.metadata_props)
        if not attribute(node, "keepdims", 1):
            pooled = f"{target}_pooled"
            written[0].output[0] = pooled
            following = readers(graph).get(target, [])
            if len(following) == 1 and following[0].op_type == "Site" and target not in returned:
                mark = NodeProto()
                mark.CopyFrom(following[0])
                mark.input[0], mark.output[0] = pooled, f"{pooled}_site"
                written.append(mark)
            written.append(onnx.helper.make_node("Flatten", [written[-1].output[0]], [target], axis=1))
        graph.node.remove(node)
        for offset, new in enumerate(written):
            graph.node.insert(position + offset, new)
        count += 1
    return count


def _ranks(graph: GraphProto) -> dict[str, int]:
    known = {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.HasField("shape")
    }
    for node in graph.node:
        if node.op_type == "Site" and node.input[0] in known:
            known.setdefault(node.output[0], known[node.input[0]])
    return known


def unsign_zeros(graph: GraphProto) -> int:
    """Store -0.0 as 0.0, which computes the same, so that zeros compress; returns how many values changed."""
    changed = 0
    for tensor in graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and tensor.raw_data:
            values = np.frombuffer(tensor.raw_data, np.float32)
            negative = (values == 0) & np.signbit(values)
            if negative.any():
                tensor.raw_data = np.where(negative, np.float32(0), values).tobytes()
                changed += int(negative.sum())
    return changed


def share_constants(graph: GraphProto) -> int:
    """Store equal small tensors once; returns how many went."""
    first: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    names: dict[str, str] = {}
    for tensor in list(graph.initializer):
        array = numpy_helper.to_array(tensor)
        if array.nbytes > SHARED_BYTES or array.dtype == object:
            continue
        key = (tensor.data_type, tuple(tensor.dims), array.tobytes())
        if key in first:
            names[tensor.name] = first[key]
            graph.initializer.remove(tensor)
        else:
            first[key] = tensor.name
    for node in graph.node:
        for position, name in enumerate(node.input):
            node.input[position] = names.get(name, name)
    return len(names)


def name_interface(graph: GraphProto, names: Names) -> None:
    """Give inputs and outputs these names, by position, and call the dimension that varies "batch".

    What is named so inside of the graph gets another name. A result that is an input or a stored tensor itself, or that
    is returned twice, is passed through an Identity, so that it can have a name of its own.
    """
    _pass_on_results(graph)
    wanted = dict(zip((value.name for value in graph.input), names.inputs, strict=True))
    wanted |= dict(zip((value.name for value in graph.output), names.outputs, strict=True))
    values = {name for node in graph.node for name in (*node.input, *node.output)} | {t.name for t in graph.initializer}
    inside = values & set(wanted.values()) - set(wanted)
    rename(graph, {name: _free(f"{name}_inside", values | set(wanted.values())) for name in sorted(inside)})
    rename(graph, wanted)
    symbols = [
        value.type.tensor_type.shape.dim[0].dim_param
        for value in graph.input
        if value.type.tensor_type.shape.dim and value.type.tensor_type.shape.dim[0].dim_param
    ]
    for value in (*graph.input, *graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if symbols and dim.dim_param:
                dim.dim_param = re.sub(rf"\b{re.escape(symbols[0])}\b", "batch", dim.dim_param)


def _pass_on_results(graph: GraphProto) -> None:
    held = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    for value in graph.output:
        if value.name in held:
            made = _free(f"{value.name}_result", held | {name for node in graph.node for name in node.output})
            graph.node.append(onnx.helper.make_node("Identity", [value.name], [made]))
            value.name = made
        held.add(value.name)


def _free(name: str, taken: Collection[str]) -> str:
    while name in taken:
        name += "_"
    return name


def slim(model: ModelProto) -> int:
    """Take out what no engine reads; returns the bytes saved.

    Gone are stack traces (which hold paths of the machine that exported), doc strings, inferred shapes and attributes
    that state the default. Nodes are named by their layer, values inside of the graph by a short number; stored
    parameters keep their names.
    """
    before = int(model.ByteSize())
    graph = model.graph
    interface = {value.name for value in (*graph.input, *graph.output)}
    parameters = {t.name for t in graph.initializer if "." in t.name or re.search(r"weight|bias", t.name)}
    taken: Counter[str] = Counter()
    for node in graph.node:
        layer = _layer(node)
        taken[layer] += bool(layer)
        if not layer or node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            node.ClearField("name")
        else:
            node.name = layer if taken[layer] == 1 else f"{layer}/{node.op_type}_{taken[layer]}"
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
        _drop_defaults(node, model)
    if not has_subgraphs(graph):
        values = [name for node in graph.node for name in (*node.input, *node.output) if name]
        short = iter(_short_names(interface | parameters))
        rename(graph, {name: next(short) for name in dict.fromkeys(values) if name not in interface | parameters})
    graph.ClearField("value_info")
    graph.ClearField("doc_string")
    graph.ClearField("metadata_props")
    model.ClearField("doc_string")
    model.ClearField("metadata_props")
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.ClearField("doc_string")
        value.ClearField("metadata_props")
    used = {node.domain for node in graph.node} | {item.domain for item in model.functions}
    for item in [item for item in model.opset_import if item.domain and item.domain not in used]:
        model.opset_import.remove(item)
    return before - int(model.ByteSize())


def _layer(node: NodeProto) -> str:
    """The layer that ``node`` comes from ("layer1.0.conv1"), as the exporter wrote it down."""
    scopes = next((p.value for p in node.metadata_props if p.key == "pkg.torch.onnx.name_scopes"), "")
    try:
        names = ast.literal_eval(scopes) if scopes else []
    except (ValueError, SyntaxError):
        return ""
    return next((str(name) for name in reversed(names[:-1]) if name), str(names[-1])) if names else ""


def _drop_defaults(node: NodeProto, model: ModelProto) -> None:
    version = next((item.version for item in model.opset_import if item.domain == node.domain), None)
    if version is None or not onnx.defs.has(node.op_type, node.domain):
        return
    schema = onnx.defs.get_schema(node.op_type, version, node.domain)
    for item in list(node.attribute):
        known = schema.attributes.get(item.name)
        if known is not None and known.default_value.name and _same_value(known.default_value, item):
            node.attribute.remove(item)


def _same_value(left: onnx.AttributeProto, right: onnx.AttributeProto) -> bool:
    return left.type == right.type and bool(
        onnx.helper.get_attribute_value(left) == onnx.helper.get_attribute_value(right)
    )


def _short_names(taken: set[str]) -> Iterable[str]:
    digits = "0123456789abcdefghijklmnopqrstuvwxyz"
    number = 0
    while True:
        rest, name = number, ""
        while True:
            rest, digit = divmod(rest, 36)
            name = digits[digit] + name
            if not rest:
                break
        number += 1
        if name not in taken:
            yield name


def store(graph: GraphProto, name: str, array: NDArray[np.generic]) -> str:
    """Store ``array`` in the graph; returns its name."""
    graph.initializer.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
    return name
