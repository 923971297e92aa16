"""What a field of a configuration is to people who type it: words, a number, a part, a configuration of its own."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from ...core.parts import Kind, Part, kind_of


def parts_in(field: FieldInfo) -> Kind[Any] | None:
    """The kind of parts that a field is one of, or a list of."""
    inner = [item for each in _alternatives(field.annotation) for item in (get_args(each) or ())]
    return kind_of((*field.metadata, *(note for item in inner for note in getattr(item, "__metadata__", ()))))


def configuration_in(field: FieldInfo) -> type[BaseModel] | None:
    """The configuration that a field is, or may be; None for a plain setting."""
    return next((each for each in _alternatives(field.annotation) if _is_configuration(each)), None)


def standard(field: FieldInfo) -> BaseModel | None:
    """The configuration inside another one as it is where it is asked for and nothing in it is set."""
    if isinstance(field.default, BaseModel):
        return field.default
    kind = configuration_in(field)
    annotation: Any = Annotated[(kind, *field.metadata)] if field.metadata else kind
    try:
        made: object = TypeAdapter(annotation).validate_python({})
    except ValidationError:
        return None  # it has settings that must be given
    return made if isinstance(made, BaseModel) else None


def _is_configuration(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    """The types that a value may have, None apart."""
    if get_origin(annotation) is Annotated:
        return _alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(part for each in get_args(annotation) for part in _alternatives(each))
    return () if annotation is type(None) else (annotation,)


def shape_of(annotation: Any) -> tuple[str, list[str]]:
    """How a value is typed, and the words that it is one of, if it is one of some."""
    parts = _alternatives(annotation)
    if parts and all(get_origin(part) is Literal for part in parts):
        return "choice", [word for part in parts for word in get_args(part)]
    if len(parts) != 1:
        number = next((word for kind, word in ((int, "int"), (float, "float")) if kind in parts), None)
        return f"{number} or text" if number else "text", []
    origin, inner = get_origin(parts[0]), get_args(parts[0])
    if origin is tuple:
        shape, choices = shape_of(inner[0])
        return f"list of {shape}", choices
    if origin is dict:
        return "mapping", []
    return {bool: "flag", int: "int", float: "float", Path: "path"}.get(parts[0], "text"), []


def in_words(default: Any, unit: str | None) -> str:
    """A default in words; empty where there is none to tell."""
    if default is None or default is PydanticUndefined or isinstance(default, (bool, dict)):
        return ""
    if isinstance(default, Part):
        return str(default.model_dump())
    if isinstance(default, tuple):
        return ",".join(in_words(each, None) for each in default)
    text = f"{default:g}" if isinstance(default, float) else str(default)
    return f"{text} {unit}" if unit else text
