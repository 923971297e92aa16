"""Small files of ncnn, written by hand: no converter is needed to test the engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np

FLOAT, HALF, INTEGER = 0x00000000, 0x01306B47, 0x000D4B38


def weight(values: np.ndarray, tag: int = FLOAT) -> bytes:
    """A weight with its tag, filled up to whole words."""
    stored = values.astype({FLOAT: "<f4", HALF: "<f2", INTEGER: "i1"}[tag]).tobytes()
    return tag.to_bytes(4, "little") + stored + bytes(-len(stored) % 4)


def floats(*values: object) -> bytes:
    """Numbers that stand without a tag: biases and scales."""
    return b"".join(np.asarray(value, "<f4").tobytes() for value in values)


def network(path: Path, lines: list[str], weights: bytes = b"") -> Path:
    """Both files of a network with these layers."""
    blobs = sum(int(line.split()[3]) for line in lines)
    path.write_text("\n".join(["7767517", f"{len(lines)} {blobs}", *lines, ""]))
    path.with_suffix(".bin").write_bytes(weights)
    return path


def linear(path: Path, w: np.ndarray, b: np.ndarray, tag: int = FLOAT) -> Path:
    """y = relu(x w + b), (N, features) -> (N, classes)."""
    lines = [
        f"Input in0 0 1 in0 0={w.shape[0]}",
        f"InnerProduct fc 1 1 in0 out0 0={w.shape[1]} 1=1 2={w.size} 9=1",
    ]
    return network(path, lines, weight(w.T, tag) + floats(b))
