"""One stage applied to a network, and measured before and after."""

from __future__ import annotations

import logging
import time
from dataclasses import replace

import torch
from torch import nn

from ..core.arithmetic import training_device
from ..cost.count import cost
from ..data import Data
from ..data.batch import moved
from ..distill import Distill, objective_for
from ..errors import CompressError, InvalidInput, first_line
from ..integers.plan import Plan, plan
from ..integers.simulate import simulated
from ..quantize.detect import detected
from ..report.schema import Cost, EditRecord, SkipRecord, StageRecord
from ..sources.load import Network
from ..stage import Context, Objective, Result, Stage, evaluation_copy
from ..tasks.record import ScoreRecord, records
from ..tasks.resolve import require_fits, resolve
from ..tasks.scoring import evaluate
from ..tasks.task import Task
from ..training.loop import Training
from . import lost_accuracy, output_noise
from .history import advanced, record_of

_LOG = logging.getLogger(__name__)

FEW_ZEROS = 0.1
"""A network with a smaller share of zeros among its weights is not sparse."""


def measure(network: Network, data: Data | None, task: Task | None = None, planned: Plan | None = None) -> Cost:
    """What the network costs, and its scores on the validation split.

    The task is the one that fits, where it is left out. A quantized network is judged by the plan of its integers, that
    of :func:`_planned` where it is left out.
    """
    planned = planned or _planned(network)
    counted = cost(network.model, network.example_inputs, planned)
    scores: tuple[ScoreRecord, ...] = ()
    if data is not None and "validation" in data.splits:
        task = resolve(None, network.model, data, network.example_inputs) if task is None else task
        require_fits(task, network.model, data, ["validation"])
        model = network.model if planned is None else simulated(planned)
        scores = records(task, evaluate(task, model, data.split("validation"))) if task.scores else ()
    return Cost(
        params=counted.params,
        macs=counted.macs,
        bit_operations=counted.bit_operations,
        size_bytes=_stored_bytes(network),
        scores=scores,
    )


def _planned(network: Network) -> Plan | None:
    """The integers of a quantized network in the target that it was quantized for, else in this machine's."""
    if not network.encodings:
        return None
    target = network.target or detected().target
    return plan(network.model, network.example_inputs, network.encodings, target)


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
    context = context.of(network.model)
    task = context.task_of(network.model)
    training = stage if isinstance(stage, Training) else getattr(stage, "training", getattr(stage, "train", None))
    if context.data is not None and training is not None:
        context.data.split("train")  # or it is told that there is none, before any work
        require_fits(task, network.model, context.data, ["train"])
        tried = _plain(training)
        objective = stage.trial(context) if isinstance(stage, Distill) else objective_for(task, context.teacher, tried)
        _require_trains(network.model, context.data, objective, training)
    before = before or measure(network, context.data, task)
    start = time.perf_counter()
    result = stage.apply(network.model, context)
    seconds = time.perf_counter() - start
    recorded = record_of(stage, name)
    after_stage = advanced(network, result, {**recorded, "seed": context.seed})
    skipped = [SkipRecord(layer=skip.layer, reason=skip.reason) for skip in result.skipped]
    planned = _planned(after_stage)
    after = measure(after_stage, context.data, task, planned)
    outputs = output_noise.outputs_apart(network, planned, context) if planned is not None and result.encodings else ()
    classes = len(context.data.classes) if context.data is not None and task.classes is not None else 0
    lost = lost_accuracy.warning(name, stage, before.score, after.score, classes)
    warnings = tuple(each for each in (lost, output_noise.warning(name, outputs)) if each is not None)
    for each in warnings:
        _LOG.warning("%s", each)
    record = StageRecord(
        name=name,
        config=recorded["config"],
        seconds=seconds,
        edits=tuple(EditRecord(**vars(edit)) for edit in result.edits),
        skipped=(*skipped, *_undone(network, after_stage, result)),
        before=before,
        after=after,
        history=result.history,
        measured=tuple(str(measured) for measured in result.measured),
        warnings=warnings,
        outputs=outputs,
        restored=result.restored,
    )
    return after_stage, record


def _plain(training: Training) -> Training:
    """``training`` as a single step is tried."""
    return training.model_copy(update={"compiled": False})


def _require_trains(model: nn.Module, data: Data, objective: Objective, training: Training) -> None:
    """Raise InvalidInput unless a batch of the train split has a loss that gradients flow from."""
    device = torch.device(training_device(training.accelerator))
    batch = next(iter(data.split("train").batches(training.batch_size)), None)
    if batch is None:
        raise InvalidInput(f"data {data.name}: the train split has no samples")
    try:
        with torch.random.fork_rng(), torch.enable_grad():
            loss = objective(evaluation_copy(model).train().to(device), moved(batch, device))
    except CompressError:
        raise
    except Exception as error:
        if "more than 1 value per channel" in str(error):  # told by the training, whose batches may be larger
            return
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise InvalidInput(f"data {data.name}: the network has no loss on its train samples: {reason}") from error
    if not loss.requires_grad:
        raise InvalidInput(
            f"data {data.name}: the loss does not depend on the network's weights, and nothing could be trained; give "
            "a --task whose loss is of the network's outputs, undetached"
        )


def _undone(before: Network, after: Network, result: Result) -> list[SkipRecord]:
    """What an earlier stage had done and this one took back."""
    notes = []
    if before.encodings and not after.encodings:
        notes.append("the earlier quantization no longer fits: quantize again")
    zeros, left = _zero_share(before.model), _zero_share(after.model)
    if result.history and zeros >= FEW_ZEROS and left < 0.5 * zeros:
        notes.append("training filled the zeros of the earlier sparsify: sparsify last")
    return [SkipRecord(layer="", reason=note) for note in notes]


def _zero_share(model: nn.Module) -> float:
    counts = [(int((p == 0).sum()), p.numel()) for p in model.parameters()]
    return sum(zeros for zeros, _ in counts) / max(1, sum(numbers for _, numbers in counts))


def train(network: Network, data: Data, training: Training, context: Context) -> tuple[Network, StageRecord]:
    """Fit the weights of ``network``; its architecture stays."""
    return advance(network, training, replace(context, data=data, teacher=None), name="train")
