"""The Runtime protocol, and the engines that are there, imported only when asked for."""

from __future__ import annotations

import builtins
import importlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from .errors import EngineMissing, InvalidInputs, InvalidModel, InvalidPlugin, fault
from .facts import describe, engine_of, engines, module_of, suffixes
from .files.untrusted import Unreadable, require_at_most, require_file

Array = NDArray[Any]
Arrays = Mapping[str, Array]

MOST_THREADS = 1024
_RANDOM_ELEMENTS = 2**27  # of an input that nobody gives
_ENGINES = Path(__file__).with_name("engines")


@dataclass(frozen=True)
class Options:
    """How a file is run.

    Args:
        threads: the number of threads that one operator may use, at least 1.
        reference: evaluate integers in floats, rounded where the file says so: slow, and right on every processor.
            Engines that are always right take no notice.
    """

    threads: int = 1
    reference: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.threads <= MOST_THREADS:
            raise InvalidInputs(f"threads: expected 1 to {MOST_THREADS}, got {self.threads}")


@dataclass(frozen=True)
class TensorSpec:
    """An input or an output of a file: a dimension is None where it is dynamic, the dtype has numpy's name.

    Where integers stand for real numbers, these are ``scale * (integer - zero_point)``; else ``scale`` is None.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    scale: float | None = None
    zero_point: int = 0

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}[{', '.join('?' if n is None else str(n) for n in self.shape)}]"


@dataclass(frozen=True)
class Node:
    """A node that an engine executed; ``kind`` is the arithmetic it computed in.

    ``integer`` and ``float`` are nodes that compute; ``other`` are those that only convert, move or reshape data.
    ``duration_ms`` is the lower quartile of the runs that were looked at. ``provider`` is the execution provider,
    delegate or kind of kernel that ran it, as the engine calls it, and "" where it does not tell. ``fell_back`` says
    that this is not what the engine was to run nodes with: one that a delegate left to the engine's own kernels, or a
    reference kernel.
    """

    name: str
    op: str
    kind: Literal["integer", "float", "other"]
    duration_ms: float = 0.0
    provider: str = ""
    fell_back: bool = False


@dataclass(frozen=True)
class ExecutedGraph:
    """What an engine executed after its own optimization of a file, node by node."""

    nodes: tuple[Node, ...]

    @property
    def ops(self) -> dict[str, int]:
        """Return how often each operator was executed, the most frequent first."""
        return dict(Counter(node.op for node in self.nodes).most_common())

    @property
    def integer(self) -> int:
        """Return the number of nodes that computed in integers."""
        return sum(node.kind == "integer" for node in self.nodes)

    @property
    def float(self) -> int:
        """Return the number of nodes that computed in floating point."""
        return sum(node.kind == "float" for node in self.nodes)

    @property
    def other(self) -> int:
        """Return the number of nodes that converted, moved or reshaped data."""
        return sum(node.kind == "other" for node in self.nodes)

    @property
    def providers(self) -> dict[str, int]:
        """Return how many nodes each provider, delegate or kind of kernel ran, the most first."""
        return dict(Counter(node.provider for node in self.nodes if node.provider).most_common())

    @property
    def duration_ms(self) -> builtins.float:
        """Return the milliseconds of all nodes; 0 where the engine tells no durations."""
        return sum(node.duration_ms for node in self.nodes)

    @property
    def fallen_back(self) -> tuple[str, ...]:
        """Return the names of the nodes that fell back, in order of execution."""
        return tuple(node.name for node in self.nodes if node.fell_back)

    @property
    def fallback_share(self) -> builtins.float | None:
        """Return the share of the time that nodes that fell back took, or None where no durations are told."""
        if not self.duration_ms:
            return None
        return sum(node.duration_ms for node in self.nodes if node.fell_back) / self.duration_ms

    def to_json(self) -> dict[str, object]:
        """Return a mapping of plain values: the figures, then the nodes."""
        return {
            "ops": self.ops,
            "integer": self.integer,
            "float": self.float,
            "other": self.other,
            "providers": self.providers,
            "fallen_back": len(self.fallen_back),
            "fallback_share": self.fallback_share,
            "nodes": [asdict(node) for node in self.nodes],
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> ExecutedGraph:
        """Return the graph that `to_json` gave; figures are computed again."""
        return cls(tuple(Node(**node) for node in stored["nodes"]))

    @property
    def float_nodes(self) -> tuple[str, ...]:
        """Return the names of the nodes that computed in floating point, in order of execution."""
        return tuple(node.name for node in self.nodes if node.kind == "float")


@runtime_checkable
class Runtime(Protocol):
    """A loaded file."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Return what `run` takes."""
        ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Return what `run` gives."""
        ...

    def run(self, inputs: Arrays) -> dict[str, Array]:
        """Return the outputs by name.

        Raises:
            InvalidInputs: a name, a shape or a dtype is not that of `inputs`; nothing is cast.
            InvalidModel: the engine failed on inputs that fit, or the runtime is closed.
        """
        ...

    def executed_graph(self, inputs: Arrays | None = None, runs: int = 1) -> ExecutedGraph | None:
        """Return the nodes that a run executes, with their durations over ``runs``, or None where it does not tell.

        ``inputs`` are random where none are given, see `random_inputs`.
        """
        ...

    def close(self) -> None:
        """Free the memory; may be called twice."""
        ...


class Engine(Protocol):
    """What each file in ``engines/`` defines, besides the facts about it that `runtimes.facts` reads."""

    def version(self) -> str:
        """Return the version of the engine."""
        ...

    def parts(self, file: Path) -> tuple[Path, ...]:
        """Return every file on disk that the model is made of, ``file`` first."""
        ...

    def load(self, file: Path, options: Options) -> Runtime:
        """Return the file, loaded. Raises InvalidModel where it cannot be."""
        ...


def engine_named(engine: str) -> Engine:
    """Return the module that runs ``engine``, imported.

    Raises:
        InvalidInputs: there is no such engine.
        EngineMissing: its package is not installed or does not load here.
        InvalidPlugin: its file is no Python, or does not define what an engine does.
    """
    facts = describe(engine)
    file = _ENGINES / f"{module_of(engine)}.py"
    try:
        module = importlib.import_module(f".engines.{module_of(engine)}", __package__)
    except (ImportError, OSError, RuntimeError) as error:  # OpenVINO's fails so for a user without a home
        raise EngineMissing(f"engine {engine!r} cannot be used here ({one_line(error)}); {facts.install}") from error
    except Exception as error:
        raise InvalidPlugin(fault(file, error)) from error
    lacking = [name for name in ("version", "parts", "load") if not callable(getattr(module, name, None))]
    if lacking:
        raise InvalidPlugin(
            f"{file}: expected the functions version, parts and load; it has no {' and no '.join(lacking)}"
        )
    return cast(Engine, module)


def available(engine: str) -> tuple[str | None, str]:
    """Return the version of an engine and "", or None and why it cannot be used with its install line.

    >>> version, reason = available("onnxruntime")
    >>> (version is None) == bool(reason)
    True
    """
    try:
        return engine_named(engine).version(), ""
    except (EngineMissing, InvalidPlugin) as error:
        return None, str(error)


def load(file: Path | str, engine: str | None = None, options: Options | None = None) -> Runtime:
    """Return ``file`` loaded into ``engine``, by default the one that runs files with its suffix.

    Raises:
        InvalidModel: the file is missing, empty, truncated, of no known kind, or the engine refuses it.
        InvalidInputs: there is no such engine.
        EngineMissing: the engine's package is not installed.
    """
    path = existing(file)
    return engine_named(engine or engine_of(path)).load(path, options or Options())


def existing(file: Path | str) -> Path:
    """Return the path of a model file, which is there and not empty; raises InvalidModel."""
    path = Path(file)
    try:
        if path.is_dir() and path.suffix.lower() not in suffixes():
            raise InvalidModel(f"{path}: expected a model file, got a folder")
        taken_by = [each for each in engines() if path.suffix.lower() in describe(each).suffixes]
        for part in (path, *(part for each in taken_by for part in _weights_beside(path, each))):
            if part.exists() and not part.is_dir():
                require_file(part)
        if path.stat().st_size == 0:
            raise InvalidModel(f"{path}: the file is empty; export it again")
    except Unreadable as error:
        raise InvalidModel(str(error)) from error
    except (OSError, ValueError) as error:  # a name with a null byte is a ValueError
        reason = getattr(error, "strerror", None) or one_line(error)
        raise InvalidModel(f"{path}: the model file cannot be read ({reason})") from error
    return path


def size_bytes(file: Path | str, engine: str | None = None) -> int:
    """Return the size on disk of a model, its external weights included."""
    path = existing(file)
    return sum(part.stat().st_size for part in engine_named(engine or engine_of(path)).parts(path))


def parts_of(file: Path | str, engine: str) -> tuple[Path, ...]:
    """Return every file that a model is made of, ``file`` first, also where its engine is not installed here."""
    path = existing(file)
    try:
        return engine_named(engine).parts(path)
    except EngineMissing:
        return (path, *_weights_beside(path, engine))


def _weights_beside(path: Path, engine: str) -> tuple[Path, ...]:
    """The file with the weights, where ``engine`` states that they lie beside ``path`` and they do."""
    suffix = describe(engine).weights
    weights = path.with_suffix(suffix) if suffix else path
    return (weights,) if weights != path and weights.exists() else ()


def check_inputs(specs: Sequence[TensorSpec], inputs: Arrays) -> None:
    """Raise InvalidInputs where a name, a shape, a dtype or a byte order is not as the file expects it."""
    names = [spec.name for spec in specs]
    if sorted(names) != sorted(inputs):
        raise InvalidInputs(f"inputs: expected the names {', '.join(names)}; got {', '.join(inputs) or 'none'}")
    for spec in specs:
        value = inputs[spec.name]
        if not isinstance(value, np.ndarray):
            raise InvalidInputs(f"input {spec.name!r}: expected a numpy array, got {type(value).__name__}")
        if value.dtype.name != spec.dtype:
            raise InvalidInputs(f"input {spec.name!r}: expected {spec.dtype}, got {value.dtype.name}; cast it first")
        if not value.dtype.isnative:
            raise InvalidInputs(f"input {spec.name!r}: expected this machine's byte order, got {value.dtype.str}")
        fits = len(value.shape) == len(spec.shape) and all(
            want is None or want == got for want, got in zip(spec.shape, value.shape, strict=True)
        )
        if not fits:
            raise InvalidInputs(f"input {spec.name!r}: expected {spec}, got the shape {list(value.shape)}")


def random_inputs(specs: Sequence[TensorSpec], seed: int = 0) -> dict[str, Array]:
    """Return an array for every input: dynamic batches are 1, floats standard normal, and the same seed gives the same.

    8-bit integers take their whole range, wider ones 0 or 1, which any embedding holds.

    Raises:
        InvalidInputs: a dimension other than the first is dynamic, or the dtype is not a number: nothing is guessed.
    """
    rng = np.random.default_rng(seed)
    made: dict[str, Array] = {}
    for spec in specs:
        if None in spec.shape[1:]:
            raise InvalidInputs(f"input {spec}: only the batch may be dynamic for random inputs; give the inputs")
        shape = [1 if n is None else n for n in spec.shape]
        require_at_most(math.prod(shape), _RANDOM_ELEMENTS, "elements", f"input {spec}")
        try:
            dtype = np.dtype(spec.dtype)
        except TypeError:
            raise InvalidInputs(f"input {spec}: no random values for this dtype; give the inputs") from None
        if dtype.kind == "f":
            made[spec.name] = rng.standard_normal(shape).astype(dtype)
        elif dtype.kind in "iu" and dtype.itemsize == 1:
            limits = np.iinfo(dtype)
            made[spec.name] = rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)
        elif dtype.kind in "iub":
            made[spec.name] = rng.integers(0, 2, shape).astype(dtype)
        else:
            raise InvalidInputs(f"input {spec}: no random values for this dtype; give the inputs")
    return made


def one_line(error: BaseException) -> str:
    """Return the message of an error in one line.

    >>> one_line(ValueError("first\\n  second"))
    'first second'
    """
    return " ".join(str(error).split()) or type(error).__name__
