"""Commands and options as all of ours are: in groups, the common ones first, and lists as people type them."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from ...errors import InvalidInput

FEW = 16
"""Options that ``--help`` shows whole."""

OPTIONS, NETWORK, DATA, TRAINING, OUTPUT, TELLING, HELP = (
    *("Options", "Network", "Data", "Training", "Output", "Telling", "Help"),
)
LAST = (DATA, TRAINING, OUTPUT, TELLING, HELP)
"""The headings that stand below those of a command's own options, in this order."""

SHOWS_ALL = f"{__name__}.all"


class Option(click.Option):
    """An option under a heading of ``--help``.

    Args:
        group: the heading.
        common: it is among the dozen that ``--help`` shows; ``--help-all`` shows all.
        default_told: the default, in words, where the command does not have it as a value.
        setting: the place of the setting that it is, as ``training.epochs``.
        names: what it can be, among others.
    """

    def __init__(
        self,
        *declarations: Any,
        group: str = "",
        common: bool = False,
        default_told: str = "",
        setting: str | None = None,
        names: Sequence[str] = (),
        **told: Any,
    ) -> None:
        super().__init__(*declarations, **told)
        self.group, self.common, self.default_told = group, common, default_told
        self.names = names
        self.name = setting or self.name

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """How it is typed, and what it is: in one sentence, where not all is asked for."""
        shown = copy.copy(self)
        text = self.help or ""
        shown.help = text if _shows_all(ctx) else first_sentence(text)
        shown.help += f" One of {', '.join(self.names)}." if self.names else ""
        record = click.Option.get_help_record(shown, ctx)
        if record is None or not self.default_told:
            return record
        return record[0], f"{record[1]}  [default: {self.default_told}]".strip()


class ListOption(Option):
    """An option for several values: given once for each, or once with commas between them."""

    def __init__(self, *declarations: Any, **told: Any) -> None:
        super().__init__(*declarations, multiple=True, **told)

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        """All values, each converted alone."""
        texts = [value] if isinstance(value, str) else value or ()
        parts = [part for text in texts for part in (text.split(",") if isinstance(text, str) else [text])]
        values = tuple(part for part in parts if part != "")
        if texts and not values:  # a variable of a script that is not set: nothing is chosen by it
            raise click.BadParameter("expected a value, got nothing.", ctx, self)
        return super().type_cast_value(ctx, values)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """What may follow the last comma."""
        before, comma, last = incomplete.rpartition(",")
        items = super().shell_complete(ctx, last)
        for item in items if comma else ():
            item.value = f"{before},{item.value}"
        return items


class NetworkArgument(click.Argument):
    """The network that a command begins with; it is looked for before the command runs."""


def first_sentence(text: str) -> str:
    """The first sentence of ``text``, with its full stop.

    >>> first_sentence("As e.g. 0.5 of all. The rest stays.")
    'As e.g. 0.5 of all.'
    """
    end = re.search(r"(?<![ .]\\w)[.](?= +[A-Z(])", text)
    return text if end is None else text[: end.end()]


class Command(click.Command):
    """A command whose options stand under headings, and whose ``--json-file`` replaces nothing by accident."""

    def __init__(self, *declarations: Any, **told: Any) -> None:
        super().__init__(*declarations, **told)
        flags = [flag for param in self.params for flag in (*param.opts, *param.secondary_opts)]
        twice = sorted({flag for flag in flags if flags.count(flag) > 1})
        if twice:
            raise InvalidInput(
                f"compress {self.name}: several options are called {', '.join(twice)}; rename all but one"
            )

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Its own parameters, then ``--help`` and ``--help-all``."""
        every = Option(
            ["--help-all"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_show_all,
            help="Show every option, with all that is to be said of it.",
        )
        return [*super().get_params(ctx), every] if len(self.params) > FEW else super().get_params(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options under their headings; those that are not common are counted."""
        everything = _shows_all(ctx) or len(self.params) <= FEW
        groups: dict[str, list[tuple[str, str]]] = {}
        left = 0
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is None or isinstance(param, click.Argument):
                continue
            of_click = not {"--help", "--help-all"}.isdisjoint(param.opts)
            if everything or of_click or not isinstance(param, Option) or param.common:
                group = HELP if of_click else getattr(param, "group", "") or OPTIONS
                groups.setdefault(group, []).append(record)
            else:
                left += 1
        for group in sorted(groups, key=lambda name: LAST.index(name) if name in LAST else -1):
            with formatter.section(group[:1].upper() + group[1:]):
                formatter.write_dl(groups[group])
        if left:
            formatter.write_paragraph()
            formatter.write_text(f"{left} more options: {ctx.command_path} --help-all")

    def invoke(self, ctx: click.Context) -> Any:
        """Run it, unless it is in vain; the place of ``--json-file`` is claimed before any work."""
        from .refusals import require_inputs_stay, require_possible

        if any(isinstance(param, NetworkArgument) for param in self.params):
            require_possible(ctx.params)
        require_inputs_stay(ctx.params)
        place = ctx.params.get("json_file")
        if place is not None:
            _claim(ctx, place)
        return super().invoke(ctx)


def _show_all(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        ctx.meta[SHOWS_ALL] = True
        click.echo(ctx.get_help(), color=ctx.color)
        ctx.exit()


def _shows_all(ctx: click.Context) -> bool:
    return bool(ctx.meta.get(SHOWS_ALL, False))


def _claim(ctx: click.Context, place: Path) -> None:
    """Keep the name of a file of JSON for this command until it ends."""
    from ...files.outputs import claim

    if place.suffix.lower() != ".json":
        raise InvalidInput(f"--json-file {place}: expected a name that ends with .json")
    if place.is_dir():
        raise InvalidInput(f"--json-file {place}: expected a file to write, and this is a folder")
    output = ctx.params.get("output")
    if output is not None and place.absolute() == Path(output).absolute():
        raise InvalidInput(f"--json-file {place}: the output has this name; give it another")
    if output is not None and place.absolute().is_relative_to(Path(output).absolute()):
        raise InvalidInput(f"--json-file {place}: it lies in the output, which is written whole; give it another place")
    ctx.with_resource(claim(place, overwrite=bool(ctx.params.get("overwrite"))))


def close_to(name: str, known: Sequence[str]) -> str:
    """A question that follows an error: which of ``known`` was meant; empty where none is close.

    >>> close_to("quantise", ["prune", "quantize"])
    ' Did you mean quantize?'
    """
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=2)
    return f" Did you mean {' or '.join(close)}?" if close else ""
