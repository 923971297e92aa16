"""The page in a headless Chromium: from a file, by keyboard and by mouse, on a phone, in the dark and on paper."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from compress.report import Report, render
from tests.support.browser import Browser, chromium, opened
from tests.support.report_content import on_devices

pytestmark = pytest.mark.skipif(chromium() is None, reason="no chromium on this machine")

DESK, PHONE = 1240, 360


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render(Report.model_validate(on_devices())), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with opened(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.mark.parametrize("width", [DESK, PHONE])
def test_it_needs_nothing_but_itself(browser: Browser, page: Path, width: int) -> None:
    browser.open(page, width)
    assert browser.requests() == [page.as_uri()] and browser.complaints() == []
    assert browser.value("document.scripts.length") == 0


@pytest.mark.parametrize("width", [DESK, PHONE])
def test_nothing_is_wider_than_the_window(browser: Browser, page: Path, width: int) -> None:
    browser.open(page, width)
    assert browser.value("document.documentElement.scrollWidth") == width
    over = browser.value(
        "[...document.querySelectorAll('svg.figure text')].filter(t => {const a = t.getBoundingClientRect(), "
        "b = t.ownerSVGElement.getBoundingClientRect(); return a.left < b.left - 1 || a.right > b.right + 1})"
        ".map(t => t.textContent)"
    )
    assert over == [], "letters beside their figure"


def test_letters_can_be_read_on_a_phone(browser: Browser, page: Path) -> None:
    browser.open(page, PHONE)
    least = browser.value(
        "Math.min(...[...document.querySelectorAll('svg.figure text')]"
        ".map(t => parseFloat(getComputedStyle(t).fontSize)"
        " * t.ownerSVGElement.getBoundingClientRect().width / 480))"
    )
    assert least >= 8


def test_links_and_details_work_by_mouse(browser: Browser, page: Path) -> None:
    browser.open(page, DESK)
    for name in browser.value("[...document.querySelectorAll('nav a')].map(a => a.getAttribute('href'))"):
        browser.value("scrollTo(0, 0)")
        browser.click(f'nav a[href="{name}"]')
        assert browser.value("location.hash") == name
        assert browser.value(f"document.querySelector({name!r}).getBoundingClientRect().top < innerHeight")
    count = browser.value("document.querySelectorAll('details').length")
    assert count > 5
    for number in range(count):
        browser.value(f"document.querySelectorAll('details')[{number}].id = 'd{number}'")
        before = browser.value(f"document.querySelector('#d{number}').open")
        browser.click(f"#d{number} > summary")
        assert browser.value(f"document.querySelector('#d{number}').open") is not before


def test_all_that_can_be_used_is_reached_by_keyboard_and_seen(browser: Browser, page: Path) -> None:
    browser.open(page, DESK)
    wanted = browser.value("document.querySelectorAll('a, summary, [tabindex=\"0\"]').length")
    reached, opens = set(), 0
    for _ in range(wanted):
        browser.press("Tab", 9)
        told = browser.value(
            "(e => [e.tagName, [...document.querySelectorAll('*')].indexOf(e), getComputedStyle(e).outlineStyle, "
            "e.tagName === 'SUMMARY' && e.parentElement.open])(document.activeElement)"
        )
        assert told[2] != "none", f"{told[0]} shows no focus"
        reached.add(told[1])
        if told[0] == "SUMMARY" and not told[3]:
            browser.press("Enter", 13, "\r")
            opens += browser.value("document.activeElement.parentElement.open")
    assert len(reached) == wanted and opens > 3


def contrast(browser: Browser, selector: str) -> float:
    """The ratio of luminances of letters and what is behind them (WCAG 2.2, 1.4.3)."""
    found: float = browser.value(
        """(e => {
          const of = c => { const [r, g, b] = c.match(/[0-9.]+/g).slice(0, 3).map(v => v / 255)
            .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
          let behind = e;
          while (getComputedStyle(behind).backgroundColor === 'rgba(0, 0, 0, 0)') behind = behind.parentElement;
          const s = getComputedStyle(e), ink = of(e instanceof SVGElement ? s.fill : s.color);
          const back = of(getComputedStyle(behind).backgroundColor);
          return (Math.max(ink, back) + 0.05) / (Math.min(ink, back) + 0.05); })"""
        + f"(document.querySelector({selector!r}))"
    )
    return found


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_letters_stand_out(browser: Browser, page: Path, dark: bool) -> None:
    browser.open(page, DESK, dark=dark)
    for selector in ("h1", ".note", "nav a", ".doubts h2", ".pill.pass", "svg .tick", "svg .detail", "td .pill.warn"):
        assert contrast(browser, selector) >= 4.5, selector
    for number in range(3):
        assert contrast(browser, f"svg .label.s{number}") >= 3, "bold letters of figures"


def test_it_prints(browser: Browser, page: Path) -> None:
    browser.open(page, DESK, dark=True)
    paper = base64.b64decode(browser.send("Page.printToPDF", printBackground=True)["data"])
    assert paper.startswith(b"%PDF-") and 3 <= paper.count(b"/Type /Page\n") + paper.count(b"/Type /Page ") <= 30
    browser.send("Emulation.setEmulatedMedia", media="print")
    assert browser.value("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert browser.value("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    browser.send("Emulation.setEmulatedMedia", media="")
