"""compress bench"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from .grammar import options

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from ..data import Data
    from ..deploy import Deployed, Wanted
    from ..deploy.modes import ModeResults
    from ..recipe import Benchmark
    from ..report.schema import BenchmarkRecord
    from ..siblings import runtimes
    from ..sources.load import Network
    from ..stage import Progress
    from ..tasks.task import Task
    from .session import Options

    Device = runtimes.devices.device.Device
    Mode = runtimes.measure.modes.mode.Mode


@options.command("bench", short_help="Time files in their engine, side by side.")
@click.argument("networks", nargs=-1)
@click.option("--model", "models", multiple=True, help="A network, where it is not an argument.")
@click.option("--weights", type=options.PATH, help="For a network that is not a file yet.")
@click.option("--trust", is_flag=True, help="Run code that weights in a pickle, or an artifact, name.")
@options.source
@options.listed(
    "--format",
    "formats",
    common=True,
    type=click.Choice(options.FORMATS),
    help="What networks that are no file yet are exported to, as onnx,litert to compare engines; ONNX if left out.",
)
@options.input_shape
@options.data
@options.device
@options.settings("bench")
@options.settings("bench_modes")
@click.option(
    "-o", "--output", type=options.PATH, help="Write the measurements, raw samples included, to this JSON file."
)
@options.logged
@options.common
def command(
    networks: tuple[str, ...],
    models: tuple[str, ...],
    formats: tuple[str, ...],
    log: Path | None,
    label: str | None,
    **values: Any,
) -> None:
    """Measure latency, memory and size of files in one interleaved run; with --data, accuracy on the test split.

    A network that is no file yet (an artifact, a zoo name) is exported first.

    \b
    Example:
      compress bench a.onnx b.onnx --threads 1
      compress bench out/base out/int8 --data digits --json
      compress bench out/int8 --format onnx,litert,ncnn
      compress bench out/int8 --data digits --on local,ssh://pi@board
    """
    import tempfile
    from pathlib import Path

    from .. import deploy
    from ..compare.log import require_log
    from ..deploy.modes import Modes
    from ..errors import InvalidInput
    from ..recipe import Benchmark
    from ..sources.load import random_inputs
    from .on_devices import on_devices
    from .session import Options, configured, progress_bars, settings_of

    timing = configured(Benchmark, **settings_of("bench", values, Benchmark))
    modes = configured(Modes, **settings_of("bench_modes", values, Modes)).asked
    call = Options(**values)
    names = [*networks, *models]
    if not names:
        raise InvalidInput("bench: no network given; name .onnx files or networks")
    call.claim_output()
    if log is not None:
        require_log(log)
    data = call.load_data(names)
    inputs = random_inputs(call.shapes(), call.seed) if call.shapes() else None
    measured = _Measured(modes, timing, data, call.wanted_task, inputs, _engines(names, formats))
    with tempfile.TemporaryDirectory() as folder, progress_bars(call) as progress:
        written = _Written(call, data, formats, Path(folder))

        def measure(device: Device) -> None:
            measured.add([file for name in names for file in written.files(name, device)], device, progress)

        done = on_devices(call, progress, measure, measured.require)
    records = [record.model_copy(update={"label": label}) for record in measured.records]
    _show(call, records, measured.more)
    if records or done.whole:
        _write(call, {"devices": done.facts, "measurements": records, **measured.modes_told()}, records, log)
    if records and done.ended is not None:
        _note_what_is_kept(done.ended, call.output, log)
    done.require_all()
    if timing.strict:
        deploy.require_valid(records)


def _note_what_is_kept(ended: BaseException, *places: Path | None) -> None:
    """Have what broke the measuring off tell where the results until then are."""
    kept = " and ".join(str(place) for place in places if place is not None)
    ended.add_note(f"what was measured until then is {f'in {kept}' if kept else 'above'}")


def _engines(names: list[str], formats: tuple[str, ...]) -> tuple[str, ...]:
    """Those that run the files that are named, and those of the formats that networks are exported to."""
    from pathlib import Path

    from ..siblings import export, runtimes

    files = [path for path in map(Path, names) if runtimes.facts.is_model_file(path)]
    known = set(map(runtimes.facts.engine_of, files))
    if len(files) < len(names):
        known |= {export.facts.formats()[each].engine for each in formats}
    return tuple(sorted(known))


def _write(call: Options, found: dict[str, Any], records: list[BenchmarkRecord], log: Path | None) -> None:
    """Write what was measured as JSON, where that is asked for, and the records of files to the log."""
    from .. import deploy
    from ..compare.log import append
    from ..files.outputs import write_text
    from .session import as_json

    result = {"machine": deploy.machine(), **found}
    call.tell(result)
    if call.output is not None:
        write_text(call.output, as_json(result) + "\n", overwrite=call.overwrite)
    if log is not None:
        append(log, records)


def _show(call: Options, records: list[BenchmarkRecord], more: list[ModeResults]) -> None:
    """Print the tables."""
    from .output.bench_table import bench_table, node_lines, output_lines
    from .output.mode_tables import mode_tables
    from .output.profile_table import profile_table

    if records:
        call.console.print(bench_table(records))
        for line in (*node_lines(records), *output_lines(records)):
            call.console.print(line)
    for record in records:
        if record.profile is not None:
            call.console.print(profile_table(record.profile))
    for results in more:
        for table in mode_tables(results):
            call.console.print(table)


@dataclass
class _Measured:
    """What was measured so far, in one loop of all files and in other modes; ``more`` has those for each device.

    ``engines`` are those that are known before a device is reached.
    """

    modes: tuple[Mode, ...]
    timing: Benchmark
    data: Data | None
    task: Task | str | None
    inputs: tuple[Tensor, ...] | None
    engines: tuple[str, ...]
    records: list[BenchmarkRecord] = field(default_factory=list)
    more: list[ModeResults] = field(default_factory=list)

    def require(self, device: Device) -> None:
        """Raise DeviceError where a device is known to be unfit."""
        from ..deploy.profile import needs

        outputs_of = () if self.data is None else self.engines
        device.require(self.timing.request, (*self.modes, *needs(self.timing.profile)), outputs_of)

    def add(self, files: list[Deployed], device: Device, progress: Progress) -> None:
        """Measure files on a device; where that is broken off, what was measured before is added."""
        from .. import deploy
        from ..deploy.modes import ModeResults, subject_of
        from ..siblings import runtimes

        subject = subject_of(files, self.timing.request, device, self.inputs) if self.modes else None
        for mode in self.modes:
            assert subject is not None, "there are modes"
            mode.require(device, subject)
        try:
            self.records += deploy.measure(
                files,
                request=self.timing.request,
                data=self.data,
                task=self.task,
                inputs=self.inputs,
                progress=progress,
                device=device,
                profile=self.timing.profile,
            )
        except (runtimes.errors.DeviceError, runtimes.errors.Interrupted) as error:
            self.records.extend(deploy.broken_off(files, error, device.name))
            raise
        if subject is not None:
            self.more.append(ModeResults(device.name))
            self.more[-1].measure(self.modes, device, subject, progress)

    def modes_told(self) -> dict[str, Any]:
        """What was measured in other modes, as JSON holds it; nothing where none was asked for."""
        return {"modes": [each.to_json() for each in self.more]} if self.modes else {}


@dataclass
class _Written:
    """What networks that are no files yet are exported to, once for each kind of processor."""

    call: Options
    data: Data | None
    formats: tuple[str, ...]
    folder: Path
    networks: dict[str, Network] = field(default_factory=dict)
    known: dict[tuple[str, Wanted], Deployed] = field(default_factory=dict)

    def files(self, name: str, device: Device) -> list[Deployed]:
        """The file called ``name``; or, where that is a network, what it is exported to for ``device``."""
        from pathlib import Path

        from .. import deploy
        from ..pipeline import fold_for_export
        from ..siblings import runtimes

        if runtimes.facts.is_model_file(Path(name)):
            return [deploy.Deployed(name, Path(name))]
        if name not in self.networks:
            self.networks[name] = fold_for_export(self.call.open_other(name, self.data, self.call.weights))
        files = []
        for format_name in self.formats or (None,):
            wanted = deploy.Wanted(format_name)
            if self.call.on:
                wanted = wanted.on(device)
            title = f"{name} ({format_name})" if len(self.formats) > 1 else name
            files.append(self._written(title, self.networks[name], wanted))
            for scheme, other in deploy.beside(self.networks[name], wanted.resolved()[1]):
                files.append(self._written(f"{title}, {scheme}", other, wanted))
        return files

    def _written(self, title: str, network: Network, wanted: Wanted) -> Deployed:
        from .. import deploy

        key = (title, wanted)
        if key not in self.known:
            path = self.folder / f"{len(self.known)}{deploy.suffix_of(wanted)}"
            self.known[key] = deploy.export(network, title, path, wanted)[1]
        return self.known[key]
