"""The stage Sparsify: weights become zero in place, before or during a training."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from ..core.settings import exclude, setting
from ..distill import fine_tune
from ..errors import InvalidInput
from ..stage import Config, Context, Edit, Result, Samples, Skip, evaluation_copy
from ..training.loop import Training, tuned
from . import gains
from .callback import Choice, MaskedTraining
from .criteria import Criterion
from .fisher import fisher_diagonal
from .masks import Granularity
from .schedule import Schedule
from .sites import Site, find_sites

Side = Annotated[int, Field(ge=1, le=2**20)]
UPDATES = {"one_shot": 1, "iterative": 5, "gradual": 100}


class Sparsify(Config):
    """Set the least important weights to zero; shapes stay, and so does the speed in dense engines (see ``gains``)."""

    sparsity: float | None = setting(
        None,
        "The share of the weights that go, of those of the layers that take part; 0.9 if left out. With n:m it is "
        "1 - n/m and must be left out.",
        common=True,
        gt=0,
        lt=1,
    )
    granularity: Granularity = setting(
        "weight",
        "What goes together: single weights, kernels of one input and output, rows of kernels, blocks of the matrix "
        "(out, in * kernel), or all but n of every m consecutive inputs (n:m).",
        common=True,
    )
    n: int = setting(2, "For n:m, the weights that stay ...", common=True, ge=1, le=1024)
    m: int = setting(4, "... of so many consecutive inputs.", common=True, ge=2, le=1024)
    block: tuple[Side, Side] = setting((4, 4), "Rows and columns of a block.")
    criterion: Criterion = setting(
        "magnitude",
        "What makes a weight important: its magnitude, its way through the training (movement), or the loss that its "
        "removal costs to second order (obd). A group has the mean of its weights.",
        common=True,
    )
    scope: Literal["layer", "global"] = setting(
        "layer", "Where weights compete: the same sparsity in each layer, or one threshold over all of them."
    )
    schedule: Schedule | None = setting(
        None,
        "When weights go: before the training (one_shot), in rounds that each remove the same share of what is left "
        "(iterative), or cubically in many steps (gradual). By default gradual where there is a training, and one_shot "
        "for n:m. Weights that are gone keep their last value aside and may come back at the next update, as in the "
        "papers.",
    )
    begin: float = setting(0.0, "The share of the training's steps after which weights begin to go.", ge=0, le=1)
    end: float = setting(0.5, "The share of the training's steps after which no more weights go.", gt=0, le=1)
    updates: int | None = setting(
        None,
        "How often weights are chosen; 5 rounds (iterative) or 100 steps (gradual) if left out.",
        ge=1,
        le=2**31 - 1,
    )
    minimum: float = setting(
        0.01,
        "The share of its weights that each layer keeps where the scope is global, at least one group.",
        ge=0,
        lt=1,
    )
    samples: Samples = setting(256, "Of the train split, to measure the curvature for obd in one shot.")
    exclude: tuple[str, ...] = exclude("Layers to leave dense, as conv1 and fc (the first and the last).")
    training: Training | None = setting(
        None, "Fine-tuning on the data, distilling from a teacher if any; zeros stay in it."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Sparsify:
        if self.granularity == "n:m":
            if self.sparsity is not None:
                raise ValueError(f"granularity n:m has the sparsity 1 - {self.n}/{self.m}; leave `sparsity` out")
            if self.n >= self.m:
                raise ValueError(f"granularity n:m leaves `n` of `m` weights: n={self.n} must be less than m={self.m}")
            if self.timing != "one_shot" or self.scope != "layer":
                raise ValueError("granularity n:m is chosen in one_shot, within each layer")
        if self.begin >= self.end:
            raise ValueError(f"`begin`={self.begin:g} must come before end={self.end:g}")
        if self.timing == "one_shot" and self.criterion == "movement":
            raise ValueError("criterion movement scores weights in a training: set `schedule` gradual or iterative")
        if self.timing != "one_shot" and (self.training is None or not self.training.epochs):
            raise ValueError(f"schedule {self.timing} prunes in a training; set `training`, or `schedule` one_shot")
        return self

    @property
    def timing(self) -> Schedule:
        """The schedule, or what stands for it where it is left out."""
        if self.schedule is not None:
            return self.schedule
        trains = self.training is not None and self.training.epochs > 0
        return "gradual" if trains and self.granularity != "n:m" else "one_shot"

    @property
    def needs_data(self) -> bool:
        """Whether it can do nothing without data."""
        return self.training is not None or self.criterion == "obd"

    @property
    def target(self) -> float:
        """The sparsity to reach."""
        if self.granularity == "n:m":
            return 1 - self.n / self.m
        return 0.9 if self.sparsity is None else self.sparsity

    def apply(self, model: nn.Module, context: Context) -> Result:
        """A network of the same shapes with exact zeros; edits tell each layer's nonzero weights before and after.

        Raises:
            InvalidInput: no layer takes part, a pattern of ``exclude`` matches nothing, the sparsity is out of reach,
                weights or gradients are not finite, or data is needed and there is none.
        """
        if (self.training is not None or self.criterion == "obd") and context.data is None:
            reason = "training is set" if self.training is not None else "criterion obd measures gradients"
            raise InvalidInput(f"sparsify: {reason}, and there is no data to train on; give data or leave it out")
        network, context = evaluation_copy(model), context.of(model)
        sites, skipped = find_sites(network, self.exclude, self.m if self.granularity == "n:m" else 1)
        if not sites:
            reasons = "; ".join(dict.fromkeys(f"{s.layer}: {s.reason}" for s in skipped)) or "it has no layers"
            raise InvalidInput(f"sparsify: no weight of {type(model).__name__} can go: {reasons}")
        before = {site.name: _nonzeros(network, site) for site in sites}
        callback = self._callback(sites)
        if self.timing == "one_shot":
            curvature = self._curvature(network, sites, context) if self.criterion == "obd" else None
            callback.choose(network, self.target, curvature)
        history = self._train(network, context, callback) if self.training is not None else []
        callback.finish(network)
        edits = [Edit(s.layer, "weight", before[s.name], _nonzeros(network, s), "weights") for s in sites]
        remarks = (Skip("", gains.note(self.granularity)), *skipped)
        return Result(network, tuple(edits), remarks, history=tuple(history))

    def _callback(self, sites: list[Site]) -> MaskedTraining:
        updates = self.updates or UPDATES[self.timing]
        choice = Choice(self.granularity, self.n, self.m, self.block, self.scope, self.minimum)
        return MaskedTraining(
            tuple(sites), choice, self.criterion, self.timing, self.target, self.begin, self.end, updates
        )

    def _curvature(self, network: nn.Module, sites: list[Site], context: Context) -> dict[str, Tensor]:
        assert context.data is not None, "checked before"
        task = context.task_of(network)
        task = tuned(task, self.training) if self.training is not None else task
        return fisher_diagonal(network, [site.name for site in sites], context.data, task, self.samples, context.seed)

    def _train(self, network: nn.Module, context: Context, callback: MaskedTraining) -> list[dict[str, float]]:
        assert self.training is not None and context.data is not None, "checked before"
        return fine_tune(
            network, context, self.training, activity="sparsify", checkpoint="sparsify.ckpt", callback=callback
        )


def _nonzeros(network: nn.Module, site: Site) -> int:
    return int(torch.count_nonzero(network.get_parameter(site.name)))
