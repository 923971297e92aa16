"""Masks within a training: chosen on schedule, held after every step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..errors import InvalidInput
from . import criteria
from .masks import Granularity, groups_of, layer_masks, n_of_m, network_masks
from .schedule import Schedule, cubic, rounds, update_steps
from .sites import Site

# Squared gradients are averaged over about the last hundred steps.
CURVATURE_DECAY = 0.99


@dataclass(frozen=True)
class Choice:
    """Which weights go, of given scores; the names are those of :class:`compress.sparsify.Sparsify`."""

    granularity: Granularity
    n: int
    m: int
    block: tuple[int, int]
    scope: Literal["layer", "global"]
    minimum: float

    def masks(self, scores: list[Tensor], sparsity: float) -> list[Tensor]:
        """A mask (true stays) for each tensor of scores (out, in, *kernel).

        Raises:
            ValueError: the sparsity is out of reach.
        """
        if self.granularity == "n:m":
            return [n_of_m(score, self.n, self.m) for score in scores]
        groups = [groups_of(score.shape, self.granularity, self.block) for score in scores]
        if self.scope == "layer":
            return layer_masks(scores, groups, sparsity)
        return network_masks(scores, groups, sparsity, self.minimum)


@dataclass
class MaskedTraining:
    """A :class:`compress.training.loop.Callback`: the weights at ``sites`` are masked after every step.

    A weight that goes keeps its value in ``aside`` and gets no more updates; it is scored with that value, and comes
    back with it where a later choice lets it (Zhu and Gupta, 2017, section 3; Sanh et al., 2020, section 4: the
    gradient of a masked weight still counts for its score).
    """

    sites: tuple[Site, ...]
    choice: Choice
    criterion: criteria.Criterion
    schedule: Schedule
    target: float
    begin: float
    end: float
    updates: int
    gone: dict[str, Tensor] = field(default_factory=dict)
    aside: dict[str, Tensor] = field(default_factory=dict)
    scores: dict[str, Tensor] = field(default_factory=dict)
    reached: float = 0.0

    def after_backward(self, model: nn.Module, step: int, steps: int) -> None:
        """Scores take in the gradients; those of weights that are gone become zero."""
        for site in self.sites:
            weight = model.get_parameter(site.name)
            if weight.grad is None:
                continue
            if self.schedule != "one_shot" and self.criterion != "magnitude":
                self._score(site.name, self._whole(site.name, weight), weight.grad)
            if site.name in self.gone:
                weight.grad.masked_fill_(self._on(weight, self.gone, site.name), 0)

    def after_step(self, model: nn.Module, average: nn.Module | None, step: int, steps: int) -> None:
        """The masks are chosen anew where it is time, and hold."""
        number = None
        if self.schedule != "one_shot":
            number = update_steps(steps, self.begin, self.end, self.updates).get(step)
        if number is not None:
            self.hold(model)
            self.choose(model, self._sparsity(number))
        self.hold(model)
        if average is not None:
            self.hold(average)

    def choose(self, model: nn.Module, sparsity: float, curvature: Mapping[str, Tensor] | None = None) -> None:
        """New masks at ``sparsity``; ``curvature`` is of the weights, by name, where no training has measured it.

        Raises:
            InvalidInput: scores are not finite, or the sparsity is out of reach.
        """
        scores = []
        wholes = {site.name: self._whole(site.name, model.get_parameter(site.name)) for site in self.sites}
        for site in self.sites:
            whole = wholes[site.name]
            if self.criterion == "magnitude":
                score = criteria.magnitude(whole)
            else:
                known = (self.scores if curvature is None else curvature).get(site.name)
                known = torch.zeros_like(whole) if known is None else known.to(whole.device)
                score = known if self.criterion == "movement" else criteria.saliency(whole, known)
            if not bool(torch.isfinite(score).all()):
                raise InvalidInput(f"sparsify: the scores of {site.name} are not all finite (NaN or infinity)")
            scores.append(site.seen(score).detach().cpu())
        try:
            masks = self.choice.masks(scores, sparsity)
        except ValueError as error:
            raise InvalidInput(f"sparsify: sparsity {sparsity:.2%} is out of reach: {error}") from error
        for site, mask in zip(self.sites, masks, strict=True):
            whole = wholes[site.name]
            gone = site.seen(~mask).contiguous().to(whole.device)
            self.gone[site.name] = gone
            self.aside[site.name] = whole.masked_fill(~gone, 0)
            with torch.no_grad():
                model.get_parameter(site.name).copy_(whole)
        self.reached = sparsity
        self.hold(model)

    def hold(self, model: nn.Module) -> None:
        """Every weight that is gone is set to (positive) zero."""
        with torch.no_grad():
            for name in self.gone:
                weight = model.get_parameter(name)
                weight.masked_fill_(self._on(weight, self.gone, name), 0)

    def finish(self, model: nn.Module) -> None:
        """The last word after the training: the target is reached, and every weight that is gone is zero."""
        if self.reached < self.target:  # a loader yielded fewer batches than it has samples for
            self.choose(model, self.target)
        self.hold(model)
        for name in self.gone:
            gone = int(self.gone[name].sum())
            zeros = int((model.get_parameter(name) == 0).sum())
            assert zeros >= gone, f"{name}: {gone} weights are gone, and {zeros} are zero"

    def state_dict(self) -> dict[str, Any]:
        """The masks, the values set aside and the scores."""
        return {
            "settings": self._settings(),
            "gone": dict(self.gone),
            "aside": dict(self.aside),
            "scores": dict(self.scores),
            "reached": self.reached,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint.

        Raises:
            InvalidInput: it is of a training with other masks.
        """
        if state.get("settings") != self._settings():
            raise InvalidInput("sparsify: the checkpoint is of other settings; remove it or restore them")
        self.gone, self.aside = dict(state["gone"]), dict(state["aside"])
        self.scores, self.reached = dict(state["scores"]), state["reached"]

    def _settings(self) -> str:
        facts = (self.choice, self.criterion, self.schedule, self.target, self.begin, self.end, self.updates)
        return repr((asdict(self.choice), *facts[1:], [site.name for site in self.sites]))

    def _sparsity(self, number: int) -> float:
        if self.schedule == "iterative":
            return rounds(number, self.updates, self.target)
        return cubic(number / self.updates, self.target)

    def _score(self, name: str, whole: Tensor, gradient: Tensor) -> None:
        old = self.scores.get(name)
        old = torch.zeros_like(whole) if old is None else old.to(whole.device)
        if self.criterion == "movement":
            self.scores[name] = old + criteria.movement(whole, gradient)
        else:
            self.scores[name] = CURVATURE_DECAY * old + (1 - CURVATURE_DECAY) * gradient.detach().square()

    def _whole(self, name: str, weight: Tensor) -> Tensor:
        """The weight with the values that were set aside."""
        if name not in self.gone:
            return weight.detach().clone()
        return torch.where(self._on(weight, self.gone, name), self._on(weight, self.aside, name), weight.detach())

    def _on(self, weight: Tensor, tensors: dict[str, Tensor], name: str) -> Tensor:
        """The tensor of that name, on the device of ``weight`` from now on."""
        tensors[name] = tensors[name].to(weight.device)
        return tensors[name]
