"""What runs on a device, called here: frames, arrays, files by digest, environments."""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from runtimes.agent import store as module
from runtimes.agent.arrays import Array, packed, unpacked
from runtimes.agent.environments import environment
from runtimes.agent.store import File, Refused, Store
from runtimes.agent.wire import MAGIC, Wire, WireError
from runtimes.devices.link import bootstrap_source


def frame(header: bytes, body: bytes = b"", *, magic: bytes = MAGIC, lengths: tuple[int, int] | None = None) -> bytes:
    first, second = lengths or (len(header), len(body))
    return struct.pack("!4sIQ", magic, first, second) + header + body


def received(data: bytes) -> tuple[dict[str, object], bytes] | None:
    return Wire(io.BytesIO(data), io.BytesIO()).receive(header_most=2**20, body_most=2**20)


def test_a_frame_arrives_as_it_was_sent() -> None:
    sent = io.BytesIO()
    Wire(io.BytesIO(), sent).send({"id": 1, "do": "run"}, b"\0\1" * 2**20)
    wire = Wire(io.BytesIO(sent.getvalue()), io.BytesIO())
    assert wire.receive() == ({"id": 1, "do": "run"}, b"\0\1" * 2**20) and wire.receive() is None


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (frame(b"{}", magic=b"HTTP"), "expected a frame"),
        (frame(b"{}", lengths=(2**31, 0)), "too many"),
        (frame(b"{}", lengths=(2, 2**62)), "too many"),
        (frame(b"{}", lengths=(2, 9)), "9 bytes before its end"),
        (frame(b"{}")[:7], "ended within a frame"),
        (frame(b"[1]"), "no mapping"),
        (frame(b"\xff\xfe"), "no JSON"),
        (frame(b"[" * 100_000), "no JSON"),
    ],
)
def test_what_is_no_frame_is_refused(data: bytes, told: str) -> None:
    with pytest.raises(WireError, match=told):
        received(data)


def test_arrays_arrive_as_they_were_sent() -> None:
    arrays: dict[str, Array] = {
        "x": np.arange(6, dtype=np.float32).reshape(2, 3),
        "transposed": np.asfortranarray(np.arange(6, dtype=np.int8).reshape(2, 3)),
        "scalar": np.full((), 3.5),
        "none": np.zeros((0, 4), np.uint8),
        "swapped": np.arange(3, dtype=">i4"),
    }
    back = unpacked(*packed(arrays))
    assert list(back) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array)
        assert back[name].dtype == array.dtype.newbyteorder("=") and back[name].flags.writeable


def npy(header: str, data: bytes = b"") -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"no array", "is none"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,)}"), "not as large"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}"), "not as large"),
        (npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", bytes(8)), "expected numbers"),
        (npy("{'descr': '<U4', 'fortran_order': False, 'shape': (1,)}", bytes(16)), "expected numbers"),
        (npy("__import__('os').abort()"), "is none"),
    ],
)
def test_what_is_no_array_is_refused(data: bytes, told: str) -> None:
    with pytest.raises(WireError, match=told):
        unpacked([["x", len(data)]], data)


def test_arrays_that_were_not_sent_are_refused() -> None:
    index, body = packed({"x": np.zeros(2)})
    for wrong in ([["x", len(body) + 1]], [["x", -1]], [["x"]], [*index, ["x", 0]], 7):
        with pytest.raises(WireError):
            unpacked(wrong, body)  # type: ignore[arg-type]


def sent(store: Store, path: str, content: bytes) -> File:
    file = File.of([path, len(content), hashlib.sha256(content).hexdigest()])
    for digest in store.missing([file]):
        store.write([[digest, len(content), len(content)]], content)
    return file


@pytest.fixture
def store(tmp_path: Path) -> Store:
    opened = Store(str(tmp_path / "cache"))
    opened.open()
    return opened


