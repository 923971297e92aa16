"""compress sensitivity --stage quantize"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from ..quantize.budget.sensitivity import PrecisionSensitivity
    from ..quantize.budget.trade_off import TradeOff
    from ..scan import PrecisionChoice
    from .session import Options


def scan_precisions(call: Options, choice: PrecisionChoice, *, exclude: tuple[str, ...] = (), **samples: int) -> None:
    """Quantize, scan each layer's precisions, write the scan and the trade-off with their figures, and tell them.

    Args:
        exclude: layers to leave out, as ``Quantize`` has it.
        samples: how many, as ``samples``; left out, as many as each scan has by default.
    """
    from ..deploy.clock import MachineClock
    from ..errors import InvalidInput
    from ..files.outputs import write_folder
    from ..quantize import Quantize
    from ..quantize.budget.budget import ORDER
    from ..quantize.budget.hessian import HessianScan
    from ..quantize.budget.layer_costs import FileBytes
    from ..quantize.budget.precisions import Candidates
    from ..quantize.budget.sensitivity import PrecisionScan
    from ..quantize.budget.trade_off import trade_off
    from ..quantize.detect import detected
    from ..stage import Context
    from .session import configured, progress_bars

    output = call.output
    assert output is not None, "it has --output"
    scan = configured(PrecisionScan, others_in=choice.others_in, **samples)
    call.claim_output()
    if call.data is None:
        raise InvalidInput("sensitivity: it needs data to measure accuracy on; give --data")
    data = call.load_data()
    network = call.open(data)
    with progress_bars(call) as progress:
        context = Context(network.example_inputs, data, seed=call.seed, progress=progress, task=call.wanted_task)
        quantized = configured(Quantize, exclude=exclude).apply(network.model, context)
        candidates = Candidates.of(
            quantized.model, quantized.encodings, context.example_inputs, target=detected().target
        )
        if choice.sensitivity == "hessian":
            scanned = configured(HessianScan, **samples).measure(candidates, context)
        else:
            record = output.with_name(f".{output.name}.scan.json")
            scanned = scan.measure(candidates, context, record=record)
        costs = FileBytes(MachineClock()).costs(candidates, ORDER)
        curve = trade_off(candidates, scanned, costs, context, by=choice.sensitivity)
    write_folder(
        output,
        {
            "sensitivity.json": scanned.model_dump_json(indent=1) + "\n",
            "sensitivity.svg": _heat_map(scanned),
            "trade_off.json": curve.model_dump_json(indent=1) + "\n",
            "trade_off.svg": _figure(curve),
        },
        overwrite=call.overwrite,
    )
    call.console.print(_layers(scanned))
    call.console.print(_choices(curve))
    call.console.print(f"written: {output}")
    call.tell({"sensitivity": scanned, "trade_off": curve})


def _heat_map(scan: PrecisionSensitivity) -> str:
    """By how much each precision alone raises the noise of the output, in dB over the least of all."""
    import math

    from ..report.figures.heat_map import heat_map

    columns = [precision for precision in ("int4", "int8") if precision != scan.around]
    rows = [
        [_value(layer.precisions, layer.noise or layer.hessian, precision) for precision in columns]
        for layer in scan.layers
    ]
    present = [value for row in rows for value in row if value is not None and value > 0]
    least = min(present, default=1.0)
    shown = [[None if v is None or v <= 0 else 10 * math.log10(v / least) for v in row] for row in rows]
    measured = "noise of the output" if scan.layers[0].noise is not None else "curvature times squared rounding error"
    return heat_map(
        [(" + ".join(layer.layers), row) for layer, row in zip(scan.layers, shown, strict=True)],
        columns,
        "What one layer in fewer bits costs, in dB over the least",
        f"{measured}, {scan.samples:,} {scan.split} samples, the other layers in {scan.around}",
        max((value for row in shown for value in row if value is not None), default=1.0),
    )


def _value(precisions: tuple[str, ...], values: tuple[float, ...] | None, precision: str) -> float | None:
    return None if values is None or precision not in precisions else values[precisions.index(precision)]


def _figure(curve: TradeOff) -> str:
    from ..report.figures.trade_off import Choice, trade_off_figure

    choices = [
        Choice(
            point.bytes,
            point.predicted_snr_db,
            point.snr_db,
            "" if point.score is None or curve.score is None else curve.score.written(point.score),
        )
        for point in curve.points
    ]
    before = "" if curve.score is None else f"float {curve.score} {curve.score.name}, "
    return trade_off_figure(
        choices,
        "Signal to noise of the output, by the bytes of mixed 4-bit and 8-bit weights",
        f"{before}{curve.samples:,} {curve.split} samples; line: sum over layers, dots: simulated",
    )


def _layers(scan: PrecisionSensitivity) -> Table:
    from rich.table import Table
    from rich.text import Text

    from ..quantize.budget.sensitivity import decibels

    by_noise = scan.layers[0].noise is not None
    title = f"one layer alone in fewer bits, the others in {scan.around} ({scan.samples:,} {scan.split} samples)"
    columns = [precision for precision in ("int4", "int8", "float") if precision in scan.layers[0].precisions]
    loss_heading = "SNR dB" if by_noise else "loss"
    table = Table(
        "layers", "weights", *(f"{name} {loss_heading}" for name in columns), title=title, title_justify="left"
    )
    for layer in scan.layers:
        values = [_value(layer.precisions, layer.noise or layer.hessian, name) for name in columns]
        cells = ["" if not v else f"{decibels(v):.1f}" if by_noise and v > 0 else f"{v:.2e}" for v in values]
        table.add_row(Text(" + ".join(layer.layers)), f"{layer.parameters:,}", *cells)
    return table


def _choices(curve: TradeOff) -> Table:
    from collections import Counter

    from rich.table import Table

    name = "score" if curve.score is None else f"{curve.score.name}{curve.score.unit}"
    table = Table("bytes", "times fewer", "layers", "SNR dB", name, title="trade-off", title_justify="left")
    for point in (point for point in curve.points if point.snr_db is not None):
        counts = Counter(point.precisions.values())
        table.add_row(
            f"{point.bytes:,}",
            f"{curve.float_bytes / max(1, point.bytes):.2f}",
            ", ".join(f"{counts[name]} {name}" for name in ("int4", "int8", "float") if counts[name]),
            f"{point.snr_db:.1f}",
            "" if point.score is None else f"{point.score:.2f}",
        )
    return table
