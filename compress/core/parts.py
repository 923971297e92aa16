"""Parts of stages: criteria, selections, repairs, recovery methods and losses, each a file of the folder of its kind.

A part is a small frozen configuration with one verb, and its name is that of its file: ``criteria/taylor.py`` is the
criterion ``taylor``. Nothing else lists it: the folder is read, and the file is imported where the part is asked for.
A file whose name would be a keyword of Python ends with an underscore (``global_.py``), which its name does not have.

A part is written as its name, or as a mapping from its name to its settings; a value that is no mapping is that of its
first setting. So ``taylor``, ``{taylor: {batches: 8}}`` and ``{smooth: 0.5}`` are parts, in recipes and in Python
alike, and so is an object of the part's class. On a command line ``smooth=0.5`` is the last of them, and settings may
follow the name behind colons: ``adaround:iterations=500``. A name may be written with dashes in the place of its
underscores.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args

from pydantic import (
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    ValidationError,
    model_serializer,
)
from pydantic_core import CoreSchema, core_schema

from ..errors import InvalidInput
from ..files import strict_yaml
from ..siblings import runtimes
from .complaint import first_complaint
from .config import Config
from .part_files import InvalidPart, part_files


class Part(Config):
    """One of its kind, with its settings; a subclass is what a file of the kind's folder defines."""

    @property
    def name(self) -> str:
        """The name of its file."""
        return type(self).__module__.rpartition(".")[2].removesuffix("_")

    @model_serializer(mode="wrap")
    def _written(self, settings: SerializerFunctionWrapHandler) -> Any:
        """The part as recipes have it: its name where all settings are the defaults, and else every setting."""
        fields = type(self).model_fields.items()
        usual = all(getattr(self, key) == field.get_default(call_default_factory=True) for key, field in fields)
        return self.name if usual else {self.name: settings(self)}


P = TypeVar("P", bound=Part)