def test_files_are_kept_by_their_digest(store: Store) -> None:
    files = [sent(store, "a/one.bin", b"one"), sent(store, "two.bin", b"two"), sent(store, "empty", b"")]
    folder = store.tree(files)
    assert {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == {
        "a/one.bin": b"one", "two.bin": b"two", "empty": b"",
    }  # fmt: skip
    assert store.missing(files) == [] and store.tree(list(reversed(files))) == folder
    (folder / "two.bin").unlink()
    assert store.tree(files) == folder and (folder / "two.bin").read_bytes() == b"two"
    assert not list(store.partial.iterdir())


def test_contents_of_another_digest_are_refused(store: Store) -> None:
    digest = hashlib.sha256(b"right").hexdigest()
    with pytest.raises(Refused, match="another digest"):
        store.write([[digest, 5, 5]], b"wrong")
    assert not list(store.partial.iterdir()) and store.missing([File("x", 5, digest)]) == [digest]


@pytest.mark.parametrize("path", ["../up", "/etc/passwd", "a/../../b", "", "nul\0"])
def test_files_stay_in_their_folder(path: str) -> None:
    with pytest.raises(Refused):
        File.of([path, 1, "0" * 64])


def test_what_a_dead_process_left_is_removed(tmp_path: Path) -> None:
    Store(str(tmp_path)).open()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    partial = tmp_path / "device" / "partial"
    (partial / f"{ended.pid}-x").write_text("half")
    (partial / f"{os.getpid()}-y").write_text("mine")
    Store(str(tmp_path)).open()
    assert [path.name for path in partial.iterdir()] == [f"{os.getpid()}-y"]


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path))
    store.open()
    folders = [store.tree([sent(store, "x", bytes([number]) * 1000)]) for number in range(4)]
    for age, folder in enumerate((folders[2], folders[0], folders[3], folders[1])):
        os.utime(folder, (age, age))
    monkeypatch.setattr(module, "MOST_BYTES", 3000)
    other = Store(str(tmp_path))
    other.open()  # while somebody uses it, all stays
    assert all(folder.exists() for folder in folders)
    assert store._lock is not None and other._lock is not None
    os.close(store._lock)
    os.close(other._lock)
    Store(str(tmp_path)).open()
    assert [folder.exists() for folder in folders] == [False, True, False, False]
    assert len(list((tmp_path / "device" / "blobs").iterdir())) == 1


def test_a_cache_in_use_is_not_removed(tmp_path: Path) -> None:
    one, two = Store(str(tmp_path / "c")), Store(str(tmp_path / "c"))
    one.open()
    two.open()
    with pytest.raises(Refused, match="is in use"):
        one.clean()
    assert two._lock is not None
    os.close(two._lock)
    assert one.clean() >= 0 and not (tmp_path / "c").exists()


def test_a_cache_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "device").mkdir()
    (tmp_path / "device").chmod(0o777)
    with pytest.raises(Refused, match="by other users"):
        Store(str(tmp_path)).open()
    assert not list((tmp_path / "device").iterdir())


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    """A folder of that name may be the user's; and what a user put into the cache outlives it."""
    own = tmp_path / "device" / "partial" / "thesis.tex"
    own.parent.mkdir(parents=True)
    own.write_text("all of it")
    with pytest.raises(Refused, match="has other files in it"):
        Store(str(tmp_path)).open()
    assert own.read_text() == "all of it" and [path.name for path in (tmp_path / "device").iterdir()] == ["partial"]
    store = Store(str(tmp_path / "other"))
    store.open()
    assert store.folder.stat().st_mode & 0o777 == 0o700
    (store.folder / "note.txt").write_text("mine")
    store.clean()
    assert [path.name for path in store.folder.iterdir()] == ["note.txt"]


