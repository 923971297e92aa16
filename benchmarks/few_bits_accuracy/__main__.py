"""What weights and activations of few bits keep of the accuracy of ResNet-20 on CIFAR-10, after training.

    python -m benchmarks.few_bits_accuracy --data DIR [--schemes w4a4,w2a8,ttq,ternary,binary] [--epochs N]

DIR is CIFAR-10 as an image folder (train/<class>/*, test/<class>/*). All but ``binary`` start from the network in
``benchmarks/checkpoints`` and are distilled from it; ``binary`` is the zoo's ``bireal_resnet20`` (a shortcut around
each convolution, RPReLU), trained from random weights in two stages, signs of the inputs first, and distilled from the
same teacher, by SGD, which learns it faster than AdamW; its 1x1 shortcuts stay in float. ``w2a8`` calibrates by the
squared error, chosen on validation. The last epoch counts; test accuracy is that of the deployed file in its engine,
read once, beside that of the float file and of the simulation. Started again after an interruption, a training goes on
after its last whole epoch, and one that is finished is read again. 1.5 to 2.5 minutes an epoch on one thread, two hours
for ``binary``.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from benchmarks.common.frame import Run, benchmark

BARS = {"w4a4": 0.5, "w2a8": 0.7, "ttq": 1.0, "ternary": 1.5, "binary": 6.0}
"""Points of test accuracy that each scheme may lose."""


@benchmark("few_bits_accuracy", __doc__, seeds="0")
@click.option("--data", "folder", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--schemes", default=",".join(BARS), show_default=True)
@click.option("--epochs", type=int, help="Of every scheme, to try it.")
@click.option("--train-only", is_flag=True, help="Leave the test split alone.")
def main(run: Run, folder: Path, schemes: str, epochs: int | None, train_only: bool) -> None:
    from benchmarks.common import cifar10
    from benchmarks.common.results import Column
    from benchmarks.few_bits_accuracy.measure import figures, trained
    from compress import deploy
    from compress.pipeline import fold_for_export

    if run.quick:
        schemes, epochs = "w4a4", 1
    seed, *_ = run.seeds
    data = cifar10.cifar10(folder, seed)
    teacher = cifar10.trained("resnet20", data)
    networks = {name: trained(name, epochs, data, teacher, run.work, seed) for name in schemes.split(",")}
    if train_only:
        return
    file = run.work / "float.onnx"
    deploy.export(fold_for_export(teacher), "float", file)
    base, size = deploy.accuracy(deploy.Deployed("float", file), data), file.stat().st_size
    rows: list[dict[str, str | float | None]] = [{"scheme": "float", "top1_percent": base, "bytes": size}]
    for name, network in networks.items():
        row = run.part(name, partial(figures, name, network, data, run.work), epochs=epochs, seed=seed)
        lost = base - row["top1_percent"]
        run.note(f"{name}: validation top-1 by epoch {row.pop('curve')}.")
        rows.append({"scheme": name, **row, "lost": lost, "smaller": size / row["bytes"]})
        run.bar(f"{name}, points lost", lost, BARS[name], "at most")
    run.table(
        (
            Column(key="scheme", title="scheme"),
            Column(key="top1_percent", title="test top-1", unit="%", decimals=2),
            Column(key="lost", title="lost", decimals=2),
            Column(key="simulated_percent", title="simulated", unit="%", decimals=2),
            Column(key="agreement_percent", title="agreement of all test images", unit="%", decimals=2),
            Column(key="bytes", title="bytes"),
            Column(key="smaller", title="times smaller", unit="x", decimals=1),
            Column(key="minutes", title="trained", unit="min", decimals=0),
        ),
        rows,
    )


if __name__ == "__main__":
    main()
