"""The probe of what a machine can do, and what it says of work."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from runtimes.devices.local import LocalDevice
from runtimes.engines import onnxruntime
from runtimes.errors import InvalidInputs
from runtimes.measure.modes.roofline import Roofline, RooflineProbe, bytes_per_s, float_ops, integer_ops
from runtimes.measure.subject import Subject
from runtimes.runtime import load


def test_work_takes_as_long_as_the_slower_of_arithmetic_and_memory() -> None:
    limits = Roofline(1, float_ops=2e9, integer_ops=8e9, bytes_per_s=1e9)
    assert limits.least_ms(4_000_000, 1_000_000, integer=False) == pytest.approx(4.0)
    assert limits.least_ms(4_000_000, 1_000_000, integer=True) == pytest.approx(1.0)
    assert limits.least_ms(4_000_000, 7_000_000, integer=True) == pytest.approx(7.0)
    assert Roofline(1, 2e9, None, 1e9).least_ms(1, 1, integer=True) is None
    assert Roofline.from_json(json.loads(json.dumps(limits.to_json()))) == limits


def test_the_probes_measure_something() -> None:
    assert float_ops(size=32) > 0 and bytes_per_s(2, elements=10_000) > 0
    told = integer_ops(1, size=32)
    assert told is not None and told > 0
    assert integer_ops(1, size=32, first="onnxruntime")


def test_a_product_of_integers_is_written_without_onnx(tmp_path: Path) -> None:
    runtime = load(onnxruntime.write_integer_product(tmp_path, 8), "onnxruntime")
    (spec,) = runtime.inputs
    assert (spec.shape, spec.dtype) == ((8, 8), "uint8")
    left = np.arange(64, dtype=np.uint8).reshape(8, 8)
    right = np.random.default_rng(0).integers(-127, 128, (8, 8), dtype=np.int8)
    np.testing.assert_array_equal(runtime.run({"a": left})["y"], left.astype(np.int32) @ right.astype(np.int32))


def test_a_process_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(InvalidInputs, match="what this machine can do failed: exit status 1"):
        LocalDevice().measure(RooflineProbe(), Subject.of([]))
