"""``python -m runtimes FILE...`` measures files on this machine and prints JSON; numpy and the engine are enough.

``python -m runtimes check FOLDER`` runs the files of an exported folder against what they must give;
``python -m runtimes profile FILE...`` tells the time of each node. Errors are one line; ``--debug`` shows where they
come from. ``--large-files`` reads arrays of any size.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from . import ending
from .checks.gate import check_folder, to_json
from .devices.local import LocalDevice
from .errors import InvalidInputs, InvalidMeasurement
from .facts import engines
from .files.untrusted import OPTION, limits_lifted, read_arrays
from .measure.benchmark import benchmark, require_valid
from .measure.measurement import Measurement
from .measure.modes.asked import modes_asked
from .measure.modes.cold_start import MOST_PROCESSES
from .measure.modes.mode import ModeResults
from .measure.modes.nodes import NodeTimes
from .measure.modes.roofline import RooflineProbe
from .measure.modes.sweep import MOST_BATCH
from .measure.presets import PRESETS, preset_named
from .measure.request import Request
from .measure.subject import Subject
from .runtime import MOST_THREADS, Arrays, ExecutedGraph, load
from .sensors.cores import pinned, require_words


def main(arguments: list[str] | None = None) -> int:
    """Print a JSON list with a measurement per file, and a line on each to stderr.

    With ``--strict`` the exit code is 5 where one is invalid.
    """
    ending.prepare()
    words = sys.argv[1:] if arguments is None else arguments
    debug, large = "--debug" in words, OPTION in words
    try:
        with limits_lifted(large):
            return _run([argument for argument in words if argument not in ("--debug", OPTION)])
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            raise
        message, code = ending.told(error)
        ending.say(f"{'warning' if isinstance(error, InvalidMeasurement) else 'error'}: {message}")
        return code


def _number(least: float, most: float) -> Callable[[str], float]:
    """What reads a number above ``least``, and at most ``most``."""

    def read(text: str) -> float:
        number = float(text)
        if not least < number <= most:
            raise argparse.ArgumentTypeError(f"expected more than {least:g} and at most {most:g}, got {text[:40]}")
        return number

    read.__name__ = "number"
    return read


def _wholes(least: int, most: int) -> Callable[[str], tuple[int, ...]]:
    """What reads whole numbers in a range, with commas between them."""
    one = _whole(least, most)

    def read(text: str) -> tuple[int, ...]:
        return tuple(one(word) for word in text.split(","))

    read.__name__ = "numbers"
    return read


def _whole(least: int, most: int) -> Callable[[str], int]:
    """What reads a whole number in a range."""

    def read(text: str) -> int:
        number = int(text) if len(text) < 20 else most + 1
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(f"expected {least} to {most}, got {text[:40]}")
        return number

    read.__name__ = "number"  # as argparse calls what is none
    return read


def _choices(text: str) -> tuple[str, ...]:
    """Choices of cores; each may have several words, with a plus between them."""
    _cores(text.replace("+", ","))
    return tuple(text.split(","))


def _cores(text: str) -> tuple[str, ...]:
    words = tuple(text.split(","))
    try:
        require_words(words)
    except InvalidInputs as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("cores: ")) from None
    return words


class _Parser(argparse.ArgumentParser):
    """A parser that tells what is wrong as everything else does, in one line without the usage."""

    def error(self, message: str) -> NoReturn:
        raise InvalidInputs(f"{message}; {self.prog} --help tells what there is")


def _run(arguments: list[str]) -> int:
    others = {"check": _check, "profile": _profile}
    return others.get((arguments or [""])[0], _measure)(arguments)


def _parser(name: str, description: str | None) -> _Parser:
    """A parser that knows how files are run."""
    parser = _Parser(prog=name, description=description)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="model files; several are run in turn")
    parser.add_argument("--engine", choices=engines(), help="by default the one that the suffix names")
    parser.add_argument("--threads", type=_whole(1, MOST_THREADS), default=1)
    parser.add_argument("--inputs", type=Path, help="an .npz with an array for every input; random without it")
    parser.add_argument("--cores", type=_cores, help="pin to these: 0,1 or 0-3 or a cluster, as big")
    parser.add_argument("--seed", type=_whole(0, 2**32 - 1), default=0, help="of random inputs")
    return parser


def _measuring() -> _Parser:
    parser = _parser("python -m runtimes", __doc__)
    parser.add_argument("--preset", choices=tuple(PRESETS), default="default")
    parser.add_argument("--start-below", type=float, metavar="C", help="wait until all thermal zones are cooler")
    parser.add_argument("--governor", help="of cpufreq, set meanwhile and put back")
    parser.add_argument("--power-mode", help="of a Jetson, by name or number, set meanwhile and put back")
    parser.add_argument("--energy", action="store_true", help="measure the energy of a run too")
    parser.add_argument("--rail", help="of power; by default the one that has most of the machine on it")
    parser.add_argument("--strict", action="store_true", help="end with exit code 5 where a measurement is invalid")
    parser.add_argument("--no-memory", action="store_true", help="leave out the separate run for peak memory")
    parser.add_argument("--no-samples", action="store_true", help="leave out the raw samples")
    modes = parser.add_argument_group("modes", "Measured besides; the JSON then has measurements and modes.")
    modes.add_argument("--minutes", type=_number(0, 1440), help="run the files in turn for so long without a rest")
    modes.add_argument("--cold-starts", type=_whole(1, MOST_PROCESSES), help="start so many fresh processes")
    modes.add_argument("--batches", type=_wholes(1, MOST_BATCH), default=(), help="measure these sizes: 1,2,4")
    modes.add_argument("--sweep-threads", type=_wholes(1, MOST_THREADS), default=(), help="these numbers: 1,2,4")
    modes.add_argument("--sweep-cores", type=_choices, default=(), help="each of these choices: 0,0-3,little+big")
    return parser


def _measure(arguments: list[str]) -> int:
    asked = _measuring().parse_args(arguments)
    inputs = None if asked.inputs is None else read_arrays(asked.inputs)
    request = Request(
        preset=preset_named(asked.preset),
        threads=asked.threads,
        cores=asked.cores,
        seed=asked.seed,
        memory=not asked.no_memory,
        governor=asked.governor,
        power_mode=asked.power_mode,
        start_below_c=asked.start_below,
        energy=asked.energy or asked.rail is not None,
        rail=asked.rail,
    )
    modes = modes_asked(asked.minutes, asked.cold_starts, asked.batches, asked.sweep_threads, asked.sweep_cores)
    subject, here = _subject(asked, request, inputs), LocalDevice()
    for mode in modes:
        mode.require(here, subject)
    results = ModeResults(here.name)
    measurements: Sequence[Measurement] = ()
    graphs: Sequence[ExecutedGraph | None] = ()
    ended: BaseException | None = None
    try:
        measurements = benchmark(asked.files, request, engine=asked.engine, inputs=inputs)
        graphs = [_executed(file, asked.engine, request, inputs) for file in asked.files]
        results.measure(modes, here, subject)
    except KeyboardInterrupt as error:
        ended, measurements = error, measurements or getattr(error, "measurements", ())
    except Exception as error:  # noqa: BLE001 - raised again when what was measured is told
        ended = error
    if measurements:
        _tell(asked, measurements, graphs or [None] * len(measurements), results if modes else None)
    if ended is not None:
        raise ended
    if asked.strict:
        require_valid(measurements)
    return 0


def _executed(file: Path, engine: str | None, request: Request, inputs: Arrays | None) -> ExecutedGraph | None:
    runtime = load(file, engine, request.options)
    try:
        return runtime.executed_graph(inputs)
    finally:
        runtime.close()


def _tell(
    asked: argparse.Namespace,
    measurements: Sequence[Measurement],
    graphs: Sequence[ExecutedGraph | None],
    results: ModeResults | None,
) -> None:
    """Print what was measured as JSON, and a line on each file to stderr."""
    measured = []
    for measurement, graph in zip(measurements, graphs, strict=True):
        facts = measurement.to_json()
        if asked.no_samples:
            del facts["samples_ms"], facts["sentinel_ms"]
        measured.append(facts | {"executed": graph and graph.to_json()})
    told = measured if results is None else {"measurements": measured, "modes": [results.to_json()]}
    print(json.dumps(told, indent=None if not asked.no_samples else 2))
    for measurement, graph in zip(measurements, graphs, strict=True):
        ending.say(_in_short(measurement, graph))


def _subject(asked: argparse.Namespace, request: Request, inputs: Arrays | None) -> Subject:
    count = len(asked.files)
    return Subject.of(
        asked.files, request, engines=[asked.engine] * count, inputs=None if inputs is None else [inputs] * count
    )


def _profile(arguments: list[str]) -> int:
    parser = _parser("python -m runtimes profile", "Print a JSON list: nodes with their times, and the roofline.")
    parser.add_argument("--no-roofline", action="store_true", help="leave out the probe of what this machine can do")
    asked = parser.parse_args(arguments[1:])
    inputs = None if asked.inputs is None else read_arrays(asked.inputs)
    request = Request(threads=asked.threads, cores=asked.cores, seed=asked.seed)
    subject, here = _subject(asked, request, inputs), LocalDevice()
    with pinned(asked.cores):
        graphs = list(NodeTimes().results(here, subject))
    probe = None if asked.no_roofline else here.measure(RooflineProbe(subject.engines[0]), subject).to_json()
    told = [
        {"file": name, "engine": engine, "threads": asked.threads, "roofline": probe, "executed": graph.to_json()}
        for name, engine, graph in zip(subject.names, subject.engines, graphs, strict=True)
    ]
    print(json.dumps(told, indent=2))
    for name, graph in zip(subject.names, graphs, strict=True):
        slowest = max(graph.nodes, key=lambda node: node.duration_ms)
        line = f"{name}: {graph.duration_ms:.3f} ms in {len(graph.nodes)} nodes; the slowest is {slowest.name}"
        ending.say(f"{line} ({slowest.op}), {slowest.duration_ms:.3f} ms")
    return 0


def _in_short(measurement: Measurement, graph: ExecutedGraph | None) -> str:
    line = (
        f"{measurement.file}: p50 {measurement.p50_ms:.3f} ms, p90 {measurement.p90_ms:.3f} ms in {measurement.engine}"
    )
    line += f", {len(measurement.samples_ms)} runs; {measurement.size_bytes:,} bytes"
    line += f"; nodes: {graph.integer} integer, {graph.float} float, {graph.other} other" if graph else ""
    return line + "".join(f"; invalid: {rule.reason}" for rule in measurement.broken_rules)


def _check(arguments: list[str]) -> int:
    parser = _Parser(prog="python -m runtimes check", description="Print a JSON list, one per file.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--engine", nargs="+", default=(), choices=engines())
    parser.add_argument("--threads", type=_whole(1, MOST_THREADS), default=1)
    asked = parser.parse_args(arguments[1:])
    checks = list(check_folder(asked.folder, engines=asked.engine, threads=asked.threads))
    print(json.dumps([to_json(each) for each in checks], indent=2))
    for each in checks:
        for reason in each.reasons:
            ending.say(f"failed: {each.entry.file}: {reason}")
    return 0 if all(each.passed for each in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
