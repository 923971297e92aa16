"""What a device sent is held to the types that it must have, before anything is made of it."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypedDict, TypeVar

T = TypeVar("T")

_LARGEST = 2**63


class Environment(TypedDict):
    """An environment that a device keeps."""

    requirements: list[str]


class Cache(TypedDict):
    """What a device says of the folder that it keeps files in."""

    folder: str
    bytes: int
    free_bytes: int
    environments: list[Environment]


class Facts(TypedDict):
    """What the first program on a device says of it, at least."""

    python: str
    machine: str
    libc: str
    venv: bool
    pip: bool
    time: float
    cache: Cache


def typed(value: T, hint: Any = None, where: str = "") -> T:
    """Return ``value``; numbers of it are finite, and whole ones have 64 bits.

    Args:
        hint: the type to hold it to; left out, that of a dataclass and of all its fields.
        where: in what the device sent.

    Raises:
        ValueError: it, or something in it, is of another type.
    """
    wanted = type(value) if hint is None else hint
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin is typing.Literal:
        _require(value in arguments, value, " or ".join(map(str, arguments)), where)
    elif origin in (types.UnionType, typing.Union):
        _any_of(value, arguments, where)
    elif origin in (tuple, list):
        _sequence(value, origin, arguments, where)
    elif origin in (dict, Mapping):
        _require(isinstance(value, dict), value, "a mapping", where)
        for key, item in typing.cast(dict[Any, Any], value).items():
            typed(key, arguments[0], where)
            typed(item, arguments[1], f"{where}.{str(key)[:40]}")
    elif typing.is_typeddict(wanted):
        _mapping(value, wanted, where)
    elif is_dataclass(wanted):
        _require(type(value) is wanted, value, str(wanted), where)
        hints = typing.get_type_hints(wanted)
        for each in fields(wanted):
            typed(getattr(value, each.name), hints[each.name], f"{where}.{each.name}")
    else:
        _plain(value, wanted, where)
    return value


def _any_of(value: Any, hints: tuple[Any, ...], where: str) -> None:
    """Hold a value to the one of several types that it is nearest to."""
    if value is None and type(None) in hints:
        return
    others = [hint for hint in hints if hint is not type(None)]
    for hint in others[:-1]:
        try:
            typed(value, hint, where)
            return
        except ValueError:
            continue
    typed(value, others[-1], where)


def _sequence(value: Any, kind: type, hints: tuple[Any, ...], where: str) -> None:
    _require(isinstance(value, kind), value, "a list", where)
    items = hints[:1] * len(value) if kind is list or hints[1:] == (...,) else hints
    _require(len(items) == len(value), value, f"{len(items)} values", where)
    for number, (item, hint) in enumerate(zip(value, items, strict=True)):
        typed(item, hint, f"{where}.{number}")


def _mapping(value: Any, wanted: Any, where: str) -> None:
    _require(isinstance(value, dict), value, "a mapping", where)
    for name, hint in typing.get_type_hints(wanted).items():
        typed(value.get(name), hint, f"{where}.{name}")


def _plain(value: Any, wanted: type, where: str) -> None:
    if wanted is float:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        _require(is_number and abs(value) < math.inf, value, "a number", where)
    elif wanted is int:
        whole = isinstance(value, int) and not isinstance(value, bool)
        _require(whole and abs(value) < _LARGEST, value, "a whole number", where)
    else:
        _require(isinstance(value, wanted), value, wanted.__name__, where)


def _require(holds: bool, value: object, expected: str, where: str) -> None:
    if not holds:
        raise ValueError(f"{where.lstrip('.') or 'it'}: expected {expected}, got {str(value)[:40]}")
