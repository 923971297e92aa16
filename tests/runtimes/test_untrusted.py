"""Files that lie, overflow, end early or never end are refused in one line that begins with their name."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from runtimes.__main__ import main
from runtimes.checks.folder import Entry, Folder, write_arrays
from runtimes.errors import InvalidModel
from runtimes.files import untrusted
from runtimes.files.untrusted import Unreadable, read_arrays, read_bytes, read_json, read_text
from runtimes.runtime import existing

Spoil = Callable[[Path], None]


def npy(array: object, header: dict[str, object] | None = None) -> bytes:
    """The bytes of an .npy file, with another header where one is given."""
    content = io.BytesIO()
    np.lib.format.write_array(content, np.asarray(array), allow_pickle=True)
    if header is None:
        return content.getvalue()
    told = repr(header).encode() + b"\n"
    data = content.getvalue()[10 + struct.unpack("<H", content.getvalue()[8:10])[0] :]
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(told)) + told + data


def zipped(*members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Spoil:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w", method) as archive:
            for name, content in members:
                archive.writestr(name, content)

    return write


def header(shape: object, descr: object = "<f4", values: int = 4) -> Spoil:
    """An .npz whose one array claims a shape and a type, and has ``values`` zeros of 4 bytes."""
    told = {"descr": descr, "fortran_order": False, "shape": shape}
    return zipped(("x.npy", npy(np.zeros(values, np.float32), told)))


def changed(at: int, byte: int) -> Spoil:
    def write(path: Path) -> None:
        np.savez_compressed(path, x=np.arange(400))
        content = bytearray(path.read_bytes())
        content[at] ^= byte
        path.write_bytes(content)

    return write


def cut(path: Path) -> None:
    np.savez(path, x=np.zeros(100))
    path.write_bytes(path.read_bytes()[:300])


def encrypted(path: Path) -> None:
    np.savez(path, x=np.zeros(4))
    content = bytearray(path.read_bytes())
    content[6] |= 1
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)


def same_names(path: Path) -> None:
    zipped(("x.npy", npy(1)), ("x", npy(2)))(path)


def a_large_directory(path: Path) -> None:
    np.savez(path, x=np.zeros(4))
    content = path.read_bytes()
    start, end = content.rindex(b"PK\x01\x02"), content.rindex(b"PK\x05\x06")
    size = 5 * 2**20
    tail = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, size, start, 0)
    path.write_bytes(content[:end] + bytes(size - (end - start)) + tail)


HOSTILE: dict[str, tuple[Spoil, str]] = {
    "missing": (lambda path: None, "no such file"),
    "a folder": (Path.mkdir, "a folder"),
    "a pipe": (os.mkfifo, "a named pipe"),
    "a link to a device": (lambda path: path.symlink_to("/dev/zero"), "a device"),
    "empty": (Path.touch, "not a readable .npz"),
    "text": (lambda path: path.write_text("x = 3") and None, "not a readable .npz"),  # type: ignore[dict-item]
    "one array": (lambda path: path.write_bytes(npy([1.0])) and None, "one array"),  # type: ignore[dict-item]
    "cut": (cut, "not a readable .npz"),
    "a damaged stream": (changed(-250, 0xFF), "x.npz"),
    "encrypted": (encrypted, "encrypted"),
    "a large directory": (a_large_directory, "not a readable .npz"),
    "too many arrays": (zipped(*((f"{i}.npy", b"") for i in range(untrusted.MEMBERS + 1))), "4,097 arrays"),
    "two of one name": (same_names, "one name"),
    "another compression": (zipped(("x.npy", npy(1)), method=zipfile.ZIP_BZIP2), "compressed otherwise"),
    "no array inside": (zipped(("x.txt", b"hello")), "x.txt is no array"),
    "objects": (zipped(("x.npy", npy(np.array([{}])))), "Python objects"),
    "text inside": (zipped(("x.npy", npy(np.array(["a"])))), "<U1"),
    "complex": (zipped(("x.npy", npy(np.array([1j])))), "complex128"),
    "records": (zipped(("x.npy", npy(np.zeros(2, [("a", "i4")])))), "expected an array of numbers"),
    "dates": (zipped(("x.npy", npy(np.zeros(2, "M8[D]")))), "datetime64"),
    "a shape that is larger": (header((2**20, 2**20)), "it is damaged"),
    "a shape that is smaller": (header((3,)), "it is damaged"),
    "a shape beyond integers": (header((2**62, 2**62)), "it is damaged"),
    "a negative shape": (header((-2, -2)), "sizes of 0 or more"),
    "a shape of truth": (header((True, 4)), "sizes of 0 or more"),
    "a shape of floats": (header((4.0,)), "no array"),
    "a type that is none": (header((4,), "<q9"), "no array"),
    "a type of many": (header((4,), "V2000000000"), "expected an array of numbers"),
    "a header that is nested": (header((4,), eval("[" * 90 + "]" * 90)), "no array"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_arrays_are_refused(name: str, tmp_path: Path) -> None:
    make, says = HOSTILE[name]
    path = tmp_path / "x.npz"
    make(path)
    with pytest.raises(Unreadable) as refused:
        read_arrays(path)
    told = str(refused.value)
    assert told.startswith(str(path)) and says in told and "\n" not in told, told


def test_what_arrays_take_is_known_before_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.npz"
    np.savez_compressed(path, a=np.zeros(2**20, np.float64), b=np.zeros(2**20, np.float64))
    assert path.stat().st_size < 2**16
    monkeypatch.setattr(np.lib.format, "read_array", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(Unreadable, match=r"16,777,472 bytes of arrays, and 16,000,000 is the most; add --large-files"):
        read_arrays(path, most=16_000_000)
    monkeypatch.undo()
    with untrusted.limits_lifted():
        assert read_arrays(path, most=1)["b"].shape == (2**20,)
    assert not untrusted.large_files()


def test_arrays_are_read_as_they_were_written(tmp_path: Path) -> None:
    told = {
        "float": np.arange(6, dtype=np.float16).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "foreign": np.arange(3, dtype=">i4"),
        "none": np.zeros((0, 4), np.uint8),
        "one": np.array(True),
    }
    np.savez(tmp_path / "x.npz", **told)  # type: ignore[arg-type]
    read = read_arrays(tmp_path / "x.npz")
    assert list(read) == list(told)
    for name, array in told.items():
        np.testing.assert_array_equal(read[name], array)
        assert read[name].dtype.isnative and read[name].dtype == array.dtype.newbyteorder("=")


@pytest.mark.parametrize(
    "text, says",
    [
        ("", "the file is empty"),
        ('{"a": [1, 2', "truncated"),
        ('{"a": 1,, "b": 2}', "line 1, column 9"),
        ("[" * 100_000, "nested too deep"),
        ("1" * 5000, "more than 4300 digits"),
    ],
    ids=["empty", "cut", "wrong", "deep", "digits"],
)
def test_text_that_is_no_json_is_refused(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(Unreadable, match=says):
        read_json(path)


def test_text_is_utf_8_and_no_larger_than_it_may_be(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b'"\xff"')
    with pytest.raises(Unreadable, match="UTF-8, got other bytes at 1"):
        read_json(path)
    with pytest.raises(Unreadable, match="3 bytes, and 2 is the most; add --large-files"):
        read_text(path, most=2)
    with pytest.raises(Unreadable, match=r"no such file|embedded null"):
        read_bytes("a\0b")


ENTRY = Entry("a.onnx", "onnx", "onnxruntime", "ort-x86", "float32", "a.npz")


@pytest.mark.parametrize(
    "key, value, says",
    [
        ("files", {}, "files: expected a list, got a mapping"),
        ("files", [1], "files: expected a list of mappings"),
        ("samples", 3, "samples: expected a text, got a number"),
        ("samples", "../secret.npz", "samples: expected the name of a file in the folder"),
        ("source", None, "source: expected a text"),
        ("records", "all", "records: expected a list"),
        ("schema", True, "written by another version"),
        ("files.0", {"more": 1}, "files.0.more: no such key"),
        ("files.0", {"file": "/etc/passwd"}, "files.0.file: expected the name of a file in the folder"),
        ("files.0", {"file": "a\0b"}, "files.0.file: expected the name"),
        ("files.0", {"file": ""}, "files.0.file: expected the name"),
        ("files.0", {"expected": 10**40}, "files.0.expected: expected a text"),
        ("files.0", {"kind": "double"}, "files.0.kind: expected float32 or float16 or integer, got 'double'"),
        ("files.0", {"layout": ["nchw"]}, "files.0.layout: expected a text, got a list"),
        ("files.0", {"inputs": "x"}, "files.0.inputs: expected a list, got a text"),
        ("files.0", {"outputs": [["y"]]}, "files.0.outputs: expected a list of texts"),
        ("files", [asdict(ENTRY)] * 2, "files: one of them is there twice"),
        ("files.0", {"beside": ["../../x"]}, "files.0.beside: expected the name"),
    ],
)
def test_a_listing_is_of_the_form_that_export_writes(
    key: str, value: object, says: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    Folder(tmp_path, (ENTRY,), source="noise").write()
    assert Folder.read(tmp_path).entries == (ENTRY,)
    listing = tmp_path / "export.json"
    told = json.loads(listing.read_text())
    if key == "files.0":
        told["files"][0].update(value)
    else:
        told[key] = value
    listing.write_text(json.dumps(told))
    assert main(["check", str(tmp_path)]) == 2
    assert says in capfd.readouterr().err


@pytest.mark.parametrize("labels", [np.array(3), np.zeros(4), np.array([0, 1, -1, 2]), np.zeros((4, 1), int)], ids=str)
def test_labels_of_an_exported_folder_are_a_class_for_each_sample(labels: np.ndarray) -> None:
    from runtimes.checks.check import top1
    from runtimes.errors import InvalidInputs

    with pytest.raises(InvalidInputs, match="labels: expected"):
        top1([(np.zeros((4, 3)), labels)])


@pytest.mark.parametrize("pipe", ["net.onnx", "net.param", "net.bin"])
def test_models_and_their_weights_are_no_pipes(pipe: str, tmp_path: Path) -> None:
    (tmp_path / "net.param").write_text("7767517\n")
    (tmp_path / pipe).unlink(missing_ok=True)
    os.mkfifo(tmp_path / pipe)
    with pytest.raises(InvalidModel, match=f"{pipe}: expected a file, got a named pipe"):
        existing(tmp_path / (pipe if pipe != "net.bin" else "net.param"))


def test_the_measuring_command_refuses_a_pipe_for_inputs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "x.npz")
    assert main([str(tmp_path / "net.onnx"), "--inputs", str(tmp_path / "x.npz")]) == 2
    assert "x.npz: expected a file, got a named pipe" in capfd.readouterr().err


def test_large_files_is_an_option_of_both_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_arrays(tmp_path / "x.npz", [np.zeros(4)])
    monkeypatch.setattr(untrusted, "ARRAY_BYTES", 1)
    seen: list[bool] = []
    monkeypatch.setattr("runtimes.__main__.read_arrays", lambda path: seen.append(untrusted.large_files()) or {})  # type: ignore[func-returns-value]
    for option in ([], ["--large-files"]):
        assert main([str(tmp_path / "gone.onnx"), "--inputs", str(tmp_path / "x.npz"), *option]) == 2
    assert seen == [False, True] and not untrusted.large_files()
