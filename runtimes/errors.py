"""What can go wrong, by exit code. A message says in one line where, what was expected and got, and what to do."""

from __future__ import annotations


class RuntimesError(Exception):
    """An error that is explained in one line; ``exit_code`` is what a command line ends with."""

    exit_code = 2


class InvalidModel(RuntimesError):
    """A file is missing, truncated, of no known kind, or the engine cannot load or run it."""


class InvalidInputs(RuntimesError, ValueError):
    """Arrays or options do not fit: a name, a shape, a dtype, a number of samples."""


class EngineMissing(RuntimesError):
    """An engine is not installed, or not usable here; the message has the exact install line."""

    exit_code = 3


class DeviceError(RuntimesError):
    """A device cannot be reached, does not answer, lacks what is needed, or does something that it must not."""

    exit_code = 4


class InvalidMeasurement(RuntimesError):
    """A measurement broke a rule, so that it is not to be trusted."""

    exit_code = 5
