"""Comparison of an imported network with ONNX Runtime."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import ModelProto
from torch import Tensor

from ...errors import InvalidInput
from ...files.limits import Measured, TooLarge
from .inputs import filled_shapes, random_inputs, with_sizes
from .network import OnnxNetwork
from .reading.read import gathered, graph_inputs, parse, size_names
from .reading.sound import cut
from .step import DTYPES, Array, reason_of

TOLERANCE = 1e-4
"""Largest difference to ONNX Runtime, relative to the largest absolute value of the output."""
HALF_TOLERANCE = 2e-2
"""The same where ONNX Runtime computes in half precision: 11 bits, of which every layer rounds the last."""
_SMALLEST_SCALE = 1e-2
"""Of outputs between 0 and 1: that engines approximate sigmoids shows in values of which all are tiny."""
_UNIT = frozenset(["HardSigmoid", "Sigmoid", "Softmax"])
_PASSES = frozenset(["Cast", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"])
_GUESSED_SIZES = (64, 224, 128, 32, 256, 299, 16, 1280, 4096)
"""Tried in turn for sizes that the file leaves open: of images and of words, then of sound."""
_LARGEST = 255
"""Integer of inputs of which nothing says what they choose from; where it does not run on these, 1."""
_MOST_BYTES = 2**31 - 1


def session_of(model: Path | bytes, path: Path) -> Any:
    """The file ``path``, or what it was converted to, in ONNX Runtime, which also checks that it is valid.

    Raises:
        InvalidInput: it is not.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    content = model if isinstance(model, bytes) else gathered(model) or str(model)
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise InvalidInput(f"{path}: not a valid ONNX file: ONNX Runtime says {reason_of(error)}") from error


def compare(
    path: Path,
    model: ModelProto,
    halves: tuple[str, ...],
    network: OnnxNetwork,
    input_shape: tuple[int, ...] | None,
    largest: int = 1,
) -> None:
    """Raise InvalidInput unless ``network`` gives what ONNX Runtime gives for the file.

    Args:
        model: what the network was made of.
        largest: integer of inputs that choose from no table of the file.
        halves: the precisions that were float32 in ``model`` and are these in the file. The network is then compared
            with both, and with the file as far as ONNX Runtime can run it.
    """
    original = parse(path)
    trial = _Trial(path, original, network, input_shape, largest)
    small = model.ByteSize() < _MOST_BYTES
    inputs, got, expected = trial.run(lambda: session_of(model.SerializeToString() if halves and small else path, path))
    _require_same(path, network, inputs, got, expected, TOLERANCE if small or not halves else HALF_TOLERANCE)
    if halves == ("float16",) and small:
        _require_same(path, network, inputs, got, trial.expected(session_of(path, path), inputs), HALF_TOLERANCE)
    fixed = {dimensions[0] for _, _, dimensions in graph_inputs(original) if dimensions}
    if fixed != {None} and inputs[0].ndim and not _batch_may_vary(network, inputs):
        network.fixed_batch = inputs[0].shape[0]


def _require_same(
    path: Path,
    network: OnnxNetwork,
    inputs: tuple[Tensor, ...],
    got: tuple[Tensor, ...],
    expected: list[Array],
    tolerance: float,
) -> None:
    shapes = ", ".join(str(tuple(x.shape)) for x in inputs)
    for name, ours, theirs in zip(network.outputs, got, expected, strict=True):
        difference = _relative_difference(ours, theirs, _SMALLEST_SCALE if _is_unit(network, name) else 1e-6)
        if difference > tolerance:
            raise InvalidInput(
                f"{path}: the network imported into torch differs from ONNX Runtime in the output {cut(name)} by "
                f"{difference:.2g} of its largest value (expected at most {tolerance:.0e}) on random inputs of shape "
                f"{shapes}"
            )


def _is_unit(network: OnnxNetwork, name: str) -> bool:
    """Whether an output is between 0 and 1 by what computes it."""
    producers = {output: step for step in network.steps for output in step.outputs}
    while (step := producers.get(name)) is not None and step.operator in _PASSES:
        name = step.inputs[0]
    return step is not None and step.operator in _UNIT


def _batch_may_vary(network: OnnxNetwork, inputs: tuple[Tensor, ...]) -> bool:
    """Whether twice the batch gives the same outputs as its halves: the file may compute with the size it fixes."""
    others = tuple(x.flip(-1) if x.ndim else x for x in inputs)
    try:
        with Measured(), torch.no_grad():
            both = network(*(torch.cat(pair) for pair in zip(inputs, others, strict=True)))
            halves = network(*inputs), network(*others)
        wholes, firsts, seconds = (out if isinstance(out, tuple) else (out,) for out in (both, *halves))
        return all(
            _relative_difference(whole, torch.cat([first, second]).numpy()) <= HALF_TOLERANCE
            for whole, first, second in zip(wholes, firsts, seconds, strict=True)
        )
    except TooLarge:
        return True  # a batch of two is too large to be tried
    except Exception:  # noqa: BLE001 - whatever the reason, it does not run so
        return False


