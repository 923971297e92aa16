"""Every benchmark answers --help at once and without the peers; the frame resumes, writes and judges."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from benchmarks.common.frame import ROOT, Run, benchmark
from benchmarks.common.results import Column, read

FOLDER = ROOT / "benchmarks"
SHARED = {"common", "peers", "checkpoints", "results", "__pycache__"}
NAMES = sorted(
    path.stem
    for path in FOLDER.iterdir()
    if path.stem not in {"__init__", *SHARED} and (path.suffix == ".py" or path.is_dir())
)


def command(name: str) -> click.Command:
    """The command of a benchmark."""
    module = f"benchmarks.{name}" if (FOLDER / f"{name}.py").exists() else f"benchmarks.{name}.__main__"
    found = importlib.import_module(module).main
    assert isinstance(found, click.Command)
    return found


def test_all_are_found() -> None:
    assert len(NAMES) >= 20 and {"halving", "startup", "parity_matrix", "pruning_accuracy"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_help(name: str) -> None:
    done = CliRunner().invoke(command(name), ["--help"])
    assert done.exit_code == 0, done.output
    assert f"python -m benchmarks.{name}" in done.output
    assert {"--quick", "--again", "--threads", "--output", "--work"} <= set(done.output.replace(",", " ").split())


def test_help_imports_nothing_heavy() -> None:
    modules = [f"benchmarks.{n}" if (FOLDER / f"{n}.py").exists() else f"benchmarks.{n}.__main__" for n in NAMES]
    code = (
        f"import importlib, sys\nfor name in {modules!r}:\n    importlib.import_module(name)\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'numpy', 'pydantic', 'rich', 'timm', 'nncf'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr


def test_peers_that_are_missing_are_told_of_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("EDGEPRESS_PEERS", raising=False)
    place = ["-o", str(tmp_path / "r.json"), "--work", str(tmp_path / "work")]
    done = CliRunner().invoke(command("surgery_time"), place)
    assert done.exit_code == 1 and "--peers" in done.output and "make peers" in done.output
    assert not list(tmp_path.iterdir())


def toy(made: list[str]) -> click.Command:
    """A benchmark that measures two parts, and remembers what it measured."""

    @benchmark("toy", "Toys are measured.\n\n    python -m benchmarks.toy\n\nTwo of them.", seeds="0")
    @click.option("--limit", default=1.0)
    @click.option("--fail", is_flag=True)
    def main(run: Run, limit: float, fail: bool) -> None:
        def measure(name: str) -> dict[str, float]:
            if fail and name == "b":
                raise RuntimeError("interrupted")
            made.append(name)
            return {"value": 2.0}

        rows = [{"name": n, **run.part(n, lambda n=n: measure(n), seeds=run.seeds)} for n in ("a", "b")]  # type: ignore[misc]
        run.table((Column(key="name", title="name"), Column(key="value", title="value")), rows)
        run.bar("value", 2.0, limit, "at least")
        run.note("Done.")

    return main


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    made: list[str] = []
    main, output = toy(made), tmp_path / "toy.json"
    place = ["-o", str(output), "--work", str(tmp_path / "work")]
    stopped = CliRunner().invoke(main, [*place, "--fail"])
    assert isinstance(stopped.exception, RuntimeError) and made == ["a"] and not output.exists()
    (part,) = (tmp_path / "work" / "parts").glob("*.json")
    kept = json.loads(part.read_text())
    part.write_text(json.dumps({**kept, "versions": {**kept["versions"], "a peer": "1.2"}}))
    done = CliRunner().invoke(main, place)
    assert done.exit_code == 0 and made == ["a", "b"]
    results = read(output)
    assert results.tables[0].rows == ({"name": "a", "value": 2.0}, {"name": "b", "value": 2.0})
    assert results.title == "Toys are measured." and results.seeds == (0,) and "torch" in results.versions
    assert results.versions["a peer"] == "1.2", "what an earlier run measured with"
    assert results.command == "python -m benchmarks.toy " + " ".join(place)
    assert "| a | 2 |" in done.output and "Done." in done.output


def test_other_settings_and_again_measure_again(tmp_path: Path) -> None:
    made: list[str] = []
    main, place = toy(made), ["-o", str(tmp_path / "toy.json"), "--work", str(tmp_path / "work")]
    for options, total in (([], 2), ([], 2), (["--seeds", "1"], 4), (["--seeds", "1", "--again"], 6)):
        assert CliRunner().invoke(main, [*place, *options]).exit_code == 0
        assert len(made) == total


def test_a_missed_bar_is_the_exit_code_and_is_written(tmp_path: Path) -> None:
    place = ["-o", str(tmp_path / "toy.json"), "--work", str(tmp_path / "work")]
    done = CliRunner().invoke(toy([]), [*place, "--limit", "3"])
    assert done.exit_code == 1 and "**missed**" in done.output
    assert not read(tmp_path / "toy.json").bars[0].holds
    assert CliRunner().invoke(toy([]), [*place, "--limit", "3", "--quick"]).exit_code == 0
    assert json.loads((tmp_path / "toy.json").read_text())["schema_version"] == 1


def test_seeds_that_are_none_are_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(toy([]), ["--work", str(tmp_path / "work"), "--seeds", "0;1"])
    assert done.exit_code == 2 and "commas" in done.output and not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("startup",),
        ("widths",),
        ("few_bits_files",),
        ("sparse", "--patterns"),
        ("parity_matrix", "--format", "onnx"),
        ("slimming", "--data", "digits", "--model", "vgg11_bn", "--width", "0.125"),
    ],
    ids=lambda words: words[0],
)
def test_quick_runs_write_results(words: tuple[str, ...], tmp_path: Path) -> None:
    name, *options = words
    place = ["--quick", "-o", str(tmp_path / "results.json"), "--work", str(tmp_path / "work")]
    done = CliRunner().invoke(command(name), [*options, *place], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    results = read(tmp_path / "results.json")
    assert results.quick and results.name == name and results.tables[0].rows
