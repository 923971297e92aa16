"""Configurations: frozen, validated, and strict about what they are given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

Samples = Annotated[int, Field(ge=1, le=2**31 - 1)]
"""A number of samples, or of anything that each takes a while."""
Threads = Annotated[int, Field(ge=1, le=1024)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Times = Annotated[float, Field(gt=1, le=1e9)]
"""How many times less there is to be of something."""


class Config(BaseModel):
    """A frozen, validated configuration: an unknown key is an error, and so is a value out of range.

    Every number has its least and its largest value, and is finite. Messages about several settings have their names in
    backquotes, so that a command can tell them as its options.
    """

    HEADING: ClassVar[str] = "Options"
    """Above its options in ``--help``."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, bool) and not _admits_truth(cls.model_fields[info.field_name or ""].annotation):
            raise ValueError(f"expected another value than {str(value).lower()}")
        return value


def refuse_moved(values: object, moved: Mapping[str, str]) -> object:
    """``values`` of a configuration; settings that stand elsewhere now are told where.

    Raises:
        ValueError: one of ``moved`` is among them.
    """
    mapping = values if isinstance(values, Mapping) else {}
    for name, place in moved.items():
        if name in mapping:
            raise ValueError(f"`{name}` is no longer here; write {place}")
    return values


def _admits_truth(annotation: Any) -> bool:
    return annotation is bool or any(_admits_truth(inner) for inner in get_args(annotation))


class Findings(BaseModel):
    """What a measurement found, as its file keeps it: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
