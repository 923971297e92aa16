"""What is known of every engine, and of every target, without importing an engine: literals at the top of its file.

An engine is one file of the folder ``engines/``, with _ for each - of its name. It states, above its first function or
class:

- ``TITLE``: its name as its makers spell it; ``PACKAGE``: what is imported; ``INSTALL``: the line that installs it;
- ``SUFFIXES``: the ends of the names of files that it is taken for when no engine is named;
- ``WEIGHTS``: the suffix of the file that has the weights, where they lie beside the file that is named;
- ``TARGETS``: by name, the kinds of processors that it runs on, as far as they want other integers; see `TargetFacts`;
- ``SYSTEMS``: as ``sys.platform`` has them, where it does not run on all of them;
- ``UNPROVEN``: what this project's tests could not run, in words;
- ``NATIVE_TOOL``: its own benchmark program for devices without Python, one of `runtimes.devices.native.tools`;
- ``NATIVE_LIBRARY``: the library of its C interface, where ``runtimes/devices/native/runner.cpp`` can use it;
- ``FORMER_NAMES``: those that files written by older versions have for it.

Only what Python itself comes with is imported here, so that a command line can list choices at once.
"""

from __future__ import annotations

import ast
import functools
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from .errors import InvalidInputs, InvalidModel, InvalidPlugin, fault

_FOLDER = Path(__file__).with_name("engines")
_CODE = re.compile(r"^(?:def|class|async def) \w+|^@\w+", re.MULTILINE)


@dataclass(frozen=True)
class TargetFacts:
    """An engine on a kind of processor: what its files shall look like, and where they are computed as they are meant.

    Args:
        name: of the target.
        engine: its name.
        integers: the integers that the engine wants there; :class:`compress.integers.target.Target` says which.
        interfaces: the types that inputs and outputs of files can have, the default first.
        suits: kinds of processors, as `runtimes.processor.kinds` names them, that this target is chosen for when none
            is named.
        reason: what was weighed for that choice, in words.
        needs_vnni: on x86, sums of products of its integers are clipped where the processor has no VNNI.
        beside: schemes that a file in integers is always timed beside: where another often is as fast.
        by_onednn: the engine computes by oneDNN, whose instructions the environment may limit.
    """

    name: str
    engine: str
    integers: Mapping[str, Any]
    interfaces: tuple[str, ...] = ("float32",)
    suits: tuple[str, ...] = ()
    reason: str = ""
    needs_vnni: bool = False
    by_onednn: bool = False
    beside: tuple[str, ...] = ()


@dataclass(frozen=True)
class EngineFacts:
    """What is known of an engine without importing it; see above."""

    name: str
    title: str
    package: str
    suffixes: tuple[str, ...]
    install: str
    targets: Mapping[str, TargetFacts]
    systems: tuple[str, ...] = ()
    unproven: str = ""
    former_names: tuple[str, ...] = ()
    native_tool: str | None = None
    native_library: str | None = None
    weights: str = ""

    @property
    def runs_here(self) -> bool:
        """Whether it runs on systems like this one, were it installed."""
        return not self.systems or sys.platform in self.systems


