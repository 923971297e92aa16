"""Structured pruning: whole channels go, and the network becomes physically smaller."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator
from torch import nn

from ..edits import replay
from ..errors import InvalidInput
from ..graph import trace
from ..stage import Config, Context, Edit, Result, evaluation_copy
from ..train import Training, fit
from . import criteria
from .channels import edits
from .choose import Selection, eligible
from .scoring import group_scores
from .verify import ADVICE, difference, readable


class Prune(Config):
    """Remove the least important channels. Exactly one of ``ratio`` and ``macs`` is given.

    Channels that depend on each other (residual sums, depthwise convolutions, shuffles, ...) go together; the network
    that is left equals the given one with the removed channels masked to zero, which is checked on every use, and is
    then fine-tuned if ``training`` says so.

    Args:
        ratio: share of the channels that goes: of each group (scope "layer") or of all (scope "global").
        macs: divide the multiply-adds of convolutions and matrix products by at least this.
        criterion: what makes a channel important: the l1 or l2 norm of the filters that produce it, or ``bn_scale``,
            the absolute scale of its batch normalization.
        scope: compare channels within their group, or across the network by scores relative to their layer's mean.
        round_to: widths are rounded to the nearest multiple of this and are at least this, where there are that many.
        exclude: patterns ("layer1.*") of names of layers that keep all their output channels.
        minimum: channels that every layer keeps.
        training: fine-tuning after the surgery, on the context's data, distilling from the context's teacher if any.
    """

    ratio: float | None = Field(None, gt=0, lt=1)
    macs: float | None = Field(None, gt=1)
    criterion: criteria.Criterion = "l1"
    scope: Literal["layer", "global"] = "layer"
    round_to: int = Field(8, ge=1)
    exclude: tuple[str, ...] = ()
    minimum: int = Field(1, ge=1)
    training: Training | None = None

    @model_validator(mode="after")
    def _one_target(self) -> Prune:
        if (self.ratio is None) == (self.macs is None):
            raise ValueError("give exactly one of ratio and macs")
        return self

    def apply(self, model: nn.Module, context: Context) -> Result:
        """The smaller network, of the same class and in evaluation mode, with what was cut and what was left alone.

        Raises:
            InvalidInput: nothing can be pruned, ``macs`` is out of reach, a pattern of ``exclude`` matches nothing, the
                network's code holds channel counts as numbers, or there is no data to fine-tune on.
        """
        if self.training is not None and context.data is None:
            raise InvalidInput("prune: training is set, and there is no data to train on; give data or leave it out")
        pruned = evaluation_copy(model)
        found = readable(trace(evaluation_copy(model), context.example_inputs), context)
        groups, skipped = eligible(found, self.exclude, self.criterion == "bn_scale")
        if not groups:
            reasons = "; ".join(dict.fromkeys(f"{s.layer}: {s.reason}" for s in skipped)) or "it has no channels"
            raise InvalidInput(f"prune: nothing in {type(model).__name__} can be pruned: {reasons}")
        scores = [group_scores(group, found, self.criterion) for group in groups]
        removed, untouched = Selection(
            found,
            groups,
            scores,
            self.ratio,
            self.macs,
            self.scope,
            self.round_to,
            self.minimum,
            len(self.exclude),
        ).choose()
        changes = edits(pruned, removed)
        replay(pruned, changes)
        wrong = difference(pruned, found, removed, context)
        if wrong is not None:
            raise InvalidInput(f"prune: the smaller network {wrong}; {ADVICE}")
        history: list[dict[str, float]] = []
        if self.training is not None and context.data is not None:
            from ..distill import objective_for

            history = fit(
                pruned,
                context.data,
                self.training,
                objective=objective_for(context.teacher, self.training),
                seed=context.seed,
                checkpoint=Path(context.checkpoints) / "prune.ckpt" if context.checkpoints is not None else None,
                progress=context.progress,
                task="fine-tune",
            )
            pruned.eval()
            changes = (*changes, Edit("", "weights", None, f"{self.training.epochs} epochs", "weights"))
        return Result(pruned, changes, (*skipped, *untouched), history=tuple(history))
