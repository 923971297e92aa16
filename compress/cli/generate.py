"""Write the files that follow from the settings of configurations: ``python -m compress.cli.generate``.

Options of the command line are read from a table, so that ``compress --help`` imports neither pydantic nor torch. A
test fails where a file is not what this would write.
"""

from __future__ import annotations

import json
import types
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from ..distill import Distill
from ..parts import Kind, Part, kind_of
from ..prune import Prune, RemoveBlocks
from ..prune.regularize import Regularize
from ..quantize import Quantize
from ..recipe import Benchmark, Export
from ..settings import flag_of, setting_of
from ..share import Share
from ..siblings import models
from ..sparsify import Sparsify
from ..stage import Config
from ..train import Training
from . import engine_pages, generated

ROOT = Path(__file__).resolve().parent.parent.parent

CONFIGURATIONS: Mapping[str, type[Config]] = {
    "train": Training,
    "export": Export,
    "bench": Benchmark,
    "regularize": Regularize,
    "prune": Prune,
    "remove_blocks": RemoveBlocks,
    "sparsify": Sparsify,
    "share": Share,
    "distill": Distill,
}
"""What commands set, by the name under which their options are asked for."""

LEFT_OUT = {"train": ("temperature", "teacher_weight")}
"""Settings that mean nothing to a command."""


def files() -> Mapping[Path, str]:
    """What each file is to hold."""
    return {generated.FILE: _json(options_table()), ROOT / "docs" / "reference" / "engines.md": engine_pages.page()}


def options_table() -> dict[str, Any]:
    """What the command line needs to know of configurations and networks."""
    settings = {
        name: [each for each in options_of(kind) if each["name"] not in LEFT_OUT.get(name, ())]
        for name, kind in CONFIGURATIONS.items()
    }
    for name, kind in (("quantize", Quantize),):
        settings[name] = list(options_of(kind, fields=("training",)))
    for name, entries in settings.items():
        flags = [flag for entry in entries for flag in entry["flags"]]
        twice = sorted({flag for flag in flags if flags.count(flag) > 1})
        assert not twice, f"{name}: several settings have the option {', '.join(twice)}"
    return {"zoo": list(models.names()), "settings": settings}


def options_of(
    kind: type[BaseModel],
    place: str = "",
    made: BaseModel | None = None,
    switch: str | None = None,
    fields: Iterable[str] | None = None,
) -> Iterator[dict[str, Any]]:
    """The options of a configuration, those of configurations inside it among them.

    Args:
        place: of a configuration inside another one, with a dot at its end.
        made: such a configuration as it is where nothing is set.
        switch: the setting that must be given for it to be made.
        fields: those alone.
    """
    for name, field in kind.model_fields.items() if fields is None else ((f, kind.model_fields[f]) for f in fields):
        inner = configuration_in(field)
        parts = parts_in(field)
        if parts is not None:
            yield _option(kind, name, field, place, field.default, switch)
            yield from _of_parts(parts, f"{place}{name}.", getattr(kind, "HEADING", ""), setting_of(field).group)
        elif inner is not None:
            default = standard(field)
            optional = field.default is None
            switches = [f"{place}{name}.{each}" for each, f in inner.model_fields.items() if setting_of(f).switch]
            yield from options_of(inner, f"{place}{name}.", default, switches[0] if optional and switches else None)
        elif not setting_of(field).hidden:
            default = getattr(made, name) if made is not None else field.get_default(call_default_factory=True)
            yield _option(kind, name, field, place, default, switch)


def _of_parts(parts: Kind[Any], place: str, heading: str, group: str) -> Iterator[dict[str, Any]]:
    """The settings of a field's parts that have options of their own: those that say which."""
    seen: set[str] = set()
    for part in (parts.base, *map(parts.part, parts.names)):
        for name, field in part.model_fields.items():
            if setting_of(field).flag is not None and name not in seen:
                seen.add(name)
                entry = _option(part, name, field, place, None if part is not parts.base else field.default, None)
                yield {**entry, "group": group or heading, "part": place.rstrip(".")}


def _option(
    kind: type[BaseModel], name: str, field: FieldInfo, place: str, default: Any, switch: str | None
) -> dict[str, Any]:
    """One option, in plain values; what is empty is left out."""
    own = setting_of(field)
    parts = parts_in(field)
    shape, choices = _shape(field.annotation) if parts is None else ("part", [])
    assert field.description, f"{kind.__name__}.{name}: it has no description"
    flags = [own.short, flag_of(kind, name)]
    is_switch = switch == f"{place}{name}"
    entry: dict[str, Any] = {
        "name": f"{place}{name}",
        "flags": [flag for flag in flags if flag],
        "off": own.off or (f"--no-{name.replace('_', '-')}" if shape == "flag" and default is not False else None),
        "type": shape,
        "choices": own.choices or choices,
        "default": "" if is_switch else in_words(default, own.unit),
        "help": field.description,
        "group": own.group or getattr(kind, "HEADING", ""),
        "common": own.common,
        "metavar": own.metavar,
        "switch": switch,
        "parts": parts.package.partition(".")[2].replace(".", "/") if parts is not None else None,
    }
    return {key: value for key, value in entry.items() if value}


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


def _shape(annotation: Any) -> tuple[str, list[str]]:
    """How a value is typed, and the words that it is one of, if it is one of some."""
    parts = _alternatives(annotation)
    if parts and all(get_origin(part) is Literal for part in parts):
        return "choice", [word for part in parts for word in get_args(part)]
    if len(parts) != 1:
        number = next((word for kind, word in ((int, "int"), (float, "float")) if kind in parts), None)
        return f"{number} or text" if number else "text", []
    origin, inner = get_origin(parts[0]), get_args(parts[0])
    if origin is tuple:
        shape, choices = _shape(inner[0])
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


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Write every file that is stale, and tell which."""
    for path, text in files().items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(f"written: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