@dataclass(frozen=True)
class _Trial:
    """A network on random inputs that it takes: first in torch, which refuses what is too large, then in an engine."""

    path: Path
    original: ModelProto
    network: OnnxNetwork
    input_shape: tuple[int, ...] | None
    largest: int

    def run(self, opened: Callable[[], Any]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], list[Array]]:
        """The inputs, what the network yields, and what the session that ``opened`` gives does.

        Raises:
            InvalidInput: neither runs on any inputs, as the first of them tells.
        """
        first: InvalidInput | None = None
        session = None
        largest = (self.largest,) if self.largest > 1 or not self._has_integers else (_LARGEST, self.largest)
        for shapes, end in itertools.product(self._candidates(), largest):
            try:
                inputs = random_inputs(self.path, self.original, shapes, 0, end)
                got = self._in_torch(inputs)
            except InvalidInput as error:
                first = first or error
                continue
            session = session or opened()  # not before torch has told that sizes are in bounds
            try:
                return inputs, got, self.expected(session, inputs)
            except InvalidInput as error:
                first = first or error
        assert first is not None, "at least one shape is tried"
        hint = "; give --input-shape" if self._open and self.input_shape is None and "--" not in str(first) else ""
        raise type(first)(f"{first}{hint}") from first

    def expected(self, session: Any, inputs: tuple[Tensor, ...]) -> list[Array]:
        """What the session yields; raises InvalidInput."""
        try:
            types = {value.name: value.type for value in session.get_inputs()}
            feeds = {
                name: x.half().numpy() if types.get(name) == "tensor(float16)" else x.numpy()
                for (name, _, _), x in zip(graph_inputs(self.original), inputs, strict=True)
            }
            return list(session.run(None, feeds))
        except Exception as error:
            raise InvalidInput(
                f"{self.path}: ONNX Runtime does not run it on random inputs: {reason_of(error)}"
            ) from error

    def _in_torch(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        try:
            with Measured(), torch.no_grad():
                got = self.network(*inputs)
        except InvalidInput as error:
            raise type(error)(f"{self.path}: {error}") from error
        except Exception as error:
            where = ", ".join(getattr(error, "__notes__", ()))
            raise InvalidInput(f"{self.path}: cannot be run in torch, {where}: {reason_of(error)}") from error
        return got if isinstance(got, tuple) else (got,)

    @property
    def _has_integers(self) -> bool:
        return any(
            not DTYPES.get(element, torch.float32).is_floating_point for _, element, _ in graph_inputs(self.original)
        )

    @property
    def _open(self) -> bool:
        """Whether sizes other than the batch are left open."""
        return any(dimensions is None or None in dimensions[1:] for _, _, dimensions in graph_inputs(self.original))

    def _candidates(self) -> Iterator[list[tuple[int, ...]]]:
        """Shapes of the inputs, each of which is tried; raises InvalidInput where there are none."""
        declared = graph_inputs(self.original)
        shape, first = self.input_shape, declared[0][2]
        if shape is not None and first is not None and len(first) == len(shape):
            # ONNX Runtime insists on the sizes that the file fixes; the imported network may run on others.
            shape = tuple(have or given for have, given in zip(first, shape, strict=True))
        known = [dimensions for _, _, dimensions in declared if dimensions is not None]
        if self._open and shape is None and len(known) == len(declared):
            names = size_names(self.original)
            first_of = {names[name][0] for name, _, dimensions in declared[:1] if dimensions}
            for size in _GUESSED_SIZES:
                for batch in (2, 1):
                    named = dict.fromkeys(first_of - {""}, batch)
                    filled = [with_sizes(dims, names[name], named) or () for name, _, dims in declared]
                    yield [tuple(d or (size if i else batch) for i, d in enumerate(dims)) for dims in filled]
            return
        for batch in (2, 1):
            yield filled_shapes(self.path, self.original, batch, shape)


def _relative_difference(ours: Tensor, theirs: Array, smallest: float = 1e-6) -> float:
    """The largest difference relative to the largest value, ``smallest`` at least; infinite if the shapes differ."""
    mine = ours.detach().cpu()
    if tuple(mine.shape) != theirs.shape:
        return np.inf
    a, b = mine.double().numpy(), theirs.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if same.all():
        return 0.0
    scale = float(np.max(np.abs(b[np.isfinite(b)]), initial=smallest))
    difference = float(np.max(np.where(same, 0.0, np.abs(a - b)))) / scale
    return np.inf if np.isnan(difference) else difference
