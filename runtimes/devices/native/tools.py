"""The benchmark programs of engines: how they are called, and what they print.

- LiteRT ``benchmark_model``: https://ai.google.dev/edge/litert/models/measurement
- ONNX Runtime ``onnxruntime_perf_test``: onnxruntime/test/perftest/README.md of its repository
- ncnn ``benchncnn``: benchmark/README.md of its repository
- ExecuTorch ``executor_runner``: https://docs.pytorch.org/executorch (its flags are ``--help``'s)

Unproven: the parsers are tested on texts of the documented formats; none of the programs was run.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ...errors import DeviceError


@dataclass(frozen=True)
class ToolRun:
    """What a program is to do.

    Args:
        program: its place on the device.
        model: the place of the file on the device.
        threads: of one operator.
        warmup_runs: before what counts, as far as the program can be told.
        runs: that count.
        shapes: of the inputs, as the engine has them; ncnn asks for them.
    """

    program: str
    model: str
    threads: int = 1
    warmup_runs: int = 10
    runs: int = 100
    shapes: Sequence[Sequence[int]] = ()


@dataclass(frozen=True)
class ToolTimes:
    """What a program told, in milliseconds; what it does not tell is None, and nothing is made up from the rest.

    Args:
        runs: that it timed.
        samples_ms: of each run, in order; empty where it tells figures over all runs alone.
    """

    runs: int
    mean_ms: float
    samples_ms: tuple[float, ...] = ()
    min_ms: float | None = None
    max_ms: float | None = None
    std_ms: float | None = None
    p50_ms: float | None = None
    load_ms: float | None = None
    first_ms: float | None = None

    def __post_init__(self) -> None:
        times = (self.mean_ms, *self.samples_ms, self.min_ms or 0.0, self.max_ms or 0.0)
        if self.runs < 1 or not all(math.isfinite(time) and time >= 0 for time in times):
            raise ValueError("times that are none")


@dataclass(frozen=True)
class Tool:
    """A program: its file's name, its arguments, and the reading of what it printed.

    ``asks_shapes`` says that its arguments have the shapes of the inputs.
    """

    name: str
    arguments: Callable[[ToolRun], list[str]]
    parse: Callable[[str], ToolTimes]
    asks_shapes: bool = False

    def words(self, run: ToolRun) -> list[str]:
        """Return the program with its arguments, each a word of its own."""
        return [run.program, *self.arguments(run)]

    def times(self, text: str) -> ToolTimes:
        """Return what the program told in ``text``, its stdout and stderr together.

        Raises:
            DeviceError: nothing of the documented form is in it.
        """
        try:
            return self.parse(text)
        except (LookupError, ValueError, OverflowError):
            last = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "nothing")
            raise DeviceError(
                f"{self.name} printed no times of the form that is documented (last: {last[:200]}); "
                "use a program of a release of the engine"
            ) from None


_NUMBER = r"([-+0-9.eE]+)"


def _benchmark_model(run: ToolRun) -> list[str]:
    return [
        f"--graph={run.model}",
        f"--num_threads={run.threads}",
        f"--warmup_runs={run.warmup_runs}",
        f"--num_runs={run.runs}",
        "--min_secs=0",
        "--use_xnnpack=true",
    ]


def _read_benchmark_model(text: str) -> ToolTimes:
    """Of the lines that count runs, the last is of those after warm-up; times are in microseconds."""
    counted = [line for line in text.splitlines() if re.search(r"\bcount=\d", line)]
    told = dict(re.findall(rf"(\w+)={_NUMBER}", counted[-1]))
    summary = re.findall(rf"(Init|First inference|Inference \(avg\)): {_NUMBER}", text)
    whole = {name: float(value) / 1e3 for name, value in summary}
    figures = {key: float(value) / 1e3 for key, value in told.items() if key in ("min", "max", "std", "median")}
    return ToolTimes(
        runs=int(told["count"]),
        mean_ms=float(told["avg"]) / 1e3 if "avg" in told else whole["Inference (avg)"],
        min_ms=figures.get("min"),
        max_ms=figures.get("max"),
        std_ms=figures.get("std"),
        p50_ms=figures.get("median"),
        load_ms=whole.get("Init"),
        first_ms=whole.get("First inference"),
    )


def _perf_test(run: ToolRun) -> list[str]:
    threads = ["-x", str(run.threads), "-y", "1"]
    return ["-I", "-v", "-m", "times", "-r", str(run.runs), *threads, run.model]


def _read_perf_test(text: str) -> ToolTimes:
    """Every run has a line, in seconds; what comes before the first of them is warm-up."""
    samples = tuple(float(value) * 1e3 for value in re.findall(rf"^iteration:\d+,\s*time_cost:{_NUMBER}", text, re.M))
    load = re.search(rf"Session creation time cost:\s*{_NUMBER} s", text)
    first = re.search(rf"First inference time cost:\s*{_NUMBER} ms", text)
    return ToolTimes(
        runs=len(samples),
        mean_ms=sum(samples) / len(samples) if samples else float("nan"),
        samples_ms=samples,
        min_ms=min(samples),
        max_ms=max(samples),
        load_ms=float(load[1]) * 1e3 if load else None,
        first_ms=float(first[1]) if first else None,
    )


def _benchncnn(run: ToolRun) -> list[str]:
    """Loops, threads, all cores, no GPU, no pause; ncnn names shapes from the fastest axis to the slowest."""
    shapes = ",".join(f"[{','.join(str(length) for length in reversed(shape))}]" for shape in run.shapes)
    return [str(run.runs), str(run.threads), "0", "-1", "0", f"param={run.model}", f"shape={shapes}"]


def _read_benchncnn(text: str) -> ToolTimes:
    """The last line of figures; it does not say how many runs there were, but for the line of its settings."""
    line = re.findall(rf"min =\s*{_NUMBER}\s+max =\s*{_NUMBER}\s+avg =\s*{_NUMBER}", text)[-1]
    runs = re.findall(r"^loop_count = (\d+)", text, re.M)[-1]
    least, most, mean = (float(value) for value in line)
    return ToolTimes(runs=int(runs), mean_ms=mean, min_ms=least, max_ms=most)


def _executor_runner(run: ToolRun) -> list[str]:
    return [f"--model_path={run.model}", f"--num_executions={run.runs}", f"--cpu_threads={run.threads}"]


def _read_executor_runner(text: str) -> ToolTimes:
    """The time of all runs together; the first is among them, there is no warm-up."""
    runs, whole = re.findall(rf"Model executed successfully (\d+) time\(s\) in {_NUMBER} ms", text)[-1]
    return ToolTimes(runs=int(runs), mean_ms=float(whole) / int(runs))


TOOLS: Mapping[str, Tool] = {
    tool.name: tool
    for tool in (
        Tool("benchmark_model", _benchmark_model, _read_benchmark_model),
        Tool("onnxruntime_perf_test", _perf_test, _read_perf_test),
        Tool("benchncnn", _benchncnn, _read_benchncnn, asks_shapes=True),
        Tool("executor_runner", _executor_runner, _read_executor_runner),
    )
}
"""By name; which one is an engine's own, is a fact of the engine: `runtimes.facts.EngineFacts.native_tool`."""
