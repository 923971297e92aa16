"""The table that ``compress profile`` prints."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from ...report.schema import Profile
from ...siblings import runtimes

ROWS = 20


def profile_table(profile: Profile, most_rows: int = ROWS) -> Table:
    """A row for each layer, the slowest first, then the others together, and the total."""
    table = Table(
        "layer", "ran as", "ms", "%", "MMAC", "kB", "op/B", "roof %",
        title=_title(profile), title_justify="left", caption=_caption(profile), caption_justify="left", pad_edge=False,
    )  # fmt: skip
    for row in profile.rows[:most_rows]:
        name = row.layer or f"({len(row.nodes)} nodes)"
        ran_as = ", ".join(row.ops) + (" (fell back)" if row.fallen_back else "")
        table.add_row(
            Text(name), Text(ran_as), f"{row.duration_ms:.3f}", _percent(row.duration_ms, profile.total_ms),
            _number(row.macs, 1e6, 2), _number(row.moved_bytes, 1e3, 0), _number(row.intensity, 1, 1),
            _number(row.roofline_share, 0.01, 0),
        )  # fmt: skip
    rest = profile.rows[most_rows:]
    if rest:
        rest_ms = sum(row.duration_ms for row in rest)
        table.add_row(f"{len(rest)} others", "", f"{rest_ms:.3f}", _percent(rest_ms, profile.total_ms))
    macs, moved = (sum(getattr(row, name) or 0 for row in profile.rows) for name in ("macs", "moved_bytes"))
    table.add_section()
    table.add_row("total", "", f"{profile.total_ms:.3f}", "100", _number(macs, 1e6, 2), _number(moved, 1e3, 0))
    return table


def _title(profile: Profile) -> str:
    told = f"{profile.name} in {runtimes.facts.title_of(profile.engine)}, {profile.threads} thread(s)"
    probe = profile.roofline
    if probe is None:
        return told if profile.device is None else f"{told}, on {profile.device}"
    integers = "not known" if probe.integer_ops is None else f"{probe.integer_ops / 1e9:.0f}"
    limits = f"float {probe.float_ops / 1e9:.0f}, int8 {integers} Gop/s, memory {probe.bytes_per_s / 1e9:.1f} GB/s"
    return f"{told}; {profile.device or 'this machine'}: {limits}"


def _caption(profile: Profile) -> str:
    """What could not be joined."""
    told = []
    left = [row for row in profile.rows if not row.layer]
    if left:
        share = _percent(sum(row.duration_ms for row in left), profile.total_ms)
        told.append(f"{len(profile.left_nodes)} nodes in () belong to no known layer: {share} % of the time")
    if profile.left_layers:
        told.append(f"no node was found for {', '.join(profile.left_layers)}")
    ordered = sum(row.joined == "order" for row in profile.rows)
    if ordered:
        told.append(f"{ordered} layers were found by their order alone: parallel branches may be exchanged")
    return "; ".join(told)


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f}" if whole else "-"


def _number(value: float | None, unit: float, digits: int) -> str:
    return "-" if value is None else f"{value / unit:,.{digits}f}"
