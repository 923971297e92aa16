"""No figure is typed: pages and pictures are what the files of results make them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.common.results import FOLDER
from docs.generate import picture, results

STALE = "it is stale: run `make docs` and commit what it writes"
NAMES = [path.stem for path in sorted(FOLDER.glob("*.json"))]


def test_the_page_of_results_is_rendered_from_the_files() -> None:
    assert results.PAGE.read_text(encoding="utf-8") == results.page(), f"docs/results.md: {STALE}"


def test_the_figures_of_the_readme_are_rendered_from_the_files() -> None:
    text = results.README.read_text(encoding="utf-8")
    assert text == results.with_headlines(text), f"README.md: {STALE}"


def test_the_picture_is_drawn_from_the_report() -> None:
    assert picture.PICTURE.read_text(encoding="utf-8") == picture.draw(results.report()), f"report.svg: {STALE}"


def test_the_picture_needs_nothing_but_itself() -> None:
    drawn = picture.draw(results.report())
    assert not re.search(r"<script|<image|@import|href=|url\(|var\(", drawn) and len(drawn) < 50_000
    assert drawn.count('class="dot') == 2 * len(results.report().benchmarks)


def test_every_file_of_results_is_shown_once() -> None:
    shown = [name for names in results.SECTIONS.values() for name in names]
    assert sorted(shown) == NAMES and len(set(shown)) == len(shown)


@pytest.mark.parametrize("name", NAMES)
def test_a_result_names_its_benchmark(name: str) -> None:
    assert results.results(name).command.split()[:3] == ["python", "-m", f"benchmarks.{name}"]


def test_a_readme_without_its_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="expected the marks"):
        results.with_headlines("# Title\n")


def test_figures_change_with_their_file(tmp_path: Path) -> None:
    for name in NAMES:
        (tmp_path / f"{name}.json").write_bytes((FOLDER / f"{name}.json").read_bytes())
    parity = tmp_path / "parity_matrix.json"
    parity.write_text(parity.read_text(encoding="utf-8").replace("186", "123"), encoding="utf-8")
    assert "123 of 190" in results.headlines(tmp_path)[2] and "| 123 |" in results.page(tmp_path)
