"""``python -m runtimes FILE...`` measures files on this machine and prints JSON; numpy and the engine are enough.

``python -m runtimes check FOLDER`` runs the files of an exported folder against what they must give. Errors are
one line; ``--debug`` shows where they come from. ``--large-files`` reads arrays of any size.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from . import ending
from .checks.gate import check_folder, to_json
from .errors import InvalidInputs, InvalidMeasurement
from .facts import engines
from .files.untrusted import OPTION, limits_lifted, read_arrays
from .measure.benchmark import benchmark, require_valid
from .measure.measurement import Measurement
from .measure.presets import PRESETS, preset_named
from .measure.request import Request
from .runtime import MOST_THREADS, ExecutedGraph, load
from .sensors.cores import require_words


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


def _whole(least: int, most: int) -> Callable[[str], int]:
    """What reads a whole number in a range."""

    def read(text: str) -> int:
        number = int(text) if len(text) < 20 else most + 1
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(f"expected {least} to {most}, got {text[:40]}")
        return number

    read.__name__ = "number"  # as argparse calls what is none
    return read


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
    if arguments[:1] == ["check"]:
        return _check(arguments[1:])
    parser = _Parser(prog="python -m runtimes", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="model files; several are run in turn")
    parser.add_argument("--engine", choices=engines(), help="by default the one that the suffix names")
    parser.add_argument("--threads", type=_whole(1, MOST_THREADS), default=1)
    parser.add_argument("--preset", choices=tuple(PRESETS), default="default")
    parser.add_argument("--inputs", type=Path, help="an .npz with an array for every input; random without it")
    parser.add_argument("--cores", type=_cores, help="pin to these: 0,1 or 0-3 or a cluster, as big")
    parser.add_argument("--start-below", type=float, metavar="C", help="wait until all thermal zones are cooler")
    parser.add_argument("--governor", help="of cpufreq, set meanwhile and put back")
    parser.add_argument("--power-mode", help="of a Jetson, by name or number, set meanwhile and put back")
    parser.add_argument("--energy", action="store_true", help="measure the energy of a run too")
    parser.add_argument("--rail", help="of power; by default the one that has most of the machine on it")
    parser.add_argument("--strict", action="store_true", help="end with exit code 5 where a measurement is invalid")
    parser.add_argument("--seed", type=_whole(0, 2**32 - 1), default=0, help="of random inputs")
    parser.add_argument("--no-memory", action="store_true", help="leave out the separate run for peak memory")
    parser.add_argument("--no-samples", action="store_true", help="leave out the raw samples")
    asked = parser.parse_args(arguments)
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
    measurements = benchmark(asked.files, request, engine=asked.engine, inputs=inputs)
    measured, lines = [], []
    for file, measurement in zip(asked.files, measurements, strict=True):
        facts = measurement.to_json()
        if asked.no_samples:
            del facts["samples_ms"], facts["sentinel_ms"]
        runtime = load(file, asked.engine, request.options)
        graph = runtime.executed_graph(inputs)
        runtime.close()
        facts["executed"] = graph and graph.to_json()
        measured.append(facts)
        lines.append(_in_short(measurement, graph))
    print(json.dumps(measured, indent=None if not asked.no_samples else 2))
    for line in lines:
        ending.say(line)
    if asked.strict:
        require_valid(measurements)
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
    asked = parser.parse_args(arguments)
    checks = list(check_folder(asked.folder, engines=asked.engine, threads=asked.threads))
    print(json.dumps([to_json(each) for each in checks], indent=2))
    for each in checks:
        for reason in each.reasons:
            ending.say(f"failed: {each.entry.file}: {reason}")
    return 0 if all(each.passed for each in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
