"""Arrays of a network as a file takes them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from runtimes.bound import Binding, feed
from runtimes.errors import InvalidInputs
from runtimes.runtime import Runtime, TensorSpec


def fed(dtype: str, values: Any) -> np.ndarray:
    """What a file with one input of that type is given for the values."""
    runtime = cast(Runtime, SimpleNamespace(inputs=(TensorSpec("x", (None,), dtype),)))
    return feed(runtime, Binding(), [np.asarray(values)])["x"]


@pytest.mark.parametrize("taken", ["int32", "int64", "int16", "uint8"])
@pytest.mark.parametrize("given", ["int32", "int64", "uint8"])
def test_whole_numbers_get_the_width_of_the_file(given: str, taken: str) -> None:
    array = fed(taken, np.array([0, 7, 200], given))
    assert array.dtype == taken
    assert array.tolist() == [0, 7, 200]


@pytest.mark.parametrize(("taken", "values"), [("int32", [0, 2**31]), ("int32", [-(2**31) - 1]), ("uint8", [-1])])
def test_whole_numbers_that_the_file_cannot_hold_are_refused(taken: str, values: list[int]) -> None:
    with pytest.raises(InvalidInputs, match=f"input 'x': expected {taken}, .* to .*, got {values[0]} to {values[-1]}"):
        fed(taken, values)


def test_numbers_of_another_kind_stay_as_they_are() -> None:
    assert fed("float32", np.array([1], np.int64)).dtype == np.int64
    assert fed("int64", np.array([0.5], np.float32)).dtype == np.float32
    assert fed("int32", np.zeros(0, np.int64)).dtype == np.int32
