"""Deployed files: written from a network, run in their engine, held against the network, timed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .artifact import outputs_of
from .data import Data
from .errors import GateFailed
from .load import Network
from .packing import pack
from .quantize import FlavourName, simulate
from .quantize.detect import detected
from .report.schema import BenchmarkRecord, ExportRecord, Latency, NodeCounts, Parity
from .siblings import sibling
from .stage import Progress, silent

if TYPE_CHECKING:
    import export.contents as contents
    import export.onnx as onnx_format
    import export.rules as rules
    import runtimes.benchmark as benchmark
    import runtimes.check as check
    import runtimes.devices.local as local
    import runtimes.runtime as runtime
else:
    contents = sibling("export.contents")
    onnx_format = sibling("export.onnx")
    rules = sibling("export.rules")
    benchmark = sibling("runtimes.benchmark")
    check = sibling("runtimes.check")
    local = sibling("runtimes.devices.local")
    runtime = sibling("runtimes.runtime")

# Float files agree with torch to rounding; integer files with their simulation, but for ties at the rounding steps.
FLOAT_RELATIVE_ERROR = 1e-3
INTEGER_SNR_DB = 20.0


def reference(network: Network, target: FlavourName | None = None) -> Callable[..., tuple[Tensor, ...]]:
    """What a deployed file must compute: the network, or its simulation in integers where it is quantized."""
    model = network.model
    if network.encodings:
        flavour = target or detected().target
        model = simulate(network.model, network.encodings, network.example_inputs, flavour=flavour)

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        return outputs_of(model, inputs)

    return run


def export(
    network: Network,
    name: str,
    path: Path,
    *,
    target: FlavourName | None = None,
    simplify: bool = False,
    shown: str | None = None,
    packed: bool = False,
) -> ExportRecord:
    """Write ``network`` as ONNX to ``path`` and check it in ONNX Runtime against the network on the stored inputs.

    With ``packed``, the packed file to download is written beside it, with ``.packed`` after its name. ``target`` is
    whose integers the file has; left out, those of this machine.

    Raises:
        InvalidInput: the target has no exporter, or no such integers.
        GateFailed: the file breaks a rule of its target, or computes something else; it is removed.
    """
    target = target or detected().target
    written = onnx_format.export_onnx(
        network.model,
        network.example_inputs,
        path,
        encodings=dict(network.encodings) or None,
        flavour=target,
        simplify=simplify,
    )
    violations = rules.check(path, target)
    broken = [str(violation) for violation in violations if violation.effect != "slow"]
    if broken:
        path.unlink()
        raise GateFailed(f"export {path.name}: {len(broken)} tensors break rules of {target}: {'; '.join(broken)}")
    parity = parity_on(path, network, [network.example_inputs], target)
    bad = (
        parity.snr_db is None or not parity.snr_db >= INTEGER_SNR_DB
        if network.encodings
        else parity.relative_error is None or not parity.relative_error <= FLOAT_RELATIVE_ERROR
    )
    if bad:
        path.unlink()
        raise GateFailed(
            f"export {path.name}: the file does not compute what the network does (relative error "
            f"{parity.relative_error:.2g}, SNR {parity.snr_db:.1f} dB, {parity.samples} stored inputs); it was not kept"
        )
    executed = executed_nodes(path, network)
    inside = contents.read(path)
    return ExportRecord(
        name=name,
        format="onnx",
        file=shown or str(path),
        size_bytes=path.stat().st_size,
        opset=written.opset,
        nodes=NodeCounts(integer=executed.integer, float=executed.float, other=executed.other) if executed else None,
        operators=executed.ops if executed else {},
        bytes_by_dtype=inside.bytes_by_dtype,
        graph_bytes=inside.graph_bytes,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        target=target,
        notes=(*written.notes, *rules.grouped(violations)),
        packed_bytes=pack(path, path.with_name(f"{path.name}.packed")).packed_bytes if packed else None,
    )


def executed_nodes(path: Path, network: Network) -> runtime.ExecutedGraph | None:
    """The nodes that the engine really runs on the network's inputs, with the types they compute in."""
    engine = runtime.load(path)
    try:
        names = [spec.name for spec in engine.inputs]
        return engine.executed_graph({name: x.numpy() for name, x in zip(names, network.example_inputs, strict=True)})
    finally:
        engine.close()


