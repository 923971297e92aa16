"""Convolutions of 1- and 2-bit weights beside ONNX Runtime's in float and in int8, one thread.

    python -m benchmarks.bitwise_kernels [--kernels avx2] [--preset quick]

Each is a file of one 3x3 convolution with a bias, run in turn in one loop: medians of the thread's processor time,
which other work on the machine leaves alone. All is counted: ours read and write floats, and round and pack
activations; int8 reads and writes uint8 and has QLinearConv's best form here (U8S8 per channel, channels last).
Values are random, which changes nothing of what a kernel costs. Five minutes of processor time, half of one with
``--preset quick``.

The last line is what the engine would pay if it cut a network into sessions instead of adding operators to one.
"""

from __future__ import annotations

import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Literal

import click

from benchmarks.common.frame import Run, benchmark

SHAPES = ((256, 14), (256, 28), (128, 16), (64, 32))
BINARY = "binary x binary"
BAR_FLOAT, BAR_INT8, BAR_TERNARY = 6.0, 2.0, 1.0


@benchmark("bitwise_kernels", __doc__)
@click.option("--kernels", default="", help="avx512, avx2, neon or scalar; the fastest by default.")
@click.option("--preset", type=click.Choice(["default", "quick"]), default="default", show_default=True)
def main(run: Run, kernels: str, preset: Literal["quick", "default"]) -> None:
    from benchmarks.bitwise_kernels.measure import FORMS, cut_ms, medians
    from benchmarks.common.results import Column
    from runtimes.engines.bitwise import KERNELS

    os.environ[KERNELS] = kernels
    preset = "quick" if run.quick else preset
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for channels, size in SHAPES[-1:] if run.quick else SHAPES:
            measure = partial(medians, channels, size, Path(folder), preset)
            found = run.part(f"{channels} {size}", measure, kernels=kernels, preset=preset)
            rows.append((f"{channels} channels, {size}x{size}", found["ms"], found["spread"]))
        cut = cut_ms(Path(folder), preset)
    keys = {name: f"{name.replace(' ', '_')}_ms" for name in ("float", "int8", *FORMS)}
    table = []
    for shape, ms, spread in rows:
        beside = f"{ms['float'] / ms[BINARY]:.1f}, {ms['int8'] / ms[BINARY]:.1f}"
        medians_ms = {keys[name]: ms[name] for name in keys}
        table.append({"shape": shape, **medians_ms, "beside": beside, "spread_percent": 100 * spread})
    run.table(
        (
            Column(key="shape", title="shape"),
            *(Column(key=key, title=name, unit="ms", decimals=3) for name, key in keys.items()),
            Column(key="beside", title="float / binary, int8 / binary"),
            Column(key="spread_percent", title="widest spread", unit="%", decimals=0),
        ),
        table,
        title="3x3, as many outputs, batch 1, medians of processor time",
    )
    for kind, limit in (("float", BAR_FLOAT), ("int8", BAR_INT8)):
        slowest = min(ms[kind] / ms[BINARY] for _, ms, _ in rows)
        run.bar(f"{BINARY}, times as fast as {kind}, at the least", slowest, limit, "at least", "x")
    for name in FORMS:
        if name != BINARY:
            slowest = min(ms["int8"] / ms[name] for _, ms, _ in rows)
            run.bar(f"{name}, times as fast as int8, at the least", slowest, BAR_TERNARY, "at least", "x")
    run.note(f"One more session in a network that is cut at its bit layers: {1000 * cut:.1f} us.")


if __name__ == "__main__":
    main()
