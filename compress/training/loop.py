"""The one training loop: every stage that fits weights calls :func:`fit`.

Lightning Fabric moves it to the device, the precision and the number of processes that :class:`Training` asks for. A
training is checkpointed after each epoch and resumes with the result that it would have had uninterrupted.
"""

from __future__ import annotations

import io
import logging
import math
import multiprocessing
import os
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import cloudpickle
import torch
from numpy.typing import NDArray
from pydantic import BeforeValidator
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..core.arithmetic import arrange, arranged, memory_format_of, native_bfloat16, precision_on, training_device
from ..core.settings import TRAINING, setting
from ..data import Data, SampleSplit, Split
from ..data.batch import count_of, mapped
from ..errors import InvalidInput
from ..stage import Config, Context, Edit, Objective, Progress, Result, evaluation_copy, silent
from ..tasks.difference import relative_difference
from ..tasks.resolve import resolve
from ..tasks.scoring import loss_of, score_of
from ..tasks.task import Batch, Task
from .augmentation import augmentation, moves
from .optimizer import learning_rate_factor, optimizer_of

if TYPE_CHECKING:
    from lightning_fabric import Fabric


_LOG = logging.getLogger(__name__)
RELATIVE_CLIP = 1.0
"""The norm of gradients of a loss that is relative to the size of outputs: where these are small, it has large ones."""
FEW_DEVICES = 8
"""Processes that any machine may be asked for, to try how it goes on more."""


class Training(Config):
    """How weights are fitted. A stage may have other defaults than these: see :func:`gentle`."""

    HEADING: ClassVar[str] = TRAINING

    epochs: int = setting(
        10,
        "How often every sample is seen. 0 leaves the weights as they are.",
        common=True,
        switch=True,
        ge=0,
        le=10**6,
    )
    batch_size: int = setting(128, "Samples of a step.", ge=1, le=2**20)
    optimizer: Literal["sgd", "adamw"] = setting(
        "sgd", "What steps follow from gradients: SGD with Nesterov momentum, or AdamW."
    )
    learning_rate: float = setting(
        0.1,
        "The highest learning rate, which is reached after the warm-up.",
        short="--lr",
        common=True,
        gt=0,
        le=1e4,
    )
    momentum: float = setting(0.9, "Of SGD.", ge=0, lt=1)
    weight_decay: float = setting(
        5e-4,
        "How much weights shrink in each step. Biases and the scales of norms are left free.",
        ge=0,
        le=1e4,
    )
    lr_schedule: Literal["cosine", "constant"] = setting(
        "cosine",
        "The learning rate after the warm-up: along a cosine to zero (Loshchilov and Hutter, SGDR, 2016, equation 5, "
        "without restarts), or constant.",
    )
    warmup_epochs: float = setting(
        1.0, "Over which the learning rate rises from near zero.", unit="epochs", ge=0, le=10**6
    )
    label_smoothing: float = setting(0.0, "The share of each label that is spread over all classes.", ge=0, lt=1)
    gradient_clip: float | None = setting(
        None,
        "The largest norm of all gradients together, to which larger ones are scaled down; left out, 1 where a network "
        "is trained towards outputs of any size, as without labels or with the match of a task of your own, and none "
        "elsewhere.",
        gt=0,
        le=1e9,
    )
    ema: float | None = setting(
        None,
        "The decay of an exponential moving average of the weights, as 0.999; the average is then the result.",
        gt=0,
        lt=1,
    )
    augment: tuple[Literal["flip", "crop", "cutout"], ...] = setting(
        (),
        "Random changes of images. Horizontal flips, crops after padding by an eighth of the image, and cutouts of a "
        "quarter of the side (DeVries and Taylor, 2017).",
        common=True,
    )
    precision: Literal["auto", "fp32", "bf16"] = setting(
        "auto",
        "Of the forward pass; auto is bf16 where the processor or GPU has instructions for it. Weights stay in "
        "float32; where there are no such instructions bf16 would be far slower.",
    )
    compiled: bool = setting(
        False,
        "Run the passes through torch.compile, which pays for few bits. It fuses what lies between convolutions: a "
        "minute to begin with, then faster where inputs are rounded to few bits, and not elsewhere. On a CPU it needs "
        "a C++ compiler.",
    )
    accelerator: Literal["auto", "cpu", "cuda"] = setting("auto", "Where it runs.")
    devices: int = setting(1, "Processes (CPU) or GPUs, each with its share of every batch.", ge=1, le=64)
    temperature: float = setting(4.0, "Of the teacher's soft targets (Hinton et al., 2015).", ge=1e-3, le=1e4)
    teacher_weight: float = setting(
        0.9, "The share of the teacher's loss in the sum; that of the labels is the rest.", ge=0, le=1
    )

    def apply(self, model: nn.Module, context: Context) -> Result:
        """A copy of ``model`` trained on labels alone: the stage that makes a baseline.

        Raises:
            InvalidInput: there is no data to train on.
        """
        if context.data is None:
            raise InvalidInput("train: it needs data to train on; give --data")
        trained = evaluation_copy(model)
        history = fit(
            trained,
            context.data,
            self,
            replace(context, teacher=None).task_of(model),
            seed=context.seed,
            checkpoint=Path(context.checkpoints, "train.ckpt") if context.checkpoints else None,
            progress=context.progress,
        )
        return Result(trained, (Edit("", "weights", "given", "trained", kind="weights"),), history=tuple(history))


