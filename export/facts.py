"""What is known of every format without importing its exporter: literals at the top of the exporter's file.

A format is one file of this folder that states ``SUFFIX``, or a folder in which the file ``exporter.py`` does; its name
has - for each _ there. It states, above its first function or class:

- ``TITLE``: its name as its makers spell it; ``SUFFIX`` of its files;
- ``INSTALL``: what to do where a package is missing;
- ``ENGINE``: the file of ``runtimes/engines`` that runs it; ``TARGETS``: what it can be written for, the default first;
- ``PORTABLE = False``: a file runs only on the device where it was built, so that it is written only when it is asked
  for by name;
- ``SIZES_VARY = True``: its files can take images of any size;
- ``HOLDS_LEVELS = True``: its files can hold weights of few levels; in others these become 8-bit integers or floats;
- ``GPUS``: by name, the kinds of GPUs that a file can be built for, in words; where there are none, none can be named;
- ``DLA = True``: a file can be built for a deep learning accelerator beside the GPU.

The rules of targets that only this format is written for are beside it, in ``rules.py``. Only what Python itself comes
with is imported here, so that a command line can list choices at once.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from compress.errors import InvalidInput
from compress.siblings import runtimes

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Format:
    """What is known of a format without importing its exporter; see above.

    Args:
        module: of the exporter, from this package on: ".onnx.exporter".
        rules: likewise, where the format has rules of its own.
    """

    name: str
    title: str
    suffix: str
    engine: str
    targets: tuple[str, ...]
    install: str
    module: str
    rules: str | None = None
    portable: bool = True
    sizes_vary: bool = False
    holds_levels: bool = False
    gpus: Mapping[str, str] = field(default_factory=dict)
    dla: bool = False

    def gpus_named(self, names: Iterable[str]) -> tuple[str, ...]:
        """The kinds of GPUs that ``names`` mean: each by its own name, or all of a family ("ampere").

        Raises:
            InvalidInput: the format has no such GPU, or none can be named.

        >>> formats()["tensorrt-rtx"].gpus_named(["ampere", "SM89"])
        ('sm80', 'sm86', 'sm89')
        """
        named: dict[str, None] = {}
        for name in names:
            asked = name.lower()
            meant = [gpu for gpu, words in self.gpus.items() if asked in (gpu, words.split()[0].lower())]
            if not meant:
                expected = (
                    f"expected some of {', '.join(self._gpu_words)}" if self.gpus else "it is built for none by name"
                )
                raise InvalidInput(f"format {self.name}: GPU {name!r}: {expected}")
            named |= dict.fromkeys(meant)
        return tuple(named)

    @property
    def _gpu_words(self) -> tuple[str, ...]:
        return (*self.gpus, *dict.fromkeys(words.split()[0].lower() for words in self.gpus.values()))

    @property
    def file(self) -> Path:
        """Where the exporter is."""
        return _HERE.joinpath(*self.module.strip(".").split(".")).with_suffix(".py")


@functools.cache
def formats() -> Mapping[str, Format]:
    """All formats by name, installed or not.

    Raises:
        InvalidInput: a file names an engine or a target that there is not; `runtimes.errors.InvalidPlugin` where it
            does not state what it must.

    >>> formats()["onnx"].suffix
    '.onnx'
    """
    files = {file.stem: file for file in _HERE.glob("*.py")} | {
        file.parent.name: file for file in _HERE.glob("*/exporter.py")
    }
    described = (_described(module, file) for module, file in sorted(files.items()))
    return {each.name: each for each in described if each is not None}


_STATED = {
    "TITLE": "text",
    "SUFFIX": "suffix",
    "ENGINE": "text",
    "TARGETS": "texts",
    "INSTALL": "text",
    "PORTABLE": "truth",
    "SIZES_VARY": "truth",
    "HOLDS_LEVELS": "truth",
    "GPUS": "mapping",
    "DLA": "truth",
}


def _described(module: str, file: Path) -> Format | None:
    known = runtimes.facts.literals(file)
    if "SUFFIX" not in known:
        return None
    runtimes.facts.require_stated(file, known, _STATED, ("PORTABLE", "SIZES_VARY", "HOLDS_LEVELS", "GPUS", "DLA"))
    engines, targets = runtimes.facts.engines(), runtimes.facts.targets()
    if known["ENGINE"] not in engines:
        raise InvalidInput(f"{file}: ENGINE: expected one of {', '.join(engines)}, got {known['ENGINE']!r}")
    strange = [target for target in known["TARGETS"] if target not in targets]
    if strange or not known["TARGETS"]:
        wrong = f"{strange[0]!r}" if strange else "none"
        raise InvalidInput(f"{file}: TARGETS: expected some of {', '.join(targets)}, got {wrong}")
    alone = file.parent == _HERE
    return Format(
        runtimes.facts.named_after(module),
        known["TITLE"],
        known["SUFFIX"],
        known["ENGINE"],
        tuple(known["TARGETS"]),
        known["INSTALL"],
        f".{module}" if alone else f".{module}.exporter",
        f".{module}.rules" if not alone and file.with_name("rules.py").is_file() else None,
        known.get("PORTABLE", True),
        known.get("SIZES_VARY", False),
        known.get("HOLDS_LEVELS", False),
        known.get("GPUS", {}),
        known.get("DLA", False),
    )


def formats_here() -> tuple[str, ...]:
    """The names of the formats whose files run on systems like this one, wherever they were written.

    Those for targets that machines choose by themselves are first.

    >>> formats_here()[0]
    'onnx'
    """
    chosen = {name for name, target in runtimes.facts.targets().items() if target.suits}
    able = [form for form in formats().values() if form.portable and runtimes.facts.describe(form.engine).runs_here]
    return tuple(form.name for form in sorted(able, key=lambda form: not chosen & set(form.targets)))


def format_of(target: str) -> Format:
    """The format that is written for ``target`` if none is named: the first whose default it is, or that can.

    Raises:
        InvalidInput: there is none.

    >>> format_of("ort-arm").name
    'onnx'
    """
    able = [each for each in formats().values() if target in each.targets and each.portable]
    if not able:
        raise InvalidInput(f"target {target!r}: no format is written for it")
    return min(able, key=lambda each: each.targets.index(target))
