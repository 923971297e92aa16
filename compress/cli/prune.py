"""compress prune"""

from __future__ import annotations

from typing import Any

import click

from . import options


@options.command("prune", short_help="Remove channels, and fine-tune.")
@options.network
@click.option("--ratio", type=float, help="Share of the channels to remove, as 0.5.")
@click.option("--macs", type=float, help="Divide the multiply-adds by this, as 4.")
@click.option("--parameters", type=float, help="Divide the number of parameters by this.")
@click.option("--size", type=float, help="Divide the bytes of the stored weights by this.")
@click.option("--latency", type=float, help="Divide the latency by this, measured in the engine on this machine.")
@click.option(
    "--criterion",
    default="l1",
    show_default=True,
    help="l1, l2, bn_scale, fpgm, lamp, random; with --data taylor, obd, apoz, activation_mean, discrimination; or "
    "file.py:function.",
)
@click.option(
    "--aggregate",
    type=click.Choice(["mean", "max", "sum", "first"]),
    help="How the scores of coupled layers become one.",
)
@click.option("--members", type=click.Choice(["filters", "consumers", "all"]), help="Whose weights count.")
@click.option(
    "--normalize",
    type=click.Choice(["mean", "max", "gaussian", "none"]),
    help="Scores within each layer, for scope global.",
)
@click.option("--score-batches", type=click.IntRange(1, 2**31 - 1), help="Of 32 samples, for criteria of data.")
@click.option(
    "--select",
    default="layer",
    show_default=True,
    help="What layers share: layer, the same part of each; global, the lowest scores of all; sensitivity, the accuracy "
    "that each alone costs (sensitivity=FILE for what compress sensitivity wrote); knapsack, the least loss.",
)
@click.option("--blocks", type=int, default=0, show_default=True, help="Residual blocks that go first, whole.")
@click.option("--steps", type=int, default=1, show_default=True, help="Prune in so many steps, fine-tuned in between.")
@click.option(
    "--round-to",
    default="8",
    show_default=True,
    help="Widths are multiples of this; measured takes those that are fast in the engine.",
)
@click.option(
    "--latency-precision",
    type=click.Choice(["float", "int8"]),
    default="float",
    show_default=True,
    help="What will be deployed, where latencies are measured.",
)
@click.option("--threads", type=int, default=1, show_default=True, help="Of the engine, where latencies are measured.")
@options.listed("--limit", "limits", help="The largest share that layers may lose, as layer1.*=0.3.")
@click.option("--minimum", type=int, default=1, show_default=True, help="Channels that every layer keeps.")
@click.option(
    "--repair",
    help="What brings the outputs back, with --data: reconstruct, recalibrate_bn, both with a comma, or none; left "
    "out, reconstruct where there is no training.",
)
@options.exclude
@options.data
@options.teacher
@options.settings("prune")
@options.output
@options.common
def command(
    criterion: str,
    select: str,
    repair: str | None,
    round_to: str,
    limits: tuple[str, ...],
    **values: Any,
) -> None:
    """Remove whole channels: the network gets smaller layers, and stays what it was otherwise. Give one target.

    \b
    Example:
      compress prune out/base --ratio 0.5 -o out/pruned
      compress prune out/base --macs 4 --data digits --epochs 10 --teacher out/base -o out/pruned
      compress prune out/base --latency 2 --round-to measured --latency-precision int8 -o out/fast
      compress prune out/base --macs 3 --select sensitivity --data digits --steps 4 --epochs 20 -o out/pruned
    """
    from ..prune import Prune
    from .session import Options, apply_stage, configured, settings_of

    training = settings_of("prune", values).get("training")
    names = (
        *("ratio", "macs", "parameters", "size", "latency", "latency_precision"),
        *("blocks", "steps", "threads", "minimum", "exclude"),
    )
    of_criterion = {
        key: value
        for name in ("aggregate", "members", "normalize", "score_batches")
        if (value := values.pop(name)) is not None and (key := name.removeprefix("score_"))
    }
    stage = configured(
        Prune,
        {},
        **{name: values.pop(name) for name in names},
        criterion={criterion: of_criterion} if of_criterion else criterion,
        select=select,
        repair=() if repair == "none" else repair,
        round_to=int(round_to) if round_to.isascii() and round_to.isdecimal() and len(round_to) < 10 else round_to,
        limits=_limits(limits),
        training=training,
    )
    scans = select in ("sensitivity", "knapsack")
    needs_data = training is not None or bool(stage.repair) or scans
    apply_stage(Options(**values), stage, "prune", needs_data=needs_data)


def _limits(given: tuple[str, ...]) -> dict[str, float]:
    from ..errors import InvalidInput

    found = {}
    for text in given:
        pattern, separator, share = text.rpartition("=")
        try:
            found[pattern] = float(share)
        except ValueError:
            separator = ""
        if not separator:
            raise InvalidInput(f"--limit {text}: expected pattern=share, as layer1.*=0.3")
    return found
