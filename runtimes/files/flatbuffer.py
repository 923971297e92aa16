"""A reader of FlatBuffers that needs nothing but the text of their schema.

Engines ship the schema of their files, seldom a reader of them. A table is read as a mapping of its fields that are
there; see https://flatbuffers.dev/internals/.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_SCALARS = {
    "bool": "?",
    "byte": "b",
    "ubyte": "B",
    "short": "h",
    "ushort": "H",
    "int": "i",
    "uint": "I",
    "long": "q",
    "ulong": "Q",
    "float": "f",
    "double": "d",
}
_SCALARS |= {
    "int8": "b",
    "uint8": "B",
    "int16": "h",
    "uint16": "H",
    "int32": "i",
    "uint32": "I",
    "int64": "q",
    "uint64": "Q",
    "float32": "f",
    "float64": "d",
}

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_BLOCK = re.compile(r"\b(table|enum|union)\s+(\w+)\s*(?::\s*(\w+)\s*)?(?:\([^)]*\)\s*)?\{([^}]*)\}")
_FIELD = re.compile(r"(\w+)\s*:\s*(\[?)\s*([\w.]+)\s*\]?[^;]*;")


@dataclass(frozen=True)
class Schema:
    """Tables, enumerations and unions by name.

    >>> schema = Schema.parse("enum Kind : byte { A, B = 5, C } table T { kind: Kind; next: T; sizes: [int]; }")
    >>> schema.enums["Kind"], schema.tables["T"][2]
    ({0: 'A', 5: 'B', 6: 'C'}, ('sizes', 'int', True))
    """

    tables: Mapping[str, list[tuple[str, str, bool]]] = field(default_factory=dict)
    enums: Mapping[str, dict[int, str]] = field(default_factory=dict)
    carriers: Mapping[str, str] = field(default_factory=dict)
    unions: Mapping[str, list[tuple[str, str]]] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Schema:
        """Return the schema that ``text`` (with that of what it includes) declares."""
        tables: dict[str, list[tuple[str, str, bool]]] = {}
        enums: dict[str, dict[int, str]] = {}
        carriers: dict[str, str] = {}
        unions: dict[str, list[tuple[str, str]]] = {}
        for kind, name, carrier, body in _BLOCK.findall(_COMMENT.sub("", text)):
            if kind == "table":
                declared = _FIELD.findall(body)
                tables[name] = [(each, of.rpartition(".")[2], bool(many)) for each, many, of in declared]
            elif kind == "enum":
                carriers[name], enums[name] = carrier, {}
                value = -1
                for item in filter(None, (part.strip() for part in body.split(","))):
                    label, _, number = (part.strip() for part in item.partition("="))
                    value = int(number, 0) if number else value + 1
                    enums[name][value] = label
            else:
                members = [part.strip().partition(":") for part in body.split(",") if part.strip()]
                unions[name] = [(label.strip(), (of or label).strip()) for label, _, of in members]
        return cls(tables, enums, carriers, unions)

    def read(self, data: bytes | memoryview, table: str) -> dict[str, Any]:
        """Return the root table of ``data``, which is of the type ``table``.

        Vectors of bytes are memoryviews, enumerations the names of their values, and a member of a union is its table
        with its type's name as ``"is"``.

        Raises:
            ValueError: the bytes are no such table.
        """
        try:
            return self._table(memoryview(data), struct.unpack_from("<I", data)[0], table)
        except (struct.error, IndexError, KeyError, RecursionError, UnicodeDecodeError) as error:
            raise ValueError(f"no {table}: {error}") from error

    def _table(self, data: memoryview, at: int, table: str) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        slots = at - struct.unpack_from("<i", data, at)[0]
        size = struct.unpack_from("<H", data, slots)[0]
        place = 4
        for name, of, many in self.tables[table]:
            union = of in self.unions and not many
            offsets = [
                struct.unpack_from("<H", data, slots + each)[0] if each < size else 0
                for each in ((place, place + 2) if union else (place,))
            ]
            place += 2 * len(offsets)
            if not offsets[-1]:
                continue
            if union:
                label, member = self.unions[of][data[at + offsets[0]] - 1]
                fields[name] = {"is": label, **self._table(data, _follow(data, at + offsets[1]), member)}
            elif many:
                fields[name] = self._vector(data, _follow(data, at + offsets[0]), of)
            else:
                fields[name] = self._one(data, at + offsets[0], of)
        return fields

    def _vector(self, data: memoryview, at: int, of: str) -> Any:
        count = struct.unpack_from("<I", data, at)[0]
        if count > len(data):
            raise ValueError(f"a vector of {count} {of} in {len(data)} bytes")
        if of in ("ubyte", "uint8"):
            return data[at + 4 : at + 4 + count]
        width = struct.calcsize(_SCALARS[self.carriers.get(of, of)]) if of in _SCALARS or of in self.carriers else 4
        return [self._one(data, at + 4 + width * each, of) for each in range(count)]

    def _one(self, data: memoryview, at: int, of: str) -> Any:
        carrier = self.carriers.get(of, of)
        if carrier in _SCALARS:
            value = struct.unpack_from(f"<{_SCALARS[carrier]}", data, at)[0]
            return self.enums[of].get(value, value) if of in self.enums else value
        start = _follow(data, at)
        if of == "string":
            length = struct.unpack_from("<I", data, start)[0]
            return bytes(data[start + 4 : start + 4 + length]).decode("utf-8")
        return self._table(data, start, of)


def _follow(data: memoryview, at: int) -> int:
    target: int = at + struct.unpack_from("<I", data, at)[0]
    return target
