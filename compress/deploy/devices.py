"""The devices that a command runs on: named by their place, or in a file of devices."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from ..core.complaint import first_complaint
from ..core.settings import required, setting
from ..errors import InvalidInput
from ..files import strict_yaml
from ..files.untrusted import read_text
from ..quantize.detect import Detected, detected, target_for
from ..siblings import runtimes
from ..stage import Config, Progress

FILE = Path("devices.yaml")
"""Where devices are named, if a command names no other file."""

LARGEST_BYTES = 2**18
"""Of such a file."""

LONGEST = 1000
"""Characters of a place, or of a name."""

_PLACE = re.compile(r"[a-z]+:.+")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class DeviceConfig(Config):
    """A device of a file of devices; paths here are relative to the file."""

    url: Annotated[str, required("Where it is: ssh://user@board:port or adb:SERIAL.", max_length=LONGEST)]
    python: str | None = setting(
        None,
        "The Python there to run, as it is; left out, an environment is made there with what is needed.",
        max_length=1000,
    )
    packages: Mapping[str, str] = setting(
        {}, "Exact versions to install there, by package; left out, those of this machine.", max_length=100
    )
    wheelhouse: str | None = setting(
        None, "A folder here of wheels to install from, for a device without network.", max_length=1000
    )
    cache: str | None = setting(None, "The folder there to keep files in.", max_length=1000)
    cores: tuple[Annotated[int, Field(ge=0, le=2**16)] | str, ...] | None = setting(
        None,
        "That runs are pinned to there: numbers, ranges as 0-3, or names of clusters.",
        min_length=1,
        max_length=64,
    )
    ssh_config: str | None = setting(None, "A file for ssh in place of the user's own configuration.", max_length=1000)
    native: str | None = setting(
        None,
        "A folder here of programs for a device without Python, over adb: the runner with an engine's library, or the "
        "engines' own benchmark programs.",
        max_length=1000,
    )
    silence: float = setting(120.0, "A device that says nothing for so long is gone.", unit="s", ge=5, le=3600)

    def settings(self, folder: Path) -> runtimes.devices.device.Settings:
        """How the device is used; ``folder`` is that of the file."""
        return runtimes.devices.device.Settings(
            self.python,
            None if self.wheelhouse is None else _path(self.wheelhouse, folder),
            self.packages,
            self.cache,
            self.cores,
            self.silence,
        )


def read(path: Path) -> dict[str, DeviceConfig]:
    """The devices in a YAML file, by name.

    Raises:
        InvalidInput: not readable, not YAML, or a key or value is wrong; the message names its place.
    """
    where = f"devices {path}"
    content = strict_yaml.parse(read_text(path, "devices", most=LARGEST_BYTES), where)
    if not isinstance(content, dict):
        raise InvalidInput(f"{where}: expected a mapping of names to devices, got {type(content).__name__}")
    devices = {}
    for name, values in content.items():
        if not _NAME.fullmatch(name) or name == runtimes.devices.device.LOCAL:
            raise InvalidInput(f"{where}: {name[:40]!r} is no name for a device; take letters, digits, dots and dashes")
        try:
            devices[name] = DeviceConfig.model_validate(values)
        except ValidationError as error:
            complaint = first_complaint(error)
            raise InvalidInput(f"{where}: {name}: {complaint.line('settings')}{complaint.and_more}") from error
    return devices


def named(names: Sequence[str], file: Path | None = None, progress: Progress | None = None) -> list[Any]:
    """The devices of these names, in order; none of them is reached yet.

    Args:
        names: "local", places as ``ssh://user@board``, or names of the file.
        file: of devices; left out, ``devices.yaml`` in the current folder.
        progress: told of what takes long before anything runs on a device.

    Raises:
        InvalidInput: a name is in no file, or a place or a setting is wrong.
    """
    path = file or FILE
    for name in names:
        if not name.strip() or len(name) > LONGEST:
            raise InvalidInput(f"--on: expected the place or the name of a device, got {name[:80]!r}")
    needs_file = [name for name in names if name != runtimes.devices.device.LOCAL and not _PLACE.fullmatch(name)]
    known = read(path) if file is not None or (needs_file and path.exists()) else {}
    devices = []
    for name in dict.fromkeys(names):
        if name == runtimes.devices.device.LOCAL:
            devices.append(runtimes.devices.local.LocalDevice())
        elif _PLACE.fullmatch(name):
            devices.append(_device(name, DeviceConfig(url=name), name, Path(), progress))
        elif name in known:
            devices.append(_device(name, known[name], f"devices {path}: {name}", path.parent, progress))
        else:
            there = f"{path} has {', '.join(known) or 'none'}" if path.exists() else f"there is no {path}"
            raise InvalidInput(
                f"--on {name[:80]}: expected local, ssh://user@board, adb:SERIAL or a name of a device; {there}"
            )
    return devices


def names(file: Path | None = None) -> list[str]:
    """The names of the devices in ``file``, by default ``devices.yaml``; none where there is no such file."""
    if file is None and not FILE.exists():
        return []
    return list(read(file or FILE))


@contextmanager
def opened(
    names: Sequence[str], file: Path | None = None, progress: Progress | None = None
) -> Iterator[list[runtimes.devices.device.Device]]:
    """Within: the devices of these names, this machine where there are none; see :func:`named`."""
    with ExitStack() as stack:
        devices = named(names or (runtimes.devices.device.LOCAL,), file, progress)
        for device in devices:
            stack.callback(device.close)
        yield devices


def target_on(device: runtimes.devices.device.Device) -> Detected:
    """The target for the processor of a device."""
    if device.name == runtimes.devices.device.LOCAL:
        return detected()
    here = device.conditions()
    return target_for(here.architecture, here.isa)


def _device(name: str, config: DeviceConfig, where: str, folder: Path, progress: Progress | None) -> Any:
    try:
        ssh_config = None if config.ssh_config is None else _path(config.ssh_config, folder)
        connection = runtimes.devices.places.connection_to(config.url, ssh_config)
        settings = config.settings(folder)
        if ssh_config is not None and not ssh_config.exists():
            raise InvalidInput(f"{where}: ssh_config: there is no {ssh_config}")
        if settings.wheelhouse is not None and not settings.wheelhouse.is_dir():
            raise InvalidInput(f"{where}: wheelhouse: expected a folder of wheels, got {settings.wheelhouse}")
    except runtimes.errors.InvalidInputs as error:
        raise InvalidInput(str(error) if where == name else f"{where}: {error}") from error
    if config.native is not None:
        if not isinstance(connection, runtimes.devices.adb.AdbConnection):
            raise InvalidInput(f"{where}: native: expected a device over adb, got {config.url}")
        programs = _path(config.native, folder)
        if not programs.is_dir():
            raise InvalidInput(f"{where}: native: expected a folder of programs, got {programs}")
        return runtimes.devices.native.device.NativeDevice(connection, programs, settings, name)
    return runtimes.devices.remote.RemoteDevice(connection, settings, name, progress)


def _path(text: str, folder: Path) -> Path:
    path = Path(text).expanduser()
    return path if path.is_absolute() else folder / path