def gentle(**defaults: Any) -> BeforeValidator:
    """Other defaults of a stage's :class:`Training`, where the usual ones would do harm, for all that is not set.

    It is the same for a mapping, as in recipes, and for a ``Training`` made in Python.

    >>> from typing import Annotated
    >>> from pydantic import TypeAdapter
    >>> few = TypeAdapter(Annotated[Training, gentle(learning_rate=1e-3)])
    >>> few.validate_python({"epochs": 2}).learning_rate, few.validate_python(Training(learning_rate=0.2)).learning_rate
    (0.001, 0.2)
    """

    def filled(value: object) -> object:
        if isinstance(value, Training):
            value = {name: getattr(value, name) for name in value.model_fields_set}
        return {**defaults, **value} if isinstance(value, dict) else value

    return BeforeValidator(filled)


class Callback(Protocol):
    """What a stage does within every step of :func:`fit`, in each process alike. Steps count from 1 to ``steps``.

    ``model`` is the network that is trained, ``average`` its moving average where there is one. What a callback keeps
    from step to step is in its state, so that an interrupted training goes on exactly.
    """

    def after_backward(self, model: nn.Module, step: int, steps: int) -> None:
        """The gradients are there, averaged over the processes, and the weights are still those that made them."""

    def after_step(self, model: nn.Module, average: nn.Module | None, step: int, steps: int) -> None:
        """The weights, and after them the average, have been updated."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values, for the checkpoint."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the state of a checkpoint.

        Raises:
            InvalidInput: it is of a callback with other settings.
        """


@dataclass(frozen=True)
class TaskLoss:
    """The objective that is the loss of a task."""

    task: Task

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        return loss_of(self.task, model, batch, "training")


def tuned(task: Task, training: Training) -> Task:
    """The task with the label smoothing and the temperature of ``training``, where it has them.

    Raises:
        InvalidInput: labels are to be smoothed, and the task has none of classes.
    """
    if task.tuned is not None:
        return task.tuned(training.label_smoothing, training.temperature)
    if training.label_smoothing:
        raise InvalidInput(
            f"label_smoothing {training.label_smoothing:g}: the task {task.name} has no labels of classes to smooth; "
            "leave it at 0"
        )
    return task


def compiled(network: nn.Module, training: Training) -> nn.Module:
    """``network``, or what runs its compiled passes on the same weights where ``training`` wants that.

    Shapes are fixed, so that the last, smaller batch of an epoch is compiled apart and leaves the others fast.
    """
    return torch.compile(network, dynamic=False) if training.compiled else network  # type: ignore[return-value]


def fit(
    model: nn.Module,
    data: Data,
    training: Training,
    task: Task | None = None,
    *,
    objective: Objective | None = None,
    seed: int = 0,
    checkpoint: Path | None = None,
    progress: Progress = silent,
    activity: str = "train",
    callback: Callback | None = None,
) -> list[dict[str, float]]:
    """Train ``model`` in place on the train split; returns one record per epoch: the loss, the learning rate, and the
    task's first score on the validation split, where there are both.

    The weights are those of the last epoch (or of its moving average): nothing is chosen on any split. They are the
    same in every run with the same seed on the same kind of processor with the same number of threads, among which
    sums of floats are shared out.

    Args:
        task: what a batch means; left out, the one that fits.
        objective: the loss, by default that of the task.
        checkpoint: a file written after each epoch and read first if it exists; an interrupted training goes on from
            there with the result of an uninterrupted one.
        activity: what messages and the progress call the training.
        callback: called within every step.

    Raises:
        InvalidInput: the loss is no longer finite, the checkpoint is of another training, or ``torch.compile`` failed.
    """
    device = training_device(training.accelerator)
    if training.precision == "bf16" and not native_bfloat16(device):
        _LOG.warning(
            "%s: this processor has no instructions for bf16, which makes training far slower than fp32", activity
        )
    training = training.model_copy(update={"precision": precision_on(device, training.precision)})
    if training.devices > max(FEW_DEVICES, os.cpu_count() or 1, torch.cuda.device_count()):
        raise InvalidInput(
            f"{activity}: --devices (devices) {training.devices}, and here are {os.cpu_count()} processors"
        )
    task = resolve(None, model, data) if task is None else task
    if objective is None and (task.loss is None or task.self_supervised):
        raise InvalidInput(
            f"{activity}: the data {data.name} has no labels that the network could learn (task {task.name}); give "
            "labels, a --task of your own, or a --teacher"
        )
    task = tuned(task, training)
    if training.augment and task.placed:
        _require_labels_move(data, training, task, activity)
    job = _Job(model, data, training, task, objective or TaskLoss(task), seed, checkpoint, activity, callback)
    return _fit_in_processes(job) if training.devices > 1 else _fit_on(_fabric(training), job, progress)