@dataclass(frozen=True)
class Kind(Generic[P]):
    """A kind of parts; as an annotation of a field, what makes a part of a name or a mapping.

    Args:
        word: what one of them is called in messages.
        package: whose folder holds them, one file each; files below that folder are no parts.
        base: the class of all of them.
        of_user: makes a part, with settings, of a function of the user's or of what names one (``file.py:function``).
        verb: the method that every part defines, if there is one.
        entries: the setting, a mapping, whose entries are what is typed behind colons and is no setting:
            ``hint:layer1=layer2:weight=2``.
    """

    word: str
    package: str
    base: type[P]
    of_user: Callable[[object, Mapping[str, Any]], P] | None = None
    verb: str | None = None
    entries: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all parts, sorted; no part is imported."""
        return tuple(self._files)

    @property
    def _files(self) -> dict[str, Path]:
        return part_files(map(Path, import_module(self.package).__path__))

    def search(self, folder: str) -> None:
        """Find parts in another folder too."""
        import_module(self.package).__path__.append(folder)

    def part(self, name: str) -> type[P]:
        """The class of the part called ``name``.

        Raises:
            ValueError: there is no such part; `InvalidPart` where its file is no Python or does not define one.
        """
        name = name.replace("-", "_")
        if name not in self._files:
            own = ", or file.py:function of your own" if self.of_user is not None else ""
            raise ValueError(f"expected one of {', '.join(self.names)}{own}, got {name!r:.60}")
        file = self._files[name]
        try:
            module = import_module(f"{self.package}.{file.stem}")
        except Exception as error:
            raise InvalidPart(runtimes.errors.fault(file, error)) from error
        defined = [value for value in vars(module).values() if isinstance(value, type)]
        parts = [kind for kind in defined if issubclass(kind, self.base) and kind.__module__ == module.__name__]
        if len(parts) != 1:
            raise InvalidPart(f"{file}: expected one subclass of {self.base.__name__}, got {len(parts)}")
        self._require_complete(parts[0], file)
        return parts[0]

    def _require_complete(self, part: type[P], file: Path) -> None:
        """Raise InvalidPart where a part lacks its verb, a fact, or a description of a setting."""
        verb = self.verb
        if verb is not None and getattr(part, verb) is getattr(self.base, verb):
            raise InvalidPart(f"{file}: {part.__name__} does not define {verb}, which every {self.word} does")
        mute = next((name for name, field in part.model_fields.items() if not field.description), None)
        if mute is not None:
            raise InvalidPart(f"{file}: {part.__name__}.{mute}: expected a description; write it as setting(...)")
        for name, hint in inspect.get_annotations(self.base, eval_str=True).items():
            inner = get_args(hint)
            if not str(hint).startswith("typing.ClassVar") or not inner:
                continue
            if not hasattr(part, name):
                raise InvalidPart(f"{file}: {part.__name__} does not state {name}, which every {self.word} does")
            try:
                TypeAdapter(inner[0]).validate_python(getattr(part, name), strict=True)
            except ValidationError as error:
                raise InvalidPart(f"{file}: {part.__name__}.{name}: {first_complaint(error).message}") from error

    def read(self, value: object) -> P:
        """The part that ``value`` is, names or describes.

        Raises:
            ValueError: it is none; the message says what was expected.
        """
        if isinstance(value, self.base):
            return value
        if isinstance(value, str):
            value = self._typed(value)
        if isinstance(value, Mapping):
            if len(value) != 1:
                raise ValueError(f"expected one {self.word} with its settings, as {{name: {{...}}}}, got {len(value)}")
            named, settings = next(iter(value.items()))
            return self._made(named, {} if settings is None else settings)
        return self._made(value, {})

    def _typed(self, text: str) -> object:
        """What was typed: a mapping in braces, a name with the value of its first setting, with settings, or alone."""
        name, separator, value = text.partition("=")
        part, colon, settings = text.partition(":")
        try:
            if colon and part in self._files:
                return {part: self._settings(part, settings.split(":"))}
            if text.lstrip().startswith("{"):
                return strict_yaml.parse(text, self.word)
            if separator and ":" not in name:
                return {name: strict_yaml.parse(value, name)}
        except InvalidInput as error:
            raise ValueError(str(error)) from error
        return text

    def _settings(self, part: str, texts: Iterable[str]) -> dict[str, Any]:
        """What was typed behind the colons that follow a part's name."""
        fields = self.part(part).model_fields
        settings: dict[str, Any] = {}
        for text in texts:
            name, separator, value = text.partition("=")
            if separator and name in fields:
                settings[name] = strict_yaml.parse(value, f"{part}:{name}")
            elif name and self.entries in fields:
                settings.setdefault(self.entries, {})[name] = value or name
            else:
                raise ValueError(f"{part}: expected setting=value, of {', '.join(fields)}, got {text!r:.60}")
        return settings

    def _made(self, named: object, settings: object) -> P:
        if not isinstance(named, str) or ":" in named:
            if self.of_user is None:
                raise ValueError(f"expected one of {', '.join(self.names)}, got {named!r:.60}")
            return self.of_user(named, settings if isinstance(settings, Mapping) else {})
        kind = self.part(named)
        if not isinstance(settings, Mapping):
            if not kind.model_fields:
                raise ValueError(f"{named} has no settings, got {settings!r:.60}")
            settings = {next(iter(kind.model_fields)): settings}
        try:
            return kind(**{str(key): item for key, item in settings.items()})
        except ValidationError as error:
            raise ValueError(_first_line(named, error)) from error

    def with_settings(self, text: str, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        """The part that ``text`` says, with settings that were typed apart, as a mapping to be read.

        Raises:
            ValueError: ``text`` is none, or there is no such part.
        """
        value = self._typed(text)
        if not isinstance(value, Mapping):
            return {text: settings}
        ((name, inner),) = value.items()
        if not isinstance(inner, Mapping):
            inner = {} if inner is None else {next(iter(self.part(str(name)).model_fields), "value"): inner}
        return {str(name): {**inner, **settings}}

    def schema(self) -> dict[str, Any]:
        """The JSON schema of what may be written."""
        alone: list[dict[str, Any]] = [{"enum": list(self.names)}, {"type": "string", "pattern": "[:=]"}]
        mappings = []
        for name in self.names:
            kind = self.part(name)
            fields = kind.model_json_schema()
            inner: list[dict[str, Any]] = [fields, {"type": "null"}]
            if kind.model_fields:
                inner.append({"type": ["string", "number", "boolean"]})
            described = inspect.getdoc(kind) or ""
            mappings.append(
                {
                    "type": "object",
                    "properties": {name: {"anyOf": inner, "description": described.partition("\n\n")[0]}},
                    "required": [name],
                    "additionalProperties": False,
                }
            )
        if self.of_user is not None:
            mappings.append({"type": "object", "patternProperties": {":": {"type": "object"}}})
        return {"anyOf": [*alone, *mappings]}

    def __get_pydantic_core_schema__(self, _: Any, __: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self.read, serialization=core_schema.plain_serializer_function_ser_schema(Part.model_dump)
        )

    def __get_pydantic_json_schema__(self, _: CoreSchema, __: GetJsonSchemaHandler) -> dict[str, Any]:
        return self.schema()


def listed(value: object) -> object:
    """A list of parts, of what people write for one: a single part, names with commas, or ``none``."""
    if value == "none":
        return []
    if isinstance(value, str) and not value.lstrip().startswith("{"):
        return [text for text in (part.strip() for part in value.split(",")) if text]
    return [value] if isinstance(value, (str, Mapping, Part)) else value


def kind_of(metadata: Iterable[Any]) -> Kind[Any] | None:
    """The kind of parts that a field takes, by what is in its metadata; None for other fields."""
    return next((each for each in metadata if isinstance(each, Kind)), None)


@dataclass(frozen=True)
class _Listed:
    """Reads what people write for a list of parts, and tells a schema so."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(listed, handler(source))

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        several = handler(core)
        alternatives = several.get("anyOf", [several])
        alone = [each["items"] for each in alternatives if "items" in each]
        return {"anyOf": [*alternatives, *alone, {"const": "none"}, {"type": "string", "pattern": ","}]}


Listed = _Listed()
"""The annotation of a field that is a tuple of parts."""


def _first_line(named: str, error: ValidationError) -> str:
    """The first complaint about the settings of a part: "adaround.iterations: Input should be ..., got 0"."""
    complaint = first_complaint(error)
    return f"{'.'.join((named, *map(str, complaint.place)))}: {complaint.message}"
