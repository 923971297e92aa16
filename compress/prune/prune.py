"""Structured pruning: whole channels go, and the network becomes physically smaller."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator
from torch import nn

from ..edits import from_json, replay, to_json
from ..errors import InvalidInput
from ..manifest import EditRecord
from ..outputs import write_text
from ..stage import Config, Context, Edit, Measured, Result, Samples, Skip, Threads, Times, evaluation_copy
from ..train import Training, fit
from ..untrusted import read_json
from . import criteria
from .choose import Scope
from .cut import Cut, Reading, cut
from .one_layer import Precision
from .repair import repair
from .scoring import Members
from .target import Beginning, Target, TargetName


class Prune(Config):
    """Remove the least important channels, until one target is reached: exactly one of the first five is given.

    Channels that depend on each other (residual sums, depthwise convolutions, shuffles, ...) go together; the network
    that is left equals the given one with the removed channels masked to zero, which is checked on every use, and is
    then fine-tuned if ``training`` says so.

    Args:
        ratio: share of the channels that goes, rounded to the nearest widths: of each group (scope "layer") or of all.
        macs: divide the multiply-adds of convolutions and matrix products by at least this.
        parameters: divide the number of parameters by at least this.
        size: divide the bytes of the stored weights (parameters and buffers, in their types) by at least this.
        latency: divide the latency by at least this, of the network's file in ONNX Runtime on this machine: what
            matters least for its time goes (Shen et al., "HALP", 2022), and the network is measured until it fits.
        criterion: what makes a channel important: a name of :data:`compress.prune.criteria.CriterionName`, a callable
            ``(weight, axis) -> scores``, or where one is: "file.py:function".
        aggregate: how the scores of coupled layers become one.
        members: whose weights count: the ``filters`` that produce a channel, its ``consumers``, or ``all``; by default
            what suits the criterion.
        normalize: scores within each layer, for scope "global"; by default what suits the criterion.
        score_batches: of 32 samples, that criteria look at which need data.
        scope: what groups of channels share: the same part of each ("layer"), the lowest scores of all ("global"), or
            what costs each the same accuracy when it alone is pruned ("sensitivity").
        sensitivity: what ``compress sensitivity`` wrote; without it that scope scans the validation split itself.
        steps: prune in so many steps, each a similar share of what is left, and score anew after each. One is
            one-shot; several with training are iterative pruning, and many small ones gradual. Half of the training's
            epochs are spread over the steps before the last, which has the rest.
        round_to: widths are rounded to the nearest multiple of this and are at least this, where there are that many;
            "measured" takes widths near the wanted ones that are fast in the engine instead.
        precision: of the files that latencies are measured on: the widths that are fast in int8 are others.
        threads: that one operator of the engine may use while latencies are measured.
        cache: the folder that holds measured latencies, by default the user's folder for caches.
        limits: the largest share that a layer may lose, by patterns ({"layer1.*": 0.3}); the least one that matches.
        exclude: patterns ("layer1.*") of names of layers that keep all their output channels.
        minimum: channels that every layer keeps.
        reconstruct: refit the layers that lost inputs by least squares, so that their outputs are those of the network
            before the cut (He et al., "Channel Pruning", 2017, section 3.1.1), on the calibration split.
        reestimate: take the statistics of batch normalizations again, on the calibration split.
        training: fine-tuning after the surgery, on the context's data, distilling from the context's teacher if any.
    """

    ratio: float | None = Field(None, gt=0, lt=1)
    macs: Times | None = None
    parameters: Times | None = None
    size: Times | None = None
    latency: Times | None = None
    criterion: criteria.Criterion = "l1"
    aggregate: criteria.Aggregate = "mean"
    members: Members | None = None
    normalize: criteria.Normalization | None = None
    score_batches: Samples = 16
    scope: Scope = "layer"
    sensitivity: Path | None = None
    steps: int = Field(1, ge=1, le=1000)
    round_to: Annotated[int, Field(ge=1, le=2**20)] | Literal["measured"] = 8
    precision: Precision = "float"
    threads: Threads = 1
    cache: Path | None = None
    limits: dict[str, Annotated[float, Field(ge=0, lt=1)]] = Field(default_factory=dict)
    exclude: tuple[str, ...] = ()
    minimum: int = Field(1, ge=1, le=2**20)
    reconstruct: bool = False
    reestimate: bool = False
    training: Training | None = None

    @field_validator("round_to", mode="before")
    @classmethod
    def _multiple(cls, value: object) -> object:
        if value != "measured" and (not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 2**20):
            raise ValueError(f"expected a whole number from 1 to {2**20}, or measured, got {value!r:.40}")
        return value

    @model_validator(mode="after")
    def _one_target(self) -> Prune:
        names = TargetName.__args__  # type: ignore[attr-defined]
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) != 1:
            *first, last = (f"`{name}`" for name in names)
            got = ", ".join(f"`{name}`" for name in given) or "none"
            raise ValueError(f"give exactly one of {', '.join(first)} and {last}, got {got}")
        if self.sensitivity is not None and self.scope != "sensitivity":
            raise ValueError(f"`sensitivity` is for `scope` sensitivity, and the scope is {self.scope}")
        return self

    @property
    def target(self) -> Target:
        """The one target that is given."""
        return next(
            Target(name, value)
            for name in TargetName.__args__  # type: ignore[attr-defined]
            if (value := getattr(self, name)) is not None
        )

    def apply(self, model: nn.Module, context: Context) -> Result:
        """The smaller network, of the same class and in evaluation mode, with what was cut and what was left alone.

        Edits of all steps follow each other: replayed in order, they make the source into the network.

        Raises:
            InvalidInput: nothing can be pruned, the target is out of reach, a pattern matches nothing, the network's
                code holds channel counts as numbers, or there is no data to fine-tune on or to measure accuracy on.
        """
        if self.training is not None and context.data is None:
            raise InvalidInput("prune: training is set, and there is no data to train on; give data or leave it out")
        pruned = model
        edits: tuple[Edit, ...] = ()
        skipped: tuple[Skip, ...] = ()
        history: list[dict[str, float]] = []
        begun: Beginning | None = None
        for step in range(1, self.steps + 1):
            before = pruned
            done = self._resumed(pruned, context, step)
            if done is None:
                if begun is None and step > 1:
                    begun = Reading.of(self, model, context).beginning()
                done = cut(self, pruned, context, begun, step / self.steps)
                self._remember(done, context, step)
            pruned, skipped, begun = done.model, done.skipped, done.begun or begun
            mended, left = self._repair(before, pruned, done.edits, context)
            edits, skipped = (*edits, *done.edits, *mended), (*skipped, *left)
            trained = self._fine_tune(pruned, context, step)
            if trained:
                edits = (*edits, Edit("", "weights", None, f"{len(trained)} epochs", "weights"))
                history += trained
        return Result(pruned, edits, skipped, history=tuple(history), measured=self._measured())

    def _measured(self) -> tuple[Measured, ...]:
        """The account of widths that were chosen by what they take in ONNX Runtime on this machine."""
        from ..quantize.detect import measured_here

        told = {"float": "in float", "int8": "in int8"}[self.precision]
        if self.target.name == "latency":
            told = f"widths: {told}, at least {self.target.factor:.3g} times faster than before"
        elif self.round_to == "measured":
            told = f"widths: those that pay {told}"
        else:
            return ()
        return (measured_here("the widths of layers", told, self.threads),)

    def _repair(
        self, before: nn.Module, pruned: nn.Module, edits: tuple[Edit, ...], context: Context
    ) -> tuple[Sequence[Edit], Sequence[Skip]]:
        """Bring the outputs of ``pruned``, in place, closer to those of the network ``before`` the cut."""
        if not (self.reconstruct or self.reestimate):
            return (), ()
        augment = self.training.augment if self.training is not None else ()
        return repair(
            evaluation_copy(before),
            pruned,
            edits,
            context,
            refit=self.reconstruct,
            reestimate=self.reestimate,
            augment=augment,
        )

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
        from ..distill import objective_for

        warmup = self.training.warmup_epochs * epochs / max(1, self.training.epochs)
        training = self.training.model_copy(update={"epochs": epochs, "warmup_epochs": warmup})
        history = fit(
            pruned,
            context.data,
            training,
            objective=objective_for(context.teacher, training),
            seed=context.seed + step - 1,
            checkpoint=self._checkpoint(context, step, ".ckpt"),
            progress=context.progress,
            task="fine-tune" if self.steps == 1 else f"fine-tune {step}/{self.steps}",
        )
        pruned.eval()
        return history

    def _checkpoint(self, context: Context, step: int, suffix: str) -> Path | None:
        if context.checkpoints is None:
            return None
        return Path(context.checkpoints, f"prune{suffix}" if self.steps == 1 else f"prune-{step}{suffix}")

    def _remember(self, done: Cut, context: Context, step: int) -> None:
        """Keep the surgery beside the checkpoint of the training that follows: latencies would choose anew."""
        file = self._checkpoint(context, step, ".json")
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
        file = self._checkpoint(context, step, ".json")
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