def _require_labels_move(data: Data, training: Training, task: Task, activity: str) -> None:
    """Raise InvalidInput where images are changed, and labels that say what is where would not be."""
    split = data.split("train")
    if not isinstance(split, SampleSplit) or split.labels is None:  # a user's loader augments itself
        return
    first = torch.arange(1)
    if not moves(split.inputs[first], split.labels[first]):
        raise InvalidInput(
            f"{activity}: --augment {','.join(training.augment)} changes images, and labels of the task "
            f"{task.name}, which may say what is where, would be wrong; leave it out, or give loaders that move all"
        )


@dataclass(frozen=True)
class _Job:
    """What :func:`fit` was asked for, as every process gets it; the weights of ``model`` are changed."""

    model: nn.Module
    data: Data
    training: Training
    task: Task
    objective: Objective
    seed: int
    checkpoint: Path | None
    activity: str
    callback: Callback | None

    @cached_property
    def split(self) -> Split:
        """The samples that the weights are fitted to."""
        return self.data.split("train")

    @cached_property
    def steps_per_epoch(self) -> int:
        """Steps of the optimizer in an epoch; a last, smaller batch is no step of its own."""
        return max(1, len(self.split) // self.training.batch_size)

    @property
    def largest_gradient(self) -> float | None:
        """The norm to which gradients are scaled down; None leaves them as they are."""
        matched = self.task.match is relative_difference and not isinstance(self.objective, TaskLoss)
        return self.training.gradient_clip or (RELATIVE_CLIP if matched or self.task.self_supervised else None)

    @property
    def steps(self) -> int:
        """Steps of the optimizer in all epochs."""
        return self.steps_per_epoch * self.training.epochs

    def batches(self, epoch: int, fabric: Fabric) -> Iterator[Batch]:
        """The batches of an epoch for this process, shuffled and augmented."""

        def augment(x: Tensor, labels: Any, generator: torch.Generator) -> tuple[Tensor, Any]:
            return augmentation(x, labels, generator, self.training.augment)

        return self.split.batches(
            self.training.batch_size,
            shuffle_seed=(self.seed, epoch),
            augment=augment if self.training.augment else None,
            rank=fabric.global_rank,
            world_size=fabric.world_size,
        )


def _fit_on(fabric: Fabric, job: _Job, progress: Progress) -> list[dict[str, float]]:
    """:func:`fit` on a launched fabric: every process of it calls this with the same job."""
    run = _Run.of(fabric, job, progress)
    run.resume()
    for epoch in range(run.state["epoch"], job.training.epochs):
        record = run.epoch(epoch)
        run.state["history"].append(record)
        note = ", ".join(f"{key} {value:.4g}" for key, value in record.items())
        progress(job.activity, (epoch + 1) * job.steps_per_epoch, job.steps, note)
        if job.checkpoint is not None:
            run.save(job.checkpoint, epoch + 1)
    if run.average is not None:
        job.model.load_state_dict(run.average.module.state_dict())
    arrange(job.model.to("cpu").eval(), torch.contiguous_format)
    return list(run.state["history"])


@dataclass(frozen=True)
class _Run:
    """A training under way in one process.

    Args:
        order: how the elements of images lie in memory, for the network's convolutions.
        wrapped: the network as the fabric runs it, compiled where the training wants that; the weights are those of
            the job's model.
        average: the moving average of the weights, where there is one.
        state: what a checkpoint holds: the parts above, the epochs done and their records, the settings and the state
            of torch's generator.
    """

    fabric: Fabric
    job: _Job
    progress: Progress
    order: torch.memory_format
    wrapped: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LambdaLR
    average: AveragedModel | None
    state: dict[str, Any]

    @classmethod
    def of(cls, fabric: Fabric, job: _Job, progress: Progress) -> _Run:
        """The training before its first step, its network on the device and torch's generator seeded."""
        model, training, steps = job.model, job.training, job.steps
        warmup = round(training.warmup_epochs * job.steps_per_epoch)
        torch.manual_seed(job.seed + fabric.global_rank)
        order = memory_format_of(model, "cpu" if fabric.device.type == "cpu" else "cuda")
        arrange(model.train(), order)
        optimizer = optimizer_of(
            model,
            training.optimizer,
            learning_rate=training.learning_rate,
            momentum=training.momentum,
            weight_decay=training.weight_decay,
        )
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(step, steps, warmup, training.lr_schedule)
        )
        average: AveragedModel | None = None
        if training.ema is not None:
            average_with = get_ema_multi_avg_fn(training.ema)
            average = AveragedModel(model, multi_avg_fn=average_with, use_buffers=True)
        wrapped, wrapped_optimizer = fabric.setup(compiled(model, training), optimizer)
        if average is not None:
            average.to(fabric.device)
        state: dict[str, Any] = {
            "model": wrapped,
            "optimizer": wrapped_optimizer,
            "scheduler": scheduler,
            "epoch": 0,
            "history": [],
            "settings": training.model_dump_json(),
            "seed": job.seed,
            "rng": torch.get_rng_state(),
        }
        if average is not None:
            state["average"] = average
        return cls(fabric, job, progress, order, wrapped, wrapped_optimizer, scheduler, average, state)

    def resume(self) -> None:
        """Go on from the checkpoint of an interrupted training, where there is one.

        Raises:
            InvalidInput: it belongs to a training with other settings.
        """
        job, state = self.job, self.state
        saved = _saved(self.fabric, job.checkpoint)
        if saved is None:
            return
        of_this = saved.get("settings") == state["settings"] and saved.get("seed") == job.seed
        if not of_this or ("callback" in saved) != (job.callback is not None):
            raise InvalidInput(
                f"checkpoint {job.checkpoint}: it belongs to a training with other settings; remove it or restore them"
            )
        for key in ("model", "optimizer", "scheduler", "average"):
            if key in state:
                state[key].load_state_dict(saved[key])
        if job.callback is not None:
            job.callback.load_state_dict(saved["callback"])
        state.update(epoch=saved["epoch"], history=saved["history"])
        torch.set_rng_state(saved["rng"])

    def epoch(self, epoch: int) -> dict[str, float]:
        """Train for an epoch, counted from 0; its record.

        Raises:
            InvalidInput: the loss is not finite, or the task does not fit the batches.
        """
        job, training = self.job, self.job.training
        job.model.train()
        loss_sum = 0.0
        step = 0
        for step, batch in enumerate(job.batches(epoch, self.fabric), 1):
            reached = epoch * job.steps_per_epoch + min(step, job.steps_per_epoch)
            loss_sum += self.step(batch, reached)
            self.progress(job.activity, reached, job.steps, f"epoch {epoch + 1}/{training.epochs}")
        if not math.isfinite(loss_sum):
            raise InvalidInput(
                f"{job.activity}: the loss is not finite in epoch {epoch + 1}; "
                f"lower the learning rate ({training.learning_rate:g})"
            )
        learning_rate = float(self.scheduler.get_last_lr()[0])
        record = {"epoch": epoch + 1, "loss": loss_sum / max(1, step), "learning_rate": learning_rate}
        if job.task.score is not None and "validation" in job.data.splits and self.fabric.is_global_zero:
            network = self.average.module if self.average is not None else job.model
            record["validation_score"] = score_of(job.task, network, job.data.splits["validation"])
        return record

    def step(self, batch: Batch, reached: int) -> float:
        """One step on a batch; its loss. ``reached`` is the number of the step in the training, from 1."""
        job, average = self.job, self.average
        loss = self.backward(mapped(batch, lambda tensor: arranged(self.fabric.to_device(tensor), self.order)))
        if job.callback is not None:
            job.callback.after_backward(job.model, reached, job.steps)
        if job.largest_gradient is not None:
            nn.utils.clip_grad_norm_(job.model.parameters(), job.largest_gradient)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.scheduler.step()
        if average is not None:
            average.update_parameters(job.model)
        if job.callback is not None:
            job.callback.after_step(job.model, average.module if average is not None else None, reached, job.steps)
        return float(loss.detach())

    def backward(self, batch: Batch) -> Tensor:
        """The loss on a batch, whose gradients are then in the weights.

        Raises:
            InvalidInput: ``torch.compile`` failed, or the batch is too small for batch norm.
        """
        activity = self.job.activity
        try:
            with self.fabric.autocast():
                loss = self.job.objective(self.wrapped, batch)
            self.fabric.backward(loss)
        except RuntimeError as error:
            if self.job.training.compiled and type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                reason = str(error).splitlines()[0]
                raise InvalidInput(f"{activity}: torch.compile failed ({reason}); train without compiled") from error
            raise
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise InvalidInput(
                f"{activity}: a batch of {count_of(batch)} leaves batch norm one value per channel, which has no "
                "variance; give a larger --batch-size (batch_size), or more samples"
            ) from error
        return loss

    def save(self, checkpoint: Path, epochs: int) -> None:
        """Write the state after ``epochs`` epochs to ``checkpoint``, whole or not at all.

        Raises:
            InvalidInput: it cannot be written.
        """
        self.state.update(epoch=epochs, rng=torch.get_rng_state())
        if self.job.callback is not None:
            self.state["callback"] = self.job.callback.state_dict()
        try:
            self.fabric.save(checkpoint.with_suffix(".partial"), self.state)
        except (OSError, RuntimeError) as error:  # torch's writer tells a full disk as a RuntimeError
            reason = " ".join(str(error).split())[:200]
            raise InvalidInput(f"checkpoint {checkpoint}: cannot be written ({reason}); make room") from error
        if self.fabric.is_global_zero:
            checkpoint.with_suffix(".partial").replace(checkpoint)
        self.fabric.barrier()


