"""Files of the zoo on a board for ARM, emulated, behind a real sshd: do they give there what they give here?

    python -m benchmarks.emulated_board [--network resnet20 ...]

Each network has learnt the handwritten digits that scikit-learn ships, is quantized for ONNX Runtime on ARM, its
outputs too, and runs in float and in int8 on the board, over SSH, by wheels for aarch64; two of them in LiteRT, ncnn
and OpenVINO as well. Outputs and accuracy are held against the network, or its simulation in integers, and against
those of the same file on this machine; the bytes that a second run sends are counted. Each node in integers of ONNX
Runtime is held against exact arithmetic on what it read on the board. Then the board is the clock of a pruning and of a
quantization. The board's times are those of an emulator and are not told. Needs Debian's apt-get with qemu-user-static
and openssh-server; half an hour on two cores.
"""

from __future__ import annotations

from typing import Any

import click

from benchmarks.common.frame import Run, benchmark, chosen

NETWORKS = ("resnet20", "mobilenet_v2:width=0.35", "squeezenet_1_1", "shufflenet_v2_x0_5", "mobilenet_v3_small")
LONGER = ("squeezenet_1_1", "mobilenet_v2:width=0.35", "shufflenet_v2_x0_5")
ENGINES = {
    "resnet20": ("onnx", "litert", "ncnn", "openvino"),
    "mobilenet_v2:width=0.35": ("onnx", "litert", "ncnn", "openvino"),
}
"""The formats of networks that run in more than ONNX Runtime."""

MAXIMA = ("MaxPool", "NhwcMaxPool")
"""Operators in integers that round nothing."""

FLOAT_ERROR = 1e-3
FARTHEST_FROM_TIE = 1e-4
"""In steps: what float32 can make of the factor between two scales, at values of up to 255."""


@benchmark("emulated_board", __doc__)
@click.option("--network", "names", multiple=True, help="Five of the zoo by default.")
@click.option("--epochs", default=6, show_default=True)
def main(run: Run, names: tuple[str, ...], epochs: int) -> None:
    from benchmarks.emulated_board import measure
    from tests.support.board import missing

    reason = missing()
    if reason is not None:
        raise click.ClickException(f"no emulated board here: {reason}")
    rows: list[dict[str, Any]] = []
    samples = 16 if run.quick else measure.SAMPLES
    for name in chosen(names, NETWORKS, quick=run.quick):
        length = 1 if run.quick else epochs * (3 if name in LONGER else 1)
        for form in ENGINES.get(name, ("onnx",)):

            def measured(name: str = name, length: int = length, form: str = form) -> list[dict[str, Any]]:
                return measure.rows(name, run.work, length, samples, form)

            rows += run.part(f"{name} {form}", measured, samples=samples, epochs=length)
            run.say(f"{name}: {form} done")
    clocks = run.part("clocks", lambda: measure.clocks(run.work / "clocks"))
    _tables(run, rows, clocks)
    _bars(run, rows, clocks)


def _not_held(cell: dict[str, Any]) -> list[str]:
    """The operators that round and were not held against exact arithmetic."""
    return [name for name in cell["not_held"] if name not in MAXIMA]


def _tables(run: Run, rows: list[dict[str, Any]], clocks: list[dict[str, Any]]) -> None:
    from benchmarks.common.results import Column
    from benchmarks.emulated_board.measure import IN_NODES

    shown = (
        Column(key="network", title="network"),
        Column(key="engine", title="engine"),
        Column(key="kind", title="file"),
        Column(key="integer_nodes", title="nodes in integers there"),
        Column(key="float_nodes", title="nodes in floats there"),
        Column(key="relative_error", title="largest error / largest output", decimals=7),
        Column(key="relative_difference", title="largest difference from here / largest output", decimals=7),
        Column(key="identical_percent", title="outputs as here, bit for bit", unit="%", decimals=1),
        Column(key="agreement_percent", title="same class first as the network", unit="%", decimals=1),
        Column(key="top1_there", title="top-1 there", unit="%", decimals=1),
        Column(key="top1_here", title="top-1 here", unit="%", decimals=1),
        Column(key="second_bytes", title="bytes of a second run"),
    )
    run.table(
        shown,
        [{column.key: row[column.key] for column in shown} for row in rows],
        title="Files on the board",
        notes=["Errors are those against the network in float, or against its simulation in integers."],
    )
    in_nodes = (
        Column(key="network", title="network"),
        Column(key="nodes", title="nodes held"),
        Column(key="values", title="integers that they made"),
        Column(key="off", title="other than exact"),
        Column(key="largest_steps", title="by steps, at most"),
        Column(key="farthest_from_tie", title="exact value from a tie, at most, in steps", decimals=7),
        Column(key="not_held", title="not held"),
        Column(key="output_steps", title="output from its simulation, at most, in steps", decimals=1),
    )
    cells = [{"network": row["network"], **row["nodes"]} for row in rows if row["nodes"]]
    run.table(
        in_nodes,
        [{**cell, "not_held": ", ".join(_not_held(cell)) or "none"} for cell in cells],
        title="ONNX Runtime's integers on the board, node by node",
        notes=[
            f"Each node of {IN_NODES} samples is given what it read on the board; what it makes is held against exact "
            "arithmetic. A value that lies in the middle of two integers but for the rounding of float32 becomes the "
            "one or the other; the layers behind it carry that on, to the steps in the last column."
        ],
    )
    clock = (
        Column(key="command", title="with the board as the clock"),
        Column(key="exit_code", title="exit code"),
        Column(key="files_there", title="files timed on it"),
    )
    run.table(clock, [{column.key: row[column.key] for column in clock} for row in clocks])


def _bars(run: Run, rows: list[dict[str, Any]], clocks: list[dict[str, Any]]) -> None:
    floats = [row for row in rows if row["kind"] == "float32"]
    in_nodes = [row["nodes"] for row in rows if row["nodes"]]
    run.bar("largest error of a float file", max(row["relative_error"] for row in floats), FLOAT_ERROR, "at most")
    run.bar("files that the gate of check lets pass", sum(row["passed"] for row in rows), len(rows), "at least")
    steps, ties = (max(each[key] for each in in_nodes) for key in ("largest_steps", "farthest_from_tie"))
    run.bar("largest error of a single node in integers, in steps", steps, 1, "at most")
    run.bar("largest distance from a tie where one is off, in steps", ties, FARTHEST_FROM_TIE, "at most")
    run.bar(
        "kinds of nodes in integers that were not held", sum(len(_not_held(each)) for each in in_nodes), 0, "at most"
    )
    gap = max(abs(row["top1_there"] - row["top1_here"]) for row in rows)
    run.bar("largest difference of top-1", gap, 0.0 if not run.quick else 100.0, "at most", "%")
    run.bar("bytes that second runs send", sum(row["second_bytes"] for row in rows), 0, "at most")
    ends_well = sum(c["exit_code"] == 0 for c in clocks)
    run.bar("commands with the board as their clock that end well", ends_well, 2, "at least")


if __name__ == "__main__":
    main()
