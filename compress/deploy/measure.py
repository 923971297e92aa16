"""Deployed files timed side by side, with their accuracy and agreement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from ..data import Data
from ..report.schema import BenchmarkRecord, Latency
from ..siblings import runtimes
from ..stage import Progress, silent
from ..tasks.classification import require_classifier
from .deployed import Deployed
from .parity import accuracy, parity_on, some, taken


def measure(
    files: Sequence[Deployed],
    *,
    threads: int = 1,
    preset: Literal["quick", "standard", "mlperf"] = "quick",
    data: Data | None = None,
    inputs: tuple[Tensor, ...] | None = None,
    progress: Progress = silent,
    parity_samples: int = 1024,
) -> list[BenchmarkRecord]:
    """Each file's latency, memory, accuracy on the test split and agreement with its network, timed interleaved."""
    for file in files:
        if data is not None and file.network is not None:
            require_classifier(file.network.model, data, ["test"])
    options = runtimes.runtime.Options(threads=threads)
    measured = runtimes.measure.benchmark.benchmark(
        [file.path for file in files],
        engine=[file.engine for file in files],
        options=options,
        preset=preset,
        inputs=None if inputs is None else [_feed(file, inputs, options) for file in files],
        progress=progress,
    )
    records = []
    for number, (file, found) in enumerate(zip(files, measured, strict=True)):
        progress("test the files", number, len(files), file.name)
        top1, samples, parity = None, None, None
        if data is not None and "test" in data.splits:
            samples = len(data.splits["test"])
            top1 = accuracy(file, data, threads)
            if file.network is not None:
                parity = parity_on(file, [(taken(file.network, x),) for (x,) in some(data, parity_samples)[0]])
        elif file.network is not None:
            parity = parity_on(file, [file.network.example_inputs])
        records.append(
            BenchmarkRecord(
                name=file.name,
                file=str(file.path),
                runtime=found.engine,
                runtime_version=found.engine_version,
                threads=found.threads,
                preset=found.preset,
                runs=len(found.samples_ms),
                size_bytes=found.size_bytes,
                latency_ms=Latency(
                    p50=found.p50_ms,
                    p90=found.p90_ms,
                    p95=found.p95_ms,
                    p99=found.p99_ms,
                    min=found.min_ms,
                    mean=found.mean_ms,
                    std=found.std_ms,
                ),
                samples_ms=found.samples_ms,
                peak_memory_bytes=found.peak_memory_bytes,
                stable=found.stable,
                notes=found.unstable,
                top1=top1,
                samples=samples,
                parity=parity,
                in_reference=not file.is_exact,
            )
        )
    progress("test the files", len(files), len(files))
    return records


def _feed(file: Deployed, inputs: tuple[Tensor, ...], options: runtimes.runtime.Options) -> runtimes.runtime.Arrays:
    engine = runtimes.runtime.load(file.path, file.engine, options)
    try:
        return runtimes.bound.feed(engine, file.binding, [x.numpy() for x in inputs])
    finally:
        engine.close()