def test_what_was_started_ends_with_the_agent(tmp_path: Path) -> None:
    """Also what a child of the agent started: pip runs a Python that runs another one."""
    script = tmp_path / "agent.py"
    script.write_text(
        "import signal, subprocess, sys\n"
        "from runtimes.agent import serve\n"
        "def work(call):\n"
        "    inner = 'import time; print(1, flush=True); time.sleep(15); print(2)'\n"
        "    outer = f'import subprocess, sys; subprocess.run([sys.executable, \"-c\", {inner!r}])'\n"
        "    subprocess.run([sys.executable, '-c', outer], stdout=sys.stderr)\n"
        "try:\n"
        "    serve.serve(serve.streams().wire, {'work': work}, {})\n"
        "except serve.Ended:\n"
        "    sys.exit(1)\n"
    )
    root = str(Path(module.__file__).resolve().parent.parent.parent)
    agent = subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": root}, start_new_session=True,
    )  # fmt: skip
    assert agent.stdin is not None and agent.stdout is not None and agent.stderr is not None
    wire = Wire(agent.stdout, agent.stdin)
    assert wire.receive() is not None
    wire.send({"id": 1, "do": "work"})
    assert agent.stderr.readline() == b"1\n"
    agent.stdin.close()
    assert agent.wait(30) == 1
    assert agent.stderr.read() == b""  # all who could write there are gone


def wheel(folder: Path, name: str, version: str) -> None:
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"version = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)


def test_an_environment_is_made_once_from_a_wheelhouse(store: Store, tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    wheel(wheels, "tiny", "1.0")
    wheel(wheels, "tiny", "2.0")
    python = environment(store, ["tiny==1.0"], ["tiny==1.0"], wheels)
    code = "import tiny, sys; print(tiny.version, sys.prefix)"
    told = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert told[0] == "1.0" and Path(told[1]) == python.parent.parent
    made = json.loads((python.parent.parent / "ready.json").read_text())
    assert made["requirements"] == ["tiny==1.0"] and store.usage()["environments"] == [made]
    before = python.lstat().st_mtime_ns
    assert environment(store, ["tiny==1.0"], ["tiny==1.0"], wheels) == python and python.lstat().st_mtime_ns == before
    with pytest.raises(Refused, match=r"no wheel of tiny==3\.0 in the wheelhouse"):
        environment(store, ["tiny==3.0"], [], wheels)
    assert len([path for path in (store.folder / "environments").iterdir() if path.is_dir()]) == 1


def test_the_agent_needs_numpy_alone() -> None:
    """It starts in a part of a second: no engine, and nothing of compress, is imported before it is asked for."""
    code = (
        "import sys, runtimes.agent.__main__, runtimes.agent.operations\n"
        "top = {name.partition('.')[0] for name in sys.modules}\n"
        "foreign = sorted(n for n in top - set(sys.stdlib_module_names) if not n.startswith(('_', 'numpy')))\n"
        "print(foreign)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['runtimes']"


def test_the_bootstrap_is_constant() -> None:
    assert bootstrap_source() == bootstrap_source() and len(bootstrap_source()) < 2**15


CLOSED = """
import os, sys
sys.path[:0] = [sys.argv[1]]
sys.argv[1:] = [sys.argv[1], sys.argv[2]]
from runtimes.agent import serve
def full(*_):
    raise OSError(28, "No space left on device", "/somewhere")
serve.threading.Thread.start = full
from runtimes.agent.{module} import main
sys.exit(main())
"""


@pytest.mark.parametrize("module", ["__main__", "bootstrap"])
def test_what_the_system_refuses_a_program_there_is_its_last_words(module: str, tmp_path: Path) -> None:
    package = Path(__file__).resolve().parents[3]
    words = [sys.executable, "-c", CLOSED.replace("{module}", module), str(package), str(tmp_path)]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "/somewhere: No space left on device\n")


def test_a_cache_that_the_agent_cannot_open_is_told(tmp_path: Path) -> None:
    (tmp_path / "device").write_text("a file")
    package = Path(__file__).resolve().parents[3]
    code = "import sys; from runtimes.agent.__main__ import main; sys.exit(main())"
    words = [sys.executable, "-c", code, str(package), str(tmp_path)]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, cwd=package, check=False)
    header, _ = received(done.stdout) or ({}, b"")
    assert header["event"] == "failed" and "cannot be written" in str(header["message"]) and done.returncode == 1
