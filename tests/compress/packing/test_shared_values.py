"""Tensors that share few values: their codings, how close they come to the entropy, and what they take in memory."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from compress.errors import InvalidInput
from compress.packing import codings, decode, encode, pack, unpack
from compress.packing.memory import memory

# Packed by the program that wrote version 1: the codings bitmask, planes and bitmask, streams with and without zstd.
VERSION_1 = base64.b85decode(
    "MMOtMP(edW0RSoi001bpFa2Of0tE>G77;WVaL)q}m5&Lg@n~eFL7<8;0%nbZ<V*j*5G(*K04)ITD}1EJugb$D8LC1h;iwPtlb#*nqs;C01j1)O*4"
    "%DwSsMZPZO?v)+Rg%fA72Q*SkIoKdw-IkDCulAzCU$q#W~?hbX6I=(w9-G&_AgHO`=C)AQGnmZ#K4+06lKHwR0(i8)UJK5+&W7lTVn9|JE9HR?NO"
    "rbnWAA+4)h?she~@1KG$%mJq@yJm~Mqz+0B@`P<0exAc*o!w6-|Mvj8F4BvYY{R!W0Ms_Y9AaEp_6Yv4_WpPr2JeZj_O>zS-hYH$20{sQ1-C$Ky;"
    "-rpkWQ#YTT>fK-452r@!^=dX;lRxo>^U?p;lWxh0pt2vMTS8Fgby$pD77#B0012W0MZ2(AD}56|5#9*zbfFe?&vH3I}eQWSl~E-5{r^VWG86{iRi"
    "alp9XdE%i4c7eG=Tm6kQ44<8!EUn8EQil=5JUu3{rrAnMR;41!4%2mvpx+4T6t0HCx30sx@N<<U+(D77#B003<O062jH1PBlyKmh>qiV-NaFZ}=j"
    "O#=WzM;RfYDIK^jE^)vp63V&U(eQAq9*}(_V{Ds`CX$QwlrsAi=zxg~mk^-}1#G)uTBXWV*CdzhVVeWf?vf=iO`v;jpM|bMb(sPt1G#kDN9dk``9"
    "{?d^AY=#OQ-1GQq=%-n}Hnw0Q1)Xy>b2X0K%2mT2b}@d$t<AcH?w$04w4BMQ<SUbts1b{^16~WjcwKo7slf05FwWsi}WaK5Fvzk>C6P0uVHN?wEq"
    "MJs@WqLF5a)0Nhq~LB8_imJwQXWisD!>{YJ-N|M|wgXdb|e>MvJ6i~HA1oIYe0L<1PtbCL600grD8^lut0AfS4!FS#O@WXr?q!)L@04qjQQ$;HT)"
    "0a>Hr9#(Y=3>@EsR&`S07izv_9jtxn6%5@?f3lv|NQsx=iSl6w4;!GW==L60OG`?gJ3)t@yelhOd#^alw>jh%$H#+^SXgX3(t~M71fke5zUH40J("
    "B2;+anbfVJHK4;(2qKuT0yW^Z?ZgNKWcl9rjAprfX#tgo`Qx4ON+!o|nR%+Jx(*4f+L;Ns-w=<Dt8@$>cf`TP9<009C61O)~M2nh-c3=Iws5D*a("
    "6BHE|78e*98XFrN9UdPbAR!_nBP1mzCnqQ=Dk>{1EiEoDFfcJPGBY$aD77#B003<O04P5{KR`hO00okO1c)fLFZ}=jeE<MRfIuJ+2m}HF0098yS&"
    "jh$0|W&I2M7rY3k(eo4-gR&6BHE|7Z@2D8yp=TA0QzjBP1mzCnzZ@D=aN8FEBAO0RjUA1qKHQwHM|$;U(*qamEA)ABzw$rk_{Lw`&%{U-R(-<dBG"
    "?"
)
VERSION_1_SHA256 = "ce871a098adf7cc5edfe6fbe5fe2a1c979616ca4fce15fd68eaf17df06d1910d"


def initializers(*arrays: NDArray[Any]) -> bytes:
    """An ONNX file that holds ``arrays``."""
    stored = [numpy_helper.from_array(array, f"w{number}") for number, array in enumerate(arrays)]
    node = helper.make_node("Identity", ["x"], ["y"])
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    return bytes(helper.make_model(helper.make_graph([node], "g", [x], [y], stored)).SerializeToString())


def codes(count: int, zeros: float, levels: int, zero: int = 0) -> NDArray[np.uint8]:
    """Codes of normally distributed weights, of which the share ``zeros`` has the code ``zero``."""
    rng = np.random.default_rng(0)
    others = np.clip(rng.normal(levels / 2, levels / 5, count), 0, levels - 1).astype(np.uint8)
    return np.where(rng.random(count) < zeros, zero, others + (others >= zero)).astype(np.uint8)


def entropy_bytes(symbols: NDArray[Any]) -> float:
    counts = np.unique(symbols, return_counts=True)[1]
    return float(counts @ np.log2(len(symbols) / counts)) / 8


@given(
    st.lists(st.tuples(st.sampled_from([0, 1, 3, 254, 255, 256, 509, 510, 511, 1000]), st.integers(0, 255)), max_size=9)
)
@settings(max_examples=60, deadline=None)
def test_gaps_of_any_length(runs: list[tuple[int, int]]) -> None:
    data = b"".join(b"\x07" * length + bytes([value]) for length, value in runs) + b"\x07" * 1500
    records, (gaps, values) = codings.encode(data, 1, ["gaps"])
    assert records[0]["common"] == 7 and values == data.replace(b"\x07", b"")
    naive, before = bytearray(), 0
    for value in data:
        if value == 7:
            before += 1
        else:
            naive += b"\xff" * (before // 255) + bytes([before % 255])
            before = 0
    assert gaps == naive
    assert codings.decode(records, (gaps, values), len(data)) == data


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float16", "float32", "int32", "float64"])
@pytest.mark.parametrize("name", ["gaps", "bitmask"])
def test_any_value_may_be_the_frequent_one(dtype: str, name: str) -> None:
    values = codes(5000, 0.9, 15, zero=6).astype(dtype)
    values[values == 6] = 77
    data = values.tobytes()
    records, streams = codings.encode(data, values.itemsize, [name])
    assert records[0]["common"] == int.from_bytes(np.array(77, dtype).tobytes(), "little")
    assert len(streams[-1]) == np.count_nonzero(values != 77) * values.itemsize
    assert codings.decode(records, streams, len(data)) == data


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_codes_that_share_bytes(bits: int) -> None:
    numbers = np.random.default_rng(0).integers(0, 1 << bits, 64)
    joined = bytes(
        sum(int(n) << bits * i for i, n in enumerate(numbers[at : at + 8 // bits])) for at in range(0, 64, 8 // bits)
    )
    records, streams = codings.encode(joined, 1, [f"{bits}-bit"])
    assert list(streams[0]) == numbers.tolist() and codings.decode(records, streams, len(joined)) == joined
    with pytest.raises(ValueError, match=f"more than {bits} bits"):
        codings.decode(records, [bytes([255]) + streams[0][1:]], len(joined))


@pytest.mark.parametrize("zero", [0, 7, 15])
@pytest.mark.parametrize(("zeros", "levels"), [(0.9, 15), (0.96, 31), (0.98, 31)])
def test_codes_take_about_their_entropy(zeros: float, levels: int, zero: int) -> None:
    values = codes(400_000, zeros, levels, zero)
    content = initializers(values)
    header, restored = decode(encode(content, "a"), "a")
    assert restored == content and [record["name"] for record in header.tensors[0].codings] == ["gaps"]
    stored = sum(stream.bytes for stream in header.tensors[0].streams)
    assert entropy_bytes(values) < stored < 1.02 * entropy_bytes(values)
    assert stored < 0.9 * len(zstandard.compress(values.tobytes(), 19))


def test_sparse_ternary_weights_are_taken_apart() -> None:
    values = np.random.default_rng(0).choice(4, 400_000, p=[0.04, 0.92, 0.04, 0])
    content = initializers((values.reshape(-1, 4) << np.arange(0, 8, 2)).sum(axis=1).astype(np.uint8))
    header, restored = decode(encode(content, "a"), "a")
    assert restored == content and [record["name"] for record in header.tensors[0].codings] == ["2-bit", "gaps"]
    assert sum(stream.bytes for stream in header.tensors[0].streams) < 1.02 * entropy_bytes(values)


def test_version_1_is_read(tmp_path: Path) -> None:
    header, content = decode(VERSION_1, "old")
    assert hashlib.sha256(content).hexdigest() == VERSION_1_SHA256 and header.memory_bytes is None
    stored = {
        tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load_model_from_string(content).graph.initializer
    }
    np.testing.assert_array_equal(stored["f"], np.sqrt(np.arange(1, 129, dtype=np.float32)))
    assert np.flatnonzero(stored["w"]).tolist() == [*range(0, 200, 7)]
    np.testing.assert_array_equal(stored["q"][::9], 1 + np.arange(58) % 50)
    (tmp_path / "old.packed").write_bytes(VERSION_1)
    told = unpack(tmp_path / "old.packed", tmp_path / "old.onnx")
    assert told.codings == {"bitmask": 2, "planes": 1} and [tensor.name for tensor in told.tensors] == ["w", "f", "q"]
    assert told.memory_bytes is None and (tmp_path / "old.onnx").read_bytes() == content


def reseal(packed: bytes, header: dict[str, Any] | None = None, streams: bytes | None = None) -> bytes:
    """A packed file with another header or other streams, and the right digest."""
    _, version, length = struct.unpack_from("<8sHI", packed)
    told = packed[14 : 14 + length] if header is None else zstandard.compress(json.dumps(header).encode())
    rest = packed[14 + length : -32] if streams is None else streams
    body = struct.pack("<8sHI", b"EDGEPACK", version, len(told)) + told + rest
    return body + hashlib.sha256(body).digest()


def parts(packed: bytes) -> tuple[dict[str, Any], bytes]:
    _, _, length = struct.unpack_from("<8sHI", packed)
    return json.loads(zstandard.decompress(packed[14 : 14 + length])), packed[14 + length : -32]


@pytest.fixture(scope="module")
def packed() -> bytes:
    """A packed file with every coding and compressor."""
    rng = np.random.default_rng(0)
    nibbles = rng.choice(16, 6000, p=[0.05, 0.9, *[0.05 / 14] * 14]).astype(np.uint8)
    floats = np.where(rng.random(3000) < 0.95, 0, rng.normal(0, 1, 3000)).astype(np.float32)
    half = np.where(rng.random(3000) < 0.5, 0, rng.normal(0, 1, 3000)).astype(np.float32)
    text = np.arange(999, dtype=np.int16) % 30
    content = initializers(codes(9000, 0.9, 15), nibbles[::2] | nibbles[1::2] << 4, floats, half, text)
    whole = encode(content, "a")
    header, _ = decode(whole, "a")
    names = {record["name"] for tensor in header.tensors for record in tensor.codings}
    assert names == {"gaps", "4-bit", "bitmask", "planes"}
    assert {stream.compressor for t in header.tensors for stream in t.streams} == {"none", "zstd", "huffman"}
    return whole


def refused_or_restored(content: bytes, original: bytes) -> None:
    with contextlib.suppress(InvalidInput):
        assert decode(content, "a")[1] == original


def test_changed_streams_are_refused(packed: bytes) -> None:
    rng = np.random.default_rng(0)
    original, (_, streams) = decode(packed, "a")[1], parts(packed)
    for _ in range(60):
        changed = bytearray(streams)
        for place in rng.integers(0, len(streams), rng.integers(1, 5)):
            changed[place] ^= 1 << int(rng.integers(8))
        refused_or_restored(reseal(packed, streams=bytes(changed)), original)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_changed_headers_are_refused(packed: bytes, data: st.DataObject) -> None:
    """Any one entry becomes something else, within the codings too."""
    header, _ = parts(packed)
    original = decode(packed, "a")[1]
    place: Any = header
    while True:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.integers(0, 5)) == 0:
            break
        place = place[key]
    numbers = st.integers(-2, 300) | st.sampled_from([2**31 - 1, 2**31, 2**40, 2**63, 2**70, place[key]])
    words = st.sampled_from(["gaps", "planes", "bitmask", "4-bit", "none", "zstd", "huffman", ""])
    place[key] = data.draw(numbers | words | st.sampled_from([None, True, [], {}, 1.5, [[]], {"name": []}]))
    refused_or_restored(reseal(packed, header), original)


def test_sizes_are_bounded_by_the_header() -> None:
    bomb = zstandard.compress(bytes(10**8), 19)
    stream = {"compressor": "zstd", "bytes": len(bomb), "raw_bytes": 4}
    whole = {"name": "a", "size": 4, "sha256": "0", "rest": stream, "tensors": []}
    with pytest.raises(InvalidInput, match="100000000 bytes, and 4 is the most"):
        decode(reseal(VERSION_1, whole, bomb), "a")
    record = {"name": "gaps", "itemsize": 4, "count": 2**30, "common": 1}
    with pytest.raises(ValueError, match="count=1073741824, and 8 is the most"):
        codings.decode([record], [b"", b""], 4)
    with pytest.raises(ValueError, match="lead to the place 255 of 8"):
        codings.decode([{**record, "itemsize": 1, "count": 8}], [b"\xff\x00", b"1"], 8)
    for sides in (b"\x00\xff", b"\x00\x00", b""):
        with pytest.raises(ValueError, match="1 values for"):
            codings.decode([{**record, "itemsize": 1, "count": 8}], [sides, b"1"], 8)
    with pytest.raises(ValueError, match="common=256"):
        codings.decode([{**record, "itemsize": 1, "count": 8, "common": 256}], [b"", b""], 8)


def looked_up() -> onnx.ModelProto:
    """Weights as codes, in a byte each and two in a byte, that are looked up in a table of levels."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 8]) for name in "xy")
    arrays = {
        "codes": codes(320, 0.9, 15).reshape(8, 40),
        "levels": np.linspace(-1, 1, 16, dtype=np.float32),
        "pairs": np.arange(160, dtype=np.uint8),
        "axis": np.array([1]),
        "shifts": np.array([0, 4], np.uint8),
        "mask": np.array(15, np.uint8),
        "shape": np.array([40, 8]),
    }
    nodes = [
        helper.make_node("Cast", ["codes"], ["numbers"], to=TensorProto.INT32),
        helper.make_node("Gather", ["levels", "numbers"], ["first"]),
        helper.make_node("Unsqueeze", ["pairs", "axis"], ["columns"]),
        helper.make_node("BitShift", ["columns", "shifts"], ["shifted"], direction="RIGHT"),
        helper.make_node("BitwiseAnd", ["shifted", "mask"], ["masked"]),
        helper.make_node("Cast", ["masked"], ["others"], to=TensorProto.INT32),
        helper.make_node("Gather", ["levels", "others"], ["flat"]),
        helper.make_node("Reshape", ["flat", "shape"], ["second"]),
        helper.make_node("MatMul", ["x", "first"], ["h"]),
        helper.make_node("MatMul", ["h", "second"], ["y"]),
    ]
    stored = [numpy_helper.from_array(array, name) for name, array in arrays.items()]  # type: ignore[arg-type]
    opset = [helper.make_opsetid("", 18)]
    return helper.make_model(helper.make_graph(nodes, "g", [x], [y], stored), opset_imports=opset, ir_version=9)


