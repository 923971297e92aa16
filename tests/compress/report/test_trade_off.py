"""The figure of bytes against fidelity."""

from __future__ import annotations

from xml.etree import ElementTree

from compress.report.figures.trade_off import Choice, trade_off_figure


def test_what_was_measured_is_a_dot_on_the_line() -> None:
    choices = [Choice(1000, 10.0, 11.0, "86.00 %"), Choice(1500, 20.0), Choice(2000, 30.0, 29.0, "<87 %>")]
    root = ElementTree.fromstring(trade_off_figure(choices, "bits & bytes", "note"))
    name = "{http://www.w3.org/2000/svg}"
    dots = [(float(dot.get("cx", "")), float(dot.get("cy", ""))) for dot in root.iter(f"{name}circle")]
    assert len(dots) == 2 and dots[0][0] < dots[1][0] and dots[0][1] > dots[1][1]
    assert len(list(root.iter(f"{name}path"))) == 1
    assert {"86.00 %", "<87 %>", "bits & bytes"} <= {text.text for text in root.iter(f"{name}text")}
    assert not list(ElementTree.fromstring(trade_off_figure([], "none", "")).iter(f"{name}circle"))
