"""What each distillation loss gives a small student that has few images: CIFAR-10, three seeds.

    python -m benchmarks.distillation --data CIFAR10 [--seeds 0,1,2] [--images 5000] [--epochs 2]

The student is a ResNet-8 of width 8, the teacher the ResNet-20 that was trained on all of CIFAR-10. Every run has the
same images, epochs, batches and learning rate, and the network is that of the last epoch. What is open in a recipe (the
teacher's weight of soft targets, the form of dkd, which losses are joined) is chosen on the validation split with one
seed of its own; the test split is read once, at the end. About 40 minutes on one core.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import click

from benchmarks.common.frame import Run, benchmark
from benchmarks.distillation.recipes import JOINED, PLAIN, RECIPES, TARGETS, Recipe

CHOOSING_SEED = 1000
"""Of the runs that choose; none of the seeds that are reported."""


@benchmark("distillation", __doc__, seeds="0,1,2")
@click.option("--data", "folder", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--images", default=5000, show_default=True, help="To train on.")
@click.option("--epochs", default=2, show_default=True)
def main(run: Run, folder: Path, images: int, epochs: int) -> None:
    from benchmarks.distillation.measure import Setup

    if run.quick:
        images, epochs = 256, 1
    setup = Setup(folder, images, epochs)

    def score(recipe: Recipe, seed: int, split: str) -> float:
        name = f"{recipe} seed {seed} {split}"
        value = run.part(name, partial(setup.top1, recipe, seed, split), images=images, epochs=epochs)
        run.say(f"{name}: {value:.2f} %")
        return value

    chosen = _chosen(partial(score, seed=CHOOSING_SEED, split="validation"), quick=run.quick)
    seeds = run.seeds[:1] if run.quick else run.seeds
    found: dict[str, list[float]] = {name: [] for name in chosen}
    for seed in seeds:
        for name, recipe in chosen.items():
            found[name].append(score(recipe, seed, "test"))
    _tell(run, chosen, found)


def _chosen(score: Callable[[Recipe], float], *, quick: bool) -> dict[str, Recipe]:
    """The recipe of each row: of the candidates, that with the best score."""

    def best(candidates: Sequence[Recipe]) -> Recipe:
        return candidates[0] if quick or len(candidates) == 1 else max(candidates, key=score)

    chosen = {"labels alone": PLAIN} | {name: best(candidates) for name, candidates in RECIPES.items()}
    together = best([Recipe.joined([chosen[name] for name in names]) for names in JOINED])
    chosen[" + ".join(loss.partition(":")[0] for loss in together.losses)] = together
    return chosen


def _tell(run: Run, chosen: dict[str, Recipe], found: dict[str, list[float]]) -> None:
    from benchmarks.common.results import Column
    from benchmarks.distillation.measure import difference

    plain, hinton = found["labels alone"], found[TARGETS]
    rows = []
    for name in sorted(found, key=lambda name: -sum(found[name])):
        scores = found[name]
        to_plain, to_hinton = difference(scores, plain), difference(scores, hinton)
        rows.append(
            {
                "losses": name,
                "written": " ".join(f"--loss {part}" for part in chosen[name].losses) or "-",
                "teacher_weight": chosen[name].teacher_weight if chosen[name].losses else None,
                "test_percent": sum(scores) / len(scores),
                "each": ", ".join(f"{score:.2f}" for score in scores),
                "to_plain": to_plain,
                "to_hinton": to_hinton,
            }
        )
    run.table(
        (
            Column(key="losses", title="what is learnt from the teacher"),
            Column(key="written", title="losses"),
            Column(key="teacher_weight", title="teacher's weight"),
            Column(key="test_percent", title="test top-1, mean", unit="%", decimals=2),
            Column(key="each", title="of each seed"),
            Column(key="to_plain", title="beside labels alone, points"),
            Column(key="to_hinton", title=f"beside {TARGETS}, points"),
        ),
        rows,
        notes=[
            "Differences are means over seeds of two runs of the same seed, with the half width of their 95 % interval "
            "(Student's t)."
        ],
    )
    together = list(found)[-1]
    reached = sum(found[together]) / len(found[together])
    run.bar(f"{together} beside labels alone", reached - sum(plain) / len(plain), 1.0, "at least", "points")
    run.bar(f"{together} beside {TARGETS}", reached - sum(hinton) / len(hinton), 0.5, "at least", "points")


if __name__ == "__main__":
    main()
