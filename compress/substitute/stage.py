"""The stage Substitute: compact layers in the place of costly ones, made from what these computed and taught by it."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import torch
from torch import Tensor, nn

from ..compact.observed import Observed
from ..compact.substitutions import AnySubstitution
from ..core.parts import Listed
from ..core.settings import exclude, required, setting
from ..data import Split
from ..distill import fine_tune
from ..edits import replay
from ..errors import InvalidInput
from ..graph.layer_values import input_and_output_of, input_of
from ..graph.modes import evaluating
from ..replacements import substituted
from ..stage import Config, Context, Edit, Measured, Result, Samples, evaluation_copy
from ..training.batch_norm import drawn_inputs
from ..training.loop import Training
from .sites import Saved, Savings, Site, require_matches, sites
from .teach import teach

OBSERVED_BYTES = 2**29
"""Of what a layer reads and yields, that is held at one time."""


class Substitute(Config):
    """Replace layers by compact ones that compute nearly the same, and teach these, first one by one, then together.

    Layers are taken in the order in which they run. Each substitute is set by least squares on what its layer read and
    yielded in the network as it was given, then fitted to that by gradient steps, and again on what it reads behind the
    substitutes before it, towards the same outputs. Where a substitute would save nothing, the layer stays.
    """

    with_modules: Annotated[
        tuple[AnySubstitution, ...],
        Listed,
        required(
            "What stands in the place of layers; each layer takes the first that fits it.",
            flag="--with",
            common=True,
            metavar="NAMES",
            min_length=1,
        ),
    ]
    layers: tuple[str, ...] = setting(
        (), "Layers to replace, by name or pattern (layer3.*); left out, all that a substitution fits.", common=True
    )
    exclude: tuple[str, ...] = exclude()
    saves: Saved | None = setting(
        None,
        "What a substitution must save, or the layer stays: the layer's latency in the engine, measured alone, or "
        "multiply-adds. Left out, latency where there is a clock, as for every command, and multiply-adds elsewhere.",
        common=True,
    )
    samples: Samples = setting(512, "Calibration samples that substitutes are fitted on.", unit="samples")
    steps: int = setting(
        200,
        "Gradient steps of each substitute alone, after least squares: half of them on what its layer read, and half "
        "on what it reads itself. 0 leaves it at least squares.",
        unit="steps",
        ge=0,
        le=10**6,
    )
    training: Training | None = setting(
        None, "Training of the whole network afterwards, distilling from the teacher, by default the network as it was."
    )

    @property
    def needs_data(self) -> bool:
        """It fits substitutes on calibration samples."""
        return True

    def apply(self, model: nn.Module, context: Context) -> Result:
        """The network with substitutes, in evaluation mode; their errors relative to their layers are in the edits.

        Raises:
            InvalidInput: a pattern matches nothing, no layer can be replaced, or there is no data.
        """
        split = self._calibration(context)
        require_matches(model, "layers", self.layers)
        require_matches(model, "exclude", self.exclude)
        context = context.of(model)
        teacher, student = evaluation_copy(model), evaluation_copy(model)
        savings = Savings(context, self.saves or ("macs" if context.clock is None else "latency"))
        found, skipped = sites(teacher, self.with_modules, self.layers, self.exclude, context)
        chosen, costly = savings.split(teacher, found)
        skipped = [*skipped, *costly]
        if not chosen:
            reasons = "; ".join(f"{skip.layer}: {skip.reason}" for skip in skipped[:3]) or "no layer is of their types"
            raise InvalidInput(f"substitute: no layer is replaced ({reasons})")
        batches = drawn_inputs(student, split, self.samples, context.seed, context.read)
        edits: list[Edit] = []
        with evaluating(teacher, student):
            for number, site in enumerate(chosen):
                context.progress("substitute", number, len(chosen), site.name)
                edits += self._substituted(teacher, student, site, batches, context.seed)
        context.progress("substitute", len(chosen), len(chosen))
        history = self._trained(student, teacher, context)
        if history:
            edits.append(Edit("", "weights", None, f"{len(history)} epochs", "weights"))
        return Result(student, tuple(edits), tuple(skipped), history=tuple(history), measured=_measured(savings))

    def _calibration(self, context: Context) -> Split:
        if context.data is None:
            raise InvalidInput("substitute: substitutes are fitted on calibration samples; give --data")
        if self.training is not None:
            context.data.split("train")
        return context.data.split("calibration")

    def _substituted(
        self, teacher: nn.Module, student: nn.Module, site: Site, batches: list[tuple[Tensor, ...]], seed: int
    ) -> list[Edit]:
        """The edits that put a substitute in the place of a layer of ``student``, which is changed in place."""
        layer = teacher.get_submodule(site.name)
        before = student.get_submodule(site.name)
        edit = Edit(site.name, "module", type(layer).__name__, substituted(site.substitution), "module")
        original = [input_and_output_of(teacher, layer, inputs) for inputs in _within(batches, layer, site.read)]
        observed = Observed([read for read, _ in original], [yielded for _, yielded in original])
        own = Observed([input_of(student, before, x) for x in batches[: len(original)]], observed.outputs)
        replay(student, [edit])
        substitute = student.get_submodule(site.name).eval()
        site.substitution.initialize(substitute, layer, observed)
        started = own.error(substitute)
        teach(substitute, observed, self.steps // 2, seed)
        teach(substitute, own, self.steps - self.steps // 2, seed)
        taught = own.error(substitute)
        errors = Edit(site.name, "relative output error", _rounded(started), _rounded(taught), "weights")
        return [edit, errors]

    def _trained(self, student: nn.Module, teacher: nn.Module, context: Context) -> list[dict[str, float]]:
        if self.training is None:
            return []
        taught = replace(context, teacher=context.teacher or teacher)
        history = fine_tune(student, taught, self.training, activity="substitute", checkpoint="substitute.ckpt")
        student.eval()
        return history


def _within(batches: list[tuple[Tensor, ...]], layer: nn.Module, read: Tensor) -> list[tuple[Tensor, ...]]:
    """As many of the batches as have what the layer reads and yields within :data:`OBSERVED_BYTES`, at least two."""
    with torch.no_grad():
        sample = 2 * (read.numel() * read.element_size() + layer(read).numel() * read.element_size())
    most = max(1, OBSERVED_BYTES // max(1, sample * len(batches[0][0])))
    return batches[: max(2, most)]


def _rounded(error: float) -> float:
    return float(f"{error:.4g}")


def _measured(savings: Savings) -> tuple[Measured, ...]:
    if savings.by != "latency":
        return ()
    clock = savings.context.require_clock("substitute: what is faster is measured")
    return (Measured.by(clock, "the layers that are replaced", "layers: those whose substitute is faster alone"),)
