"""What is measured: files, each with the engine that runs it and its inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import InvalidInputs
from ..facts import engine_of
from ..runtime import Arrays, existing
from .request import Request


@dataclass(frozen=True)
class Subject:
    """Files that are measured, and how.

    Args:
        names: of the files, for people.
        paths: of the files, on the machine that asks.
        engines: that run them.
        inputs: of each; None where they are random.
    """

    names: tuple[str, ...]
    paths: tuple[Path, ...]
    engines: tuple[str, ...]
    inputs: tuple[Arrays, ...] | None
    request: Request

    @classmethod
    def of(
        cls,
        files: Sequence[Path | str],
        request: Request | None = None,
        *,
        engines: Sequence[str | None] | None = None,
        inputs: Sequence[Arrays] | None = None,
        names: Sequence[str] | None = None,
    ) -> Subject:
        """Return the subject of these files.

        Args:
            engines: that run them; left out, those that their suffixes name.
            names: left out, the files as they are given.

        Raises:
            InvalidModel: a file is missing, or of no known kind.
            InvalidInputs: there is another number of engines, inputs or names than of files.
        """
        paths = tuple(existing(file) for file in files)
        given = {"engines": engines, "inputs": inputs, "names": names}
        for what, values in given.items():
            if values is not None and len(values) != len(paths):
                raise InvalidInputs(f"files: {len(paths)}, but {len(values)} {what}")
        wanted = engines or (None,) * len(paths)
        return cls(
            tuple(names or map(str, files)),
            paths,
            tuple(name or engine_of(path) for name, path in zip(wanted, paths, strict=True)),
            None if inputs is None else tuple(inputs),
            request or Request(),
        )

    def only(self, number: int) -> Subject:
        """Return the one file of that number."""
        return replace(
            self,
            names=(self.names[number],),
            paths=(self.paths[number],),
            engines=(self.engines[number],),
            inputs=None if self.inputs is None else (self.inputs[number],),
        )

    def each(self) -> tuple[Subject, ...]:
        """Return every file as a subject of its own."""
        return tuple(self.only(number) for number in range(len(self.paths)))
