"""What an interrupted run goes on from: each step with all that it started from, so that nothing else is taken for it.

A step has a folder for its checkpoints, with ``origin.json`` in it: digests of the step's settings, of the network,
the teacher and the data that it got, of the files that its settings name, of the user's code, and what computes: its
versions, threads and processor, with which sums come out otherwise in their last bits. A step whose origin is another
one now is begun anew.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import edits as edit_records
from ..data import Data, LoaderSplit, SampleSplit
from ..errors import InvalidInput
from ..files.outputs import write_text
from ..files.untrusted import read_json
from ..siblings import NAMES, ROOT
from ..sources.load import Network

ORIGIN = "origin.json"

_CHUNK_BYTES = 2**24


@dataclass(frozen=True)
class Origin:
    """What a step starts from.

    Args:
        facts: a digest, or the value itself, by what it is in words.
        files: a digest of each file that takes part, by its path.
    """

    facts: Mapping[str, str]
    files: Mapping[str, str]

    def write(self, folder: Path) -> None:
        """Keep it in the folder of the step, with the user's code as it has been imported by now."""
        whole = Origin(self.facts, {**self.files, **users_code()})
        write_text(folder / ORIGIN, json.dumps(asdict(whole), indent=1), overwrite=True)

    def other_than(self, folder: Path) -> str:
        """What differs from the origin that ``folder`` keeps, in words; "" where nothing does."""
        try:
            stored = read_json(folder / ORIGIN, "run")
            facts, files = dict(stored["facts"]), dict(stored["files"])
        except (InvalidInput, ValueError, KeyError, TypeError):
            return "what it started from"
        different = [name for name in {**facts, **self.facts} if facts.get(name) != self.facts.get(name)]
        different += [name for name, digest in files.items() if digest_of(Path(name)) != digest]
        return ", ".join(different)


def origin(
    settings: Mapping[str, Any], seed: int, data: str, network: Network | None = None, teacher: Network | None = None
) -> Origin:
    """What a step of these settings starts from now; ``data`` is the :func:`fingerprint` of the data."""
    facts = {
        "its settings": digest(settings),
        "the seed": str(seed),
        "the data": data,
        "the network before it": network_digest(network) if network is not None else "",
        "the teacher": network_digest(teacher) if teacher is not None else "",
        "the version of edgepress": _version("edgepress"),
        "the version of torch": torch.__version__,
        "the version of numpy": _version("numpy"),
        "the version of onnxruntime": _version("onnxruntime"),
        "the version of Python": platform.python_version(),
        "the number of threads": str(torch.get_num_threads()),
        "the processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
    }
    return Origin(facts, {str(path): digest_of(path) for path in _named_files(settings)})


def digest(value: object) -> str:
    """SHA-256 of a value that JSON can tell."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def network_digest(network: Network) -> str:
    """SHA-256 of a network's source, edits, encodings and weights."""
    from ..sources.artifact import weights_digest

    content = {
        "source": asdict(network.source),
        "edits": [edit_records.to_json(edit) for edit in network.edits],
        "encodings": {name: encoding.to_json() for name, encoding in network.encodings.items()},
        "weights": weights_digest(network.model),
    }
    return digest(content)


def fingerprint(data: Data | None) -> str:
    """A digest of a data set: of all samples and labels that are in memory, and of how they become inputs.

    Files that are read when they are asked for count by name, size and time of change, and a user's loader by the
    tensors that it holds; what else it does is in the user's code.
    """
    if data is None:
        return ""
    sha = hashlib.sha256(f"{data.preprocessing}{data.classes}".encode())
    for name, split in sorted(data.splits.items()):
        sha.update(name.encode())
        held: object = (split.inputs, split.labels) if isinstance(split, SampleSplit) else split
        for part in _parts(held):
            sha.update(part)
    return sha.hexdigest()


def _parts(held: object) -> Iterator[bytes]:
    """Bytes that change when samples do."""
    paths = getattr(held, "paths", None)
    if isinstance(held, Tensor):
        yield f"{tuple(held.shape)}{held.dtype}".encode()
        flat = held.detach().cpu().contiguous().flatten().view(torch.uint8) if held.numel() else held.flatten()
        for start in range(0, len(flat), _CHUNK_BYTES):
            yield flat[start : start + _CHUNK_BYTES].numpy().tobytes()
    elif isinstance(held, (tuple, list)):
        yield f"{len(held)} parts".encode()
        for part in held:
            yield from _parts(part)
    elif isinstance(held, LoaderSplit):
        yield from _parts(held.loader)
    elif isinstance(paths, tuple):
        yield repr({name: value for name, value in vars(held).items() if name != "paths"}).encode()
        for path in paths:
            yield _state_of(Path(path))
    elif hasattr(held, "dataset"):
        yield from _parts(held.dataset)
    elif hasattr(held, "tensors"):
        yield from _parts(tuple(held.tensors))
    else:
        yield type(held).__qualname__.encode()


def digest_of(path: Path) -> str:
    """SHA-256 of a file; of a folder, the names, sizes and times of change of its files; "" where there is none."""
    sha256 = hashlib.sha256()
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if file.is_file():
                sha256.update(_state_of(file))
        return sha256.hexdigest()
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                sha256.update(chunk)
    except OSError:
        return ""
    return sha256.hexdigest()


def users_code() -> dict[str, str]:
    """A digest of each Python file that has been imported and belongs to no installation, by its path."""
    named = {getattr(module, "__file__", None) for name, module in list(sys.modules.items()) if name != "__main__"}
    folders: dict[str, list[str]] = {}
    for file in named:
        if isinstance(file, str) and file.endswith(".py"):
            folders.setdefault(file.rpartition(os.sep)[0], []).append(file)
    theirs = [files for folder, files in folders.items() if not _installed(Path(folder).absolute())]
    return {str(path): digest_of(path) for path in sorted(Path(file).resolve() for files in theirs for file in files)}


@functools.cache
def _installed(folder: Path) -> bool:
    """Whether the files in a folder belong to Python, to what is installed beside it, or to us."""
    resolved = folder.resolve()
    return any(resolved.is_relative_to(place) for place in _installations())


@functools.cache
def _installations() -> tuple[Path, ...]:
    places = [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return (*places, *(ROOT / name for name in ("compress", *NAMES)))


def _named_files(settings: object) -> Iterator[Path]:
    """The files and folders that settings name, as ``net.onnx`` or ``criteria.py:own``."""
    if isinstance(settings, Mapping):
        for key, value in settings.items():
            yield from _named_files(key if ":" in key else "")  # a criterion of the user's, with its settings
            yield from _named_files(value)
    elif isinstance(settings, (list, tuple)):
        for value in settings:
            yield from _named_files(value)
    elif isinstance(settings, (str, Path)) and str(settings):
        for named in (str(settings), str(settings).partition(":")[0]):
            path = Path(named)
            if named and len(named) < 4096 and (path.is_file() or path.is_dir()):
                yield path.resolve()
                return


def _state_of(path: Path) -> bytes:
    state = path.stat()
    return f"{path}\0{state.st_size}\0{state.st_mtime_ns}\0".encode(errors="surrogateescape")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
