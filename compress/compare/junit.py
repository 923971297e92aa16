"""A comparison as JUnit XML, which CI servers show as tests: a test for each limit of each pair.

The elements and attributes are those that both Ant's report and the servers know (Ant's JUnit schema): every suite has
properties, cases, and what it wrote.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from .comparison import Comparison, median_ms
from .limits import Check
from .outcome import Outcome, change_of, interval_of, outcome_line, remarks, setting_of, title_of, verdict

_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 has no way to write."""


def junit(outcome: Outcome) -> str:
    """The comparison as a document in UTF-8. A limit that is broken is a failure, one that is undecided was skipped."""
    cases = [
        case for each, found in zip(outcome.comparisons, outcome.checks, strict=True) for case in _cases(each, found)
    ]
    counts = {
        "tests": str(len(cases)),
        "failures": str(sum(case.find("failure") is not None for case in cases)),
        "errors": "0",
        "skipped": str(sum(case.find("skipped") is not None for case in cases)),
    }
    taken = f"{sum(float(case.get('time', 0)) for case in cases):.6f}"
    root = Element("testsuites")
    suite = SubElement(
        root,
        "testsuite",
        {
            "name": _plain(f"{outcome.before} → {outcome.after}"),
            "package": "compress.compare",
            "id": "0",
            "timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S"),
            "hostname": _plain(socket.gethostname()) or "localhost",
            "time": taken,
            **counts,
        },
    )
    SubElement(suite, "properties")
    suite.extend(cases)
    SubElement(suite, "system-out").text = _plain("\n".join(_told(outcome)))
    SubElement(suite, "system-err")
    indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(root, encoding="unicode") + "\n"


def _cases(comparison: Comparison, found: Sequence[Check]) -> list[Element]:
    """A test for each check; where there is no limit, one that passes."""
    time = f"{median_ms(comparison.after) / 1000:.6f}"
    where = {"classname": _plain(f"{title_of(comparison)} ({setting_of(comparison)})"), "time": time}
    told = _plain("\n".join((_line(comparison), *remarks(comparison, found))))
    cases = []
    for check in found:
        case = Element("testcase", {"name": check.name, **where})
        if check.outcome == "broken":
            failure = SubElement(case, "failure", {"type": check.name, "message": _plain(check.words)})
            failure.text = told
        elif check.outcome == "undecided":
            SubElement(case, "skipped", {"message": _plain(check.words)})
        cases.append(case)
    if not found:
        cases.append(Element("testcase", {"name": "compared", **where}))
    return cases


def _told(outcome: Outcome) -> Iterator[str]:
    """What stands in no case: the whole in a line, each pair, and what has no counterpart."""
    yield outcome_line(outcome)
    for each, found in zip(outcome.comparisons, outcome.checks, strict=True):
        yield f"{title_of(each)}: {_line(each)}"
        yield from (f"  {remark}" for remark in remarks(each, found))
    yield from outcome.unmatched()
    yield from outcome.notes


def _line(comparison: Comparison) -> str:
    before, after = (f"{median_ms(record):.4g} ms" for record in (comparison.before, comparison.after))
    change = f"{change_of(comparison.ratio.value)}, 95 % interval {interval_of(comparison)}"
    return f"median {before} → {after} ({change}): {verdict(comparison)}"


def _plain(text: str) -> str:
    """Text without the characters that XML has not."""
    return _NO_XML.sub("\N{REPLACEMENT CHARACTER}", text)
