"""What many tests share: small networks, small data, one thread."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from compress.data import Data
from compress.deploy import clock
from runtimes.measure.presets import PRESETS
from tests.support.small_classifier import SMALL_NET, SmallNet, pattern_data

if TYPE_CHECKING:
    from tests.support.ssh_server import SshServer

with suppress(ImportError):
    importlib.import_module("setuptools")  # torch's compiler imports it in the middle of its work, where that can fail

torch.set_num_threads(1)
if "ATEN_CPU_CAPABILITY" in os.environ:  # torch's cache gives what it compiled to processes that compute otherwise
    cache = f"compiled-{os.getuid()}-{os.environ['ATEN_CPU_CAPABILITY']}"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path(tempfile.gettempdir(), cache)))


@pytest.fixture(scope="session", autouse=True)
def _own_state(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What tests name as code to run is not remembered for the user who runs them."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


@pytest.fixture(autouse=True)
def brief_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    """Latencies are taken from as many runs as ever, for fewer seconds: no test asserts how long one takes."""
    for name, preset in PRESETS.items():
        monkeypatch.setitem(PRESETS, name, replace(preset, warmup_s=0.0, seconds=0.02))
    monkeypatch.setattr(clock, "NETWORKS", replace(clock.NETWORKS, warmup_s=0.0, seconds=0.02))


@pytest.fixture
def ending_signals() -> Iterator[None]:
    """SIGINT and SIGHUP end what they reach, here and in processes started meanwhile; who runs the tests with ``nohup``
    or in the background of a shell has them ignored."""
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
    hangup = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGHUP, hangup)


FIRST = ("executorch", "coreml", "litert", "tests/cli/", "test_resume", "test_train")
"""What is in the names of tests that begin the run: those of engines that take long to import, so that one process does
it for all of them, and those that are long themselves, so that none of them is left alone at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put what takes long first; neighbours stay neighbours."""
    items.sort(key=lambda item: next((i for i, name in enumerate(FIRST) if name in item.nodeid), len(FIRST)))


@pytest.fixture
def small_net() -> SmallNet:
    torch.manual_seed(0)
    return SmallNet().eval()


@pytest.fixture
def small_net_file(tmp_path: Path) -> Path:
    path = tmp_path / "net.py"
    path.write_text(SMALL_NET)
    return path


@pytest.fixture
def data() -> Data:
    return pattern_data()


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    """An .npz of ten classes of 1x8x8 images."""
    generator = np.random.default_rng(0)
    path = tmp_path / "data.npz"
    np.savez(
        path,
        x_train=generator.integers(0, 255, (120, 1, 8, 8), dtype=np.uint8),
        y_train=np.arange(120) % 10,
        x_test=generator.integers(0, 255, (20, 1, 8, 8), dtype=np.uint8),
        y_test=np.arange(20) % 10,
    )
    return path


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    """A device over SSH that is this machine with another home."""
    from tests.support.ssh_server import ssh_server

    if shutil.which("ssh") is None:
        pytest.skip("there is no ssh client (apt-get install openssh-client)")
    with ssh_server(tmp_path_factory.mktemp("ssh")) as begun:
        yield begun


@pytest.fixture
def server(shared_server: SshServer) -> Iterator[SshServer]:
    """The device of the module; what a test sets of it ends with the test."""
    yield shared_server
    shared_server.reset()
    shared_server.write_config()


@pytest.fixture
def cpp_compiler() -> None:
    """Skips where there is none: ``torch.compile`` needs one on a CPU."""
    if shutil.which(os.environ.get("CXX", "c++")) is None:
        pytest.skip("torch.compile needs a C++ compiler")
