"""Files of the zoo on a board for ARM, emulated, behind a real sshd: do they give there what they give here?

    python -m benchmarks.emulated_board [--network resnet20 ...]

Each network has learnt the handwritten digits that scikit-learn ships, is quantized for ONNX Runtime on ARM, its
outputs too, and runs in float and in int8 on the board, over SSH, by wheels for aarch64. Outputs and accuracy are held
against those of the same file on this machine, and the bytes that a second run sends are counted. Then the board is the
clock of a pruning and of a quantization. The board's times are those of an emulator and are not told. Needs Debian's
apt-get with qemu-user-static and openssh-server; twenty minutes on two cores.
"""

from __future__ import annotations

from typing import Any

import click

from benchmarks.common.frame import Run, benchmark, chosen

NETWORKS = ("resnet20", "mobilenet_v2:width=0.35", "squeezenet_1_1", "shufflenet_v2_x0_5", "mobilenet_v3_small")
LONGER = ("squeezenet_1_1", "mobilenet_v2:width=0.35", "shufflenet_v2_x0_5")
FLOAT_ERROR = 1e-3


@benchmark("emulated_board", __doc__)
@click.option("--network", "names", multiple=True, help="Five of the zoo by default.")
@click.option("--epochs", default=6, show_default=True)
def main(run: Run, names: tuple[str, ...], epochs: int) -> None:
    from benchmarks.common.results import Column
    from benchmarks.emulated_board import measure
    from tests.support.board import missing

    reason = missing()
    if reason is not None:
        raise click.ClickException(f"no emulated board here: {reason}")
    rows: list[dict[str, Any]] = []
    samples = 16 if run.quick else measure.SAMPLES
    for name in chosen(names, NETWORKS, quick=run.quick):
        length = 1 if run.quick else epochs * (3 if name in LONGER else 1)

        def measured(name: str = name, length: int = length) -> list[dict[str, Any]]:
            return measure.rows(name, run.work, length, samples)

        rows += run.part(name, measured, samples=samples, epochs=length)
        run.say(f"{name}: {rows[-2:]}")
    clocks = run.part("clocks", lambda: measure.clocks(run.work / "clocks"))
    shown = (
        Column(key="network", title="network"),
        Column(key="kind", title="file"),
        Column(key="integer_nodes", title="nodes in integers there"),
        Column(key="relative_error", title="error / largest output", decimals=7),
        Column(key="steps", title="error in steps of the output", decimals=2),
        Column(key="top1_there", title="top-1 there", unit="%", decimals=1),
        Column(key="top1_here", title="top-1 here", unit="%", decimals=1),
        Column(key="second_bytes", title="bytes of a second run"),
    )
    run.table(shown, [{column.key: row[column.key] for column in shown} for row in rows])
    clock = (
        Column(key="command", title="with the board as the clock"),
        Column(key="exit_code", title="exit code"),
        Column(key="files_there", title="files timed on it"),
    )
    run.table(clock, [{column.key: row[column.key] for column in clock} for row in clocks])
    floats, integers = ([row for row in rows if row["kind"] == kind] for kind in ("float32", "integer"))
    run.bar("largest error of a float file", max(row["relative_error"] for row in floats), FLOAT_ERROR, "at most")
    run.bar("largest error of an int8 file, in steps", max(row["steps"] for row in integers), 1.0, "at most")
    gap = max(abs(row["top1_there"] - row["top1_here"]) for row in rows)
    run.bar("largest difference of top-1", gap, 0.0 if not run.quick else 100.0, "at most", "%")
    run.bar("bytes that second runs send", sum(row["second_bytes"] for row in rows), 0, "at most")
    run.bar(
        "commands with the board as their clock that end well", sum(c["exit_code"] == 0 for c in clocks), 2, "at least"
    )


if __name__ == "__main__":
    main()
