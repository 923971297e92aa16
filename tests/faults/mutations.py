"""Mutations: from a valid file, one that is a little, a lot or cunningly wrong. The same seed gives the same file."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import yaml

Mutation = Callable[[bytes, Random], bytes]

NUMBERS = (-1, 0, 1, 2, 255, 2**31, 2**63, -(2**63), 2**70, 0.5, -0.5, 1e30, 1e308, -1e308, 1e-320)
WORDS = (
    *("", "x", "os.system", "canary", "canary.py", "../canary.py", "/dev/zero", "/etc/passwd", "..", "a" * 5000),
    *("\x1b[2J\u202e", "\x00", "\ud800", "baseline", "float32", "nan"),
)


class Canary:
    """An object whose pickle runs a command when it is loaded."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        import os

        return os.system, ("touch $CANARY",)


def values(random: Random) -> Any:
    """Something that a file may hold where something else is expected."""
    kinds: tuple[Callable[[], Any], ...] = (
        lambda: None,
        lambda: random.choice(NUMBERS),
        lambda: random.choice(WORDS),
        lambda: random.choice((float("nan"), float("inf"), float("-inf"))),
        lambda: random.choice((True, False)),
        lambda: random.choice(([], {}, [[]], {"": None}, [None], [1, 2, 3], {"x": 1})),
        lambda: [random.choice(NUMBERS)] * random.choice((1, 4, 1000)),
        lambda: nested(random.choice((20, 120))),
    )
    return random.choice(kinds)()


def nested(depth: int) -> Any:
    """Lists in lists."""
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def damaged(content: bytes, random: Random) -> bytes:
    """The bytes with some flipped, cut, copied elsewhere, repeated, or replaced."""
    if not content:
        return bytes(random.randrange(256) for _ in range(random.randrange(1, 64)))
    place, size = random.randrange(len(content)), random.choice((1, 2, 4, 16, 256))
    other = random.randrange(len(content))
    kinds: tuple[Callable[[], bytes], ...] = (
        lambda: flipped(content, random),
        lambda: flipped(content, random),
        lambda: content[:place],
        lambda: content[place:],
        lambda: content[:place] + content[place + size :],
        lambda: content[:place] + content[other : other + size] + content[place:],
        lambda: content[:place] + content[other : other + size] + content[place + size :],
        lambda: content[:place] + random.choice((b"\0", b"\xff", b"\x80")) * size + content[place + size :],
        lambda: content + content[place:],
        lambda: content + bytes(size),
        lambda: random.choice((b"", b"\0", b"\n", b"\xff\xfe", b"PK\x05\x06" + bytes(18), b"{}", b"[]", b"null")),
    )
    return random.choice(kinds)()


