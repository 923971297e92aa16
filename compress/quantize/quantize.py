"""Quantization: the encodings that a network needs to run in integers, found in a fixed order of small steps.

Krishnamoorthi, "Quantizing deep convolutional networks for efficient inference: A whitepaper" (2018), section 3:
weights symmetric with one scale per output channel, activations affine with one scale per tensor. The order of the
steps is that of Nagel et al., "A White Paper on Neural Network Quantization" (2021), section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Annotated, Any

from pydantic import BeforeValidator, field_validator, model_validator
from torch import nn

from ..clock import Clock
from ..core.config import refuse_moved
from ..core.parts import Listed
from ..core.settings import setting
from ..errors import InvalidInput
from ..fold import Fold
from ..integers.plan import plan_of
from ..integers.target import TARGETS, TargetName, require_bits
from ..sources.weights import require_finite
from ..stage import Config, Context, Edit, Measured, Result, Skip, Threads, evaluation_copy
from .budget.budget import Budget
from .budget.precisions import Candidates
from .detect import detected
from .moments import batch_norm_moments, folded_moments
from .normalization import use_depthwise
from .ranges.calibration import calibration_split
from .ranges.observers import Calibration
from .ranges.ranges import Ends, Ranges
from .recover import AnyRecovery, Phase
from .recover.bias_correction import give_biases
from .restore.restore import require_score, restore
from .revert import revert_slower
from .scheme import SCHEMES, SchemeName
from .state import Job, State
from .train.few_levels import to_few_levels
from .train.training import AnyTraining

FEW_LEVELS_RATE = 1e-3
"""The learning rate of weights of few levels where none is given: they keep batch norms while they train."""

Step = Callable[[State, Job], State]


MOVED = {
    "calibration": "ranges: {calibration: ...}",
    "percentile": "ranges: {percentile: ...}",
    "momentum": "ranges: {momentum: ...}",
    "weight_calibration": "ranges: {weight_calibration: ...}",
    "per_channel": "ranges: {per_channel: ...}",
    "samples": "ranges: {samples: ...}",
    "ends": "first_last",
    "results": "quantize_outputs",
    "reestimate": "recover: [recalibrate_bn]",
    "equalize": "recover: [equalize]",
    "absorb": "recover: [absorb]",
    "smooth": "recover: [{smooth: ALPHA}]",
    "bias_correction": "recover: [{bias_correction: empirical}] or analytic",
    "rounding": "recover: [adaround] or [brecq]",
    "rounding_iterations": "recover: [{adaround: ITERATIONS}]",
    "training": "train",
    "learned": "train: {method: ...}",
    "mixed": "budget",
}
"""Where settings stand that once were the stage's own."""


def _named(value: Any) -> Any:
    """``mse`` is ``{calibration: mse}``."""
    return {"calibration": value} if isinstance(value, str) else value


