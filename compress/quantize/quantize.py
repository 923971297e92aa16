"""Post-training quantization: ranges measured on calibration samples, no training.

Krishnamoorthi, "Quantizing deep convolutional networks for efficient inference: A whitepaper" (2018), section 3:
weights symmetric with one scale per output channel, activations affine with one scale per tensor. The order of the
steps is that of Nagel et al., "A White Paper on Neural Network Quantization" (2021), section 3.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field, model_validator
from torch import Tensor, nn

from ..batch_norm import reestimate_batch_norm
from ..clock import Clock
from ..data import Split
from ..errors import InvalidInput
from ..fold import Fold
from ..graph import Graph, trace
from ..integers.encoding import Encoding
from ..integers.placement import Placement, placement_of
from ..integers.target import TARGETS, TargetName, require_bits
from ..stage import Config, Context, Edit, Measured, Result, Samples, Skip, Threads, evaluation_copy
from ..train import Training, gentle
from ..weights import require_finite
from .aware_training import Learned, train_quantized
from .calibration import Watcher, calibration_split, observe
from .detect import detected
from .few_levels import to_few_levels
from .mixed import Mixed
from .normalization import use_depthwise
from .observe import Calibration, Observer, Spread, WeightCalibration, observer_of
from .precisions import Candidates
from .recover.bias import correct_biases, correct_biases_analytically, give_biases
from .recover.blocks import brecq
from .recover.equalize import absorb, equalize
from .recover.moments import Moments, batch_norm_moments, folded_moments
from .recover.rounding import LearnedRounding, adaround
from .recover.smooth import smooth
from .revert import revert_slower
from .scheme import SCHEMES, Scheme, SchemeName

_LOG = logging.getLogger(__name__)


class Quantize(Config):
    """Measure the encodings that a network needs to run in integers; ``apply`` leaves its weights in float.

    Args:
        scheme: the bits of weights and activations, a row of :data:`compress.quantize.scheme.SCHEMES`. Where it leaves
            activations in float and nothing else looks at samples, no calibration samples are needed. Schemes of
            shorter floats take no notice of the options for integers.
        calibration: the range of an activation: all that was seen (``minmax``), moving averages of each batch's
            extremes (``moving_average``), all but extremes (``percentile``), or what rounds with the least divergence
            (``entropy``) or squared error (``mse``).
        percentile: of the values kept at each end, for ``percentile``.
        momentum: of the averages, for ``moving_average``.
        weight_calibration: the range of a weight: all its values, or what rounds with the least squared error.
        per_channel: a range for each output channel (or block) of a weight; else one for all.
        samples: calibration samples to run.
        exclude: patterns of layers to keep in float, as in ``layer4.*``.
        ends: what becomes of the first and the last layer where the scheme has few levels: ``float``, stored in 8 bits
            (``w8``), or the ``same`` as all others. With integer activations they are in 8 bits, or the same.
        results: round what the network returns too, for files that give integers.
        reestimate: measure the statistics of batch norms again on calibration samples, before they are folded.
        equalize: even out the ranges of channels between consecutive layers.
        absorb: move high biases into the next layer.
        smooth: alpha of SmoothQuant between layer norms and linear layers, 0..1; ``search`` finds one for each.
        bias_correction: take the mean error of rounding off the biases, as measured on calibration samples
            (``empirical``) or as expected from batch norms (``analytic``).
        rounding: of weights: to the ``nearest`` integer, or up or down as errs least, learnt on calibration samples
            layer by layer (``adaround``) or block by block (``brecq``).
        rounding_iterations: steps for each layer or block.
        training: of weights and scales as they will be rounded, on the context's data, distilling from the context's
            teacher if any. Batch norms are folded by then, so that steps must be small: a recipe that leaves them out
            gets AdamW at 5e-5 in fp32. Schemes of few levels keep batch norms while they train, and bear larger steps:
            AdamW at 1e-3.
        learned: what that training learns besides weights: scales (``lsq``), zero points too (``lsq+``), or scales and
            the clips of ReLUs (``pact``).
        mixed: choose the bits of each layer's weights under a budget of bytes or latency, by what each costs when it
            alone is rounded; the scheme's own then only tells the bits of activations.
        target: the engine and processor that the result is for; left out, it is for any of them. Weights are learnt,
            and errors measured, in the integers of the target; left out, in those of this machine's.
        revert_slower: compute in float what is slower in integers for the target (left out, for this machine), as the
            context's clock tells; see :mod:`compress.quantize.revert`. Left out, this is done where ``target`` is this
            machine's.
        fastest: as ``revert_slower``, and leave nothing in integers where the network is faster so.
        threads: that latencies are measured with.
    """

    scheme: SchemeName = "int8"
    calibration: Calibration = "minmax"
    percentile: float = Field(99.99, gt=50, le=100)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_calibration: WeightCalibration = "minmax"
    per_channel: bool = True
    samples: Samples = 256
    exclude: tuple[str, ...] = ()
    ends: Literal["float", "w8", "same"] = "float"
    results: bool = False
    reestimate: bool = False
    equalize: bool = False
    absorb: bool = False
    smooth: Annotated[float, Field(ge=0, le=1)] | Literal["search"] | None = None
    bias_correction: Literal["none", "empirical", "analytic"] = "none"
    rounding: Literal["nearest", "adaround", "brecq"] = "nearest"
    rounding_iterations: int = Field(2000, ge=1, le=10**7)
    training: Annotated[
        Training | None, gentle(optimizer="adamw", learning_rate=5e-5, weight_decay=0.0, precision="fp32")
    ] = None
    learned: Learned = "lsq"
    mixed: Mixed | None = None
    target: TargetName | None = None
    revert_slower: bool | None = None
    fastest: bool = False
    threads: Threads = 1

    @model_validator(mode="after")
    def _few_levels_alone(self) -> Quantize:
        if SCHEMES[self.scheme].kind != "levels":
            return self
        moved = {"equalize": self.equalize, "absorb": self.absorb, "smooth": self.smooth is not None}
        moved |= {"mixed": self.mixed is not None, "rounding": self.rounding != "nearest"}
        moved |= {"bias_correction": self.bias_correction != "none"}
        given = [name for name, set_ in moved.items() if set_]
        if given:
            raise ValueError(f"`{given[0]}`: not with the scheme {self.scheme}, whose weights have few levels")
        return self

    def apply(self, model: nn.Module, context: Context) -> Result:
        """The network with batch normalizations folded, and its encodings: by parameter name and by node of its trace.

        Raises:
            InvalidInput: no calibration samples, a pattern in ``exclude`` that matches nothing, or weights or
                activations that are not finite.
        """
        scheme = SCHEMES[self.scheme]
        self._require_target(scheme)
        if self.mixed is not None:
            self._clock_for_budget(self.mixed, context)
        if self._reverts(scheme):
            self._clock_for_reverting(context)
        work = _Work(evaluation_copy(model), context, self._split(scheme, context))
        require_finite(work.network, "quantize")
        if scheme.kind == "integer" and self.reestimate:
            self._reestimate(work)
        if scheme.kind == "levels":
            self._round_to_levels(scheme, work)
        else:
            _fold(work, keep_moments=self.absorb or self.bias_correction == "analytic")
        if scheme.activation_bits is not None:
            work.use_depthwise(self.exclude)
        graph, sites = self._trace(scheme, work)
        if scheme.kind == "integer":
            self._even_out(graph, scheme, work)
        encodings = self._choose(self._encode(graph, sites, scheme, work), scheme, work)
        if scheme.kind == "integer":
            reference = evaluation_copy(work.network) if self.bias_correction != "none" else None
            encodings = self._round(encodings, work)
            if reference is not None:
                self._correct_biases(reference, encodings, work)
            encodings = self._train(encodings, work)
        names = dict.fromkeys(product.weight for product in sites.products if product.weight in encodings)
        rounded = (
            Edit(name.rpartition(".")[0], name.rpartition(".")[2], "float32", encodings[name].stored, kind="precision")
            for name in names
        )
        explained = {skip.layer for skip in work.skipped}  # batch normalizations that were not folded, and why
        left = (skip for skip in sites.skipped if skip.layer not in explained or "batch_norm" not in skip.reason)
        skipped = tuple(dict.fromkeys((*work.skipped, *left)))
        edits = (*work.edits, *rounded)
        return Result(work.network, edits, skipped, encodings, work.history, tuple(work.measured), self.rounds_for)

    def _reverts(self, scheme: Scheme) -> bool:
        """Whether layers go back to float by what the clock tells of them."""
        asked = self.revert_slower or self.fastest
        asked = asked or (self.revert_slower is None and self.target == detected().target)
        return asked and scheme.activation_bits == 8

    def _clock_for_budget(self, mixed: Mixed, context: Context) -> Clock:
        """What tells the bytes of files, or latencies for the target; raises as :meth:`_clock`."""
        if mixed.latency is None:
            return context.require_clock("quantize: a budget of bytes is kept by the file")
        return self._clock(
            context, "--latency is measured on this machine ({})", "give --size, which holds on any machine"
        )

    def _clock_for_reverting(self, context: Context) -> Clock:
        """What tells which layers are slower in integers; raises as :meth:`_clock`."""
        flag = "--fastest" if self.fastest else "--revert-slower"
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

    @property
    def rounds_for(self) -> TargetName:
        """The target whose integers weights are rounded and trained for: the one asked for, else this machine's."""
        return self.target or detected().target

    def _require_target(self, scheme: Scheme) -> None:
        """Refuse what the target's engine cannot have."""
        if self.target is None:
            return
        target = TARGETS[self.target]
        if scheme.kind == "integer" and scheme.activation_bits is not None:
            require_bits(target, 8 if self.mixed is not None else scheme.weight_bits, scheme.activation_bits)

    def _mixed_for_the_target(self, scheme: Scheme) -> Mixed | None:
        """``mixed``, without 4 bits where the target cannot multiply them."""
        multiplied = scheme.activation_bits is not None and self.target is not None
        if self.mixed is None or not multiplied or TARGETS[str(self.target)].four_bit_products:
            return self.mixed
        kept = tuple(precision for precision in self.mixed.precisions if precision != "int4")
        return self.mixed.model_copy(update={"precisions": kept})

    def _split(self, scheme: Scheme, context: Context) -> Split | None:
        """The calibration samples, where something looks at them."""
        looks = self.reestimate or self.equalize or self.absorb or self.smooth is not None
        looks = looks or self.rounding != "nearest" or self.bias_correction == "empirical"
        looks = scheme.kind == "integer" and looks
        return calibration_split(context) if looks or scheme.activation_bits else None

    def _round_to_levels(self, scheme: Scheme, work: _Work) -> None:
        """Train the weights of few levels, and keep their encodings."""
        same = self.ends == "same"
        done = to_few_levels(work.network, scheme, work.context, self.training, exclude=self.exclude, ends=same)
        work.network, work.history, work.levels = done.network, done.history, dict(done.encodings)
        work.account(done.edits, done.skipped)

    def _reestimate(self, work: _Work) -> None:
        work.account(*reestimate_batch_norm(work.network, work.samples, seed=work.context.seed))

    def _trace(self, scheme: Scheme, work: _Work) -> tuple[Graph, Placement]:
        """The graph and what becomes integers, with a bias in every layer where biases will change."""
        graph = trace(work.network, work.context.example_inputs, dynamic_batch=True)
        sites = placement_of(graph, self.exclude, results=self.results)
        if scheme.kind == "integer" and (self.absorb or self.bias_correction != "none"):
            given = give_biases(graph, sites.products)
            if given:
                work.account(given)
                graph = trace(work.network, work.context.example_inputs, dynamic_batch=True)
                sites = placement_of(graph, self.exclude, results=self.results)
        return graph, sites

    def _even_out(self, graph: Graph, scheme: Scheme, work: _Work) -> None:
        """Make the network, whose outputs stay what they were, easier to round."""
        if self.equalize:
            equalized = equalize(graph, work.samples, self.samples, work.context)
            work.account(equalized.edits, equalized.skipped)
            for name, scale in equalized.scales.items():
                if name in work.moments:
                    work.moments[name] = work.moments[name].scaled(scale)
        if self.absorb:
            absorbed = absorb(graph, work.moments, work.samples, self.samples, work.context)
            work.account(absorbed.edits, absorbed.skipped)
            for name, shift in absorbed.shifts.items():
                if name in work.moments:
                    work.moments[name] = work.moments[name].lowered(shift)
        if self.smooth is not None:
            bits = scheme.weight_bits
            work.account(*smooth(graph, self.smooth, work.samples, self.samples, work.context, bits=bits))

    def _encode(self, graph: Graph, sites: Placement, scheme: Scheme, work: _Work) -> dict[str, Encoding]:
        encodings: dict[str, Encoding] = {}
        for product in sites.products:
            weight = graph.tensor(product.node.args[1])
            assert weight is not None, product.weight
            if product.weight in work.levels:
                encodings[product.weight] = work.levels[product.weight]
            elif (rest := self._rest(scheme)) is not None:
                encodings[product.weight] = rest.weight_encoding(
                    product.weight, weight, self.weight_calibration, per_channel=self.per_channel
                )
        if scheme.activation_bits is None:
            return encodings
        bits = scheme.activation_bits
        observers = {
            at: observer_of(self.calibration, percentile=self.percentile, momentum=self.momentum, bits=bits)
            for at in sites.measured.values()
        }
        spreads = {at: Spread() for at in observers}
        watchers = {at: _both(observer, spreads[at]) for at, observer in observers.items()}
        observe(graph, watchers, work.samples, self.samples, work.context)
        self._note(graph, spreads)
        ranges = {at: observer.range() for at, observer in observers.items()}
        for name, at in sites.measured.items():
            low, high = ranges[at]
            encodings[name] = Encoding((low,), (high,), bits)
        return encodings

    def _note(self, graph: Graph, spreads: Mapping[str, Spread]) -> None:
        """Tell of activations whose range one value decides, and of those that are zero alone."""
        places = {node.name: graph.layer(node) or node.name for node in graph.nodes}
        wild = [f"{places[at]}: {s.largest:.3g}, others within {s.usual:.3g}" for at, s in spreads.items() if s.wild]
        if wild:
            cut = self.calibration in ("percentile", "entropy")
            advice = "they are cut off" if cut else "look at the samples, or take the calibration percentile or entropy"
            _LOG.warning(
                "calibration: values far beyond all others in %d activations (%s); %s",
                *(len(wild), _some(wild), advice),
            )
        zero = [places[at] for at, s in spreads.items() if s.largest == 0]
        if zero:
            _LOG.warning(
                "calibration: all values are zero in %d activations (%s): nothing tells their range; see the samples",
                *(len(zero), _some(zero)),
            )

    def _rest(self, scheme: Scheme) -> Scheme | None:
        """The scheme of weights that have not few levels; None where they are floats."""
        if scheme.kind != "levels":
            return scheme
        if scheme.activation_bits is not None:
            return SCHEMES["int8"]
        return SCHEMES["w8"] if self.ends == "w8" else None

    def _choose(self, encodings: dict[str, Encoding], scheme: Scheme, work: _Work) -> dict[str, Encoding]:
        """The encodings of what shall be in integers, in the bits that it shall have."""
        mix = None
        mixed = self._mixed_for_the_target(scheme)
        if mixed is not None:
            candidates = Candidates.of(
                work.network,
                encodings,
                work.context.example_inputs,
                calibration=self.weight_calibration,
                per_channel=self.per_channel,
                target=self.rounds_for,
            )
            clock = self._clock_for_budget(mixed, work.context)
            mix = mixed.start(candidates, work.context, clock).choose()
            encodings = dict(mix.encodings)
            if mix.unit == "ms":
                work.measured.append(Measured.by(clock, "the precisions of layers", mix.told()))
        if self._reverts(scheme):
            clock, context = self._clock_for_reverting(work.context), work.context
            kept = revert_slower(
                work.network, encodings, context.example_inputs, clock, fastest=self.fastest, progress=context.progress
            )
            work.account((), kept.skipped)
            work.measured.append(Measured.by(clock, "the layers that compute in float", kept.told()))
            encodings = dict(kept.encodings)
        if mix is not None:
            work.account([Edit("", "weights", "float32", mix.told(), "weights")])
            told = {skip.layer for skip in work.skipped}
            floats = dict.fromkeys(name.rpartition(".")[0] for name in mix.floats)
            work.account((), [Skip(layer, "kept in float: chosen so") for layer in floats if layer not in told])
        return encodings

    def _round(self, encodings: dict[str, Encoding], work: _Work) -> dict[str, Encoding]:
        """Put the weights on grid points that are learnt, where that is asked for."""
        if self.rounding == "nearest":
            return encodings
        config = LearnedRounding(iterations=self.rounding_iterations, samples=self.samples)
        learn = adaround if self.rounding == "adaround" else brecq
        done = learn(work.network, encodings, work.context, work.samples, config, target=self.rounds_for)
        work.network = done.model
        work.account([Edit("", "weights", "float32", f"rounded by {self.rounding}", "weights")])
        return dict(done.encodings)

    def _train(self, encodings: dict[str, Encoding], work: _Work) -> dict[str, Encoding]:
        """Train weights and scales, where that is asked for."""
        if self.training is None:
            return encodings
        done = train_quantized(
            work.network, encodings, self.training, work.context, learned=self.learned, target=self.rounds_for
        )
        work.network, work.history = done.model, tuple(done.history)
        work.account([Edit("", "weights", None, f"{len(done.history)} epochs", "weights")])
        return dict(done.encodings)

    def _correct_biases(self, reference: nn.Module, encodings: dict[str, Encoding], work: _Work) -> None:
        """``reference`` has the weights that were not rounded."""
        target = self.rounds_for
        if self.bias_correction == "empirical":
            done = correct_biases(
                work.network, reference, encodings, work.samples, self.samples, work.context, target=target
            )
        else:
            done = correct_biases_analytically(
                work.network, encodings, work.moments, work.context, reference=reference, target=target
            )
        work.account(*done)


