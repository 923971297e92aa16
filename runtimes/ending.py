"""How a command ends: every error becomes one line that a terminal shows and does not obey, and an exit code.

A request to end (SIGTERM, SIGHUP) is an interrupt: what is half done is cleaned up, and processes that were started end
as well.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from types import FrameType

from .errors import Interrupted

DEFECT = 70
"""The exit code of an error that nobody explains: a defect of this program (EX_SOFTWARE of sysexits.h)."""

_OBEYED = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters, but tab and line feed: colours, cursor, title, clipboard
    r"\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"  # other line ends, and the order of what is shown
    r"\ud800-\udfff]"  # bytes of a name that are no text
)
NO_MEMORY = re.compile(
    r"can't allocate memory|failed to allocate memory|out of memory|bad allocation|std::bad_alloc", re.IGNORECASE
)
"""How engines and the system say so."""

_SECONDS_TO_END = 5
_LONGEST = 1000
"""Characters of a message; what a file holds may be longer than anyone reads."""


def printable(text: str) -> str:
    r"""Return ``text`` with each character that a terminal would obey written as its code; line ends and tabs stay.

    >>> printable("layer\x1b[2J\u202e")
    'layer\\x1b[2J\\u202e'
    """
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def brief(text: str) -> str:
    """Return ``text``, without its middle where it is longer than a message: it begins with where, and ends with what
    to do.

    >>> len(brief("x" * 5000))
    1000
    """
    if len(text) <= _LONGEST:
        return text
    end = _LONGEST // 3
    return f"{text[: _LONGEST - end - 5]} ... {text[-end:]}"


def told(error: BaseException) -> tuple[str, int]:
    """Return what to say of an error, in one printable line, and what the process then ends with.

    >>> told(FileNotFoundError(2, "No such file or directory", "net.onnx"))
    ('net.onnx: No such file or directory', 2)
    >>> told(EOFError("No data left in file"))
    ('a file ends too early: No data left in file', 2)
    """
    words = " ".join(str(error).split())
    code = getattr(error, "exit_code", None)
    if isinstance(error, KeyboardInterrupt):
        words, code = "interrupted", 128 + getattr(error, "signal", signal.SIGINT)
    elif isinstance(code, int):
        pass
    elif isinstance(error, OSError):
        named = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, (str, bytes))]
        words, code = ": ".join((*named, error.strerror or words or type(error).__name__)), 2
    elif isinstance(error, EOFError):
        words, code = f"a file ends too early: {words or 'nothing is left to read'}", 2
    elif isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and NO_MEMORY.search(words)):
        words, code = f"there is not enough memory for this ({words[:300] or 'MemoryError'}); make it smaller", 2
    elif isinstance(error, RecursionError):
        words, code = f"what it was given is nested too deep ({words[:100]}); make it flatter", 2
    elif isinstance(error, UnicodeError):
        words, code = f"a name or text is not UTF-8 ({words[:300]}); rename or rewrite it", 2
    else:
        words = f"unexpected {type(error).__name__}: {words[:500]} (a defect of this program; --debug shows where)"
        code = DEFECT
    return brief(printable("; ".join((words, *getattr(error, "__notes__", ()))))), int(code)


def complain(message: str) -> None:
    """Say one line of an error, on stderr."""
    say(f"error: {brief(printable(message))}")


def say(line: str) -> None:
    """Write one line to stderr, as far as there is one."""
    with suppress(OSError, ValueError, AttributeError):  # where nobody listens
        print(printable(line), file=sys.stderr, flush=True)


def prepare() -> None:
    """Have this process end as this module says: the main thread of a command calls this once, at its beginning."""
    for number in ("SIGTERM", "SIGHUP"):
        known = getattr(signal, number, None)
        if known is not None and signal.getsignal(known) is signal.SIG_DFL:  # nohup ignores SIGHUP: so do we
            signal.signal(known, _interrupt)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed, and no file that is opened is to take its number
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - until the process ends
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that has not every letter shows what it has
    warnings.showwarning = _warn  # type: ignore[assignment]


def end_processes() -> None:
    """End the processes that :mod:`multiprocessing` started here and that still run."""
    module = sys.modules.get("multiprocessing")
    for process in module.active_children() if module is not None else ():
        process.terminate()
        process.join(_SECONDS_TO_END)
        if process.is_alive():
            process.kill()
            process.join()


def _interrupt(number: int, _: FrameType | None) -> None:
    for known in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, known):
            signal.signal(getattr(signal, known), signal.SIG_IGN)  # cleaning up is not interrupted by being asked again
    raise Interrupted(number)


def _warn(message: Warning | str, *_: object) -> None:
    say(f"warning: {' '.join(str(message).split())}")
