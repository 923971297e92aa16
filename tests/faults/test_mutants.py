"""Files that are wrong in any way end every command that reads them with one line, and leave nothing behind.

``EDGEPRESS_MUTANTS`` sets how many mutants the slow test makes. A failure names the kind and the seed of the mutant,
and the folder that it is kept in.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from random import Random

import pytest

from tests.faults.commands import Command, Worker, contents, faults
from tests.faults.kinds import KINDS, Kind, common

SHARES = {
    "onnx": 20, "artifact": 16, "artifact-of-onnx": 10, "exported": 20, "packed": 14, "arrays": 14, "pictures": 8,
    "safetensors": 8, "state-dict": 10, "recipe": 16, "report": 10, "prune-scan": 3, "inputs": 3, "unfinished": 1,
    "measurements": 20, "log": 8,
}  # fmt: skip
LONG = {"precision-scan": 3, "interrupted": 5, "engines": 8}
"""Kinds that take long to make or to read: the slow test has them."""
MANY = int(os.environ.get("EDGEPRESS_MUTANTS", "2000"))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.name in SHARES], ids=lambda kind: kind.name)
def test_mutants(kind: Kind, worker: Worker, tmp_path: Path) -> None:
    check(kind, range(SHARES[kind.name]), worker, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_many_mutants(kind: Kind, worker: Worker, tmp_path: Path) -> None:
    shares = SHARES | LONG
    count = max(1, MANY * shares[kind.name] // sum(shares.values()))
    check(kind, range(1000, 1000 + count), worker, tmp_path)


def check(kind: Kind, seeds: range, worker: Worker, folder: Path) -> None:
    """Make the mutants of these seeds, and give each to one of the commands that read it."""
    valid = folder / "valid"
    common(valid)
    kind.make(valid, worker)
    failed = []
    for seed in seeds:
        random = Random(f"{kind.name} {seed}")
        place = folder / str(seed)
        shutil.copytree(valid, place, symlinks=True)
        name = kind.mutate(place, random)
        command = Command.of(random.choice(kind.commands))
        before = contents(place)
        ended = worker.run(command, place)
        found = faults(command, ended, place, before, stays=kind.stays)
        last = (ended.err.splitlines() or [""])[-1]
        if found:
            failed.append(
                f"{kind.name} of seed {seed} ({name}): {command}: {'; '.join(found)} | {last[:300]} | {place}"
            )
        else:
            shutil.rmtree(place)
    assert not failed, "\n".join(failed)
