"""ONNX files held against an engine's own parser and builder, where these need no device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from ..errors import InvalidInput
from ..siblings import export, runtimes

COLUMNS = ("file", "numbers", "builds", "layers", "products in int8", "fp16", "fp32", "bytes", "seconds")


@dataclass(frozen=True)
class Build:
    """What became of a file.

    Args:
        file: its name.
        kind: what it computes in, where a folder says so.
        trial: what the builder did.
    """

    file: str
    kind: str | None
    trial: export.format.Trial


def try_builds(place: Path, name: str, gpus: Sequence[str] = ()) -> Iterator[Build]:
    """What becomes of an ONNX file, or of all those in an exported folder that are for the format's target.

    Args:
        name: of the format.
        gpus: kinds of GPUs to build for, or families; left out, those that the format takes by itself.

    Raises:
        InvalidInput: there is no such GPU, no such file, or none for this target.
        PackageMissing: what builds is not installed; says what to do.
    """
    form = export.facts.formats()[name]
    named = form.gpus_named(gpus)
    builder = cast(export.format.Builder, export.format.exporter(name))
    for file, kind, samples in _files(place, form):
        path = place / file if place.is_dir() else place
        yield Build(file, kind, builder.try_build(path, _shapes(path, samples), named))


def _files(place: Path, form: export.facts.Format) -> list[tuple[str, str | None, dict[str, tuple[int, ...]]]]:
    """The names of files, what they compute in, and the shapes of stored samples by input."""
    if not place.is_dir():
        return [(place.name, None, {})]
    folder = runtimes.checks.folder.Folder.read(place)
    entries = [each for each in folder.entries if each.target in form.targets and each.file.endswith(".onnx")]
    if not entries:
        raise InvalidInput(
            f"{place}: no ONNX file for {' or '.join(form.targets)}; export one: --format onnx --target "
            f"{form.targets[0]}"
        )
    inputs, _ = folder.inputs()
    return [(each.file, each.kind, _sample_shapes(each, inputs)) for each in entries]


def _sample_shapes(entry: Any, inputs: Sequence[Any]) -> dict[str, tuple[int, ...]]:
    shapes = [tuple(each.shape) for each in inputs]
    if entry.layout == "nhwc":
        shapes = [(s[0], s[2], s[3], s[1]) if len(s) == 4 else s for s in shapes]
    return {name: (1, *shape[1:]) for name, shape in zip(entry.inputs, shapes, strict=False)}


def _shapes(file: Path, samples: dict[str, tuple[int, ...]]) -> list[tuple[int, ...]]:
    """The shape of one sample of each input of the file, open dimensions taken from the stored samples."""
    made = []
    for value in export.onnx.contents.load_model(file).graph.input:
        dims = value.type.tensor_type.shape.dim
        sample = samples.get(value.name, (1,) + (0,) * (len(dims) - 1))
        shape = tuple(dim.dim_value if dim.HasField("dim_value") else n for dim, n in zip(dims, sample, strict=False))
        if 0 in shape or len(shape) != len(dims):
            raise InvalidInput(
                f"{file}: input {value.name}: its size is open, and TensorRT builds for one: export it without "
                f"--dynamic-size, or give an exported folder, whose samples have one"
            )
        made.append(shape)
    return made


def row(build: Build) -> tuple[str, ...]:
    """The cells of a table's row, as `COLUMNS` names them."""
    trial = build.trial
    products = trial.products
    counts = (
        ("not told",) * 3
        if products is None
        else tuple(_count(products, kind) for kind in ("int8", "float16", "float32"))
    )
    return (
        build.file,
        build.kind or "-",
        "built" if trial.built else "REFUSED",
        *(("-",) * 6 if not trial.built else (
            "not told" if trial.layers is None else str(trial.layers),
            *counts,
            f"{trial.size_bytes:,}",
            f"{trial.seconds:.1f}",
        )),
    )  # fmt: skip


def _count(products: Any, kind: str) -> str:
    return str(products.get(kind, 0))


def notes(build: Build) -> tuple[str, ...]:
    """What a table has no place for: the builder's message, what runs in float in a file of integers."""
    trial = build.trial
    lines = [trial.message] if trial.message else []
    unnamed = (trial.products or {}).get("not told", 0)
    lines += [f"{unnamed} products: the builder names no layer for them"] if unnamed else []
    if (trial.products or {}).get("int8") and trial.in_float:
        shown = ", ".join(trial.in_float[:5])
        more = f" and {len(trial.in_float) - 5} more" if len(trial.in_float) > 5 else ""
        lines.append(f"in float: {shown}{more}")
    return tuple(lines)


def to_json(build: Build) -> dict[str, Any]:
    """What was found, as plain values."""
    return {"file": build.file, "kind": build.kind, **asdict(build.trial)}
