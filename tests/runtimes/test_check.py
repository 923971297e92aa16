"""Parity and accuracy of deployed files, against plain loops."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from runtimes.checks.check import accuracy, compare, run_samples
from runtimes.errors import InvalidInputs
from runtimes.runtime import TensorSpec, load

Saved = Callable[[ModelProto, str], Path]
Models = dict[str, Callable[..., ModelProto]]


def test_figures_equal_those_of_a_loop() -> None:
    rng = np.random.default_rng(0)
    a = rng.standard_normal((40, 7)).astype(np.float32)
    b = a + rng.standard_normal((40, 7)).astype(np.float32)
    worst = signal = noise = 0.0
    same = 0
    for i in range(40):
        for j in range(7):
            x, y = float(a[i, j]), float(b[i, j])
            worst, signal, noise = max(worst, abs(x - y)), signal + x * x, noise + (x - y) ** 2
        same += max(range(7), key=lambda j: a[i, j]) == max(range(7), key=lambda j: b[i, j])
    parity = compare({"y": a}, {"y": b})
    assert parity.samples == 40
    assert parity.max_abs_error == pytest.approx(worst)
    assert parity.relative_error == pytest.approx(worst / max(abs(float(v)) for v in a.flat))
    assert parity.snr_db == pytest.approx(10 * math.log10(signal / noise))
    assert parity.top1_agreement == pytest.approx(100 * same / 40)
    assert 0 < same < 40


def test_equal_outputs() -> None:
    parity = compare({"y": np.ones((2, 3, 4))}, {"y": np.ones((2, 3, 4))})
    assert (parity.max_abs_error, parity.relative_error, parity.snr_db) == (0.0, 0.0, math.inf)
    assert parity.top1_agreement is None


def test_the_worst_output_counts() -> None:
    good, bad = np.eye(3), np.eye(3)[::-1]
    parity = compare({"a": good, "b": good}, {"a": good, "b": bad})
    assert parity.max_abs_error == 1.0
    assert parity.top1_agreement == pytest.approx(100 / 3)
    assert parity == compare({"b": good}, {"b": bad})


def boxes_and_scores(axis: int) -> tuple[np.ndarray, np.ndarray]:
    """What a detector gives, boxes of hundreds of pixels and scores of 0 to 1; and the same with all scores zero."""
    rng = np.random.default_rng(0)
    boxes, scores = rng.uniform(0, 640, (2, 50, 4)), rng.uniform(0, 1, (2, 50, 7))
    expected, lost = (np.concatenate([boxes, each], 2) for each in (scores, 0 * scores))
    return np.moveaxis(expected, 2, axis), np.moveaxis(lost, 2, axis)


@pytest.mark.parametrize("axis", [1, 2])
def test_scores_that_are_all_zero_are_not_drowned_by_boxes(axis: int) -> None:
    expected, lost = boxes_and_scores(axis)
    parity = compare({"y": expected}, {"y": lost})
    (output,) = parity.outputs
    assert output.snr_db > 40, "over the whole nothing shows"
    assert output.part_snr_db == pytest.approx(0.0) == parity.snr_db
    assert compare({"y": expected}, {"y": expected}).snr_db == math.inf


def test_channels_that_fade_out_are_no_part() -> None:
    x = np.random.default_rng(0).standard_normal((8, 10)) * 2.0 ** -np.arange(10)
    (output,) = compare({"y": x}, {"y": x + 0.01}).outputs
    assert output.part_snr_db is None


def test_numbers_that_tell_no_class_have_no_agreement() -> None:
    points = np.random.default_rng(0).uniform(0, 256, (200, 136))
    parity = compare({"points": points}, {"points": points + 0.2}, classes=False)
    assert parity.top1_agreement is None and parity.outputs[0].top1_agreement is None


@pytest.mark.parametrize(
    ("expected", "actual"),
    [(np.nan, 1.0), (1.0, np.nan), (np.nan, np.nan), (np.inf, 1.0), (1.0, -np.inf), (np.inf, -np.inf)],
)
def test_what_is_not_finite_never_passes(expected: float, actual: float) -> None:
    a, b = np.ones((2, 3)), np.ones((2, 3))
    a[1, 2], b[1, 2] = expected, actual
    parity = compare({"y": a}, {"y": b})
    assert parity.max_abs_error == parity.relative_error == math.inf
    assert parity.snr_db == -math.inf
    nan = math.isnan(expected) or math.isnan(actual)
    assert not nan or parity.top1_agreement == 50.0


def test_infinities_in_the_same_place_do_not_hide_an_error() -> None:
    parity = compare({"y": np.array([[-np.inf, 2.0]])}, {"y": np.array([[-np.inf, 1.0]])})
    assert (parity.max_abs_error, parity.relative_error) == (1.0, 0.5)


def test_expected_zeros_and_extreme_sizes() -> None:
    assert compare({"y": np.zeros(3)}, {"y": np.ones(3)}).relative_error == math.inf
    assert compare({"y": np.zeros(3)}, {"y": np.ones(3)}).snr_db == -math.inf
    for size in (1e-200, 1e200):
        parity = compare({"y": np.array([size, size])}, {"y": np.array([size, size * 1.1])})
        assert parity.snr_db == pytest.approx(10 * math.log10(2 / 0.01))


def test_integers_do_not_wrap() -> None:
    assert compare({"y": np.array([0], np.uint8)}, {"y": np.array([255], np.uint8)}).max_abs_error == 255


@pytest.mark.parametrize(
    ("expected", "actual", "said"),
    [
        ({}, {}, "nothing to compare"),
        ({"y": np.zeros((0, 3))}, {"y": np.zeros((0, 3))}, "nothing to compare"),
        ({"y": np.zeros((2, 3))}, {"y": np.zeros((2, 1))}, "shape"),
        ({"y": np.zeros((2, 3))}, {"y": np.zeros((1, 3))}, "shape"),
        ({"y": np.zeros(2)}, {"z": np.zeros(2)}, "expected y; got z"),
    ],
)
def test_nothing_is_broadcast_or_skipped(
    expected: dict[str, np.ndarray], actual: dict[str, np.ndarray], said: str
) -> None:
    with pytest.raises(InvalidInputs, match=said):
        compare(expected, actual)


@pytest.mark.parametrize("batch", ["N", 1, 3, 4, 16])
@pytest.mark.parametrize("samples", [1, 8, 11])
def test_samples_are_run_whatever_the_batch(
    batch: int | str, samples: int, saved: Saved, models: Models, reference: Callable[..., Any]
) -> None:
    runtime = load(saved(models["linear"](batch), "net.onnx"))
    x = np.random.default_rng(0).standard_normal((samples, 4)).astype(np.float32)
    outputs = run_samples(runtime, {"x": x}, batch=3)
    assert outputs["y"].shape == (samples, 5)
    np.testing.assert_allclose(outputs["y"], reference(x), rtol=1e-5, atol=1e-6)


def test_run_samples_refuses_nothing(linear: Path) -> None:
    runtime = load(linear)
    with pytest.raises(InvalidInputs, match="at least 1"):
        run_samples(runtime, {"x": np.zeros((0, 4), np.float32)})
    with pytest.raises(InvalidInputs, match="no inputs"):
        run_samples(runtime, {})
    with pytest.raises(InvalidInputs, match="batch"):
        run_samples(runtime, {"x": np.zeros((1, 4), np.float32)}, batch=0)


@pytest.mark.parametrize("batch", ["N", 1, 4])
def test_accuracy_equals_that_of_a_loop(
    batch: int | str, saved: Saved, models: Models, reference: Callable[..., Any]
) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((50, 4)).astype(np.float32), rng.integers(0, 5, 50)
    y[:20] = reference(x[:20]).argmax(1)
    right = sum(int(reference(x[i : i + 1])[0].argmax()) == y[i] for i in range(50))
    runtime = load(saved(models["linear"](batch), "net.onnx"))
    assert accuracy(runtime, [(x[:32], y[:32]), (x[32:], y[32:])]) == pytest.approx(100 * right / 50)
    assert 20 <= right < 50


def test_sample_with_nan_counts_as_wrong(linear: Path, reference: Callable[..., Any]) -> None:
    x = np.random.default_rng(0).standard_normal((10, 4)).astype(np.float32)
    y = reference(x).argmax(1)
    x[3] = np.nan
    y[3] = 0
    assert accuracy(load(linear), [(x, y)]) == 90.0


@pytest.mark.parametrize(
    ("x", "y", "said"),
    [
        (np.zeros((0, 4), np.float32), np.zeros(0, np.int64), "no samples"),
        (np.zeros((3, 4), np.float32), np.zeros(2, np.int64), "labels: expected 3 integers"),
        (np.zeros((3, 4), np.float32), np.zeros(3), "integers"),
        (np.zeros((3, 4), np.float32), np.array([0, 1, 5]), "expected 0 to 4, got 0 to 5"),
        (np.zeros((3, 4), np.float32), np.array([0, -1, 4]), "got -1 to 4"),
    ],
)
def test_accuracy_refuses_what_has_none(linear: Path, x: np.ndarray, y: np.ndarray, said: str) -> None:
    with pytest.raises(InvalidInputs, match=said):
        accuracy(load(linear), [(x, y)])


@dataclass
class Doubling:
    """A file whose state has samples along its second dimension: it doubles both of its inputs."""

    inputs: tuple[TensorSpec, ...] = (
        TensorSpec("x", (None, 3), "float32"),
        TensorSpec("state", (2, None, 4), "float32"),
    )
    outputs: tuple[TensorSpec, ...] = ()

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: 2 * value for name, value in inputs.items()}


def test_samples_lie_where_the_file_leaves_a_dimension_open() -> None:
    inputs = {"x": np.ones((5, 3), np.float32), "state": np.arange(40, dtype=np.float32).reshape(2, 5, 4)}
    outputs = run_samples(Doubling(), inputs, batch=3)  # type: ignore[arg-type]
    assert all(np.array_equal(outputs[name], 2 * value) for name, value in inputs.items())


def test_inputs_without_samples_in_common_are_run_as_they_are() -> None:
    fixed = Doubling((TensorSpec("x", (None, 3), "float32"), TensorSpec("state", (1, 1, 4), "float32")))
    inputs = {"x": np.ones((5, 3), np.float32), "state": np.ones((1, 1, 4), np.float32)}
    assert run_samples(fixed, inputs)["x"].shape == (5, 3)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputs, match=r"same number of samples in each.*x has 5, state has 2"):
        run_samples(fixed, {**inputs, "state": np.ones((2, 1, 4), np.float32)})  # type: ignore[arg-type]
