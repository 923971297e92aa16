"""compress devices"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from .grammar import options

if TYPE_CHECKING:
    from ..siblings import runtimes
    from .session import Options

ACTIONS = ("list", "check", "clean")


@options.command("devices", short_help="List, check and clean the devices that files can run on.")
@click.argument("action", type=click.Choice(ACTIONS), default="list")
@options.device
@options.telling
def command(action: str, **values: Any) -> None:
    """Look at the devices of --on, or at all that devices.yaml names: what they are, which engines they have.

    list tells their facts, check what is missing to run files there and the line that mends it, clean removes all that
    was kept on them.

    \b
    Example:
      compress devices list
      compress devices check --on ssh://pi@board
      compress devices clean --on pi5
    """
    from .session import Options

    call = Options(**values)
    work = {"list": _list, "check": _check, "clean": _clean}[action]
    told: dict[str, dict[str, Any]] = {}
    failures = _on_each(call, lambda device: told.update({device.name: work(device)}))
    _print(call, action, told, failures)
    call.tell({"devices": [{"name": name, **facts} for name, facts in told.items()]})
    _require_none(failures)


RemoteDevice = Any


def _on_each(call: Options, work: Callable[[RemoteDevice], object]) -> dict[str, runtimes.errors.RuntimesError]:
    """Do ``work`` on each device that is not this machine; what each of the others fails with."""
    from .. import deploy
    from ..siblings import runtimes
    from .session import progress_bars

    failures: dict[str, runtimes.errors.RuntimesError] = {}
    names = [name for name in call.on or deploy.devices.names(call.devices_file) if name != "local"]
    with progress_bars(call) as progress, deploy.opened(names or ("local",), call.devices_file, progress) as devices:
        for device in devices if names else ():
            try:
                work(device)
            except runtimes.errors.RuntimesError as error:
                failures[device.name] = error
            finally:
                device.close()
    return failures


def _list(device: RemoteDevice) -> dict[str, Any]:
    from .. import deploy
    from ..siblings import runtimes

    facts, target = device.facts(), deploy.target_on(device)
    return {
        **runtimes.devices.device.facts_of(device),
        "target": target.target,
        "engines": device.engines(),
        "python": facts["python"],
        "libc": facts["libc"],
        "cache": facts["cache"],
    }


def _check(device: RemoteDevice) -> dict[str, Any]:
    """Whether files of each engine can run there; an environment is made for those of ``packages``."""
    from .. import deploy
    from ..siblings import runtimes

    engine = runtimes.facts.targets()[deploy.target_on(device).target].engine
    version = device.version(engine)
    return {"engine": engine, "version": version, "sent_bytes": device.sent_bytes, **_list_facts(device)}


def _list_facts(device: RemoteDevice) -> dict[str, Any]:
    facts = device.facts()
    return {"python": facts["python"], "machine": facts["machine"], "clock_off_s": facts["clock_off_s"]}


def _clean(device: RemoteDevice) -> dict[str, Any]:
    folder = device.facts()["cache"]["folder"]
    return {"removed_bytes": device.clean(), "folder": folder}


def _print(
    call: Options, action: str, told: dict[str, dict[str, Any]], failures: dict[str, runtimes.errors.RuntimesError]
) -> None:
    from rich.table import Table
    from rich.text import Text

    columns: dict[str, tuple[tuple[str, Callable[[dict[str, Any]], str]], ...]] = {
        "list": (
            ("processor", lambda facts: str(facts["board"] or facts["cpu"] or facts["architecture"])),
            ("target", lambda facts: facts["target"]),
            ("python", lambda facts: f"{facts['python']}, {facts['libc']}"),
            ("engines", lambda facts: ", ".join(f"{n} {v}" for n, v in facts["engines"].items()) or "none yet"),
            ("kept MB", lambda facts: f"{facts['cache']['bytes'] / 1e6:.1f}"),
            ("free MB", lambda facts: f"{facts['cache']['free_bytes'] / 1e6:,.0f}"),
        ),
        "check": (
            ("engine", lambda facts: f"{facts['engine']} {facts['version']}"),
            ("python", lambda facts: facts["python"]),
            ("sent bytes", lambda facts: f"{facts['sent_bytes']:,}"),
        ),
        "clean": (
            ("removed", lambda facts: facts["folder"]),
            ("MB", lambda facts: f"{facts['removed_bytes'] / 1e6:.1f}"),
        ),
    }
    table = Table("device", *(title for title, _ in columns[action]), "state")
    for name, facts in told.items():
        table.add_row(Text(name), *(Text(str(cell(facts))) for _, cell in columns[action]), "ready")
    for name in failures:
        table.add_row(Text(name), *("-" for _ in columns[action]), "FAILED")
    if told or failures:
        call.console.print(table)
    else:
        call.console.print("no devices: name one by --on ssh://user@board, or several in devices.yaml")
    for error in failures.values():
        call.console.print(Text(f"  {error}"))


def _require_none(failures: dict[str, runtimes.errors.RuntimesError]) -> None:
    from ..siblings import runtimes

    if failures:
        first, *others = failures.values()
        raise runtimes.errors.DeviceError(f"{first}{f' (and {len(others)} other devices fail)' if others else ''}")
