"""What a device can do at most, by a small probe: operations a second, and bytes a second from memory.

Williams, Waterman, Patterson, "Roofline: An Insightful Visual Performance Model for Multicore Architectures" (2009):
work of some operations and bytes takes at least as long as the slower of the two takes alone. Floats are measured by a
product of matrices in numpy's BLAS, 8-bit integers by one in an engine that offers such a probe, memory by a triad
(McCalpin, STREAM) over arrays that no cache holds. What stays in a cache can be faster than memory allows.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ...errors import InvalidInputs, InvalidModel
from ...facts import engines
from ...own_process import environment, last_words, module_named
from ...runtime import Options, available, engine_named, random_inputs
from ..benchmark import machine_set
from ..loop import Progress
from ..subject import Subject
from .work import Part

SIZE = 512
"""Of the matrices, square."""

TRIAD = 2**23
"""Elements of each array, 64 MiB of float64."""

_REPEATS = 15
_THREADS_OF_BLAS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


@dataclass(frozen=True)
class Roofline:
    """The most that a device did in a probe.

    Args:
        threads: that it used.
        float_ops: operations on float32 a second; a multiply-add is two.
        integer_ops: likewise on 8-bit integers; None where no engine here has a probe.
        bytes_per_s: read and written.
    """

    threads: int
    float_ops: float
    integer_ops: float | None
    bytes_per_s: float

    def least_ms(self, macs: int, moved_bytes: float, *, integer: bool) -> float | None:
        """Return the milliseconds that work takes at least; None where its arithmetic was not measured.

        >>> Roofline(1, 2e9, None, 1e9).least_ms(1_000_000, 4_000_000, integer=False)
        4.0
        """
        peak = self.integer_ops if integer else self.float_ops
        return None if peak is None else 1e3 * max(2 * macs / peak, moved_bytes / self.bytes_per_s)

    def to_json(self) -> dict[str, Any]:
        """Return a mapping of plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Roofline:
        """Return what `to_json` gave."""
        return cls(**{name: stored[name] for name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class RooflineProbe:
    """Probe what a machine can do with the threads and on the cores of a request, in some two seconds.

    Args:
        engine: whose product of integers is taken, where it offers one; else another's.
    """

    NAME: ClassVar[str] = "roofline"

    engine: str = ""

    def parts(self, subject: Subject, progress: Progress | None = None) -> Generator[Part]:
        """Tell the roofline, measured in a process of its own; files of the subject take no part.

        Raises:
            InvalidInputs: the process failed; the message has what it said.
        """
        threads = str(subject.request.threads)
        command = [sys.executable, "-P", "-m", module_named(__file__), threads, self.engine]
        limits = dict.fromkeys(_THREADS_OF_BLAS, threads)
        with machine_set(subject.request):
            done = subprocess.run(command, env=environment() | limits, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise InvalidInputs(f"the probe of what this machine can do failed: {last_words(done)}")
        yield json.loads(done.stdout)

    def result(self, subject: Subject, parts: Sequence[Part], disturbances: Sequence[str] = ()) -> Roofline | None:
        """Return the roofline; None without any."""
        return Roofline.from_json(parts[0]) if parts else None


def float_ops(size: int = SIZE) -> float:
    """Return the operations on float32 a second of a product of square matrices."""
    left = np.random.default_rng(0).standard_normal((size, size), dtype=np.float32)
    product = np.empty_like(left)
    return 2 * size**3 / _fastest_s(lambda: np.matmul(left, left, out=product))


def integer_ops(threads: int, size: int = SIZE, first: str = "") -> float | None:
    """Return the operations on 8-bit integers a second, in the first engine here that writes a product of them."""
    for name in sorted(engines(), key=lambda name: name != first):
        if available(name)[0] is None:
            continue
        engine = engine_named(name)
        write = getattr(engine, "write_integer_product", None)
        if write is None:
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                runtime = engine.load(write(Path(folder), size), Options(threads))
            except InvalidModel:
                continue
            inputs = random_inputs(runtime.inputs)
            seconds = _fastest_s(lambda: runtime.run(inputs))  # noqa: B023 - it is run at once
            runtime.close()
        return 2 * size**3 / seconds
    return None


def bytes_per_s(threads: int, elements: int = TRIAD) -> float:
    """Return the bytes a second of ``a = b + s * c``, each thread on a part; two passes read three and write two."""
    a, b, c = np.empty(elements), np.ones(elements), np.ones(elements)
    edges = np.linspace(0, elements, threads + 1, dtype=int)
    parts = [slice(int(first), int(last)) for first, last in pairwise(edges)]

    def triad(part: slice) -> None:
        np.multiply(c[part], 3.0, out=a[part])
        np.add(a[part], b[part], out=a[part])

    with ThreadPoolExecutor(threads) as pool:
        return 5 * 8 * elements / _fastest_s(lambda: list(pool.map(triad, parts)))


def _fastest_s(work: Callable[[], object]) -> float:
    """The seconds of the fastest of some runs, the first one apart."""
    work()
    fastest = float("inf")
    for _ in range(_REPEATS):
        start = time.perf_counter()
        work()
        fastest = min(fastest, time.perf_counter() - start)
    return fastest


def main(words: list[str]) -> int:
    """Probe in this process and print what it can do."""
    threads, engine = int(words[0]), words[1]
    integers = integer_ops(threads, first=engine)
    print(json.dumps(Roofline(threads, float_ops(), integers, bytes_per_s(threads)).to_json()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
