"""An SSH server on loopback that runs commands on this machine, with a home of its own; it can cut its connections."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncssh

from runtimes.devices.remote import RemoteDevice

USER = "tester"

Reach = Callable[..., RemoteDevice]
"""Makes a device that a server is, with settings of :class:`runtimes.devices.device.Settings`."""

Watch = Callable[[bytes], bool]
"""Looks at what passes by, and says whether the connection is to be cut there."""


def never(data: bytes) -> bool:
    return False


@dataclass
class SshServer:
    """A server that has begun.

    Args:
        folder: where its keys are, and the configuration for ``ssh``.
        home: of its user.
        from_client: looks at what clients send.
        from_device: looks at what commands write.
        environment: of commands, besides ``HOME`` and ``PATH``.
    """

    folder: Path
    home: Path
    port: int = 0
    from_client: Watch = never
    from_device: Watch = never
    environment: Mapping[str, str] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)
    processes: list[asyncio.subprocess.Process] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"ssh://{USER}@127.0.0.1:{self.port}"

    @property
    def config(self) -> Path:
        return self.folder / "ssh_config"

    def entry(self, **settings: Any) -> dict[str, Any]:
        """What a file of devices says of it."""
        return {"url": self.url, "ssh_config": str(self.config), **settings}

    def reset(self) -> None:
        self.from_client, self.from_device, self.environment = never, never, {}

    def write_config(self, *, key: str = "client", known: str = "known_hosts") -> None:
        lines = (
            f"IdentityFile {self.folder / key}",
            "IdentitiesOnly yes",
            f"UserKnownHostsFile {self.folder / known}",
            "GlobalKnownHostsFile none",
        )
        self.config.write_text("".join(f"{line}\n" for line in lines))

    async def run(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        command = process.command or ""
        self.commands.append(command)
        environment = {"HOME": str(self.home), "PATH": os.environ["PATH"], **self.environment}
        pipe = asyncio.subprocess.PIPE
        started = await asyncio.create_subprocess_exec(
            "sh", "-c", command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment, cwd=self.home,
            start_new_session=True,
        )  # fmt: skip
        self.processes.append(started)
        assert started.stdin is not None and started.stdout is not None and started.stderr is not None
        connection = process.channel.get_connection()
        feeding = asyncio.create_task(_pump(process.stdin, started.stdin, self, "from_client", connection))
        speaking = asyncio.create_task(_pump(started.stdout, process.stdout, self, "from_device", connection))
        complaining = asyncio.create_task(_pump(started.stderr, process.stderr, self, "", connection))
        status = await started.wait()
        for task in (speaking, complaining):
            with suppress(Exception):
                await task
        feeding.cancel()
        with suppress(Exception):
            if status < 0:
                process.exit_with_signal("KILL")
            else:
                process.exit(status)


async def _pump(source: Any, target: Any, server: SshServer, watch: str, connection: Any) -> None:
    try:
        while data := await source.read(2**16):
            if watch and getattr(server, watch)(data):
                connection.abort()
                return
            target.write(data)
            await target.drain()
    except (asyncssh.Error, OSError, BrokenPipeError):
        pass
    finally:
        if watch == "from_client":
            target.close()


class _Accounts(asyncssh.SSHServer):
    def begin_auth(self, username: str) -> bool:
        return True

    def password_auth_supported(self) -> bool:
        return True

    def validate_password(self, username: str, password: str) -> bool:
        return False


@contextmanager
def ssh_server(folder: Path) -> Iterator[SshServer]:
    """Within: a server with a host key and one client key, both made now, known to a configuration for ``ssh``."""
    home = folder / "home"
    home.mkdir()
    host, client, other = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(3))
    for name, key in (("client", client), ("other", other)):
        (folder / name).write_bytes(key.export_private_key())
        (folder / name).chmod(0o600)
    (folder / "authorized").write_bytes(client.export_public_key())
    server = SshServer(folder, home)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def begin() -> asyncssh.SSHAcceptor:
        return await asyncssh.create_server(
            _Accounts, "127.0.0.1", 0, server_host_keys=[host], authorized_client_keys=str(folder / "authorized"),
            process_factory=server.run, encoding=None, line_editor=False,
        )  # fmt: skip

    acceptor = asyncio.run_coroutine_threadsafe(begin(), loop).result(30)
    server.port = acceptor.get_port()
    place = f"[127.0.0.1]:{server.port}"
    for name, key in (("known_hosts", host), ("changed_hosts", other)):
        (folder / name).write_bytes(place.encode() + b" " + key.export_public_key())
    (folder / "no_hosts").write_bytes(b"")
    server.write_config()
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(_end(acceptor, server), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


async def _end(acceptor: asyncssh.SSHAcceptor, server: SshServer) -> None:
    """Leave nothing pending, which the garbage collector would end in the middle of another test."""
    acceptor.close()
    for process in server.processes:
        with suppress(ProcessLookupError, PermissionError):
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.wait(others, timeout=5) if others else None
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    for process in server.processes:
        process._transport.close()  # type: ignore[attr-defined]
    await asyncio.sleep(0)
