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
    from ..deploy.modes import ModeResults, Modes
    from ..recipe import Benchmark
    from ..report.schema import BenchmarkRecord
    from ..siblings import runtimes
    from ..sources.load import Network
    from ..stage import Progress
    from .session import Options

    Device = runtimes.devices.device.Device


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
    from ..compare.log import append, require_log
    from ..deploy.modes import Modes
    from ..files.outputs import write_text
    from ..recipe import Benchmark
    from ..sources.load import random_inputs
    from .on_devices import on_devices
    from .session import Options, as_json, configured, progress_bars, settings_of

    timing = configured(Benchmark, **settings_of("bench", values, Benchmark))
    modes = configured(Modes, **settings_of("bench_modes", values, Modes))
    call = Options(**values)
    names = [*networks, *models]
    _require_possible(names, modes, call)
    call.claim_output()
    if log is not None:
        require_log(log)
    data = call.load_data(names)
    inputs = random_inputs(call.shapes(), call.seed) if call.shapes() else None
    records: list[BenchmarkRecord] = []
    with tempfile.TemporaryDirectory() as folder, progress_bars(call) as progress:
        written = _Written(call, data, formats, Path(folder))
        measuring = {"data": data, "inputs": inputs, "progress": progress}
        done = on_devices(call, progress, lambda device: _measure(written, names, device, records, timing, measuring))
        more = _more(written, names, modes, timing.request, inputs, progress) if modes.wanted else None
    records = [record.model_copy(update={"label": label}) for record in records]
    _show(call, records, more)
    result = {"machine": deploy.machine(), "devices": done.facts, "measurements": records}
    result |= more.to_json() if more is not None else {}
    if records or not done.failures:
        call.tell(result)
        if call.output is not None:
            write_text(call.output, as_json(result) + "\n", overwrite=call.overwrite)
        if log is not None:
            append(log, records)
    done.require_all()
    if timing.strict:
        deploy.require_valid(records)


def _require_possible(names: list[str], modes: Modes, call: Options) -> None:
    """Raise InvalidInput where no network is named, or modes are asked for elsewhere."""
    from ..errors import InvalidInput

    if not names:
        raise InvalidInput("bench: no network given; name .onnx files or networks")
    if modes.wanted and call.on:
        raise InvalidInput("bench: --minutes, --cold-starts, --batches and sweeps are of this machine; leave out --on")


def _show(call: Options, records: list[BenchmarkRecord], more: ModeResults | None) -> None:
    """Print the tables."""
    from .output.bench_table import bench_table, node_lines
    from .output.mode_tables import mode_tables
    from .output.profile_table import profile_table

    if records:
        call.console.print(bench_table(records))
        for line in node_lines(records):
            call.console.print(line)
    for record in records:
        if record.profile is not None:
            call.console.print(profile_table(record.profile))
    for table in mode_tables(more) if more is not None else ():
        call.console.print(table)


def _measure(
    written: _Written,
    names: list[str],
    device: Device,
    records: list[BenchmarkRecord],
    timing: Benchmark,
    measuring: dict[str, Any],
) -> None:
    """Add the records of files on a device; where it is lost, what it measured before."""
    from .. import deploy
    from ..siblings import runtimes

    files = [file for name in names for file in written.files(name, device)]
    try:
        records.extend(
            deploy.measure(files, request=timing.request, profile=timing.profile, device=device, **measuring)
        )
    except runtimes.errors.DeviceError as error:
        records.extend(deploy.broken_off(files, error, device.name))
        raise


def _more(
    written: _Written,
    names: list[str],
    modes: Modes,
    request: runtimes.measure.request.Request,
    inputs: tuple[Tensor, ...] | None,
    progress: Progress,
) -> ModeResults:
    """What is measured besides, here."""
    from ..deploy.modes import measure_modes
    from ..siblings import runtimes

    here = runtimes.devices.local.LocalDevice()
    files = [file for name in names for file in written.files(name, here)]
    return measure_modes(files, modes, request, inputs=inputs, progress=progress)


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

        if Path(name).suffix.lower() in runtimes.facts.suffixes():
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
