"""Both pruners in one process, in turn, with our time told apart by what it was spent on."""

from __future__ import annotations

import copy
import cProfile
import importlib
import pstats
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from benchmarks.peers.networks import parameters
from benchmarks.peers.torch_pruning import torch_pruning
from compress.prune import Prune
from compress.stage import Context

PHASES = {
    "trace": ("compress.graph.trace", "trace"),
    "walk": ("compress.prune.channels.walk", "walk"),
    "scores": ("compress.prune.criteria", "Criterion.score"),
    "copies": ("compress.stage", "evaluation_copy"),
    "surgery": ("compress.edits", "replay"),
    "verification": ("compress.prune.channels.verify", "difference"),
}
"""The functions whose times are told apart."""


class Stopwatch:
    """Seconds of the processor in those functions, wherever the package calls them; nested ones count to the outer."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.depth = 0
        self.replaced: list[tuple[Any, str, Any]] = []

    def wrapped(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            start = time.process_time()
            self.depth += 1
            try:
                return function(*arguments, **options)
            finally:
                self.depth -= 1
                if self.depth == 0:
                    self.seconds[phase] += time.process_time() - start

        return timed

    def __enter__(self) -> Stopwatch:
        for phase, (module_name, name) in PHASES.items():
            owner: Any = importlib.import_module(module_name)
            *holders, name = name.split(".")
            for holder in holders:
                owner = getattr(owner, holder)
            function = getattr(owner, name)
            timed = self.wrapped(phase, function)
            self.replaced.append((owner, name, function))
            setattr(owner, name, timed)
            for module in [m for key, m in sys.modules.items() if key.startswith("compress")]:
                for attribute in [key for key, value in vars(module).items() if value is function]:
                    self.replaced.append((module, attribute, function))
                    setattr(module, attribute, timed)
        return self

    def __exit__(self, *_: object) -> None:
        for module, attribute, function in self.replaced:
            setattr(module, attribute, function)


@dataclass
class Seconds:
    """Of the processor, one value a run; what is left of the parameters, by side."""

    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)
    phases: list[dict[str, float]] = field(default_factory=list)
    parameters: dict[str, int] = field(default_factory=dict)


def halved(model: nn.Module, inputs: tuple[Tensor, ...], runs: int) -> Seconds:
    """Both sides in turn, ``runs`` times after one that warms up what they import."""
    prune, context, seconds = Prune(ratio=0.5, round_to=1), Context(inputs), Seconds()
    for run in range(runs + 1):
        if run == 1:
            seconds = Seconds()
        copied = copy.deepcopy(model)
        start = time.process_time()
        smaller = torch_pruning(copied, inputs, ratio=0.5)
        seconds.theirs.append(time.process_time() - start)
        seconds.parameters["Torch-Pruning"] = parameters(smaller)
        with Stopwatch() as watch:
            start = time.process_time()
            smaller = prune.apply(model, context).model
            seconds.ours.append(time.process_time() - start)
        seconds.parameters["ours"] = parameters(smaller)
        seconds.phases.append(watch.seconds)
    return seconds


def profiled(model: nn.Module, inputs: tuple[Tensor, ...], file: Path) -> None:
    """Write where our time goes."""
    with cProfile.Profile() as profiler:
        Prune(ratio=0.5, round_to=1).apply(model, Context(inputs))
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8") as stream:
        pstats.Stats(profiler, stream=stream).sort_stats("tottime").print_stats(40)
        pstats.Stats(profiler, stream=stream).sort_stats("cumulative").print_stats(60)
