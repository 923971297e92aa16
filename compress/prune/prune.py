"""Structured pruning: whole channels go, and the network becomes physically smaller."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator, model_validator
from torch import nn

from ..clock import Precision
from ..core.config import refuse_moved
from ..core.parts import Listed
from ..core.settings import setting
from ..distill import fine_tune
from ..edits import from_json, replay, to_json
from ..errors import InvalidInput
from ..files.outputs import write_text
from ..files.untrusted import read_json
from ..integers.target import TargetName as LatencyTarget
from ..sources.manifest import EditRecord
from ..stage import Config, Context, Edit, Measured, Result, Skip, Threads, Times, evaluation_copy
from ..training.loop import Training
from .blocks import RemoveBlocks
from .criteria import CRITERIA, AnyCriterion
from .repair import REPAIRS, AnyRepair, repair
from .select import SELECTIONS, AnySelect
from .surgery.choose import Rules
from .surgery.cut import ChannelReport, Cut, Surgery, Timing
from .surgery.goal import Baseline, GoalName, PruneGoal

MOVED = {
    "scope": "select",
    "sensitivity": "select: {sensitivity: FILE}",
    "reconstruct": "repair: [reconstruct]",
    "reestimate": "repair: [recalibrate_bn]",
    "precision": "latency_precision",
    "aggregate": "criterion: {NAME: {aggregate: ...}}",
    "members": "criterion: {NAME: {members: ...}}",
    "normalize": "criterion: {NAME: {normalize: ...}}",
    "score_batches": "criterion: {NAME: {batches: ...}}",
}
"""Where settings stand that once were the stage's own."""


