"""Rules about nodes: which operations an engine will run in integers, and which it will not take at all."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import NodeProto

from .tensors import Rule
from .view import CARRIES, View, limits
from .violation import Violation

PRODUCTS = ("Conv", "Gemm", "MatMul")
JOINS = ("Add", "Mul", "Concat", "GlobalAveragePool", "AveragePool")
CLIPS = ("Relu", "Clip")
INTEGER_OPERATORS = (
    *("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"),
    "DynamicQuantizeLinear",
)


def opset_between(least: int, most: int) -> Rule:
    """The file's opset is one that the engine reads."""

    def rule(view: View) -> Iterator[Violation]:
        if not least <= view.opset <= most:
            yield Violation("(file)", "opset", "opset", str(view.opset), f"{least} to {most}", "refused")

    return rule


def no_integer_operators(view: View) -> Iterator[Violation]:
    """Integers are written as QuantizeLinear and DequantizeLinear around operations in float."""
    for node in view.graph.node:
        if node.op_type in INTEGER_OPERATORS or node.domain not in ("", "ai.onnx"):
            written = "QuantizeLinear and DequantizeLinear around a standard operation"
            yield Violation(
                node.output[0], view.name(node), "operation", f"{node.domain}:{node.op_type}", written, "refused"
            )


def clipping_is_rounding(view: View) -> Iterator[Violation]:
    """A ReLU folds into QuantizeLinear where the least integer stands for 0."""
    for item in view.of("activation"):
        before = view.producers.get(item.node.input[0])
        if item.restores or before is None or before.op_type not in CLIPS or item.zero is None:
            continue
        least = limits(item.dtype)[0]
        if int(np.ravel(item.zero)[0]) != least:
            yield Violation(
                item.tensor, view.name(before), "zero point behind a ReLU", str(np.ravel(item.zero)[0]), str(least),
                "slow",
            )  # fmt: skip


def products_run_in_integers(view: View) -> Iterator[Violation]:
    """Inputs behind DequantizeLinear and a result in front of QuantizeLinear: else the node computes in float."""
    if not any(item.node.op_type == "QuantizeLinear" for item in view.quantized):
        return  # weights alone are stored in integers
    for node in view.graph.node:
        missing = _missing(view, node)
        if missing:
            yield Violation(node.output[0], view.name(node), "runs in float", missing, "Q and DQ on every side", "slow")


def sums_are_whole(view: View) -> Iterator[Violation]:
    """Both inputs of a residual sum are quantized, or none; likewise all of a concatenation."""
    for node in view.graph.node:
        operands = [name for name in node.input if not view.stored(name)]
        if node.op_type not in ("Add", "Concat") or len(operands) < 2:
            continue
        plain = [name for name in operands if view.restored(name, CARRIES) is None]
        if 0 < len(plain) < len(operands):
            rule = "residual sum" if node.op_type == "Add" else "concatenation"
            actual = "one input in float" if len(plain) == 1 else f"{len(plain)} inputs in float"
            expected = "both quantized" if node.op_type == "Add" else "all quantized"
            yield Violation(plain[0], view.name(node), rule, actual, expected, "slow")


def _missing(view: View, node: NodeProto) -> str:
    """What keeps ``node`` from running in integers, in words; "" if nothing does, or if nothing asks for it."""
    if node.op_type in PRODUCTS:
        read = [view.restored(name) for name in node.input[:2]]
        if read[0] is None or read[1] is None:
            return f"input {read.index(None)} without DequantizeLinear"
        bias = node.input[2] if len(node.input) > 2 else ""
        if bias and view.restored(bias) is None and not view.stored(bias):
            return "a computed bias"
        wide = next((item.dtype for item in read if item is not None and item.dtype in ("int16", "uint16")), None)
        if wide:
            return f"{wide}, of which there are no products"
        return "" if node.op_type != "Conv" or _rounded(view, node.output[0]) else "result without QuantizeLinear"
    if node.op_type not in JOINS:
        return ""
    inputs = node.input[:1] if node.op_type.endswith("Pool") else node.input
    read = [view.restored(name) for name in inputs]
    if not any(item is not None and item.role == "activation" for item in read):
        return ""
    if None in read:
        return f"input {read.index(None)} without DequantizeLinear"
    return "" if _rounded(view, node.output[0]) else "result without QuantizeLinear"


def _rounded(view: View, value: str) -> bool:
    """Whether all that reads ``value``, perhaps clipped, is one QuantizeLinear."""
    following = view.readers.get(value, [])
    if len(following) != 1 or value in view.returned:
        return False
    reader = following[0]
    return bool(reader.op_type == "QuantizeLinear" or (reader.op_type in CLIPS and _rounded(view, reader.output[0])))
