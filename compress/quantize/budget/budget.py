"""Mixed precision: each layer in 4 bits, in 8 bits or in float, with the least sum of what that costs in a budget.

The choice is the integer program of Yao et al., "HAWQ-V3: Dyadic Neural Network Quantization" (2021), solved exactly.
Sensitivities are measured layer by layer, which takes their errors to add up; budgets are kept by the file itself, not
by the sum.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import model_validator

from ...clock import Clock
from ...core.knapsack import least_loss
from ...core.settings import setting
from ...errors import InvalidInput
from ...integers.encoding import Encoding
from ...integers.target import Target
from ...stage import Config, Context, Progress, Samples, Times, silent
from .hessian import HessianScan
from .layer_costs import Costs, FileBytes, Gauge, Latency
from .precisions import Candidates, Precision
from .sensitivity import Around, By, PrecisionScan, PrecisionSensitivity, UnitSensitivity

ROUNDS = 6
"""The most files that are written to bring a choice to its budget."""

NEAR = 0.005
"""A choice that leaves no more of the budget than this is not improved any further."""

ORDER: tuple[Precision, ...] = ("int4", "int8", "float")


class Budget(Config):
    """A budget, and what tells how much each layer costs. Give one of ``size`` and ``latency``."""

    size: Times | None = setting(
        None,
        "Store so many times fewer bytes than in float (weights, biases, scales and zero points of the ONNX file): "
        "bits are chosen for each layer.",
        group="budget",
        unit="times",
        common=True,
    )
    latency: float | None = setting(
        None,
        "Divide the latency by this: int8 or float for each layer, as the clock tells for the target. 4 bits are no "
        "faster than 8 in any engine, and are not chosen.",
        group="budget",
        unit="times",
        common=True,
        gt=0,
        le=1e9,
    )
    sensitivity: By = setting(
        "snr",
        "What is summed over layers: noise at the network's output (snr), points of top-1, or the mean curvature of "
        "the loss times the squared error of rounding (hessian).",
        group="budget",
    )
    precisions: tuple[Precision, ...] = setting(ORDER, "That a layer may have.", group="budget", hidden=True)
    others_in: Around = setting(
        "float", "What the other layers are in while one is measured.", group="budget", hidden=True
    )
    samples: Samples = setting(
        512,
        "Of the validation split (for hessian the calibration split), that sensitivities are measured on.",
        flag="--budget-samples",
        group="budget",
        unit="samples",
        hidden=True,
    )
    scan: Path | None = setting(
        None,
        "What compress sensitivity --stage quantize wrote for this network, not to measure again.",
        group="budget",
    )

    @model_validator(mode="after")
    def _one_budget(self) -> Budget:
        if self.scan is not None and self.size is None and self.latency is None:
            raise ValueError("`scan` tells what layers cost under a budget; give `size` or `latency` too")
        if (self.size is None) == (self.latency is None):
            raise ValueError("give one budget: `size` or `latency`")
        if not self.precisions:
            raise ValueError("`precisions`: give at least one of int4, int8 and float")
        return self

    @property
    def options(self) -> tuple[Precision, ...]:
        """The precisions that are chosen from, the shortest first."""
        taken = [p for p in ORDER if p in self.precisions and not (p == "int4" and self.latency is not None)]
        return tuple(taken) or ("int8",)

    def measured(self, candidates: Candidates, context: Context) -> PrecisionSensitivity:
        """The scan that was given, or one made now."""
        if self.scan is not None:
            return PrecisionSensitivity.read(self.scan)
        if self.sensitivity == "hessian":
            return HessianScan(samples=self.samples).measure(candidates, context)
        return PrecisionScan(others_in=self.others_in, samples=self.samples).measure(candidates, context)

    def for_target(self, target: Target | None) -> Budget:
        """Without 4 bits, where the target's engine cannot multiply them."""
        if target is None or target.four_bit_products:
            return self
        return self.model_copy(update={"precisions": tuple(one for one in self.precisions if one != "int4")})

    def start(self, candidates: Candidates, context: Context, clock: Clock) -> Mixing:
        """All that choosing needs: sensitivities and costs, measured.

        Args:
            clock: that tells latencies for the target, and bytes.

        Raises:
            InvalidInput: there are no samples, no labels where they are needed, or the scan is of another network.
        """
        units = self.measured(candidates, context).of_units(candidates.units)
        gauge: Gauge = FileBytes(clock) if self.size is not None else Latency(clock)
        context.progress("measure layers", 0, 1, gauge.unit)
        costs = gauge.costs(candidates, self.options)
        context.progress("measure layers", 1, 1)
        factor = self.size if self.size is not None else self.latency
        assert factor is not None, "there is one budget"
        return Mixing(
            candidates, units, costs, gauge, self.sensitivity, self.options, costs.whole / factor, context.progress
        )


