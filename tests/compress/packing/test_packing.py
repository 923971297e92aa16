"""Packed files: restored bit for bit, or refused."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from compress import Context, Sparsify
from compress.cli import main
from compress.errors import InvalidInput
from compress.packing import codings, container, decode, encode, pack, unpack
from compress.packing.tensors import places
from export.onnx.exporter import export_onnx


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sparse network as ONNX."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.Flatten(), nn.Linear(512, 10)).eval()
    x = (torch.zeros(1, 3, 8, 8),)
    path = tmp_path_factory.mktemp("packing") / "net.onnx"
    sparse = Sparsify(sparsity=0.9).apply(model, Context(x)).model
    with torch.no_grad():
        sparse.get_parameter("2.weight").mul_(-1)  # zeros become -0.0, as in a network masked by multiplication
    export_onnx(sparse, x, path)
    return path


def test_an_exported_network_comes_back_bit_for_bit(file: Path, tmp_path: Path) -> None:
    packed = pack(file, tmp_path / "net.onnx.packed")
    content = file.read_bytes()
    assert packed.packed_bytes == (tmp_path / "net.onnx.packed").stat().st_size
    assert packed.size_bytes == len(content) and packed.sha256 == hashlib.sha256(content).hexdigest()
    assert packed.ratio > 6 and [tensor.name for tensor in packed.tensors] == ["0.weight", "2.weight", "4.weight"]
    assert unpack(tmp_path / "net.onnx.packed", tmp_path / "again.onnx").sha256 == packed.sha256
    assert (tmp_path / "again.onnx").read_bytes() == content
    assert len(zstandard.compress(content, 19)) > packed.packed_bytes


def test_an_exported_network_has_no_negative_zeros(file: Path) -> None:
    for tensor in onnx.load(file).graph.initializer:
        values = numpy_helper.to_array(tensor)
        assert values.dtype != np.float32 or not np.signbit(values[values == 0]).any()


def test_the_tensors_of_a_file_are_found(file: Path) -> None:
    content = file.read_bytes()
    stored = onnx.load(file).graph.initializer
    found = {content[p.offset : p.offset + p.size]: p.itemsize for p in places(content)}
    assert {t.raw_data for t in stored if t.raw_data} == set(found)
    for tensor in stored:
        assert found[tensor.raw_data] == numpy_helper.to_array(tensor).itemsize


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "int8", "uint8", "int32", "int64", "bool"])
def test_every_type_and_place(dtype: str) -> None:
    """Initializers, tensors of attributes and of subgraphs; odd sizes, negative zeros and NaN."""
    rng = np.random.default_rng(0)
    array = (rng.normal(0, 9, 1001) * (rng.random(1001) < 0.2)).astype(dtype)
    if array.dtype.kind == "f":
        array[:3] = (-0.0, np.nan, np.inf)
    tensor = numpy_helper.from_array(array, "w")
    inner = helper.make_graph([helper.make_node("Identity", ["w"], ["z"])], "inner", [], [], [tensor])
    nodes = [
        helper.make_node("Constant", [], ["c"], value=tensor),
        helper.make_node("If", ["p"], ["z"], then_branch=inner, else_branch=inner),
    ]
    content = helper.make_model(helper.make_graph(nodes, "g", [], [], [tensor])).SerializeToString()
    assert len(places(content)) == 4
    header, restored = decode(encode(content, "a.onnx"), "a.onnx")
    assert restored == content and header.name == "a.onnx"
    assert len(header.tensors) == (4 if array.nbytes >= container.SMALLEST_BYTES else 0)


@given(st.binary(max_size=80), st.sampled_from([1, 2, 4, 8]), st.sampled_from(container.CANDIDATES))
@settings(max_examples=60, deadline=None)
def test_codings_lose_nothing(data: bytes, itemsize: int, names: tuple[str, ...]) -> None:
    data = data[: len(data) // itemsize * itemsize] + bytes(itemsize)
    records, streams = codings.encode(data, itemsize, names)
    assert codings.decode(records, streams, len(data)) == data
    assert [record["name"] for record in records] == list(names)


def test_codings_of_other_streams_are_refused() -> None:
    records, streams = codings.encode(bytes([0, 1, 0, 2]), 1, ["bitmask"])
    for wrong in ((*streams, b""), (b"", streams[1]), (streams[0], b"123")):
        with pytest.raises(ValueError):
            codings.decode(records, wrong, 4)
    with pytest.raises(ValueError, match="'codebook' is not known"):
        codings.decode([{"name": "codebook"}], streams, 4)
    with pytest.raises(ValueError, match="itemsize='4'"):
        codings.decode([{"name": "bitmask", "itemsize": "4", "count": 4}], streams, 4)


def test_any_changed_byte_is_refused(file: Path, tmp_path: Path) -> None:
    whole = encode(file.read_bytes(), "net.onnx")
    rng = np.random.default_rng(0)
    wrong = [whole[:cut] for cut in (0, 7, 13, 40, len(whole) // 2, len(whole) - 1)] + [whole + b"x"]
    places = (0, 8, 12, 20, *rng.integers(0, len(whole), 20), len(whole) - 1)
    wrong += [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in places]
    bad = tmp_path / "bad.packed"
    for content in wrong:
        bad.write_bytes(content)
        with pytest.raises(InvalidInput, match=r"bad\.packed"):
            unpack(bad, tmp_path / "out.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.packed"]


def sealed(header: dict[str, object] | bytes, version: int = 1, streams: bytes = b"") -> bytes:
    """A file with a right digest, whatever stands in it."""
    told = zstandard.compress(header if isinstance(header, bytes) else json.dumps(header).encode())
    body = struct.pack("<8sHI", b"EDGEPACK", version, len(told)) + told + streams
    return body + hashlib.sha256(body).digest()


REST = {"compressor": "none", "bytes": 4, "raw_bytes": 4}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (sealed({}, version=3), "version 3"),
        (sealed(b"no json"), "header cannot be read"),
        (sealed({"name": "a"}), "header cannot be read"),
        (sealed({"name": "a", "size": 4, "sha256": "0", "rest": REST, "tensors": []}), "size disagree"),
        (sealed({"name": "a", "size": 4, "sha256": "0", "rest": REST, "tensors": []}, 1, b"1234"), "not the file"),
        (sealed({"name": "a", "size": 9, "sha256": "0", "rest": REST, "tensors": []}, 1, b"1234"), "not the whole"),
        (
            sealed(
                {"name": "a", "size": 4, "sha256": "0", "rest": {**REST, "compressor": "zstd"}, "tensors": []},
                1,
                b"1234",
            ),
            "cannot be restored",
        ),
    ],
)
def test_malformed_files_are_refused(content: bytes, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        decode(content, "a")


def header_of(size: int, codings_: int = 0, raw: int = 0, streams: int = 1) -> dict[str, object]:
    """The header of a file that is one tensor of ``size`` bytes, and what it says of its streams."""
    one = {"compressor": "zstd", "bytes": 0, "raw_bytes": raw}
    nothing = {"compressor": "none", "bytes": 0, "raw_bytes": 0}
    record = {"name": "planes", "itemsize": 1}
    tensor = {"offset": 0, "size": size, "codings": [record] * codings_, "streams": [one] * streams}
    return {"name": "a", "size": size, "sha256": "0", "rest": nothing, "tensors": [tensor]}


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (header_of(2**30), r"it would grow from [\d,]+ to 1,073,741,824 bytes: [\d,]+ times, and 1,000 is the most"),
        (header_of(100, codings_=9), "header cannot be read"),
        (header_of(100, streams=65), "header cannot be read"),
        (header_of(100, raw=1000, streams=2), "streams that are too large for a tensor of 100 bytes"),
        (header_of(100, raw=2**31 - 1), "streams that are too large"),
        (header_of(100, raw=2**31), "header cannot be read"),
        (header_of(-1), "header cannot be read"),
        (header_of(10**30), "header cannot be read"),
        (b"[" * 2**20, "header cannot be read"),
        (b"1" * 5000, "header cannot be read"),
        (bytes(2**24 + 1), "header cannot be read"),
        (b'{"name": "\xff"}', "header cannot be read"),
    ],
    ids=["growth", "codings", "streams", "sum", "one", "size", "negative", "huge", "deep", "digits", "long", "bytes"],
)
def test_files_that_unfold_are_refused_by_what_their_header_says(
    header: dict[str, object] | bytes, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.packed").write_bytes(sealed(header))
    monkeypatch.setattr(container, "restored", lambda stream, _: pytest.fail("restored") if stream.raw_bytes else b"")
    with pytest.raises(InvalidInput, match=says):
        unpack(tmp_path / "a.packed", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_files_that_cannot_be_packed(tmp_path: Path) -> None:
    outside = TensorProto(name="w", data_type=1, dims=[4], data_location=TensorProto.EXTERNAL)
    graph = helper.make_graph([helper.make_node("Identity", ["w"], ["y"])], "g", [], [], [outside])
    for name, content in (
        ("text.onnx", b"not a network"),
        ("empty.onnx", b""),
        ("outside.onnx", helper.make_model(graph).SerializeToString()),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InvalidInput, match=name):
            pack(tmp_path / name, tmp_path / "out")
    with pytest.raises(InvalidInput, match="no such file"):
        pack(tmp_path / "gone.onnx", tmp_path / "out")
    os.mkfifo(tmp_path / "pipe.onnx")
    for command in (pack, unpack):
        with pytest.raises(InvalidInput, match=r"pipe\.onnx: expected a file, got a named pipe"):
            command(tmp_path / "pipe.onnx", tmp_path / "out")
    (tmp_path / "there").write_bytes(b"")
    with pytest.raises(InvalidInput, match="it exists"):
        pack(tmp_path / "text.onnx", tmp_path / "there")
    assert not (tmp_path / "out").exists()


def run(line: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["compress", *line])
    with pytest.raises(SystemExit) as end:
        main()
    assert isinstance(end.value.code, int)
    return end.value.code


def test_commands(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    packed, again = tmp_path / "p" / "net.onnx.packed", tmp_path / "again.onnx"
    assert run(["pack", str(file), "-o", str(packed), "--json"], monkeypatch) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["packed_bytes"] == packed.stat().st_size and told["size_bytes"] == file.stat().st_size
    weights = sum(numpy_helper.to_array(tensor).nbytes for tensor in onnx.load(file).graph.initializer)
    assert told["memory_bytes"] == weights and not told["memory_at_least"]
    assert sum(tensor["packed_bytes"] for tensor in told["tensors"]) == told["tensor_bytes"] < told["packed_bytes"]
    assert run(["pack", str(file), "-o", str(packed), "--overwrite", "-v"], monkeypatch) == 0
    shown = capsys.readouterr().out
    assert all(f"{told[key]:,}" in shown for key in ("packed_bytes", "size_bytes", "memory_bytes"))
    assert all(tensor["name"] in shown and tensor["coding"] in shown for tensor in told["tensors"])
    assert run(["unpack", str(packed)], monkeypatch) == 0
    assert (tmp_path / "p" / "net.onnx").read_bytes() == file.read_bytes()
    packed.write_bytes(packed.read_bytes()[:-100])
    capsys.readouterr()
    assert run(["unpack", str(packed), "-o", str(again)], monkeypatch) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "truncated or changed" in error
    assert not again.exists()
    assert run(["unpack", str(file)], monkeypatch) == 2 and run(["pack", str(file) + "x"], monkeypatch) == 2


def test_unpacking_needs_no_torch() -> None:
    code = "import sys, compress.packing; assert not {'torch', 'onnx'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
