"""A comparison as a table of 80 columns, as Markdown and as JUnit XML, whatever the names are."""

from __future__ import annotations

import io
import re
from typing import Any
from xml.etree import ElementTree

import pytest

from compress.cli.output.compare_table import compare_table, lines
from compress.cli.output.terminal import Terminal
from compress.compare.junit import junit
from compress.compare.limits import Limits
from compress.compare.markdown import markdown
from compress.compare.outcome import Outcome, compared
from compress.compare.pairing import matched
from compress.report import BenchmarkRecord
from tests.support.measurements import record

HOSTILE = "a|b<i>`x`\n]]>&\"'\x1b[31m\x00\ud800 [link](x) <!-- "


def made(name: str, **known: Any) -> BenchmarkRecord:
    return BenchmarkRecord.model_validate(record(name, **known))


def outcome(name: str = "net.onnx", limits: Limits | None = None) -> Outcome:
    before = [made(name), made("b"), made("gone")]
    after = [
        made(name, median=2.4, seed=1, notes=[name], valid=False),
        made("b", median=1.0, seed=2),
        made("new", sha256="3"),
    ]
    return compared(
        matched(before, after), (f"{name}.json", "B.json"), limits or Limits(slowdown=5, growth=1), notes=(name,)
    )


def test_the_table_fits_and_tells_all() -> None:
    console = Terminal()
    console.file, console.width = io.StringIO(), 80
    console.print(compare_table(outcome()))
    for line in lines(outcome()):
        console.print(line)
    shown = console.file.getvalue()
    assert all(len(line) <= 80 for line in shown.splitlines())
    words = " ".join(shown.replace("\u00a0", " ").split())
    for expected in ("slower", "faster", "+19.9 %", "only in net.onnx.json: gone", "only in B.json: new"):
        assert expected in words
    assert "broken: slowdown 19.9 %, 5 % allowed" in words and "1 of 4 limits broken" in words


def test_markdown_has_a_row_for_each_pair() -> None:
    text = markdown(outcome()).replace("\u00a0", " ")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 2 and len({row.count("|") for row in rows}) == 1
    assert "| net.onnx | ONNX Runtime, 1 thread | 2.00 ms | 2.40 ms |" in text and "🔴 slower" in text
    assert "- **net.onnx**: broken: slowdown 19.9 %, 5 % allowed" in text and "- only in B.json: new" in text


def test_names_are_text_in_markdown() -> None:
    text = markdown(outcome(HOSTILE))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1, "no name makes a cell"
    assert not re.search(r"(?<!\\)[<>`\[\]]", text) and "\x1b" not in text and "\x00" not in text
    text.replace("\ud800", "").encode("utf-8")


def required(element: ElementTree.Element, *names: str) -> None:
    assert set(names) <= set(element.attrib), f"{element.tag} {element.attrib}"


def validated(text: str) -> ElementTree.Element:
    """The suite of a document of the common JUnit schema (Ant's): elements, their order, attributes and their form."""
    root = ElementTree.fromstring(text.encode("utf-8"))
    assert root.tag == "testsuites" and not root.attrib and [each.tag for each in root] == ["testsuite"]
    suite = root[0]
    required(suite, "name", "package", "id", "timestamp", "hostname", "tests", "failures", "errors", "time")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", suite.attrib["timestamp"])
    tags = [each.tag for each in suite]
    cases = suite.findall("testcase")
    assert tags == ["properties", *["testcase"] * len(cases), "system-out", "system-err"]
    for case in cases:
        required(case, "name", "classname", "time")
        float(case.attrib["time"])
        assert [each.tag for each in case] in ([], ["failure"], ["skipped"])
        for failure in case.findall("failure"):
            required(failure, "type", "message")
    counted = (len(cases), len(suite.findall(".//failure")), len(suite.findall(".//skipped")))
    assert counted == tuple(int(suite.attrib[name]) for name in ("tests", "failures", "skipped"))
    return suite


@pytest.mark.parametrize("name", ["net.onnx", HOSTILE], ids=["plain", "hostile"])
def test_junit_is_valid(name: str) -> None:
    suite = validated(junit(outcome(name)))
    assert (suite.attrib["tests"], suite.attrib["failures"], suite.attrib["errors"]) == ("4", "1", "0")
    failure = suite.find(".//failure")
    assert failure is not None and failure.attrib["message"].startswith("slowdown 19.9")
    assert suite.attrib["name"].endswith(".json → B.json")
    written = suite.findtext("system-out") or ""
    assert "only in B.json: new" in written and "\x1b" not in written


def test_junit_without_limits_has_a_test_for_each_pair() -> None:
    suite = validated(junit(outcome(limits=Limits())))
    assert [case.attrib["name"] for case in suite.findall("testcase")] == ["compared", "compared"]
