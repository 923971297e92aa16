"""Files of few bits: how small they are, and how fast a binary network is beside its float twin. Nothing is trained.

    python -m benchmarks.few_bits_files [--threads 1] [--preset default]

Bytes are those of the whole exported file. Latencies are taken interleaved in one run: the float twin and its int8
file in ONNX Runtime, the binary file in the engine ``bitwise`` and, as any other engine would run it, in ONNX Runtime.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import click

from benchmarks.common.frame import Run, benchmark

SCHEMES = ("float", "int8", "w4a4", "ternary", "ttq", "w2a8", "binary", "w1a8")
SMALLER = {"binary": 24.0, "ternary": 13.0}
FASTER = 2.5
TWINS = ("bireal_resnet18_cifar", "bireal_resnet20")


@benchmark("few_bits_files", __doc__)
@click.option("--preset", type=click.Choice(["quick", "default"]), default="default", show_default=True)
def main(run: Run, preset: Literal["quick", "default"]) -> None:
    from benchmarks.common.results import Column
    from benchmarks.few_bits_files.measure import latencies, size

    preset = "quick" if run.quick else preset
    schemes = ("float", "binary") if run.quick else SCHEMES
    sizes = {scheme: run.part(f"size {scheme}", partial(size, scheme, run.work)) for scheme in schemes}
    run.table(
        (
            Column(key="scheme", title="resnet18_cifar"),
            Column(key="bytes", title="bytes"),
            Column(key="smaller", title="times smaller", unit="x", decimals=2),
        ),
        ({"scheme": name, "bytes": size, "smaller": sizes["float"] / size} for name, size in sizes.items()),
        title="whole files",
    )
    for scheme in SMALLER.keys() & sizes.keys():
        run.bar(f"bytes of {scheme}, times smaller", sizes["float"] / sizes[scheme], SMALLER[scheme], "at least", "x")
    rows = []
    for name in TWINS[1:] if run.quick else TWINS:
        rows += run.part(
            f"latency {name}", partial(latencies, name, run.work, run.threads, preset),
            preset=preset, threads=run.threads,
        )  # fmt: skip
    run.table(
        (
            Column(key="network", title="network"),
            Column(key="file", title="file"),
            Column(key="engine", title="engine"),
            Column(key="bytes", title="bytes"),
            Column(key="p50_ms", title="p50", unit="ms", decimals=3),
            Column(key="stable", title="stable"),
            Column(key="faster", title="float / this", unit="x", decimals=2),
        ),
        rows,
        title="latency",
    )
    for row in rows:
        if row["network"] == TWINS[0] and row["file"] == "binary":
            run.bar(f"binary {TWINS[0]}, times faster than float", row["faster"], FASTER, "at least", "x")


if __name__ == "__main__":
    main()