def literals(file: Path) -> dict[str, Any]:
    """Return the names in capitals that a Python file assigns a literal to, read without running it.

    What stands below the first function or class is not looked at.

    Raises:
        InvalidPlugin: what stands above is no Python.

    >>> literals(_FOLDER / "onnxruntime.py")["SUFFIXES"]
    ('.onnx', '.ort')
    """
    known: dict[str, Any] = {}
    try:
        head = _head(file.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise InvalidPlugin(fault(file, error)) from error
    for statement in head.body:
        if not isinstance(statement, (ast.Assign, ast.AnnAssign)) or statement.value is None:
            continue
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        for target in targets:
            if isinstance(target, ast.Name) and re.fullmatch(r"[A-Z][A-Z_]*", target.id):
                try:
                    known[target.id] = ast.literal_eval(statement.value)
                except ValueError:  # computed: no fact
                    continue
    return known


def _head(text: str) -> ast.Module:
    """The code above the first function or class: a tenth of most files, and read in a tenth of the time."""
    for code in _CODE.finditer(text):
        try:
            return ast.parse(text[: code.start()])
        except SyntaxError:  # this line is part of a text
            continue
    return ast.parse(text)


def require_stated(file: Path, known: Mapping[str, Any], kinds: Mapping[str, str], optional: Iterable[str]) -> None:
    """Raise InvalidPlugin where a file does not state what it must, or states something of another type.

    Args:
        kinds: of each literal: a text, a suffix, texts, suffixes, a mapping, or a truth (True or False).
        optional: those that may be left out.
    """
    missing = [name for name in kinds if name not in known and name not in optional]
    if missing:
        raise InvalidPlugin(f"{file}: expected literals {', '.join(missing)} above its first function or class")
    for name, kind in kinds.items():
        if name in known and not _is(known[name], kind):
            raise InvalidPlugin(f"{file}: {name}: expected {_KINDS[kind]}, got {known[name]!r:.60}")


_KINDS = {
    "text": "a text that is not empty",
    "suffix": "a suffix, as '.onnx'",
    "texts": "a tuple of texts, as ('linux',)",
    "suffixes": "a tuple of suffixes, as ('.onnx', '.ort')",
    "mapping": "a mapping in braces",
    "truth": "True or False",
}


def _is(value: object, kind: str) -> bool:
    """Whether a literal is what ``_KINDS`` says of ``kind``."""
    if kind in ("texts", "suffixes"):
        one = "text" if kind == "texts" else "suffix"
        return isinstance(value, (tuple, list)) and all(_is(each, one) for each in value)
    if kind == "suffix":
        return isinstance(value, str) and value.startswith(".") and len(value) > 1 and value == value.lower()
    types: dict[str, type] = {"text": str, "mapping": dict, "truth": bool}
    return isinstance(value, types[kind]) and (kind != "text" or value != "")


@functools.cache
def engines() -> tuple[str, ...]:
    """Return the names of all engines that have a file in ``engines/``, installed or not.

    >>> "onnxruntime" in engines()
    True
    """
    return tuple(sorted(named_after(file.stem) for file in _FOLDER.glob("*.py") if not file.stem.startswith("_")))


def named_after(module: str) -> str:
    """Return the name of the engine or format whose file, or folder, is ``module``.

    >>> named_after("tensorrt_rtx")
    'tensorrt-rtx'
    """
    return module.replace("_", "-")


def module_of(name: str) -> str:
    """Return the name of the file, or folder, of an engine or format; the way back from `named_after`."""
    return name.replace("-", "_")


_STATED = {
    "TITLE": "text",
    "PACKAGE": "text",
    "SUFFIXES": "suffixes",
    "INSTALL": "text",
    "TARGETS": "mapping",
    "SYSTEMS": "texts",
    "UNPROVEN": "text",
    "FORMER_NAMES": "texts",
    "NATIVE_TOOL": "text",
    "NATIVE_LIBRARY": "text",
    "WEIGHTS": "suffix",
}
_OPTIONAL = ("TARGETS", "SYSTEMS", "UNPROVEN", "FORMER_NAMES", "NATIVE_TOOL", "NATIVE_LIBRARY", "WEIGHTS")


@functools.cache
def describe(engine: str) -> EngineFacts:
    """Return what the file of ``engine`` states; nothing is imported.

    Raises:
        InvalidInputs: there is no such engine.
        InvalidPlugin: its file does not state what it must, or states what is no fact.

    >>> describe("onnxruntime").title
    'ONNX Runtime'
    """
    if engine not in engines():
        raise InvalidInputs(f"engine {engine!r} is not known: expected one of {', '.join(engines())}")
    file = _FOLDER / f"{module_of(engine)}.py"
    known = literals(file)
    require_stated(file, known, _STATED, _OPTIONAL)
    return EngineFacts(
        engine,
        known["TITLE"],
        known["PACKAGE"],
        tuple(known["SUFFIXES"]),
        known["INSTALL"],
        {name: _target(file, name, facts) for name, facts in known.get("TARGETS", {}).items()},
        tuple(known.get("SYSTEMS", ())),
        known.get("UNPROVEN", ""),
        tuple(known.get("FORMER_NAMES", ())),
        known.get("NATIVE_TOOL"),
        known.get("NATIVE_LIBRARY"),
        known.get("WEIGHTS", ""),
    )


def _target(file: Path, name: str, facts: Mapping[str, Any]) -> TargetFacts:
    possible = [field.name for field in fields(TargetFacts) if field.name not in ("name", "engine")]
    if not isinstance(name, str) or not isinstance(facts, Mapping):
        raise InvalidPlugin(f"{file}: target {name}: expected a name with its facts in braces, got {facts!r:.60}")
    unknown = sorted(set(facts) - set(possible))
    if unknown or "integers" not in facts:
        wrong = f"{unknown[0]!r} is no fact of a target" if unknown else "'integers' is missing"
        raise InvalidPlugin(f"{file}: target {name}: {wrong}: expected {', '.join(possible)}")
    kinds = {"integers": "mapping", "interfaces": "texts", "suits": "texts", "reason": "text"}
    kinds |= {"needs_vnni": "truth", "by_onednn": "truth", "beside": "texts"}
    for fact, value in facts.items():
        if not _is(value, kinds[fact]):
            raise InvalidPlugin(f"{file}: target {name}: {fact}: expected {_KINDS[kinds[fact]]}, got {value!r:.60}")
    return TargetFacts(name, named_after(file.stem), **facts)


@functools.cache
def targets() -> Mapping[str, TargetFacts]:
    """Return every target by name.

    Raises:
        InvalidPlugin: two engines state the same one.

    >>> targets()["ort-arm"].suits
    ('arm64',)
    """
    known: dict[str, TargetFacts] = {}
    for engine in engines():
        for name, facts in describe(engine).targets.items():
            if name in known:
                raise InvalidPlugin(
                    f"{_FOLDER / engine}.py: target {name}: {known[name].engine}.py states it too; rename one of them"
                )
            known[name] = facts
    return known


def title_of(engine: str) -> str:
    """Return an engine's name as its makers spell it, also for a name that older files have; else the name itself.

    >>> title_of("onnxruntime"), title_of("ort"), title_of("another")
    ('ONNX Runtime', 'ONNX Runtime', 'another')
    """
    known = (describe(name) for name in engines())
    return next((facts.title for facts in known if engine in (facts.name, *facts.former_names)), engine)


def engine_of(file: Path) -> str:
    """Return the engine that runs files with the suffix of ``file``.

    The longest suffix decides.

    >>> engine_of(Path("net.onnx")), engine_of(Path("net.bits.onnx"))
    ('onnxruntime', 'bitwise')
    """
    fitting = {name: [s for s in describe(name).suffixes if file.name.lower().endswith(s)] for name in engines()}
    longest = max((len(suffix) for ends in fitting.values() for suffix in ends), default=0)
    names = [name for name, ends in fitting.items() if any(len(suffix) == longest for suffix in ends)]
    if len(names) == 1:
        return names[0]
    if names:
        raise InvalidInputs(f"{file}: several engines run {file.suffix}: name one of {', '.join(names)}")
    expected = ", ".join(sorted(suffixes()))
    raise InvalidModel(f"{file}: no engine is known for {file.suffix or 'a name without suffix'}: expected {expected}")


def is_model_file(file: Path) -> bool:
    """Return whether ``file`` is named as those that engines run; it need not be there.

    >>> is_model_file(Path("net.ONNX")), is_model_file(Path("out/int8"))
    (True, False)
    """
    return file.suffix.lower() in suffixes()


def suffixes() -> frozenset[str]:
    """Return what the names of files that engines run can end with."""
    return frozenset(suffix for name in engines() for suffix in describe(name).suffixes)
