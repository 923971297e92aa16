"""Several nodes that are one operation of torch: how frameworks that lack an operator, or its bias, write it.

- A constant that is added to what a convolution or a product with a constant matrix yields is its bias.
- ``clip(x + 3, 0, 6) / 6`` is the hard sigmoid, and ``x`` times it the hard swish (Howard et al., "Searching for
  MobileNetV3" (2019), section 5.2), also with the division last, as Paddle and older opsets write it.
- A state of zeros that a recurrent layer starts from is what it starts from without one, as engines prefer.
- Padding with minus infinity, or the lowest number that there is, in front of a maximum is padding of the maximum:
  nothing that is not finite has to be rounded.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, MutableMapping
from dataclasses import dataclass, field, replace

import numpy as np

from .step import Array, Step

_MOVES = frozenset(
    ["Cast", "Concat", "Expand", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Tile", "Transpose", "Unsqueeze"]
)
"""Operators that yield values of their first input, or of all, and no others."""
SLOPE = 1 / 6
"""Of the hard sigmoid that the hard swish multiplies by."""


def recognized(
    steps: list[Step],
    constants: MutableMapping[str, Array],
    returned: Collection[str],
    ranks: Mapping[str, int] | None = None,
) -> list[Step]:
    """The steps with one in the place of several wherever these are one operation; it stands where their last did.

    Args:
        constants: known values by name; biases are put there in the shape that their layer wants.
        returned: values that the network gives, which stay.
        ranks: how many dimensions values have, as far as is known.
    """
    for rule in (_zero_state, _padded_maximum, _bias, _hard_sigmoid, _hard_swish, _hard_swish_divided_last):
        known_steps = _Steps(steps, constants, returned, ranks or {})
        replaced: dict[str, Step] = {}
        for step in steps:
            made = rule(known_steps, step)
            if made is not None:
                replaced[step.outputs[0]] = made
        steps = [replaced.get(step.outputs[0], step) for step in steps if step.outputs[0] not in known_steps.absorbed]
    return steps


@dataclass
class _Steps:
    """The steps of a network, looked up by what they yield."""

    steps: list[Step]
    constants: MutableMapping[str, Array]
    returned: Collection[str]
    ranks: Mapping[str, int]
    absorbed: set[str] = field(default_factory=set)
    """What is computed within another step now."""

    def __post_init__(self) -> None:
        self.producers = {step.outputs[0]: step for step in self.steps}
        self.uses = Counter(name for step in self.steps for name in step.inputs)
        self.uses.update(self.returned)

    def number(self, step: Step, index: int) -> float | None:
        """Input ``index`` where it is one known number, which adds no dimension to the others."""
        array = self.constants.get(step.inputs[index]) if index < len(step.inputs) else None
        if array is None or array.size != 1:
            return None
        known = [self.ranks[name] for i, name in enumerate(step.inputs) if i != index and name in self.ranks]
        return float(array.reshape(-1)[0]) if array.ndim <= max(known, default=1) else None

    def inner(self, name: str, *operators: str) -> Step | None:
        """The step that yields ``name``, if it is one of ``operators`` and nothing else needs its value."""
        step = self.producers.get(name)
        alone = self.uses[name] == 1 and name not in self.returned
        return step if step is not None and alone and step.operator in operators else None

    def is_zero(self, name: str) -> bool:
        """Whether ``name`` is known to hold nothing but zeros, whatever its sizes are."""
        waiting, seen = [name], set()
        while waiting:
            each = waiting.pop()
            if each in seen:
                continue
            seen.add(each)
            step = self.producers.get(each)
            if each in self.constants:
                if self.constants[each].any():
                    return False
            elif step is not None and step.operator == "ConstantOfShape":
                value = step.attributes.get("value")
                if isinstance(value, np.ndarray) and value.any():
                    return False
            elif step is not None and step.operator in _MOVES:
                waiting.extend(step.inputs if step.operator == "Concat" else step.inputs[:1])
            else:
                return False
        return True

    def with_constant(self, step: Step | None, operator: str) -> tuple[str, float] | None:
        """The other operand and the number, where ``step`` computes ``operator`` with a known number."""
        if step is None or step.operator != operator or len(step.inputs) != 2:
            return None
        second = self.number(step, 1)
        if second is not None:
            return step.inputs[0], second
        first = None if operator == "Div" else self.number(step, 0)
        return None if first is None else (step.inputs[1], first)

    def divided(self, step: Step | None) -> tuple[str, float] | None:
        """What ``step`` divides by a known number, or multiplies by its inverse, and the number."""
        found = self.with_constant(step, "Div")
        if found is not None:
            return found
        scaled = self.with_constant(step, "Mul")
        return None if scaled is None or scaled[1] == 0 else (scaled[0], 1 / scaled[1])

    def clipped_sum(self, name: str) -> tuple[str, float, float, tuple[str, ...]] | None:
        """``x``, ``b`` and ``c`` where ``name`` is ``clip(x + b, 0, c)``, and the values within that fall away."""
        clip = self.inner(name, "Clip")
        if clip is None:
            return None
        low = clip.attributes.get("min") if "min" in clip.attributes else self.number(clip, 1)
        high = clip.attributes.get("max") if "max" in clip.attributes else self.number(clip, 2)
        added = self.with_constant(self.inner(clip.inputs[0], "Add"), "Add")
        if low != 0 or not isinstance(high, (int, float)) or not 0 < high < math.inf or added is None:
            return None
        return (*added, float(high), (name, clip.inputs[0]))


def _zero_state(nodes: _Steps, step: Step) -> Step | None:
    """A recurrent layer that starts from zeros, which the file makes."""
    if step.operator not in ("LSTM", "GRU", "RNN"):
        return None
    inputs = tuple(
        "" if index in (5, 6) and name and nodes.is_zero(name) else name for index, name in enumerate(step.inputs)
    )
    return None if inputs == step.inputs else replace(step, inputs=inputs)


def _padded_maximum(nodes: _Steps, step: Step) -> Step | None:
    """A maximum of windows over values that are padded with what is never the largest."""
    pad = nodes.inner(step.inputs[0], "Pad") if step.operator == "MaxPool" else None
    if pad is None or step.integer("ceil_mode") or step.text("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return None
    fill = pad.real("value") if "value" in pad.attributes else nodes.number(pad, 2)
    sizes = nodes.constants.get(pad.inputs[1]) if len(pad.inputs) > 1 else np.asarray(pad.integers("pads"))
    count = len(step.integers("kernel_shape") or ())
    if fill is None or fill > np.finfo(np.float32).min or sizes is None or sizes.size != 2 * (count + 2):
        return None
    if pad.text("mode", "constant") != "constant" or any(pad.inputs[3:]) or sizes.min() < 0:
        return None
    before, after = sizes.reshape(2, -1)
    if before[:2].any() or after[:2].any():
        return None
    own = np.asarray(step.integers("pads") or (0,) * (2 * count))
    pads = own + np.concatenate([before[2:], after[2:]])
    nodes.absorbed.add(pad.outputs[0])
    return replace(step, inputs=pad.inputs[:1], attributes={**step.attributes, "pads": tuple(pads.tolist())})


def _bias(nodes: _Steps, step: Step) -> Step | None:
    """A layer without a bias, and a constant per channel that is added to what it yields."""
    if step.operator != "Add":
        return None
    for yielded, added in (step.inputs, tuple(reversed(step.inputs))):
        layer = nodes.inner(yielded, "MatMul", "Conv", "ConvTranspose")
        constant = nodes.constants.get(added)
        weight = nodes.constants.get(layer.inputs[1]) if layer is not None else None
        if layer is None or constant is None or weight is None or any(layer.inputs[2:]):
            continue
        channels, shape = _channels(layer, weight)
        # Smaller ranks are read from the end, and must not make the result larger.
        full = (1,) * (len(shape) - constant.ndim) + constant.shape
        if channels == 0 or constant.size != channels or full != shape:
            continue
        name = added if constant.ndim == 1 else f"{added}:bias"
        nodes.constants.setdefault(name, constant.reshape(-1))
        nodes.absorbed.add(yielded)
        # It runs where the sum did; nothing else reads what the layer yields.
        return replace(layer, inputs=(*layer.inputs[:2], name), outputs=step.outputs)
    return None


def _channels(layer: Step, weight: Array) -> tuple[int, tuple[int, ...]]:
    """The number of output channels of a layer, 0 where it has none, and the shape that its bias is added in."""
    if layer.operator == "MatMul":
        return (weight.shape[1], (weight.shape[1],)) if weight.ndim == 2 else (0, ())
    transposed = layer.operator == "ConvTranspose"
    channels = weight.shape[1] * layer.integer("group", 1) if transposed else weight.shape[0]
    return channels, (1, channels, *(1 for _ in weight.shape[2:]))


def _hard_sigmoid(nodes: _Steps, step: Step) -> Step | None:
    """``clip(x + b, 0, c) / c``."""
    divided = nodes.divided(step)
    inside = nodes.clipped_sum(divided[0]) if divided is not None else None
    if divided is None or inside is None:
        return None
    x, shift, high, fallen = inside
    if not math.isclose(high, divided[1], rel_tol=1e-6):
        return None
    nodes.absorbed.update(fallen)
    return replace(
        step, operator="HardSigmoid", inputs=(x,), attributes={"alpha": 1 / divided[1], "beta": shift / divided[1]}
    )


def _hard_swish(nodes: _Steps, step: Step) -> Step | None:
    """``x`` times its hard sigmoid."""
    if step.operator != "Mul":
        return None
    for x, gate in (step.inputs, tuple(reversed(step.inputs))):
        sigmoid = nodes.inner(gate, "HardSigmoid")
        if sigmoid is not None and sigmoid.inputs[0] == x and is_of_hard_swish(sigmoid):
            nodes.absorbed.add(gate)
            return replace(step, operator="HardSwish", inputs=(x,), attributes={})
    return None


def _hard_swish_divided_last(nodes: _Steps, step: Step) -> Step | None:
    """``x * clip(x + 3, 0, 6) / 6``."""
    divided = nodes.divided(step)
    product = nodes.inner(divided[0], "Mul") if divided is not None else None
    if divided is None or product is None or not math.isclose(divided[1], 6, rel_tol=1e-6):
        return None
    for x, gate in (product.inputs, tuple(reversed(product.inputs))):
        inside = nodes.clipped_sum(gate)
        if inside is not None and inside[:3] == (x, 3.0, 6.0):
            nodes.absorbed.update((divided[0], *inside[3]))
            return replace(step, operator="HardSwish", inputs=(x,), attributes={})
    return None


def is_of_hard_swish(step: Step) -> bool:
    """Whether a HardSigmoid is ``clip(x / 6 + 1 / 2, 0, 1)``."""
    alpha, beta = step.real("alpha", 0.2), step.real("beta", 0.5)
    return math.isclose(alpha, SLOPE, rel_tol=1e-6) and math.isclose(beta, 0.5, rel_tol=1e-6)
