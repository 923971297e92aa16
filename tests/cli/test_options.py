"""Numbers that are none are refused by every option that takes one, under the name that was typed."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import click
import pytest

from compress.cli import COMMANDS, cli, main
from compress.prune import Prune
from compress.prune.regularize import Regularize
from compress.quantize import Quantize
from compress.sparsify import Sparsify
from compress.training.loop import Training

VALUES = ("-1", "nan", "inf", "1e400", "1" + "0" * 30)
IN_WORDS = {
    "--mean": ("nan", "1e400", "a"),
    "--std": ("0", "-1", "inf"),
    "--input-shape": ("0,8,8", "1,1e9,8", "1,-8,8", "9" * 5000, "1,100000,100000", "1,2,3,4,5,6,7,8,9"),
    "--ratios": ("nan", "0.5,2", "0.5,0.25", "-1", "a"),
    "--block": ("0,4", "-1,4", "4", "a,b", "4," + "9" * 30),
    "--limit": ("a=nan", "a=2", "a=-1", "a", "a=x"),
    "--recover": ("smooth=nan", "smooth=2", "smooth=-1", "smooth=some", "adaround=0"),
    "--cores": ("x", "1.5", "-1", "3-", "9" * 30),
    "--round-to": ("0", "-1", "1.5", "²", "9" * 5000, "some"),
}
"""Options whose text holds numbers."""

ARGUMENTS = {
    "bench": ["net:build", "--data", "digits"],
    "check": ["folder"],
    "compare": ["a.json", "b.json"],
    "diagnose": ["net:build", "--data", "digits"],
    "doctor": [],
    "pack": ["model.onnx"],
    "profile": ["net:build", "--data", "digits"],
    "regularize": ["net:build", "--data", "digits", "--ratio", "0.5", "--method", "growing", "-o", "out"],
    "report": ["folder"],
    "run": ["recipe.yaml", "-o", "out"],
    "share": ["net:build", "--data", "digits", "-o", "out"],
    "sparsify": ["net:build", "--data", "digits", "--granularity", "block", "-o", "out"],
    "unpack": ["model.onnx.packed"],
    "analyze": ["net:build", "--data", "digits"],
}
TARGETS = {"prune": ("--ratio", "0.5"), "remove-blocks": ("--count", "1"), "substitute": ("--with", "stacked_3x3")}


def arguments(command: str, option: str) -> list[str]:
    """A command line to which nothing but the option is missing, as far as options alone are looked at."""
    given = list(ARGUMENTS.get(command, ["net:build", "--data", "digits", "-o", "out"]))
    if option in given:
        del given[given.index(option) : given.index(option) + 2]
    if option in {named(each) for each in options(command) if (each.name or "").startswith("training.")} - {"--epochs"}:
        given += ["--epochs", "1"]
    given += ["--criterion", "taylor"] if option == "--score-batches" else []
    target = TARGETS.get(command)
    other = {"--macs", "--parameters", "--size", "--latency", "--count", "--ratio"}
    return given + (list(target) if target is not None and option not in other else [])


def options(command: str) -> list[click.Option]:
    found = cli.get_command(click.Context(cli), command)
    assert found is not None
    return [each for each in found.params if isinstance(each, click.Option)]


def named(option: click.Option) -> str:
    """The option as messages have it."""
    return next(each for each in option.opts if each.startswith("--"))


NUMERIC = [
    (command, named(option))
    for command in COMMANDS
    for option in options(command)
    if isinstance(option.type, (click.types.IntParamType, click.types.FloatParamType))
]
CASES = [(command, name, value) for command, name in NUMERIC for value in VALUES] + [
    (command, name, value)
    for command in COMMANDS
    for option in options(command)
    if (name := named(option)) in IN_WORDS
    for value in IN_WORDS[name]
    if (command, name) != ("bench", "--input-shape")  # it is of networks that are no file yet
]


def test_every_command_has_numbers() -> None:
    assert {command for command, _ in NUMERIC} == set(COMMANDS) - {"completion", "devices"} and len(NUMERIC) > 100


@pytest.mark.parametrize("command", COMMANDS)
def test_numbers_that_are_none_are_refused(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for _, option, value in (case for case in CASES if case[0] == command):
        line = ["compress", command, *arguments(command, option), f"{option}={value}"]
        monkeypatch.setattr(sys, "argv", line)
        with pytest.raises(SystemExit) as end:
            main()
        err = capfd.readouterr().err
        told = err.splitlines()[-1]
        assert end.value.code == 2 and told.startswith("error: "), f"{line}: {err}"
        assert option in told and len(told) < 700, f"{line}: {told}"
        assert not list(tmp_path.iterdir())


SETTINGS = {
    "prune": (Prune, {}),
    "quantize": (Quantize, {}),
    "sparsify": (Sparsify, {}),
    "regularize": (Regularize, {}),
    "train": (Training, {"learning_rate": "--lr"}),
}


@pytest.mark.parametrize("command", SETTINGS)
def test_settings_are_told_as_they_are_typed(command: str) -> None:
    from compress.cli.session import typed

    kind, otherwise = SETTINGS[command]
    module = importlib.import_module(f"compress.cli.{command}")
    names = {(option.name or "").rpartition(".")[2]: named(option) for option in options(command)}
    with click.Context(module.command):
        for field in kind.model_fields:  # type: ignore[attr-defined]
            if field in names and field not in otherwise:
                assert typed(field) == names[field] and typed(field).startswith("--")
        assert typed("learning_rate") == "--lr"


@pytest.mark.parametrize(
    "line, says",
    [
        ("prune net:build --epochs 1 --lr 0 --ratio 0.5 -o out", "--lr: Input should be greater than 0, got 0.0"),
        ("prune net:build -o out", "one of --ratio, --macs, --parameters, --size and --latency, got none"),
        ("prune net:build --ratio 0.5 --macs 2 -o out", "and --latency, got --ratio, --macs"),
        ("remove-blocks net:build -o out", "give exactly one of --count and --macs"),
        ("quantize net:build --calibration-momentum 1 -o out", "--calibration-momentum: Input should be less than 1"),
        ("quantize net:build --size 2 --latency 2 -o out", "give one budget: --size or --latency"),
        ("quantize net:build --scheme ternary --recover equalize -o out", "equalize: not with the scheme ternary"),
        ("sparsify net:build --schedule gradual -o out", "set --epochs, or --schedule one_shot"),
        ("sparsify net:build --granularity n:m --n 4 -o out", "leaves --n of --m weights"),
        ("regularize net:build --method growing --data digits -o out", "growing needs a --ratio"),
        ("regularize net:build --epochs 0 --data digits -o out", "--epochs of the training must be at least 1"),
        ("train net:build --augment spin --data digits -o out", "--augment: Input should be 'flip'"),
        ("fold net:build --data digits --input-shape 1,99999,99999 -o out", "--input-shape 1,99999,99999"),
    ],
)  # fmt: skip
def test_messages_name_options(
    line: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["compress", *line.split()])
    with pytest.raises(SystemExit) as end:
        main()
    err = capfd.readouterr().err
    assert end.value.code == 2 and says in err.splitlines()[-1] and "`" not in err, err


@pytest.mark.parametrize("option", ["--threads", "--cores", "--seed"])
@pytest.mark.parametrize("value", [*VALUES, "x", "1.5"])
def test_the_command_without_torch_refuses_them_too(option: str, value: str, capfd: pytest.CaptureFixture[str]) -> None:
    from runtimes.__main__ import main as measure

    assert measure(["net.onnx", f"{option}={value}"]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: ") and option in line
