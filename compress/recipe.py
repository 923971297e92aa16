"""Recipe: a whole run in one YAML file: the network, the data, the stages in order, what to export and to demand."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, PrivateAttr, ValidationError, field_validator, model_validator

from . import strict_yaml
from .data import DataConfig
from .distill import Distill
from .errors import InvalidInput
from .fold import Fold
from .prune import Prune, RemoveBlocks
from .prune.regularize import Regularize
from .quantize import Quantize, TargetName
from .share import Share
from .siblings import export as exporters
from .sparsify import Sparsify
from .specification import Source, parse
from .stage import Config, Seed, Stage, Threads
from .train import Training
from .untrusted import read_text

LARGEST_BYTES = 2**18
"""Of a recipe."""

_NAMED = re.compile("`([a-z0-9_]+)`")
"""A setting in a message."""

STAGES: Mapping[str, type[Config]] = {
    "distill": Distill,
    "fold": Fold,
    "prune": Prune,
    "quantize": Quantize,
    "regularize": Regularize,
    "remove_blocks": RemoveBlocks,
    "share": Share,
    "sparsify": Sparsify,
}


NAMING_CODE = ("model", "source", "criterion", "teacher")
"""Settings whose text may be ``file.py:callable`` or ``package.module:callable``."""


class Step(Config):
    """One stage: a mapping with exactly one key, as ``prune: {macs: 4}``."""

    distill: Distill | None = None
    fold: Fold | None = None
    prune: Prune | None = None
    quantize: Quantize | None = None
    regularize: Regularize | None = None
    remove_blocks: RemoveBlocks | None = None
    share: Share | None = None
    sparsify: Sparsify | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if len(self.model_fields_set) != 1 or self.stage is None:
            raise ValueError(f"expected one stage ({', '.join(STAGES)}), got {len(self.model_fields_set)}")
        return self

    @property
    def name(self) -> str:
        """ "prune", ..."""
        return next(iter(self.model_fields_set))

    @property
    def stage(self) -> Stage:
        """The configured stage."""
        stage: Stage = getattr(self, self.name)
        return stage


if TYPE_CHECKING:
    FormatName = str
else:
    FormatName = Literal[tuple(exporters.facts.formats())]


class Export(Config):
    """A file to write: the network as it is after the stage ``after`` ("baseline" is before the first one).

    ``target`` is the engine whose integers the file has, left out that of the format, or of the machine that exports.
    ``packed`` writes a packed file beside it, to download; see :mod:`compress.packing`.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    after: str = "baseline"
    format: FormatName | None = None
    target: TargetName | None = None
    simplify: bool = False
    packed: bool = False
    interface: Literal["float32", "int8", "uint8"] = "float32"
    layout: Literal["nchw", "nhwc"] = "nchw"
    dynamic_batch: bool = True


class Benchmark(Config):
    """How the exported files are timed, all in one interleaved run."""

    threads: Threads = 1
    preset: Literal["quick", "standard", "mlperf"] = "quick"


class Gates(Config):
    """What the last export must reach against the first; a gate that is not met ends the run with exit code 1.

    Args:
        top1_drop: at most so many points of test accuracy lost.
        speedup: at least so many times the speed.
        speedup_with_dot_products: in place of ``speedup``, on processors with instructions for dot products of 8-bit
            integers (VNNI, asimddp); without them integers are hardly faster than floats.
        size_ratio: at least so many times smaller.
        macs_ratio: at least so many times fewer multiply-adds.
        float_nodes: at most so many nodes that compute in float.
        top1_agreement: at least so many percent of the test images on which file and network agree, for every file.
    """

    top1_drop: float | None = Field(None, ge=-100, le=100)
    speedup: float | None = Field(None, gt=0, le=1e9)
    speedup_with_dot_products: float | None = Field(None, gt=0, le=1e9)
    size_ratio: float | None = Field(None, gt=0, le=1e9)
    macs_ratio: float | None = Field(None, gt=0, le=1e9)
    float_nodes: int | None = Field(None, ge=0, le=2**31 - 1)
    top1_agreement: float | None = Field(99.0, ge=0, le=100)


