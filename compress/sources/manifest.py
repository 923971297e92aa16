"""The schema of an artifact's manifest: wrong types, unknown kinds and values out of range are told before any work."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from ..errors import InvalidInput
from ..integers.encoding import Encoding

Index = Annotated[int, Field(ge=0, lt=2**40)]
Name = Annotated[str, Field(pattern=r"^[^\x00]*$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class SourceRecord(_Record):
    """Where the network comes from, as :class:`compress.sources.specification.Source`."""

    kind: Literal["zoo", "file", "module", "onnx"]
    name: Name
    attribute: Name = ""
    options: dict[str, Any] = Field(default_factory=dict)
    sha256: str = ""

    @model_validator(mode="after")
    def _onnx_is_inside(self) -> SourceRecord:
        if self.kind == "onnx" and self.name != "source.onnx":
            raise ValueError("the ONNX file of an artifact is source.onnx in its folder")
        return self


class EditRecord(_Record):
    """One edit, as :class:`compress.stage.Edit`."""

    layer: Name
    what: Name
    before: Any
    after: Any
    kind: Literal["attribute", "tensor", "module", "precision", "weights"] = "attribute"
    axis: Annotated[int, Field(ge=0, lt=16)] | None = None
    kept: list[Index] | None = None

    @model_validator(mode="after")
    def _kept_fits(self) -> EditRecord:
        if self.kind != "tensor":
            return self
        for shape in (self.before, self.after):
            sizes = isinstance(shape, list) and all(type(size) is int and 0 <= size < 2**40 for size in shape)
            if shape is not None and not sizes:
                raise ValueError(f"expected the shape of a tensor, got {shape!r}")
        if self.before is None and self.after is not None and prod(self.after) > 2**24:
            raise ValueError(f"a new tensor of shape {self.after} is larger than any bias")
        if self.before is not None and self.after is not None:
            if self.axis is None or self.kept is None or self.axis >= len(self.before):
                raise ValueError("expected the dimension and the indices that stay")
            wanted = [*self.before[: self.axis], len(self.kept), *self.before[self.axis + 1 :]]
            if max(self.kept, default=0) >= max(1, self.before[self.axis]) or wanted != self.after:
                raise ValueError(f"the indices that stay do not make {self.after} of {self.before}")
        return self


class MeasuredRecord(_Record):
    """A choice that rests on latencies, as :class:`compress.stage.Measured`."""

    choice: str
    told: str
    target: str
    engine: str
    cpu: str
    threads: int


class LineageRecord(BaseModel):
    """One stage that was applied, as :func:`compress.pipeline.advance` records it."""

    model_config = ConfigDict(strict=True)

    stage: str
    measured: list[MeasuredRecord] = Field(default_factory=list)
    target: str | None = None


class EncodingRecord(_Record):
    """One encoding, as :class:`compress.integers.encoding.Encoding`."""

    low: list[FiniteFloat]
    high: list[FiniteFloat]
    bits: Annotated[int, Field(ge=1, le=32)] = 8
    symmetric: bool = False
    axis: Annotated[int, Field(ge=0, lt=16)] | None = None
    block: Annotated[int, Field(ge=1)] | None = None
    kind: Literal["integer", "float16", "bfloat16", "levels"] = "integer"
    levels: list[list[FiniteFloat]] | None = None
    restored: bool = False

    @model_validator(mode="after")
    def _ranges_fit(self) -> EncodingRecord:
        if len(self.low) != len(self.high):
            raise ValueError(f"expected as many lowest values as highest, got {len(self.low)} and {len(self.high)}")
        if (self.kind == "levels") != (self.levels is not None):
            raise ValueError("expected levels where the kind is levels, and nowhere else")
        return self


class Manifest(BaseModel):
    """What :func:`compress.sources.artifact.write` writes, but its digest."""

    model_config = ConfigDict(strict=True)

    source: SourceRecord
    edits: list[EditRecord]
    lineage: list[LineageRecord]
    encodings: dict[str, EncodingRecord]
    graph: str | None = None
    torch: str = ""
    metrics: dict[str, Any]
    files: dict[FileName, str]


def require_encodings(encodings: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], path: Path) -> None:
    """Raise InvalidInput if the encoding of a weight has other channels than the tensor of its name in ``shapes``."""
    for name, record in encodings.items():
        encoding, shape = Encoding.from_json(record), shapes.get(name)
        if shape is None or encoding.kind != "integer":
            continue
        fits = encoding.axis is None or encoding.axis < len(shape)
        if not fits or len(encoding.low) != encoding.ranges(shape):
            raise InvalidInput(
                f"artifact {path}: the encoding of {name} has {len(encoding.low)} ranges along {encoding.axis}, and "
                f"the tensor has shape {shape}; make the artifact again"
            )
