"""The loop: a recipe's stages in order, each measured before and after, then the files, then the report."""

from __future__ import annotations

import json
import logging
import shlex
import sys
import time
from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from shutil import rmtree
from typing import Any

import torch
from torch import Tensor, nn

from . import artifact, deploy, lost_accuracy
from .classification import require_classifier
from .cost import cost
from .data import Data
from .data import load as load_data
from .errors import GateFailed, InvalidInput
from .fold import Fold
from .load import Network, build, check_runs, fitting_inputs, random_inputs, require_named
from .outputs import resumable_folder
from .parametrized import bake
from .quantize import simulate
from .recipe import Export, Gates, Recipe
from .recipe import read as read_recipe
from .report import write as write_report
from .report.schema import (
    BenchmarkRecord,
    Cost,
    DataRecord,
    EditRecord,
    ExportRecord,
    Gate,
    LayerRecord,
    Layers,
    Report,
    SkipRecord,
    StageRecord,
    Summary,
)
from .resume import ORIGIN, Origin, fingerprint, origin
from .siblings import models, runtimes
from .specification import parse
from .stage import Context, Progress, Stage, silent
from .train import Training, top1
from .weights import load_weights, require_finite

RESUME = "resume"
"""The folder, in that of an unfinished run, of what its steps go on from."""

_LOG = logging.getLogger(__name__)


def open_network(
    specification: str,
    *,
    weights: Path | None = None,
    data: Data | None = None,
    input_shapes: tuple[tuple[int, ...], ...] = (),
    other_shapes: tuple[tuple[int, ...], ...] = (),
    trust: bool = False,
    source: str | None = None,
    seed: int = 0,
) -> Network:
    """The network that a user's words name: an artifact folder, or what :func:`compress.specification.parse` reads.

    Without shapes and data it is tried on inputs that it knows itself: an artifact's, an ONNX file's, those of the zoo.

    Args:
        input_shapes: of the inputs, each with its batch.
        other_shapes: what they may mean instead, where the network does not run on those; see
            :func:`compress.specification.readings`.
        trust: run code that the artifact or a pickle of weights names, though the user did not name it.
        source: the code that builds the network of an artifact, in place of what the artifact names.

    Raises:
        InvalidInput: it cannot be found, built, filled with the weights, or run on inputs of the data's shape.
    """
    path = Path(specification)
    if path.is_dir():
        network = artifact.load(path, trust=trust, source=source)
        if weights is not None:
            raise InvalidInput(f"weights {weights}: the artifact {path} has its own; leave --weights out")
    else:
        named = parse(specification)
        defaults: dict[str, Any] = {}
        if named.kind == "zoo" and data is not None:
            defaults["in_channels"] = data.example().shape[1]
            if data.classes:
                defaults["num_classes"] = len(data.classes)
        if named.kind == "onnx" and other_shapes:
            input_shapes, other_shapes = _as_declared(Path(named.name), input_shapes, other_shapes), ()
        torch.manual_seed(seed)
        shape = input_shapes[0] if len(input_shapes) == 1 else None
        if shape is None and data is not None:
            shape = tuple(data.example().shape)
        model, named = build(named, defaults, shape, _largest_integer(data))
        if weights is not None:
            imports = Path(named.name).parent if named.kind == "file" else None
            load_weights(model, weights, trust=trust, imports=imports)
        bake(model)
        network = Network(model, named)
    require_finite(network.model, f"model {specification}")
    typed = _typed(network, input_shapes, seed)
    if typed is not None:
        inputs = typed
    elif input_shapes:
        inputs = fitting_inputs(network.model, input_shapes, other_shapes, seed)
    elif network.example_inputs:
        inputs = network.example_inputs
    elif data is not None:
        inputs = (data.example(8),)
    elif network.source.kind == "onnx":
        from .onnx_import import example_inputs_of

        inputs = example_inputs_of(Path(network.source.name))
    elif network.source.kind == "zoo":
        inputs = random_inputs(((1, *models.input_shape(network.source.name, **network.source.options)),), seed)
    else:
        raise InvalidInput(f"model {specification}: give --input-shape (as 3,224,224) or --data, to know what it takes")
    check_runs(network.model, inputs, specification)
    return replace(network, example_inputs=inputs)


def _typed(network: Network, shapes: tuple[tuple[int, ...], ...], seed: int) -> tuple[Tensor, ...] | None:
    """Inputs of ``shapes`` in the types that the ONNX file of a network says, None for other networks."""
    if network.source.kind != "onnx" or not shapes or not Path(network.source.name).is_file():
        return None
    from .onnx_import import inputs_of_shapes

    return inputs_of_shapes(Path(network.source.name), shapes, seed)


