"""Outputs are whole or not there, replace nothing unasked, and have one writer at a time; kills leave nothing."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from compress.errors import InvalidInput
from compress.files import lock, outputs

ROOT = Path(__file__).resolve().parents[2]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def writer(code: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that runs ``code``, in ``folder``, as far as the line that it prints; killed at the end."""
    code = f"import sys, time; from pathlib import Path; from compress.files import outputs\n{code}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "here\n"
        yield process
    finally:
        process.kill()
        process.communicate()


WAITING = """
with outputs.new_folder(Path("out"), overwrite="replace" in sys.argv) as made:
    (made / "half").write_text("half")
    print("here", flush=True)
    time.sleep(60)
"""


def put_without_new_renames(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on systems and file systems that can neither exchange two names nor keep what is there."""
    monkeypatch.setattr(outputs, "_rename", lambda old, new, flag: False)


@pytest.fixture(params=["new renames", "old renames"])
def either_rename(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "old renames":
        put_without_new_renames(monkeypatch)


def test_this_system_renames_without_replacing(tmp_path: Path) -> None:
    """Else the tests of new renames would be those of the old ones again."""
    if sys.platform not in ("linux", "darwin"):
        pytest.skip("it has no such calls")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with pytest.raises(FileExistsError):
        outputs._rename(tmp_path / "a", tmp_path / "b", outputs._KEEP)
    (tmp_path / "a" / "of-a").touch()
    assert outputs._rename(tmp_path / "a", tmp_path / "b", outputs._EXCHANGE)
    assert names(tmp_path / "b") == ["of-a"] and not names(tmp_path / "a")


def test_a_second_writer_is_told_of_the_first_before_its_work(tmp_path: Path) -> None:
    second = outputs.new_folder(tmp_path / "out")
    with writer(WAITING, tmp_path) as first, pytest.raises(InvalidInput) as caught, second:
        raise AssertionError("it began to work")
    assert f"process {first.pid} on " in str(caught.value) and "give another -o" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_a_killed_writer_left_is_swept_by_the_next(tmp_path: Path) -> None:
    (tmp_path / ".out.txt").write_text("the user's own")
    (tmp_path / ".out.0123abcd.89ab0123.partial").mkdir()  # of the output "out.0123abcd", which another may be writing
    with writer(WAITING, tmp_path):
        left = {name for name in names(tmp_path) if name.startswith(".out.")}
        assert len(left) == 4 and ".out.compress-lock" in left
    with outputs.new_folder(tmp_path / "out") as made:
        (made / "whole").touch()
    assert names(tmp_path) == [".out.0123abcd.89ab0123.partial", ".out.txt", "out"]
    assert names(tmp_path / "out") == ["whole"]


def test_one_thread_may_write_within_its_own_claim(tmp_path: Path) -> None:
    with outputs.claim(tmp_path / "out"), outputs.new_folder(tmp_path / "out"):
        assert lock.lock_file(tmp_path / "out").exists()
    assert names(tmp_path) == ["out"]


@pytest.mark.usefixtures("either_rename")
@pytest.mark.parametrize("kind", ["folder", "empty folder", "file", "dangling link"])
def test_what_appears_meanwhile_is_not_replaced(kind: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(InvalidInput, match="meanwhile"), outputs.new_folder(out) as made:
        (made / "ours").touch()
        if kind.endswith("folder"):
            out.mkdir()
            if kind == "folder":
                (out / "theirs").touch()
        elif kind == "file":
            out.write_text("theirs")
        else:
            out.symlink_to("nowhere")
    assert names(tmp_path) == ["out"] and not (out / "ours").exists()


@pytest.mark.usefixtures("either_rename")
def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="exists"), outputs.new_file(tmp_path / "out") as file:
        file.write_text("ours")
        (tmp_path / "out").write_text("theirs")
    assert (tmp_path / "out").read_text() == "theirs" and names(tmp_path) == ["out"]


@pytest.mark.usefixtures("either_rename")
def test_of_files_that_belong_together_all_come_or_none(tmp_path: Path) -> None:
    (tmp_path / "net.bin").write_text("theirs")
    with pytest.raises(InvalidInput, match=r"net\.bin: it exists"), outputs.new_files(tmp_path / "net.param") as made:
        for name in ("net.bin", "net.labels", "net.param"):
            (made / name).write_text("ours")
    assert names(tmp_path) == ["net.bin"] and (tmp_path / "net.bin").read_text() == "theirs"
    with outputs.new_files(tmp_path / "net.param", overwrite=True) as made:
        for name in ("net.bin", "net.labels", "net.param"):
            (made / name).write_text("ours")
    assert names(tmp_path) == ["net.bin", "net.labels", "net.param"]
    assert (tmp_path / "net.bin").read_text() == "ours"


@pytest.mark.usefixtures("either_rename")
@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_what_is_overwritten_stays_until_the_new_is_whole(kind: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    if kind == "folder":
        out.mkdir()
    elif kind == "file":
        out.write_text("old")
    else:
        (tmp_path / "elsewhere").mkdir()
        out.symlink_to("elsewhere")
    was = out.lstat().st_ino
    with pytest.raises(ZeroDivisionError), outputs.new_folder(out, overwrite=True):
        raise ZeroDivisionError
    assert out.lstat().st_ino == was
    with outputs.new_folder(out, overwrite=True) as made:
        assert out.lstat().st_ino == was
        (made / "new").touch()
    assert names(out) == ["new"] and not out.is_symlink()
    assert set(names(tmp_path)) <= {"out", "elsewhere"}
    assert kind != "link" or not names(tmp_path / "elsewhere")


KILLED_WITHIN = """
import os
from compress.files.outputs import Path
outputs._rename = lambda old, new, flag: False
renamed = Path.rename
def rename(self, target):
    done = renamed(self, target)
    if str(target).endswith(".old"):
        print("here", flush=True)
        time.sleep(60)
    return done
Path.rename = rename
with outputs.new_folder(Path("out"), overwrite=True) as made:
    (made / "new").touch()
"""


def test_a_kill_between_two_renames_is_mended_by_the_next_start(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    with writer(KILLED_WITHIN, tmp_path):
        assert not (tmp_path / "out").exists()
    with pytest.raises(InvalidInput, match="it exists"), outputs.claim(tmp_path / "out"):
        pass
    assert names(tmp_path) == ["out"] and names(tmp_path / "out") == ["old"]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_permissions_are_those_that_the_umask_leaves(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        with outputs.new_folder(tmp_path / "out") as made:
            (made / "inner").mkdir(0o700)
            (made / "inner" / "file").touch(0o600)
        outputs.write_text(tmp_path / "file", "text")
    finally:
        os.umask(before)
    for path in (tmp_path / "out", tmp_path / "out" / "inner"):
        assert path.stat().st_mode & 0o777 == 0o777 & ~mask
    for path in (tmp_path / "out" / "inner" / "file", tmp_path / "file"):
        assert path.stat().st_mode & 0o777 == 0o666 & ~mask


def test_want_of_room_is_told_of_the_output(tmp_path: Path) -> None:
    allowed = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, allowed[1]))
    try:
        with pytest.raises(InvalidInput, match=f"output {tmp_path}/sub/out: cannot be written"):
            outputs.write_text(tmp_path / "sub" / "out", "x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, allowed)
    assert not names(tmp_path)


def test_a_place_that_cannot_be_written_is_told_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInput, match="cannot be written"), outputs.claim(tmp_path / "file" / "out"):
        raise AssertionError("it began to work")


def test_errors_that_are_not_of_the_output_pass(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(OSError) as caught, outputs.new_folder(tmp_path / "out"):
        (tmp_path / "in").read_bytes()
    assert caught.value.errno == errno.EISDIR


def test_the_current_folder_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    for path in (Path(), Path(".."), Path("/")):
        with pytest.raises(InvalidInput, match="current folder"), outputs.new_folder(path, overwrite=True):
            pass
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("link", [False, True])
def test_no_folder_above_the_home_folder_is_replaced(
    link: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "all" / "me").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "all" / "me"))
    (tmp_path / "by").symlink_to(tmp_path)
    place = (tmp_path / "by" if link else tmp_path) / "all"
    with (
        pytest.raises(InvalidInput, match="the home folder lies in it, so it is not replaced"),
        outputs.new_folder(place, overwrite=True),
    ):
        pass
    assert (tmp_path / "all" / "me").is_dir()


def test_an_unfinished_folder_is_no_link(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    (tmp_path / ".out.unfinished").symlink_to("mine")
    with pytest.raises(InvalidInput, match="is a link"), outputs.resumable_folder(tmp_path / "out"):
        pass
    assert names(tmp_path / "mine") == ["file"]


def test_a_pipe_is_written_to_where_somebody_reads_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidInput, match="a pipe that nobody reads"):
        outputs.write_text(tmp_path / "pipe", "a")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    outputs.write_text(tmp_path / "pipe", "a")
    assert os.read(reader, 10) == b"a"
    os.close(reader)


def test_a_device_is_written_to_as_it_is() -> None:
    outputs.write_text(Path(os.devnull), "text", overwrite=True)
    assert Path(os.devnull).is_char_device()
