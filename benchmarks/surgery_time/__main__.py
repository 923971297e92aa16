"""How long pruning takes, from the network in memory to the smaller one: ours beside Torch-Pruning.

    python -m benchmarks.surgery_time --peers DIR [--network resnet50] [--runs 5] [--profile out/surgery.txt]

One process, one thread, in turn, medians of processor time (on an idle machine that is what a clock shows). Ours is
stated with and without the forward passes that verify the result: Torch-Pruning verifies nothing, and its time does not
include the copy of the network that ours makes.
"""

from __future__ import annotations

import statistics
from pathlib import Path

import click

from benchmarks.common.frame import Run, benchmark


@benchmark("surgery_time", __doc__, peers=True)
@click.option("--network", default="resnet50", show_default=True, help="One of torchvision's.")
@click.option("--runs", default=5, show_default=True)
@click.option("--profile", type=click.Path(path_type=Path), help="Where to write where our time goes (cProfile).")
def main(run: Run, network: str, runs: int, profile: Path | None) -> None:
    from benchmarks.common.results import Column
    from benchmarks.peers.networks import parameters, torchvision_network
    from benchmarks.surgery_time.measure import PHASES, halved, profiled

    if run.quick:
        network, runs = "resnet18", 1
    model, inputs = torchvision_network(network)
    seconds = halved(model, inputs, runs)
    verifying = [phases["verification"] for phases in seconds.phases]
    samples = {
        "Torch-Pruning: graph and pruning": seconds.theirs,
        "ours: all": seconds.ours,
        "ours: without verification": [a - b for a, b in zip(seconds.ours, verifying, strict=True)],
        **{f"ours: {phase}": [phases[phase] for phases in seconds.phases] for phase in PHASES},
    }
    run.table(
        (
            Column(key="what", title="what"),
            Column(key="median_s", title="median", unit="s", decimals=2),
            Column(key="least_s", title="least", unit="s", decimals=2),
            Column(key="most_s", title="most", unit="s", decimals=2),
        ),
        (
            {"what": what, "median_s": statistics.median(each), "least_s": min(each), "most_s": max(each)}
            for what, each in samples.items()
        ),
        title=f"{network}, {runs} runs, seconds of the processor",
    )
    ratio = statistics.median(seconds.ours) / statistics.median(seconds.theirs)
    left = ", ".join(f"{side} {count:,}" for side, count in seconds.parameters.items())
    run.note(f"Ours / Torch-Pruning: {ratio:.2f}. Parameters left of {parameters(model):,}: {left}.")
    if profile is not None:
        profiled(model, inputs, profile)
        run.say(f"profile: {profile}")


if __name__ == "__main__":
    main()