def flipped(content: bytes, random: Random) -> bytes:
    """The bytes with up to eight of them others."""
    changed = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 8))):
        changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a tree of mappings and lists: what holds it, and its key."""
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from places(value[key])


def changed_tree(tree: Any, random: Random) -> Any:
    """The tree with one or two places changed, taken away, renamed, repeated or exchanged."""
    tree = json.loads(json.dumps(tree))
    for _ in range(random.choice((1, 1, 1, 2))):
        found = list(places(tree))
        if not found:
            return values(random)
        holder, key = random.choice(found)
        what = random.randrange(8)
        if what == 0:
            del holder[key]
        elif what == 1 and isinstance(holder, dict):
            holder[random.choice((str(key) + "x", "", "__class__", "a.b"))] = holder.pop(key)
        elif what == 1:
            holder.insert(key, holder[key])
        elif what == 2:
            other, its_key = random.choice(found)
            holder[key] = other[its_key] if its_key in (other if isinstance(other, dict) else range(len(other))) else 0
            tree = json.loads(json.dumps(tree, default=str)) if not circular(tree) else {}
        elif what == 3 and isinstance(holder[key], (int, float)) and not isinstance(holder[key], bool):
            holder[key] = random.choice(
                (-holder[key], holder[key] * 1000003, holder[key] + 1, holder[key] - 1, str(holder[key]))
            )
        else:
            holder[key] = values(random)
    if random.random() < 0.03:
        return values(random)
    return tree


def circular(tree: Any) -> bool:
    try:
        json.dumps(tree)
    except (ValueError, RecursionError):
        return True
    return False


def json_text(content: bytes, random: Random) -> bytes:
    """A JSON file with other values."""
    if random.random() < 0.05:
        depth = random.choice((500, 100_000))
        return random.choice((b"[" * depth, b"[" * depth + b"]" * depth, b'{"a":' * depth))
    return json.dumps(changed_tree(json.loads(content), random)).encode()


def yaml_text(content: bytes, random: Random) -> bytes:
    """A YAML file with other values, or with what YAML has besides values."""
    if random.random() < 0.1:
        return random.choice(
            (
                b"model: !!python/object/apply:os.system ['touch $CANARY']\n",
                b"a: &a [x, x, x, x, x, x, x, x, x]\n"
                + b"".join(b"%c: &%c [%s]\n" % (98 + i, 98 + i, b", ".join([b"*%c" % (97 + i)] * 9)) for i in range(9))
                + b"model: *j\n",
                b"model: &m [*m]\n",
                b"? [a]\n: b\n",
                content + content,
                content + b"\n---\n" + content,
                b"model: " + b"[" * 3000 + b"]" * 3000 + b"\n",
                b"%YAML 9.9\n---\n" + content,
                b"\xff\xfe" + content.decode().encode("utf-16-le"),
                content + b"\nmodel: 2001-01-01\n",
            )
        )
    tree = changed_tree(yaml.safe_load(content), random)
    try:
        return yaml.safe_dump(tree, allow_unicode=True).encode()
    except (UnicodeEncodeError, yaml.YAMLError):
        return json.dumps(tree).encode()


def npz(content: bytes, random: Random) -> bytes:
    """An archive of arrays with other arrays, other headers, or other members."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = random.choice(sorted(members))
    array = np.load(io.BytesIO(members[name]))
    what = random.randrange(6)
    if what == 0:
        members[name] = header_changed(members[name], random)
    elif what == 1:
        members[name] = damaged(members[name], random)
    elif what == 2:
        del members[name]
    elif what == 3:
        members[random.choice(("x_val.npy", "x.npy", "000", "../x.npy", "labels.npy", "y_test.npy"))] = members[name]
    else:
        members[name] = saved(other_array(array, random))
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for member, stored in members.items():
            archive.writestr(member, stored)
    return sizes_changed(made.getvalue(), random) if random.random() < 0.15 else made.getvalue()


def saved(array: Any) -> bytes:
    made = io.BytesIO()
    np.save(made, array, allow_pickle=True)
    return made.getvalue()


