"""A network's graph rewritten into what ExecuTorch's lowering to XNNPACK takes over whole.

The lowering knows patterns: dequantize, operation, perhaps a clip, quantize. What means the same and is written
otherwise would be left to slow portable kernels, or would run in floats between two conversions. Every rewrite here
computes what was there: https://docs.pytorch.org/executorch/stable/backends/xnnpack/xnnpack-quantization.html.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from compress.integers.placement import clip_bounds

from ..decomposed import operations

aten = torch.ops.aten
Call = Any
"""A node whose arguments are those of its operation."""

NOTHING = frozenset(
    {
        aten.dropout.default,
        aten.feature_dropout.default,
        aten.alias.default,
        aten.detach.default,
        aten.clone.default,
        aten.lift_fresh_copy.default,
    }
)
SPLITS = frozenset(
    {
        aten.chunk.default,
        aten.split.Tensor,
        aten.split_with_sizes.default,
    }
)
CONVOLUTIONS = frozenset(
    {
        aten.conv1d.default,
        aten.conv1d.padding,
        aten.conv2d.default,
        aten.conv2d.padding,
        aten.conv_transpose2d.input,
    }
)
ARITHMETIC = frozenset({aten.add.Tensor, aten.mul.Tensor})
QUANTIZE = operations.quantize_per_tensor.default
DEQUANTIZE = operations.dequantize_per_tensor.default
DEQUANTIZE_CHANNELS = operations.dequantize_per_channel.default
LEAST_SCALE = float(torch.finfo(torch.float32).tiny)


def rewrite(module: GraphModule) -> tuple[str, ...]:
    """Rewrite ``module``, a functional graph whose constants are attributes, in place; notes of what lost its integers.

    Linear layers whose result stays in float read their integers rounded anew while running, row by row: XNNPACK has no
    other product of integers that yields floats.
    """
    for step in (
        _drop_nothing,
        _fold_constants,
        _slice_splits,
        _shift_biases,
        _keep_pooled_dimensions,
        _name_clips,
        _quantize_numbers,
        _requantize_concatenations,
        _dequantize_for_each_reader,
    ):
        step(module)
        module.graph.eliminate_dead_code()
    notes = _settle_products(module)
    module.graph.eliminate_dead_code()
    module.graph.lint()
    module.recompile()
    return notes


def calls(module: GraphModule, targets: Iterable[object]) -> list[Call]:
    """The nodes that call one of ``targets``, in order."""
    wanted = frozenset(targets)
    return [node for node in module.graph.nodes if node.op == "call_function" and node.target in wanted]


def value_of(module: GraphModule, node: Call) -> Tensor:
    """The constant that the attribute node ``node`` reads."""
    value: Any = module
    for name in str(node.target).split("."):
        value = getattr(value, name)
    assert isinstance(value, Tensor)
    return value.detach()


def _constant(module: GraphModule, node: Call, value: Tensor) -> Call:
    """An attribute node of a new constant, in front of ``node``."""
    name = f"{node.name}_constant"
    while hasattr(module, name):
        name += "_"
    module.register_buffer(name, value.contiguous())
    with module.graph.inserting_before(node):
        made = module.graph.get_attr(name)
    made.meta["val"] = value
    return made


def _call(module: GraphModule, after: Call, target: Callable[..., object], *args: Any) -> Call:
    """A call behind ``after``, from the same line of source."""
    with module.graph.inserting_after(after):
        made = module.graph.call_function(target, args)
    made.meta = {key: value for key, value in after.meta.items() if key != "val"}
    return made


def _node(item: object) -> Call:
    """``item`` if it is a node, else None."""
    return item if isinstance(item, Node) else None


def _dims(node: Call) -> tuple[Any, ...]:
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def _only_user(node: Call) -> Call | None:
    users = list(node.users)
    return users[0] if len(users) == 1 and users[0].op == "call_function" else None


def _quantizer(node: Call) -> Call | None:
    """The quantize operation that alone reads ``node``."""
    user = _only_user(node)
    return user if user is not None and user.target is QUANTIZE else None


def _drop_nothing(module: GraphModule) -> None:
    for node in calls(module, NOTHING):
        source = node.args[0]
        if source.op != "placeholder" and not (node.target is aten.clone.default and node.kwargs):
            node.replace_all_uses_with(source)


def _fold_constants(module: GraphModule) -> None:
    """Compute what depends on constants alone, but for weights that are to be read as integers."""
    node: Call
    for node in list(module.graph.nodes):
        read = node.all_input_nodes
        if node.op != "call_function" or not read or node.target in (DEQUANTIZE, DEQUANTIZE_CHANNELS):
            continue
        if all(each.op == "get_attr" for each in read):
            args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda each: value_of(module, each))
            with torch.no_grad():
                value = node.target(*args, **kwargs)
            if isinstance(value, Tensor):
                node.replace_all_uses_with(_constant(module, node, value))


def _slice_splits(module: GraphModule) -> None:
    for node in calls(module, SPLITS):
        dim = node.args[2] if len(node.args) > 2 else node.kwargs.get("dim", 0)
        sizes = [part.shape[dim] for part in node.meta["val"]]
        if not all(isinstance(size, int) for size in sizes):
            continue
        for part in list(node.users):
            if part.target is operator.getitem:
                start = sum(sizes[: part.args[1]])
                made = _call(module, node, aten.slice.Tensor, node.args[0], dim, start, start + sizes[part.args[1]])
                made.meta["val"] = part.meta["val"]
                part.replace_all_uses_with(made)


def _shift_biases(module: GraphModule) -> None:
    """A number added to a product alone joins its bias."""
    for node in calls(module, {aten.add.Tensor}):
        product, number = _node(node.args[0]), node.args[1]
        if product is None or isinstance(number, Node) or node.kwargs.get("alpha", 1) != 1:
            continue
        if product.target not in CONVOLUTIONS | {aten.linear.default} or _only_user(product) != node:
            continue
        bias = product.args[2] if len(product.args) > 2 else None
        if bias is not None and bias.op != "get_attr":
            continue
        channels = _dims(product)[-1 if product.target is aten.linear.default else 1]
        old = torch.zeros(channels) if bias is None else value_of(module, bias)
        made = _constant(module, product, old + number)
        product.args = (*product.args[:2], made, *product.args[3:])
        node.replace_all_uses_with(product)


def _keep_pooled_dimensions(module: GraphModule) -> None:
    """Averages over space keep their dimensions, and are flattened then: with them, XNNPACK knows a global pooling."""
    for node in calls(module, {aten.adaptive_avg_pool2d.default}):
        sizes = node.args[1] if isinstance(node.args[1], (tuple, list)) else (node.args[1],)
        if all(size == 1 for size in sizes) and len(_dims(node)) == 4:
            node.target, node.args = aten.mean.dim, (node.args[0], [-1, -2], True)
    for node in calls(module, {aten.mean.dim}):
        read = _dims(node.args[0])
        keeps = node.args[2] if len(node.args) > 2 else node.kwargs.get("keepdim", False)
        if keeps or len(read) != 4 or {int(dim) % 4 for dim in node.args[1] or ()} != {2, 3}:
            continue
        quantize = _quantizer(node)
        node.args, node.kwargs = (node.args[0], [-1, -2], True), {}
        last = node
        if quantize is not None:
            last = _call(module, last, QUANTIZE, last, *quantize.args[1:])
            last = _call(module, last, DEQUANTIZE, last, *quantize.args[1:])
        flat = _call(module, last, aten.view.default, last, [-1, read[1]])
        flat.meta["val"] = node.meta["val"]
        inside = (flat, last, *((last.args[0],) if quantize is not None else ()))
        node.replace_all_uses_with(flat, delete_user_cb=lambda user, inside=inside: user not in inside)
        node.meta["val"] = node.meta["val"].unsqueeze(-1).unsqueeze(-1)


def _name_clips(module: GraphModule) -> None:
    """Clips as the two that XNNPACK joins to the operation before; none where rounding clips as far by itself."""
    node: Call
    for node in list(module.graph.nodes):
        bounds = clip_bounds(node) if node.op == "call_function" else None
        if bounds is None:
            continue
        low, high = bounds
        quantize = _quantizer(node)
        if quantize is not None:
            scale, zero, least, most = quantize.args[1:5]
            if low <= (least - zero + 0.5) * scale and high >= (most - zero - 0.5) * scale:
                node.replace_all_uses_with(node.args[0])
                continue
        rest: tuple[float, ...] = () if high == float("inf") else (low, high)
        node.target = aten.hardtanh.default if rest else aten.relu.default
        node.args, node.kwargs = (node.args[0], *rest), {}


def _quantize_numbers(module: GraphModule) -> None:
    """Numbers that integers are shifted or scaled by become integers, exactly; a scaled value gets its own scale."""
    for node in calls(module, ARITHMETIC):
        read, number = _node(node.args[0]), node.args[1]
        if read is None or read.target is not DEQUANTIZE or not isinstance(number, (int, float)):
            continue
        if number == 0 or node.kwargs:
            continue
        step = abs(float(number)) / 127
        integers = torch.full((1,) * max(len(_dims(node)), 1), 127 if number > 0 else -127, dtype=torch.int8)
        settings = (step, 0, -127, 127, torch.int8)
        constant = _constant(module, node, integers)
        with module.graph.inserting_before(node):
            real = module.graph.call_function(DEQUANTIZE, (constant, *settings))
        scale, zero, *bounds = read.args[1:]
        if node.target is aten.mul.Tensor and number > 0 and _quantizer(node) is None:
            scaled = (max(scale * number, LEAST_SCALE), zero, *bounds)
            integer = _call(module, node, QUANTIZE, node, *scaled)
            again = _call(module, integer, DEQUANTIZE, integer, *scaled)
            node.replace_all_uses_with(again, delete_user_cb=lambda user, made=integer: user is not made)
        node.args = (read, real)


def _requantize_concatenations(module: GraphModule) -> None:
    """What is joined has the scale of the whole: XNNPACK copies integers."""
    for node in calls(module, {aten.cat.default}):
        quantize = _quantizer(node)
        parts = node.args[0]
        if quantize is None or not all(part.target is DEQUANTIZE for part in parts):
            continue
        settings = quantize.args[1:]
        joined = []
        for part in parts:
            last = part
            if part.args[1:] != settings:
                last = _call(module, last, QUANTIZE, last, *settings)
                last = _call(module, last, DEQUANTIZE, last, *settings)
                last.meta["val"] = part.meta.get("val")
            joined.append(last)
        node.args = (joined, *node.args[1:])


def _dequantize_for_each_reader(module: GraphModule) -> None:
    for node in calls(module, {DEQUANTIZE}):
        for user in list(node.users)[1:]:
            with module.graph.inserting_before(user):
                own = module.graph.call_function(DEQUANTIZE, node.args)
            own.meta = dict(node.meta)
            user.replace_input_with(node, own)


def _settle_products(module: GraphModule) -> tuple[str, ...]:
    """Give each product with an integer weight a form that XNNPACK has."""
    restored: list[str] = []
    rounded: list[str] = []
    for node in calls(module, CONVOLUTIONS | {aten.linear.default}):
        weight = node.args[1]
        if weight.target is not DEQUANTIZE_CHANNELS:
            continue
        bounds, integers = weight.args[4:6], value_of(module, weight.args[0])
        four_bits = bounds[0] >= -8 and bounds[1] <= 7
        if node.args[0].target is DEQUANTIZE and _ends_in_integers(node) and not four_bits:
            continue
        if node.target is aten.linear.default:
            if four_bits:
                weight.args = (*weight.args[:4], -8, 7, *weight.args[6:])
            if not _reads_integers(node):
                rounded.append(node.name)
            _quantize_while_running(module, node)
            continue
        restored.append(node.name)
        scale = value_of(module, weight.args[1]).reshape(-1, *[1] * (integers.ndim - 1))
        node.replace_input_with(weight, _constant(module, node, integers.float() * scale))
    lines = []
    if restored:
        lines.append(
            f"stored in float32, XNNPACK has no convolution of float by integers: the weights of {_some(restored)}"
        )
    if rounded:
        lines.append(f"inputs are rounded to 8 bits while running, by row: {_some(rounded)}")
    return tuple(lines)


def _ends_in_integers(node: Call) -> bool:
    user = _only_user(node)
    if user is not None and user.target in (aten.relu.default, aten.hardtanh.default):
        user = _only_user(user)
    return user is not None and user.target is QUANTIZE


def _reads_integers(node: Call) -> bool:
    """Whether what ``node`` reads was rounded before, and at most reshaped since."""
    source = node.args[0]
    while source.target in (aten.flatten.using_ints, aten.view.default, aten.reshape.default):
        source = source.args[0]
    return source.target is DEQUANTIZE


def _quantize_while_running(module: GraphModule, node: Call) -> None:
    """Let ``node`` read its input in integers whose scale is found while running."""
    bounds = (-128, 127, torch.finfo(torch.float32).eps, torch.int8)
    with module.graph.inserting_before(node):
        chosen = module.graph.call_function(operations.choose_qparams.tensor, (node.args[0], *bounds))
        scale = module.graph.call_function(operator.getitem, (chosen, 0))
        zero = module.graph.call_function(operator.getitem, (chosen, 1))
        settings = (scale, zero, -128, 127, torch.int8)
        integers = module.graph.call_function(operations.quantize_per_tensor.tensor, (node.args[0], *settings))
        real = module.graph.call_function(operations.dequantize_per_tensor.tensor, (integers, *settings))
    node.args = (real, *node.args[1:])


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
