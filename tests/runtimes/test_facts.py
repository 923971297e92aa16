"""What engines and formats state about themselves fits together, and is read without running them."""

from __future__ import annotations

from pathlib import Path

import pytest

from export.facts import format_of, formats
from runtimes import facts


def test_every_format_is_run_by_an_engine_in_its_integers() -> None:
    for form in formats().values():
        assert form.engine in facts.engines()
        assert set(form.targets) <= set(facts.targets())
        assert facts.targets()[form.targets[0]].engine == form.engine, "its default target is that of its engine"


def test_every_target_has_a_format() -> None:
    written = {target for form in formats().values() for target in form.targets}
    assert written == set(facts.targets())
    assert {name: format_of(name).name for name in ("ort-arm", "litert", "openvino", "tensorrt")} == {
        "ort-arm": "onnx",
        "litert": "litert",
        "openvino": "openvino",
        "tensorrt": "onnx",  # an engine file is built on its device only
    }


def test_no_two_engines_take_a_suffix_or_a_target() -> None:
    described = [facts.describe(name) for name in facts.engines()]
    suffixes = [suffix for each in described for suffix in each.suffixes]
    targets = [target for each in described for target in each.targets]
    assert len(suffixes) == len(set(suffixes)) and len(targets) == len(set(targets))


def test_some_target_suits_any_processor() -> None:
    assert any("any" in each.suits for each in facts.targets().values())


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that an engine is read from; ``facts.describe`` finds it under the name "one"."""
    monkeypatch.setattr(facts, "_FOLDER", tmp_path)
    for function in (facts.engines, facts.describe, facts.targets):
        monkeypatch.setattr(facts, function.__name__, function.__wrapped__)
    return tmp_path / "one.py"


STATED = 'TITLE = "One"\nPACKAGE = "one"\nSUFFIXES = (".one",)\nINSTALL = "pip install one"\n'


def test_a_file_is_read_and_not_run(engine: Path) -> None:
    engine.write_text(f'"""A text.\n\nclass of its own\n"""\nraise OSError\n{STATED}NUMBER = 2 + len("a")\ndef f(:\n')
    assert facts.describe("one").title == "One"
    assert facts.targets() == {} and facts.engine_of(Path("a.one")) == "one"
    assert "NUMBER" not in facts.literals(engine)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('TITLE = "One"\n', "expected literals PACKAGE, SUFFIXES, INSTALL above its first function"),
        (STATED + 'TARGETS = {"a": {}}\n', "target a: 'integers' is missing"),
        (STATED + 'TARGETS = {"a": {"integers": {}, "quick": True}}\n', "target a: 'quick' is no fact of a target"),
    ],
)
def test_what_is_stated_wrongly_is_told(engine: Path, text: str, told: str) -> None:
    engine.write_text(text)
    with pytest.raises(ValueError, match=told):
        facts.describe("one")
