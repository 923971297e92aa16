"""Files written from a network in any format, each held against the network in its engine at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from ..data import Data
from ..data.split import Slice
from ..errors import GateFailed, InvalidInput
from ..graph.trace import one_sample
from ..integers.target import target_named
from ..packing import pack
from ..quantize import Encoding, TargetName
from ..quantize.detect import detected, suited
from ..report.schema import ExportRecord, NodeCounts, Parity
from ..siblings import export as exporters
from ..siblings import runtimes
from ..sources.artifact import outputs_of
from ..sources.load import Network
from ..stage import Progress, silent
from ..tasks.resolve import resolve
from ..tasks.task import Task
from . import blame
from .deployed import Deployed
from .devices import target_on
from .notes import notes_on
from .parity import compared, parity_on, reference, taken

LARGEST_SAMPLES_BYTES = 2**26
"""Of the samples that are stored beside exported files."""


@dataclass(frozen=True)
class Wanted:
    """How a file is to be written; see :class:`exporters.format.Job`.

    Args:
        format: left out, the one for the target.
        target: left out, that of the format, or of this machine.
        packed: write the packed file to download beside it, with ``.packed`` after its name.
    """

    format: str | None = None
    target: TargetName | None = None
    simplify: bool = False
    packed: bool = False
    opset: int | None = None
    dynamic_batch: bool = True
    dynamic_size: bool = False
    interface: Literal["float32", "int8", "uint8"] = "float32"
    layout: Literal["nchw", "nhwc"] = "nchw"
    labels: tuple[str, ...] = ()
    gpus: tuple[str, ...] = ()
    dla_core: int | None = None

    def on(self, device: runtimes.devices.device.Device | None) -> Wanted:
        """This, with the target named: the one for the processor of ``device``, None being this machine."""
        if self.target is not None:
            return self
        native = detected().target if device is None else target_on(device).target
        if self.format is None:
            return replace(self, target=native)
        return replace(self, target=suited(exporters.facts.formats()[self.format].targets, native))

    def resolved(self) -> tuple[str, TargetName]:
        """Format and target.

        Raises:
            InvalidInput: there is no such format, or it is not written for this target.
        """
        if self.format is None:
            target = self.target or detected().target
            return exporters.facts.format_of(target).name, target
        known = exporters.facts.formats()
        if self.format not in known:
            raise InvalidInput(f"format {self.format!r}: expected one of {', '.join(known)}")
        targets = known[self.format].targets
        target = self.target or suited(targets)
        if target not in targets:
            raise InvalidInput(f"format {self.format}: not written for {target}; targets are {', '.join(targets)}")
        return self.format, target


def engine_of(wanted: Wanted) -> str:
    """The engine that runs a file in the format that is wanted."""
    engine: str = exporters.facts.formats()[wanted.resolved()[0]].engine
    return engine


def suffix_of(wanted: Wanted) -> str:
    """The end of a file's name in the format that is wanted."""
    return exporters.facts.formats()[wanted.resolved()[0]].suffix


def export(
    network: Network, name: str, path: Path, wanted: Wanted | None = None, *, shown: str | None = None
) -> tuple[ExportRecord, Deployed]:
    """Write ``network`` to ``path`` and check it in its engine against the network on the stored inputs.

    Where the engine is not there, or runs elsewhere only (Core ML, TensorRT), the record's notes say that the file was
    not run.

    Args:
        shown: the path that the record tells.

    Raises:
        InvalidInput: there is no such format or target, or the network cannot be written so.
        PackageMissing: the format's packages are not installed.
        GateFailed: the file breaks a rule of its target, or computes something else; it is removed.
    """
    wanted = wanted or Wanted()
    name_of_format, target = wanted.resolved()
    form = exporters.facts.formats()[name_of_format]
    _require_options(form, target, wanted)
    job = _job(network, form, target, wanted)
    written = _written(form, job, path)
    binding = runtimes.bound.Binding(written.inputs, written.outputs, wanted.layout)
    deployed = Deployed(name, path, network, target, written.engine or form.engine, binding)
    try:
        run = _run(deployed, form, job)
    except GateFailed:
        for file in (path, *written.beside):
            file.unlink()
        raise
    contents, executed = written.contents, run.executed
    record = ExportRecord(
        name=name,
        format=name_of_format,
        file=shown or str(path),
        size_bytes=written.size_bytes,
        opset=written.opset,
        nodes=NodeCounts(integer=executed.integer, float=executed.float, other=executed.other) if executed else None,
        operators=executed.ops if executed else {},
        bytes_by_dtype=contents.bytes_by_dtype if contents else {},
        graph_bytes=contents.graph_bytes if contents else None,
        sha256=runtimes.files.digest.digest((path, *written.beside)),
        target=target,
        engine=deployed.engine,
        parity=run.parity,
        notes=(*written.notes, *notes_on(network, job), *run.notes),
        packed_bytes=pack(path, path.with_name(f"{path.name}.packed")).packed_bytes if wanted.packed else None,
    )
    return record, replace(deployed, beside=written.beside)


