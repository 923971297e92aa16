"""The names of classes, as data sets list them: a file with a name on each line."""

from __future__ import annotations

from pathlib import Path

from ...errors import InvalidInput
from ...files.untrusted import read_text, require_at_most

MOST_CLASSES = 2**17
FILES = ("classes.txt", "labels.txt", "class_names.txt")


def list_of_names(folder: Path) -> Path | None:
    """The file in ``folder`` that lists the names of classes, if there is one."""
    return next((folder / name for name in FILES if (folder / name).is_file()), None)


def read_names(file: Path) -> tuple[str, ...]:
    """The names of classes, in the order of their numbers.

    Raises:
        InvalidInput: there is none, or one is listed twice.
    """
    return checked_names(file, [line.strip() for line in read_text(file, "data").splitlines() if line.strip()])


def checked_names(file: Path, names: list[str]) -> tuple[str, ...]:
    """The names; raises InvalidInput where there is none, or one is given twice."""
    require_at_most(len(names), MOST_CLASSES, "classes", f"data {file}")
    twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if twice is not None or not names:
        got = f"{twice[:40]} twice" if twice is not None else "none"
        raise InvalidInput(f"data {file}: expected the names of the classes, each once, got {got}")
    return tuple(names)
