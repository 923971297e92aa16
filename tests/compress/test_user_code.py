"""Code that a file names is not run unless the user named it too, or trusts the file."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from compress import pipeline
from compress.errors import InvalidInput
from compress.recipe import Recipe
from compress.recipe import read as read_recipe
from compress.sources import artifact, user_code
from compress.sources.load import Network, build, call, require_named
from compress.sources.specification import Source, parse

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


def test_code_that_has_changed_since_it_was_named_is_named_again(
    unnamed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _artifact(unnamed)
    (unnamed / "net.py").write_text(CODE + "\n# changed\n")
    monkeypatch.setattr(user_code, "_named", set())  # as another process
    with pytest.raises(InvalidInput, match=r"has changed since you named it.*--source .*net.py:build.*--trust"):
        artifact.load(path)
    assert not (unnamed / "ran").exists()
    artifact.load(path, source=f"{unnamed / 'net.py'}:build")
    monkeypatch.setattr(user_code, "_named", set())
    artifact.load(path)


@pytest.mark.parametrize("line", ["fold net --source moved/net.py:build -o out", "bench net --source net.py:build"])
def test_a_command_is_told_where_code_is(
    line: str, unnamed: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = _artifact(unnamed)
    monkeypatch.setattr(user_code, "_named", set())
    monkeypatch.setenv("XDG_STATE_HOME", str(unnamed / "other"))
    monkeypatch.chdir(unnamed)
    if line.startswith("fold"):
        (unnamed / "moved").mkdir()
        (unnamed / "net.py").rename(unnamed / "moved" / "net.py")
        with pytest.raises(InvalidInput, match=r"is gone; .*--source FILE.py:build"):
            artifact.load(path, trust=True)
    else:
        line += " --preset nothing"  # that option is read first
        with pytest.raises(InvalidInput, match=r"--source .*net.py:build"):
            artifact.load(path)
    code = ended(line, monkeypatch)
    if line.startswith("fold"):
        assert code == 0, capfd.readouterr().err
        assert json.loads((unnamed / "out" / "manifest.json").read_text())["source"]["name"].endswith("moved/net.py")
    else:
        assert code == 2 and "nothing" in capfd.readouterr().err


def test_a_source_is_code(unnamed: Path) -> None:
    path = _artifact(unnamed)
    with pytest.raises(InvalidInput, match=r"--source resnet20: expected FILE\.py:callable"):
        artifact.load(path, source="resnet20")


def ended(line: str, monkeypatch: pytest.MonkeyPatch) -> object:
    from compress.cli import main

    monkeypatch.setattr(sys, "argv", ["compress", *line.split()])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code


BESIDE = """
import functools, os, shutil, subprocess
from builtins import eval as evaluate
from shutil import rmtree

import torch
from parts.blocks import Loaders, build, plain
from parts import blocks
from torch import load
from torch.hub import load as from_hub

half = functools.partial(build, width=2)
run = functools.partial(subprocess.run, ["true"])
"""
BLOCKS = """
import functools
from torch import nn


def build(width=4):
    return nn.Conv2d(1, width, 1)


def counted(function):
    @functools.wraps(function)
    def wrapper(*arguments, **options):
        return function(*arguments, **options)
    return wrapper


@counted
def plain():
    return build()


class Loaders:
    pass
"""


@pytest.fixture
def beside(unnamed: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that imports its functions from a package beside it, and more from elsewhere."""
    for name in ("parts", "parts.blocks"):
        monkeypatch.delitem(sys.modules, name, raising=False)  # as another process
    (unnamed / "parts").mkdir()
    (unnamed / "parts" / "blocks.py").write_text(BLOCKS)
    (unnamed / "all.py").write_text(BESIDE)
    return unnamed / "all.py"


@pytest.mark.parametrize(
    ("name", "kind", "width"),
    [
        ("build", "Conv2d", 4),
        ("half", "Conv2d", 2),
        ("plain", "Conv2d", 4),
        ("Loaders", "Loaders", None),
        ("blocks.build", "Conv2d", 4),
        ("torch.nn.Identity", "Identity", None),
    ],
)
def test_what_files_beside_the_users_define_is_called(name: str, kind: str, width: int | None, beside: Path) -> None:
    made = call(f"{beside}:{name}")
    assert type(made).__name__ == kind and getattr(made, "out_channels", None) == width


@pytest.mark.parametrize(
    "name",
    [
        *("os.system", "subprocess.run", "rmtree", "evaluate", "shutil.copy", "load", "from_hub", "run"),
        *("torch.hub.load", "subprocess.Popen", "os._Environ", "functools.partial", "blocks.functools.reduce"),
        "build.__globals__.get",
    ],
)
def test_what_they_only_import_from_elsewhere_is_not(name: str, beside: Path) -> None:
    with pytest.raises(InvalidInput, match="defined there"):
        call(f"{beside}:{name}")


