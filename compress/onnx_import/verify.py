"""Comparison of an imported network with ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InvalidInput
from .inputs import example_inputs_of, random_inputs
from .network import OnnxNetwork
from .read import first_line, graph_inputs, parse
from .step import Array

TOLERANCE = 1e-4
"""Largest difference to ONNX Runtime, relative to the largest absolute value of the output."""
_HALF_TOLERANCE = 2e-2
_GUESSED_SIZES = (64, 224, 128, 32, 256, 299, 16)
"""Tried in turn for sizes that the file leaves open."""


def session_of(path: Path) -> Any:
    """The file in ONNX Runtime, which also checks that it is valid."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise InvalidInput(f"{path}: not a valid ONNX file: ONNX Runtime says {first_line(error)}") from error


def compare(path: Path, network: OnnxNetwork, session: Any, input_shape: tuple[int, ...] | None) -> None:
    """Raise InvalidInput unless ``network`` gives what ONNX Runtime gives for the file."""
    inputs, expected = _reference(path, session, input_shape)
    try:
        with torch.no_grad():
            got = network(*inputs)
    except InvalidInput as error:
        raise InvalidInput(f"{path}: {error}") from error
    except Exception as error:
        where = ", ".join(getattr(error, "__notes__", ()))
        raise InvalidInput(f"{path}: cannot be run in torch, {where}: {first_line(error)}") from error
    shapes = ", ".join(str(tuple(x.shape)) for x in inputs)
    for name, ours, theirs in zip(network.outputs, got if isinstance(got, tuple) else (got,), expected, strict=True):
        difference, tolerance = _relative_difference(ours, theirs)
        if difference > tolerance:
            raise InvalidInput(
                f"{path}: the network imported into torch differs from ONNX Runtime in the output {name} by "
                f"{difference:.2g} of its largest value (expected at most {tolerance:.0e}) on random inputs of shape "
                f"{shapes}"
            )
    fixed = {dimensions[0] for _, _, dimensions in graph_inputs(parse(path)) if dimensions}
    if fixed != {None} and not _batch_may_vary(network, inputs):
        network.fixed_batch = inputs[0].shape[0]


def _batch_may_vary(network: OnnxNetwork, inputs: tuple[Tensor, ...]) -> bool:
    """Whether twice the batch gives the same outputs as its halves: the file may compute with the size it fixes."""
    others = tuple(x.flip(-1) if x.ndim else x for x in inputs)
    try:
        with torch.no_grad():
            both = network(*(torch.cat(pair) for pair in zip(inputs, others, strict=True)))
            halves = network(*inputs), network(*others)
        wholes, firsts, seconds = (out if isinstance(out, tuple) else (out,) for out in (both, *halves))
        return all(
            _relative_difference(whole, torch.cat([first, second]).numpy())[0] <= _HALF_TOLERANCE
            for whole, first, second in zip(wholes, firsts, seconds, strict=True)
        )
    except Exception:  # noqa: BLE001 - whatever the reason, it does not run so
        return False


def _reference(path: Path, session: Any, input_shape: tuple[int, ...] | None) -> tuple[tuple[Tensor, ...], list[Array]]:
    """Random inputs that ONNX Runtime takes, and its outputs for them."""
    declared = graph_inputs(parse(path))
    first = declared[0][2] if declared else None
    if input_shape is not None and first is not None and len(first) == len(input_shape):
        # ONNX Runtime insists on the sizes that the file fixes; the imported network may run on others.
        input_shape = tuple(have or given for have, given in zip(first, input_shape, strict=True))
    failure: Exception | None = None
    candidates: list[tuple[int, int | None]] = [(2, None), (1, None)]
    opened = any(dimensions is None or None in dimensions[1:] for _, _, dimensions in declared)
    if opened and input_shape is None:
        candidates = [(batch, size) for size in _GUESSED_SIZES for batch in (2, 1)]
    for batch, size in candidates:
        if size is None:
            inputs = example_inputs_of(path, batch, input_shape=input_shape)
        else:
            if any(dimensions is None for _, _, dimensions in declared):
                break
            filled = [
                (tuple(d or (size if i else batch) for i, d in enumerate(dimensions or ())), element)
                for _, element, dimensions in declared
            ]
            inputs = random_inputs(filled, 0)
        try:
            feeds = {name: x.numpy() for (name, _, _), x in zip(declared, inputs, strict=True)}
            return inputs, session.run(None, feeds)
        except Exception as error:  # noqa: BLE001 - the runtime's own exceptions derive from Exception alone
            failure = error
    reason = f": {first_line(failure)}" if failure else ""
    hint = "; give --input-shape" if opened and input_shape is None else ""
    raise InvalidInput(f"{path}: ONNX Runtime does not run it on random inputs{reason}{hint}")


def _relative_difference(ours: Tensor, theirs: Array) -> tuple[float, float]:
    """The largest difference relative to the largest value (infinite if the shapes differ), and what it may be."""
    mine = ours.detach().cpu()
    tolerance = _HALF_TOLERANCE if mine.dtype in (torch.float16, torch.bfloat16) else TOLERANCE
    if tuple(mine.shape) != theirs.shape:
        return np.inf, tolerance
    a, b = mine.double().numpy(), theirs.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if same.all():
        return 0.0, tolerance
    scale = float(np.max(np.abs(b[np.isfinite(b)]), initial=1e-6))
    difference = float(np.max(np.where(same, 0.0, np.abs(a - b)))) / scale
    return (np.inf if np.isnan(difference) else difference), tolerance
