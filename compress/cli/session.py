"""What every command does around its one call: read the options, show progress, write and tell the result."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click
from pydantic import BaseModel, ValidationError
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from ..errors import GateFailed, InvalidInput
from ..files.outputs import claim, write_text
from ..sources.specification import parse_shape, readings
from .grammar import generated
from .grammar.refusals import one_network
from .output.restored_table import restored_table
from .output.terminal import Terminal

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from ..data import Data
    from ..deploy import MachineClock
    from ..report.schema import Cost, StageRecord
    from ..sources.load import Network
    from ..stage import Config, Stage
    from ..stage import Progress as ProgressReport
    from ..tasks.record import ScoreRecord
    from ..tasks.task import Task

C = TypeVar("C", bound=BaseModel)


def configured(kind: type[C], parameters: Mapping[str, str] | None = None, /, **values: Any) -> C:
    """A configuration from options; a value out of range is one clear error that names the option as it is typed.

    Args:
        parameters: of the command, by the names of the settings that are called otherwise.
    """
    try:
        return kind(**values)
    except ValidationError as error:
        from ..recipe import explain

        raise InvalidInput(explain(error, lambda name: typed((parameters or {}).get(name, name)))) from error


def typed(parameter: str) -> str:
    """How a parameter of the command that runs is typed: "--lr" for "learning_rate"; its name where there is none.

    A setting of a configuration inside another one is named alone ("epochs") or with its place ("training.epochs").
    """
    context = click.get_current_context(silent=True)
    known = context.command.params if context is not None else ()
    named = [each for each in known if each.name == parameter]
    named += [each for each in known if (each.name or "").rpartition(".")[2] == parameter]
    # A configuration that is made where one of its settings is given: that one.
    named += [each for each in known if (each.name or "").startswith(f"{parameter}.")]
    return next((flag for each in named for flag in each.opts if flag.startswith("--")), parameter)


def settings_of(name: str, values: dict[str, Any], kind: type[BaseModel]) -> dict[str, Any]:
    """What was typed of the settings of a configuration, as mappings like those of a recipe.

    They are taken out of ``values``; what was not typed is left to the configuration's own defaults.

    Raises:
        InvalidInput: a setting is given of a part that is not asked for.
    """
    settings: dict[str, Any] = {}
    for entry in generated.settings(name):
        value = values.pop(entry["name"])
        if value not in (None, ()):
            settings[entry["name"]] = _value(entry, value)
    _join_parts(name, settings, kind)
    switches = {entry["name"]: entry.get("switch") for entry in generated.settings(name)}
    for place, switch in switches.items():
        if place in settings and switch is not None and switch not in settings:
            raise InvalidInput(f"{typed(place)}: it is of a part that is not asked for; give {typed(switch)} too")
    off = {switch for switch in switches.values() if switch is not None and not settings.get(switch)}
    nested: dict[str, Any] = {}
    for place, value in settings.items():
        if switches[place] not in off:
            *parents, last = place.split(".")
            inner = nested
            for parent in parents:
                inner = inner.setdefault(parent, {})
            inner[last] = value
    return nested


def _value(entry: generated.Entry, value: Any) -> Any:
    """What was typed, as the configuration takes it; what is wrong is left to the configuration."""
    shape = entry["type"]
    if shape == "mapping":
        return _pairs(entry["flags"][-1], value)
    if shape == "int or text" and value.isascii() and value.isdecimal() and len(value) < 10:
        return int(value)
    if shape == "float or text":
        with suppress(ValueError):
            return float(value)
    return value


def _join_parts(name: str, settings: dict[str, Any], kind: type[BaseModel]) -> None:
    """Put the settings that were typed of a part into the part, in place."""
    from ..core.parts import kind_of

    entries = {entry["name"]: entry for entry in generated.settings(name)}
    of_parts: dict[str, dict[str, Any]] = {}
    for place in [place for place in settings if "part" in entries[place]]:
        of_parts.setdefault(entries[place]["part"], {})[place.rpartition(".")[2]] = settings.pop(place)
    for place, inner in of_parts.items():
        parts = kind_of(_field(kind, place).metadata)
        assert parts is not None, f"{kind.__name__}.{place} is a part"
        try:
            settings[place] = parts.with_settings(settings.get(place, entries[place].get("default", "")), inner)
            parts.read(settings[place])
        except ValueError as error:
            setting = str(error).partition(":")[0].rpartition(".")[2]
            where = f"{place}.{setting}" if setting in inner else place
            raise InvalidInput(f"{typed(where)}: {error}") from error


def _field(kind: type[BaseModel], place: str) -> FieldInfo:
    """The setting of a configuration at a place, which may be in a configuration inside it: "prune.criterion"."""
    *parents, last = place.split(".")
    for parent in parents:
        annotation = kind.model_fields[parent].annotation
        inner = (each for each in (annotation, *get_args(annotation)) if isinstance(each, type))
        kind = next(each for each in inner if issubclass(each, BaseModel))
    return kind.model_fields[last]


def _pairs(flag: str, texts: tuple[str, ...]) -> dict[str, float]:
    """Shares by pattern: the mappings that commands take."""
    pairs = {}
    for text in texts:
        pattern, separator, value = text.rpartition("=")
        try:
            share = float(value)
        except ValueError:
            separator = ""
        if not separator:
            raise InvalidInput(f"{flag} {text}: expected pattern=share, as layer1.*=0.3")
        pairs[pattern] = share
    return pairs


@dataclass(frozen=True)
class Options:
    """The options of :mod:`compress.cli.grammar.options`, as a command got them."""

    network: str | None = None
    model: str | None = None
    weights: Path | None = None
    trust: bool = False
    source: str | None = None
    input_shapes: tuple[str, ...] = ()
    data: str | None = None
    task: str | None = None
    teacher: str | None = None
    mean: str | None = None
    std: str | None = None
    resize: str | None = None
    validation: float | None = None
    calibration: int | None = None
    output: Path | None = None
    overwrite: bool = False
    seed: int = 0
    on: tuple[str, ...] = ()
    devices_file: Path | None = None
    json: bool = False
    json_file: Path | None = None
    verbose: bool = False
    quiet: bool = False
    debug: bool = False

    @property
    def console(self) -> Console:
        """Tables go to stdout, unless JSON goes there."""
        return Terminal(stderr=self.json, quiet=self.quiet)

    def specification(self) -> str:
        """The network's words, given in one of the two places."""
        return one_network(self.network, self.model)

    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The input shapes, each with its batch."""
        return tuple(parse_shape(text) for text in self.input_shapes)

    @cached_property
    def wanted_task(self) -> Task | str | None:
        """The task of the user's that ``--task`` names, read once, or the name of one of the project's."""
        from ..tasks.resolve import read_task

        return read_task(self.task)

    def load_data(self, networks: Iterable[str] | None = None) -> Data | None:
        """The data set, its images of the size of ``--input-shape``, or of the first network that tells one.

        Args:
            networks: that take it; left out, the command's one.
        """
        if self.data is None:
            return None
        from ..data import DataConfig, load
        from ..pipeline import sized

        config = configured(
            DataConfig,
            {"source": "data"},
            source=self.data,
            mean=_numbers("--mean", self.mean),
            std=_numbers("--std", self.std),
            **{
                name: own
                for name in ("resize", "validation", "calibration")
                if (own := getattr(self, name)) is not None
            },
        )
        return load(sized(config, networks or [self.specification()], self.shapes()), self.seed)

    def open(self, data: Data | None) -> Network:
        """The network, filled and tried; built by the code of ``--source``, where it is an artifact that names code."""
        return self._opened(self.specification(), data, self.weights, self.source)

    def open_other(self, specification: str, data: Data | None, weights: Path | None = None) -> Network:
        """Another network on the same data (a teacher)."""
        from ..sources.load import name_code

        if self.source is not None:
            name_code(self.source)
        return self._opened(specification, data, weights, None)

    def _opened(self, specification: str, data: Data | None, weights: Path | None, source: str | None) -> Network:
        from ..pipeline import open_network

        return open_network(
            specification,
            weights=weights,
            data=data,
            input_shapes=self.shapes(),
            other_shapes=tuple(readings(text)[1] for text in self.input_shapes),
            trust=self.trust,
            source=source,
            seed=self.seed,
            task=self.wanted_task,
        )

    def tell(self, value: Mapping[str, Any] | BaseModel) -> None:
        """Write ``value`` as JSON where that is asked for; an infinity, which JSON has no number for, is "Infinity"."""
        if self.json:
            click.echo(as_json(value))
        if self.json_file is not None:
            write_text(self.json_file, as_json(value) + "\n", overwrite=self.overwrite)

    def claim_output(self) -> None:
        """Keep the name of the output, if there is one, for this command until it ends; raises as `claim` does."""
        if self.output is not None:
            claimed = claim(self.output, overwrite=self.overwrite)
            click.get_current_context().with_resource(claimed)

    def claim_file(self, option: str, place: Path | None, others: Sequence[Path | None]) -> None:
        """Keep the name of a file besides the output, if there is one, until the command ends.

        Raises:
            InvalidInput: it is a folder, one of ``others`` (what is read, or written too), or as `claim` says.
        """
        if place is None:
            return
        if place.is_dir():
            raise InvalidInput(f"{option} {place}: expected a file to write, and this is a folder")
        taken = {other.absolute() for other in (*others, self.json_file, self.output) if other is not None}
        if place.absolute() in taken:
            raise InvalidInput(f"{option} {place}: the command reads or writes this file already; give another name")
        if not place.exists() or place.is_file():  # a device, as /dev/stdout, is written to as it is
            click.get_current_context().with_resource(claim(place, overwrite=self.overwrite))


def as_json(value: Mapping[str, Any] | BaseModel) -> str:
    """``value`` in JSON."""
    return json.dumps(_plain(value), indent=1)


def _plain(value: object) -> object:
    if isinstance(value, BaseModel):
        return json.loads(value.model_dump_json())
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise InvalidInput(f"{option} {text}: expected numbers with commas, one per channel") from error


@contextmanager
def progress_bars(options: Options) -> Iterator[ProgressReport]:
    """A progress that draws one bar per task on stderr, with the time left; plain lines where it is no terminal."""
    from ..stage import silent

    console = Terminal(stderr=True, quiet=options.quiet)
    if options.quiet:
        yield silent
        return
    if not console.is_terminal:
        yield _lines(console)
        return
    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}", markup=False),
    )  # fmt: skip
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def report(task: str, done: int, total: int, note: str = "") -> None:
            if task not in tasks:
                tasks[task] = bars.add_task(task, total=total, note=note)
            bars.update(tasks[task], completed=done, total=total, note=note)

        yield report


def _lines(console: Console) -> ProgressReport:
    last: dict[str, tuple[int, str]] = {}

    def report(task: str, done: int, total: int, note: str = "") -> None:
        tenth = 10 * done // max(1, total)
        if last.get(task) != (tenth, "") and (task not in last or last[task][0] != tenth or done == total):
            last[task] = (tenth, "")
            console.print(Text(f"{task}: {done} of {total} {note}".rstrip()))

    return report


def run_stage(kind: type[Config], name: str, values: dict[str, Any]) -> None:
    """What a command does that is a stage: make the configuration that was typed, and apply it."""
    from ..stage import Stage
    from ..training.loop import Training

    stage = configured(kind, **settings_of(name, values, kind))
    assert isinstance(stage, Stage), f"{kind.__name__} is a stage"
    apply_stage(Options(**values), stage, name, needs_data=_needs_data(stage), starts_random=kind is Training)


def _needs_data(stage: Stage) -> bool:
    own = getattr(stage, "needs_data", None)
    return own if isinstance(own, bool) else getattr(stage, "training", None) is not None


def apply_stage(
    options: Options, stage: Stage, name: str, *, needs_data: bool = False, starts_random: bool = False
) -> None:
    """Open the network, apply one stage, write the artifact, tell what happened."""
    from ..pipeline import advance
    from ..pipeline.output_noise import line as output_line
    from ..sources.artifact import save
    from ..stage import Context

    assert options.output is not None, "commands that write have --output"
    options.claim_output()
    if needs_data and options.data is None:
        raise InvalidInput(f"{name}: it needs data; give --data digits, an image folder, an .npz or file.py:callable")
    data = options.load_data()
    network = options.open(data)
    teacher = options.open_other(options.teacher, data) if options.teacher else None
    if starts_random and network.lineage:
        options.console.print(f"{options.specification()} is trained already: training goes on from its weights")
    with progress_bars(options) as progress, clock_on(options, progress) as clock:
        model = teacher.model if teacher else None
        context = Context(
            network.example_inputs,
            data,
            model,
            options.seed,
            progress,
            clock=clock,
            task=options.wanted_task,
            edits=network.edits_since(teacher) if teacher else (),
        )
        after, record = advance(network, stage, context, name=name)
    save(after, options.output, overwrite=options.overwrite, metrics={"stage": record.model_dump(mode="json")})
    options.console.print(stage_table(record))
    for line in record.measured:
        options.console.print(Text(f"  {line}"))
    for output in record.outputs:
        options.console.print(Text(f"  {output_line(output)}"))
    if record.restored is not None:
        options.console.print(restored_table(record.restored))
    if options.verbose:
        for edit in record.edits:
            options.console.print(Text(f"  {edit.layer or '(network)'} {edit.what}: {edit.before} -> {edit.after}"))
    shown = record.skipped if options.verbose else record.skipped[:5]
    for skip in shown:
        options.console.print(Text(f"  left alone: {skip.layer or '(network)'}: {skip.reason}"))
    if len(record.skipped) > len(shown):
        options.console.print(f"  ... and {len(record.skipped) - len(shown)} more (-v tells all)")
    options.console.print(Text(f"written: {options.output}"))
    options.tell(record)
    if record.restored is not None and not record.restored.reached:
        raise GateFailed(f"{name}: {record.restored.failure()}; written: {options.output}")


@contextmanager
def clock_on(options: Options, progress: ProgressReport) -> Iterator[MachineClock]:
    """Within: the clock of the device of ``--on``, by default this machine.

    Raises:
        InvalidInput: there are several devices.
    """
    from .. import deploy

    if not options.on:
        yield deploy.MachineClock()
        return
    if len(options.on) > 1:
        raise InvalidInput(f"--on {','.join(options.on)}: latencies for one network are taken on one device; name one")
    with deploy.opened(options.on, options.devices_file, progress) as (device,):
        yield deploy.MachineClock(device=device)


def stage_table(record: StageRecord) -> Table:
    """What a stage did to the four quantities."""
    table = Table("", "before", "after", "ratio", title=f"{record.name}: {record.seconds:.1f} s", title_justify="left")
    rows: tuple[tuple[str, str], ...] = (
        ("params", "parameters"),
        ("macs", "multiply-adds"),
        ("size_bytes", "bytes of weights"),
    )
    for key, title in rows:
        before, after = _get(record.before, key), _get(record.after, key)
        if before is not None and after is not None:
            table.add_row(title, f"{before:,}", f"{after:,}", f"{before / max(1, after):.2f}x")
    later = {score.name: score for score in record.after.scores}
    for first in record.before.scores:
        last = later.get(first.name)
        if last is not None:
            table.add_row(f"validation {first.name}{first.unit}", *_change(first, last))
    return table


def _change(first: ScoreRecord, last: ScoreRecord) -> tuple[str, str, str]:
    """A score before and after, and what lies between, in the cells of a table."""
    unit = "points" if first.unit.strip() == "%" else first.unit.strip()
    change = f"{last.value - first.value:+.2f} {unit}".rstrip() if math.isfinite(last.value - first.value) else ""
    return first.written(first.value).removesuffix(first.unit), last.written(last.value).removesuffix(last.unit), change


def _get(cost: Cost, key: str) -> int | None:
    value = getattr(cost, key)
    assert value is None or isinstance(value, int), f"{key} is a number"
    return value