def test_what_is_installed_below_a_users_file_is_not_theirs(unnamed: Path) -> None:
    place = unnamed / ".venv" / "lib" / "site-packages"
    place.mkdir(parents=True)
    (place / "installed_here.py").write_text("def build():\n    return 1\n")
    (unnamed / "all.py").write_text(
        f"import sys\nsys.path.insert(0, {str(place)!r})\nfrom installed_here import build\n"
    )
    with pytest.raises(InvalidInput, match="defined there"):
        call(f"{unnamed / 'all.py'}:build")


NAMING = {
    "model": ("model: net.py:build\n", "--model net.py:build"),
    "data": ("model: resnet20\ndata: {source: net.py:build}\n", "--data net.py:build"),
    "task": ("model: resnet20\ntask: net.py:build\n", "--set task=net.py:build"),
    "criterion": (
        "model: resnet20\nstages: [{prune: {ratio: 0.5, criterion: net.py:build}}]\n",
        "--set stages.0.prune.criterion=net.py:build",
    ),
}


@pytest.mark.parametrize("what", NAMING)
def test_recipes_name_code_only_with_trust(what: str, unnamed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, told = NAMING[what]
    monkeypatch.chdir(unnamed)
    (unnamed / "r.yaml").write_text(text + "input_shape: [1, 1, 4, 4]\n")
    recipe = read_recipe(Path("r.yaml"))
    for given in ("r.yaml", recipe):
        with pytest.raises(InvalidInput, match=r"^recipe r.yaml: it names code to run") as caught:
            pipeline.run(given, "out")
        assert f"({told})" in str(caught.value) and "--trust" in str(caught.value)
        assert not (unnamed / "ran").exists() and not (unnamed / "out").exists()


def test_code_that_the_user_names_in_python_or_beside_the_recipe_runs(
    unnamed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(unnamed)
    (unnamed / "r.yaml").write_text("model: resnet20\ninput_shape: [1, 1, 4, 4]\n")
    pipeline.run(read_recipe(Path("r.yaml"), ["model=net.py:build"]), "overridden")
    pipeline.run(Recipe(model="net.py:build", input_shape=(1, 1, 4, 4)), "made")
    monkeypatch.setattr(user_code, "_named", set())
    monkeypatch.setenv("XDG_STATE_HOME", str(unnamed / "other"))
    (unnamed / "r.yaml").write_text("model: net.py:build\ninput_shape: [1, 1, 4, 4]\n")
    pipeline.run("r.yaml", "trusted", trust=True)


@pytest.mark.parametrize(
    "name, options, says",
    [
        ("os.system", {}, "nor a name of the zoo"),
        ("__builtins__", {}, "nor a name of the zoo"),
        ("resnet20", {"num_classes": -1}, "num_classes: expected a number above 0"),
        ("resnet20", {"in_channels": float("nan")}, "in_channels: expected a number above 0"),
        ("resnet20", {"width": 10**400}, "width: expected a number above 0"),
        ("resnet20", {"width": 100_000}, "bytes of weights"),
        ("resnet20", {"width": {"a": 1}}, "unsupported operand"),
    ],
)
def test_networks_of_the_zoo_that_a_file_names_are_in_it_and_no_larger_than_reasonable(
    name: str, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(InvalidInput, match=says):
        build(Source("zoo", name, options=options))


@pytest.mark.parametrize(
    "part",
    [
        {"source": {"kind": "file", "name": "a\0.py", "attribute": "build"}},
        {"source": {"kind": "module", "name": "a", "attribute": "\0"}},
        {"lineage": [{}]},
        {"lineage": [{"stage": "prune", "measured": [{"target": "x"}]}]},
    ],
)
def test_a_manifest_that_names_no_code_or_no_stage_is_refused(unnamed: Path, part: dict[str, Any]) -> None:
    path = _artifact(unnamed)
    _changed(path, **part)
    with pytest.raises(InvalidInput, match=next(iter(part))):
        artifact.load(path)


@pytest.mark.parametrize(
    "place", ["os:popen:cmd=touch ran", "subprocess:run:args=ls", "shutil:rmtree:path=x", "os:system"]
)
def test_functions_of_python_itself_build_no_network(unnamed: Path, place: str) -> None:
    with pytest.raises(InvalidInput, match=r"expected a torch\.nn\.Module class or a function that is defined there"):
        call(place)
