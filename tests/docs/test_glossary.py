"""Every noun has one definition, and those that the code defines are among them."""

from __future__ import annotations

import re

from tests.support.documents import ROOT

PAGE = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
ENTRIES = re.findall(r"^(\S.*)\n((?:  .+\n)+)", PAGE.partition(":sorted:")[2], re.MULTILINE)


def test_terms_are_sorted_and_defined_once() -> None:
    terms = [term for term, _ in ENTRIES]
    assert len(terms) > 50 and terms == sorted(set(terms))


def test_a_definition_is_a_sentence() -> None:
    for term, definition in ENTRIES:
        assert definition.strip()[0].isupper() or definition.strip()[0] == "`", term
        assert definition.strip().endswith("."), term


def test_the_nouns_of_the_code_are_defined() -> None:
    nouns = (
        "stage result edit skip context recipe artifact encoding plan clock engine format target network source part "
        "device connection agent environment measurement conditions rule sentinel interval limit log preset"
    )
    assert not set(nouns.split()) - {term for term, _ in ENTRIES}