@dataclass(frozen=True)
class Mix:
    """A choice of precisions.

    Args:
        precisions: of each unit, by its name.
        encodings: of the network.
        loss: the sum of what they cost.
        cost: as measured on the file, in bytes or ms.
        budget: that it keeps.
        unit: of both.
    """

    precisions: Mapping[str, Precision]
    encodings: Mapping[str, Encoding]
    loss: float
    cost: float
    budget: float
    unit: str

    @property
    def floats(self) -> tuple[str, ...]:
        """The names of the units in float."""
        return tuple(name for name, precision in self.precisions.items() if precision == "float")

    def told(self) -> str:
        """In words: "3 layers int4, 17 int8, 2 float: 90,112 of at most 90,300 bytes"."""
        counts = Counter(self.precisions.values())
        named = ", ".join(f"{counts[precision]} {precision}" for precision in ORDER if counts[precision])
        form = "{:,.0f}" if self.unit == "bytes" else "{:.3f}"
        return f"{named}: {form.format(self.cost)} of at most {form.format(self.budget)} {self.unit}"


@dataclass(frozen=True)
class Mixing:
    """The sensitivities and costs of a network's layers, and the budget of a choice among them."""

    candidates: Candidates
    sensitivities: tuple[UnitSensitivity, ...]
    costs: Costs
    gauge: Gauge
    by: By
    options: tuple[Precision, ...]
    budget: float
    progress: Progress = silent

    def choose(self) -> Mix:
        """The choice with the least summed sensitivity whose file keeps the budget.

        Where the file and the sum of its layers' costs differ, the layers are chosen again for as much less or more.

        Raises:
            InvalidInput: no choice keeps the budget.
        """
        limit, best, tried = self.budget, None, set[tuple[Precision, ...]]()
        for number in range(ROUNDS):
            self.progress("choose precisions", number, ROUNDS)
            chosen = cheapest(self.candidates, self.sensitivities, self.costs, self.by, self.options, limit)
            if chosen is None or tuple(chosen.values()) in tried:
                break
            tried.add(tuple(chosen.values()))
            mix = self._measured(chosen)
            if mix.cost <= self.budget and (best is None or mix.loss < best.loss):
                best = mix
            if (1 - NEAR) * self.budget <= mix.cost <= self.budget:
                break
            limit = self.budget + self.costs.of(chosen) - mix.cost
        self.progress("choose precisions", ROUNDS, ROUNDS)
        if best is None:
            best = self._last_resort()
        return best

    def _measured(self, chosen: Mapping[str, Precision]) -> Mix:
        encodings = self.candidates.encodings_of(chosen)
        cost = self.gauge.measured(self.candidates, encodings)
        loss = summed(self.sensitivities, chosen, self.by)
        return Mix(dict(chosen), encodings, loss, cost, self.budget, self.gauge.unit)

    def _last_resort(self) -> Mix:
        """The cheapest choice of all, if that keeps the budget."""
        names = (unit.name for unit in self.candidates.units)
        mix = self._measured({name: min(self.options, key=self.costs.units[name].__getitem__) for name in names})
        if mix.cost > self.budget:
            form = "{:,.0f}" if self.gauge.unit == "bytes" else "{:.3f}"
            raise InvalidInput(
                f"mixed precision: the budget is {form.format(self.budget)} {self.gauge.unit}, and the cheapest choice "
                f"takes {form.format(mix.cost)}, {self.costs.whole / mix.cost:.2f} times less than float; "
                "ask for no more than that"
            )
        return mix


def cheapest(
    candidates: Candidates,
    sensitivities: Sequence[UnitSensitivity],
    costs: Costs,
    by: By,
    options: Sequence[Precision],
    limit: float,
) -> dict[str, Precision] | None:
    """The precisions with the least summed sensitivity whose costs sum to at most ``limit``; None if none do."""
    names, options = [unit.name for unit in candidates.units], [p for p in ORDER if p in options]
    losses = [[each.loss(p, by) for p in options] for each in sensitivities]
    taken = [[costs.units[name][p] for p in options] for name in names]
    places = least_loss(losses, taken, limit - costs.rest)
    return None if places is None else {name: options[place] for name, place in zip(names, places, strict=True)}


def summed(sensitivities: Sequence[UnitSensitivity], chosen: Mapping[str, Precision], by: By) -> float:
    """The sensitivity of a choice."""
    return sum(each.loss(precision, by) for each, precision in zip(sensitivities, chosen.values(), strict=True))
