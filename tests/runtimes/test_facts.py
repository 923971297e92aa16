"""What engines and formats state about themselves fits together, and is read without running them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import runtimes.engines as engines_package
from compress.errors import InvalidInput
from export.facts import format_of, formats
from runtimes import facts, runtime
from runtimes.errors import EngineMissing, InvalidPlugin


def test_every_format_is_run_by_an_engine_in_its_integers() -> None:
    for form in formats().values():
        assert form.engine in facts.engines()
        assert set(form.targets) <= set(facts.targets())
        own = facts.describe(form.engine).targets
        assert not own or form.targets[0] in own, "its default target is that of its engine, where this has any"


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
        (STATED.replace('(".one",)', '".one"'), "one.py: SUFFIXES: expected a tuple of suffixes"),
        (STATED.replace('".one"', "3"), "one.py: SUFFIXES: expected a tuple of suffixes"),
        (STATED.replace('"One"', "1"), "one.py: TITLE: expected a text that is not empty, got 1"),
        (STATED + 'TARGETS = ["a"]\n', "one.py: TARGETS: expected a mapping"),
        (STATED + 'TARGETS = {"a": "int8"}\n', "target a: expected a name with its facts"),
        (
            STATED + 'TARGETS = {"a": {"integers": {}, "suits": "x86_64"}}\n',
            "target a: suits: expected a tuple of texts",
        ),
        (f"def (\n{STATED}", "one.py, line 1: invalid syntax"),
    ],
)
def test_what_is_stated_wrongly_is_told(engine: Path, text: str, told: str) -> None:
    engine.write_text(text)
    with pytest.raises(InvalidPlugin, match=told):
        facts.describe("one")


def test_a_target_is_stated_once(engine: Path) -> None:
    for name in ("one", "two"):
        engine.with_name(f"{name}.py").write_text(STATED + 'TARGETS = {"a": {"integers": {}}}\n')
    with pytest.raises(InvalidPlugin, match=r"two\.py: target a: one\.py states it too"):
        facts.targets()


@pytest.mark.parametrize(
    ("stated", "told"),
    [
        ('SUFFIX = "one"', "SUFFIX: expected a suffix"),
        ('SUFFIX = ".one"\nENGINE = "onnx"', "ENGINE: expected one of .*, got 'onnx'"),
        ('SUFFIX = ".one"\nTARGETS = ("ort",)', "TARGETS: expected some of .*, got 'ort'"),
        ('SUFFIX = ".one"\nPORTABLE = 1', "PORTABLE: expected True or False, got 1"),
    ],
)
def test_formats_that_are_stated_wrongly_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stated: str, told: str
) -> None:
    monkeypatch.setattr("export.facts._HERE", tmp_path)
    usual = 'TITLE = "One"\nENGINE = "onnxruntime"\nTARGETS = ("ort-x86",)\nINSTALL = "pip install one"\n'
    (tmp_path / "one.py").write_text(usual + stated)
    with pytest.raises((InvalidPlugin, InvalidInput), match=rf"one\.py: {told}"):
        formats.__wrapped__()


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("x = (", r"bad\.py, line \d+: '\(' was never closed"),
        ("nothing", r"bad\.py, line 5: NameError: name 'nothing' is not defined"),
        ("def version(): ...", r"bad\.py: expected the functions version, parts and load; it has no parts and no load"),
    ],
)
def test_an_engine_that_cannot_be_used_is_told_of_its_file(
    engine: Path, monkeypatch: pytest.MonkeyPatch, code: str, told: str
) -> None:
    bad = engine.with_name("bad.py")
    bad.write_text(f"{STATED}{code}\n")
    monkeypatch.setattr(runtime, "describe", lambda name: None)
    monkeypatch.setattr(runtime, "_ENGINES", engine.parent)
    monkeypatch.setattr(engines_package, "__path__", [str(engine.parent)])
    try:
        with pytest.raises(InvalidPlugin, match=told):
            runtime.engine_named("bad")
        version, reason = runtime.available("bad")
        assert version is None and "bad.py" in reason
    finally:
        sys.modules.pop("runtimes.engines.bad", None)


@pytest.mark.parametrize(("name", "parts"), [("a.param", 2), ("a.xml", 2), ("a.onnx", 1), ("a.tflite", 1)])
def test_weights_beside_a_file_are_those_that_its_engine_states(
    name: str, parts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(engine: str) -> None:
        raise EngineMissing(engine)

    monkeypatch.setattr(runtime, "engine_named", missing)
    file, weights = tmp_path / name, tmp_path / "a.bin"
    file.write_bytes(b"model")
    weights.write_bytes(b"weights")
    assert runtime.parts_of(file, facts.engine_of(file)) == (file, weights)[:parts]
    weights.unlink()
    assert runtime.parts_of(file, facts.engine_of(file)) == (file,)
