"""Code that a file names is not run unless the user named it too, or trusts the file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from compress import artifact, user_code
from compress.errors import InvalidInput
from compress.load import Network, build, call, parse, require_named

CODE = """
import os
from pathlib import Path
from torch import nn

Path(__file__).with_name("ran").touch()


def build(width=4):
    return nn.Conv2d(1, width, 1)
"""


@pytest.fixture
def unnamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which no code was ever named."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(user_code, "_named", set())
    (tmp_path / "net.py").write_text(CODE)
    return tmp_path


def _artifact(folder: Path) -> Path:
    model, source = build(parse(f"{folder / 'net.py'}:build"))
    artifact.save(Network(model, source, example_inputs=(torch.zeros(1, 1, 2, 2),)), folder / "net")
    (folder / "ran").unlink()
    return folder / "net"


def _changed(path: Path, **changes: Any) -> None:
    """The manifest with other values and the digest that belongs to them, as someone with bad intent would write it."""
    manifest = json.loads((path / artifact.MANIFEST).read_text()) | changes
    manifest.pop("digest")
    manifest["digest"] = artifact._digest(artifact._canonical(manifest))
    (path / artifact.MANIFEST).write_text(json.dumps(manifest))


def test_code_named_before_goes_on_without_a_question(unnamed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _artifact(unnamed)
    monkeypatch.setattr(user_code, "_named", set())  # as another process
    assert artifact.load(path).model(torch.zeros(1, 1, 2, 2)).shape == (1, 4, 2, 2)
    state = unnamed / "state" / "edgepress" / "named"
    assert state.stat().st_mode & 0o777 == 0o700 and all(f.stat().st_mode & 0o777 == 0o600 for f in state.iterdir())


def test_a_state_that_others_can_write_is_not_believed(unnamed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _artifact(unnamed)
    monkeypatch.setattr(user_code, "_named", set())
    (unnamed / "state" / "edgepress" / "named").chmod(0o777)
    with pytest.raises(InvalidInput, match="--trust"):
        artifact.load(path)


def test_code_of_another_user_is_not_run_but_with_trust(unnamed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _artifact(unnamed)
    monkeypatch.setattr(user_code, "_named", set())
    monkeypatch.setenv("XDG_STATE_HOME", str(unnamed / "other"))
    with pytest.raises(InvalidInput, match=r"names code to run.*--trust"):
        artifact.load(path)
    assert not (unnamed / "ran").exists()
    artifact.load(path, trust=True)
    assert (unnamed / "ran").exists()


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize(("kind", "name", "attribute"), [("module", "os", "system"), ("file", "net.py", "os.system")])
def test_what_is_only_imported_is_never_called(
    unnamed: Path, kind: str, name: str, attribute: str, trust: bool
) -> None:
    path = _artifact(unnamed)
    command = f"touch {unnamed / 'owned'}"
    name = str(unnamed / name) if kind == "file" else name
    source = {"kind": kind, "name": name, "attribute": attribute, "options": {"command": command}, "sha256": ""}
    _changed(path, source=source)
    with pytest.raises(InvalidInput, match="defined there" if trust else "--trust"):
        artifact.load(path, trust=trust)
    assert not (unnamed / "owned").exists()


def test_naming_it_does_not_make_an_import_callable(unnamed: Path) -> None:
    for word in ("os:system", f"{unnamed / 'net.py'}:os.system"):
        with pytest.raises(InvalidInput, match="defined there"):
            call(f"{word}:command=true")


def test_a_module_of_the_same_name_elsewhere_is_another(unnamed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("mine", "downloaded"):
        (unnamed / place).mkdir()
        (unnamed / place / "only_here.py").write_text(CODE)
    monkeypatch.chdir(unnamed / "mine")
    user_code.remember("module", "only_here", "build")
    require_named(parse("only_here:build"), "artifact x")
    monkeypatch.chdir(unnamed / "downloaded")
    with pytest.raises(InvalidInput, match="--trust"):
        require_named(parse("only_here:build"), "artifact x")


def _edit(**values: Any) -> list[dict[str, Any]]:
    return [{"layer": "", "what": "out_channels", "before": 4, "after": 4, "kind": "attribute"} | values]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"edits": _edit(what="__class__")}, "__class__"),
        ({"edits": _edit(what="forward", after="x")}, "forward"),
        ({"edits": _edit(what="weight")}, "weight"),
        ({"edits": _edit(kind="module", after="Evil")}, "Identity"),
        (
            {"edits": _edit(kind="tensor", what="weight", before=[4, 1, 1, 1], after=[1, 1, 1, 1], axis=0, kept=[9])},
            "9",
        ),
        ({"edits": _edit(kind="other")}, "edits.0.kind"),
        ({"edits": 3}, "edits"),
        ({"encodings": {"weight": {"low": [0.0], "high": [1.0], "bits": 99}}}, "bits"),
        ({"encodings": {"weight": {"low": [0.0], "high": [1.0], "axis": 0}}}, "1 ranges"),
        ({"source": {"kind": "onnx", "name": "/etc/passwd"}}, "source.onnx"),
        ({"source": {"kind": "zoo"}}, "source.name"),
        ({"files": {"../net.py": ""}}, "files"),
        ({"lineage": [1]}, "lineage"),
    ],
)
def test_manifests_of_wrong_values_are_refused_in_one_line(unnamed: Path, changes: dict[str, Any], said: str) -> None:
    path = _artifact(unnamed)
    _changed(path, **changes)
    with pytest.raises(InvalidInput) as caught:
        artifact.load(path)
    if "kept" not in str(changes):
        assert said in str(caught.value)


def test_recipes_name_code_only_with_trust(unnamed: Path) -> None:
    (unnamed / "r.yaml").write_text("model: net.py:build\ninput_shape: [1, 1, 4, 4]\nstages: [fold]\n")
    environment = os.environ | {"XDG_STATE_HOME": str(unnamed / "fresh")}
    command = [sys.executable, "-c", "from compress.cli import main; main()", "run", "r.yaml", "-q", "-o", "out"]
    done = subprocess.run(command, cwd=unnamed, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 2 and "--trust" in done.stderr and not (unnamed / "ran").exists(), done.stderr
