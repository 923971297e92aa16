"""The stage Regularize: a training after which pruning finds channels that hardly matter."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator
from torch import nn

from ...core.settings import exclude, setting
from ...distill import fine_tune
from ...errors import InvalidInput
from ...graph.trace import trace
from ...stage import Config, Context, Edit, Result, evaluation_copy
from ...training.loop import Training
from ..channels.groups import Channels, Group
from ..channels.verify import readable
from ..surgery.choose import eligible
from .members import filters, produced, scales
from .penalties import NEAR_ZERO, GroupNorm, Growing, L1Scales, Penalty, Soft

Method = Literal["slimming", "group_slimming", "group_lasso", "growing", "soft"]
STRENGTHS: dict[Method, float] = {"slimming": 1e-4, "group_slimming": 1e-4, "group_lasso": 1e-3, "growing": 1.0}
"""Where none is given: lambda of Liu et al. (2017), section 4.3, for VGG; the ceiling tau of Wang et al. (2021)."""


class Regularize(Config):
    """Train the network so that some of its channels become unimportant; its shape stays, and ``prune`` cuts them.

    Cut by ``bn_scale`` after the methods for scales of batch norms, else by ``l2``. The training's weight decay leaves
    scales, shifts and biases alone, so that it neither adds to a penalty on scales nor hides one; on filters it adds to
    the penalty.
    """

    method: Method = setting(
        "slimming",
        "What makes channels unimportant: an l1 penalty on the scales of batch norms, by its subgradient (slimming; "
        "Liu et al., 2017); the l2 norm of the scales that are cut together, by its proximal step (group_slimming); "
        "the l2 norm of all that produces a unit, by its proximal step (group_lasso; Wen et al., 2016, groups as Fang "
        "et al., 2023); an l2 penalty that grows on the units with the lowest filters (growing; Wang et al., 2021); or "
        "zeroing those after each epoch, from where they may come back (soft; He et al., 2018).",
        common=True,
    )
    strength: float | None = setting(
        None,
        "The factor of the penalty, or its highest value for growing; soft has none. By default 1e-4 for scales, 1e-3 "
        "for filters, 1 for growing. A scale of 1 that no gradient holds reaches 0 only if the strength times the sum "
        "of learning rate / (1 - momentum) over all steps is above 1: short trainings need more (slimming on 160 "
        "epochs of CIFAR-10 has about 7 with 1e-4).",
        common=True,
        gt=0,
        le=1e6,
    )
    ratio: float | None = setting(
        None, "The share of the units of each group, for growing and soft alone.", common=True, gt=0, lt=1
    )
    exclude: tuple[str, ...] = exclude("Layers that are not regularized, by name or pattern (layer1.*).")
    training: Training = setting(Training(), "How it is trained.")

    @model_validator(mode="after")
    def _what_the_method_takes(self) -> Regularize:
        by_ratio = self.method in ("growing", "soft")
        if by_ratio and self.ratio is None:
            raise ValueError(f"{self.method} needs a `ratio`, the share of channels to make unimportant")
        if not by_ratio and self.ratio is not None:
            raise ValueError(f"{self.method} takes no `ratio`: what becomes unimportant is the `strength`'s")
        if self.method == "soft" and self.strength is not None:
            raise ValueError("soft takes no `strength`: it zeroes the `ratio` of channels after each epoch")
        if self.training.epochs < 1:
            raise ValueError("`epochs` of the training must be at least 1: regularizing is a training")
        return self

    @property
    def remedy(self) -> str | None:
        """What to do where it loses most of the accuracy."""
        if self.method not in ("soft", "growing"):
            return "train longer (--epochs), or with a lower --strength"
        return (
            f"its channels are near zero already, and learn again only in longer trainings: give more --epochs or a "
            f"lower --ratio than {self.ratio:g}, or prune it and fine-tune"
        )

    def apply(self, model: nn.Module, context: Context) -> Result:
        """A trained copy of ``model``, distilled from the context's teacher if any.

        The edits tell, for each group of channels, how many units were near zero before and after: below 1 % of the
        mean norm that the group had before (of its scales, or of its filters). ``near_zero_percent`` in the history is
        their share in all groups after each epoch; its last record is of the network returned. Where it stays at 0,
        the training did not do what it is for.

        Raises:
            InvalidInput: no training data, nothing that can be pruned, a pattern of ``exclude`` that matches nothing,
                or a loss that is not finite.
        """
        if context.data is None:
            raise InvalidInput("regularize: it needs data to train on; give --data")
        trained = evaluation_copy(model)
        channels = readable(trace(evaluation_copy(model), context.example_inputs), context)
        groups, skipped = eligible(channels, self.exclude, "slimming" in self.method)
        groups = [group for group in groups if group.filters]
        if not groups:
            reasons = "; ".join(dict.fromkeys(f"{s.layer}: {s.reason}" for s in skipped)) or "it has no channels"
            raise InvalidInput(f"regularize: nothing in {type(model).__name__} can be pruned: {reasons}")
        penalty = self.penalty(trained, groups, channels)
        before = penalty.near_zero(trained)
        history = fine_tune(
            trained,
            context.of(model),
            self.training,
            activity="regularize",
            checkpoint="regularize.ckpt",
            callback=penalty,
        )
        penalty.finish(trained)
        shares = [*penalty.shares[: len(history) - 1], penalty.near_zero_percent(trained)]
        reached = [
            Edit(
                group.layers[0],
                f"units of {len(group.units)} below {NEAR_ZERO:.0%} of their first mean",
                was,
                now,
                kind="weights",
            )
            for group, was, now in zip(groups, before, penalty.near_zero(trained), strict=True)
        ]
        return Result(
            trained,
            (Edit("", "weights", "given", f"trained with {self.method}", kind="weights"), *reached),
            tuple(skipped),
            history=tuple(
                {**record, "near_zero_percent": share} for record, share in zip(history, shares, strict=False)
            ),
        )

    def penalty(self, model: nn.Module, groups: list[Group], channels: Channels) -> Penalty:
        """The penalty on ``groups`` of ``model``, which has the weights that the training starts from."""
        strength = self.strength or STRENGTHS.get(self.method, 0.0)
        if self.method in ("slimming", "group_slimming"):
            on_scales = [scales(group) for group in groups]
            if self.method == "slimming":
                return L1Scales(model, on_scales, self.training, strength)
            return GroupNorm(model, on_scales, on_scales, self.training, strength)
        whole, weights = [produced(g, channels) for g in groups], [filters(g, channels) for g in groups]
        if self.method == "group_lasso":
            return GroupNorm(model, whole, weights, self.training, strength)
        assert self.ratio is not None, "validated"
        if self.method == "growing":
            return Growing(model, whole, weights, self.training, strength, self.ratio)
        return Soft(model, whole, weights, self.training, self.ratio)
