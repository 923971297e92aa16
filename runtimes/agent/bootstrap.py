"""What runs first on a device: it looks at it, takes files, makes an environment, and becomes the agent.

It is sent as source, with the modules that it imports, and only uses what Python itself comes with.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from . import environments
from .serve import Call, Ended, Handler, serve, streams
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
        sys.path.insert(0, call.values["package"])
        try:
            from runtimes.sensors.conditions import conditions
        finally:
            sys.path.remove(call.values["package"])
        return asdict(conditions())

    def distributions(self, call: Call) -> dict[str, Any]:
        """Say which version of each package there is for this Python; None where it is not installed."""
        versions: dict[str, str | None] = dict.fromkeys(call.values["names"])
        for name in versions:
            with suppress(metadata.PackageNotFoundError):
                versions[name] = metadata.version(name)
        return versions

    def clean(self, call: Call) -> dict[str, Any]:
        """Remove the cache; answer with the bytes that it had."""
        return {"bytes": self.files.opened.clean()}

    def become(self, call: Call) -> dict[str, Any]:
        """Become the agent of a Python; the answer is the agent's greeting."""
        store = self.files.opened
        store.abandon()
        space = store.temporary("space")  # the process stays the same one, and so does its number
        space.mkdir(exist_ok=True)
        caches = str(store.folder / "caches")  # of engines too: nothing is left elsewhere
        own = {"TMPDIR": str(space), "XDG_CACHE_HOME": caches, VARIABLE: caches}
        environment = {**os.environ, **own, **call.values.get("environment", {})}
        python = call.values.get("python") or sys.executable
        words = [python, "-u", "-P", "-c", AGENT, call.values["package"], str(store.folder.parent)]
        self.streams.exec(words, environment)


def main() -> int:
    """Answer until the connection ends, or this process becomes another program."""
    bootstrap = Bootstrap()
    try:
        serve(bootstrap.streams.wire, bootstrap.handlers(), {})
    except (Ended, OSError):
        return 1
    finally:
        if bootstrap.files.store is not None:
            bootstrap.files.store.abandon()
    return 0