class Quantize(Config):
    """Measure the encodings that a network needs to run in integers; ``apply`` leaves its weights in float."""

    scheme: SchemeName = setting(
        "int8",
        "Bits of weights (w) and activations (a). Where it leaves activations in float and nothing else looks at "
        "samples, no calibration samples are needed. Schemes of shorter floats take no notice of what is for integers.",
        common=True,
    )
    target: TargetName | None = setting(
        None,
        "The engine and processor that the result is for; left out, any. Weights are learnt, and errors measured, in "
        "the integers of the target; left out, in those of this machine's.",
        common=True,
        choices="targets",
    )
    ranges: Annotated[Ranges, BeforeValidator(_named, json_schema_input_type=Ranges | Calibration)] = setting(
        Ranges(), "How ranges follow from the values of activations and weights."
    )
    recover: Annotated[tuple[AnyRecovery, ...], Listed] = setting(
        (),
        "What gives accuracy back without labels, in an order of its own whatever order it is listed in.",
        common=True,
        metavar="NAMES",
    )
    train: AnyTraining | None = setting(
        None, "Train weights and scales as they will be rounded, distilling from the teacher if there is one."
    )
    budget: Budget | None = setting(
        None,
        "Choose the bits of each layer's weights within bytes or latency, by what each costs when it alone is rounded; "
        "the scheme's own then only tells the bits of activations.",
    )
    max_drop: float | None = setting(
        None,
        "Give back the precision that hurts most until no more than this is lost of the task's first score on the "
        "validation split, in points or in the unit of its drops (of the task outputs: percent of noise): to 16 bits "
        "where the target multiplies them, then to float.",
        common=True,
        ge=0,
        le=1e6,
    )
    exclude: tuple[str, ...] = setting((), "Patterns of layers to keep in float, as layer4.*.", common=True)
    first_last: Ends = setting(
        "float",
        "The first and the last layer where weights have few levels: float, stored in 8 bits (w8), or the same as all "
        "others. With integer activations they are in 8 bits, or the same.",
    )
    quantize_outputs: bool = setting(False, "Round what the network returns too, for files that give integers.")
    revert_slower: bool | None = setting(
        None,
        "Compute in float what is slower in integers for the target (left out, for this machine), as the clock tells. "
        "Left out, this is done where the target is this machine's.",
        off="--keep-slower",
        group="latencies",
    )
    fastest: bool = setting(
        False, "As --revert-slower, and leave nothing in integers where the network is faster so.", group="latencies"
    )
    patterns: bool = setting(
        False,
        "As --revert-slower, and before single layers try each kind of operation in float as a whole: sums, "
        "concatenations, poolings, products of activations, activation functions, depthwise convolutions, the first "
        "and last layers.",
        group="latencies",
    )
    threads: Threads = setting(1, "That latencies are measured with.", group="latencies")

    @model_validator(mode="before")
    @classmethod
    def _moved(cls, values: Any) -> Any:
        return refuse_moved(values, MOVED)

    @field_validator("recover")
    @classmethod
    def _each_once(cls, recover: tuple[AnyRecovery, ...]) -> tuple[AnyRecovery, ...]:
        rounding = [part.name for part in recover if part.phase == "rounding"]
        names = [part.name for part in recover]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"{twice} is listed twice")
        if len(rounding) > 1:
            raise ValueError(f"weights are rounded once: give one of {' and '.join(rounding)}")
        return recover

    @field_validator("train")
    @classmethod
    def _larger_steps(cls, train: AnyTraining | None, info: Any) -> AnyTraining | None:
        few = SCHEMES[info.data.get("scheme", "int8")].kind == "levels"
        if train is None or not few or "learning_rate" in train.model_fields_set:
            return train
        return train.model_copy(update={"learning_rate": FEW_LEVELS_RATE})

    @model_validator(mode="after")
    def _one_bound(self) -> Quantize:
        if self.max_drop is not None and self.budget is not None:
            raise ValueError(
                "`max_drop` gives bits back until the score holds, and `budget` takes them until the bytes or the "
                "latency do: give one"
            )
        if self.max_drop is not None and SCHEMES[self.scheme].kind != "integer":
            raise ValueError(f"`max_drop`: not with the scheme {self.scheme}, which has no integers of 4 or 8 bits")
        return self

    @model_validator(mode="after")
    def _few_levels_alone(self) -> Quantize:
        if SCHEMES[self.scheme].kind == "levels":
            spare = [f"`recover`: {part.name}:" for part in self.recover]
            spare += ["`budget`:"] if self.budget is not None else []
            if spare:
                raise ValueError(f"{spare[0]} not with the scheme {self.scheme}, whose weights have few levels")
        return self

    def apply(self, model: nn.Module, context: Context) -> Result:
        """The network with batch normalizations folded, and its encodings: by parameter name and by node of its trace.

        Raises:
            InvalidInput: no calibration samples, a pattern in ``exclude`` that matches nothing, or weights or
                activations that are not finite.
        """
        self._require_target()
        if self.budget is not None:
            self._clock_for_budget(self.budget, context)
        if self._reverts(context):
            self._clock_for_reverting(context)
        context = context.of(model)
        if self.max_drop is not None:
            require_score(context, model)
        job = self._job(context)
        state = State(evaluation_copy(model))
        require_finite(state.network, "quantize")
        for step in self._steps(model, context):
            state = step(state, job)
        return replace(_account(state), target=self.rounds_for(context), learnt=self._learnt)

    def _steps(self, model: nn.Module, context: Context) -> Iterator[Step]:
        """All that is done, in order."""
        integer = SCHEMES[self.scheme].kind == "integer"
        yield from self._recovery("statistics")
        yield self._round_to_levels if SCHEMES[self.scheme].kind == "levels" else _fold
        if SCHEMES[self.scheme].activation_bits is not None:
            yield _in_integers
        yield _placed
        yield from self._recovery("weights")
        yield lambda state, job: self.ranges.apply(state, job, self.first_last)
        if self.budget is not None:
            yield self._spend
        if self._reverts(context):
            yield self._revert
        yield _before_rounding
        yield from self._recovery("rounding")
        yield from self._recovery("biases")
        if integer and self.train is not None:
            yield self.train.fit_rounded
        if self.max_drop is not None:
            yield lambda state, job: self._restore(state, job, model)
        if self.target is not None:
            yield _told_floats

    def _recovery(self, phase: Phase) -> list[Step]:
        """The methods that run then, in their order; schemes without integers have none."""
        if SCHEMES[self.scheme].kind != "integer":
            return []
        return [part.apply for part in sorted(self.recover, key=lambda part: part.rank) if part.phase == phase]

    def _job(self, context: Context) -> Job:
        """What all steps share, with the calibration samples where something looks at them."""
        scheme = SCHEMES[self.scheme]
        integer = scheme.kind == "integer"
        needs = frozenset[str]().union(*(part.needs for part in self.recover)) if integer else frozenset[str]()
        needs |= {"unrounded"} if self.max_drop is not None else set()
        split = calibration_split(context) if "samples" in needs or scheme.activation_bits else None
        grid = self.rounds_for(context)
        return Job(context, scheme, split, self.ranges.samples, grid, self.exclude, self.quantize_outputs, needs)

    def rounds_for(self, context: Context) -> TargetName:
        """The target whose integers weights are rounded and trained for: the one asked for, else that of the device
        which the context's clock is of, else this machine's.
        """
        return self.target or _native(context)

    @property
    def _learnt(self) -> tuple[str, ...]:
        """By what weights and biases are fitted to the integers of the target, in words."""
        if SCHEMES[self.scheme].kind != "integer":
            return ()
        methods = [part.name for part in self.recover if part.phase in ("rounding", "biases")]
        return (*methods, *(["training"] if self.train is not None else []))

    @property
    def needs_data(self) -> bool:
        """Whether it looks at samples: to calibrate, to train, or to tell what layers cost."""
        scheme = SCHEMES[self.scheme]
        scored = self.budget is not None and self.budget.scan is None
        looks = scheme.kind == "integer" and any("samples" in part.needs for part in self.recover)
        told = self.train is not None or self.max_drop is not None
        return scheme.activation_bits is not None or told or scored or looks

    @property
    def remedy(self) -> str:
        """What to do where it loses most of the accuracy."""
        if self.train is not None:
            return "train for more --epochs, or take a scheme of more bits"
        if SCHEMES[self.scheme].kind == "levels":
            return "weights of few levels want training: --epochs"
        return "take --calibration mse and --recover bias_correction, train (--epochs), or take a scheme of more bits"

    def _reverts(self, context: Context) -> bool:
        """Whether layers go back to float by what the clock tells of them."""
        asked = self.revert_slower or self.fastest or self.patterns
        asked = asked or (self.revert_slower is None and self.target == _native(context))
        return asked and SCHEMES[self.scheme].activation_bits == 8

    def _clock_for_budget(self, budget: Budget, context: Context) -> Clock:
        """What tells the bytes of files, or latencies for the target; raises as :meth:`_clock`."""
        if budget.latency is None:
            return context.require_clock("quantize: a budget of bytes is kept by the file")
        return self._clock(
            context, "--latency is measured on this machine ({})", "give --size, which holds on any machine"
        )

    def _clock_for_reverting(self, context: Context) -> Clock:
        """What tells which layers are slower in integers; raises as :meth:`_clock`."""
        flag = "--fastest" if self.fastest else "--patterns" if self.patterns else "--revert-slower"
        return self._clock(context, "what is slower can be measured on this machine ({}) only", f"leave {flag} out")

    def _clock(self, context: Context, measured: str, remedy: str) -> Clock:
        """The clock for the target.

        Raises:
            InvalidInput: the context has none, or it cannot time files for the target.
        """
        clock = context.require_clock("quantize: latencies are measured")
        try:
            return clock.on(self.target, self.threads)
        except InvalidInput as error:
            raise InvalidInput(
                f"quantize: {measured.format(clock.target)}, and the target is {self.target}; {remedy}, or quantize "
                f"there ({error})"
            ) from error

    def _require_target(self) -> None:
        """Refuse what the target's engine cannot have."""
        scheme = SCHEMES[self.scheme]
        if self.target is not None and scheme.kind == "integer" and scheme.activation_bits is not None:
            weight_bits = 8 if self.budget is not None else scheme.weight_bits
            require_bits(TARGETS[self.target], weight_bits, scheme.activation_bits)

    def _round_to_levels(self, state: State, job: Job) -> State:
        """With weights of few levels, trained so, and their encodings; batch norms are folded after."""
        done = to_few_levels(
            state.network,
            job.scheme,
            job.context,
            self.train,
            exclude=self.exclude,
            ends=self.first_last == "same",
        )
        return state.after(
            done.edits, done.skipped, network=done.network, history=done.history, levels=dict(done.encodings)
        )

    def _spend(self, state: State, job: Job) -> State:
        """With the precisions that the budget allows."""
        assert self.budget is not None, "there is something to spend"
        multiplied = job.scheme.activation_bits is not None and self.target is not None
        budget = self.budget.for_target(TARGETS[str(self.target)] if multiplied else None)
        candidates = Candidates.of(
            state.network,
            state.encodings,
            job.context.example_inputs,
            calibration=self.ranges.weight_calibration,
            per_channel=self.ranges.per_channel,
            target=job.grid,
        )
        clock = self._clock_for_budget(budget, job.context)
        mix = budget.start(candidates, job.context, clock).choose()
        measured = [Measured.by(clock, "the precisions of layers", mix.told())] if mix.unit == "ms" else []
        floats = dict.fromkeys(name.rpartition(".")[0] for name in mix.floats)
        chosen = state.after([Edit("", "weights", "float32", mix.told(), "weights")], encodings=dict(mix.encodings))
        return replace(chosen, measured=(*state.measured, *measured), floats=tuple(floats))

    def _restore(self, state: State, job: Job, model: nn.Module) -> State:
        """With the precision back without which more is lost of the score of ``model`` than is allowed."""
        assert self.max_drop is not None, "there is a bound"
        widens, trained = self.target is not None, self.train is not None
        per_channel = self.ranges.per_channel
        return restore(state, job, model, self.max_drop, per_channel=per_channel, trained=trained, widens=widens)

    def _revert(self, state: State, job: Job) -> State:
        """With layers in float that are slower in integers."""
        clock, context = self._clock_for_reverting(job.context), job.context
        reversion = revert_slower(
            state.network,
            state.encodings,
            context.example_inputs,
            clock,
            fastest=self.fastest,
            patterns=self.patterns,
            progress=context.progress,
        )
        measured = Measured.by(clock, "the layers that compute in float", reversion.told())
        return state.after(
            (), reversion.skipped, encodings=dict(reversion.encodings), measured=(*state.measured, measured)
        )


