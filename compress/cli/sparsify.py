"""compress sparsify"""

from __future__ import annotations

from typing import Any

import click

from . import options


@options.command("sparsify", short_help="Set weights to zero, and fine-tune.")
@options.network
@click.option("--sparsity", type=float, help="Share of the weights that go, as 0.9; not for n:m.")
@click.option(
    "--granularity",
    type=click.Choice(["weight", "kernel", "row", "block", "n:m"]),
    default="weight",
    show_default=True,
    help="What goes together.",
)
@click.option("--n", type=int, default=2, show_default=True, help="For n:m, the weights that stay ...")
@click.option("--m", type=int, default=4, show_default=True, help="... of so many consecutive inputs.")
@click.option("--block", default="4,4", show_default=True, help="Rows and columns, for block.")
@click.option(
    "--criterion", type=click.Choice(["magnitude", "movement", "obd"]), default="magnitude", show_default=True
)
@click.option(
    "--scope",
    type=click.Choice(["layer", "global"]),
    default="layer",
    show_default=True,
    help="Where weights compete.",
)
@click.option("--schedule", type=click.Choice(["one_shot", "iterative", "gradual"]), help="gradual with --epochs.")
@options.exclude
@options.data
@options.teacher
@options.training(epochs=0)
@options.output
@options.common
def command(
    sparsity: float | None,
    granularity: str,
    n: int,
    m: int,
    block: str,
    criterion: str,
    scope: str,
    schedule: str | None,
    exclude: tuple[str, ...],
    teacher: str | None,
    **values: Any,
) -> None:
    """Set the least important weights to zero; shapes stay. `compress pack` makes the exported file smaller for it.

    Zeros bring bytes to download, not speed: ONNX Runtime multiplies by them as by any weight.

    \b
    Example:
      compress sparsify out/base --sparsity 0.9 --data digits --epochs 10 --teacher out/base -o out/sparse
      compress export out/sparse --pack -o out/files
      compress sparsify out/base --granularity n:m --n 2 --m 4 -o out/two-of-four
    """
    from ..errors import InvalidInput
    from ..sparsify import Sparsify
    from .session import Options, apply_stage, configured, training_of

    training = training_of(values)
    if schedule is None:
        schedule = "gradual" if training.epochs and granularity != "n:m" else "one_shot"
    try:
        rows, columns = (int(part) for part in block.split(","))
    except ValueError as error:
        raise InvalidInput(f"--block {block[:80]}: expected rows and columns, as 4,4") from error
    stage = configured(
        Sparsify,
        {"training": "epochs"},
        sparsity=sparsity,
        granularity=granularity,
        n=n,
        m=m,
        block=(rows, columns),
        criterion=criterion,
        scope=scope,
        schedule=schedule,
        exclude=exclude,
        training=training if training.epochs else None,
    )
    needs_data = training.epochs > 0 or criterion == "obd"
    apply_stage(Options(**values), stage, "sparsify", teacher=teacher, needs_data=needs_data)
