"""What an environment on a device is made of: numpy and engines, at the versions that this machine has."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata

from ..errors import DeviceError
from ..facts import describe

_INSTALL = re.compile(r"pip install ([A-Za-z0-9._-]+)")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Requirements:
    """Packages by exact version.

    Args:
        wanted: ``name==version`` of numpy and the engines.
        constraints: likewise of all that these need.
    """

    wanted: tuple[str, ...]
    constraints: tuple[str, ...]


def distribution(engine: str) -> str | None:
    """Return the package that pip installs an engine by; None where pip alone does not.

    >>> distribution("onnxruntime"), distribution("tensorrt")
    ('onnxruntime', None)
    """
    hit = _INSTALL.fullmatch(describe(engine).install)
    return None if hit is None else plain_name(hit[1])


def plain_name(name: str) -> str:
    """Return how an index calls a package (PEP 503).

    >>> plain_name("AI_edge.litert")
    'ai-edge-litert'
    """
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements(engines: Iterable[str], packages: Mapping[str, str]) -> Requirements:
    """Return what is installed for these engines.

    Args:
        packages: exact versions to take in place of this machine's.

    Raises:
        DeviceError: an engine comes otherwise than by pip, or its version is not known.
    """
    named = {plain_name(name): version for name, version in packages.items()}
    wanted = {"numpy": _version("numpy", named)}
    for engine in engines:
        package = distribution(engine)
        if package is None:
            raise DeviceError(
                f"{describe(engine).title} does not come by pip alone; name a Python of the device by python"
            )
        wanted[package] = _version(package, named)
    needed = {**_needed(wanted), **wanted, **named}
    pins = tuple(f"{name}=={version}" for name, version in sorted(needed.items()))
    return Requirements(tuple(f"{name}=={version}" for name, version in sorted(wanted.items())), pins)


def _version(package: str, named: Mapping[str, str]) -> str:
    if package in named:
        return named[package]
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        raise DeviceError(
            f"{package} is not installed here, so its version is not known; give one by packages: {{{package}: ...}}"
        ) from None


def _needed(wanted: Iterable[str]) -> dict[str, str]:
    """The versions here of all that these packages need, extras left out."""
    versions: dict[str, str] = {}
    left = list(wanted)
    while left:
        name = left.pop()
        if name in versions:
            continue
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        versions[name] = found.version
        for line in found.requires or ():
            hit = _NAME.match(line)
            if hit is not None and "extra ==" not in line:
                left.append(plain_name(hit[0]))
    return versions