def other_array(array: Any, random: Random) -> Any:
    """The array in another type, shape or size, or with other values."""
    flat = array.reshape(-1)
    with np.errstate(all="ignore"):
        kinds: tuple[Callable[[], Any], ...] = (
            lambda: array[:0],
            lambda: array[:1],
            lambda: array[: len(array) // 2] if array.ndim else array,
            lambda: flat,
            lambda: array[None],
            lambda: array[..., :0] if array.ndim else array,
            lambda: array.astype(np.float32),
            lambda: array.astype(np.float16) * 1e4,
            lambda: array.astype(np.complex64),
            lambda: array.astype(np.int64) - 300,
            lambda: array.astype(np.int64) + 2**40,
            lambda: array.astype(np.uint64) + 2**63,
            lambda: array.astype(bool),
            lambda: array.astype("U3"),
            lambda: array.astype("M8[s]"),
            lambda: array.astype(">f8"),
            lambda: np.full(array.shape, np.nan, np.float32),
            lambda: np.full(array.shape, np.inf, np.float64),
            lambda: np.zeros_like(array),
            lambda: np.array(None if random.random() < 0.5 else Canary(), dtype=object),
            lambda: np.zeros(array.shape, [("a", "i4"), ("b", "f4")]),
            lambda: np.array(3),
            lambda: np.asfortranarray(array),
        )
        return random.choice(kinds)()


def header_changed(member: bytes, random: Random) -> bytes:
    """A .npy whose header tells another shape, order or type than its bytes have."""
    length = struct.unpack("<H", member[8:10])[0]
    words = member[10 : 10 + length].decode("latin1").rstrip()
    shape = random.choice(
        ("(-1,)", "(99999999999,)", "(2, -2)", "(0,)", "()", "(3037000500, 3037000500)", "'x'", "(1.5,)", "(None,)")
    )
    kind = random.choice(
        ("'|O'", "'<f8'", "'>i2'", "'<U999999999'", "'V8'", "'|S0'", "[('a','<f4')]", "'nonsense'", "None")
    )
    start, end = words.index("'shape':"), words.index("}")
    head, descr_end = words.index("'descr':"), words.index(", 'fortran_order'")
    changed = random.choice(
        (
            f"{words[:start]}'shape': {shape}, }}",
            f"{words[:head]}'descr': {kind}{words[descr_end:]}",
            words.replace("False", random.choice(("True", "3", "None"))),
            words[: end - 5],
            "{" * 200,
            "__import__('os').system('touch $CANARY')",
            words.replace("'shape'", "'shapes'"),
        )
    )
    told = changed.encode("latin1")
    return member[:8] + struct.pack("<H", random.choice((len(told), len(told), 65535))) + told + member[10 + length :]


def sizes_changed(archive: bytes, random: Random) -> bytes:
    """A zip file whose directory tells another size, place or method of a member."""
    place = archive.rfind(b"PK\x01\x02")
    if place < 0:
        return archive
    field, wide = random.choice(((10, "<H"), (20, "<I"), (24, "<I"), (42, "<I"), (28, "<H"), (16, "<I")))
    value = random.choice((0, 1, 2**16 - 1, 2**31, 2**32 - 1, 99)) & (2 ** (8 * struct.calcsize(wide)) - 1)
    changed = bytearray(archive)
    struct.pack_into(wide, changed, place + field, value)
    return bytes(changed)


def onnx_file(content: bytes, random: Random) -> bytes:
    """An ONNX file with other fields."""
    import onnx

    model = onnx.ModelProto()
    model.ParseFromString(content)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        message = random.choice([*messages(model)])
        field = random.choice(list(message.DESCRIPTOR.fields))
        field_changed(message, field, random)
    return bytes(model.SerializePartialToString())


def messages(message: Any) -> Iterator[Any]:
    """A protobuf message and all that are in it."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for one in value if field.is_repeated else (value,):
                yield from messages(one)


def field_changed(message: Any, field: Any, random: Random) -> None:
    """Give a field of a protobuf message another value, or none."""
    repeated = field.is_repeated
    if random.random() < 0.25:
        message.ClearField(field.name)
        return
    if field.message_type is not None:
        children = getattr(message, field.name)
        if not repeated:
            children.SetInParent()
        elif children and random.random() < 0.5:
            children.append(random.choice(list(children)))
        elif children:
            del children[random.randrange(len(children))]
        else:
            children.add()
        return
    value = scalar(field, random, getattr(message, field.name))
    try:
        if not repeated:
            setattr(message, field.name, value)
        elif getattr(message, field.name) and random.random() < 0.7:
            present = getattr(message, field.name)
            present[random.randrange(len(present))] = value
        else:
            getattr(message, field.name).append(value)
    except (ValueError, TypeError, OverflowError):
        message.ClearField(field.name)


def scalar(field: Any, random: Random, present: Any) -> Any:
    if field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
        return random.choice((0.0, -1.0, 1e30, float("nan"), float("inf")))
    if field.cpp_type == field.CPPTYPE_STRING:
        if field.type == field.TYPE_BYTES:
            told = bytes(present) if isinstance(present, bytes) else b"\xff\xfe"
            return random.choice((b"", told[: len(told) // 2], told + b"\0", b"\xff" * len(told), b"\xff\xfe"))
        return random.choice(
            ("", "x", "input", "Loop", "If", "../../etc/passwd", "a" * 3000, "\x1b[2J", "Identity", "ai.onnx.ml")
        )
    return random.choice((-1, 0, 1, 2, 3, 7, 8, 16, 99, 2**31 - 1, -(2**31), 2**40, 2**62, -(2**63)))


def image(content: bytes, random: Random) -> bytes:
    """A picture in another mode, size or format, or one that claims to be huge."""
    from PIL import Image

    picture = Image.open(io.BytesIO(content))
    if random.random() < 0.2:
        return png_of_size(random.choice(((0, 0), (100_000, 100_000), (2**31 - 1, 1), (1, 20_000), (13_000, 13_000))))
    mode = random.choice(("1", "L", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F", "LA", "YCbCr"))
    kind = random.choice(("PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP", "PPM"))
    size = random.choice(((8, 8), (1, 1), (300, 1), (1, 300), (9, 7), (500, 500)))
    made = io.BytesIO()
    try:
        picture.convert(mode).resize(size).save(made, kind)
    except (OSError, ValueError, KeyError):
        return damaged(content, random)
    return made.getvalue() if random.random() < 0.7 else damaged(made.getvalue(), random)


def png_of_size(size: tuple[int, int]) -> bytes:
    """A PNG of a few bytes that says that it has this size."""
    import zlib

    def chunk(kind: bytes, held: bytes) -> bytes:
        return struct.pack(">I", len(held)) + kind + held + struct.pack(">I", zlib.crc32(kind + held))

    told = struct.pack(">IIBBBBB", *size, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", told) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def safetensors(content: bytes, random: Random) -> bytes:
    """Weights whose header tells otherwise, or with other tensors."""
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    told = json.dumps(changed_tree(header, random)).encode()
    size = random.choice((len(told),) * 9 + (0, 2**63, len(content) * 2))
    return struct.pack("<Q", size) + told + content[8 + length :]


def state_dict(content: bytes, random: Random) -> bytes:
    """A state dict with other tensors, or with what is no tensor."""
    import torch

    state = torch.load(io.BytesIO(content), weights_only=True)
    name = random.choice(sorted(state))
    tensor = state[name]
    kinds: tuple[Callable[[], Any], ...] = (
        lambda: tensor[:0] if tensor.ndim else tensor,
        lambda: tensor[None],
        lambda: tensor.to(torch.complex64),
        lambda: tensor.to(torch.int8),
        lambda: tensor.double() * 1e300,
        lambda: tensor.float() * float("nan"),
        lambda: tensor.to(torch.bfloat16),
        lambda: tensor.float().to_sparse(),
        lambda: tensor.to("meta"),
        lambda: torch.nn.Parameter(tensor.float()),
        lambda: tensor.float().expand(*([7] * (1 if not tensor.ndim else 0)), *tensor.shape),
        lambda: torch.quantize_per_tensor(tensor.float(), 0.1, 0, torch.qint8),
        lambda: Canary(),
        lambda: values(random),
        lambda: {"a": tensor},
    )
    state[name] = random.choice(kinds)()
    what = random.randrange(10)
    if what == 0:
        del state[name]
    elif what == 1:
        state[random.choice((3, None, "", "module." + name, ("a",)))] = tensor
    elif what == 2:
        state = random.choice(
            ([state], {"state_dict": state}, {"model": {"a": 1}}, tensor, None, 3, {"state_dict": None})
        )
    elif what == 3:
        return pickle.dumps(random.choice((Canary(), {"a": Canary()}, 3)))
    made = io.BytesIO()
    torch.save(state, made)
    return sizes_changed(made.getvalue(), random) if random.random() < 0.1 else made.getvalue()


def packed(content: bytes, random: Random) -> bytes:
    """A packed file whose header tells otherwise, with the digest that belongs to it."""
    import hashlib

    import zstandard

    prefix = struct.Struct("<8sHI")
    magic, version, length = prefix.unpack_from(content)
    header = json.loads(zstandard.ZstdDecompressor().decompress(content[prefix.size : prefix.size + length]))
    streams = content[prefix.size + length : -32]
    if random.random() < 0.4:
        streams = damaged(streams, random)
    else:
        header = changed_tree(header, random)
    told = zstandard.ZstdCompressor().compress(json.dumps(header).encode())
    version = random.choice((version, version, version, 1, 0, 65535))
    body = prefix.pack(magic, version, random.choice((len(told),) * 9 + (2**32 - 1,))) + told + streams
    return body + hashlib.sha256(body).digest()


def either(*mutations: Mutation) -> Mutation:
    """One of these, as the seed says."""
    return lambda content, random: random.choice(mutations)(content, random)


def within(folder: Path, mutations: dict[str, Mutation], random: Random) -> str:
    """Mutate one of the files in ``folder``, chosen by the seed; returns its name."""
    name = random.choice(sorted(mutations))
    file = folder / name
    file.write_bytes(mutations[name](file.read_bytes(), random))
    return name
