"""Seconds that an epoch of training takes as it is and by ``torch.compile``, and what compiling costs to begin with.

    python -m benchmarks.training_time [--jobs float,binary,...] [--images 1280] [--epochs 4] [--threads 1]

Random 32x32 images in batches of 128, a teacher of the zoo's ``resnet20``; each job is trained both ways in turn.
An epoch is the median of those after the first, in seconds of the processor; what the first takes longer, by the clock
and with the compiler's processes, is the price of the beginning.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from benchmarks.common.frame import Run, benchmark

JOBS: dict[str, tuple[str, str | None]] = {
    "ResNet-20 float": ("resnet20", None),
    "VGG-11 of half width float": ("vgg11_bn:width=0.5", None),
    "ResNet-20 ttq": ("resnet20", "ttq"),
    "ResNet-20 w4a4": ("resnet20", "w4a4"),
    "Bi-Real ResNet-20 binary": ("bireal_resnet20", "binary"),
}
"""By name: a network of the zoo, and the scheme that it is trained in."""


@benchmark("training_time", __doc__)
@click.option("--jobs", default=",".join(JOBS), help="Some of them, by parts of their names, with commas.")
@click.option("--images", "count", default=1280, show_default=True)
@click.option("--epochs", "number", default=4, show_default=True)
def main(run: Run, jobs: str, count: int, number: int) -> None:
    from benchmarks.common.results import Column
    from benchmarks.training_time.measure import epochs, images
    from compress.training.loop import Training

    if run.quick:
        jobs, count, number = next(iter(JOBS)), 256, 2
    rows: list[dict[str, str | float]] = []
    with tempfile.TemporaryDirectory() as folder:
        data = images(count, Path(folder))
        for name, (model, scheme) in JOBS.items():
            if not any(part.strip() in name for part in jobs.split(",")):
                continue
            training = Training(epochs=number, optimizer="adamw", learning_rate=1e-4, augment=("flip", "crop"))
            plain_s, _ = epochs(model, scheme, data, training)
            compiled_s, begin_s = epochs(model, scheme, data, training.model_copy(update={"compiled": True}))
            seconds = {"plain_s": plain_s, "compiled_s": compiled_s, "begin_s": begin_s}
            rows.append({"job": name, **seconds, "faster": plain_s / compiled_s})
    run.table(
        (
            Column(key="job", title="job"),
            Column(key="plain_s", title="an epoch", unit="s", decimals=2),
            Column(key="compiled_s", title="compiled", unit="s", decimals=2),
            Column(key="faster", title="times faster", unit="x", decimals=2),
            Column(key="begin_s", title="to begin", unit="s", decimals=0),
        ),
        rows,
    )


if __name__ == "__main__":
    main()
