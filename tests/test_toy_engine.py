"""One file beside the engines and one beside the formats add an engine everywhere: those of ``examples/toy_engine``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.copied_packages import ROOT, copy_packages

EXAMPLE = ROOT / "examples" / "toy_engine"
NETWORK = """
import torch
from torch import nn

def build() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 8, 3, stride=2), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(72, 10)).eval()
"""
RECIPE = """
model: net.py:build
data: {source: data.npz}
stages: [{quantize: {target: toy}}]
exports: [{name: float, format: toy}, {name: int8, after: quantize, target: toy}]
benchmark: {preset: quick}
gates: {score_drop: 100}
"""
LINES = (
    "doctor --json",
    "quantize net.py:build --data data.npz --target toy --json -o int8",
    "export int8 --format toy --data data.npz --json -o files",
    "check files --json",
    "export int8 --target toy --json -o net.toy",
    "bench net.toy --preset quick --json",
    "bench int8 --format toy --preset quick --data data.npz",
    "run recipe.yaml -o out --quiet",
    "export int8 --format toys -o other",
    "export --help",
)
SCRIPT = """
import contextlib, dataclasses, io, json, sys
import torch
from compress.cli import main
from compress.cli.generate.engine_pages import page
from compress.recipe import Recipe
from export.facts import formats_here
from runtimes.measure.presets import PRESETS

PRESETS["quick"] = dataclasses.replace(PRESETS["quick"], warmup_s=0.0, seconds=0.02)
torch.set_num_threads(1)
ended = {}
for line in json.loads(sys.argv[1]):
    sys.argv = ["compress", *line.split()]
    said, complained = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(complained):
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code
    ended[line] = [code, said.getvalue(), complained.getvalue()]
print(json.dumps({"ended": ended, "schema": Recipe.model_json_schema(), "page": page(), "here": formats_here()}))
"""


@dataclass(frozen=True)
class World:
    """Copies of our packages with the toy engine among them, and what the command said there."""

    folder: Path
    ended: Mapping[str, tuple[int, str, str]]
    schema: Mapping[str, Any]
    page: str
    here: tuple[str, ...]

    def said(self, start: str, code: int = 0) -> str:
        """What the command line that starts so wrote to stdout."""
        line = next(line for line in self.ended if line.startswith(start))
        ended, said, complained = self.ended[line]
        assert ended == code, f"{line}: {complained}"
        return said

    def json(self, start: str) -> Any:
        """Likewise, as JSON."""
        return json.loads(self.said(start))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("toy")
    copy_packages(folder)
    for file in EXAMPLE.rglob("*.py"):
        shutil.copy(file, folder / file.relative_to(EXAMPLE))
    work = folder / "work"
    work.mkdir()
    (work / "net.py").write_text(NETWORK)
    (work / "recipe.yaml").write_text(RECIPE)
    pixels = np.random.default_rng(0).integers(0, 255, (140, 1, 8, 8), dtype=np.uint8)
    labels = np.arange(140) % 10
    np.savez(work / "data.npz", x_train=pixels[:120], y_train=labels[:120], x_test=pixels[120:], y_test=labels[120:])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(LINES)],
        cwd=work,
        env={**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    return World(
        folder,
        {line: tuple(ended) for line, ended in told["ended"].items()},
        told["schema"],
        told["page"],
        tuple(told["here"]),
    )


def test_it_is_two_files() -> None:
    files = sorted(file.relative_to(EXAMPLE).as_posix() for file in EXAMPLE.rglob("*") if file.is_file())
    assert [file for file in files if "__pycache__" not in file] == ["export/toy.py", "runtimes/engines/toy.py"]


def test_doctor_knows_it(world: World) -> None:
    told = world.json("doctor")["engines"]["toy"]
    assert told["version"] and (told["title"], told["formats"], told["targets"]) == ("Toy", ["toy"], ["toy"])


def test_help_and_refusals_name_it(world: World) -> None:
    assert "toy" in world.said("export --help")
    line = next(line for line in world.ended if "toys" in line)
    assert world.ended[line][0] == 2 and "'toy'" in world.ended[line][2]


def test_the_schema_of_recipes_lists_it(world: World) -> None:
    properties = world.schema["$defs"]["Export"]["properties"]
    for setting in ("format", "target"):
        assert "toy" in json.dumps(properties[setting]), setting


def test_the_parity_table_has_a_column_for_it(world: World) -> None:
    from benchmarks.parity_matrix.__main__ import FORMATS
    from export.facts import formats_here

    assert formats_here() == FORMATS and "toy" not in FORMATS
    assert set(world.here) == {*FORMATS, "toy"}


def test_the_documentation_lists_it(world: World) -> None:
    assert "| Toy | `toy` | `pip install onnx` |  |" in world.page
    assert "| Toy | `toy` | `.toy` | Toy | `toy` |" in world.page
    assert "| `toy` | Toy | int8 |" in world.page


def test_a_network_is_quantized_and_written_for_it(world: World) -> None:
    world.said("quantize")
    (record,) = [world.json("export int8 --format")]
    assert (record["format"], record["engine"], record["target"]) == ("toy", "toy", "toy")
    assert record["parity"]["snr_db"] > 60, "the file computes what the simulation of its target does"
    assert world.json("export int8 --target")["parity"]["snr_db"] > 60
    assert (world.folder / "work" / "files" / "model.toy").is_file()


def test_its_files_are_checked(world: World) -> None:
    (checked,) = world.json("check")["files"]
    assert (checked["engine"], checked["kind"], checked["passed"]) == ("toy", "integer", True)
    assert checked["parity"]["top1_agreement"] == 100


def test_its_files_are_timed(world: World) -> None:
    (measured,) = world.json("bench net.toy")["measurements"]
    assert measured["runtime"] == "toy" and measured["latency_ms"]["p50"] > 0
    assert "toy" in world.said("bench int8")


def test_reports_tell_its_title_and_parity(world: World) -> None:
    world.said("run")
    out = world.folder / "work" / "out"
    report = json.loads((out / "report.json").read_text())
    assert [(each["name"], each["engine"]) for each in report["exports"]] == [("float", "toy"), ("int8", "toy")]
    assert all(each["parity"]["snr_db"] > 60 for each in report["exports"])
    page = (out / "report.html").read_text()
    assert "Toy, 1 thread" in page or "Toy 1" in page


def test_a_board_runs_it_without_torch(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.folder / "runtimes", tmp_path / "runtimes")
    code = (
        "import sys; sys.modules['torch'] = None\nfrom runtimes.__main__ import main\n"
        f"sys.exit(main(['check', {str(world.folder / 'work' / 'files')!r}]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["engine"] == "toy"


def test_the_contract_of_engines_is_tested_for_it(world: World) -> None:
    copy_packages(world.folder, "tests")
    shutil.copy(ROOT / "pyproject.toml", world.folder)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-n0", "-p", "no:cacheprovider", "-k", "toy"),
            "tests/runtimes/test_runtime_contract.py",
        ],
        cwd=world.folder,
        env={**os.environ, "PYTHONPATH": str(world.folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and "100%" in done.stdout, done.stdout
