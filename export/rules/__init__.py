"""Whether an ONNX file keeps to what an engine can run in integers.

The rules of a target are in the file ``rules.py`` of the folder of its format; here are those that several share, and
what reads a file for them.
"""

from __future__ import annotations

from pathlib import Path

from compress.errors import GateFailed
from compress.integers.target import target_named

from ..format import rules_of
from ..onnx.contents import load_model
from .view import View
from .violation import Violation, grouped

__all__ = ["Violation", "check", "grouped", "require", "rules_of"]


def check(path: str | Path, target: str) -> tuple[Violation, ...]:
    """Every tensor and node of the file ``path``, whoever wrote it, that breaks a rule of ``target``; () if none does.

    Nodes inside of loops and branches are not looked at. Targets whose files are not made of ONNX have no rules.

    Args:
        target: by name ("ort-x86", "tensorrt").

    Raises:
        InvalidInput: there is no such target, no such file, or it is not a whole ONNX model.
    """
    known = target_named(target)
    view = View(load_model(path))
    return tuple(violation for rule in rules_of(known.name) for violation in rule(view))


def require(path: str | Path, target: str, written: Path) -> tuple[str, ...]:
    """What makes the file ``path`` slower in the engine of ``target`` than it could be, in a few lines.

    Args:
        written: the file that is made of it, for messages.

    Raises:
        GateFailed: the engine would refuse it, or compute something else.
    """
    violations = check(path, target)
    broken = [str(violation) for violation in violations if violation.effect != "slow"]
    if broken:
        raise GateFailed(f"export {written}: {len(broken)} tensors break rules of {target}: {'; '.join(broken)}")
    return grouped(violations)
