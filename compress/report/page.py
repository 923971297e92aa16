"""The page: a report as one HTML file that needs nothing else, neither a network nor a script."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from . import quantities
from .figures.drawing import Distribution, curve, distributions, paired, stacked
from .schema import BenchmarkRecord, Report, StageRecord
from .sections import conditions, costs, cuts, findings, on_devices, over_time, time_by_layer
from .sections.cuts import LayerCut
from .sections.findings import LayerPair

LAYERS_SHOWN = 60
CUTS_SHOWN = 300
DTYPES = ("float32", "float16", "bfloat16", "int8", "uint8", "int4", "uint4", "int32", "int64")


def render(report: Report) -> str:
    """The report as an HTML page; what was not measured is left out."""
    groups = findings.settings(report)
    return _template().render(
        report=report,
        findings=findings,
        quantities=quantities,
        groups=groups,
        colours=costs.colours(report),
        costs=costs.figures(report),
        energy_mj=costs.energy_mj,
        signs=costs.signs(report),
        latency_figures=[_latency_figure(report, group) for group in groups],
        timelines=[over_time.figure(report, group) for group in groups],
        device_rows=on_devices.rows(report),
        on_devices=on_devices,
        times=time_by_layer.files(report),
        time_by_layer=time_by_layer,
        doubts=conditions.doubts(report),
        loops=conditions.loops(report),
        layers=_layers(report),
        bytes_rows=_bytes(report),
        bytes_legend=_dtypes(report),
        node_rows=_nodes(report),
        curves={i: _curves(stage) for i, stage in enumerate(report.stages) if stage.history},
        cuts={i: _cuts(rows) for i, rows in cuts.stage_cuts(report).items()},
        recipe=_yaml(report.recipe) if report.recipe else None,
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("compress", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for formatter in (
        quantities.count,
        quantities.size,
        quantities.milliseconds,
        quantities.millijoules,
        quantities.seconds,
        quantities.ratio,
        quantities.percent,
        quantities.score,
        quantities.points,
        quantities.significant,
        quantities.plural,
    ):
        environment.filters[formatter.__name__] = formatter
    environment.filters["fact"] = fact
    environment.filters["yaml"] = _yaml
    return environment.get_template("template.html")


def fact(value: object) -> str:
    """A free value of the machine, a gate or a configuration on one line."""
    if value is None:
        return quantities.UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return quantities.significant(value, 4)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {fact(item)}" for key, item in value.items()) or quantities.UNKNOWN
    if isinstance(value, (list, tuple)):
        return ", ".join(fact(item) for item in value) or quantities.UNKNOWN
    return str(value)


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool)) or value is None else str(value)


def _yaml(value: object) -> str:
    return yaml.safe_dump(_plain(value), sort_keys=False, allow_unicode=True, width=100).rstrip()


def _latency_figure(report: Report, group: Sequence[BenchmarkRecord]) -> Markup | None:
    colours = costs.colours(report)
    finite = [(b, [s for s in b.samples_ms if math.isfinite(s)]) for b in costs.ordered(report, group)]
    rows = [
        Distribution(
            f"{b.name}: {quantities.milliseconds(b.latency_ms.p50)}" if b.latency_ms.p50 is not None else b.name,
            samples,
            colours[b.name],
        )
        for b, samples in finite
        if samples
    ]
    return distributions(rows, f"latency distributions {findings.conditions(group[0])}") if rows else None


def _layers(report: Report) -> tuple[list[tuple[LayerPair, Markup]], int, int]:
    """The costliest layers in the order of the network with their bars, the number of the others, and their MACs."""
    pairs = [pair for pair in findings.layer_pairs(report) if pair.macs_before or pair.macs_after]

    def cost(pair: LayerPair) -> int:
        return max(pair.macs_before or 0, pair.macs_after or 0)

    costliest = set(sorted(pairs, key=cost, reverse=True)[:LAYERS_SHOWN])
    rest = [pair for pair in pairs if pair not in costliest]
    most = max(map(cost, pairs), default=0)
    rows = [
        (
            pair,
            paired(
                pair.macs_before,
                pair.macs_after,
                most,
                f"{pair.layer}: MACs before {quantities.count(pair.macs_before)}, "
                f"after {quantities.count(pair.macs_after)}",
            ),
        )
        for pair in pairs
        if pair in costliest
    ]
    return rows, len(rest), sum(cost(pair) for pair in rest)


def _cuts(rows: Sequence[LayerCut]) -> tuple[str, list[tuple[LayerCut, Markup, float | None, float | None]], int]:
    """The title, per layer its bars and its shares of the multiply-adds before and after, and how many are not shown.

    Where there are too many layers, those are left out that lost nothing, then those that lost the smallest share.
    """
    most = max(cut.before for cut in rows)
    crowded = len(rows) > CUTS_SHOWN
    shown = set(sorted((c for c in rows if c.lost or not crowded), key=lambda cut: -cut.lost)[:CUTS_SHOWN])
    drawn = [
        (cut, paired(cut.before, cut.after, most, f"{cut.layer}: {cut.before} channels before, {cut.after} after"), *of)
        for cut, of in zip(rows, cuts.shares(rows), strict=True)
        if cut in shown
    ]
    return cuts.title(rows), drawn, len(rows) - len(drawn)


def _dtype_class(name: str) -> str:
    return f"t-{name}" if name in (*DTYPES, "graph") else "t-else"


def _dtypes(report: Report) -> list[tuple[str, str]]:
    """Legend: every data type in the files, in a fixed order, and the class of its colour."""
    present = {name for export in report.exports for name, _ in findings.byte_parts(export)}
    known = [name for name in (*DTYPES, "graph") if name in present]
    return [(name, _dtype_class(name)) for name in [*known, *sorted(present - set(known))]]


def _bytes(report: Report) -> list[tuple[str, int, str, Markup, Markup]]:
    """Per export: name, size, its parts in words, a bar on the scale of the largest file, a bar of shares."""
    order = [name for name, _ in _dtypes(report)]
    exports = [(e, sorted(findings.byte_parts(e), key=lambda part: order.index(part[0]))) for e in report.exports]
    most = max((sum(part for _, part in parts) for _, parts in exports), default=0)
    rows = []
    for export, parts in exports:
        total = sum(part for _, part in parts)
        if not total:
            continue
        words = " · ".join(
            f"{name} {quantities.size(part)} ({quantities.percent(100 * part / total, 0)})" for name, part in parts
        )
        drawn = [(f"{name}: {quantities.size(part)}", float(part), _dtype_class(name)) for name, part in parts]
        rows.append(
            (
                export.name,
                export.size_bytes if export.size_bytes is not None else total,
                words,
                stacked(drawn, most, f"bytes of {export.name}"),
                stacked(drawn, total, f"shares of the bytes of {export.name}"),
            )
        )
    return rows


def _nodes(report: Report) -> list[tuple[str, str, Markup, str]]:
    """Per export whose nodes were counted: name, the counts in words, a bar, the operators in words."""
    counted = [(e, e.nodes) for e in report.exports if e.nodes is not None]
    most = max((n.integer + n.float + n.other for _, n in counted), default=0)
    rows = []
    for export, nodes in counted:
        parts = [
            ("integer", nodes.integer, "n-integer"),
            ("float", nodes.float, "n-float"),
            ("other", nodes.other, "n-other"),
        ]
        drawn = [(f"{number} {name}", float(number), kind) for name, number, kind in parts if number]
        words = " · ".join(f"{number} {name}" for name, number, _ in parts if number) or "no nodes"
        operators = sorted(export.operators.items(), key=lambda item: (-item[1], item[0]))
        text = " · ".join(f"{operator} {number}" for operator, number in operators)
        rows.append((export.name, words, stacked(drawn, most, f"nodes of {export.name}: {words}"), text))
    return rows


def _curves(stage: StageRecord) -> list[Markup]:
    """Loss and score by epoch, as far as they were recorded."""
    drawn = []
    score = stage.after.score
    name = "score, validation" if score is None else f"{score.name}, validation,{score.unit}".rstrip(",")
    lines = ((("loss",), "training loss"), (("validation_score", "validation_top1"), name))
    for colour, (keys, title) in enumerate(lines):
        values = [
            (float(record.get("epoch") or i), float(value))
            for i, record in enumerate(stage.history, 1)
            for key in keys
            if (value := record.get(key)) is not None and math.isfinite(value)
        ]
        if values:
            drawn.append(curve(values, "epoch", title, 1 - colour))
    return drawn