class Recipe(Config):
    """A run from beginning to end.

    Args:
        model: as on the command line: a zoo name with options, ``file.py:callable``, an artifact folder, an ONNX file.
        weights: safetensors or a state dict; without it, and with ``train``, the baseline is trained first.
        input_shape: with the batch, where there is no data to tell it.
        teacher: "baseline" lets every fine-tuning distil from the network as it was before the first stage.
    """

    version: Literal[1] = 1
    model: str
    weights: str | None = None
    input_shape: tuple[Annotated[int, Field(ge=1, le=2**24)], ...] | None = Field(None, min_length=1, max_length=8)
    data: DataConfig | None = None
    seed: Seed = 0
    train: Training | None = None
    teacher: Literal["baseline"] | None = "baseline"
    stages: tuple[Step, ...] = ()
    exports: tuple[Export, ...] = ()
    benchmark: Benchmark = Benchmark()
    gates: Gates = Gates()

    _file: Path | None = PrivateAttr(None)
    _given: frozenset[str] = PrivateAttr(frozenset())

    @field_validator("stages", mode="before")
    @classmethod
    def _bare_names(cls, value: object) -> object:
        """``- fold`` is ``- fold: {}``, and so is ``- fold:``."""
        if not isinstance(value, (list, tuple)):
            return value
        items = [{item: {}} if isinstance(item, str) else item for item in value]
        return [
            {key: {} if inner is None else inner for key, inner in item.items()} if isinstance(item, dict) else item
            for item in items
        ]

    @model_validator(mode="after")
    def _known_steps(self) -> Self:
        known = ("baseline", *self.step_names)
        for export in self.exports:
            if export.after not in known:
                raise ValueError(
                    f"export {export.name}: after {export.after!r} is not a step; steps are {', '.join(known)}"
                )
        names = [export.name for export in self.exports]
        if len(set(names)) != len(names):
            raise ValueError(f"export names must differ, got {', '.join(names)}")
        return self

    @property
    def file(self) -> Path | None:
        """The file that it was read from, if it was."""
        return self._file

    def code_of_its_file(self) -> Iterator[tuple[Source, str]]:
        """Each place of code that its file names and no override, with the option that names it on a command line."""
        for place, word in _words(self.model_dump(mode="json")) if self._file is not None else ():
            if word in self._given or Path(word).exists():
                continue
            try:
                source = parse(word)
            except InvalidInput:
                continue  # it names nothing that could be run, and is told of where it is used
            if source.kind in ("file", "module"):
                option = {"model": "--model ", "data.source": "--data "}.get(place, f"--set {place}=")
                yield source, option + word

    @property
    def step_names(self) -> tuple[str, ...]:
        """A name for each stage: "prune", and "prune-2" for the second one."""
        seen: dict[str, int] = {}
        names = []
        for step in self.stages:
            seen[step.name] = seen.get(step.name, 0) + 1
            names.append(step.name if seen[step.name] == 1 else f"{step.name}-{seen[step.name]}")
        return tuple(names)

    @property
    def digest(self) -> str:
        """SHA-256 of the settings, whatever the file's layout."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


def read(path: Path, overrides: Iterable[str] = ()) -> Recipe:
    """The recipe in a YAML file, with ``key.key=value`` overrides.

    Raises:
        InvalidInput: not readable, not YAML, or a key or value is wrong; the message names its place.
    """
    content = strict_yaml.parse(read_text(path, "recipe", most=LARGEST_BYTES), f"recipe {path}")
    if not isinstance(content, dict):
        raise InvalidInput(f"recipe {path}: expected a mapping with 'model' and 'stages', got {type(content).__name__}")
    changes = tuple(overrides)
    for override in changes:
        _override(content, override)
    try:
        recipe = Recipe.model_validate(content)
    except ValidationError as error:
        raise InvalidInput(f"recipe {path}: {explain(error)}") from error
    recipe._file, recipe._given = path, frozenset(override.partition("=")[2] for override in changes)
    return recipe


def _words(value: Any, *place: str) -> Iterator[tuple[str, str]]:
    """The texts in settings that may name code, each with its place; a criterion with settings is the key of them."""
    if isinstance(value, (dict, list)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            if place and place[-1] in NAMING_CODE and ":" in str(key):
                yield ".".join(place), str(key)
            yield from _words(item, *place, str(key))
    elif isinstance(value, str) and place[-1] in NAMING_CODE and (":" in value or value.endswith(".py")):
        yield ".".join(place), value


def explain(error: ValidationError, called: Callable[[str], str] | None = None) -> str:
    """The first complaint of a validation in one line, with its place: ``stages.1.prune.ratoi: ...``.

    Args:
        called: what the user calls a setting; its own name, with its place, where this is left out.
    """
    first = error.errors(include_url=False, include_context=False)[0]
    message = str(first["msg"]).removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = "no such key"
    elif isinstance(first["input"], (str, int, float)) and "got " not in message:
        message += f", got {_shown(first['input'])}"
    rest = error.error_count() - 1
    more = f" (and {rest} more)" if rest else ""
    if called is None:
        return f"{'.'.join(str(part) for part in first['loc']) or 'settings'}: {message}{more}"
    message = _NAMED.sub(lambda found: called(found[1]), message)
    if not first["loc"]:
        return f"{message}{more}"
    place, inner = _called(first["loc"], called)
    inner = [part for part in inner if isinstance(part, int) or first["type"] != "extra_forbidden"]
    return f"{place}: {message}{more}" + (f" (at {'.'.join(map(str, inner))})" if inner else "")


def _called(place: tuple[int | str, ...], called: Callable[[str], str]) -> tuple[str, list[int | str]]:
    """What the user calls the setting at ``place``, or the configuration that it is in, and what of it is meant."""
    for length in range(len(place), 0, -1):
        name = ".".join(map(str, place[:length]))
        if called(name) != name:
            return called(name), list(place[length:])
    return str(place[0]), list(place[1:])


def _shown(value: str | float) -> str:
    """A value that is none to work with, as short as a line takes it."""
    if isinstance(value, int) and abs(value) >= 10**40:
        return "a number of more than 40 digits"
    return f"{value!r:.60}"


def schema() -> dict[str, Any]:
    """The JSON schema of a recipe, for editors."""
    return Recipe.model_json_schema()


def _override(content: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    shown = f"--set {override[:200]}"
    if not separator:
        raise InvalidInput(f"{shown}: expected key.key=value")
    *parents, last = key.split(".")
    place: Any = content
    for part in parents:
        if isinstance(place, dict):
            if place.get(part) is None:
                place[part] = {}
            place = place[part]
        elif isinstance(place, list) and _position(part) < len(place):
            place = place[_position(part)]
        else:
            raise InvalidInput(f"{shown}: the recipe has no {part[:40]!r} to set something in")
    value = strict_yaml.parse(text, shown)
    if isinstance(place, list) and _position(last) < len(place):
        place[_position(last)] = value
    elif isinstance(place, dict):
        place[last] = value
    else:
        raise InvalidInput(f"{shown}: the recipe has no {key[:80]!r}")


def _position(text: str) -> int:
    """The position in a list that ``text`` says; one that no list has, if it says none."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 2**31
