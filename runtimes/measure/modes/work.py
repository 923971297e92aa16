"""What one machine measures by itself and tells in parts: what it told before it was lost is not lost."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from typing import Any, ClassVar, Protocol, TypeVar

from ...errors import keeping
from ..loop import Progress
from ..subject import Subject

Part = Mapping[str, Any]
"""Plain values, as JSON holds them."""

R_co = TypeVar("R_co", covariant=True)


class Work(Protocol[R_co]):
    """A dataclass of plain values that says what is to be measured."""

    NAME: ClassVar[str]

    def parts(self, subject: Subject, progress: Progress | None = None) -> Generator[Part]:
        """Measure on this machine; each part comes as soon as it is known. Raises RuntimesError."""
        ...

    def result(self, subject: Subject, parts: Sequence[Part], disturbances: Sequence[str] = ()) -> R_co | None:
        """Return what the parts say together; None where they are too few to say anything.

        Args:
            disturbances: what speaks against it besides, in words, as that it was broken off.

        Raises:
            ValueError, TypeError, LookupError: they are none.
        """
        ...


def done_here(work: Work[R_co], subject: Subject, progress: Progress | None = None) -> R_co:
    """Return what a piece of work says of this machine; raises Interrupted, with what it said before."""
    parts: list[Part] = []

    def kept(reason: str) -> tuple[R_co, ...]:
        result = work.result(subject, parts, [f"it was broken off: {reason}"])
        return () if result is None else (result,)

    with keeping(kept), closing(work.parts(subject, progress)) as told:
        parts.extend(told)
    result = work.result(subject, parts)
    assert result is not None, "all parts are there"
    return result
