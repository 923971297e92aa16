"""A full report, as a dictionary to change and as it is read."""

from __future__ import annotations

import pytest

from compress.report import Report
from tests.support.report_content import content


@pytest.fixture
def filled() -> dict[str, object]:
    """What the runner fills a report with, for tests that change it."""
    return content()


@pytest.fixture
def report() -> Report:
    """A report in which everything is filled in."""
    return Report.model_validate(content())
