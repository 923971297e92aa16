"""Settings: what a field of a configuration tells beside its type, and how a configuration becomes options.

A field is the only place of a setting's default, description, bounds, unit, group and flag. The options of the command
line, the JSON schema of recipes and the reference are generated from it.

A configuration inside another one (``ranges: Ranges = setting(Ranges(), "...")``, or one that may be None) has its
settings beside all others on the command line, and under its own name in recipes. One that may be None is made where
any of its settings is typed.

>>> from compress.stage import Config
>>> class Blur(Config):
...     radius: float = setting(1.5, "How far each pixel spreads.", unit="pixels", common=True, gt=0, le=100)
>>> Blur().radius, setting_of(Blur.model_fields["radius"]).unit, flag_of(Blur, "radius")
(1.5, 'pixels', '--radius')
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import Field
from pydantic.fields import FieldInfo

if TYPE_CHECKING:
    from pydantic import BaseModel

T = TypeVar("T")
TRAINING, DATA, OUTPUT = "Training", "Data", "Output"
"""Headings of ``--help`` that several commands have."""

KEY = "setting"
"""Where a field's JSON schema has what the command line needs; it is taken out of the schema of recipes."""


@dataclass(frozen=True)
class Setting:
    """What a field tells beside its type, default and description.

    Args:
        group: the heading of its option in ``--help``; by default ``HEADING`` of its configuration.
        flag: the option, where it is not ``--`` and the field's name with dashes: a configuration inside another one
            has its options beside all others, so that ``Ranges.method`` may be ``--calibration``.
        off: the option that sets a truth value to false, where ``--no-NAME`` says it badly (``--per-tensor``).
        short: another, shorter option (``--lr``).
        unit: of a number ("ms", "samples", "times").
        common: ``--help`` shows it; ``--help-all`` shows all.
        metavar: what stands for the value in ``--help``.
        choices: a list that engines make, by its name: "formats" or "targets". It is read when it is needed.
        switch: of an optional configuration inside another one: without this setting, the others of it are refused on
            the command line, and 0 leaves the configuration out (``epochs`` of a training).
        hidden: it is no option of the command line.
    """

    group: str = ""
    flag: str | None = None
    off: str | None = None
    short: str | None = None
    unit: str | None = None
    common: bool = False
    metavar: str | None = None
    choices: str | None = None
    switch: bool = False
    hidden: bool = False


def setting(
    default: T,
    description: str,
    *,
    group: str = "",
    flag: str | None = None,
    off: str | None = None,
    short: str | None = None,
    unit: str | None = None,
    common: bool = False,
    metavar: str | None = None,
    choices: str | None = None,
    switch: bool = False,
    hidden: bool = False,
    **bounds: Any,
) -> T:
    """A field with this default and description, in plain English; its first sentence is what ``--help`` shows.

    Args:
        bounds: as :func:`pydantic.Field` has them (``ge``, ``gt``, ``le``, ``lt``, ``min_length``, ``pattern``, ...).
            Where the type is a union of a number and words, the number is bounded in the type instead.

    The other arguments are those of :class:`Setting`.
    """
    facts = Setting(group, flag, off, short, unit, common, metavar, choices, switch, hidden)
    field: T = Field(default, description=description, json_schema_extra={KEY: asdict(facts)}, **bounds)
    return field


def exclude(description: str = "Layers to leave alone, by name or pattern (layer1.*).") -> tuple[str, ...]:
    """The field of patterns of layers that a stage leaves as they are."""
    return setting((), description, common=True)


def required(description: str, **facts: Any) -> Any:
    """As :func:`setting` of a field without a default, for ``Annotated``: ``source: Annotated[str, required("...")]``.

    >>> from typing import Annotated
    >>> from compress.stage import Config
    >>> class Person(Config):
    ...     name: Annotated[str, required("Of the person.", min_length=1)]
    >>> Person.model_fields["name"].is_required()
    True
    """
    names = Setting.__dataclass_fields__
    bounds = {key: value for key, value in facts.items() if key not in names}
    own = Setting(**{key: value for key, value in facts.items() if key in names})
    return Field(description=description, json_schema_extra={KEY: asdict(own)}, **bounds)


def setting_of(field: FieldInfo) -> Setting:
    """What ``field`` tells of itself; the defaults, where it was made without :func:`setting`."""
    extra = field.json_schema_extra
    facts = extra.get(KEY) if isinstance(extra, dict) else None
    return Setting(**facts) if isinstance(facts, dict) else Setting()  # type: ignore[arg-type]


def flag_of(kind: type[BaseModel], name: str) -> str:
    """The option of the field ``name`` of ``kind``, as it is typed."""
    return setting_of(kind.model_fields[name]).flag or "--" + name.replace("_", "-")