def _saved(fabric: Fabric, checkpoint: Path | None) -> dict[str, Any] | None:
    """What the checkpoint holds: plain values and tensors; None where there is none, or none that is whole."""
    if checkpoint is None or not checkpoint.exists():
        return None
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            other = archive.testzip()  # torch reads tensors whose bytes are not those that it wrote
        if other is not None:
            raise ValueError(f"{other} has another checksum")
        saved: dict[str, Any] = fabric.load(checkpoint, weights_only=True)
        if {"model", "optimizer", "scheduler", "epoch", "history", "settings", "seed", "rng"} <= saved.keys():
            return saved
        reason = "parts are missing"
    except Exception as error:  # noqa: BLE001 - a damaged archive fails in as many ways as it can be damaged
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:100]
    _LOG.warning("checkpoint %s is damaged (%s): this training begins anew", checkpoint, reason)
    return None


def _fabric(training: Training) -> Fabric:
    from lightning_fabric import Fabric  # it brings all of torch._dynamo, a second for commands that train nothing

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces the precision at every training

    return Fabric(
        accelerator=training.accelerator,
        devices=training.devices,
        strategy="ddp_spawn" if training.devices > 1 else "auto",
        precision="bf16-mixed" if training.precision == "bf16" else "32-true",
    )


