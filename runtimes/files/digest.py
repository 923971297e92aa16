"""What is in files, as one number that tells whether they are the same."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

_AT_ONCE = 2**20


def digest(files: Sequence[Path]) -> str:
    """Return the SHA-256, in hexadecimal, of the contents of files, or of folders, in order."""
    sha256 = hashlib.sha256()
    for file in files:
        for part in sorted(file.rglob("*")) if file.is_dir() else [file]:
            if part.is_file():
                with part.open("rb") as content:
                    while chunk := content.read(_AT_ONCE):
                        sha256.update(chunk)
    return sha256.hexdigest()
