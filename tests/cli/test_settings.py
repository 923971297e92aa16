"""A setting is the same on the command line, in a recipe and in Python: its name, its default and what it takes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import click
import pytest
from pydantic import BaseModel

from compress.cli import COMMANDS, cli
from compress.cli.generate.__main__ import CONFIGURATIONS, LEFT_OUT
from compress.cli.generate.shapes import configuration_in, in_words, standard
from compress.cli.grammar import generated
from compress.cli.grammar.parameters import Command, Option
from compress.cli.session import Options, settings_of
from compress.core.settings import setting_of
from compress.errors import InvalidInput
from compress.prune import Prune


def command_of(name: str) -> click.Command:
    """The command that has the settings of a configuration: its name, or what it begins with (``bench_modes``)."""
    own = name.replace("_", "-")
    command = cli.get_command(click.Context(cli), own if own in COMMANDS else own.partition("-")[0])
    assert command is not None
    return command


def leaves(kind: type[BaseModel], place: str = "") -> Iterator[tuple[str, Any, str | None, bool]]:
    """The place, default and unit of each setting, and whether it is asked of people."""
    for name, field in kind.model_fields.items():
        inner = configuration_in(field)
        if inner is None:
            own = setting_of(field)
            yield f"{place}{name}", field.get_default(call_default_factory=True), own.unit, not own.hidden
            continue
        made = standard(field)
        for below, default, unit, shown in leaves(inner, f"{place}{name}."):
            last = below.removeprefix(f"{place}{name}.")
            yield below, getattr(made, last) if made is not None and "." not in last else default, unit, shown


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_setting_has_one_option_with_its_default(name: str) -> None:
    options = {option.name: option for option in command_of(name).params if isinstance(option, Option)}
    for place, default, unit, shown in leaves(CONFIGURATIONS[name]):
        if not shown or place in LEFT_OUT.get(name, ()):
            assert place not in options
            continue
        option = options[place]
        entry = next(each for each in generated.settings(name) if each["name"] == place)
        if entry.get("switch") != place:  # what is left out as a whole has no default
            assert option.default_told == in_words(default, unit)
        assert option.default is None, "the configuration has the default"


def words(text: str) -> set[str]:
    return {re.sub(r"(?<=ss)es$|(?<!s)s$", "", word) for word in re.split(r"[-_.]+", text) if word}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_an_option_has_the_words_of_its_setting(name: str) -> None:
    for entry in generated.settings(name):
        place, flag = entry["name"], entry["flags"][-1]
        own = words(place.rpartition(".")[2])
        assert own <= words(flag) or words(flag) <= words(place), f"{place} is typed {flag}"


def parsed(name: str, line: str) -> dict[str, Any]:
    context = command_of(name).make_context(name, [*line.split(), "net", "-o", "out"])
    with context:
        return settings_of(name, dict(context.params), CONFIGURATIONS[name])


def test_what_is_not_typed_is_left_to_the_configuration() -> None:
    assert parsed("share", "") == {}
    assert parsed("share", "--bits 4 --exclude a,b --epochs 2 --lr 0.1") == {
        "bits": 4,
        "exclude": ("a", "b"),
        "training": {"epochs": 2, "learning_rate": 0.1},
    }
    assert parsed("share", "--epochs 0 --lr 0.1") == {}, "no training is asked for"
    assert parsed("sparsify", "--block 2,8 --augment flip,crop --epochs 1")["block"] == ("2", "8")
    assert parsed("prune", "--criterion taylor --score-batches 4 --aggregate max --repair none --round-to 4") == {
        "criterion": {"taylor": {"batches": 4, "aggregate": "max"}},
        "repair": "none",
        "round_to": 4,
    }
    assert Prune(**parsed("prune", "--ratio 0.5 --repair none")).repair == ()
    assert parsed("prune", "--aggregate max --limit a=0.5,b=0.2")["criterion"] == {"l1": {"aggregate": "max"}}
    with pytest.raises(InvalidInput, match=r"--lr: .* give --epochs too"):
        parsed("share", "--lr 0.1")


def test_data_are_split_as_is_typed() -> None:
    call = Options(network="resnet20", data="digits", calibration=32, validation=0.5)
    usual, data = Options(network="resnet20", data="digits").load_data(), call.load_data()
    assert usual is not None and data is not None
    assert len(data.splits["calibration"]) == 32 < len(usual.splits["calibration"])
    assert len(data.splits["validation"]) > 3 * len(usual.splits["validation"])


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_commands_that_take_data_say_how_it_is_split(name: str) -> None:
    flags = {flag for param in command_of(name).params for flag in param.opts}
    assert ("--data" in flags) == ({"--validation-share", "--calibration-samples"} <= flags)


def test_an_option_is_called_as_no_other_one() -> None:
    twice = [click.Option(["--data"]), click.Option(["--data"], expose_value=False)]
    with pytest.raises(InvalidInput, match="compress c: several options are called --data; rename all but one"):
        Command("c", params=list(twice))


def test_no_option_is_a_path_in_one_command_and_a_word_in_another() -> None:
    kinds: dict[str, set[str]] = {}
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        for option in command.params:
            for flag in option.opts if isinstance(option, click.Option) else ():
                kind = "path" if isinstance(option.type, click.Path) else type(option.type).__name__
                kinds.setdefault(flag, set()).add("word" if kind in ("Choice", "Words") else kind)
    assert {"--stage", "--sensitivity"} <= {flag for flag, kind in kinds.items() if kind == {"word"}}
    assert not [flag for flag, kind in kinds.items() if kind >= {"path", "word"}]
