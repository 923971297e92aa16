"""Measurements as files have them, with samples of the tests' own."""

from __future__ import annotations

from typing import Any

import numpy as np

CONDITIONS: dict[str, Any] = {
    "cpu": "A53",
    "board": None,
    "architecture": "aarch64",
    "cores": 4,
    "governor": "performance",
}


def samples(median: float, count: int = 200, seed: int = 0, spread: float = 0.01) -> list[float]:
    """Latencies in ms around a median."""
    return [float(value) for value in median * (1 + spread * np.random.default_rng(seed).standard_normal(count))]


def record(name: str = "net.onnx", median: float = 2.0, seed: int = 0, **known: Any) -> dict[str, Any]:
    """One measurement as ``compress bench`` writes it."""
    return {
        "name": name,
        "runtime": "onnxruntime",
        "runtime_version": "1.31.1",
        "threads": 1,
        "samples_ms": samples(median, seed=seed),
        "size_bytes": 1000,
        "peak_memory_bytes": 50_000_000,
        "conditions": CONDITIONS,
        "valid": True,
        "top1": 90.0,
        "nodes": {"integer": 8, "float": 0, "other": 1},
    } | known


def bench(*records: dict[str, Any]) -> dict[str, Any]:
    """A file of ``compress bench -o``."""
    return {"machine": {}, "measurements": list(records)}
