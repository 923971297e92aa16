"""The connection that a place names: ``ssh://user@board``, ``adb:SERIAL``."""

from __future__ import annotations

from pathlib import Path

from ..errors import InvalidInputs
from .adb import SCHEME, AdbConnection
from .connection import Connection
from .ssh import SshConnection


def connection_to(place: str, ssh_config: Path | None = None) -> Connection:
    """Return the connection to a place; nothing is opened yet.

    Args:
        ssh_config: a file for ``ssh`` in place of the user's own configuration.

    Raises:
        InvalidInputs: it is no place that can be reached.
    """
    if place.startswith(SCHEME):
        return AdbConnection.of(place)
    scheme, _, rest = place.partition(":")
    if scheme == "ssh" and rest.startswith("//"):
        return SshConnection.of(place, ssh_config)
    raise InvalidInputs(f"device {place[:200]!r}: expected ssh://user@board:port or adb:SERIAL")
