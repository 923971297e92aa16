"""The gate between export and device: every file runs in its engine and must give what its network gives.

Nothing passes unseen: a file whose engine is missing, that compared no samples or that fails to load does not pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..bound import call, one_feed
from ..devices.device import Device
from ..devices.local import LocalDevice
from ..errors import DeviceError, InvalidInputs, RuntimesError
from ..processor import clipping
from ..runtime import Array, ExecutedGraph, Options, parts_of
from .check import OutputParity, Parity, compare, tells_classes, top1
from .folder import Entry, Folder, Kind

LARGEST_ERROR: dict[Kind, float] = {"float32": 1e-3, "float16": 2e-2}
"""Relative to the largest expected value."""
LEAST_SNR_DB = 15.0
"""Rounding flips at single steps leave more; a wrong scale, layout or order of channels does not."""
LEAST_AGREEMENT = 99.0
"""Of the first class, in percent, between integers and their simulation; of networks whose samples have classes."""
FEWEST_FOR_AGREEMENT = 100
"""With fewer samples one tie at a rounding step would decide."""


@dataclass(frozen=True)
class Checked:
    """What the gate found of a file.

    Args:
        entry: the file.
        parity: with the expected outputs; None where it did not run.
        top1: its accuracy on labelled samples, in percent.
        size_bytes: of the file and what belongs to it.
        executed: what ran in which arithmetic, where the engine tells.
        reasons: why it does not pass; none where it does.
        here: where this processor computes the file otherwise than the device of its target, the parity of what it
            computes; ``parity`` and ``top1`` are then those of the integers evaluated in floats.
    """

    entry: Entry
    parity: Parity | None = None
    top1: float | None = None
    size_bytes: int | None = None
    executed: ExecutedGraph | None = None
    reasons: tuple[str, ...] = ()
    here: Parity | None = None

    @property
    def passed(self) -> bool:
        """Whether the file gives what its network gives."""
        return not self.reasons

    @property
    def fell_back(self) -> tuple[str, ...]:
        """The nodes of a file in integers that ran in float."""
        if self.entry.kind != "integer" or self.executed is None:
            return ()
        return self.executed.float_nodes


def check_folder(
    path: Path,
    *,
    engines: Sequence[str] = (),
    threads: int = 1,
    agreement: float = LEAST_AGREEMENT,
    device: Device | None = None,
) -> Iterator[Checked]:
    """Yield what is found of each file, in order.

    Args:
        engines: look only at files for these.
        agreement: the least that files in integers must have, in percent.
        device: that runs them; left out, this machine.

    Raises:
        InvalidInputs: the folder has no files, or none for these engines.
        DeviceError: the device cannot be reached, or fails.
    """
    folder = Folder.read(path)
    entries = [entry for entry in folder.entries if not engines or entry.engine in engines]
    if not entries:
        known = ", ".join(dict.fromkeys(entry.engine for entry in folder.entries)) or "none at all"
        raise InvalidInputs(f"{path}: nothing to check; it has files for {known}")
    inputs, labels = folder.inputs()
    for entry in entries:
        try:
            yield _Check(folder, entry, device or LocalDevice(), Options(threads)).checked(inputs, labels, agreement)
        except DeviceError:
            raise
        except RuntimesError as error:
            yield Checked(entry, reasons=(str(error),))


@dataclass(frozen=True)
class _Check:
    """A file of a folder on a device."""

    folder: Folder
    entry: Entry
    device: Device
    options: Options

    def checked(self, inputs: Sequence[Array], labels: Array | None, agreement: float) -> Checked:
        """What is found of the file."""
        entry, file = self.entry, self.folder.path / self.entry.file
        size = sum(part.stat().st_size for part in parts_of(file, entry.engine))
        expected = _named(entry, self.folder.expected(entry))
        runtime = self.device.load(file, entry.engine, self.options)
        try:
            outputs = call(runtime, entry.binding, inputs)
            executed = runtime.executed_graph(one_feed(runtime, entry.binding, inputs))
        finally:
            runtime.close()
        classes = labels is not None and tells_classes(labels)
        parity, here = compare(expected, _named(entry, outputs), classes=classes), None
        if entry.kind == "integer" and not self.device.is_exact(entry.target):
            here, outputs = parity, self._evaluated(file, inputs)
            parity = compare(expected, _named(entry, outputs), classes=classes)
        reasons = judge(entry.kind, parity, agreement)
        if entry.kind == "integer" and executed is not None and not executed.integer:
            reasons += ("nothing ran in integers",)
        return Checked(entry, parity, _top1(outputs, labels), size, executed, reasons, here)

    def _evaluated(self, file: Path, inputs: Sequence[Array]) -> list[Array]:
        """The file's outputs, its integers evaluated in floats."""
        runtime = self.device.load(file, self.entry.engine, replace(self.options, reference=True))
        try:
            return call(runtime, self.entry.binding, inputs)
        finally:
            runtime.close()


