"""A folder of exported files with what they were made from: samples, and the outputs that each file must give.

``export.json`` names the files. Arrays are in ``.npz`` files, by position of the network's inputs and outputs ("000",
"001"), samples first; ``labels`` are beside the inputs where the samples have them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .bound import Binding
from .errors import InvalidInputs
from .runtime import Array

Kind = Literal["float32", "float16", "integer"]
LISTING = "export.json"
SCHEMA = 2


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
    layout: Literal["nchw", "nhwc"] = "nchw"
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
        told = {
            "schema": SCHEMA,
            "samples": self.samples,
            "source": self.source,
            "files": [asdict(entry) for entry in self.entries],
            "records": list(self.records),
        }
        (self.path / LISTING).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Folder:
        """Return the folder at ``path``.

        Raises:
            InvalidInputs: it was not written by an export, or by one of another version.
        """
        try:
            told = json.loads((path / LISTING).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InvalidInputs(f"{path}: expected a folder that compress export wrote, with {LISTING}") from error
        if not isinstance(told, dict) or told.get("schema") != SCHEMA:
            raise InvalidInputs(f"{path / LISTING}: written by another version; export again")
        try:
            entries = tuple(_entry(each) for each in told["files"])
            return cls(path, entries, told["samples"], told["source"], tuple(told["records"]))
        except (KeyError, TypeError) as error:
            raise InvalidInputs(f"{path / LISTING}: damaged ({error}); export again") from error

    def inputs(self) -> tuple[list[Array], Array | None]:
        """Return the samples, an array for each input of the network, and their labels if they have any."""
        arrays = dict(read_arrays(self.path / self.samples))
        labels = arrays.pop("labels", None)
        return [arrays[name] for name in sorted(arrays)], labels

    def expected(self, entry: Entry) -> list[Array]:
        """Return the outputs that the file must give for the samples."""
        arrays = read_arrays(self.path / entry.expected)
        return [arrays[name] for name in sorted(arrays)]


def _entry(told: Mapping[str, Any]) -> Entry:
    facts: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in told.items()}
    return Entry(**facts)


def write_arrays(path: Path, arrays: Sequence[Array], labels: Array | None = None) -> None:
    """Write arrays by position, compressed."""
    named: dict[str, Any] = {f"{number:03}": array for number, array in enumerate(arrays)}
    if labels is not None:
        named["labels"] = labels
    np.savez_compressed(path, **named)


def read_arrays(path: Path) -> Mapping[str, Array]:
    """Return the arrays of an ``.npz`` by name; raises InvalidInputs."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, TypeError, EOFError) as error:
        raise InvalidInputs(f"{path}: expected an .npz of arrays ({error})") from error
