"""A device over Android's debug bridge, by the ``adb`` client of the system: its server, its keys and its devices hold.

Commands go through ``adb shell`` of protocol version 2 (Android 7 and newer): stdin, stdout and stderr apart, byte for
byte. Android Debug Bridge: https://developer.android.com/tools/adb.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import DeviceError, InvalidInputs

SCHEME = "adb:"

_SERIAL = re.compile(r"[A-Za-z0-9_\[][A-Za-z0-9_.:%\[\]-]{0,199}")
_REASONS: tuple[tuple[str, str], ...] = (
    (
        "unauthorized|still authorizing",
        "it does not allow this computer yet; unlock it, and allow USB debugging when it asks",
    ),
    (
        "device offline|still connecting",
        "adb says that it is offline; wake it, or plug it in again, and look at adb devices",
    ),
    (
        "more than one (device|emulator)",
        "adb knows several devices by that serial; unplug all but one, or name it as adb devices -l lists it (usb:...)",
    ),
    (
        "device '.*' not found|no devices",
        "adb knows no device of that serial; plug it in, or adb connect to it, and look at adb devices",
    ),
    (
        "no permissions|insufficient permissions",
        "this user may not use its USB port; add a udev rule (apt-get install android-sdk-platform-tools-common)",
    ),
    (
        "cannot connect to daemon|failed to (start|check) .*(daemon|server)|cannot bind|smartsocket",
        "adb's own server cannot be started or reached; see what adb start-server says",
    ),
    (
        "remote PTY will not be allocated|shell_v2|does not support",
        "its adb is too old to keep output and errors apart; Android 7 or newer is needed",
    ),
    ("protocol fault|connection reset|closed|couldn't read|device .*disconnected", "the connection was lost"),
)


@dataclass(frozen=True)
class AdbConnection:
    """A device that ``adb`` knows by its serial.

    Args:
        serial: as ``adb devices`` lists it; of a device on the network, its address and port.
    """

    serial: str

    @classmethod
    def of(cls, place: str) -> AdbConnection:
        """Return the connection of ``adb:SERIAL``.

        >>> AdbConnection.of("adb:192.168.1.7:5555").serial
        '192.168.1.7:5555'

        Raises:
            InvalidInputs: there is no serial, or it is none.
        """
        serial = place.removeprefix(SCHEME)
        if not place.startswith(SCHEME) or not _SERIAL.fullmatch(serial):
            raise InvalidInputs(f"device {place[:200]!r}: expected adb:SERIAL, with a serial that adb devices lists")
        return cls(serial)

    @property
    def place(self) -> str:
        """What the user calls it."""
        return f"{SCHEME}{self.serial}"

    def argv(self, command: str) -> Sequence[str]:
        """Return the call of ``adb`` that runs ``command`` there; raises DeviceError where there is no ``adb``."""
        return [*self._client(), "shell", "-T", command]

    def push(self, source: str, place: str) -> Sequence[str]:
        """Return the call of ``adb`` that copies a file of this machine there; raises DeviceError like `argv`."""
        return [*self._client(), "push", source, place]

    def explain(self, status: int | None, said: str) -> str:
        """Return why ``adb`` ended, in one line with what to do; what it said itself where that is not known.

        When a device is unplugged, ``adb`` ends with 0 and says nothing.
        """
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        own = "\n".join(line for line in lines if re.match(r"(adb: )?error:|\* |adb: |adb server", line))
        for pattern, reason in _REASONS:
            if re.search(pattern, own):
                return reason
        if not lines:
            return "the connection was lost" if status == 0 else "its program ended" + _with(status)
        return f"its program ended{_with(status)}: {lines[-1]}"

    def close(self) -> None:
        """Do nothing: adb's server is the user's."""

    def _client(self) -> list[str]:
        client = shutil.which("adb")
        if client is None:
            raise DeviceError(
                f"{self.place}: there is no adb on this machine; install Android's platform tools (apt-get install adb)"
            )
        return [client, "-s", self.serial]


def _with(status: int | None) -> str:
    return "" if status is None else f" with {status}"
