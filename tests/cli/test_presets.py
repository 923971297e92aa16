"""The recipes that come with the package: they run, as they are and as compress init writes them."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

import compress
from compress.errors import InvalidInput
from compress.presets import PRESETS, path
from compress.recipe import read
from compress.report import read as read_report
from tests.support.command_line import runner

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(
    small_net_file: Path, npz: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Run a command line beside ``net.py`` and ``data.npz``; returns its stdout, or the error where it fails."""
    assert small_net_file.parent == npz.parent
    monkeypatch.chdir(npz.parent)

    return runner(monkeypatch, capfd)


QUICK = "--set benchmark.preset=quick"
SHORT = (
    "--set stages.0.prune.training.epochs=1 --set stages.0.prune.training.precision=fp32 --set stages.0.prune.steps=2 "
    "--set stages.2.quantize.train.epochs=1"
)


def test_fast_on_a_network_of_the_zoo(run: Callable[..., str]) -> None:
    out = run(f"run fast resnet20:width=8 --data digits {QUICK} --set data.size=8 -o out")
    assert "its weights are random" in out
    report = read_report(Path("out"))
    assert [stage.name for stage in report.stages] == ["prune", "fold", "quantize"]
    assert not any(stage.history for stage in report.stages), "nothing is trained"
    assert report.summary.macs_ratio is not None and report.summary.macs_ratio >= 1.25
    assert {path.name for path in Path("out/exports").glob("*.onnx")} == {"baseline.onnx", "small.onnx"}


def test_best_with_short_trainings(run: Callable[..., str]) -> None:
    out = run(f"run best net.py:build:width=16 --data data.npz {QUICK} {SHORT} -o out")
    assert "random" not in out, "what a function returns may be trained"
    report = read_report(Path("out"))
    assert [stage.name for stage in report.stages if stage.history] == ["prune", "quantize"]
    assert report.summary.macs_ratio is not None and report.summary.macs_ratio >= 2


@pytest.mark.parametrize("name", PRESETS)
def test_init_writes_a_preset_for_a_network(run: Callable[..., str], name: str) -> None:
    run(f"init net.py:build:width=16 --data data.npz --preset {name} --target ort-x86 -o recipe.yaml -q")
    recipe, preset = read(Path("recipe.yaml")), compress.preset(name, "net.py:build", "data.npz")
    assert recipe.step_names == preset.step_names == ("prune", "fold", "quantize")
    assert recipe.model == "net.py:build:width=16" and recipe.train is not None
    ours, theirs = recipe.stages[0].prune, preset.stages[0].prune
    assert ours is not None and theirs is not None and (ours.macs, ours.select) == (theirs.macs, theirs.select)
    quantize = recipe.stages[2].quantize
    assert quantize is not None and quantize.target == "ort-x86"
    text = Path("recipe.yaml").read_text()
    comments = [line for line in path(name).read_text().splitlines() if line.startswith("  #")]
    assert comments and all(line in text for line in comments)


@pytest.mark.parametrize("name", PRESETS)
def test_init_leaves_out_the_pruning_of_what_has_no_channels_to_lose(run: Callable[..., str], name: str) -> None:
    run(f"init net.py:build:width=1 --data data.npz --preset {name} -o recipe.yaml -q")
    assert read(Path("recipe.yaml")).step_names == ("fold", "quantize")
    assert "# Channels are not pruned: " in Path("recipe.yaml").read_text()


@pytest.mark.parametrize(
    "line, words",
    [
        ("run fast -o out", "run fast: no network given; compress run fast NETWORK --data DATA"),
        ("run best net.py:build -o out", "run best: no data given"),
        ("run fast net.py:build --data nowhere.npz -o out", "nowhere.npz"),
        ("run fast resnet2 --data digits -o out", "resnet2"),
        ("run fast net.py:build --model net.py:build --data data.npz -o out", "given twice"),
        ("run fast net.py:build --data data.npz", "-o FOLDER"),
        ("init net.py:build --input-shape 1,8,8 --preset fast -o r.yaml", "give --data"),
        ("init net.py:build --preset quick -o r.yaml", "'quick'"),
    ],
)
def test_what_a_preset_lacks_is_told_at_once(run: Callable[..., str], line: str, words: str) -> None:
    assert words in run(line, code=2)
    assert not Path("out").exists() and not Path("r.yaml").exists()


def test_a_file_goes_before_a_preset(run: Callable[..., str]) -> None:
    Path("fast").write_text("model: nothing\n")
    assert "model nothing" in run("run fast -o out", code=2)


def test_presets_go_with_the_package() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        patterns = tomllib.load(file)["tool"]["setuptools"]["package-data"]["compress"]
    shipped = {found for pattern in patterns for found in (ROOT / "compress").glob(pattern)}
    assert {path(name) for name in PRESETS} <= shipped
    with pytest.raises(InvalidInput, match="fast, best"):
        compress.preset("slow", "resnet20")
