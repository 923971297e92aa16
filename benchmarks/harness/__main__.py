"""Our medians beside those of plain loops, of LiteRT's own benchmark program, and of themselves.

    python -m benchmarks.harness [--rounds 4] [--seconds 0.5]

Each engine is called as its documentation does, in a loop of its own, in turn with the measuring that `bench` does:
five networks in float, one thread. The harness's own time is that of a run of nothing. A file measured beside itself
twenty times must come out as equal to itself. It takes some eight minutes, after the files are written.
"""

from __future__ import annotations

from typing import Any

import click

from benchmarks.common.frame import Run, benchmark

NETWORKS = ("squeezenet_1_1", "shufflenet_v2_x1_0", "mobilenet_v2", "mobilenet_v3_large", "resnet18")
FORMS = ("onnx", "litert", "openvino", "ncnn", "executorch")
TOOL = "litert-benchmark"
REPEATS = 20


@benchmark("harness", __doc__)
@click.option("--rounds", default=4, show_default=True, help="In which the two take turns.")
@click.option("--seconds", default=0.5, show_default=True, help="Of each turn.")
def main(run: Run, rounds: int, seconds: float) -> None:
    import numpy as np

    from benchmarks.common.results import Column
    from benchmarks.harness.measure import against_litert_tool, against_plain, overhead_us, same_file_twice

    names, turns, span = (NETWORKS[:1], 2, 0.05) if run.quick else (NETWORKS, rounds, seconds)
    files = run.work / "files"

    def row(name: str, other: str) -> dict[str, Any]:
        if other == TOOL:
            return run.part(f"{name} {other}", lambda: against_litert_tool(name, files, turns, span, run.threads))
        return run.part(f"{name} {other}", lambda: against_plain(name, other, files, turns, span, run.threads))

    others = FORMS[:1] if run.quick else (*FORMS, TOOL)
    rows = [row(name, other) for name in names for other in others]
    run.table(
        (
            Column(key="network", title="network"),
            Column(key="other", title="against"),
            Column(key="ours_ms", title="ours", unit="ms", decimals=3),
            Column(key="other_ms", title="the other", unit="ms", decimals=3),
            Column(key="ratio", title="ratio", unit="x", decimals=3),
        ),
        rows,
        title="Medians beside those of plain loops and of LiteRT's benchmark program",
    )
    repeats = 3 if run.quick else REPEATS
    pairs = [same_file_twice(names[number % len(names)], files, span, run.threads) for number in range(repeats)]
    covered = sum(pair.low is not None and pair.high is not None and pair.low <= 1 <= pair.high for pair in pairs)
    beyond = [abs(row["ratio"] - 1) for row in rows]
    run.bar("plain loops: median difference", 100 * float(np.median(beyond)), 3, "at most", "%")
    run.bar("plain loops: largest difference", 100 * max(beyond), 3, "at most", "%")
    run.bar("time of the harness for each run", overhead_us(), 10, "at most", "us")
    run.bar("a file beside itself: largest difference", 100 * max(abs(p.value - 1) for p in pairs), 3, "at most", "%")
    run.bar(f"a file beside itself: intervals with 1, of {repeats}", covered, 0.9 * repeats, "at least")


if __name__ == "__main__":
    main()
