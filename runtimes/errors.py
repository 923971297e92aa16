"""What can go wrong, by exit code. A message says in one line where, what was expected and got, and what to do."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any


class RuntimesError(Exception):
    """An error that is explained in one line; ``exit_code`` is what a command line ends with."""

    exit_code = 2


class InvalidModel(RuntimesError):
    """A file is missing, truncated, of no known kind, or the engine cannot load or run it."""


class InvalidInputs(RuntimesError, ValueError):
    """Arrays or options do not fit: a name, a shape, a dtype, a number of samples."""


class InvalidPlugin(RuntimesError, ValueError):
    """A file that adds an engine, a format or a part does not state or define what it must, or is no valid Python."""


class EngineMissing(RuntimesError):
    """An engine is not installed, or not usable here; the message has the exact install line."""

    exit_code = 3


class DeviceError(RuntimesError):
    """A device cannot be reached, does not answer, lacks what is needed, or does something that it must not.

    ``measurements`` are what it measured before, as what was asked for returns it; one that was broken off has a
    disturbance that says so.
    """

    measurements: Sequence[Any] = ()

    exit_code = 4


class InvalidMeasurement(RuntimesError):
    """A measurement broke a rule, so that it is not to be trusted."""

    exit_code = 5


class Interrupted(KeyboardInterrupt):
    """The user, or the system, asked this process to end, by ``signal``; ``measurements`` are as in `DeviceError`."""

    measurements: Sequence[Any] = ()

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__()
        self.signal = number


@contextmanager
def keeping(taken: Callable[[str], Sequence[Any]]) -> Iterator[None]:
    """Within, an error that breaks a measurement off has what was measured before as its ``measurements``.

    Args:
        taken: returns that, given the reason in words.

    Raises:
        DeviceError: a device was lost.
        Interrupted: the user, or the system, asked this process to end.
    """
    try:
        yield
    except (DeviceError, Interrupted) as error:
        error.measurements = taken(str(error) or "interrupted")
        raise
    except KeyboardInterrupt as error:
        if type(error) is not KeyboardInterrupt:  # it is of somebody who knows what was measured
            raise
        interrupted = Interrupted()
        interrupted.measurements = taken("interrupted")
        raise interrupted from error


def fault(file: object, error: BaseException) -> str:
    """Return where in the Python file ``file`` an error of importing it comes from, and what it says, in one line.

    >>> try: compile("x =", "toy.py", "exec")
    ... except SyntaxError as error: fault("toy.py", error)
    'toy.py, line 1: invalid syntax'
    """
    if isinstance(error, SyntaxError):
        return (
            f"{error.filename if error.filename not in (None, '<unknown>') else file}, line {error.lineno}: {error.msg}"
        )
    lines, step = [], error.__traceback__
    while step is not None:
        lines += [step.tb_lineno] if step.tb_frame.f_code.co_filename == str(file) else []
        step = step.tb_next
    words = " ".join(str(error).split())
    place = f"{file}, line {lines[-1]}" if lines else str(file)
    return f"{place}: {type(error).__name__}{f': {words}' if words else ''}"
