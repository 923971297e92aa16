"""What can go wrong, by exit code. A message says in one line where, what was expected and got, and what to do."""

from __future__ import annotations


class CompressError(Exception):
    """An error that is explained to the user in one line; ``exit_code`` is what the command line ends with."""

    exit_code = 2


class InvalidInput(CompressError):
    """A file, an option, a network or a data set cannot be used as it is."""


class GateFailed(CompressError):
    """The work was done, and a condition on its outcome (parity, accuracy, budget) does not hold."""

    exit_code = 1


class PackageMissing(CompressError):
    """An optional package is not installed; the message gives the install line."""

    exit_code = 3


def first_line(error: BaseException) -> str:
    """The first line of what an error says; its type, where it says nothing.

    >>> first_line(ValueError("a size\\nthat is wrong")), first_line(KeyError())
    ('a size', 'KeyError')
    """
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
