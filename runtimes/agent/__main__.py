"""The agent: what :mod:`runtimes.agent.bootstrap` becomes, with numpy and an engine beside it."""

from __future__ import annotations

import platform
import sys

from .serve import Ended, failed, serve, streams
from .store import Refused, Requests, Store


def main() -> int:
    """Answer requests over stdin and stdout until the connection ends; arguments are the package and the cache."""
    mine = streams()
    store = Store(sys.argv[2])
    operations = None
    try:
        store.open()
        try:
            from .operations import Operations
        except ImportError as error:  # numpy is the only package that it needs
            mine.wire.send({"event": "failed", "message": f"its Python {sys.executable} lacks a package: {error}"})
            return 3
        import numpy as np

        operations = Operations()
        versions = {"python": platform.python_version(), "numpy": np.__version__}
        serve(mine.wire, {**Requests(store).handlers(), **operations.handlers()}, versions)
    except Refused as error:  # its cache, at the start
        mine.wire.send({"event": "failed", "message": str(error)})
        return 1
    except Ended:
        return 1
    except OSError as error:
        return failed(error)
    finally:
        if operations is not None:
            operations.close()
        store.abandon()
    return 0