def _both(observer: Observer, spread: Spread) -> Watcher:
    def watch(values: Tensor) -> None:
        observer.observe(values)
        spread.observe(values)

    return watch


def _some(told: list[str]) -> str:
    return "; ".join(told[:3]) + ("; ..." if len(told) > 3 else "")


@dataclass
class _Work:
    """A network on its way through the steps, changed in place, and the account of what was done to it.

    ``moments`` are those of the outputs of layers that a batch norm was folded into, ``levels`` the encodings of
    weights that have few, both by weight name.
    """

    network: nn.Module
    context: Context
    split: Split | None
    edits: list[Edit] = field(default_factory=list)
    skipped: list[Skip] = field(default_factory=list)
    moments: dict[str, Moments] = field(default_factory=dict)
    levels: dict[str, Encoding] = field(default_factory=dict)
    history: tuple[Mapping[str, float], ...] = ()
    measured: list[Measured] = field(default_factory=list)

    @property
    def samples(self) -> Split:
        """The calibration samples."""
        assert self.split is not None, "a step that looks at samples asks for them"
        return self.split

    def use_depthwise(self, exclude: Iterable[str]) -> None:
        """Run in integers what is left of batch norms."""
        replaced = use_depthwise(self.network, self.context.example_inputs, exclude)
        layers = {edit.layer for edit in replaced}
        self.edits += replaced
        self.skipped = [skip for skip in self.skipped if skip.layer not in layers]

    def account(self, edits: Iterable[Edit], skipped: Iterable[Skip] = ()) -> None:
        """Add to the account."""
        self.edits += edits
        self.skipped += skipped


def _fold(work: _Work, *, keep_moments: bool) -> None:
    """Fold batch norms; where ``keep_moments``, keep what they tell of the values."""
    if not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in work.network.modules()):
        return
    known = batch_norm_moments(work.network, work.context) if keep_moments else {}
    folded = Fold().apply(work.network, work.context)
    work.network = folded.model
    work.moments = folded_moments(known, folded.edits)
    work.account(folded.edits, folded.skipped)
