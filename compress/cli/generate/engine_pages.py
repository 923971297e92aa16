"""The page of the documentation that lists engines, formats and targets, from the facts that each states."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ...integers.target import TARGETS, Target
from ...siblings import export, runtimes


def page() -> str:
    """The page, in Markdown."""
    parts = ["# Engines, formats and targets", "", "What runs files, what is written for it, and in which integers."]
    parts += ["", "## Engines", "", *_table(("engine", "`--engine`", "install", "remarks"), _engines())]
    parts += ["", "## Formats", "", *_table(("format", "`--format`", "suffix", "engine", "targets"), _formats())]
    parts += ["", "## Targets", ""]
    parts += [
        "A target is an engine on a kind of processor. Where none is named, the one that suits this machine is taken.",
        "",
        *_table(("`--target`", "engine", "activations", "weights", "inputs and outputs", "chosen on"), _targets()),
    ]
    return "\n".join(parts) + "\n"


def _engines() -> Iterable[Sequence[str]]:
    for name in runtimes.facts.engines():
        facts = runtimes.facts.describe(name)
        remarks = [f"on {' and '.join(facts.systems)} alone"] if facts.systems else []
        remarks += [f"unproven: {facts.unproven}"] if facts.unproven else []
        yield facts.title, f"`{name}`", f"`{facts.install}`", "; ".join(remarks)


def _formats() -> Iterable[Sequence[str]]:
    for name, form in export.facts.formats().items():
        targets = ", ".join(f"`{target}`" for target in form.targets)
        yield form.title, f"`{name}`", f"`{form.suffix}`", runtimes.facts.title_of(form.engine), targets


def _targets() -> Iterable[Sequence[str]]:
    for name, target in TARGETS.items():
        suits = ", ".join(runtimes.facts.targets()[name].suits) or "-"
        yield (
            f"`{name}`",
            runtimes.facts.title_of(target.engine),
            _activations(target),
            f"{target.weight_bits} bits{', 4 bits' if target.four_bit_products else ''}",
            ", ".join(target.interfaces),
            suits,
        )


def _activations(target: Target) -> str:
    kinds = [target.activation, *([target.wide_activation] if target.wide_activation else [])]
    return ", ".join(kinds) + (" about zero point 0" if target.symmetric else "")


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    return lines + [f"| {' | '.join(row)} |" for row in rows]
