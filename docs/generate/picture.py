"""Draws ``docs/images/report.svg`` from the report of the demo: its outcome and two figures of its page.

The figures are those of ``report.html``, in its colours; what is around them is drawn here, as a page of HTML is no
picture. Letters are those of the reader's system.
"""

from __future__ import annotations

import re

from markupsafe import Markup

from compress.report.page import render
from compress.report.schema import Report

from . import results

PICTURE = results.ROOT / "docs" / "images" / "report.svg"
WIDTH, MARGIN, GAP = 1040, 24, 16
TILE, FIGURE, HEAD = 84, 320, 78
_FIGURE = re.compile(r'<svg viewBox="0 0 (\d+) (\d+)"[^>]*class="figure">(.*?)</svg>', re.DOTALL)
_STYLE = re.compile(r"<style>(.*?)</style>", re.DOTALL)
_VARIABLES = re.compile(r":root \{(.*?)\}", re.DOTALL)
_CLASSES = re.compile(r"^(?:svg|\.s0) .*$", re.MULTILINE)
_ROOT = re.compile(r"^svg \{ [^}]*\}\n", re.MULTILINE)
_VALUE = re.compile(r"--([a-z0-9-]+): (#[0-9a-f]+);")
_SERIES = re.compile(r"\.(s\d) \{ --own: (var\(--c\d\)); \}\s*")
_OF_SERIES = re.compile(r"(svg [^{}]*?)\{([^{}]*var\(--own\)[^{}]*)\}")
_USE = re.compile(r"var\(--([a-z0-9-]+)\)")


def style(page: str) -> str:
    """The rules of the page that figures need, in its light colours."""
    found = _STYLE.search(page)
    variables = _VARIABLES.search(page)
    if found is None or variables is None:
        raise ValueError("report.html: expected a style sheet with colours in :root")
    rules = [rule.replace("svg text {", "text {") for rule in _CLASSES.findall(found[1])]
    colours = variables[1].replace("color-scheme: light dark;", "").strip()
    return "\n".join([f"svg {{ {colours} }}", *rules])


def without_variables(svg: str) -> str:
    """``svg`` with the values of its variables in their places: programs that are no browsers know none.

    A rule with the colour of a series becomes one for each series.
    """
    values = dict(_VALUE.findall(svg))
    series = dict(_SERIES.findall(svg))

    def of_each(rule: re.Match[str]) -> str:
        selector, body = rule[1].strip(), rule[2]
        return "\n".join(f"{selector}.{name} {{{body.replace('var(--own)', own)}}}" for name, own in series.items())

    svg = _OF_SERIES.sub(of_each, _SERIES.sub("", _ROOT.sub("", svg)))
    return _USE.sub(lambda use: values[use[1]], svg)


def text(x: float, y: float, words: str, size: float, weight: int = 400, fill: str = "var(--ink)") -> Markup:
    """A line of text; an attribute ``style`` is stronger than the rules of the page."""
    return Markup(
        '<text x="{:.0f}" y="{:.0f}" style="font-size:{}px;font-weight:{};fill:{};stroke:none">{}</text>'
    ).format(x, y, size, weight, fill, words)


def box(x: float, y: float, width: float, height: float) -> Markup:
    """A card as the page has them."""
    return Markup(
        '<rect x="{:.0f}" y="{:.0f}" width="{:.0f}" height="{:.0f}" rx="10" fill="var(--card)" stroke="var(--rule)"/>'
    ).format(x, y, width, height)


def tiles(report: Report) -> list[tuple[str, str, str]]:
    """Name, figure and explanation of the four figures of the outcome."""
    end = report.summary
    runs = {run.name: run for run in report.benchmarks}
    first, last = runs[end.baseline or ""], runs[end.deployed or ""]
    sizes = f"{(first.size_bytes or 0) / 1000:,.0f} kB to {(last.size_bytes or 0) / 1000:,.0f} kB"
    times = f"{first.latency_ms.p50:.2f} ms to {last.latency_ms.p50:.2f} ms"
    return [
        ("Faster", f"{end.speedup:.1f}×", times),
        ("Smaller", f"{end.size_ratio:.1f}×", sizes),
        ("Fewer multiply-adds", f"{end.macs_ratio:.1f}×", "of the network"),
        ("Test top-1", str(last.score), f"from {first.score}, on {last.samples} scans"),
    ]


def draw(report: Report) -> str:
    """The picture as SVG."""
    page = render(report)
    figures = [(int(w), int(h), inner) for w, h, inner in _FIGURE.findall(page)[:2]]
    passed = sum(gate.passed for gate in report.gates)
    parts = [text(MARGIN, 34, f"{report.model.partition(':')[0]}: the report of the demo", 22, 700)]
    told = f"{report.created:%Y-%m-%d} · {report.machine['cpu']} · {passed} of {len(report.gates)} gates passed"
    noisy = sum(run.valid is False for run in report.benchmarks)
    told += f" · {noisy} of {len(report.benchmarks)} timings invalid" if noisy else ""
    parts.append(text(MARGIN, 58, told, 13, fill="var(--quiet)"))
    width = (WIDTH - 2 * MARGIN - 3 * GAP) / 4
    for i, (name, figure, explanation) in enumerate(tiles(report)):
        x = MARGIN + i * (width + GAP)
        parts += [box(x, HEAD, width, TILE), text(x + 14, HEAD + 22, name, 13, 600, "var(--quiet)")]
        parts += [
            text(x + 14, HEAD + 54, figure, 28, 700),
            text(x + 14, HEAD + 73, explanation, 12, fill="var(--quiet)"),
        ]
    half, top = (WIDTH - 2 * MARGIN - GAP) / 2, HEAD + TILE + GAP
    tallest = 0.0
    for i, (across, high, inner) in enumerate(figures):
        x, inside = MARGIN + i * (half + GAP), half - 24
        drawn = inside * high / across
        tallest = max(tallest, drawn + 24)
        frame = Markup('<svg x="{:.0f}" y="{:.0f}" width="{:.0f}" height="{:.0f}" viewBox="0 0 {} {}">{}</svg>')
        parts.append(frame.format(x + 12, top + 12, inside, drawn, across, high, Markup(inner)))
    cards = [box(MARGIN + i * (half + GAP), top, half, tallest) for i in range(len(figures))]
    height = top + tallest + MARGIN
    return without_variables(
        Markup(
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {:.0f}" width="{}" role="img" aria-label="{}" '
            'font-family="system-ui, sans-serif">\n<style>\n{}\n</style>\n'
            '<rect width="100%" height="100%" fill="var(--page)"/>\n{}\n</svg>\n'
        ).format(
            WIDTH, height, WIDTH, "The report of the demo", Markup(style(page)), Markup("\n").join([*cards, *parts])
        )
    )


def write() -> None:
    """Draw it anew."""
    PICTURE.write_text(draw(results.report()), encoding="utf-8")
