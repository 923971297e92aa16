"""How long pruning takes, from the network in memory to the smaller one: ours beside Torch-Pruning.

python benchmarks/surgery_time.py --peers DIR [--network resnet50] [--runs 5] [--profile out/surgery.txt]

One process, one thread, in turn, medians of processor time (on an idle machine that is what a clock shows). Ours is
stated with and without the forward passes that verify the result: Torch-Pruning verifies nothing, and its time does not
include the copy of the network that ours makes.

The peers come from a folder: pip install --no-deps --target DIR torchvision==0.28.0 timm==1.0.31 torch-pruning==1.6.1
pillow huggingface-hub
"""

from __future__ import annotations

import copy
import cProfile
import importlib
import pstats
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
from peers import CLASSES, make_importable, parameters, torch_pruning, torchvision_network

from compress.prune import Prune
from compress.stage import Context

PHASES = {
    "trace": ("compress.graph", "trace"),
    "walk": ("compress.prune.walk", "walk"),
    "scores": ("compress.prune.criteria", "Criterion.score"),
    "copies": ("compress.stage", "evaluation_copy"),
    "surgery": ("compress.edits", "replay"),
    "verification": ("compress.prune.verify", "difference"),
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


@click.command()
@click.option("--network", default="resnet50", show_default=True, help="One of torchvision's.")
@click.option("--runs", default=5, show_default=True)
@click.option("--peers", help="Folder with torchvision, timm and torch_pruning.")
@click.option("--profile", type=click.Path(path_type=Path), help="Where to write where our time goes (cProfile).")
def main(network: str, runs: int, peers: str | None, profile: Path | None) -> None:
    """Print the medians, their spread and where our time goes."""
    make_importable(peers)
    torch.set_num_threads(1)
    model, inputs = torchvision_network(network)
    prune, context = Prune(ratio=0.5, round_to=1), Context(inputs)

    ours: list[float] = []
    theirs: list[float] = []
    phases: list[dict[str, float]] = []
    sizes: dict[str, int] = {}
    for run in range(runs + 1):
        given = copy.deepcopy(model)
        start = time.process_time()
        smaller = torch_pruning(given, inputs, ratio=0.5)
        theirs.append(time.process_time() - start)
        sizes["Torch-Pruning"] = parameters(smaller)
        with Stopwatch() as watch:
            start = time.process_time()
            smaller = prune.apply(model, context).model
            ours.append(time.process_time() - start)
        sizes["ours"] = parameters(smaller)
        phases.append(watch.seconds)
        if run == 0:  # the first run of each warms up what they import
            ours, theirs, phases = [], [], []

    verifying = [seconds["verification"] for seconds in phases]
    print(f"{network}, 1 thread, {runs} runs, {CLASSES} classes, parameters {parameters(model):,}")
    for title, samples in (
        ("Torch-Pruning: graph and pruning", theirs),
        ("ours: all", ours),
        ("ours: without verification", [a - b for a, b in zip(ours, verifying, strict=True)]),
    ):
        print(f"{title:<34} {statistics.median(samples):6.2f} s  ({min(samples):.2f} to {max(samples):.2f})")
    for phase in PHASES:
        print(f"  {phase:<32} {statistics.median(seconds[phase] for seconds in phases):6.2f} s")
    print(f"ours / Torch-Pruning: {statistics.median(ours) / statistics.median(theirs):.2f}; parameters left: {sizes}")
    if profile is not None:
        with cProfile.Profile() as profiler:
            prune.apply(model, context)
        profile.parent.mkdir(parents=True, exist_ok=True)
        with profile.open("w") as stream:
            pstats.Stats(profiler, stream=stream).sort_stats("tottime").print_stats(40)
            pstats.Stats(profiler, stream=stream).sort_stats("cumulative").print_stats(60)
        print(f"profile: {profile}")


if __name__ == "__main__":
    main()
