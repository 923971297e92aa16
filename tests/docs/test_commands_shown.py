"""Every command line that README and documentation show can be typed: its options exist, with such values."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import click
import pytest

from compress.cli import cli, main
from tests.support.documents import PAGES, ROOT, blocks, inline, lines

SHOWN = [(str(block), words) for page in PAGES for block in blocks(page, "sh") for words in lines(block)] + [
    (str(page.relative_to(ROOT)), words) for page in PAGES for words in inline(page)
]
COMMANDS = [(place, words[1:]) for place, words in SHOWN if words[0] == "compress"]
QUICKSTART = ROOT / "docs" / "quickstart.md"


def parse(words: list[str]) -> None:
    """Read the words as the command line does, without doing anything.

    Raises:
        click.UsageError: an option or argument does not exist or cannot be this.
    """
    with click.Context(cli, info_name="compress") as group:
        name, command, rest = cli.resolve_command(group, list(words))
        assert command is not None
        command.make_context(name, rest, parent=group)


def test_there_are_many() -> None:
    assert len(COMMANDS) > 60


@pytest.mark.parametrize(("place", "words"), COMMANDS, ids=[f"{p}: {' '.join(w)}"[:90] for p, w in COMMANDS])
def test_a_line_that_is_shown_can_be_typed(place: str, words: list[str]) -> None:
    try:
        parse(words)
    except click.exceptions.Exit as end:  # --help and --version end here
        assert end.exit_code == 0
    except click.UsageError as error:
        pytest.fail(f"{place}: compress {' '.join(words)}: {error.format_message()}")


@pytest.mark.parametrize("words", [["prune", "net", "--no-such-option", "-o", "out"], ["prune", "net", "--ratio", "a"]])
def test_a_wrong_line_is_seen(words: list[str]) -> None:
    with pytest.raises(click.UsageError):
        parse(words)


OPTION = re.compile(r"`(--[a-z][a-z0-9-]*)")
KNOWN = {
    name
    for command in cli.list_commands(click.Context(cli))
    for parameter in (cli.get_command(click.Context(cli), command) or cli).params
    for name in (*parameter.opts, *parameter.secondary_opts)
} | {"--help", "--help-all", "--version", "--quick"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_options_in_running_text_exist(page: Path) -> None:
    if page.name == "results.md":  # it has options of benchmarks
        return
    unknown = set(OPTION.findall(page.read_text(encoding="utf-8"))) - KNOWN
    assert not unknown, f"{page.relative_to(ROOT)}: no command has {', '.join(sorted(unknown))}"


def test_options_are_known_by_all_of_their_names() -> None:
    assert {"--macs", "--per-tensor", "--output", "--trust", "--help"} <= KNOWN and len(KNOWN) > 100


SCRIPTS = sorted({tuple(words[2:]) for _, words in SHOWN if words[:2] == ["python", "-m"]})


@pytest.mark.parametrize("words", SCRIPTS, ids=" ".join)
def test_modules_that_are_shown_exist_and_have_their_options(words: tuple[str, ...]) -> None:
    place = ROOT / Path(*words[0].split("."))
    text = (place / "__main__.py" if place.is_dir() else place.with_suffix(".py")).read_text(encoding="utf-8")
    for option in [word for word in words[1:] if word.startswith("--")]:
        assert f'"{option}"' in text, f"{words[0]} has no {option}"


TARGETS = sorted({words[1] for _, words in SHOWN if words[0] == "make"})


@pytest.mark.parametrize("target", TARGETS)
def test_targets_of_make_that_are_shown_exist(target: str) -> None:
    assert f"\n{target}:" in (ROOT / "Makefile").read_text(encoding="utf-8")


def steps() -> list[list[str]]:
    """The commands of the quickstart, in order, with a smaller network that learns for one epoch."""
    made = []
    for words in [words for block in blocks(QUICKSTART, "sh") for words in lines(block) if words[0] == "compress"]:
        small = ["resnet20:width=4" if word == "resnet20" else word for word in words]
        small = ["1" if before == "--epochs" else word for before, word in zip(["", *small], small, strict=False)]
        made.append(small)
    return made


def test_the_quickstart_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert [words[1] for words in steps()] == ["train", "prune", "quantize", "export", "check", "bench", "analyze"]
    for words in steps():
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 0, f"{' '.join(words)}: {capfd.readouterr().err}"
    assert (tmp_path / "out" / "files" / "model.onnx").is_file()
