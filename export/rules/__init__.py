"""Whether an ONNX file keeps to what an engine can run in integers: a table of rules per target.

>>> sorted(RULES)[:3]
['litert', 'ncnn', 'openvino']
"""

from __future__ import annotations

from pathlib import Path

from compress.quantize.flavour import flavour_named

from ..onnx_graph.contents import load_model
from .engines import RULES
from .view import View
from .violation import Violation, grouped

__all__ = ["RULES", "Violation", "check", "grouped"]


def check(path: str | Path, target: str) -> tuple[Violation, ...]:
    """Every tensor and node of the file ``path``, whoever wrote it, that breaks a rule of ``target``; () if none does.

    Nodes inside of loops and branches are not looked at.

    Args:
        target: the name of a flavour ("ort-x86", "tensorrt").

    Raises:
        InvalidInput: there is no such target, no such file, or it is not a whole ONNX model.
    """
    flavour = flavour_named(target)
    view = View(load_model(path))
    return tuple(violation for rule in RULES[flavour.name] for violation in rule(view))