def _fit_in_processes(job: _Job) -> list[dict[str, float]]:
    """:func:`fit` in ``training.devices`` new processes; the first one's weights come back into the model."""
    # What is a user's may live in a file that a new process cannot import: such modules travel as code.
    by_value = [module for name, module in list(sys.modules.items()) if name.startswith("_user_")]
    for module in by_value:
        cloudpickle.register_pickle_by_value(module)
    try:
        payload = cloudpickle.dumps(job)
    finally:
        for module in by_value:
            cloudpickle.unregister_pickle_by_value(module)
    try:
        state, history, callback_state = _fabric(job.training).launch(_process, payload)  # type: ignore[arg-type]
    except BaseException:
        for process in multiprocessing.active_children():
            process.terminate()  # the others of them would wait for each other
        raise
    job.model.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    if job.callback is not None:
        job.callback.load_state_dict(torch.load(io.BytesIO(callback_state), weights_only=True))
    job.model.eval()
    return list(history)


def _process(fabric: Fabric, payload: bytes) -> tuple[dict[str, NDArray[Any]], list[dict[str, float]], bytes]:
    """One process of :func:`_fit_in_processes`: the weights, the history and the callback's state, as bytes."""
    job: _Job = cloudpickle.loads(payload)
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // job.training.devices))
    history = _fit_on(fabric, job, silent)
    callback_state = io.BytesIO()
    torch.save(job.callback.state_dict() if job.callback is not None else {}, callback_state)
    # As arrays and bytes: a tensor's memory would be gone with this process before the other end has read it.
    return {name: tensor.numpy() for name, tensor in job.model.state_dict().items()}, history, callback_state.getvalue()