def judge(kind: Kind, parity: Parity, agreement: float = LEAST_AGREEMENT) -> tuple[str, ...]:
    """Return why outputs of this parity do not pass; nothing where they do.

    >>> judge("float32", Parity(8, 0.1, 0.05, 26.0, 100.0))
    ('relative error 0.05, at most 0.001',)
    """
    if parity.samples == 0:
        return ("no samples were compared",)
    if kind != "integer":
        bound = LARGEST_ERROR[kind]
        # A NaN is no small error.
        bad = not parity.relative_error <= bound
        return (f"relative error {parity.relative_error:.2g}, at most {bound:g}",) if bad else ()
    reasons = [_noise(output, len(parity.outputs) > 1) for output in parity.outputs if _is_noisy(output.worst_snr_db)]
    if not parity.outputs and _is_noisy(parity.snr_db):
        reasons.append(f"SNR {parity.snr_db:.1f} dB, at least {LEAST_SNR_DB:g}")
    enough = parity.samples >= FEWEST_FOR_AGREEMENT
    if enough and parity.top1_agreement is not None and parity.top1_agreement < agreement:
        reasons.append(f"top-1 agreement {parity.top1_agreement:.2f} %, at least {agreement:g}")
    return tuple(reasons)


def _is_noisy(snr_db: float) -> bool:
    return not snr_db >= LEAST_SNR_DB  # a NaN is


def _noise(output: OutputParity, several: bool) -> str:
    """Why the SNR of an output does not pass, in words."""
    where = f"{output.name}: " if several else ""
    if _is_noisy(output.snr_db):
        return f"{where}SNR {output.snr_db:.1f} dB, at least {LEAST_SNR_DB:g}"
    return (
        f"{where}SNR {output.part_snr_db:.1f} dB of the channels that are far smaller than the others, at least "
        f"{LEAST_SNR_DB:g}"
    )


def _named(entry: Entry, arrays: Sequence[Array]) -> dict[str, Array]:
    """Arrays by the names of the outputs, where all are known; else by their places."""
    names = entry.outputs if len(set(entry.outputs)) == len(arrays) else [f"output {n}" for n in range(len(arrays))]
    return dict(zip(names, arrays, strict=True))


def _top1(outputs: Sequence[Array], labels: Array | None) -> float | None:
    if labels is None or not tells_classes(labels) or outputs[0].ndim != 2:
        return None
    return top1([(outputs[0], labels)])


COLUMNS = (
    *("file", "engine", "kind", "bytes", "samples", "max error", "relative", "SNR dB"),
    *("agree %", "top-1 %", "ran in", "gate"),
)


def row(checked: Checked) -> tuple[str, ...]:
    """Return the cells of a table's row, as `COLUMNS` names them."""
    entry, parity, executed = checked.entry, checked.parity, checked.executed
    ran = "not told" if executed is None else f"{executed.integer} int, {executed.float} float, {executed.other} other"
    measured = (
        (str(parity.samples), f"{parity.max_abs_error:.2g}", f"{parity.relative_error:.2g}", f"{parity.snr_db:.1f}")
        if parity
        else ("-",) * 4
    )
    agreement = "-" if parity is None or parity.top1_agreement is None else f"{parity.top1_agreement:.2f}"
    return (
        entry.file,
        entry.engine,
        entry.kind,
        "-" if checked.size_bytes is None else f"{checked.size_bytes:,}",
        *measured,
        agreement,
        "-" if checked.top1 is None else f"{checked.top1:.2f}",
        ran if parity else "-",
        "passed" if checked.passed else "FAILED",
    )


def notes(checked: Checked) -> tuple[str, ...]:
    """Return what a table has no place for: reasons, and what fell back to float."""
    left = checked.fell_back
    warned: tuple[str, ...] = ()
    if checked.here is not None:
        agreement = checked.here.top1_agreement
        agreeing = "" if agreement is None else f", {agreement:.2f} % agreement"
        warned = (f"{clipping(checked.entry.target)} (SNR {checked.here.snr_db:.1f} dB{agreeing})",)
    shown = ", ".join(left[:5]) + (f" and {len(left) - 5} more" if len(left) > 5 else "")
    return (*checked.reasons, *warned, *_apart(checked.parity), *((f"ran in float: {shown}",) if left else ()))


def _apart(parity: Parity | None) -> tuple[str, ...]:
    """A line on the outputs, where there are several, or one has a part that the rest of it drowns."""
    outputs = () if parity is None else parity.outputs
    if len(outputs) < 2 and all(output.part_snr_db is None for output in outputs):
        return ()
    parts = [
        f"{output.name} {output.snr_db:.1f}"
        + ("" if output.part_snr_db is None else f" (its small channels {output.part_snr_db:.1f})")
        for output in outputs
    ]
    return (f"SNR in dB of each output: {', '.join(parts)}",)


def to_json(checked: Checked) -> dict[str, object]:
    """Return what was found, as plain values."""
    executed = checked.executed
    return {
        "file": checked.entry.file,
        "engine": checked.entry.engine,
        "target": checked.entry.target,
        "kind": checked.entry.kind,
        "passed": checked.passed,
        "reasons": list(checked.reasons),
        "size_bytes": checked.size_bytes,
        "parity": asdict(checked.parity) if checked.parity else None,
        "parity_here": asdict(checked.here) if checked.here else None,
        "top1": checked.top1,
        "nodes": {"integer": executed.integer, "float": executed.float, "other": executed.other} if executed else None,
        "fell_back": list(checked.fell_back),
    }
