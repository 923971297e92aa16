"""The conversion by litert-torch, with its output kept off the console."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from operator import getitem
from pathlib import Path

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from compress.graph.trace import Graph

from ..quiet import quiet as quiet_python


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing is seen of what Python prints or logs, and of what native code writes to the console."""
    sys.stdout.flush()
    sys.stderr.flush()
    descriptors = {number: os.dup(number) for number in (1, 2)}
    with Path(os.devnull).open("w") as nowhere:
        for number in descriptors:
            os.dup2(nowhere.fileno(), number)
        try:
            with quiet_python():
                yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, copy in descriptors.items():
                os.dup2(copy, number)
                os.close(copy)


with quiet():
    import litert_torch
    from litert_torch.backend import lowerings
    from litert_torch.fx_infra import decomp
    from litert_torch.quantize import pt2e_quantizer, quant_config


_FALL_AWAY = frozenset({getitem, torch.ops.aten._assert_tensor_metadata.default})
"""What a trace holds and a file needs no operator for."""


def convert(module: GraphModule, inputs: tuple[Tensor, ...]) -> bytes:
    """The file that litert-torch makes of ``module``: integer operators where it quantizes and dequantizes."""
    quantizer = pt2e_quantizer.PT2EQuantizer().set_global(pt2e_quantizer.get_symmetric_quantization_config())
    with quiet(), torch.no_grad():
        model = litert_torch.convert(module.eval(), inputs, quant_config=quant_config.QuantConfig(quantizer))
        return bytes(model.model_content())


def refusal(error: Exception, graph: Graph) -> str:
    """Why a network could not be converted, in one line: the operation and the line of the user's code, if known."""
    culprit = _without_lowering(graph)
    if culprit is None:
        return f"litert-torch failed: {' '.join(str(error).split())[:300] or type(error).__name__}"
    name = str(culprit.target).removeprefix("aten.").split(".")[0]
    return f"LiteRT has no operator for {name} ({graph.source(culprit)}); write it otherwise, or export to onnx"


def _without_lowering(graph: Graph) -> Node | None:
    """The first operation, in its parts, that the converter does not know."""
    try:
        with quiet():
            parts = graph.program.run_decompositions(decomp.pre_lower_decomp())
    except Exception:  # noqa: BLE001 - whatever fails here, the conversion has failed before
        return None
    calls = (node for node in parts.graph.nodes if node.op == "call_function" and node.target not in _FALL_AWAY)
    return next((node for node in calls if lowerings.lookup(node.target) is None), None)
