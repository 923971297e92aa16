"""What the harness tells, beside what plain loops, and the harness itself, tell of the same files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.harness.plain_loops import LOOPS, litert_tool_ms, median_ms
from compress.compare.intervals import Ratio, ratio_of_medians
from compress.pipeline import fold_for_export, open_network
from export.facts import formats
from export.format import Job, exporter
from runtimes.bound import Binding, one_feed
from runtimes.measure.benchmark import benchmark
from runtimes.measure.loop import interleave
from runtimes.measure.presets import Preset
from runtimes.measure.request import Request
from runtimes.runtime import Options, engine_named

INPUT = (1, 3, 224, 224)


def exported(name: str, form: str, folder: Path) -> tuple[Path, dict[str, NDArray[Any]]]:
    """Return a network's float file in a format, written once, and inputs for it."""
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    facts = formats()[form]
    path, x = folder / f"{name}{facts.suffix}", torch.randn(INPUT)
    marker = folder / f"{name}-{form}.inputs"
    if not marker.exists():
        network = fold_for_export(open_network(f"{name}:small_images=False", input_shapes=(INPUT,)))
        job = Job(network.model, (x,), facts.targets[0], {}, dynamic_batch=False)
        written = exporter(form).export(job, path)
        marker.write_text("\n".join(written.inputs), encoding="utf-8")
    binding = Binding(tuple(marker.read_text(encoding="utf-8").split()))
    runtime = engine_named(facts.engine).load(path, Options())
    try:
        return path, dict(one_feed(runtime, binding, [x.numpy()]))
    finally:
        runtime.close()


def against_plain(name: str, form: str, folder: Path, rounds: int, seconds: float, threads: int) -> dict[str, Any]:
    """A row: our median and that of the plain loop, taken in turn, and the median of their ratios."""
    path, inputs = exported(name, form, folder)
    call = LOOPS[form](path, inputs, threads)
    request = Request(Preset("harness", 5, 0.0, 10, seconds), threads=threads, memory=False)
    ours: list[float] = []
    plain: list[float] = []
    for number in range(rounds):
        for which in (0, 1) if number % 2 else (1, 0):
            if which:
                plain.append(median_ms(call, seconds))
            else:
                (measured,) = benchmark([path], request, engine=formats()[form].engine, inputs=inputs)
                ours.append(measured.p50_ms)
    return _row(name, form, ours, plain)


def against_litert_tool(name: str, folder: Path, rounds: int, seconds: float, threads: int) -> dict[str, Any]:
    """A row: our median and that of LiteRT's benchmark program, taken in turn."""
    path, inputs = exported(name, "litert", folder)
    request = Request(Preset("harness", 5, 0.0, 10, seconds), threads=threads, memory=False)
    ours: list[float] = []
    tool: list[float] = []
    for _ in range(rounds):
        (measured,) = benchmark([path], request, engine=formats()["litert"].engine, inputs=inputs)
        ours.append(measured.p50_ms)
        tool.append(litert_tool_ms(path, max(int(1e3 * seconds / measured.p50_ms), 20), threads))
    return _row(name, "litert-benchmark", ours, tool)


def _row(name: str, other: str, ours: list[float], theirs: list[float]) -> dict[str, Any]:
    ratios = [first / second for first, second in zip(ours, theirs, strict=True)]
    return {
        "network": name,
        "other": other,
        "ours_ms": float(np.median(ours)),
        "other_ms": float(np.median(theirs)),
        "ratio": float(np.median(ratios)),
    }


def overhead_us(runs: int = 50_000) -> float:
    """Return the microseconds that a run takes in the loop beyond the work, which is none here."""
    samples = interleave([lambda: None], Preset("empty", 10, 0.0, runs, 0.0), lambda: None)
    return 1e6 * samples.duration_s / runs


def same_file_twice(name: str, folder: Path, seconds: float, threads: int) -> Ratio:
    """Return the ratio of the medians of one file measured beside itself, with its interval."""
    path, inputs = exported(name, "onnx", folder)
    request = Request(Preset("harness", 5, 0.0, 24, seconds), threads=threads, memory=False)
    first, second = benchmark([path, path], request, inputs=[inputs, inputs])
    loaded = first.loaded_at, second.loaded_at
    return ratio_of_medians(first.samples_ms, second.samples_ms, paired=True, loaded_at=loaded)