def _largest_integer(data: Data | None) -> int:
    """The largest value of a batch of data of whole numbers, 1 for other data."""
    example = data.example(8).double() if data is not None else torch.zeros(0)
    whole = bool((example == example.round()).all()) and bool(torch.isfinite(example).all())
    return int(example.max().clamp(1, 2**31 - 1)) if whole and example.numel() else 1


def _as_declared(
    path: Path, shapes: tuple[tuple[int, ...], ...], others: tuple[tuple[int, ...], ...]
) -> tuple[tuple[int, ...], ...]:
    """``shapes``, with those of ``others`` that have as many sizes as an ONNX file says."""
    from .onnx_import.read import graph_inputs, parse

    ranks = [None if dimensions is None else len(dimensions) for _, _, dimensions in graph_inputs(parse(path))]
    ranks += [None] * len(shapes)
    return tuple(b if len(b) == rank else a for a, b, rank in zip(shapes, others, ranks, strict=False))


def measure(network: Network, data: Data | None) -> Cost:
    """What the network costs, and its accuracy on the validation split (of the simulation, where it is quantized)."""
    counted = cost(network.model, network.example_inputs, network.encodings)
    right = None
    if data is not None and "validation" in data.splits:
        require_classifier(network.model, data, ["validation"])
        model = network.model
        if network.encodings:
            model = simulate(network.model, network.encodings, network.example_inputs)
        right = top1(model, data.split("validation"))
    return Cost(
        params=counted.params,
        macs=counted.macs,
        bit_operations=counted.bit_operations,
        size_bytes=_stored_bytes(network),
        top1=right,
    )


def _stored_bytes(network: Network) -> int:
    """Bytes of all parameters and buffers, each in the precision that its encoding gives it.

    The table of an embedding is read in float: where a layer in integers shares it, it is stored twice.
    """
    total = 0
    tables = {id(m.weight) for m in network.model.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag))}
    seen: set[int] = set()
    for name, tensor in network.model.state_dict(keep_vars=True).items():
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        encoding = network.encodings.get(name)
        total += tensor.numel() * encoding.bits // 8 if encoding else 0
        total += tensor.numel() * tensor.element_size() if not encoding or id(tensor) in tables else 0
    return total


def advance(
    network: Network, stage: Stage, context: Context, *, name: str | None = None, before: Cost | None = None
) -> tuple[Network, StageRecord]:
    """Apply one stage and measure it: the new network, with its history, and the account of what happened.

    Args:
        name: of the stage in the lineage; left out, that of its class ("Prune").
        before: what the network costs, where it was measured already.
    """
    name = name or type(stage).__name__
    trains = isinstance(stage, Training) or getattr(stage, "training", None) is not None
    if context.data is not None and trains:
        require_classifier(network.model, context.data, ["train"])
    before = before or measure(network, context.data)
    start = time.perf_counter()
    result = stage.apply(network.model, context)
    seconds = time.perf_counter() - start
    structural = tuple(e for e in result.edits if e.kind not in ("precision", "weights"))
    config: dict[str, Any] = stage.model_dump(mode="json") if hasattr(stage, "model_dump") else {}
    encodings = result.encodings or ({} if structural or result.history else network.encodings)
    lineage = {"stage": name, "config": config, "seed": context.seed, "weights": artifact.weights_digest(result.model)}
    if result.measured:
        lineage["measured"] = [vars(measured) for measured in result.measured]
    advanced = replace(
        network,
        model=result.model,
        edits=network.edits + structural,
        lineage=(*network.lineage, lineage),
        encodings=encodings,
    )
    skipped = [SkipRecord(layer=skip.layer, reason=skip.reason) for skip in result.skipped]
    if network.encodings and not encodings:
        skipped.append(SkipRecord(layer="", reason="the earlier quantization no longer fits: quantize again"))
    sparse = any(str(made["stage"]).startswith("sparsify") for made in network.lineage)
    if sparse and result.history and _zero_share(result.model) < 0.5 * _zero_share(network.model):
        skipped.append(SkipRecord(layer="", reason="training filled the zeros of the earlier sparsify: sparsify last"))
    after = measure(advanced, context.data)
    classes = len(context.data.classes) if context.data is not None else 0
    lost = lost_accuracy.warning(name, stage, before.top1, after.top1, classes)
    if lost is not None:
        _LOG.warning("%s", lost)
    record = StageRecord(
        name=name,
        config=config,
        seconds=seconds,
        edits=tuple(EditRecord(**vars(edit)) for edit in result.edits),
        skipped=tuple(skipped),
        before=before,
        after=after,
        history=result.history,
        measured=tuple(str(measured) for measured in result.measured),
        warnings=(lost,) if lost is not None else (),
    )
    return advanced, record


