"""compress check"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .grammar import options

if TYPE_CHECKING:
    from .session import Options


@options.command("check", short_help="Run exported files in their engines against what they must give.")
@click.argument("folder", type=options.PATH)
@click.option(
    "--build",
    type=click.Choice(options.BUILDERS),
    help="Instead of running files, give the ONNX files of the target to the builder of this engine; no GPU is needed.",
)
@options.listed("--gpu", "gpus", metavar="GPU", help="Kinds of GPUs to build for: sm86, or ampere for a family.")
@options.listed("--engine", "engines", help="Only files for these engines.")
@click.option("--threads", type=options.THREADS, default=1, show_default=True)
@click.option(
    "--agreement",
    type=options.Finite(0, 100),
    default=99.0,
    show_default=True,
    help="Least top-1 agreement of a file in integers with its simulation, in percent.",
)
@options.device
@options.common
def command(
    folder: Path,
    build: str | None,
    gpus: tuple[str, ...],
    engines: tuple[str, ...],
    threads: int,
    agreement: float,
    **values: Any,
) -> None:
    """Run every file of an exported folder on its stored samples, and compare with what its network gave.

    Exit code 1 where one does not pass: a wrong output, too little agreement, an engine that is missing, no samples.
    --on runs them on other devices; python -m runtimes check FOLDER does the same on one that has a copy of runtimes.

    With --build, each ONNX file for TensorRT, or the one file that is named, is given to NVIDIA's parser and builder:
    which numbers its products run in, or why it is refused (exit code 1).

    \b
    Example:
      compress export out/int8 --format all --data digits -o out/files
      compress check out/files
      compress check out/files --build tensorrt-rtx --gpu ampere
      compress check out/files --on ssh://pi@board
    """
    from ..errors import InvalidInput
    from .session import Options

    call = Options(**values)
    if build is not None:
        if engines:
            raise InvalidInput("check: --engine is for files that are run; leave it out with --build")
        _build(call, folder, build, gpus)
    elif gpus:
        raise InvalidInput("check: --gpu is for engines that are built; give --build as well")
    else:
        _run(call, folder, engines, threads, agreement)


def _run(call: Options, folder: Path, engines: tuple[str, ...], threads: int, agreement: float) -> None:
    from rich.table import Table
    from rich.text import Text

    from ..errors import GateFailed
    from ..siblings import runtimes
    from .on_devices import on_devices
    from .session import progress_bars

    gate = runtimes.checks.gate
    checks: list[tuple[str, runtimes.checks.gate.Checked]] = []
    runtimes.checks.folder.Folder.read(folder)  # before a device is reached

    def check(device: runtimes.devices.device.Device) -> None:
        found = gate.check_folder(folder, engines=engines, threads=threads, agreement=agreement, device=device)
        checks.extend((device.name, checked) for checked in found)

    with progress_bars(call) as progress:
        done = on_devices(call, progress, check)
    names = [f"{device}: {checked.entry.file}" if call.on else checked.entry.file for device, checked in checks]
    table = Table(*(["device"] if call.on else []), *gate.COLUMNS, title=str(folder), title_justify="left")
    for device, checked in checks:
        table.add_row(*(Text(cell) for cell in ([device] if call.on else []) + list(gate.row(checked))))
    if checks:
        call.console.print(table)
    for name, (_, checked) in zip(names, checks, strict=True):
        for note in gate.notes(checked):
            call.console.print(Text(f"  {name}: {note}"))
    if checks or done.ended is None:
        call.tell(
            {"devices": done.facts, "files": [{"device": device, **gate.to_json(each)} for device, each in checks]}
        )
    done.require_all()
    failed = [(name, checked) for name, (_, checked) in zip(names, checks, strict=True) if not checked.passed]
    if failed:
        told = "; ".join(f"{name}: {', '.join(checked.reasons)}" for name, checked in failed)
        raise GateFailed(f"{folder}: {len(failed)} of {len(checks)} files do not pass: {told}")


def _build(call: Options, place: Path, format_name: str, gpus: tuple[str, ...]) -> None:
    from rich.table import Table
    from rich.text import Text

    from ..deploy import builds
    from ..errors import GateFailed

    table = Table(*builds.COLUMNS, title=str(place), title_justify="left")
    made = []
    for build in builds.try_builds(place, format_name, gpus):
        made.append(build)
        table.add_row(*(Text(cell) for cell in builds.row(build)))
    call.console.print(table)
    for build in made:
        for note in builds.notes(build):
            call.console.print(Text(f"  {build.file}: {note}"))
    call.tell({"builder": format_name, "files": [builds.to_json(build) for build in made]})
    refused = [build for build in made if not build.trial.built]
    if refused:
        refusals = "; ".join(f"{build.file}: {build.trial.message}" for build in refused)
        raise GateFailed(f"{place}: {len(refused)} of {len(made)} files are not built: {refusals}")
