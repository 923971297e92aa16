"""What pydantic complains about first, in words for the line that a user reads."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ValidationError


@dataclass(frozen=True)
class Complaint:
    """The first complaint of a validation.

    Args:
        place: keys and indices that lead to the value, none for the whole.
        message: what is wrong, with the value where it is a short one: "Input should be ..., got 0".
        unknown_key: whether the last key of ``place`` is one that there is not.
        more: how many further complaints there are.
    """

    place: tuple[int | str, ...]
    message: str
    unknown_key: bool
    more: int

    def where(self, whole: str) -> str:
        """The place, with dots: "stages.1.prune.ratio"; ``whole`` where nothing narrower is meant."""
        return ".".join(str(part) for part in self.place) or whole

    def line(self, whole: str) -> str:
        """Place and message: "stages.1.prune.ratoi: no such key"."""
        return f"{self.where(whole)}: {self.message}"

    @property
    def and_more(self) -> str:
        """`` (and 2 more)``, or nothing."""
        return f" (and {self.more} more)" if self.more else ""


def first_complaint(error: ValidationError) -> Complaint:
    """What ``error`` complains about first."""
    first = error.errors(include_url=False, include_context=False)[0]
    message = " ".join(str(first["msg"]).removeprefix("Value error, ").split())
    unknown_key = first["type"] == "extra_forbidden"
    if unknown_key:
        message = "no such key"
    elif isinstance(first["input"], (str, int, float)) and "got " not in message:
        message += f", got {_shown(first['input'])}"
    return Complaint(tuple(first["loc"]), message, unknown_key, error.error_count() - 1)


def _shown(value: str | float) -> str:
    """A value that is none to work with, as short as a line takes it."""
    if isinstance(value, int) and abs(value) >= 10**40:
        return "a number of more than 40 digits"
    return f"{value!r:.60}"
