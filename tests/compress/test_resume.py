"""A killed run goes on with the result of an undisturbed one, and notices what has changed meanwhile."""

from __future__ import annotations

import importlib
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compress import pipeline
from compress.pipeline import resume
from compress.sources import artifact
from compress.sources.load import Network
from tests.support.small_classifier import SMALL_NET

ROOT = Path(__file__).resolve().parents[2]
TRAINING = "{epochs: 2, batch_size: 8, precision: fp32, accelerator: cpu}"
RECIPE = f"""
model: net.py:build
data: {{source: data.npz}}
train: {TRAINING}
stages:
  - distill: {{training: {TRAINING}}}
  - distill: {{training: {TRAINING}}}
"""
STEPS = ("0-baseline", "1-distill", "2-distill-2")
KILLED = """
import os, sys, torch
torch.set_num_threads(int(sys.argv[3]))
from lightning_fabric import Fabric
from compress import pipeline
from compress.sources import artifact
step, epoch = sys.argv[1], int(sys.argv[2])
save, run_fit, seen = artifact.save, Fabric.save, []
def saved(network, folder, **options):
    save(network, folder, **options)
    if epoch == 0 and folder.name == step:
        os._exit(9)  # saved, and its checkpoint is still there
def checkpointed(self, path, state):
    run_fit(self, path, state)
    if path.parent.name == step and state["epoch"] == epoch:
        path.replace(path.with_suffix(".ckpt"))
        os._exit(9)
artifact.save, Fabric.save = saved, checkpointed
pipeline.run("r.yaml", "out", trust=True)
"""


@pytest.fixture
def folder(tmp_path: Path, npz: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    assert npz.parent == tmp_path
    (tmp_path / "net.py").write_text(SMALL_NET)
    (tmp_path / "r.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def digests(output: str) -> list[str]:
    return [artifact.weights_digest(artifact.load(Path(output, step)).model) for step in STEPS]


def killed(step: str, epoch: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, step, str(epoch), str(torch.get_num_threads())],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 9, done.stderr


def test_kills_at_any_place_leave_the_result_of_an_undisturbed_run(folder: Path) -> None:
    pipeline.run("r.yaml", "whole", trust=True)
    killed("0-baseline", 1)
    killed("1-distill", 0)
    killed("2-distill-2", 1)
    pipeline.run("r.yaml", "out", trust=True)
    assert digests("out") == digests("whole") and len(set(digests("out"))) == 3
    assert sorted(path.name for path in folder.iterdir()) == ["data.npz", "net.py", "out", "r.yaml", "whole"]
    assert {path.name for path in Path("out").iterdir()} == {path.name for path in Path("whole").iterdir()}


@pytest.mark.parametrize("what", ["data", "code", "settings", "weights", "version", "threads", "processor"])
def test_what_has_changed_is_noticed(
    what: str, folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = RECIPE.replace(f"train: {TRAINING}", "weights: w.pt") if what == "weights" else RECIPE
    (folder / "r.yaml").write_text(recipe)
    write_weights(0)
    interrupted("1-distill")
    if what == "data":
        with np.load("data.npz") as file:
            arrays = dict(file)
        arrays["x_train"][0, 0, 0, 0] ^= 1
        np.savez("data.npz", **arrays)
    elif what == "code":
        (folder / "net.py").write_text(SMALL_NET + "\n# changed\n")
    elif what == "settings":
        (folder / "r.yaml").write_text(recipe.replace("epochs: 2", "epochs: 1"))
    elif what == "weights":
        write_weights(1)
    elif what == "version":
        monkeypatch.setattr(resume, "_version", lambda package: "0.0.0")
    elif what == "threads":
        monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    else:
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "another")
    with caplog.at_level(logging.WARNING, logger="compress"):
        pipeline.run("r.yaml", "out", trust=True)
    told = [message for message in caplog.messages if "begun anew" in message]
    assert len(told) == 2 and "step 0-baseline" in told[0] and "step 1-distill" in told[1], caplog.messages
    if what not in ("code", "settings"):
        word = {"weights": "w.pt", "processor": "the processor", "threads": "the number of threads"}.get(what, what)
        assert word in told[0]
    pipeline.run("r.yaml", "whole", trust=True)
    assert digests("out") == digests("whole")


def test_code_of_users_is_told_from_what_is_installed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(folder)
    module = importlib.import_module("net")
    monkeypatch.setitem(sys.modules, "net", module)
    (folder / "elsewhere.py").symlink_to(folder / "net.py")
    monkeypatch.setattr(module, "__file__", str(folder / "elsewhere.py"))
    code = resume.users_code()
    assert code[str((folder / "net.py").resolve())] == resume.digest_of(folder / "net.py")
    assert not {torch.__file__, pytest.__file__, pipeline.__file__} & set(code)


def interrupted(step: str) -> None:
    """A run that is interrupted when this step has just been saved."""
    save = artifact.save

    def saved(network: Network, path: Path, **options: Any) -> None:
        save(network, path, **options)
        if path.name == step:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(artifact, "save", saved)
        pipeline.run("r.yaml", "out", trust=True)


def write_weights(seed: int) -> None:
    namespace: dict[str, Any] = {}
    exec(SMALL_NET.replace("manual_seed(0)", f"manual_seed({seed})"), namespace)
    torch.save(namespace["build"]().state_dict(), "w.pt")
