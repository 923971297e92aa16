"""YAML as recipes are written: plain values, each said once; what makes a line stand for something else is refused.

Aliases and merge keys can make a kilobyte unfold to gigabytes, and of two equal keys the first is lost in silence.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable
from typing import Any

import yaml

from ..errors import InvalidInput

DEEPEST = 32
"""Lists and mappings in one another."""


def parse(text: str, where: str, *, numbered: bool = False) -> Any:
    """The value that ``text`` from ``where`` ("recipe r.yaml") is.

    >>> parse("prune: {macs: 4}", "recipe")
    {'prune': {'macs': 4}}

    Args:
        numbered: keys may be whole numbers, too.

    Raises:
        InvalidInput: not YAML, a key is given twice or is no text, there is an alias or a merge key, it is nested too
            deep, or a number is not finite; the message has the line.
    """
    try:
        return yaml.load(text, _Numbered if numbered else _Loader)  # a safe loader, and a stricter one
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
        reason = " ".join(f"{error.context or ''} {error.problem or ''}".split())
        message = reason if isinstance(error, _Refused) else f"not YAML: {reason}"
        raise InvalidInput(f"{where}: {place}{message}") from error
    except MemoryError:
        raise
    except Exception as error:  # what text can be taken for a number or a date, and is none, fails in many ways
        raise InvalidInput(f"{where}: not YAML: {' '.join(str(error).split())[:200]}") from error


class _Refused(yaml.constructor.ConstructorError):
    """YAML that is not read here."""

    def __init__(self, reason: str, mark: Any) -> None:
        super().__init__(None, None, reason, mark)


class _Loader(yaml.SafeLoader):
    depth = 0
    keys: frozenset[str] = frozenset({"tag:yaml.org,2002:str"})

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            raise _Refused(f"the alias *{event.anchor} is not followed; write the value out", event.start_mark)
        if self.depth == DEEPEST:
            raise _Refused(f"more than {DEEPEST} lists and mappings in one another", event.start_mark)
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[object] = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                raise _Refused("the merge key << is not followed; write the values out", key.start_mark)
            if key.tag not in self.keys:
                shown = key.value if isinstance(key, yaml.ScalarNode) else "a list or mapping"
                raise _Refused(f"the key {shown[:40]} is no text; put it in quotes if it is meant", key.start_mark)
            if key.value in seen:
                raise _Refused(f"the key {key.value[:40]} is given twice in one mapping", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if ":" in node.value or re.match(r"[-+]?0[0-9_]", node.value):
            base = 60 if ":" in node.value else 8
            raise _Refused(f"{node.value[:40]} is a number in base {base}; write it in base 10", node.start_mark)
        return super().construct_yaml_int(node)

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        if ":" in node.value:
            raise _Refused(f"{node.value[:40]} is a number in base 60; write it in base 10", node.start_mark)
        value = super().construct_yaml_float(node)
        if not math.isfinite(value):
            raise _Refused(f"expected a number that is finite, got {node.value[:40]}", node.start_mark)
        return value


_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


class _Numbered(_Loader):
    keys = _Loader.keys | {"tag:yaml.org,2002:int"}
