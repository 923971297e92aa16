"""What ``python -m compress.cli.generate`` took from configurations: read at once, without importing any of them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from ...core.part_files import part_files

FILE = Path(__file__).with_name("generated.json")


class Entry(TypedDict):
    """One option: what ``compress.cli.generate`` writes of a setting; what is empty is left out.

    ``name`` is the setting's place, as ``training.epochs``, and ``switch`` that of a setting without which this one is
    refused. ``choices`` are words, or the name of a list that engines make. ``parts`` is the folder whose files are
    what a setting can be, and ``part`` the setting whose part this one is of.
    """

    name: str
    flags: list[str]
    type: str
    help: str
    off: NotRequired[str]
    choices: NotRequired[list[str] | str]
    default: NotRequired[str]
    group: NotRequired[str]
    common: NotRequired[bool]
    metavar: NotRequired[str]
    switch: NotRequired[str]
    part: NotRequired[str]
    parts: NotRequired[str]


def settings(name: str) -> list[Entry]:
    """The options of a configuration."""
    entries: list[Entry] = table()["settings"][name]
    return entries


def parts(folder: str) -> list[str]:
    """The names of the files in a folder of parts, below that of ``compress``; see :mod:`compress.core.parts`."""
    return list(part_files([FILE.parents[2] / folder]))


@cache
def table() -> dict[str, Any]:
    """The content of the file."""
    content: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return content
