"""What runs first on a device: it looks at it, takes files, makes an environment, and becomes the agent.

It is sent as source, with the modules that it imports, and only uses what Python itself comes with.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from . import environments
from .serve import Call, Ended, Handler, failed, serve, streams
from .store import VARIABLE, Requests, Store

AGENT = "import sys; sys.path[:0] = [sys.argv[1]]; from runtimes.agent.__main__ import main; sys.exit(main())"


class Bootstrap:
    """The requests that are answered before there is an agent."""

    def __init__(self) -> None:
        self.streams = streams()
        self.files = Requests()

    def handlers(self) -> dict[str, Handler]:
        """Return what answers each request."""
        own = (self.probe, self.environment, self.conditions, self.distributions, self.clean, self.become)
        return {**{each.__name__: each for each in own}, **self.files.handlers()}

    def probe(self, call: Call) -> dict[str, Any]:
        """Say what there is, and open the cache; ``cache`` may name its folder."""
        facts = environments.facts() | {"time": time.time()}
        self.files.store = Store(call.values.get("cache"))
        self.files.store.open()
        return facts | {"cache": self.files.store.usage()}

    def environment(self, call: Call) -> dict[str, Any]:
        """Make the environment that is asked for; answer with its Python."""
        wheels = call.values.get("wheels")
        python = environments.environment(
            self.files.opened,
            call.values["requirements"],
            call.values["constraints"],
            None if wheels is None else Path(wheels),
        )
        return {"python": str(python)}

    def conditions(self, call: Call) -> dict[str, Any]:
        """Say what this machine is, by the package that was sent."""
        with _importing(call.values["package"]):
            from runtimes.sensors.conditions import conditions
        return asdict(conditions())

    def distributions(self, call: Call) -> dict[str, Any]:
        """Say which version of each package there is for this Python; None where it is not installed."""
        versions: dict[str, str | None] = dict.fromkeys(call.values["names"])
        for name in versions:
            with suppress(metadata.PackageNotFoundError):
                versions[name] = metadata.version(name)
        return versions

    def clean(self, call: Call) -> dict[str, Any]:
        """Remove the cache; answer with the bytes that it had.

        What a measurement changed of the machine and could not put back, as where the power failed, is put back before:
        how it was is written in the cache alone.
        """
        store = self.files.opened
        os.environ[VARIABLE] = str(store.caches)
        with _importing(call.values["package"]):
            from runtimes.sensors.settings import put_back_left
        put_back_left()
        return {"bytes": store.clean()}

    def become(self, call: Call) -> dict[str, Any]:
        """Become the agent of a Python; the answer is the agent's greeting."""
        store = self.files.opened
        store.abandon()
        space = store.temporary("space")  # the process stays the same one, and so does its number
        space.mkdir(exist_ok=True)
        caches = str(store.caches)  # of engines too: nothing is left elsewhere
        own = {"TMPDIR": str(space), "XDG_CACHE_HOME": caches, VARIABLE: caches}
        environment = {**os.environ, **own, **call.values.get("environment", {})}
        python = call.values.get("python") or sys.executable
        words = [python, "-u", "-P", "-c", AGENT, call.values["package"], str(store.folder.parent)]
        self.streams.exec(words, environment)


@contextmanager
def _importing(package: str) -> Iterator[None]:
    """Within, the package that was sent can be imported."""
    sys.path.insert(0, package)
    try:
        yield
    finally:
        sys.path.remove(package)


def main() -> int:
    """Answer until the connection ends, or this process becomes another program."""
    bootstrap = Bootstrap()
    try:
        serve(bootstrap.streams.wire, bootstrap.handlers(), {})
    except Ended:
        return 1
    except OSError as error:
        return failed(error)
    finally:
        if bootstrap.files.store is not None:
            bootstrap.files.store.abandon()
    return 0
