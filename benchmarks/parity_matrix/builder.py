"""NVIDIA's builder as two columns of the table of engines: whether it builds the files, and their products' numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.common.results import Cell, Column, Results

KINDS = ("float32", "int8")
KEYS = {kind: f"tensorrt_builder_{kind}" for kind in KINDS}
COLUMNS = tuple(Column(key=key, title=f"TensorRT's builder {kind}") for kind, key in KEYS.items())


def shown(cell: Mapping[str, Any]) -> str:
    """What became of a file, as a build tells it: "built, 21 int8", or "**no**"."""
    if not cell["built"]:
        return "**no**"
    products = sorted((cell["products"] or {}).items(), key=lambda item: -item[1])
    return ", ".join(["built", *(f"{count} {kind}" for kind, count in products)])


def joined(parity: Results, builds: Results) -> Results:
    """The results of ``parity_matrix`` with those of ``tensorrt_builds`` as columns, by architecture.

    Where that run built the files itself, its own columns stay.
    """
    summary, table, *others = parity.tables
    if set(KEYS.values()) & {column.key for column in table.columns}:
        return parity
    known = {str(row["network"]): row for row in builds.tables[1].rows}
    architectures = [str(row["network"]).partition(":")[0] for row in table.rows]
    rows = [
        {**row, **{key: _cell(known.get(name, {}).get(kind)) for kind, key in KEYS.items()}}
        for row, name in zip(table.rows, architectures, strict=True)
    ]
    notes = [note for note in builds.tables[1].notes if _is_of(note, architectures)]
    wider = table.model_copy(
        update={"columns": (*table.columns, *COLUMNS), "rows": tuple(rows), "notes": (*table.notes, *notes)}
    )
    version = builds.versions.get("tensorrt-rtx-cu12-bindings", "of no known version")
    told = (
        f"TensorRT's builder: parser and builder of TensorRT for RTX {version}, without a GPU, and the products of the "
        f"engine by the numbers they multiply. These are from `{builds.command}` of {builds.day:%Y-%m-%d}, by "
        "architecture, with random weights and other widths; they are not among the cells that are counted above."
    )
    return parity.model_copy(update={"tables": (summary, wider, *others), "notes": (*parity.notes, told)})


def _cell(text: Cell) -> Cell:
    """A cell of the table of builds as one of the table of engines; None where there is none."""
    return f"built, {text}" if isinstance(text, str) and text not in ("**no**", "built") else text


def _is_of(note: str, architectures: list[str]) -> bool:
    """Whether a note of the table of builds is of a file that the table of engines has."""
    name, _, rest = note.partition(", ")
    return name in architectures and rest.partition(" ")[0] in KINDS