def _require_options(form: exporters.facts.Format, target: TargetName, wanted: Wanted) -> None:
    """Refuse what files of a format or for a target cannot have."""
    if wanted.dynamic_size and not form.sizes_vary:
        able = " or ".join(each.name for each in exporters.facts.formats().values() if each.sizes_vary)
        raise InvalidInput(
            f"format {form.name}: its engine plans for one size of image; leave --dynamic-size out, or export to {able}"
        )
    form.gpus_named(wanted.gpus)
    if wanted.dla_core is not None:
        if not form.dla:
            able = " or ".join(each.name for each in exporters.facts.formats().values() if each.dla)
            raise InvalidInput(f"format {form.name}: not for an accelerator; leave --dla out, or take {able}")
        if wanted.dynamic_batch:
            raise InvalidInput("--dla: the accelerator takes batches of one size; give --fixed-batch as well")
    interfaces = target_named(target).interfaces
    if wanted.interface not in interfaces:
        raise InvalidInput(f"target {target}: its files have inputs and outputs in {' or '.join(interfaces)}")


def _job(network: Network, form: exporters.facts.Format, target: TargetName, wanted: Wanted) -> exporters.format.Job:
    return exporters.format.Job(
        network.model,
        _one_sample(network),
        target,
        encodings_for(form, network.model, network.encodings),
        dynamic_batch=wanted.dynamic_batch,
        dynamic_size=wanted.dynamic_size,
        interface=wanted.interface,
        layout=wanted.layout,
        labels=wanted.labels,
        opset=wanted.opset,
        simplify=wanted.simplify,
        gpus=form.gpus_named(wanted.gpus),
        dla_core=wanted.dla_core,
    )


def _written(form: exporters.facts.Format, job: exporters.format.Job, path: Path) -> exporters.format.Exported:
    """The account of the file; a refusal tells which operation it is, where one alone is refused as well."""
    try:
        return exporters.format.exporter(form.name).export(job, path)
    except exporters.format.NotConvertible as error:
        culprit = blame.refused(form.name, job, error.reason)
        if culprit is None:
            raise
        raise InvalidInput(
            f"{error}; it is {culprit}: write it with other operations, or choose another --format"
        ) from error


@dataclass(frozen=True)
class _Run:
    """What a file did in its engine, if it could be run here, and what is to be told of that."""

    parity: Parity | None
    executed: runtimes.runtime.ExecutedGraph | None
    notes: tuple[str, ...]


def _run(file: Deployed, form: exporters.facts.Format, job: exporters.format.Job) -> _Run:
    """Run a file on the stored inputs of its network.

    Raises:
        GateFailed: it computes something else than the network.
    """
    network, engine, target = file.network, file.engine, file.target
    assert network is not None and engine is not None and target is not None, "it was written from a network just now"
    version, reason = runtimes.runtime.available(engine)
    if version is None:
        return _Run(None, None, (f"not run here: {reason}",))
    warning = runtimes.processor.warning(target) if kind_of(network) == "integer" else None
    parity = parity_on(file, [network.example_inputs])
    reasons = runtimes.checks.gate.judge(kind_of(network), compared(parity))
    if reasons:
        culprit = blame.miscomputed(form.name, engine, job)
        advice = "write it with other operations, or choose another --format"
        named = f"; {engine} computes {culprit} wrongly: {advice}" if culprit else ""
        raise GateFailed(
            f"export {file.path.name}: the file does not compute what the network does ({'; '.join(reasons)}; "
            f"{parity.samples} stored inputs); it was not kept{named}"
        )
    return _Run(parity, executed_nodes(file), (warning,) if warning else ())


def encodings_for(
    form: exporters.facts.Format, model: nn.Module, encodings: Mapping[str, Encoding]
) -> dict[str, Encoding]:
    """The encodings as a format can hold them.

    Where it knows no weights of few levels, these are 8-bit integers, or the floats that they are.
    """
    if form.holds_levels:
        return dict(encodings)
    tensors = {name for name, _ in model.named_parameters()}
    multiplies_integers = any(name not in tensors for name in encodings)
    held = {}
    for name, encoding in encodings.items():
        written = encoding if encoding.kind != "levels" else encoding.in_integers(8) if multiplies_integers else None
        if written is not None:
            held[name] = written
    return held


def _one_sample(network: Network) -> tuple[Tensor, ...]:
    """The example inputs, cut to the one sample that a file takes where its batch is fixed."""
    one = one_sample(network.example_inputs)
    try:
        outputs_of(network.model, one)
    except Exception:  # noqa: BLE001 - the network's code wants the batch that it was given
        return network.example_inputs
    return one


