"""Recurrent layers: a module of torch where it computes the same, else step by step as the operators are defined.

X is (steps, N, inputs), or (N, steps, inputs) where ``layout`` is 1; Y is (steps, directions, N, hidden), or
(N, steps, directions, hidden). ONNX stacks the gates of an LSTM as input, output, forget, cell and those of a GRU as
update, reset, hidden; torch as input, forget, cell, output and as reset, update, new.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - as everyone calls it
from torch import Tensor, nn

from ..step import Call, Step, Unsupported
from .registry import operator

GATES: Mapping[str, tuple[int, ...]] = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
"""For every gate of torch its place in ONNX."""
_DEFAULTS: Mapping[str, tuple[str, ...]] = {
    "LSTM": ("Sigmoid", "Tanh", "Tanh"),
    "GRU": ("Sigmoid", "Tanh"),
    "RNN": ("Tanh",),
}
_ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "HardSigmoid": lambda x: torch.clamp(0.2 * x + 0.5, 0, 1),
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "Softplus": F.softplus,
    "Softsign": F.softsign,
    "Tanh": torch.tanh,
}
_MOST_STEPS = 1024
"""That are computed one after the other where torch has no module."""
_State = tuple[Tensor, Tensor]


def activations_of(step: Step) -> tuple[str, ...]:
    """The activations of each direction in turn, with the capitals of the specification."""
    given = step.attributes.get("activations")
    count = 2 if step.text("direction") == "bidirectional" else 1
    names = _DEFAULTS[step.operator] * count if given is None else given
    known = {name.lower(): name for name in _ACTIVATIONS}
    return tuple(known.get(str(name).lower(), str(name)) for name in names)  # type: ignore[union-attr]


def has_module(step: Step) -> bool:
    """Whether a module of torch computes what the step does: no clipping, peepholes, or activations of another kind."""
    names = activations_of(step)
    usual = names in {_DEFAULTS[step.operator] * count for count in (1, 2)}
    plain = step.operator != "RNN" or (len(set(names)) == 1 and names[0] in ("Tanh", "Relu"))
    peepholes = step.operator == "LSTM" and len(step.inputs) > 7 and step.inputs[7]
    return (
        (usual if step.operator != "RNN" else plain)
        and "clip" not in step.attributes
        and not step.integer("input_forget")
        and not peepholes
        and (step.operator != "GRU" or bool(step.integer("linear_before_reset")))
    )


@operator("LSTM", "GRU", "RNN")
def _recurrent(call: Call) -> tuple[Tensor, ...]:
    step = call.step
    x, first = call.tensor(), bool(step.integer("layout"))
    x = x.transpose(0, 1) if first else x
    _require_full(call, x.shape[0])
    states = [call.optional(index) for index in ((5, 6) if step.operator == "LSTM" else (5,))]
    states = [s if s is None or not first else s.transpose(0, 1) for s in states]
    if call.module is not None:
        y, *last = _through(call, x, states)
    else:
        y, *last = _stepwise(call, x, states)
    if not first:
        return y, *last
    return y.permute(2, 0, 1, 3), *(state.transpose(0, 1) for state in last)


def _require_full(call: Call, steps: Any) -> None:
    """Refuse sequences that end early. In a trace lengths have no values: what is traced has run before."""
    lengths = call.values[4] if call.has(4) else None
    if lengths is None or torch.compiler.is_exporting():
        return
    values = lengths.reshape(-1).tolist()
    if any(length != steps for length in values):
        raise Unsupported(f"a sequence that ends before the {steps} steps of its input (sequence_lens)")


def _through(call: Call, x: Tensor, states: list[Tensor | None]) -> tuple[Tensor, ...]:
    """What the module yields, in the shapes of ONNX: outputs, hidden and, of an LSTM, cell state."""
    module = call.module
    assert isinstance(module, nn.RNNBase), f"{call.step.name} has a layer"
    backward = call.step.text("direction") == "reverse"
    given = _filled(states, x, 2 if module.bidirectional else 1, module.hidden_size)
    state: Any = (given if len(given) > 1 else given[0]) if given else None
    out, last = module(x.flip(0) if backward else x, state)
    out = out.flip(0) if backward else out
    steps, batch, width = out.shape
    two = module.bidirectional
    y = out.reshape(steps, batch, 2, width // 2).permute(0, 2, 1, 3) if two else out.unsqueeze(1)
    return (y, *last) if isinstance(last, tuple) else (y, last)


def _filled(states: list[Tensor | None], x: Tensor, directions: int, hidden: int) -> tuple[Tensor, ...]:
    """The states to begin with, zeros for one that is left out; none where all are."""
    if all(state is None for state in states):
        return ()
    return tuple(x.new_zeros(directions, x.shape[1], hidden) if state is None else state for state in states)


def _stepwise(call: Call, x: Tensor, states: list[Tensor | None]) -> tuple[Tensor, ...]:
    """Outputs and last states, computed step by step in each direction."""
    if x.shape[0] > _MOST_STEPS:
        raise Unsupported(f"{x.shape[0]:,} steps of a form that torch has no module for")
    recurrent = call.tensor(2)
    directions, hidden = recurrent.shape[0], recurrent.shape[-1]
    count = 2 if call.step.operator == "LSTM" else 1
    given = _filled(states, x, directions, hidden) or (x.new_zeros(directions, x.shape[1], hidden),) * count
    ys, ends = [], []
    for direction in range(directions):
        cell = _Cell.of(call, direction)
        backward = direction == 1 or call.step.text("direction") == "reverse"
        inputs = cell.inputs(x.flip(0) if backward else x)
        state = (given[0][direction], given[-1][direction])
        hiddens = []
        for gates in inputs.unbind(0):
            state = cell.step(gates, state)
            hiddens.append(state[0])
        stacked = torch.stack(hiddens)
        ys.append(stacked.flip(0) if backward else stacked)
        ends.append(state)
    return torch.stack(ys, 1), *(torch.stack([state[i] for state in ends]) for i in range(count))


@dataclass(frozen=True)
class _Cell:
    """One direction of a recurrent layer, which computes a step; its weights are stacked as in the file."""

    kind: str
    weight: Tensor
    recurrent: Tensor
    bias: Tensor
    recurrent_bias: Tensor
    peepholes: Tensor | None
    activations: tuple[Callable[[Tensor], Tensor], ...]
    clip: float | None
    input_forget: bool
    linear_before_reset: bool

    @classmethod
    def of(cls, call: Call, direction: int) -> _Cell:
        step = call.step
        names = activations_of(step)
        each = len(_DEFAULTS[step.operator])
        names = names[direction * each : (direction + 1) * each] or names[:each]
        unknown = [name for name in names if name not in _ACTIVATIONS]
        if unknown or step.attributes.get("activation_alpha") or step.attributes.get("activation_beta"):
            raise Unsupported(f"activations of {', '.join(unknown or names)} with factors of their own")
        weight, recurrent = call.tensor(1)[direction], call.tensor(2)[direction]
        bias = call.tensor(3)[direction] if call.has(3) else weight.new_zeros(2 * weight.shape[0])
        return cls(
            step.operator,
            weight,
            recurrent,
            bias[: weight.shape[0]],
            bias[weight.shape[0] :],
            call.tensor(7)[direction] if step.operator == "LSTM" and call.has(7) else None,
            tuple(_ACTIVATIONS[name] for name in names),
            step.real("clip") if "clip" in step.attributes else None,
            bool(step.integer("input_forget")),
            bool(step.integer("linear_before_reset")),
        )

    def inputs(self, x: Tensor) -> Tensor:
        """What all steps of ``x`` give to the gates."""
        return F.linear(x, self.weight, self.bias)

    def step(self, gates: Tensor, state: _State) -> _State:
        """The state after a step, hidden and cell; only an LSTM has the second one."""
        function = {"LSTM": self._lstm, "GRU": self._gru, "RNN": self._rnn}[self.kind]
        return function(gates, *state)

    def _activate(self, place: int, x: Tensor) -> Tensor:
        return self.activations[place](x if self.clip is None else x.clamp(-self.clip, self.clip))

    def _lstm(self, gates: Tensor, hidden: Tensor, cell: Tensor) -> _State:
        added = gates + F.linear(hidden, self.recurrent, self.recurrent_bias)
        i, o, f, c = added.chunk(4, -1)
        if self.peepholes is not None:
            pi, po, pf = self.peepholes.chunk(3)
            i, f = i + pi * cell, f + pf * cell
        entered = self._activate(0, i)
        kept = 1 - entered if self.input_forget else self._activate(0, f)
        cell = kept * cell + entered * self._activate(1, c)
        o = o + po * cell if self.peepholes is not None else o
        return self._activate(0, o) * self.activations[2](cell), cell

    def _gru(self, gates: Tensor, hidden: Tensor, other: Tensor) -> _State:
        update, reset, new = gates.chunk(3, -1)
        (to_update, to_reset, to_new), biases = self.recurrent.chunk(3), self.recurrent_bias.chunk(3)
        z = self._activate(0, update + F.linear(hidden, to_update, biases[0]))
        r = self._activate(0, reset + F.linear(hidden, to_reset, biases[1]))
        if self.linear_before_reset:
            n = self._activate(1, new + r * F.linear(hidden, to_new, biases[2]))
        else:
            n = self._activate(1, new + F.linear(r * hidden, to_new, biases[2]))
        return (1 - z) * n + z * hidden, other

    def _rnn(self, gates: Tensor, hidden: Tensor, other: Tensor) -> _State:
        return self._activate(0, gates + F.linear(hidden, self.recurrent, self.recurrent_bias)), other


def reordered(kind: str, stacked: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Weights or biases of gates, stacked along dimension 0 as ONNX does it, in the order of torch."""
    order = GATES[kind]
    if len(order) == 1:
        return stacked
    parts = np.split(stacked, len(order))
    return np.concatenate([parts[place] for place in order])
