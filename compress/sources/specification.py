"""The words that name a network and the sizes of its inputs, read without importing torch."""

from __future__ import annotations

import ast
import hashlib
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..errors import InvalidInput
from ..files.untrusted import ARRAY_BYTES, require_at_most, require_file
from ..siblings import models

Kind = Literal["zoo", "file", "module", "onnx"]


@dataclass(frozen=True)
class Source:
    """Where a network's architecture comes from, enough to build it again with random weights.

    Args:
        kind: what ``name`` is: a zoo name, a Python file, an importable module, or an ONNX file.
        attribute: the callable in the file or module.
        options: keywords of the callable.
        sha256: of the file, to notice that it changed.
    """

    kind: Kind
    name: str
    attribute: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    sha256: str = ""

    def __str__(self) -> str:
        options = ",".join(f"{key}={value}" for key, value in self.options.items())
        return ":".join(part for part in (self.name, self.attribute, options) if part)


def parse(specification: str, zoo: Collection[str] | None = None) -> Source:
    """The source that a user's words name: ``resnet20``, ``resnet20:width=32``, ``net.py:build``,
    ``package.module:build:width=32`` or ``net.onnx``.

    >>> parse("resnet20:width=32,in_channels=1").options
    {'width': 32, 'in_channels': 1}

    Args:
        zoo: the names of our zoo, where they are known without importing it.

    Raises:
        InvalidInput: it is none of these.
    """
    head, *rest = specification.split(":")
    options: dict[str, Any] = {}
    if rest and "=" in rest[-1]:
        for pair in rest.pop().split(","):
            key, separator, value = pair.partition("=")
            if not separator or not key.isidentifier():
                raise InvalidInput(f"model {specification}: expected options as key=value,key=value, got {pair!r}")
            options[key] = _literal(value)
    path = Path(head)
    if path.suffix == ".onnx":
        require_file(path, "model")
        return Source("onnx", str(path.resolve()), sha256=_sha256(path))
    if path.suffix == ".py":
        require_file(path, "model")
        if len(rest) != 1:
            raise InvalidInput(f"model {specification}: expected {head}:callable, the name of what builds the network")
        return Source("file", str(path.resolve()), rest[0], options, _sha256(path))
    if len(rest) == 1:
        return Source("module", head, rest[0], options)
    if rest:
        raise InvalidInput(f"model {specification}: expected name[:key=value,...] or file.py:callable[:key=value,...]")
    require_in_zoo(head, f"model {specification}", zoo)
    return Source("zoo", head, options=options)


def require_in_zoo(name: str, where: str, zoo: Collection[str] | None = None) -> None:
    """Raise InvalidInput, with all names, unless our zoo has a network called ``name``."""
    names = zoo_names() if zoo is None else zoo
    if name not in names:
        raise InvalidInput(
            f"{where}: neither a file, an artifact folder, file.py:callable, nor a name of the zoo ({', '.join(names)})"
        )


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def zoo_names() -> tuple[str, ...]:
    """The names of our zoo."""
    names: tuple[str, ...] = models.names()
    return names


def require_data(source: str) -> None:
    """Raise InvalidInput unless ``source`` is data that is built in, code, or a file or folder that exists."""
    if source != "digits" and ":" not in source and not Path(source).exists():
        raise InvalidInput(
            f"data {source}: no such file or folder; give 'digits', an image folder, an .npz or file.py:callable"
        )


def parse_shape(text: str) -> tuple[int, ...]:
    """A shape with its batch: ``3,32,32`` and ``1,3,32,32`` are the same, as most likely meant.

    >>> parse_shape("3,32,32")
    (1, 3, 32, 32)

    Raises:
        InvalidInput: not positive integers with commas.
    """
    return readings(text)[0]


def readings(text: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What a shape may mean, the likelier first: sizes of one sample, or sizes with the batch in front.

    One size and three are those of a sample, two, four and more come with their batch.

    >>> readings("16,100")
    ((16, 100), (1, 16, 100))

    Raises:
        InvalidInput: not positive integers with commas.
    """
    try:
        sizes = tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1 or len(sizes) > 8:
        raise InvalidInput(
            f"--input-shape {text[:80]}: expected positive sizes with commas, as 128, 3,32,32 or 1,3,32,32"
        )
    require_at_most(4 * math.prod(sizes), ARRAY_BYTES, "bytes", f"--input-shape {text[:80]}")
    batched = (1, *sizes)
    return (batched, sizes) if len(sizes) in (1, 3) else (sizes, batched)
