"""A recipe that suits a network and its data, with comments: what ``compress init`` writes."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from .. import presets
from ..data import Data
from ..errors import InvalidInput
from ..files import strict_yaml
from ..integers.target import TargetName
from ..prune import Prune
from ..recipe import Recipe
from ..siblings import export, runtimes
from ..sources.load import Network
from ..stage import Context
from .session import Options

EPOCHS = 10
MACS = 2.0
"""How many times fewer multiply-adds are asked for."""
WIDTHS = (8, 4, 2, 1)
"""Multiples that widths are rounded to: the first with which so much can go."""


@dataclass(frozen=True)
class Draft:
    """What is known of a network that is to be compressed.

    Args:
        options: the options, as they were typed.
        network: opened.
        target: to end on; None for this machine.
        preset: whose stages are taken; None for the few that suit most networks.

    Raises:
        InvalidInput: the preset needs data that are not there.
    """

    options: Options
    network: Network
    data: Data | None
    target: TargetName | None
    preset: str | None = None

    def __post_init__(self) -> None:
        if self.preset is not None and not self.calibrates:
            raise InvalidInput(f"init: the preset {self.preset} calibrates on samples; give --data")
        if self.preset is not None and "epochs:" in self._preset and not self.trains:
            raise InvalidInput(
                f"init: the preset {self.preset} trains; give --data with a train split, or take another preset"
            )

    @cached_property
    def _preset(self) -> str:
        """The stages of the preset, in YAML, with a blank line between two."""
        assert self.preset is not None, "there is a preset"
        text = presets.path(self.preset).read_text(encoding="utf-8")
        return text.partition("\nstages:\n")[2].partition("\n\nexports:\n")[0]

    @property
    def macs(self) -> float:
        """How many times fewer multiply-adds are asked for."""
        target = re.search(r"^ +macs: ([0-9.]+)$", self._preset, re.MULTILINE) if self.preset is not None else None
        return MACS if target is None else float(target[1])

    @cached_property
    def trains(self) -> bool:
        """Whether there are samples to train on."""
        return self.data is not None and "train" in self.data.splits

    @cached_property
    def is_trained(self) -> bool:
        """Whether the network has weights that mean something."""
        named = self.options.weights is not None or bool(self.network.lineage)
        return named or self.network.source.kind in ("onnx", "artifact")

    @cached_property
    def calibrates(self) -> bool:
        """Whether there are samples to calibrate on."""
        return self.data is not None and "calibration" in self.data.splits

    @cached_property
    def width(self) -> int | str:
        """What widths are rounded to where channels go; or, in words, why none can."""
        if self.network.encodings:
            return "the network is quantized already"
        if not self.calibrates:
            return "without samples (data) nothing repairs what a cut breaks"
        reason = ""
        for multiple in WIDTHS:
            try:
                cut = Prune(macs=self.macs, round_to=multiple, repair=())
                cut.apply(self.network.model, Context(self.network.example_inputs, seed=self.options.seed))
            except InvalidInput as error:
                reason = str(error)
            else:
                return multiple
        return reason

    def stages(self) -> Iterator[str]:
        """The names of the stages."""
        if isinstance(self.width, int):
            yield "prune"
        if not self.network.encodings:
            yield from ("fold", "quantize")

    @property
    def runs_here(self) -> bool:
        """Whether the target's engine is on this machine."""
        if self.target is None:
            return True
        return runtimes.runtime.available(export.facts.format_of(self.target).engine)[0] is not None

    def text(self) -> str:
        """The recipe, in YAML.

        Raises:
            InvalidInput: the options make none.
        """
        text = "\n".join(self._lines()) + "\n"
        Recipe.model_validate(strict_yaml.parse(text, "recipe"))
        return text

    def run_line(self) -> str:
        """The command that runs it."""
        assert self.options.output is not None
        return shlex.join(["compress", "run", str(self.options.output), "-o", f"out/{self.options.output.stem}"])

    def _lines(self) -> Iterator[str]:
        words = self.options.specification()
        yield f"# A recipe for {words}, written by compress init. {self.run_line()}"
        yield "# All settings, as a JSON schema with which editors complete them: compress run --schema"
        yield f"model: {_quoted(words)}"
        if self.options.weights is not None:
            yield f"weights: {_quoted(self.options.weights)}"
        yield from self._inputs()
        yield f"seed: {self.options.seed}"
        if self.trains and not self.is_trained:
            yield "# The baseline is trained first. With trained weights, give them as weights, and leave this out."
            yield f"train: {{epochs: {EPOCHS}, batch_size: {self._batch}}}"
        yield from (
            "",
            "stages:" if list(self.stages()) else "stages: []",
            *self._stages(),
            "",
            "exports:",
            *self._exports(),
            "",
        )
        yield "# How files are timed: quick, default or mlperf."
        yield "benchmark: {threads: 1, preset: default}"
        yield "# What must be reached, or the run ends with exit code 1: uncomment what matters."
        yield "# gates: {score_drop: 1, size_ratio: 4, speedup: 1.5}"

    def _inputs(self) -> Iterator[str]:
        shapes = self.options.shapes()
        if self.data is None:
            written = [f"[{', '.join(map(str, shape))}]" for shape in shapes]
            if written:
                yield f"input_shape: {written[0] if len(written) == 1 else '[' + ', '.join(written) + ']'}"
            yield "# Without data nothing is measured in accuracy, calibrated or trained."
            yield "# data: {source: digits}"
            return
        settings = [f"source: {_quoted(self.options.data)}"]
        if len(shapes) == 1 and len(shapes[0]) == 4:
            _, channels, height, width = shapes[0]
            size = f"{height}" if height == width else f"[{height}, {width}]"
            settings += [f"size: {size}", f"channels: {channels}"]
        own = {name: getattr(self.options, name) for name in ("resize", "validation", "calibration")}
        settings += [f"{name}: {value}" for name, value in own.items() if value is not None]
        settings += [f"{name}: [{text}]" for name in ("mean", "std") if (text := getattr(self.options, name))]
        yield f"data: {{{', '.join(settings)}}}"

    @property
    def _batch(self) -> int:
        """Samples of a step: at least some steps to an epoch."""
        assert self.data is not None
        return 128 if len(self.data.splits["train"]) >= 20 * 128 else 32

    def _preset_stages(self) -> Iterator[str]:
        """Those of a preset that the network allows, with widths, batches and a target that suit."""
        names = set(self.stages())
        for text in self._preset.split("\n\n"):
            stage = re.search(r"^  - ([a-z_]+)", text, re.MULTILINE)
            assert stage is not None, "one stage between two blank lines"
            if stage[1] not in names:
                continue
            if stage[1] == "prune":
                text = re.sub(r"round_to: (\d+)", lambda own: f"round_to: {min(int(own[1]), int(self.width))}", text)
            if stage[1] == "quantize" and self.target is not None:
                text = text.replace("  - quantize:", f"  - quantize:\n      target: {self.target}")
            if self.trains:
                text = re.sub(r"batch_size: \d+", f"batch_size: {self._batch}", text)
            yield from text.splitlines()

    def _stages(self) -> Iterator[str]:
        if not isinstance(self.width, int):
            yield f"  # Channels are not pruned: {' '.join(self.width.split())}"
        if self.preset is not None:
            yield from self._preset_stages()
            return
        if isinstance(self.width, int):
            yield "  # Whole channels go, until there are half as many multiply-adds; more of them for a higher number."
            yield "  # In place of macs: ratio, parameters, size or latency."
            yield "  - prune:"
            yield f"      macs: {MACS:g}"
            yield f"      round_to: {self.width}"
            if self.trains:
                yield "      # Fine-tuning, with the baseline as its teacher: the more epochs, the less is lost."
                yield f"      training: {{epochs: {EPOCHS}, batch_size: {self._batch}, learning_rate: 0.05}}"
            else:
                yield "      # Without labels to fine-tune on, layers are refit by least squares."
                yield "      repair: reconstruct"
        if self.network.encodings:
            return
        yield "  # Batch norms are folded into the layers beside them; the outputs stay."
        yield "  - fold"
        target = "" if self.target is None else f"target: {self.target}"
        if self.calibrates:
            yield "  # Weights and activations in 8-bit integers, their ranges observed on the calibration split."
            yield f"  - quantize: {{{target}}}"
        else:
            yield "  # Weights alone in 8 bits, which needs no data."
            yield f"  - quantize: {{{', '.join(part for part in ('scheme: w8', target) if part)}}}"

    def _exports(self) -> Iterator[str]:
        last = list(self.stages())[-1:] or ["baseline"]
        target = "" if self.target is None else f", target: {self.target}"
        if self.runs_here:
            yield f"  - {{name: baseline, after: baseline{target}}}"
            yield f"  - {{name: small, after: {last[0]}{target}}}"
        else:
            yield "  - {name: baseline, after: baseline}"
            yield f"  - {{name: small, after: {last[0]}}}"
            yield f"  # {self.target} does not run here; where it does, files are timed in it with:"
            yield f"  # - {{name: small-there, after: {last[0]}{target}}}"


def _quoted(words: str | Path | None) -> str:
    return json.dumps(str(words), ensure_ascii=False)
