"""A device over SSH that is this machine, and what is asked of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtimes.devices.device import Settings
from runtimes.devices.remote import RemoteDevice
from runtimes.devices.ssh import SshConnection
from tests.support.ssh_server import Reach, SshServer


@pytest.fixture
def reach(server: SshServer) -> Iterator[Reach]:
    """Return the server as a device; settings are those of `Settings`, its Python being the one that runs the tests."""
    devices: list[RemoteDevice] = []

    def make(**settings: Any) -> RemoteDevice:
        connection = SshConnection.of(server.url, Path(server.config))
        devices.append(RemoteDevice(connection, Settings(**{"python": sys.executable, **settings}), "board"))
        return devices[-1]

    yield make
    for device in devices:
        device.close()
