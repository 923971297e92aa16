"""What a reader sees of a report, as plain text: the page without its tags, the terminal without its colours."""

from __future__ import annotations

import io
from html.parser import HTMLParser

from rich.console import Console

from compress.report import Report, terminal

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Outline(HTMLParser):
    """Checks that every tag is closed where it should be; collects tags, attributes and the text that a reader sees."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()} closes another tag"

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


def outline(page: str) -> Outline:
    parser = Outline()
    parser.feed(page)
    parser.close()
    assert not parser.open, f"left open: {parser.open}"
    return parser


def spaces(text: str) -> str:
    return " ".join(text.replace("\u00a0", " ").split())


def printed(report: Report, width: int = 200) -> str:
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(terminal(report))
    return out.getvalue().replace("\u00a0", " ")
