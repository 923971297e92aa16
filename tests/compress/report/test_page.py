"""The page and the terminal tables: complete, self-contained, safe and well-formed, whatever was measured."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from compress.report import Report, render
from compress.report.figures.drawing import Distribution, distributions
from compress.report.figures.scatter import Point, front, place_labels, scatter
from compress.report.sections import costs, over_time
from tests.support.report_content import on_devices
from tests.support.report_text import outline, printed, spaces


def without(content: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key not in keys}


def unlabelled(content: dict[str, Any]) -> dict[str, Any]:
    """As if the data had no labels: no accuracy anywhere."""
    content = copy.deepcopy(content)
    for stage in content["stages"]:
        stage["before"]["top1"] = stage["after"]["top1"] = None
        stage["history"] = []
    for benchmark in content["benchmarks"]:
        benchmark["top1"] = benchmark["samples"] = benchmark["parity"] = None
    content["summary"]["top1_drop"] = None
    return content


def sparse(content: dict[str, Any]) -> dict[str, Any]:
    """Every optional value of exports and benchmarks missing."""
    content = copy.deepcopy(content)
    content["exports"] = [{"name": e["name"], "format": "onnx", "file": e["file"]} for e in content["exports"]]
    content["benchmarks"] = [{"name": b["name"], "runtime": "onnxruntime"} for b in content["benchmarks"]]
    content["stages"] = [{"name": stage["name"]} for stage in content["stages"]]
    content["summary"] = {}
    return content


def one_sample(content: dict[str, Any]) -> dict[str, Any]:
    content = copy.deepcopy(content)
    content["benchmarks"] = content["benchmarks"][:1]
    content["benchmarks"][0]["samples_ms"] = [1.5]
    content["stages"][0]["history"] = content["stages"][0]["history"][:1]
    return content


def not_finite(content: dict[str, Any]) -> dict[str, Any]:
    content = copy.deepcopy(content)
    content["stages"][0]["history"][0]["loss"] = float("nan")
    content["benchmarks"][0]["parity"]["snr_db"] = float("inf")
    content["benchmarks"][0]["samples_ms"][3] = float("nan")
    content["summary"]["speedup"] = float("nan")
    return content


def zeros(content: dict[str, Any]) -> dict[str, Any]:
    content = copy.deepcopy(content)
    content["summary"] |= {"speedup": 0.0, "size_ratio": 0.0, "macs_ratio": 0.0, "top1_drop": 0.0, "params_ratio": 0.0}
    for benchmark in content["benchmarks"]:
        benchmark |= {"top1": 0.0, "latency_ms": {"p50": 0.0, "p90": 0.0}, "samples_ms": [0.0, 0.0]}
    for export in content["exports"]:
        export |= {"size_bytes": 0, "bytes_by_dtype": {"int8": 0}, "graph_bytes": 0}
        export["nodes"] = {"integer": 0, "float": 0, "other": 0}
    for layer in content["layers"]["before"]:
        layer["macs"] = 0
    return content


VARIANTS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "full": lambda content: content,
    "unlabelled": unlabelled,
    "sparse": sparse,
    "one sample": one_sample,
    "not finite": not_finite,
    "zeros": zeros,
    "bare": lambda content: {key: content[key] for key in ("schema_version", "created", "command", "model")},
    "no benchmarks": lambda content: without(content, "benchmarks", "summary", "gates"),
    "no exports": lambda content: without(content, "exports"),
    "no stages": lambda content: without(content, "stages"),
    "no layers after": lambda content: content | {"layers": {"before": content["layers"]["before"]}},
    "only layers after": lambda content: content | {"layers": {"after": content["layers"]["after"]}},
    "no recipe, data or machine": lambda content: without(content, "recipe", "recipe_digest", "data", "machine"),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_page_is_well_formed_and_loads_nothing_whatever_is_missing(filled: dict[str, Any], variant: str) -> None:
    report = Report.model_validate(VARIANTS[variant](filled))
    page = render(report)
    found = outline(page)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base"} & set(found.tags)
    assert not [a for a in found.attributes if a[1] in ("src", "srcset", "data", "action", "xlink:href")]
    places = {value for _, name, value in found.attributes if name == "id"}
    links = [value for _, name, value in found.attributes if name == "href"]
    assert all(link[0] == "#" and link[1:] in places for link in links), "links lead to parts of the page alone"
    assert "http://" not in page and "https://" not in page and "@import" not in page and "url(" not in page
    assert not re.search(r"\b(None|nan|inf)\b", found.text), "a missing value is shown as Python writes it"
    assert not [a for a in found.attributes if a[0] in ("rect", "line", "path", "text") and "nan" in a[2]]
    assert spaces(report.model) in found.text
    assert printed(report)


def test_every_stage_export_benchmark_and_gate_is_shown_on_the_page_and_in_the_terminal(report: Report) -> None:
    text, in_terminal = spaces(outline(render(report)).text), printed(report)
    for shown in (text, in_terminal):
        for named in (*report.stages, *report.exports, *report.benchmarks, *report.gates):
            assert named.name in shown  # type: ignore[attr-defined]
        assert "8.1× faster and 12.8× smaller, 0.28 points of accuracy lost" in shown
        assert "All 4 gates passed" in shown
        assert "1.49 ms" in shown and "342 kB" in shown and "98.89 %" in shown
    for export in report.exports:
        assert export.sha256 is not None
        assert export.sha256 in text
    assert "8.1× faster at 1 thread in ONNX Runtime, 0.28 points of accuracy lost" in text
    assert "31 of the 34 nodes of pruned-int8 run in integers, none in floating point" in text
    assert "161 M multiply-adds became 40.6 M: layers keep 25 % to 50 % of theirs" in text
    assert "32 → 16 channels" in text and "BatchNorm2d → Identity" in text and "weight in int8" in text
    assert "its outputs are the outputs of the network" in text
    assert report.command in text and "criterion: magnitude" in text


def test_the_page_is_small_even_with_very_many_samples_and_layers(filled: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    for benchmark in filled["benchmarks"]:
        benchmark["samples_ms"] = (1 + rng.random(20_000)).tolist()
    shape = (1, 64, 8, 8)
    filled["layers"]["before"] = [
        {"layer": f"features.{i}.conv", "operation": "conv2d", "macs": 1000 + i, "output_shape": shape}
        for i in range(900)
    ]
    page = render(Report.model_validate(filled))
    assert len(page.encode()) < 500_000
    text = spaces(outline(page).text)
    assert "features.899.conv" in text and "features.10.conv" not in text
    assert "cheaper layers" in text, "what is not shown is counted"


def test_a_failed_gate_and_a_loss_are_said_in_the_headline(filled: dict[str, Any]) -> None:
    filled["gates"][1] |= {"got": "1.30 points", "passed": False}
    filled["summary"] |= {"speedup": 0.5, "size_ratio": 0.8, "top1_drop": -0.4}
    filled["benchmarks"][2]["valid"] = False
    report = Report.model_validate(filled)
    for text in (spaces(outline(render(report)).text), printed(report)):
        assert "1 of 4 gates failed" in text
        assert "2.0× slower and 1.2× larger, 0.40 points of accuracy gained" in text
        assert "✗ accuracy: 1.30 points" in text
        assert "nvalid" in text


def test_names_are_escaped_wherever_they_stand(filled: dict[str, Any]) -> None:
    hostile = '<script>alert("1")</script>&"\'[bold]x[/bold]'

    def spoiled(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {(f"{name}{hostile}" if key in ("operators", "versions", "machine") else name): spoiled(item, name)
                    for name, item in value.items()}  # fmt: skip
        if isinstance(value, list | tuple):
            return [spoiled(item, key) for item in value]
        return f"{value}{hostile}" if isinstance(value, str) and key != "created" else value

    report = Report.model_validate(spoiled(filled))
    page = render(report)
    found = outline(page)
    assert "<script" not in page and "script" not in found.tags
    assert not [a for a in found.attributes if a[1].startswith("on")]
    layer = report.layers.before[0].layer
    assert layer == f"conv1{hostile}"
    assert layer in found.text
    assert f"{report.exports[0].name}" in found.text
    folded = "".join(printed(report, width=4000).split())
    assert "".join(report.stages[0].name.split()) in folded, "the terminal shows markup as it is written"


def test_edits_made_twice_are_told_from_first_to_last(filled: dict[str, Any]) -> None:
    filled["stages"] = [
        {
            "name": "prune",
            "edits": [
                {"layer": "a", "what": "out_channels", "before": 64, "after": 48},
                {"layer": "a", "what": "out_channels", "before": 48, "after": 40},
                {"layer": "b", "what": "in_channels", "before": 64, "after": 40},
                {"layer": "c", "what": "scale", "before": (1, 8), "after": (1, 6), "kind": "tensor", "axis": 1},
                {"layer": "d", "what": "weight", "before": None, "after": None, "kind": "weights"},
                {"layer": "e", "what": "bias", "before": (8,), "after": None, "kind": "tensor"},
            ],
        }
    ]
    text = spaces(outline(render(Report.model_validate(filled))).text)
    for expected in (
        "64 → 40 channels a",
        "inputs 64 → 40 b",
        "scale 1×8 → 1×6 c",
        "weights changed d",
        "bias removed e",
    ):
        assert expected in text


def test_benchmarks_at_other_settings_are_told_apart(filled: dict[str, Any]) -> None:
    again = [benchmark | {"threads": 2} for benchmark in copy.deepcopy(filled["benchmarks"])]
    filled["benchmarks"] = [*again[:1], *filled["benchmarks"]]
    text = spaces(outline(render(Report.model_validate(filled))).text)
    assert "8.1× faster at 1 thread in ONNX Runtime" in text, "the headline's setting has both of its files"
    slower = [benchmark | {"latency_ms": {"p50": 3.0}} for benchmark in again]
    crowded = filled | {"benchmarks": [*slower, *filled["benchmarks"][1:]]}
    other = spaces(outline(render(Report.model_validate(crowded))).text)
    assert "8.1× faster at 1 thread in ONNX Runtime" in other, "the headline's setting has the ratio of the summary"
    for shown in (text, other):
        assert "at 1 thread in ONNX Runtime" in shown and "at 2 threads in ONNX Runtime" in shown


@pytest.mark.parametrize("seed", range(5))
def test_labels_cover_neither_each_other_nor_points_and_stay_inside(seed: int) -> None:
    rng = np.random.default_rng(seed)
    anchors = [(float(x), float(y)) for x, y in zip(rng.uniform(60, 440, 5), rng.uniform(40, 260, 5), strict=True)]
    bounds = (54.0, 14.0, 474.0, 270.0)
    boxes = place_labels(anchors, [100.0] * 5, 32, bounds)
    for i, box in enumerate(boxes):
        assert bounds[0] - 0.01 <= box[0] and box[2] <= bounds[2] + 0.01
        assert bounds[1] - 0.01 <= box[1] and box[3] <= bounds[3] + 0.01
        assert not any(box[0] < x < box[2] and box[1] < y < box[3] for x, y in anchors)
        for other in boxes[i + 1 :]:
            apart = box[2] <= other[0] or other[2] <= box[0] or box[3] <= other[1] or other[3] <= box[1]
            assert apart


def numbers(svg: str, pattern: str) -> list[float]:
    return [float(found) for found in re.findall(pattern, svg)]


def test_scatter_draws_points_in_the_order_of_their_values() -> None:
    points = [Point(x, y, f"file {x}", "", 0) for x, y in ((1.0, 90.0), (2.0, 95.0), (4.0, 92.0))]
    svg = str(scatter(points, "ms", "%"))
    xs, ys = numbers(svg, r'circle cx="([\d.]+)"'), numbers(svg, r'circle cx="[\d.]+" cy="([\d.]+)"')
    assert (xs[2] - xs[1]) == pytest.approx(2 * (xs[1] - xs[0]), abs=0.2)
    assert (ys[0] - ys[2]) == pytest.approx(2 / 3 * (ys[2] - ys[1]), abs=0.2)
    assert svg.count('class="front"') == 1


def steps(svg: str) -> list[list[tuple[float, float]]]:
    """The corners of each front."""
    paths = re.findall(r'<path d="M([^"]*)" class="front"', svg)
    return [[(float(x), float(y)) for x, y in (corner.split() for corner in path.split("L"))] for path in paths]


def test_the_front_goes_through_the_points_that_none_surpasses() -> None:
    values = [(1.0, 90.0), (2.0, 95.0), (4.0, 92.0), (3.0, 96.0), (3.0, 94.0)]
    points = [Point(x, y, "", "", 0) for x, y in values]
    assert front(points) == [0, 1, 3]
    assert front(points, less_is_better=True) == [0]
    svg = str(scatter(points, "ms", "%"))
    places = list(
        zip(numbers(svg, r'circle cx="([\d.]+)"'), numbers(svg, r'circle cx="[\d.]+" cy="([\d.]+)"'), strict=True)
    )
    (corners,) = steps(svg)
    assert {places[i] for i in (0, 1, 3)} <= set(corners) and not {places[2], places[4]} & set(corners)
    assert all(a[0] == b[0] or a[1] == b[1] for a, b in pairwise(corners)), "steps go right, then up"


def test_each_device_has_a_shape_and_a_front_of_its_own() -> None:
    points = [
        Point(x, y, "", "", 0, shape=shape) for shape in (0, 1, 2, 3) for x, y in ((1 + shape, 90.0), (90.0, 95.0))
    ]
    svg = str(scatter(points, "ms", "%"))
    assert len(steps(svg)) == 4 and svg.count("<circle") == 2 and svg.count("<polygon") == 6
    assert "ms, logarithmic" in svg, "where files differ much"


def test_every_device_and_every_doubt_is_shown() -> None:
    report = Report.model_validate(on_devices())
    page = render(report)
    found = outline(page)
    text = spaces(found.text)
    assert "6 of 9 measurements are not to be trusted" in text
    size = next(figure for figure in costs.figures(report) if "file size" in figure.drawn)
    assert "hollow" not in size.drawn and "Hollow" not in size.note, "sizes are as they are on any machine"
    assert "the clock fell by 25%, over 10%, while it was measured" in text
    assert "baseline, pruned, pruned-int8 at 4 threads in ONNX Runtime, pi" in text
    for place in ("Intel Xeon, x86_64", "pi", "phone"):
        assert f"ONNX Runtime, {place}" in text
    assert "pi = Raspberry Pi 5, aarch64" in text and "phone = Pixel 8, aarch64" in text
    kinds = [value for _, name, value in found.attributes if name == "class"]
    assert sum("hollow" in kind for kind in kinds) == 12 and len([k for k in kinds if k == "front"]) == 6
    assert "Accuracy against energy of a run" in text and "VDD_IN (ina3221), 1.20 W at rest" in text
    assert text.count("Over the time of the measurement") == 2, "of the loops that were long enough"
    assert "pruned-int8: 573 µs" not in text and "+34.7 %" in text and "clock, MHz (fastest core)" in text
    assert "cpu 51.0 → cpu 84.6" in text and "21.0 %" in text and "performance" in text


def test_the_outcome_is_told_of_each_device_with_its_gates_and_of_one_that_was_lost() -> None:
    content = on_devices()
    content["devices"][2]["summary"] = content["summary"] | {"speedup": 3.2}
    report = Report.model_validate(content)
    text = spaces(outline(render(report)).text)
    assert "3.2× to 8.1× the speed on 3 devices; 1 of 4 devices lost" in text
    assert "piRaspberry Pi 5, aarch64 8.1× 5.67 ms → 0.702 ms doubtful 12.8× 0.28 ✓ 4 of 4" in text
    assert "lost: measuring: the connection was lost" in text and "✗ 3 of 4" in text
    assert "speed on lost: –" in text and "speed on phone: 8.1×" in text, "each gate names its device"
    assert "at 1 thread in ONNX Runtime on local" in text, "the headline is of the first"
    in_terminal = printed(report)
    assert "phone: speedup 3.2×" in in_terminal and "the connection was lost   3 of 4 gates passed" in in_terminal
    assert "ONNX Runtime, 4 threads on pi" in in_terminal


def test_latencies_over_time_are_where_their_windows_are() -> None:
    content = on_devices()
    for benchmark in content["benchmarks"]:
        benchmark["samples_ms"] = [1.0] * 500 + [3.0] * 500 if benchmark["name"] == "baseline" else []
    report = Report.model_validate(content)
    group = [b for b in report.benchmarks if b.machine == "Raspberry Pi 5, aarch64"]
    svg = str(over_time.figure(report, group))
    (line,) = re.findall(r'<path d="M([^"]*)" class="curve s\d"', svg)
    ys = [float(corner.split()[1]) for corner in line.split("L")]
    assert len(ys) == 60 and len(set(ys)) == 2 and ys[0] > ys[-1] and "+200.0" in svg
    assert over_time.figure(report, [b.model_copy(update={"duration_s": 4.0}) for b in group]) is None


def test_the_slowest_run_is_in_the_figure() -> None:
    steady, slow = [1.0] * 99, 2.5
    svg = str(distributions([Distribution("a", [*steady, slow], 0)], "t"))
    pattern = r'<line x1="([\d.]+)" y1="[\d.]+" x2="[\d.]+" y2="[\d.]+" class="median"'
    median = numbers(svg, pattern)[0]
    reach = max(numbers(svg, r'x2="([\d.]+)" y2="[\d.]+" class="whisker'))
    assert reach - median > 400, "from the median to the outlier, almost all of the 480 units"


def test_why_a_measurement_is_not_to_be_trusted_is_in_the_terminal(filled: dict[str, Any]) -> None:
    filled["benchmarks"][0] |= {"valid": False, "notes": ["the governor changed"]}
    name = filled["benchmarks"][0]["name"]
    told = [line for line in printed(Report.model_validate(filled)).splitlines() if "not to be trusted" in line]
    assert any(name in line and "the governor changed" in line for line in told), told


def test_warnings_of_stages_are_on_the_page_and_in_the_terminal(filled: dict[str, Any]) -> None:
    lines = ["prune: validation top-1 fell from 95.10 to 12.50 %: fine-tune <b>", "prune: and something else"]
    assert "warning" not in [value for _, name, value in outline(render(Report.model_validate(filled))).attributes]
    filled["stages"][0]["warnings"] = lines
    report = Report.model_validate(filled)
    found = outline(render(report))
    assert [value for tag, name, value in found.attributes if tag == "p" and value == "warning"] == ["warning"] * 2
    for line in lines:
        assert f"Warning: {line}" in spaces(found.text)
        assert f"! {line}" in spaces(printed(report))


def test_files_from_before_call_a_valid_measurement_stable(filled: dict[str, Any]) -> None:
    for benchmark in filled["benchmarks"]:
        benchmark["stable"] = benchmark.pop("valid")
    assert Report.model_validate(filled).benchmarks[0].valid is True
