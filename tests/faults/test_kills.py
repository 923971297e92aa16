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

from compress import artifact
from tests.faults.commands import Command, Worker
from tests.faults.kinds import common

TRAINING = "{epochs: 3, batch_size: 8, learning_rate: 0.05, augment: [flip], precision: fp32, accelerator: cpu}"
DATA = "data: {source: data.npz, validation: 0.2, calibration: 8}"
RECIPES = {
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
  - quantize: {{samples: 8, revert_slower: false, training: {TRAINING}}}
""",
    "few levels": f"""
model: net.py:build
{DATA}
train: {TRAINING}
stages:
  - quantize: {{samples: 8, scheme: ternary, training: {TRAINING}}}
""",
}
RUN = Command.of("run r.yaml --trust -q -o out")
MANY = int(os.environ.get("EDGEPRESS_KILLS", "50"))
TIMES = ("seconds", "created", "command", "machine")


@pytest.mark.parametrize("name", ["two prunes"])
def test_two_kills(name: str, worker: Worker, tmp_path: Path) -> None:
    kill(RECIPES[name], [signal.SIGKILL, signal.SIGTERM], worker, tmp_path, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_many_kills(name: str, worker: Worker, tmp_path: Path) -> None:
    signals = [signal.SIGKILL, signal.SIGKILL, signal.SIGTERM]
    for round_ in range(max(1, MANY // 5 // len(RECIPES))):
        kill(RECIPES[name], (signals * 2)[:5], worker, tmp_path / str(round_), seed=1 + round_)


def kill(recipe: str, signals: list[signal.Signals], worker: Worker, folder: Path, seed: int) -> None:
    """Run a recipe undisturbed, and again with a kill at random moments, and compare."""
    random = Random(seed)
    place = folder / "run"
    common(place)
    (place / "r.yaml").write_text(recipe)
    names = {path.name for path in place.iterdir()}
    whole = worker.run(RUN, place, seconds=300)
    assert whole.code in (0, 1), whole
    wanted = told(place / "out")
    shutil.rmtree(place / "out")
    killed = 0
    for number in signals:
        ended = worker.run(RUN, place, seconds=whole.seconds * random.uniform(0.05, 0.6), number=number)
        if not ended.stopped:
            break  # it was faster than before
        killed += 1
        assert ended.code in (-signal.SIGKILL, 128 + signal.SIGTERM), f"kill {killed}: {ended}"
        assert not (place / "out").exists(), f"kill {killed} of seed {seed} left an output that is not whole"
    if killed == len(signals):
        ended = worker.run(RUN, place, seconds=300)
    assert ended.code == whole.code and "anew" not in ended.err, ended
    assert told(place / "out") == wanted, f"seed {seed}, after {killed} kills"
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
