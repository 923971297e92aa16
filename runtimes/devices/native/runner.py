"""The runner of ``runner.cpp`` from this side: its words, the files that it reads and writes, the line that it prints.

It is built once for a kind of device, by Android's NDK or by a cross compiler, and needs no library but the engine's:

    aarch64-linux-android26-clang++ -std=c++17 -O2 -static-libstdc++ -o runner runner.cpp -ldl
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...errors import DeviceError
from ...runtime import Array, Arrays, TensorSpec

SOURCE = Path(__file__).with_suffix(".cpp")
TIMES = "times.npy"


@dataclass(frozen=True)
class Described:
    """What the runner tells of a model."""

    version: str
    load_ms: float
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class Call:
    """A call of the runner; places are on the device."""

    program: str
    engine: str
    library: str
    model: str
    threads: int = 1

    def describe(self) -> list[str]:
        """Return the words that have it tell what the model takes and gives."""
        return self._words("describe")

    def run(self, inputs: str, outputs: str, batch: int) -> list[str]:
        """Return the words that have it run all samples, ``batch`` at once."""
        return self._words("run", inputs, outputs, str(batch))

    def time(
        self, inputs: str, outputs: str, batch: int, warmup: tuple[int, float], least: tuple[int, float]
    ) -> list[str]:
        """Return the words that have it time runs: at least so many, and for at least so many seconds."""
        return self._words("time", inputs, outputs, str(batch), *(f"{limit:g}" for limit in (*warmup, *least)))

    def _words(self, what: Literal["describe", "run", "time"], *rest: str) -> list[str]:
        return [self.program, self.engine, self.library, self.model, str(self.threads), what, *rest]


def described(text: str) -> Described:
    """Return what the runner printed last.

    Raises:
        DeviceError: it is no line of the runner's.
    """
    try:
        told = json.loads(text.strip().splitlines()[-1])
        return Described(str(told["version"]), float(told["load_ms"]), _specs(told["inputs"]), _specs(told["outputs"]))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise DeviceError(
            f"the runner printed what is none of its lines ({type(error).__name__}); build it again"
        ) from None


def files_of(specs: Sequence[TensorSpec], arrays: Arrays) -> dict[str, bytes]:
    """Return the files that the runner reads, by name: samples first, in the order of the model's inputs."""
    return {name_of(number): _npy(arrays[spec.name]) for number, spec in enumerate(specs)}


def arrays_of(specs: Sequence[TensorSpec], files: Mapping[str, bytes]) -> dict[str, Array]:
    """Return the outputs that the runner wrote, by their names in the model.

    Raises:
        DeviceError: a file is missing or damaged, or is not of the type that the runner told.
    """
    made = {spec.name: array_of(files, name_of(number)) for number, spec in enumerate(specs)}
    for spec in specs:
        if made[spec.name].dtype != np.dtype(spec.dtype):
            raise DeviceError(f"output {spec.name!r}: expected {spec.dtype}, got {made[spec.name].dtype} of the runner")
    return made


def array_of(files: Mapping[str, bytes], name: str) -> Array:
    """Return the array of a file that the runner wrote; raises DeviceError where it is missing or damaged."""
    try:
        array: Array = np.load(io.BytesIO(files[name]), allow_pickle=False)
    except (LookupError, ValueError, EOFError, OSError) as error:
        raise DeviceError(f"{name}: the runner's file cannot be read ({type(error).__name__}); run it again") from None
    return array


def name_of(number: int) -> str:
    """Return the name of the file of an input or an output.

    >>> name_of(3)
    '003.npy'
    """
    return f"{number:03}.npy"


def _npy(array: Array) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return stream.getvalue()


def _specs(told: Any) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(
            str(each["name"]),
            tuple(None if int(length) < 0 else int(length) for length in each["shape"]),
            np.dtype(each["dtype"]).name,
        )
        for each in told
    )
