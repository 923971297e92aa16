"""What was stored as a mapping of plain values, as the fields of the dataclass that it is of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from .errors import InvalidInputs


def stored_fields(kind: type[Any], stored: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Return the fields of ``kind`` that are in ``stored``, lists as tuples; what is not known here is left out.

    Raises:
        InvalidInputs: a field without a default is missing; ``what`` says of what.
    """
    facts: dict[str, Any] = {}
    for each in fields(kind):
        if each.name in stored:
            value = stored[each.name]
            facts[each.name] = tuple(value) if isinstance(value, list) else value
        elif each.default is MISSING and each.default_factory is MISSING:
            raise InvalidInputs(f"{what}: the field {each.name!r} is missing; measure again")
    return facts
