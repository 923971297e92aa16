"""Where there is no room to write, and where two write the same: one line, nothing half-written, the old one stays."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from random import Random

import pytest

from compress.files.outputs import claim
from tests.faults.commands import Command, Worker, contents, faults
from tests.faults.kinds import NET, TRAINING, common, done, network_file, report_file

WRITING = {
    f"fold {NET} -o out": 1_500,
    f"train net.py:build --data data.npz {TRAINING} -o out": 1_500,
    "quantize net.py:build --data data.npz --keep-slower -o out": 4_000,
    f"export {NET} --format onnx -o out": 1_500,
    f"export {NET} -o out.onnx": 1_000,
    "pack net.onnx -o out": 1_000,
    "unpack net.packed -o out": 2_000,
    "report report.json -o out": 30_000,
    f"sensitivity {NET} --data data.npz -o out": 1_500,
    "run r.yaml --trust -q -o out": 1_500,
}
"""Commands that write, and bytes that the largest file of each does not fit into."""
RECIPE = "model: net.py:build\ndata: {source: data.npz, validation: 0.2, calibration: 8}\nstages: [fold]\n"
FEW = (f"fold {NET} -o out", "pack net.onnx -o out", "report report.json -o out", "run r.yaml --trust -q -o out")


@pytest.fixture(scope="module")
def valid(worker: Worker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the commands read."""
    folder = tmp_path_factory.mktemp("disk") / "valid"
    common(folder)
    network_file(folder, worker)
    report_file(folder, worker)
    done(worker, folder, "pack net.onnx -o net.packed")
    (folder / "r.yaml").write_text(RECIPE)
    return folder


@pytest.mark.parametrize(
    "line", [line if line in FEW else pytest.param(line, marks=pytest.mark.slow) for line in WRITING]
)
def test_a_full_disk_leaves_what_was_there(line: str, worker: Worker, valid: Path, tmp_path: Path) -> None:
    """Twice: the output is new, and it replaces an old one."""
    random, stays = Random(line), (".out.unfinished",) if line.startswith("run") else ()
    output = line.split()[-1]
    for number in range(2 if line in FEW else 6):
        place = tmp_path / str(number)
        shutil.copytree(valid, place)
        command = Command.of(line)
        if number % 2:
            (place / output).write_text("the old one")
            command = Command.of(f"{line} --overwrite")
        before = contents(place)
        ended = worker.run(command, place, file_bytes=random.randrange(10, WRITING[line]))
        assert not faults(command, ended, place, before, stays=stays), ended
        assert ended.code == 2 and "cannot be written" in ended.err, ended
        if number % 2:
            assert (place / output).read_text() == "the old one"
        assert worker.run(command, place).code in (0, 1), "there is room again"


@pytest.mark.parametrize(
    "line", [line if line in FEW[:2] else pytest.param(line, marks=pytest.mark.slow) for line in WRITING]
)
def test_one_of_two_writers_wins(line: str, worker: Worker, valid: Path, tmp_path: Path) -> None:
    """While this process holds the output the command names it; of two commands one writes, whole."""
    place = tmp_path / "both"
    shutil.copytree(valid, place)
    command, before = Command.of(line), contents(place)
    output = line.split()[-1]
    with claim(place / output):
        ended = worker.run(command, place)
        assert ended.code == 2 and f"process {os.getpid()} on" in ended.err, ended
    assert contents(place) == before
    both = worker.run_together([worker.asked(command, place), worker.asked(command, place)])
    won, lost = sorted(both, key=lambda each: each.code)
    assert won.code in (0, 1) and lost.code == 2, both
    assert "writes it since" in lost.err or "it exists" in lost.err or "meanwhile" in lost.err, lost
    assert {path.name for path in place.iterdir()} - {*before, "__pycache__"} == {output}


@pytest.mark.parametrize(
    "line", [line if line in FEW[:2] else pytest.param(line, marks=pytest.mark.slow) for line in WRITING]
)
def test_a_kill_leaves_the_old_output_or_the_new_one(line: str, worker: Worker, valid: Path, tmp_path: Path) -> None:
    """Killed at some of the changes that it makes to files, and then run again: nothing of the killed one is left."""
    random, output = Random(line), line.split()[-1]
    place = tmp_path / "run"
    shutil.copytree(valid, place)
    command = Command.of(f"{line} --overwrite")
    _, writes = worker.writes(command, place)
    names = {path.name for path in place.iterdir()}
    shape = {name for name in contents(place) if name.startswith(output)}
    for _ in range(3 if line in FEW else 10):
        remove(place / output)
        (place / output).write_text("the old one")
        ended = worker.run(command, place, dies_at=random.randrange(1, writes + 1))
        assert ended.code in (0, 1, -9), ended
        found = {name: held for name, held in contents(place).items() if name.startswith(output)}
        assert found == {output: b"the old one"} or set(found) == shape, ended
        assert worker.run(command, place).code in (0, 1)
        assert {path.name for path in place.iterdir()} == names


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()
