"""A device over SSH, by the system's own client: the user's configuration, agent, jump hosts and known hosts hold.

Nothing is asked on the way: a host key that is not known, or has changed, ends the attempt, and so does a password.
Several commands of one process share one connection where the client can do that (``ControlMaster``, OpenSSH).
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from ..errors import DeviceError, InvalidInputs

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_OPTIONS = (
    *("-T", "-x", "-a", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", "LogLevel=ERROR"),
    *("-o", "EscapeChar=none", "-o", "ClearAllForwardings=yes", "-o", "PermitLocalCommand=no"),
    *("-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=6"),
)
_REASONS: tuple[tuple[str, str], ...] = (
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED|host key for .* has changed",
        "its host key is another than the known one; if the device was set up anew, forget the old one by ssh-keygen "
        "-R {host}, and compare the new one when you log in",
    ),
    (
        "Host key verification failed|No .* host key is known|authenticity of host",
        "its host key is not known; log in once by {login}, and compare the key that it shows",
    ),
    (
        "Permission denied",
        "the login is refused; make {login} work without a password (ssh-copy-id puts your key there)",
    ),
    ("Could not resolve hostname", "there is no host of that name; check the name, or add it to ~/.ssh/config"),
    ("Connection refused", "nothing answers at port {port}; start an SSH server there, or give its port"),
    ("timed out|No route to host|Network is unreachable", "it does not answer; check that it is on and in reach"),
    ("Connection reset|Broken pipe|Connection closed|closed by remote host|not responding", "the connection was lost"),
)


@dataclass
class SshConnection:
    """A device that ``ssh`` reaches.

    Args:
        host: its name or address, or an alias of the user's configuration.
        user: to log in as; left out, as the configuration says.
        port: likewise.
        config: a file in place of the user's configuration.
        timeout_s: for the connection to be there.
    """

    host: str
    user: str | None = None
    port: int | None = None
    config: Path | None = None
    timeout_s: int = 15
    _folder: Path | None = field(default=None, init=False, repr=False)

    @classmethod
    def of(cls, url: str, config: Path | None = None) -> SshConnection:
        """Return the connection of ``ssh://[user@]host[:port]``.

        >>> SshConnection.of("ssh://pi@board:2222").place
        'ssh://pi@board:2222'

        Raises:
            InvalidInputs: the URL is of another form.
        """
        shown = re.sub(r":[^/@:]*@", ":...@", url[:200])
        wrong = InvalidInputs(f"device {shown!r}: expected ssh://user@board or ssh://user@board:port")
        try:
            parts = urlsplit(url)
            port, host, user = parts.port, parts.hostname, parts.username
        except ValueError:
            raise wrong from None
        if (
            parts.scheme != "ssh"
            or not host
            or parts.password is not None
            or port == 0
            or parts.path.strip("/")
            or parts.query
            or parts.fragment
        ):
            raise wrong
        host = parts.netloc.rpartition("@")[2].partition(":")[0] if ":" not in host else host  # as it was typed
        is_address = ":" in host and re.fullmatch(r"[0-9a-fA-F:.]+(%[A-Za-z0-9]+)?", host)
        if not (is_address or _NAME.fullmatch(host)) or (user is not None and not _NAME.fullmatch(user)):
            raise wrong
        return cls(host, user, port, config)

    @property
    def place(self) -> str:
        """What the user calls it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        user = "" if self.user is None else f"{self.user}@"
        return f"ssh://{user}{host}" + ("" if self.port is None else f":{self.port}")

    def argv(self, command: str) -> Sequence[str]:
        """Return the call of ``ssh`` that runs ``command`` there; raises DeviceError where there is no ``ssh``."""
        client = shutil.which("ssh")
        if client is None:
            raise DeviceError(f"{self.place}: there is no ssh on this machine; install an OpenSSH client")
        return [client, *self._options(), "-o", f"ConnectTimeout={self.timeout_s}", *self._where(), command]

    def explain(self, status: int | None, said: str) -> str:
        """Return why ``ssh`` ended, in one line with what to do; what it said itself where that is not known."""
        known = {"host": self.host, "login": " ".join(("ssh", *self._words())), "port": str(self.port or 22)}
        for pattern, reason in _REASONS if status in (255, None) else ():  # else a program there says so
            if re.search(pattern, said):
                return reason.format(**known)
        lines = [line for line in said.splitlines() if line.strip()]
        if status == 255:
            lost = "the connection was lost, or what ran there was killed, as systems do where memory is short"
            return f"ssh failed: {lines[-1]}" if lines else lost
        ended = "its program ended" + ("" if status is None else f" with {status}")
        return f"{ended}: {lines[-1]}" if lines else ended

    def close(self) -> None:
        """End the shared connection."""
        folder, self._folder = self._folder, None
        client = shutil.which("ssh")
        if folder is None or client is None:
            return
        with suppress(OSError, subprocess.SubprocessError):
            words = [client, "-o", f"ControlPath={folder}/%C", "-O", "exit", *self._where()]
            subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=5, check=False)
        shutil.rmtree(folder, ignore_errors=True)

    def _options(self) -> list[str]:
        if sys.platform == "win32":  # whose client cannot share connections
            return list(_OPTIONS)
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="ep-"))
        shared = [f"ControlPath={self._folder}/%C", "ControlMaster=auto", "ControlPersist=30"]
        return [*_OPTIONS, *(word for each in shared for word in ("-o", each))]

    def _where(self) -> list[str]:
        config = [] if self.config is None else ["-F", str(self.config)]
        user = [] if self.user is None else ["-l", self.user]
        port = [] if self.port is None else ["-p", str(self.port)]
        return [*config, *user, *port, "--", self.host]

    def _words(self) -> list[str]:
        config = [] if self.config is None else ["-F", str(self.config)]
        port = [] if self.port is None else ["-p", str(self.port)]
        return [*config, *port, self.host if self.user is None else f"{self.user}@{self.host}"]
