"""Recipe: a whole run in one YAML file: the network, the data, the stages in order, what to export and to demand."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, PrivateAttr, ValidationError, field_validator, model_validator

from .core.complaint import first_complaint
from .core.config import refuse_moved
from .core.settings import KEY, required, setting
from .data import DataConfig
from .distill import Distill
from .errors import InvalidInput
from .files import strict_yaml
from .files.untrusted import read_text
from .fold import Fold
from .presets import PRESETS, path
from .prune import Prune, RemoveBlocks
from .prune.regularize import Regularize
from .quantize import Quantize, TargetName
from .share import Share
from .siblings import export as exporters
from .siblings import runtimes
from .sources.specification import Source, parse
from .sparsify import Sparsify
from .stage import Config, Seed, Stage, Threads
from .substitute.stage import Substitute
from .tasks.built_in import NAMES as TASKS
from .training.loop import Training

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
    "substitute": Substitute,
}


NAMING_CODE = ("model", "source", "task", "criterion", "teacher")
"""Settings whose text may be ``file.py:callable`` or ``package.module:callable``."""


if TYPE_CHECKING:
    StageName = str
else:
    StageName = Literal[tuple(STAGES)]


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
    substitute: Substitute | None = None

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
    """A file to write: the network as it is after a stage, in a format for a target."""

    name: Annotated[str, required("Of the file, without its suffix.", hidden=True, pattern=r"^[A-Za-z0-9._-]+$")]
    after: str = setting("baseline", "The step whose network it is; baseline is before the first stage.", hidden=True)
    format: FormatName | None = setting(
        None, "What is written; left out, the one for the target.", choices="formats", hidden=True
    )
    target: TargetName | None = setting(
        None,
        "The engine and processor whose integers the file has; left out, that of the format, or of this machine.",
        choices="targets",
        common=True,
    )
    interface: Literal["float32", "int8", "uint8"] = setting(
        "float32",
        "The type of inputs and outputs; integers make a file that is in integers throughout.",
        common=True,
    )
    layout: Literal["nchw", "nhwc"] = setting("nchw", "Of images.", common=True)
    bake_preprocessing: bool = setting(
        False, "Take pixels as the data stores them; its scale, mean and std go into the file.", common=True
    )
    dynamic_batch: bool = setting(
        True, "Take batches of any size; else of one sample only.", off="--fixed-batch", common=True
    )
    dynamic_size: bool = setting(False, "Leave height and width of images open, in formats that can.", common=True)
    gpus: tuple[str, ...] = setting(
        (),
        "Kinds of GPUs that an engine is built for ahead of time: sm86, or ampere for all of a family; left out, those "
        "that the format takes by itself.",
        flag="--gpu",
        metavar="GPU",
    )
    dla_core: int | None = setting(
        None,
        "Core of a Jetson's deep learning accelerator that runs what it can; the GPU runs the rest.",
        flag="--dla",
        ge=0,
        le=7,
    )
    opset: int | None = setting(None, "Of ONNX; left out, the least that is enough.", ge=7, le=64)
    simplify: bool = setting(False, "Run onnxsim on the file, kept only if its outputs stay.")
    pack: bool = setting(False, "Also write the packed file to download, with .packed after its name.", common=True)
    check_samples: int = setting(
        256, "Stored beside the file from the test split, with what it must give for them.", ge=1, le=2**20
    )


CoresName = Annotated[str, Field(pattern=runtimes.sensors.cores.WORD)]


class Benchmark(Config):
    """How files are timed, all in one interleaved run."""

    threads: Threads = setting(1, "That one operation of the engine may use.", common=True)
    preset: Literal["quick", "default", "mlperf"] = setting(
        "default",
        "How long: at least 30 runs and a second for each file (quick), 100 runs and 10 seconds (default), or 1024 "
        "runs and a minute (mlperf).",
        common=True,
    )
    cores: tuple[Annotated[int, Field(ge=0, le=2**16)] | CoresName, ...] | None = setting(
        None,
        "That the process is pinned to: numbers, ranges as 0-3, or names of clusters as big and little.",
        min_length=1,
        max_length=1024,
    )
    governor: str | None = setting(
        None, "Of cpufreq, set while files are timed and put back afterwards; wants root.", pattern="^[a-z_]{1,32}$"
    )
    power_mode: str | None = setting(
        None, "Of a Jetson, by name or number; set while files are timed, and put back.", max_length=64
    )
    energy: bool = setting(False, "Measure the energy of a run too, on a power rail of the machine.")
    power_rail: str | None = setting(
        None, "That energy is read from; left out, the one that has most of the machine on it.", max_length=64
    )
    start_below: float | None = setting(
        None, "Wait until all thermal zones are cooler than this, for ten minutes at most.", unit="C", ge=0, le=150
    )
    profile: bool = setting(
        False,
        "Tell where the time of each file goes, layer by layer, from runs after those that are timed.",
        common=True,
    )
    strict: bool = setting(False, "End with exit code 5 where a measurement breaks a rule and is invalid.", common=True)

    @field_validator("preset", mode="before")
    @classmethod
    def _former_name(cls, value: object) -> object:
        former = runtimes.measure.presets.FORMER_NAMES
        if isinstance(value, str) and value in former:
            logging.getLogger(__name__).warning("preset %s is called %s now; write that", value, former[value])
            return former[value]
        return value

    @property
    def request(self) -> runtimes.measure.request.Request:
        """How files are measured, as `runtimes` takes it."""
        return runtimes.measure.request.Request(
            preset=runtimes.measure.presets.preset_named(self.preset),
            threads=self.threads,
            cores=self.cores,
            governor=self.governor,
            power_mode=self.power_mode,
            start_below_c=self.start_below,
            energy=self.energy or self.power_rail is not None,
            rail=self.power_rail,
        )


Drop = Annotated[float, Field(ge=-1e6, le=1e6)]


class Gates(Config):
    """What the last export must reach against the first; a gate that is not met ends the run with exit code 1."""

    @model_validator(mode="before")
    @classmethod
    def _moved(cls, values: Any) -> Any:
        return refuse_moved(values, {"top1_drop": "score_drop"})

    score_drop: Drop | dict[str, Drop] | None = setting(
        None,
        "At most so much lost of the task's first score on the test split, in points or as the task has it; or of "
        "scores by name, as {mIoU: 1.0}.",
    )
    speedup: float | None = setting(None, "At least so many times the speed.", gt=0, le=1e9)
    speedup_with_dot_products: float | None = setting(
        None,
        "In place of speedup, on processors with instructions for dot products of 8-bit integers (VNNI, asimddp); "
        "without them integers are hardly faster than floats.",
        gt=0,
        le=1e9,
    )
    size_ratio: float | None = setting(None, "At least so many times smaller.", gt=0, le=1e9)
    macs_ratio: float | None = setting(None, "At least so many times fewer multiply-adds.", gt=0, le=1e9)
    float_nodes: int | None = setting(None, "At most so many nodes that compute in float.", ge=0, le=2**31 - 1)
    top1_agreement: float | None = setting(
        99.0,
        "At least so many percent of the test images on which file and network agree, for every file.",
        ge=0,
        le=100,
    )


Shape = Annotated[tuple[Annotated[int, Field(ge=1, le=2**24)], ...], Field(min_length=1, max_length=8)]


DeviceName = Annotated[str, Field(min_length=1, max_length=1000)]


class Recipe(Config):
    """A run from beginning to end."""

    version: Literal[1] = setting(1, "Of this format.")
    model: Annotated[
        str,
        required("The network: a zoo name with options, file.py:callable, an artifact folder, or an ONNX file."),
    ]
    weights: str | None = setting(
        None, "Safetensors or a state dict. Without it, and with train, the baseline is trained first."
    )
    input_shape: Shape | Annotated[tuple[Shape, ...], Field(min_length=1, max_length=64)] | None = setting(
        None,
        "With the batch, where there is no data to tell it: [1, 3, 224, 224], or a list of such shapes for a network "
        "of several inputs.",
    )
    data: DataConfig | None = setting(None, "The data set, and how it is split.")
    task: str | None = setting(
        None,
        f"What a batch means: {', '.join(TASKS)} (outputs needs no labels: to give what the baseline gives), or "
        "file.py:task of your own; left out, the one that fits.",
        max_length=4096,
    )
    seed: Seed = setting(0, "Of everything random.")
    train: Training | None = setting(None, "The training of the baseline.")
    teacher: Literal["baseline"] | None = setting(
        "baseline", "The network before the first stage lets every fine-tuning distil from it; null for none."
    )
    stages: tuple[Step, ...] = setting((), "What is done to the network, in order: each a name with its settings.")
    exports: tuple[Export, ...] = setting((), "The files to write, checked and timed.")
    benchmark: Benchmark = setting(Benchmark(), "How they are timed.")
    gates: Gates = setting(Gates(), "What must be reached.")
    device: DeviceName | Annotated[tuple[DeviceName, ...], Field(min_length=1, max_length=64)] | None = setting(
        None,
        "The device whose latencies decide and that files are timed on: ssh://user@board, adb:SERIAL, local, or a name "
        "in devices.yaml; left out, this machine. Of a list of devices, the latencies of the first decide, and files "
        "are timed and scored on each, one after the other, and held to the gates on each.",
    )

    _file: Path | None = PrivateAttr(None)
    _overrides: frozenset[str] = PrivateAttr(frozenset())

    @field_validator("stages", mode="before", json_schema_input_type=tuple[Step | StageName, ...])
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
        if len({export.bake_preprocessing for export in self.exports}) > 1:
            raise ValueError("exports: `bake_preprocessing` must be the same for all, which are checked together")
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
            if word in self._overrides or Path(word).exists():
                continue
            try:
                source = parse(word)
            except InvalidInput:
                continue  # it names nothing that could be run, and is told of where it is used
            if source.kind in ("file", "module"):
                option = {"model": "--model ", "data.source": "--data "}.get(place, f"--set {place}=")
                yield source, option + word

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices that it names, each once; that whose latencies decide is the first."""
        named = (self.device,) if isinstance(self.device, str) else self.device or ()
        return tuple(dict.fromkeys(named))

    @property
    def input_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shape of each input that it tells of."""
        shape = self.input_shape or ()
        several = tuple(each for each in shape if isinstance(each, tuple))
        return several or tuple([tuple(each for each in shape if isinstance(each, int))] if shape else [])

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
    recipe._file, recipe._overrides = path, frozenset(override.partition("=")[2] for override in changes)
    return recipe


def preset(name: str, model: str, data: str | None = None, changes: Iterable[str] = ()) -> Recipe:
    """A recipe that comes with the package: "fast" (no training, minutes) or "best" (with fine-tuning, hours).

    Its stages are ``[step.stage for step in recipe.stages]``; :func:`compress.run` runs the whole.

    Args:
        model: the network, as a recipe names it: an artifact folder, an ONNX file, ``file.py:callable``, ...
        data: likewise: "digits", an image folder, an ``.npz``, ``file.py:callable``.
        changes: of other settings, as ``("weights=net.safetensors", "stages.0.prune.macs=2")``.

    Raises:
        InvalidInput: there is no such preset, or a value is wrong.
    """
    if name not in PRESETS:
        raise InvalidInput(f"preset {name}: expected one of {', '.join(PRESETS)}")
    named = [f"model={model}", *([] if data is None else [f"data.source={data}"])]
    return read(path(name), [*named, *changes])


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
    complaint = first_complaint(error)
    if called is None:
        return f"{complaint.line('settings')}{complaint.and_more}"
    message = _NAMED.sub(lambda name: called(name[1]), complaint.message) + complaint.and_more
    if not complaint.place:
        return message
    place, inner = _called(complaint.place, called)
    inner = [part for part in inner if isinstance(part, int) or not complaint.unknown_key]
    return f"{place}: {message}" + (f" (at {'.'.join(map(str, inner))})" if inner else "")


def _called(place: tuple[int | str, ...], called: Callable[[str], str]) -> tuple[str, list[int | str]]:
    """What the user calls the setting at ``place``, or the configuration that it is in, and what of it is meant."""
    for length in range(len(place), 0, -1):
        name = ".".join(map(str, place[:length]))
        if called(name) != name:
            return called(name), list(place[length:])
    return str(place[0]), list(place[1:])


def schema() -> dict[str, Any]:
    """The JSON schema of a recipe, for editors; without what only the command line needs."""
    written: dict[str, Any] = _for_editors(Recipe.model_json_schema())
    return written


def _for_editors(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _for_editors(item) for key, item in value.items() if key != KEY or "flag" not in item}
    return [_for_editors(item) for item in value] if isinstance(value, list) else value


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
