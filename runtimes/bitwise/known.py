"""A small network whose results are known: it is run before a library of kernels is kept.

``known.onnx`` has a convolution by signs, one of ternary weights with two scales on 2-bit activations, and a linear
layer; its scales are powers of two, so that ONNX Runtime computes the same numbers in floats, exactly.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from .build import choose
from .wire import without_functions

FILE = Path(__file__).with_name("known.onnx")
NAMES = ("avx512", "avx2", "neon", "scalar")


def example() -> NDArray[np.float32]:
    """Return the input, (2, 5, 6, 7): quarters from -4 to 4."""
    steps = np.arange(2 * 5 * 6 * 7) * 37 % 33 - 16
    return (steps.reshape(2, 5, 6, 7) / 4).astype(np.float32)


def outputs(content: bytes, library: Path | None = None) -> NDArray[np.float32]:
    """Return what a file gives for the example, its operators taken from ``library`` if there is one."""
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 4
    if library is not None:
        settings.register_custom_ops_library(str(library))
    session = ort.InferenceSession(content, settings, providers=["CPUExecutionProvider"])
    outputs: NDArray[np.float32] = session.run(None, {"x": example()})[0]
    return outputs


def main(library: str) -> None:
    """End the process with an error where kernels that run here give anything else than ONNX Runtime does."""
    content = FILE.read_bytes()
    expected = outputs(content)
    for name in NAMES:
        if choose(Path(library), name) is None:
            continue
        got = outputs(without_functions(content), Path(library))
        if not np.array_equal(got, expected):
            sys.exit(f"error: {name}: {np.count_nonzero(got != expected)} of {got.size} results are wrong")