def _zero_share(model: nn.Module) -> float:
    counts = [(int((p == 0).sum()), p.numel()) for p in model.parameters()]
    return sum(zeros for zeros, _ in counts) / max(1, sum(numbers for _, numbers in counts))


def train(network: Network, data: Data, training: Training, context: Context) -> tuple[Network, StageRecord]:
    """Fit the weights of ``network``; its architecture stays."""
    return advance(network, training, replace(context, data=data, teacher=None), name="train")


def run(
    recipe: Recipe | Path | str,
    output: Path | str,
    *,
    overwrite: bool = False,
    progress: Progress = silent,
    trust: bool = False,
) -> Report:
    """Run a recipe from beginning to end and write everything to the folder ``output``.

    The folder holds an artifact per step, ``exports/``, ``report.json`` and ``report.html``. A run that was interrupted
    goes on after the last complete step (and within a training after the last epoch) when it is started again. Steps
    whose settings, data, code, versions or networks before them have changed since then are begun anew.

    Args:
        trust: run code that the recipe's file, an artifact or a pickle of weights names, though the user did not.

    Raises:
        InvalidInput: the recipe, network or data cannot be used, or its file names code that the user did not name.
        GateFailed: a gate of the recipe does not hold; everything was written all the same.
    """
    recipe = recipe if isinstance(recipe, Recipe) else read_recipe(Path(recipe))
    for code, option in () if trust else recipe.code_of_its_file():
        require_named(code, f"recipe {recipe.file}", named_by=option)
    output = Path(output)
    with resumable_folder(output, overwrite=overwrite) as work:
        data = load_data(recipe.data, recipe.seed) if recipe.data else None
        try:
            report = _run(recipe, work, data, progress, trust)
        except BaseException as error:
            if not _begun(work):
                _empty(work, ())
            elif isinstance(error, KeyboardInterrupt):
                error.add_note("the same command goes on from there")
            raise
        rmtree(work / RESUME)
    failed = [gate for gate in report.gates if not gate.passed]
    if failed:
        reasons = "; ".join(f"{gate.name}: expected {gate.expected}, got {gate.got}" for gate in failed)
        raise GateFailed(f"{output}: {len(failed)} of {len(report.gates)} gates failed: {reasons}")
    return report


def _begun(work: Path) -> bool:
    """Whether there is something in ``work`` to go on from: a whole step, or a checkpoint of one."""
    marks = (path for path in work.glob(f"{RESUME}/*/*") if path.name != ORIGIN)
    return any(artifact.is_artifact(path) for path in work.iterdir()) or any(marks)