class Prune(Config):
    """Remove the least important channels, until one target is reached: exactly one of the first five is given.

    Channels that depend on each other (residual sums, depthwise convolutions, shuffles, ...) go together; the network
    that is left equals the given one with the removed channels masked to zero, which is checked on every use. It is
    then repaired, and fine-tuned if ``training`` says so.
    """

    ratio: float | None = setting(
        None,
        "Share of the channels to remove, as 0.5, rounded to the nearest widths: of each group, or of all where the "
        "selection compares them.",
        group="target",
        common=True,
        gt=0,
        lt=1,
    )
    macs: Times | None = setting(
        None,
        "Divide the multiply-adds of convolutions and matrix products by at least this, as 4.",
        group="target",
        unit="times",
        common=True,
    )
    parameters: Times | None = setting(
        None, "Divide the number of parameters by at least this.", group="target", unit="times", common=True
    )
    size: Times | None = setting(
        None,
        "Divide the bytes of the stored weights (parameters and buffers, in their types) by at least this.",
        group="target",
        unit="times",
        common=True,
    )
    latency: Times | None = setting(
        None,
        "Divide the latency by at least this, of the network's file in its engine on this machine. What matters "
        "least for its time goes (Shen et al., HALP, 2022), and the network is measured until it fits.",
        group="target",
        unit="times",
        common=True,
    )
    criterion: AnyCriterion = setting(
        CRITERIA.read("l1"), "What makes a channel important.", group="channels", common=True, metavar="NAME"
    )
    select: AnySelect = setting(
        SELECTIONS.read("layer"),
        "What groups of channels share: the same part of each (layer), the lowest scores of all (global), what costs "
        "each the same accuracy when it alone is pruned (sensitivity), or the widths with the least loss within the "
        "target (knapsack).",
        group="channels",
        common=True,
        metavar="NAME",
    )
    repair: Annotated[tuple[AnyRepair, ...] | None, Listed] = setting(
        None,
        "What is done without training to bring the outputs back, on calibration samples. Left out, reconstruct where "
        "there are such samples and no training.",
        group="after the cut",
        common=True,
        metavar="NAMES",
    )
    blocks: int = setting(
        0,
        "Residual blocks that go as a whole before channels do, those that matter least; the target counts them.",
        group="channels",
        ge=0,
        le=2**20,
    )
    steps: int = setting(
        1,
        "Prune in so many steps, each a similar share of what is left, and score anew after each. Several with "
        "training are iterative pruning. Half of the training's epochs are spread over the steps before the last.",
        group="channels",
        ge=1,
        le=1000,
    )
    round_to: Annotated[int, Field(ge=1, le=2**20)] | Literal["measured"] = setting(
        8,
        "Widths are rounded to the nearest multiple of this and are at least this, where there are that many; measured "
        "takes widths near the wanted ones that are fast in the engine instead.",
        group="widths",
        common=True,
    )
    minimum: int = setting(1, "Channels that every layer keeps.", group="widths", ge=1, le=2**20)
    limits: dict[str, Annotated[float, Field(ge=0, lt=1)]] = setting(
        {},
        "The largest share that layers may lose, by patterns, as layer1.*=0.3; the least one that matches.",
        group="widths",
        flag="--limit",
    )
    exclude: tuple[str, ...] = setting(
        (), "Patterns of names of layers that keep all their output channels, as layer1.*.", group="widths", common=True
    )
    latency_precision: Precision = setting(
        "float",
        "Of the files that latencies are measured on: the widths that are fast in int8 are others.",
        group="latencies",
    )
    latency_target: LatencyTarget | None = setting(
        None,
        "Whose files latencies are measured on, in its engine on this machine; left out, those of this machine.",
        group="latencies",
    )
    threads: Threads = setting(
        1, "That one operator of the engine may use while latencies are measured.", group="latencies"
    )
    cache: Path | None = setting(
        None, "The folder that holds measured latencies, by default the user's folder for caches.", hidden=True
    )
    training: Training | None = setting(
        None, "Fine-tuning after the surgery, on the data, distilling from the teacher if there is one."
    )

    @model_validator(mode="before")
    @classmethod
    def _moved(cls, values: Any) -> Any:
        return refuse_moved(values, MOVED)

    @field_validator("round_to", mode="before")
    @classmethod
    def _multiple(cls, value: object) -> object:
        if value != "measured" and (not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 2**20):
            raise ValueError(f"expected a whole number from 1 to {2**20}, or measured, got {value!r:.40}")
        return value

    @model_validator(mode="after")
    def _one_target(self) -> Prune:
        names = get_args(GoalName)
        chosen = [name for name in names if getattr(self, name) is not None]
        if len(chosen) != 1:
            *first, last = (f"`{name}`" for name in names)
            got = ", ".join(f"`{name}`" for name in chosen) or "none"
            raise ValueError(f"give exactly one of {', '.join(first)} and {last}, got {got}")
        return self

    @property
    def goal(self) -> PruneGoal:
        """The one goal that is given."""
        return next(PruneGoal(name, value) for name in get_args(GoalName) if (value := getattr(self, name)) is not None)

    @property
    def needs_data(self) -> bool:
        """Whether it can do nothing without data."""
        return self.training is not None or bool(self.repair) or self.select.needs_data

    @property
    def remedy(self) -> str | None:
        """What to do where it loses most of the accuracy."""
        if self.training is not None:
            return "fine-tune for more --epochs, prune in more --steps, or remove less"
        if self.repair:
            return "fine-tune (training, --epochs), or remove less"
        return (
            "give calibration samples (--data) and leave --repair out, fine-tune (training, --epochs), or remove less"
        )

    @property
    def surgery(self) -> Surgery:
        """What is cut, and by which rules."""
        rules = Rules(self.round_to, self.minimum, self.limits, self.exclude)
        timing = Timing(self.latency_precision, self.threads, self.cache, self.latency_target)
        return Surgery(self.goal, self.criterion, self.select, rules, timing)

    def apply(self, model: nn.Module, context: Context) -> Result:
        """The smaller network, of the same class and in evaluation mode, with what was cut and what was left alone.

        Edits of all steps follow each other: replayed in order, they make the source into the network.

        Raises:
            InvalidInput: nothing can be pruned, the target is out of reach, a pattern matches nothing, the network's
                code holds channel counts as numbers, or there is no data to fine-tune on or to measure accuracy on.
        """
        if self.goal.name == "latency" or self.round_to == "measured":
            self.surgery.timing.clock(context)  # what cannot be measured is refused before the work
        if self.training is not None and context.data is None:
            raise InvalidInput("prune: training is set, and there is no data to train on; give data or leave it out")
        context = context.of(model)
        pruned = model
        edits: tuple[Edit, ...] = ()
        skipped: tuple[Skip, ...] = ()
        history: list[dict[str, float]] = []
        baseline: Baseline | None = None
        for step in range(1, self.steps + 1):
            before = pruned
            done = self._resumed(pruned, context, step)
            if done is None:
                if baseline is None and (step > 1 or self.blocks):
                    baseline = ChannelReport.of(self.surgery, model, context).baseline()
                done = self._cut(pruned, context, baseline, step)
                self._remember(done, context, step)
            pruned, skipped, baseline = done.model, done.skipped, done.baseline or baseline
            mended, left = self._repair(before, pruned, done.edits, context)
            edits, skipped = (*edits, *done.edits, *mended), (*skipped, *left)
            trained = self._fine_tune(pruned, context, step)
            if trained:
                edits = (*edits, Edit("", "weights", None, f"{len(trained)} epochs", "weights"))
                history += trained
        return Result(pruned, edits, skipped, history=tuple(history), measured=self._measured(context))

    def _cut(self, model: nn.Module, context: Context, baseline: Baseline | None, step: int) -> Cut:
        """The surgery of a step: in the first one whole blocks go first."""
        share = step / self.steps
        if step > 1 or not self.blocks:
            return self.surgery.apply(model, context, baseline, share)
        shorter = RemoveBlocks(count=self.blocks).apply(model, context)
        done = self.surgery.apply(shorter.model, context, baseline, share)
        return Cut(done.model, (*shorter.edits, *done.edits), (*shorter.skipped, *done.skipped), done.baseline)

    def _measured(self, context: Context) -> tuple[Measured, ...]:
        """The account of widths that were chosen by latency."""
        account = {"float": "in float", "int8": "in int8"}[self.latency_precision]
        if self.goal.name == "latency":
            account = f"widths: {account}, at least {self.goal.factor:.3g} times faster than before"
        elif self.round_to == "measured":
            account = f"widths: those that pay {account}"
        else:
            return ()
        return (Measured.by(self.surgery.timing.clock(context), "the widths of layers", account),)

    def _repair(
        self, before: nn.Module, pruned: nn.Module, edits: tuple[Edit, ...], context: Context
    ) -> tuple[Sequence[Edit], Sequence[Skip]]:
        """Bring the outputs of ``pruned``, in place, closer to those of the network ``before`` the cut."""
        repairs = self.repair
        if repairs is None:
            samples = context.data is not None and "calibration" in context.data.splits
            repairs = (REPAIRS.read("reconstruct"),) if samples and self.training is None else ()
        augment = self.training.augment if self.training is not None else ()
        return repair(evaluation_copy(before), pruned, edits, context, repairs, augment=augment)

    def epochs(self, step: int) -> int:
        """Epochs of fine-tuning after ``step`` (from 1).

        >>> stage = Prune(ratio=0.5, steps=4, training=Training(epochs=10))
        >>> [stage.epochs(step) for step in (1, 2, 3, 4)]
        [1, 2, 2, 5]
        """
        total = self.training.epochs if self.training is not None else 0
        early = total // 2 if self.steps > 1 else 0
        if step == self.steps:
            return total - early
        return early * step // (self.steps - 1) - early * (step - 1) // (self.steps - 1)

    def _fine_tune(self, pruned: nn.Module, context: Context, step: int) -> list[dict[str, float]]:
        """Fit the weights of ``pruned`` in place; a record per epoch. Every step has the schedule of the whole."""
        epochs = self.epochs(step)
        if self.training is None or context.data is None or (self.steps > 1 and not epochs):
            return []
        warmup = self.training.warmup_epochs * epochs / max(1, self.training.epochs)
        training = self.training.model_copy(update={"epochs": epochs, "warmup_epochs": warmup})
        history = fine_tune(
            pruned,
            replace(context, seed=context.seed + step - 1),
            training,
            activity="fine-tune" if self.steps == 1 else f"fine-tune {step}/{self.steps}",
            checkpoint=self._file(step, ".ckpt"),
        )
        pruned.eval()
        return history

    def _file(self, step: int, suffix: str) -> str:
        return f"prune{suffix}" if self.steps == 1 else f"prune-{step}{suffix}"

    def _remember(self, done: Cut, context: Context, step: int) -> None:
        """Keep the surgery beside the checkpoint of the training that follows: latencies would choose anew."""
        file = Path(context.checkpoints, self._file(step, ".json")) if context.checkpoints else None
        if file is None or self.training is None:
            return
        content = {
            "stage": self.model_dump(mode="json"),
            "seed": context.seed,
            "edits": [to_json(edit) for edit in done.edits],
            "skipped": [(skip.layer, skip.reason) for skip in done.skipped],
        }
        write_text(file, json.dumps(content), overwrite=True)

    def _resumed(self, model: nn.Module, context: Context, step: int) -> Cut | None:
        """The surgery of an interrupted run, made again on a copy of ``model``; None where there is none.

        Raises:
            InvalidInput: it is of another run.
        """
        file = Path(context.checkpoints, self._file(step, ".json")) if context.checkpoints else None
        if file is None or not file.exists():
            return None
        try:
            content = read_json(file, "checkpoint", "remove its folder")
            of_this = content["stage"] == self.model_dump(mode="json") and content["seed"] == context.seed
            edits = tuple(from_json(edit) for edit in content["edits"] if EditRecord.model_validate(edit))
            skipped = tuple(Skip(layer, reason) for layer, reason in content["skipped"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidInput(f"checkpoint {file}: it is damaged ({error!r}); remove its folder") from error
        if not of_this:
            raise InvalidInput(f"checkpoint {file}: it belongs to another pruning; remove it or restore the settings")
        again = evaluation_copy(model)
        replay(again, edits)
        return Cut(again, edits, skipped, None)
