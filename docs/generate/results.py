"""Renders ``docs/results.md`` and the figures of ``README.md`` from what benchmarks measured.

Every file ``benchmarks/results/NAME.json`` holds what the benchmark of that name found, with the command, the day, the
machine and the seeds; ``benchmarks/results/demo/report.json`` is a report as ``compress run`` writes it. No figure
stands in the two pages that does not stand in one of these files.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.common.results import FOLDER, Results, markdown, read
from benchmarks.parity_matrix.builder import joined
from compress.report import read as read_report
from compress.report.schema import Report

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "results.md"
README = ROOT / "README.md"
DEMO = FOLDER / "demo"
NOTICE = "<!-- Written by docs/generate from benchmarks/results: run `make docs` instead of editing. -->"

SECTIONS: Mapping[str, tuple[str, ...]] = {
    "The whole chain": ("cifar10",),
    "Pruning": ("halving", "pruning_accuracy", "imagenet_latency", "widths", "sparse", "slimming", "surgery_time"),
    "Quantization": ("int8_latency", "int8_accuracy", "quantize_time", "learnt_rounding", "detection"),
    "Distillation": ("distillation",),
    "Few bits and shared weights": ("few_bits_files", "bitwise_kernels", "few_bits_accuracy", "deep_compression"),
    "Engines": (
        "engine_latency",
        "real_onnx",
        "real_onnx_files",
        "parity_matrix",
        "emulated_board",
        "tensorrt_builds",
        "harness",
    ),
    "The command itself": ("startup", "command_times", "training_time"),
}
"""Headings, and the benchmarks below each."""


def results(name: str, folder: Path = FOLDER) -> Results:
    """What the benchmark of that name found."""
    return read(folder / f"{name}.json")


def report() -> Report:
    """The report of the demo."""
    return read_report(DEMO)


def demo(found: Report) -> list[str]:
    """The demo, from its report: a heading, a table, what came out."""
    benchmarks = {each.name: each for each in found.benchmarks}
    versions = ", ".join(f"{name} {version}" for name, version in found.versions.items())
    lines = [
        "### The demo",
        "",
        f"`make demo`, {found.created:%Y-%m-%d}, {found.machine['cpu']}, {found.benchmarks[0].threads} thread, "
        f"seed {found.seed}, {versions}. *Invalid* is a timing that broke a rule, as a spread over 10 %.",
        "",
        "| file | size | p50 | test top-1 | nodes in integers, in float |",
        "|---|---|---|---|---|",
    ]
    for file in found.exports:
        run, nodes = benchmarks[file.name], file.nodes
        counts = f"{nodes.integer}, {nodes.float}" if nodes else "-"
        noise = "" if run.valid else " (invalid)"
        size, p50 = (run.size_bytes or 0) / 1000, run.latency_ms.p50
        lines.append(f"| {file.name} | {size:,.0f} kB | {p50:.2f} ms{noise} | {run.score} | {counts} |")
    end = found.summary
    change = "lost" if (end.score_drop or 0) > 0 else "gained"
    passed = sum(gate.passed for gate in found.gates)
    return [
        *lines,
        "",
        f"{end.size_ratio:.1f}x smaller and {end.speedup:.1f}x faster with {end.macs_ratio:.1f}x fewer multiply-adds, "
        f"{abs(end.score_drop or 0):.2f} points {change} on {found.benchmarks[0].samples} scans; {passed} of "
        f"{len(found.gates)} gates passed.",
        "",
        "![Part of the report of the demo](images/report.svg)",
        "",
    ]


def page(folder: Path = FOLDER) -> str:
    """``docs/results.md``."""
    lines = [NOTICE, "", "# Results", ""]
    lines += [
        "Each figure with the command that measures it, the day, the machine and the seeds. They come from the files",
        "in `benchmarks/results/`. Timings are medians of interleaved runs unless it is said otherwise; see",
        "[Measuring](concepts/measuring.md). What was not measured is in [Limits](limits.md).",
        "",
    ]
    for title, names in SECTIONS.items():
        lines += [f"## {title}", ""]
        if title == "The whole chain":
            lines += demo(report())
            for path in sorted(DEMO.glob("20*.json")):
                lines += [f"### {read(path).title}", "", markdown(read(path))]
        for name in names:
            found = results(name, folder)
            if name == "parity_matrix":
                found = joined(found, results("tensorrt_builds", folder))
            lines += [f"### {found.title}", "", markdown(found)]
    return "\n".join(lines).rstrip() + "\n"


def cell(name: str, table: int, row: str, column: str, folder: Path = FOLDER) -> Any:
    """The value in the row whose first cell is ``row``.

    >>> cell("cifar10", 0, "baseline", "test_top_1_percent")
    87.54
    """
    found = results(name, folder).tables[table]
    first = found.columns[0].key
    return next(each for each in found.rows if str(each[first]) == row)[column]


def headlines(folder: Path = FOLDER) -> list[str]:
    """The three figures of the README."""

    def of(name: str, row: str, column: str) -> Any:
        return cell(name, 0, row, column, folder)

    chain = {row: {c: of("cifar10", row, c) for c in CHAIN} for row in ("baseline", "pruned and int8")}
    start, end = chain["baseline"], chain["pruned and int8"]
    size, speed = start["bytes"] / end["bytes"], start["p50_1_thread_ms"] / end["p50_1_thread_ms"]
    networks = len(results("int8_latency", folder).tables[0].rows) - 1
    faster = of("int8_latency", "geometric mean", "float_ours")
    beside = of("int8_latency", "geometric mean", "ours_quantize_static")
    (parity,) = results("parity_matrix", folder).tables[0].rows
    return [
        f"**ResNet-20 on CIFAR-10**, {end['multiply_adds']} multiply-adds and int8: {size:.1f}x smaller and "
        f"{speed:.2f}x faster in ONNX Runtime, {end['test_top_1_percent']} % test top-1 where the baseline has "
        f"{start['test_top_1_percent']} % (one seed).",
        f"**int8 at 224x224**, {networks} networks in ONNX Runtime, one thread: {faster} times as fast as float, in "
        f"{beside} of the time of `quantize_static` in its best setting (geometric means; random weights).",
        f"**{parity['networks']} networks of the zoo in {parity['engines']} engines**, in float and in int8: "
        f"{parity['passed']} of {parity['cells']} files give what their network gives; the others are named.",
    ]


CHAIN = ("test_top_1_percent", "multiply_adds", "bytes", "p50_1_thread_ms")
MARKS = ("<!-- figures, from benchmarks/results -->\n", "<!-- end of figures -->")


def with_headlines(readme: str, folder: Path = FOLDER) -> str:
    """The text of the README with its figures as they are now, between the marks that are there for them.

    Raises:
        ValueError: the marks are not there.
    """
    start, end = MARKS
    head, _, rest = readme.partition(start)
    _, _, tail = rest.partition(end)
    if not tail:
        raise ValueError(f"README.md: expected the marks {start.strip()} and {end}")
    filled = [
        textwrap.fill(f"- {line}", 120, subsequent_indent="  ", break_on_hyphens=False) for line in headlines(folder)
    ]
    return f"{head}{start}{chr(10).join(filled)}\n{end}{tail}"


def write() -> None:
    """Write both files anew."""
    PAGE.write_text(page(), encoding="utf-8")
    README.write_text(with_headlines(README.read_text(encoding="utf-8")), encoding="utf-8")
