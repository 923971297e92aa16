"""A folder of exported files with what they were made from: samples, and the outputs that each file must give.

``export.json`` names the files. Arrays are in ``.npz`` files, by position of the network's inputs and outputs ("000",
"001"), samples first; ``labels`` are beside the inputs where the samples have them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePath
from typing import Any, Literal, TypeVar, get_args

import numpy as np

from ..bound import Binding
from ..errors import InvalidInputs
from ..files.untrusted import read_arrays, read_json
from ..runtime import Array

Kind = Literal["float32", "float16", "integer"]
Layout = Literal["nchw", "nhwc"]
V = TypeVar("V")
LISTING = "export.json"
SCHEMA = 2
_WORDS: Mapping[type, str] = {str: "a text", dict: "a mapping", list: "a list", int: "a number", bool: "a yes or no"}


@dataclass(frozen=True)
class Entry:
    """A file of the folder; paths are relative to it.

    Args:
        file: that the engine is given.
        format: its name.
        engine: that runs it.
        target: whose integers it has.
        kind: what it computes in.
        expected: the outputs that it must give, an ``.npz``.
        inputs: see :class:`runtimes.bound.Binding`; likewise outputs and layout.
        beside: files that belong to it.
    """

    file: str
    format: str
    engine: str
    target: str
    kind: Kind
    expected: str
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    layout: Layout = "nchw"
    beside: tuple[str, ...] = ()

    @property
    def binding(self) -> Binding:
        """How the network's inputs and outputs are called in the file."""
        return Binding(self.inputs, self.outputs, self.layout)


@dataclass(frozen=True)
class Folder:
    """What ``export.json`` says.

    Args:
        path: the folder.
        entries: its files.
        samples: the ``.npz`` of inputs.
        source: what the samples are, in words.
        records: an account of each file, for people.
    """

    path: Path
    entries: tuple[Entry, ...]
    samples: str = "samples.npz"
    source: str = ""
    records: tuple[Mapping[str, Any], ...] = ()

    def write(self) -> None:
        """Write ``export.json``."""
        content = {
            "schema": SCHEMA,
            "samples": self.samples,
            "source": self.source,
            "files": [asdict(entry) for entry in self.entries],
            "records": list(self.records),
        }
        (self.path / LISTING).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Folder:
        """Return the folder at ``path``.

        Raises:
            InvalidInputs: it was not written by an export, or by one of another version, or names files elsewhere.
        """
        listing = path / LISTING
        if not os.path.lexists(listing):
            raise InvalidInputs(f"{path}: expected a folder that compress export wrote, with {LISTING}")
        content = read_json(listing)
        if not isinstance(content, dict) or type(content.get("schema")) is not int or content["schema"] != SCHEMA:
            raise InvalidInputs(f"{listing}: written by another version; export again")
        try:
            entries = tuple(_entry(each, f"files.{n}") for n, each in enumerate(_list(content, "files", dict)))
            if len({(entry.file, entry.engine) for entry in entries}) < len(entries):
                raise _Damaged("files: one of them is there twice for one engine")
            records = tuple(_list(content, "records", dict))
            return cls(path, entries, _name(content, "samples"), _value(content, "source", str), records)
        except _Damaged as error:
            raise InvalidInputs(f"{listing}: {error}; export again") from None

    def inputs(self) -> tuple[list[Array], Array | None]:
        """Return the samples, an array for each input of the network, and their labels if they have any."""
        arrays = dict(read_arrays(self.path / self.samples))
        labels = arrays.pop("labels", None)
        return [arrays[name] for name in sorted(arrays)], labels

    def expected(self, entry: Entry) -> list[Array]:
        """Return the outputs that the file must give for the samples."""
        arrays = read_arrays(self.path / entry.expected)
        return [arrays[name] for name in sorted(arrays)]


class _Damaged(Exception):
    """What is wrong in a listing, and where."""


def _entry(record: Mapping[str, Any], place: str) -> Entry:
    try:
        unknown = sorted(record.keys() - {field.name for field in fields(Entry)})
        if unknown:
            raise _Damaged(f"{unknown[0]}: no such key")
        return Entry(
            _name(record, "file"),
            _value(record, "format", str),
            _value(record, "engine", str),
            _value(record, "target", str),
            _choice(record, "kind", Kind),
            _name(record, "expected"),
            tuple(_list(record, "inputs", str)),
            tuple(_list(record, "outputs", str)),
            _choice(record, "layout", Layout),
            tuple(_within(name, "beside") for name in _list(record, "beside", str)),
        )
    except _Damaged as error:
        raise _Damaged(f"{place}.{error}") from None


def _value(record: Mapping[str, Any], key: str, kind: type[V]) -> V:
    if key not in record:
        raise _Damaged(f"{key}: it is missing")
    value = record[key]
    if type(value) is not kind:
        raise _Damaged(f"{key}: expected {_WORDS[kind]}, got {_WORDS.get(type(value), 'another value')}")
    return value


def _list(record: Mapping[str, Any], key: str, kind: type[V]) -> list[V]:
    """The list in ``record``, each item of ``kind``."""
    items = _value(record, key, list)
    if any(type(item) is not kind for item in items):
        raise _Damaged(f"{key}: expected a list of {_WORDS[kind].removeprefix('a ')}s")
    return items


def _choice(record: Mapping[str, Any], key: str, choices: Any) -> Any:
    value = _value(record, key, str)
    if value not in get_args(choices):
        raise _Damaged(f"{key}: expected {' or '.join(get_args(choices))}, got {value[:40]!r}")
    return value


def _name(record: Mapping[str, Any], key: str) -> str:
    return _within(_value(record, key, str), key)


def _within(name: str, key: str) -> str:
    """``name``, which is that of a file in the folder, or in one of the folder's own."""
    parts = PurePath(name).parts
    if not parts or PurePath(name).is_absolute() or ".." in parts or "\0" in name:
        raise _Damaged(f"{key}: expected the name of a file in the folder, got {name[:80]!r}")
    return name


def write_arrays(path: Path, arrays: Sequence[Array], labels: Array | None = None) -> None:
    """Write arrays by position, compressed."""
    named: dict[str, Any] = {f"{number:03}": array for number, array in enumerate(arrays)}
    if labels is not None:
        named["labels"] = labels
    np.savez_compressed(path, **named)
