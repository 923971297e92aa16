"""The files of a kind of parts, read without importing any: what a command line can list at once."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..errors import InvalidInput


class InvalidPart(InvalidInput, ValueError):
    """A file that adds a part is no Python, defines no part, or has the name of another one."""


def part_files(folders: Iterable[Path]) -> dict[str, Path]:
    """The file of each part in the folders, by the part's name, sorted.

    A file whose name is no name of Python (an editor's copy, say), or begins with an underscore, is no part. A file
    whose name would be a keyword ends with an underscore, which its part's name does not have.

    Raises:
        InvalidPart: two files are of the same name.
    """
    files: dict[str, Path] = {}
    for file in sorted(file for folder in folders for file in folder.glob("*.py")):
        name = file.stem.removesuffix("_")
        if file.stem.startswith("_") or not name.isidentifier():
            continue
        if name in files:
            raise InvalidPart(f"{file}: {files[name]} is called {name} too; rename one of them")
        files[name] = file
    return dict(sorted(files.items()))
