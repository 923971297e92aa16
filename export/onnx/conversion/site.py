"""Marks in a traced program that survive the way to ONNX, so that a tensor of the trace is found again in the file.

The exporter to ONNX decomposes operations and renames values. A mark is an operation of our own that does nothing: it
is put behind a node of the trace, comes out as a ``Site`` node of the domain ``edgepress``, and is replaced there.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx
import onnxscript
import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.fx import Node

DOMAIN = "edgepress"


@torch.library.custom_op("edgepress::site", mutates_args=())
def site(x: Tensor, name: str) -> Tensor:
    """``x`` again, marked with ``name``."""
    assert name
    return x.clone()


@site.register_fake
def _(x: Tensor, name: str) -> Tensor:
    assert name
    return torch.empty_like(x)


OPERATION: OpOverload = torch.ops.edgepress.site.default


def mark_value(program: ExportedProgram, node: Node, name: str) -> None:
    """Mark what ``node`` yields: everything that reads it, the program's result included, reads the mark."""
    behind = node
    while behind.next.op == "placeholder":  # parameters and inputs come first
        behind = behind.next
    with program.graph.inserting_after(behind):
        marked = _mark(program, node, name)
    node.replace_all_uses_with(marked, delete_user_cb=lambda user: user is not marked)
    for spec in program.graph_signature.output_specs:
        if spec.arg.name == node.name:
            spec.arg.name = marked.name


def mark_argument(program: ExportedProgram, node: Node, argument: Node, name: str) -> None:
    """Mark ``argument`` as ``node`` reads it; other readers are left alone."""
    with program.graph.inserting_before(node):
        node.replace_input_with(argument, _mark(program, argument, name))


def _mark(program: ExportedProgram, node: Node, name: str) -> Node:
    marked: Node = program.graph.call_function(OPERATION, (node, name))
    marked.meta = dict(node.meta)
    return marked


def translations() -> dict[Callable[..., object], Callable[..., object]]:
    """How ``torch.onnx.export`` writes a mark, as its ``custom_translation_table``."""
    if not onnx.defs.has("Site", DOMAIN):
        schema = onnx.defs.OpSchema
        onnx.defs.register_schema(
            schema(
                "Site",
                DOMAIN,
                1,
                inputs=[schema.FormalParameter("x", "T")],
                outputs=[schema.FormalParameter("y", "T")],
                type_constraints=[("T", ["tensor(float)"], "")],
                attributes=[schema.Attribute("name", schema.AttrType.STRING, "what is marked")],
            )
        )
    domain = onnxscript.values.Opset(DOMAIN, 1)

    def write(x: object, name: str) -> object:
        return domain.Site(x, name=name)

    return {OPERATION: write}