def _native(context: Context) -> TargetName:
    """The target of the device whose latencies the context tells, by default of this machine."""
    return detected().target if context.clock is None else context.clock.native


def _told_floats(state: State, job: Job) -> State:
    """With an account of the layers that have integers and that the target computes in float all the same."""
    layers = plan_of(state.graph, state.encodings, TARGETS[job.grid]).layers
    told = {skip.layer for skip in state.skipped} | set(state.floats)
    skips = [
        Skip(each.layer.layer, each.reason)
        for each in layers
        if each.reason and each.layer.read in state.encodings and each.layer.layer not in told
    ]
    return state.after((), skips)


def _fold(state: State, job: Job) -> State:
    """With batch norms folded, and what they tell of the values, where a method needs that."""
    network = state.network
    if not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules()):
        return state
    known = batch_norm_moments(network, job.context) if "moments" in job.needs else {}
    folded = Fold().apply(network, job.context)
    moments = folded_moments(known, folded.edits)
    return state.after(folded.edits, folded.skipped, network=folded.model, moments=moments)


def _in_integers(state: State, job: Job) -> State:
    """With depthwise convolutions for what is left of batch norms."""
    replaced = use_depthwise(state.network, job.context.example_inputs, job.exclude)
    layers = {edit.layer for edit in replaced}
    skipped = tuple(skip for skip in state.skipped if skip.layer not in layers)
    return replace(state, skipped=skipped).after(replaced)


