"""Every number of every configuration has bounds and is finite, whoever adds one."""

from __future__ import annotations

import importlib
import math
import pkgutil
import types
from collections.abc import Iterator
from typing import Annotated, Any, Union, get_args, get_origin

import annotated_types
import pytest
from pydantic import ValidationError
from pydantic.fields import FieldInfo

import compress
from compress.recipe import explain
from compress.stage import Config
from compress.training.loop import Training


def configs() -> list[type[Config]]:
    for module in pkgutil.walk_packages(compress.__path__, "compress."):
        if not module.name.startswith("compress.cli"):
            importlib.import_module(module.name)
    found, left = [], [Config]
    while left:
        left += (made := left.pop().__subclasses__())
        found += [kind for kind in made if kind.__module__.startswith("compress.")]
    return sorted(found, key=lambda kind: f"{kind.__module__}.{kind.__name__}")


def numbers(annotation: Any, metadata: tuple[Any, ...]) -> Iterator[tuple[type, list[Any]]]:
    """Every int and float in an annotation, with what bounds it."""
    known = [item for field in metadata for item in (field.metadata if isinstance(field, FieldInfo) else [field])]
    if annotation in (int, float):
        yield annotation, known
    elif get_origin(annotation) is Annotated:
        yield from numbers(get_args(annotation)[0], (*metadata, *annotation.__metadata__))
    elif get_origin(annotation) in (Union, types.UnionType):
        for inner in get_args(annotation):
            yield from numbers(inner, metadata)
    else:
        for inner in get_args(annotation):
            yield from numbers(inner, ())


FIELDS = [
    (kind, name, number, known)
    for kind in configs()
    for name, field in kind.model_fields.items()
    for number, known in numbers(field.annotation, tuple(field.metadata))
]


def test_there_are_numbers() -> None:
    assert len(FIELDS) > 60 and {"Training", "Prune", "Quantize", "Gates", "Recipe", "DataConfig"} <= {
        kind.__name__ for kind, *_ in FIELDS
    }


@pytest.mark.parametrize("kind, name, number, known", FIELDS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_every_number_is_bounded(kind: type[Config], name: str, number: type, known: list[Any]) -> None:
    low = [k for k in known if isinstance(k, (annotated_types.Ge, annotated_types.Gt, annotated_types.Interval))]
    high = [k for k in known if isinstance(k, (annotated_types.Le, annotated_types.Lt, annotated_types.Interval))]
    assert low and high, f"{kind.__name__}.{name}: give it a least and a largest value"
    assert kind.model_config.get("allow_inf_nan") is False


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "nan", "1e400", 10**30, -1, True, "1" * 5000])
@pytest.mark.parametrize(
    "kind, name",
    sorted({(kind, name) for kind, name, *_ in FIELDS if kind is Training}, key=lambda pair: pair[1]),  # type: ignore[index]
)
def test_values_that_are_none_are_told_in_one_line(kind: type[Config], name: str, value: Any) -> None:
    with pytest.raises(ValidationError) as refused:
        kind(**{name: value})
    told = explain(refused.value)
    assert told.startswith(f"{name}: ") and "\n" not in told and len(told) < 300
