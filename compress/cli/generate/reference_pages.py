"""The pages of the reference on commands and on settings, written from the commands and the configurations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import click
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from ...core.settings import setting_of
from ...recipe import STAGES, Benchmark, Export, Gates, Recipe
from ...training.loop import Training
from .. import COMMANDS, cli
from ..grammar import parameters
from .shapes import configuration_in, in_words, parts_in, shape_of, standard


def commands() -> str:
    """Every command with all of its options, under their headings."""
    lines = ["# Commands", "", "Generated from the commands, whose `--help-all` says the same.", ""]
    context = click.Context(cli, info_name="compress")
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        lines += [f"## compress {name}", "", *_description(command), *_options(command, name, context)]
    return "\n".join(lines).rstrip() + "\n"


def _description(command: click.Command) -> Iterator[str]:
    """What a command does, and its examples as lines of a shell."""
    text, _, examples = (command.help or "").partition("\b\n")
    for paragraph in text.split("\n\n"):
        if paragraph.strip():
            yield from (_plain(paragraph), "")
    commands = (line.strip().partition(" | ")[0].partition(" > ")[0] for line in examples.splitlines())
    lines = [line for line in commands if line.startswith("compress ")]
    if lines:
        yield from ("```sh", *lines, "```", "")


def _options(command: click.Command, name: str, parent: click.Context) -> Iterator[str]:
    groups: dict[str, list[tuple[str, str]]] = {}
    context = click.Context(command, info_name=name, parent=parent)
    context.meta[parameters.SHOWS_ALL] = True
    for option in command.params:
        if not isinstance(option, click.Option) or option.hidden:
            continue
        record = option.get_help_record(context)
        assert record is not None
        groups.setdefault(getattr(option, "group", "") or parameters.OPTIONS, []).append(record)
    for group in sorted(groups, key=lambda each: parameters.LAST.index(each) if each in parameters.LAST else -1):
        yield from ("```{list-table}", f":header-rows: 1\n\n* - {group[:1].upper()}{group[1:]}\n  - ")
        for flags, description in groups[group]:
            yield f"* - `{flags}`\n  - {_plain(description)}"
        yield from ("```", "")


def settings() -> str:
    """Every key of a recipe: what it is, its default and what it takes."""
    lines = [
        *("# Settings of a recipe", ""),
        "Generated from the configurations. A stage is written in `stages` as its name with its settings; its class in",
        "Python has the same. `recipes/schema.json` tells editors so.",
        "",
        *_section("recipe", Recipe),
        *_section("data", _inside(Recipe, "data")),
        *_section("train, and training of stages", Training),
    ]
    for name, kind in STAGES.items():
        lines += _section(name, kind)
    for title, kind in (("exports", Export), ("benchmark", Benchmark), ("gates", Gates)):
        lines += _section(title, kind)
    return "\n".join(lines).rstrip() + "\n"


def _inside(kind: type[BaseModel], name: str) -> type[BaseModel]:
    inner = configuration_in(kind.model_fields[name])
    assert inner is not None, f"{kind.__name__}.{name} is a configuration"
    return inner


def _section(title: str, kind: type[BaseModel]) -> Iterator[str]:
    yield from (f"## {title}", "", *(part for line in _first(kind) for part in (line, "")))
    rows = list(_rows(kind))
    if not rows:
        yield from ("It has no settings.", "")
        return
    yield from ("```{list-table}", ":header-rows: 1\n\n* - Key\n  - Default\n  - ")
    for place, default, description in rows:
        shown = f"`{default}`" if default else ""
        yield f"* - `{place}`\n  - {shown}\n  - {description}"
    yield from ("```", "")


def _first(kind: type[BaseModel]) -> list[str]:
    return [_plain((kind.__doc__ or "").partition("\n\n")[0])]


def _rows(kind: type[BaseModel], place: str = "", made: BaseModel | None = None) -> Iterator[tuple[str, str, str]]:
    for name, field in kind.model_fields.items():
        inner, parts = configuration_in(field), parts_in(field)
        help_text = _plain(field.description or "")
        if inner is Training:
            own = standard(field)
            usual = Training()
            others = [each for each in Training.model_fields if getattr(own, each) != getattr(usual, each)]
            differ = ", ".join(f"`{each}: {in_words(getattr(own, each), None)}`" for each in others)
            yield f"{place}{name}", "", help_text + (f" Its own defaults are {differ}." if differ else "")
        elif inner is not None and parts is None and kind is not Recipe:
            yield f"{place}{name}", "", help_text
            yield from _rows(inner, f"{place}{name}.", standard(field))
        else:
            default = getattr(made, name) if made is not None else field.get_default(call_default_factory=True)
            words: Iterable[str] = parts.names if parts is not None else shape_of(field.annotation)[1]
            unit = setting_of(field).unit
            takes = f" One of {', '.join(map(str, words))}." if words else ""
            shown = str(default).lower() if isinstance(default, bool) else "" if inner else in_words(default, unit)
            required = " Required." if default is PydanticUndefined else ""
            yield f"{place}{name}", shown, f"{help_text}{takes}{required}"


def _plain(text: str) -> str:
    return " ".join(text.replace("``", "`").split())
