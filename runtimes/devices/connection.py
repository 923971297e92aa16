"""How a program is started on a device: one constant command, whose stdin, stdout and stderr are pipes.

Names, paths and options never stand in the command: they follow as data over its stdin, so no shell of any device reads
them. What the command starts answers with one line, `GREETING` and the version of Python, or with `NO_PYTHON`.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import Protocol

GREETING = b"\0edgepress "
"""Before the three numbers of Python's version; a login may have said something before."""

NO_PYTHON = b"\0edgepress-no-python"
"""In place of the greeting."""

LEAST_PYTHON = (3, 11)

COMMAND = (
    "exec sh -c '"
    "IFS= read -r p; "
    'case $p in "~/"*) p=$HOME/${p#??};; esac; '
    'if [ -z "$p" ]; then for c in python3 python3.13 python3.12 python3.11; do '
    'if "$c" -c "import sys;sys.exit(sys.version_info<(3,11))" </dev/null >/dev/null 2>&1; then p=$c; break; fi; '
    'done; fi; if [ -z "$p" ] && python3 -c "" </dev/null >/dev/null 2>&1; then p=python3; fi; '
    'if [ -z "$p" ] || ! command -v "$p" >/dev/null 2>&1; then printf "\\000edgepress-no-python\\n"; exit 127; fi; '
    'exec "$p" -c "import sys;print(chr(0)+sys.argv[1],*sys.version_info[:3],flush=True);'
    'i=sys.stdin.buffer;exec(i.read(int(i.readline()or+0)))" edgepress'
    "'"
)
"""Reads the name of a Python in one line (empty: the first there that is new enough, else ``python3``), starts it,
greets, and runs source from stdin: its length in one line, then so many bytes. POSIX sh; any Python understands it."""


class Connection(Protocol):
    """A way to a device."""

    @property
    def place(self) -> str:
        """What the user calls it: "ssh://pi@board"."""
        ...

    def argv(self, command: str) -> Sequence[str]:
        """Return the program on this machine, with its arguments, that runs ``command`` in a shell of the device.

        The pipes of that program are those of the command, byte for byte.
        """
        ...

    def explain(self, status: int | None, said: str) -> str:
        """Return why the program ended before its time, in one line with what to do.

        Args:
            status: that it ended with; None where it was ended here.
            said: the last lines of its stderr, for people.
        """
        ...

    def close(self) -> None:
        """Give back what was opened for all commands; may be called twice."""
        ...


def start(connection: Connection) -> subprocess.Popen[bytes]:
    """Return `COMMAND`, started on the device.

    Raises:
        OSError: the connection's own program cannot be started here.
    """
    return subprocess.Popen(
        connection.argv(COMMAND),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # an interrupt is for this process, which then ends the other in order
    )
