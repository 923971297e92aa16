"""One board for the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.board import Board, board, missing


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever is in this folder is marked."""
    for item in items:
        if "tests/board/" in item.path.as_posix():
            item.add_marker("board")


@pytest.fixture(scope="module")
def arm_board() -> Iterator[Board]:
    """A board as it is unpacked."""
    reason = missing()
    if reason is not None:
        pytest.skip(f"an emulated board: {reason}")
    with board() as made:
        yield made
