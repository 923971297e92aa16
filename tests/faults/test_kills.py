"""A run that is killed at any moment, and started again, gives what an undisturbed one gives.

``EDGEPRESS_KILLS`` sets how often the slow test kills.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from random import Random
from typing import Any

import pytest

from compress.sources import artifact
from tests.faults.commands import Command, Worker
from tests.faults.kinds import common

TRAINING = "{epochs: 3, batch_size: 8, learning_rate: 0.05, augment: [flip], precision: fp32, accelerator: cpu}"
DATA = "data: {source: data.npz, validation: 0.2, calibration: 8}"
RECIPES = {
    "short": f"""
model: net.py:build
{DATA}
train: {TRAINING}
stages:
  - prune: {{macs: 1.2, round_to: 1, training: {TRAINING}}}
  - sparsify: {{sparsity: 0.5, training: {TRAINING}}}
""",
    "two prunes": f"""
model: net.py:build
{DATA}
train: {TRAINING}
stages:
  - prune: {{macs: 1.2, round_to: 1, steps: 2, training: {TRAINING}}}
  - sparsify: {{sparsity: 0.5, training: {TRAINING}}}
  - prune: {{macs: 1.1, round_to: 1, training: {TRAINING}}}
""",
    "integers": f"""
model: net.py:build
{DATA}
train: {TRAINING}
stages:
  - distill: {{training: {TRAINING}}}
  - sparsify: {{sparsity: 0.3, training: {TRAINING}}}
  - sparsify: {{sparsity: 0.6, training: {TRAINING}}}
  - quantize: {{ranges: {{samples: 8}}, revert_slower: false, train: {TRAINING}}}
""",
    "two processes": f"""
model: net.py:build
{DATA}
train: {TRAINING.replace("}", ", devices: 2}")}
stages:
  - fold
""",
    "few levels": f"""
model: net.py:build
{DATA}
train: {TRAINING}
stages:
  - quantize: {{ranges: {{samples: 8}}, scheme: ternary, first_last: same, train: {TRAINING}}}
""",
}
RUN = Command.of("run r.yaml --trust -q -o out")
MANY = int(os.environ.get("EDGEPRESS_KILLS", "50"))
TIMES = ("seconds", "created", "command", "machine")


def test_two_kills(worker: Worker, tmp_path: Path) -> None:
    kill(RECIPES["short"], 2, worker, tmp_path, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_many_kills(name: str, worker: Worker, tmp_path: Path) -> None:
    for number in range(max(1, MANY // 5 // len(RECIPES))):
        kill(RECIPES[name], 5, worker, tmp_path / str(number), seed=1 + number)


def kill(recipe: str, kills: int, worker: Worker, folder: Path, seed: int) -> None:
    """Run a recipe undisturbed, and again with kills, and compare.

    It is killed when it is about to write to its folder for a random time; the second of each three kills is SIGTERM at
    a random moment instead.
    """
    random = Random(seed)
    place = folder / "run"
    common(place)
    (place / "r.yaml").write_text(recipe)
    names = {path.name for path in place.iterdir()}
    whole, writes = worker.writes(RUN, place)
    assert whole.code in (0, 1), whole
    wanted = told(place / "out")
    shutil.rmtree(place / "out")
    for number in range(kills):
        if number % 3 == 1:
            moment = whole.seconds * random.uniform(0.05, 0.5)
            ended = worker.run(RUN, place, seconds=moment, number=signal.SIGTERM)
        else:
            ended = worker.run(RUN, place, seconds=300, dies_at=random.randrange(1, max(2, writes // 2)))
        if ended.code == whole.code:
            break  # it was faster than before, or had little left to write
        assert ended.code in (-signal.SIGKILL, 128 + signal.SIGTERM), f"kill {number} of seed {seed}: {ended}"
        assert not (place / "out").exists(), f"kill {number} of seed {seed} left an output that is not whole"
    if ended.code != whole.code:
        ended = worker.run(RUN, place, seconds=300)
    assert ended.code == whole.code and "anew" not in ended.err, f"seed {seed}: {ended}"
    assert told(place / "out") == wanted, f"seed {seed}"
    left = {path.name for path in place.iterdir() if path.name != "__pycache__"} - names
    assert left == {"out"} and not list((place / "out").rglob(".*")), left


def told(output: Path) -> dict[str, Any]:
    """What a run gave: the weights of every step, the names of all files, and the report without its times."""
    report = json.loads((output / "report.json").read_text())
    return {
        "weights": {p.parent.name: artifact._digest(p.read_bytes()) for p in output.rglob("weights.safetensors")},
        "files": sorted(str(path.relative_to(output)) for path in output.rglob("*")),
        "report": timeless(report),
    }


def timeless(value: Any) -> Any:
    """The value without what differs from run to run."""
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if key not in TIMES}
    return [timeless(item) for item in value] if isinstance(value, list) else value