def kind_of(network: Network) -> runtimes.checks.folder.Kind:
    """What a file of the network computes in."""
    if not network.encodings:
        return "float32"
    kinds = {encoding.kind for encoding in network.encodings.values()}
    return "float16" if kinds == {"float16"} else "integer"


def executed_nodes(file: Deployed) -> runtimes.runtime.ExecutedGraph | None:
    """The nodes that the engine really runs on the network's inputs, with the types they compute in."""
    assert file.network is not None
    engine = runtimes.runtime.load(file.path, file.engine)
    try:
        inputs = [x.numpy() for x in file.network.example_inputs]
        return engine.executed_graph(runtimes.bound.one_feed(engine, file.binding, inputs))
    finally:
        engine.close()


@dataclass(frozen=True)
class Asked:
    """A file to write: its name without the suffix, the network that it is made from, and how it is to be."""

    name: str
    network: Network
    wanted: Wanted


def write_folder(
    network: Network,
    folder: Path,
    wanted: Sequence[Wanted],
    data: Data | None = None,
    samples: int = 256,
    task: Task | str | None = None,
) -> list[ExportRecord]:
    """Fill ``folder`` with a file of ``network`` for each of ``wanted``; see :func:`write_files`."""
    asked: list[Asked] = []
    for each in wanted:
        used = {other.name + suffix_of(other.wanted) for other in asked}
        name = "model" if f"model{suffix_of(each)}" not in used else f"model-{each.resolved()[1]}"
        asked.append(Asked(name, network, each))
    return [record for record, _ in write_files(folder, asked, data, samples, task=task)]


def write_files(
    folder: Path,
    asked: Sequence[Asked],
    data: Data | None = None,
    samples: int = 256,
    progress: Progress = silent,
    task: Task | str | None = None,
) -> list[tuple[ExportRecord, Deployed]]:
    """Fill ``folder`` with files, and with samples and what each file must give for them, as ``check`` reads it.

    The samples are the first of the data's test split, or the stored inputs of the first network where there is no
    data; all networks take the same inputs.

    Args:
        task: what a batch of the data means, or its name; left out, the one that fits. The samples' classes are written
            too, where it has any.
    """
    inputs, labels, source = _samples(asked[0].network, data, samples, task)
    made: list[tuple[ExportRecord, Deployed]] = []
    entries: list[runtimes.checks.folder.Entry] = []
    for number, each in enumerate(asked):
        progress("export", number, len(asked), each.name)
        format_name, target = each.wanted.resolved()
        path = folder / f"{each.name}{suffix_of(each.wanted)}"
        record, deployed = export(each.network, each.name, path, each.wanted, shown=path.name)
        alone = all(other.network is each.network for other in asked)
        named = target if alone and each.network.encodings else None if alone else each.name
        expected = f"expected-{named}.npz" if named is not None else "expected.npz"
        if not (folder / expected).exists():
            run = reference(each.network, target)
            outputs = [run(*batch) for batch in inputs]
            runtimes.checks.folder.write_arrays(
                folder / expected, [torch.cat(parts).numpy() for parts in zip(*outputs, strict=True)]
            )
        entries.append(
            runtimes.checks.folder.Entry(
                path.name,
                format_name,
                deployed.engine or "",
                target,
                kind_of(each.network),
                expected,
                deployed.binding.inputs,
                deployed.binding.outputs,
                deployed.binding.layout,
                tuple(file.name for file in deployed.beside),
            )
        )
        made.append((record, deployed))
    records = tuple(record.model_dump(mode="json") for record, _ in made)
    exported = runtimes.checks.folder.Folder(folder, tuple(entries), source=source, records=records)
    arrays = [torch.cat(parts).numpy() for parts in zip(*inputs, strict=True)]
    runtimes.checks.folder.write_arrays(folder / exported.samples, arrays, None if labels is None else labels.numpy())
    exported.write()
    progress("export", len(asked), len(asked))
    return made


def _samples(
    network: Network, data: Data | None, count: int, task: Task | str | None
) -> tuple[list[tuple[Tensor, ...]], Tensor | None, str]:
    """Inputs in batches, the class of each sample where the task has classes, and where they come from."""
    if data is None or "test" not in data.splits:
        return [network.example_inputs], None, "the network's stored inputs"
    task = resolve(task, network.model, data, network.example_inputs)
    one = sum(x.numel() * x.element_size() for x in one_sample(network.example_inputs))
    held = max(1, min(count, LARGEST_SAMPLES_BYTES // one))
    batches = list(Slice(data.split("test"), held).batches(min(256, held)))
    inputs = [taken(network, task.read(batch)) for batch in batches]
    classes = [task.classes(batch) for batch in batches] if task.classes is not None else []
    source = f"the first {sum(len(each[0]) for each in inputs)} test samples of {data.name}"
    return inputs, torch.cat(classes) if classes else None, source
