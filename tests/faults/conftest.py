"""The process that runs the commands of all tests here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.commands import Worker


@pytest.fixture(scope="session")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    with Worker(tmp_path_factory.mktemp("worker")) as started:
        yield started