def _placed(state: State, job: Job) -> State:
    """With the graph and what becomes integers, and a bias in every layer where biases will change."""
    state = state.placed(job)
    if "biases" in job.needs:
        biased = give_biases(state.graph, state.placement.products)
        if biased:
            state = state.after(biased).placed(job)
    return state


def _before_rounding(state: State, job: Job) -> State:
    """With a copy of the network, where a method looks at the weights that it has now."""
    return state.after(unrounded=evaluation_copy(state.network)) if "unrounded" in job.needs else state


def _account(state: State) -> Result:
    """The result, with the weights that are held in other types and the layers that are not."""
    encodings = state.encodings
    names = dict.fromkeys(layer.weight for layer in state.placement.products if layer.weight in encodings)
    rounded = (
        Edit(name.rpartition(".")[0], name.rpartition(".")[2], "float32", encodings[name].stored, kind="precision")
        for name in names
    )
    # Of batch normalizations that were not folded it is told already why.
    explained = {skip.layer for skip in state.skipped} | set(state.floats)
    left = (s for s in state.placement.skipped if s.layer not in explained or "batch_norm" not in s.reason)
    accounted = {skip.layer for skip in state.skipped}
    chosen = (Skip(layer, "kept in float: chosen so") for layer in state.floats if layer not in accounted)
    skipped = tuple(dict.fromkeys((*state.skipped, *chosen, *left)))
    return Result(
        state.network,
        (*state.edits, *rounded),
        skipped,
        encodings,
        state.history,
        state.measured,
        restored=state.restored,
    )