def parity_on(
    path: Path, network: Network, batches: Sequence[tuple[Tensor, ...]], target: FlavourName | None = None
) -> Parity:
    """How the file's outputs agree with those of ``network``, as ``target`` rounds, on all ``batches`` together."""
    run = reference(network, target)
    with_engine = runtime.load(path)
    try:
        input_names = [spec.name for spec in with_engine.inputs]
        output_names = [spec.name for spec in with_engine.outputs]
        expected: dict[str, list[NDArray[Any]]] = {name: [] for name in output_names}
        actual: dict[str, list[NDArray[Any]]] = {name: [] for name in output_names}
        for inputs in batches:
            feed = {name: x.numpy() for name, x in zip(input_names, inputs, strict=True)}
            for name, array in check.run_samples(with_engine, feed).items():
                actual[name].append(array)
            for name, tensor in zip(output_names, run(*inputs), strict=True):
                expected[name].append(tensor.numpy())
        found = check.compare(
            {name: np.concatenate(arrays) for name, arrays in expected.items()},
            {name: np.concatenate(arrays) for name, arrays in actual.items()},
        )
    finally:
        with_engine.close()
    return Parity(
        samples=found.samples,
        max_abs_error=found.max_abs_error,
        relative_error=found.relative_error,
        snr_db=found.snr_db,
        top1_agreement=found.top1_agreement,
    )


@dataclass(frozen=True)
class Deployed:
    """A file to measure, and the network that it was made from and for which target, where that is known."""

    name: str
    path: Path
    network: Network | None = None
    target: FlavourName | None = None


def measure(
    files: Sequence[Deployed],
    *,
    threads: int = 1,
    preset: Literal["quick", "standard", "mlperf"] = "quick",
    data: Data | None = None,
    inputs: Mapping[str, NDArray[Any]] | None = None,
    progress: Progress = silent,
    parity_samples: int = 1024,
) -> list[BenchmarkRecord]:
    """Each file's latency, memory, accuracy on the test split and agreement with its network, timed interleaved."""
    options = runtime.Options(threads=threads)
    measured = benchmark.benchmark(
        [file.path for file in files],
        options=options,
        preset=preset,
        inputs=inputs,
        progress=progress,
    )
    records = []
    for number, (file, found) in enumerate(zip(files, measured, strict=True)):
        progress("test the files", number, len(files), file.name)
        top1, samples, parity = None, None, None
        if data is not None and "test" in data.splits:
            samples = len(data.splits["test"])
            top1 = accuracy(file.path, data, threads)
            if file.network is not None:
                parity = parity_on(file.path, file.network, _some(data, parity_samples), file.target)
        elif file.network is not None:
            parity = parity_on(file.path, file.network, [file.network.example_inputs], file.target)
        records.append(
            BenchmarkRecord(
                name=file.name,
                file=str(file.path),
                runtime=found.engine,
                runtime_version=found.engine_version,
                threads=found.threads,
                preset=found.preset,
                runs=len(found.samples_ms),
                size_bytes=found.size_bytes,
                latency_ms=Latency(
                    p50=found.p50_ms,
                    p90=found.p90_ms,
                    p95=found.p95_ms,
                    p99=found.p99_ms,
                    min=found.min_ms,
                    mean=found.mean_ms,
                    std=found.std_ms,
                ),
                samples_ms=found.samples_ms,
                peak_memory_bytes=found.peak_memory_bytes,
                stable=found.stable,
                notes=found.unstable,
                top1=top1,
                samples=samples,
                parity=parity,
            )
        )
    progress("test the files", len(files), len(files))
    return records


def accuracy(path: Path, data: Data, threads: int = 1) -> float:
    """The deployed file's accuracy on the test split, in percent."""
    engine = runtime.load(path, options=runtime.Options(threads=threads))
    try:
        found: float = check.accuracy(engine, _labelled(data))
    finally:
        engine.close()
    return found


def _labelled(data: Data) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    for x, y in data.split("test").batches(256):
        if y is not None:
            yield x.numpy(), y.numpy()


def _some(data: Data, count: int) -> list[tuple[Tensor, ...]]:
    batches: list[tuple[Tensor, ...]] = []
    seen = 0
    for x, _ in data.split("test").batches(256):
        batches.append((x[: count - seen],))
        seen += len(batches[-1][0])
        if seen >= count:
            break
    return batches


def machine() -> dict[str, Any]:
    """Facts of this machine, for reports."""
    return asdict(local.conditions())


def versions() -> dict[str, str]:
    """Versions of the packages that decide a result."""
    import onnx
    import onnxruntime

    return {
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
        "numpy": np.__version__,
    }