def _empty(folder: Path, keep: Collection[str]) -> None:
    """Remove all that is in ``folder`` but the names in ``keep``."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name not in keep:
            rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _kept(work: Path, step: str, now: Origin, trust: bool) -> Network | None:
    """The network of a step that an earlier attempt completed from the same origin.

    Where there is none, what is kept of the step are checkpoints from the same origin, and nothing else.
    """
    folder, marks = work / step, work / RESUME / step
    reason = ""
    if folder.exists() or marks.exists():
        other = now.other_than(marks)
        reason = f"{other} changed since then" if other else ""
        if not reason and folder.exists():
            try:
                return artifact.load(folder, trust=trust)
            except InvalidInput as error:
                reason = str(error)
    if reason:
        lost = folder.exists() or any(path.name != ORIGIN for path in marks.iterdir())
        if lost:
            _LOG.warning("step %s, from an interrupted run, is begun anew: %s", step, reason)
        _empty(work, {path.name for path in work.iterdir()} - {step})
        _empty(marks, ())
    marks.mkdir(parents=True, exist_ok=True)
    now.write(marks)
    return None


def _run(recipe: Recipe, work: Path, data: Data | None, progress: Progress, trust: bool) -> Report:
    steps = ["baseline", *recipe.step_names]
    folders = [f"{number}-{name}" for number, name in enumerate(steps)]
    _empty(work, {RESUME, *folders})
    _empty(work / RESUME, folders)
    (work / "recipe.json").write_text(
        json.dumps({"digest": recipe.digest, "recipe": recipe.model_dump(mode="json")}, indent=1), encoding="utf-8"
    )
    total = len(steps) + len(recipe.exports) + 2
    networks: dict[str, Network] = {}
    records: list[StageRecord] = []
    seen = fingerprint(data)
    network: Network | None = None
    for number, (name, folder) in enumerate(zip(steps, folders, strict=True)):
        progress("recipe", number, total, name)
        marks = work / RESUME / folder
        teacher = networks["baseline"] if network is not None and recipe.teacher == "baseline" else None
        now = origin(_settings(recipe, number), recipe.seed, seen, network, teacher)
        kept = _kept(work, folder, now, trust)
        if kept is not None:
            network = kept
            recorded = artifact.read_manifest(work / folder)["metrics"]
            records += [StageRecord.model_validate(recorded["stage"])] if "stage" in recorded else []
        else:
            record: StageRecord | None = None
            if network is None:
                network, record = _baseline(recipe, data, _context(recipe, data, None, (), marks, progress), trust)
            else:
                model = teacher.model if teacher is not None else None
                context = _context(recipe, data, model, network.example_inputs, marks, progress)
                before = records[-1].after if records else None
                network, record = advance(network, recipe.stages[number - 1].stage, context, name=name, before=before)
            metrics = {"stage": record.model_dump(mode="json")} if record is not None else {}
            now.write(marks)
            artifact.save(network, work / folder, metrics=metrics)
            records += [record] if record is not None else []
        _empty(marks, {ORIGIN})
        if data is not None and recipe.exports and number == 0:
            require_classifier(network.model, data, ["test"])
        networks[name] = network
    assert network is not None, "the first step makes the baseline"

    (work / "exports").mkdir(exist_ok=True)
    exports: list[ExportRecord] = []
    files: list[deploy.Deployed] = []
    for number, wanted in enumerate(recipe.exports):
        progress("recipe", len(steps) + number, total, f"export {wanted.name}")
        exported, file = _export(wanted, networks[wanted.after], work)
        exports.append(exported)
        files.append(file)
    progress("recipe", total - 2, total, "benchmark")
    benchmarks: list[BenchmarkRecord] = []
    if files:
        benchmarks = deploy.measure(
            files, threads=recipe.benchmark.threads, preset=recipe.benchmark.preset, data=data, progress=progress
        )
        benchmarks = [
            record.model_copy(update={"file": f"exports/{file.path.name}"})
            for record, file in zip(benchmarks, files, strict=True)
        ]
    progress("recipe", total - 1, total, "report")
    first, last = networks["baseline"], files[-1].network if files else network
    assert last is not None, "an exported file has its network"
    summary = _summary(exports, benchmarks, first, last)
    report = Report(
        created=datetime.now(UTC),
        command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        recipe=recipe.model_dump(mode="json", exclude_unset=True),
        recipe_digest=recipe.digest,
        seed=recipe.seed,
        machine=deploy.machine(),
        versions=deploy.versions(),
        model=str(first.source),
        data=DataRecord(name=data.name, samples={k: len(v) for k, v in data.splits.items()}) if data else None,
        stages=tuple(records),
        exports=tuple(exports),
        benchmarks=tuple(benchmarks),
        layers=Layers(before=layers(first), after=layers(last)),
        summary=summary,
        gates=check_gates(recipe.gates, summary, exports, benchmarks),
    )
    write_report(report, work)
    progress("recipe", total, total, "done")
    return report


def _settings(recipe: Recipe, number: int) -> dict[str, Any]:
    """What the recipe says of a step: of the baseline (0), or of a stage."""
    if number == 0:
        return recipe.model_dump(mode="json", include={"model", "weights", "input_shape", "train"})
    step = recipe.stages[number - 1]
    return {"name": step.name, **step.model_dump(mode="json", exclude_none=True)}


def _context(
    recipe: Recipe,
    data: Data | None,
    teacher: nn.Module | None,
    example_inputs: tuple[Tensor, ...],
    checkpoints: Path,
    progress: Progress,
) -> Context:
    return Context(example_inputs, data, teacher, recipe.seed, progress, str(checkpoints), deploy.MachineClock())


def _baseline(recipe: Recipe, data: Data | None, context: Context, trust: bool) -> tuple[Network, StageRecord | None]:
    network = open_network(
        recipe.model,
        weights=Path(recipe.weights) if recipe.weights else None,
        data=data,
        input_shapes=(recipe.input_shape,) if recipe.input_shape else (),
        trust=trust,
        seed=recipe.seed,
    )
    if recipe.train is None or recipe.weights is not None:
        return network, None
    if data is None:
        raise InvalidInput("recipe: 'train' needs 'data' to train on")
    return train(network, data, recipe.train, context)


def _export(wanted: Export, network: Network, work: Path) -> tuple[ExportRecord, deploy.Deployed]:
    asked = deploy.Wanted(**wanted.model_dump(exclude={"name", "after"}))
    path = work / "exports" / f"{wanted.name}{deploy.suffix_of(asked)}"
    return deploy.export(fold_for_export(network), wanted.name, path, asked, shown=f"exports/{path.name}")


def fold_for_export(network: Network) -> Network:
    """The network with its batch norms folded, as engines do on their own; a quantized one is folded already."""
    if network.encodings:
        return network
    folded = Fold().apply(network.model, Context(network.example_inputs))
    return replace(network, model=folded.model)


def layers(network: Network) -> tuple[LayerRecord, ...]:
    """The cost of every layer that has parameters or multiply-adds, in the order in which they run."""
    found = cost(network.model, network.example_inputs).layers
    return tuple(
        LayerRecord(
            layer=layer.layer,
            operation=layer.operation,
            params=layer.params,
            macs=layer.macs,
            activation_bytes=layer.activation_bytes,
            output_shape=layer.output_shape,
        )
        for layer in found
        if layer.params or layer.macs
    )


def _ratio(a: float | None, b: float | None) -> float | None:
    return a / b if a is not None and b else None


def _summary(exports: list[ExportRecord], benchmarks: list[BenchmarkRecord], first: Network, last: Network) -> Summary:
    before, after = cost(first.model, first.example_inputs), cost(last.model, last.example_inputs)
    ratios = {"macs_ratio": _ratio(before.macs, after.macs), "params_ratio": _ratio(before.params, after.params)}
    if not exports:
        return Summary(**ratios)
    base, deployed = benchmarks[0], benchmarks[-1]
    drop = base.top1 - deployed.top1 if base.top1 is not None and deployed.top1 is not None else None
    return Summary(
        **ratios,
        speedup=_ratio(base.latency_ms.p50, deployed.latency_ms.p50),
        size_ratio=_ratio(exports[0].size_bytes, exports[-1].size_bytes),
        top1_drop=drop,
        baseline=base.name,
        deployed=deployed.name,
    )


def _wanted_speedup(gates: Gates) -> tuple[float | None, str]:
    """The speedup that this processor must reach, and why this one is wanted."""
    with_products = gates.speedup_with_dot_products
    if with_products is None:
        return gates.speedup, ""
    instructions = runtimes.processor.dot_products()
    if instructions is None:
        why = f" (this processor has no dot products of 8-bit integers; at least {with_products:g} with them)"
        return gates.speedup, why
    return with_products, f" (this processor has {instructions})"


def check_gates(
    gates: Gates, summary: Summary, exports: list[ExportRecord], benchmarks: list[BenchmarkRecord]
) -> tuple[Gate, ...]:
    """Each gate that is set, against what was measured; a value that could not be measured fails."""
    found: list[Gate] = []

    def at_least(name: str, bound: float | None, got: float | None, why: str = "") -> None:
        if bound is not None:
            shown = None if got is None else round(got, 2)
            expected = f"at least {bound:g}{why}"
            found.append(Gate(name=name, expected=expected, got=shown, passed=got is not None and got >= bound))

    speedup, why = _wanted_speedup(gates)
    at_least("speedup", speedup, summary.speedup, why)
    at_least("size_ratio", gates.size_ratio, summary.size_ratio)
    at_least("macs_ratio", gates.macs_ratio, summary.macs_ratio)
    if gates.top1_drop is not None:
        drop = summary.top1_drop
        # Accuracies are multiples of one sample: compare without the noise of their floating-point difference.
        passed = drop is not None and round(drop, 6) <= gates.top1_drop
        shown = None if drop is None else round(drop, 2)
        found.append(Gate(name="top1_drop", expected=f"at most {gates.top1_drop:g}", got=shown, passed=passed))
    if gates.float_nodes is not None:
        nodes = exports[-1].nodes.float if exports and exports[-1].nodes else None
        passed = nodes is not None and nodes <= gates.float_nodes
        found.append(Gate(name="float_nodes", expected=f"at most {gates.float_nodes}", got=nodes, passed=passed))
    if gates.top1_agreement is not None:
        for record in benchmarks:
            if record.top1 is not None:
                agreement = record.parity.top1_agreement if record.parity else None
                at_least(f"top1_agreement of {record.name}", gates.top1_agreement, agreement)
    return tuple(found)
