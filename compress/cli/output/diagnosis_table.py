"""The table that ``compress diagnose`` prints."""

from __future__ import annotations

import math

from rich.table import Table
from rich.text import Text

from ...report.schema import Diagnosis, LayerNoise
from ...siblings import runtimes


def diagnosis_table(diagnosis: Diagnosis, most_rows: int) -> Table:
    """A row for each layer in the order of computation; of more than ``most_rows``, those that add most noise."""
    title = f"{diagnosis.name} in {runtimes.facts.title_of(diagnosis.engine)}, {diagnosis.samples} samples"
    table = Table(
        "layer", "ran as", "SNR dB", "adds dB", "ms", "%",
        title=title, title_justify="left", caption=_caption(diagnosis), caption_justify="left", pad_edge=False,
    )  # fmt: skip
    loudest = sorted(diagnosis.layers, key=lambda layer: -layer.added_db)[:most_rows]
    for layer in diagnosis.layers:
        if layer in loudest:
            mark = " *" if layer.layer in diagnosis.worst else ""
            table.add_row(
                Text(layer.layer + mark), Text(_ran_as(layer)), _decibels(layer.snr_db), _decibels(layer.added_db),
                _number(layer.duration_ms, 3), _share(layer.duration_ms, diagnosis.total_ms),
            )  # fmt: skip
    left = len(diagnosis.layers) - len(loudest)
    if left:
        table.add_row(f"{left} others, which add less")
    return table


def lines(diagnosis: Diagnosis) -> list[str]:
    """What the table says, in words: how near the outputs are, and what would bring them nearer."""
    told = [f"output {output.name}: {_decibels(output.snr_db)} dB of signal to noise" for output in diagnosis.outputs]
    told += [
        f"with {remedy.layer} in float (compress quantize {remedy.setting}) the worst output has "
        f"{_decibels(remedy.snr_db)} dB, by simulation"
        for remedy in diagnosis.remedies
    ]
    return told


def _ran_as(layer: LayerNoise) -> str:
    kind = {"integer": "integers: ", "float": "float: "}.get(layer.kind or "", "")
    return kind + ", ".join(layer.operations) + (" (fell back)" if layer.fallen_back else "")


def _caption(diagnosis: Diagnosis) -> str:
    told = []
    if diagnosis.worst:
        told.append("* adds most noise; SNR is of the layer's values, adds is its own noise by their power")
    if diagnosis.unmatched:
        told.append(f"not compared: {', '.join(diagnosis.unmatched)}")
    if diagnosis.changed:
        told.append(
            "the engine fuses the copy that gives inner values otherwise than the file: they may differ a little"
        )
    return "; ".join(told)


def _decibels(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "-"
    return "-" if value == -math.inf else "exact" if value == math.inf else f"{value:.1f}"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _share(part: float | None, whole: float | None) -> str:
    return "-" if part is None or not whole else f"{100 * part / whole:.1f}"