def test_memory_is_what_the_engine_keeps(tmp_path: Path) -> None:
    content = looked_up().SerializeToString()
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "kept.onnx")
    ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    kept = onnx.load(tmp_path / "kept.onnx").graph.initializer
    assert memory(content).bytes == sum(numpy_helper.to_array(tensor).nbytes for tensor in kept) == 640 * 4
    assert not memory(content).at_least
    (tmp_path / "net.onnx").write_bytes(content)
    told = pack(tmp_path / "net.onnx", tmp_path / "net.packed")
    assert told.packed_bytes < told.size_bytes < told.memory_bytes == 640 * 4  # type: ignore[operator]
    assert unpack(tmp_path / "net.packed", tmp_path / "again.onnx").memory_bytes == 640 * 4


def computed(*nodes: onnx.NodeProto, **arrays: NDArray[Any]) -> bytes:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 8]) for name in "xy")
    stored = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(list(nodes), "g", [x], [y], stored)
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("other", 1)]
    return bytes(helper.make_model(graph, opset_imports=imports, ir_version=10).SerializeToString())


def test_memory_that_the_file_does_not_tell_is_a_lower_bound() -> None:
    product = helper.make_node("MatMul", ["x", "w"], ["y"])
    scale, weights = np.array(0.1, np.float32), np.ones((8, 8), np.int8)
    dequantized = computed(helper.make_node("DequantizeLinear", ["q", "s"], ["w"]), product, q=weights, s=scale)
    assert (memory(dequantized).bytes, memory(dequantized).at_least) == (68, True)
    foreign = computed(helper.make_node("Unpack", ["q"], ["w"], domain="other"), product, q=weights)
    assert (memory(foreign).bytes, memory(foreign).at_least) == (64, True)
    half = computed(product, w=np.ones((8, 8), np.float16))
    assert (memory(half).bytes, memory(half).at_least) == (128, True)
    unused = computed(product, w=np.ones((8, 8), np.float32), other=np.ones(9))
    assert (memory(unused).bytes, memory(unused).at_least) == (256, False)
    assert memory(b"\x3a\x03abc").bytes is None
