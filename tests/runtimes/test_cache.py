"""Where caches are kept, and when what is kept there is not believed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from runtimes import cache, runtime
from runtimes.bitwise import build

LIBRARY = b"\x7fELF: the kernels"


@pytest.fixture
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (cache.FOLDER, "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)


def test_the_folder(no_variables: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    assert cache.folder() == Path.home() / ".cache/edgepress"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache.folder() == Path.home() / ".cache/edgepress"
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache.folder() == Path("/somewhere/edgepress")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache.folder() == Path.home() / "Library/Caches/edgepress"
    monkeypatch.setenv("EDGEPRESS_CACHE", "/own")
    assert cache.folder() == Path("/own")


def test_who_has_no_home_gets_a_private_folder_that_ends_with_the_process(
    no_variables: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code = (
        "from pathlib import Path\n"
        "def none(): raise RuntimeError('Could not determine home directory.')\n"
        "Path.home = none\n"
        "from runtimes import cache\n"
        "made = cache.folder()\n"
        "assert made.stat().st_mode & 0o777 == 0o700 and cache.folder() == made\n"
        "print(made)"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(Path(cache.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert Path(done.stdout.strip()).parent == tmp_path and not list(tmp_path.iterdir())


def test_an_engine_that_wants_a_home_is_missing_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> NoReturn:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(runtime.importlib, "import_module", none)  # type: ignore[attr-defined]
    version, reason = runtime.available("openvino")
    assert version is None and "Could not determine home directory" in reason and "pip install" in reason


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A library in the cache, as it is after it was made."""
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\necho a compiler\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("EDGEPRESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(build.LIBRARY, raising=False)
    monkeypatch.setattr(build, "_compile", compiled)
    return build.library()


def compiled(_: str, kept: Path) -> None:
    kept.write_bytes(LIBRARY)
    kept.chmod(0o700)
    (kept.parent / build.RECORD).write_text(build._record(kept.parent.name, kept))


def no_compiler(*_: object) -> NoReturn:
    raise AssertionError("it is there already")


def test_a_library_is_kept_for_its_user_alone(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kept.parent.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(build, "_compile", no_compiler)
    assert build.library() == kept == build.cached_library()


@pytest.mark.parametrize("change", ["other bytes", "of another folder", "no record", "cut"])
def test_a_library_that_is_not_what_was_made_is_made_again(change: str, kept: Path) -> None:
    record = kept.parent / build.RECORD
    if change == "other bytes":
        kept.write_bytes(LIBRARY[::-1])
    elif change == "cut":
        kept.write_bytes(LIBRARY[:3])
    elif change == "no record":
        record.unlink()
    else:
        record.write_text(build._record("another", kept))
    assert build.cached_library() is None
    assert build.library() == kept and kept.read_bytes() == LIBRARY and build.cached_library() == kept


def given_away(path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root gives files to others")
    os.chown(path, 4321, -1)


def linked(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


FOREIGN: dict[str, tuple[Callable[[Path], None], int, str]] = {
    "all write to the file": (lambda file: file.chmod(0o707), 0, "written to by others"),
    "the group writes to the file": (lambda file: file.chmod(0o770), 0, "written to by others"),
    "all write to its folder": (lambda file: file.parent.chmod(0o777), 1, "written to by others"),
    "the group writes to its folder": (lambda file: file.parent.chmod(0o770), 1, "written to by others"),
    "all write to the cache": (lambda file: file.parent.parent.chmod(0o777), 2, "written to by others"),
    "another's file": (given_away, 0, "another user"),
    "another's folder": (lambda file: given_away(file.parent), 1, "another user"),
    "a linked file": (linked, 0, "symbolic link"),
    "a linked folder": (lambda file: linked(file.parent), 1, "symbolic link"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_others_can_write_is_not_loaded(name: str, kept: Path) -> None:
    change, above, says = FOREIGN[name]
    change(kept)
    place = (kept, kept.parent, kept.parent.parent)[above]
    for asked in (build.library, build.cached_library):
        with pytest.raises(build.BuildFailed) as caught:
            asked()
        assert str(caught.value).startswith(f"{place}: ") and says in str(caught.value)
        assert "EDGEPRESS_CACHE" in str(caught.value) and "\n" not in str(caught.value)


def test_a_library_that_the_user_names_is_theirs_too(
    kept: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    carried = tmp_path / "carried.so"
    carried.write_bytes(LIBRARY)
    monkeypatch.setenv(build.LIBRARY, str(carried))
    assert build.library() == carried
    carried.chmod(0o666)
    with pytest.raises(build.BuildFailed, match="chmod go-w"):
        build.library()


def test_a_home_that_cannot_be_written_to_is_one_line(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEPRESS_CACHE", "/proc/none")
    with pytest.raises(build.BuildFailed, match=r"^/proc/none/bitwise.*set EDGEPRESS_CACHE to a folder"):
        build.library()
