"""Where the time of a file goes, on the page and in the terminal."""

from __future__ import annotations

import re
from typing import Any

import pytest

from compress.report import Report, render
from compress.report.sections.time_by_layer import ROWS, files, untold
from tests.support.report_content import content, profiled
from tests.support.report_text import outline, printed, spaces


@pytest.fixture
def timed() -> dict[str, Any]:
    """A report whose baseline and deployed file were profiled, and the file between them not."""
    whole: dict[str, Any] = content()
    for number, side, integer in ((0, "before", False), (2, "after", True)):
        benchmark = whole["benchmarks"][number]
        benchmark["profile"] = profiled(
            benchmark["name"], whole["layers"][side], 2.0 if number == 0 else 0.5, integer=integer
        )
    return whole


def test_each_file_has_a_bar_for_each_row_on_one_scale_and_its_shares_are_those_of_the_time(
    timed: dict[str, Any],
) -> None:
    report = Report.model_validate(timed)
    shown = files(report)
    assert [file.benchmark.name for file in shown] == ["baseline", "pruned-int8"]
    most_ms = max(row.row.duration_ms for file in shown for row in file.rows)
    for file in shown:
        assert file.benchmark.profile is not None
        assert sum(row.share for row in file.rows) == pytest.approx(1.0)
        for row in file.rows:
            widths = [float(width) for width in re.findall(r' width="([0-9.]+)%"', row.bar)]
            assert sum(widths) == pytest.approx(100 * row.row.duration_ms / most_ms, abs=0.02)
            assert row.share == pytest.approx(row.row.duration_ms / file.benchmark.profile.total_ms)
    assert spaces(untold(report)) == "No time of single nodes is told of pruned at 1 thread in ONNX Runtime."


def test_the_page_tells_the_slowest_layer_what_fell_back_and_whose_times_are_not_told(timed: dict[str, Any]) -> None:
    page = render(Report.model_validate(timed))
    text = spaces(outline(page).text)
    assert "layer1.0.conv1 takes 5 % of the time of pruned-int8" in text
    assert "pruned-int8: 0.500 ms in all nodes" in text
    assert "90 % in integers · 4 % in float · 4 % converting and moving data · 2 % in nodes that fell back" in text
    assert "Add (9 nodes) fell back" in text, "rows with nodes that fell back are marked in words"
    assert "No time of single nodes is told of pruned at 1 thread in ONNX Runtime." in text
    assert page.count('class="n-fell"') == 4, "in the row and in the whole, of two files"


def test_where_the_deployed_file_tells_no_times_the_last_one_that_does_is_open(timed: dict[str, Any]) -> None:
    timed["benchmarks"][2]["profile"] = None
    page = render(Report.model_validate(timed))
    assert "of the time of baseline" in spaces(outline(page).text)
    assert page.count('<details class="file" open>') == page.count('<details class="file"') == 1


def test_rows_that_are_not_shown_are_counted(timed: dict[str, Any]) -> None:
    profile = timed["benchmarks"][2]["profile"]
    profile["rows"] = [
        {"layer": f"block{n}", "nodes": [f"n{n}"], "ops": ["Conv"], "kind": "float", "providers": [], "joined": "order"}
        | {"duration_ms": 1.0}
        for n in range(ROWS + 10)
    ]
    profile |= {"total_ms": float(ROWS + 10), "left_layers": ["head"]}
    file = files(Report.model_validate(timed))[1]
    assert len(file.rows) == ROWS
    text = " ".join(spaces(note) for note in file.notes)
    assert "10 faster rows with 20.0 % of the time are not shown" in text
    assert "No node was found for head" in text and f"{ROWS + 10} layers were found by order alone" in text


def test_names_are_escaped_and_a_report_without_profiles_has_no_such_section(timed: dict[str, Any]) -> None:
    assert 'id="time"' not in render(Report.model_validate(content()))
    timed["benchmarks"][2]["profile"]["rows"][0] |= {"layer": "<b>&", "ops": ["<i>"]}
    page = render(Report.model_validate(timed))
    assert "<b>&" not in page and "&lt;b&gt;&amp;" in page and "<i>" not in page


def test_the_terminal_tells_the_slowest_layers_of_each_file(timed: dict[str, Any]) -> None:
    text = printed(Report.model_validate(timed))
    assert "pruned-int8: 0.500 ms in all nodes" in text and "layer1.0.conv1 5 %" in text
    assert "2 % in nodes that fell back" in text
