"""What each ONNX operator computes, in torch; and on shapes, in plain integers.

A value is a tensor, or an array of numpy where it is known without running the network or derives from the sizes of
tensors alone. Such arithmetic on shapes stays outside of torch, so that torch.export sees sizes and not tensors; sizes
that are symbols in a trace stand in arrays of objects.

Open Neural Network Exchange, "Operator Schemas", opsets 7 to 23.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - as everyone calls it
from numpy.typing import NDArray
from onnx import TensorProto
from torch import Tensor, nn

Array = NDArray[Any]
Value = Tensor | Array
Attribute = int | float | str | tuple[int, ...] | tuple[float, ...] | tuple[str, ...] | Array

DTYPES: Mapping[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.UINT8: torch.uint8,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.BOOL: torch.bool,
}
_FURTHEST = 2**62
"""Ends of slices beyond this mean "to the end"."""


class Unsupported(Exception):
    """An operator is used in a way that has no counterpart here; the message says which."""


@dataclass(frozen=True)
class Step:
    """One node of an ONNX graph, ready to run.

    Args:
        layer: the module that computes it, as a qualified name; "" if a function does.
    """

    operator: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    opset: int = 23
    layer: str = ""

    def integer(self, key: str, default: int = 0) -> int:
        """The attribute ``key`` as an integer."""
        return int(self.attributes.get(key, default))  # type: ignore[arg-type]

    def real(self, key: str, default: float = 0.0) -> float:
        """The attribute ``key`` as a float."""
        return float(self.attributes.get(key, default))  # type: ignore[arg-type]

    def text(self, key: str, default: str = "") -> str:
        """The attribute ``key`` as text."""
        return str(self.attributes.get(key, default))

    def integers(self, key: str) -> tuple[int, ...] | None:
        """The attribute ``key`` as integers, None where the node has it not."""
        value = self.attributes.get(key)
        return None if value is None else tuple(int(item) for item in value)  # type: ignore[union-attr]


@dataclass(frozen=True)
class Call:
    """A step with the values of its inputs; an input that is left out is None."""

    step: Step
    values: Sequence[Value | None]
    module: nn.Module | None = None

    def has(self, index: int) -> bool:
        """Whether input ``index`` is given."""
        return index < len(self.values) and self.values[index] is not None

    def tensor(self, index: int = 0) -> Tensor:
        """Input ``index`` as a tensor, on the device of the others."""
        value = self.values[index]
        if isinstance(value, Tensor):
            return value
        if value is None:
            raise Unsupported(f"input {index} is missing")
        device = next((v.device for v in self.values if isinstance(v, Tensor)), None)
        return as_tensor(value, device)

    def optional(self, index: int) -> Tensor | None:
        """Input ``index`` as a tensor, if it is given."""
        return self.tensor(index) if self.has(index) else None

    def operand(self, index: int) -> Tensor | float:
        """Input ``index`` for arithmetic: a number where it is a known scalar beside a tensor."""
        value = self.values[index]
        ranks = [v.ndim for v in self.values if isinstance(v, Tensor)]
        if isinstance(value, np.ndarray) and value.size == 1 and ranks and value.ndim <= max(ranks):
            return value.reshape(-1).tolist()[0]  # type: ignore[no-any-return]
        return self.tensor(index)

    def array(self, index: int) -> Array:
        """Input ``index`` as an array; reading a tensor's values here ends a trace."""
        value = self.values[index]
        if isinstance(value, np.ndarray):
            return value
        if value is None:
            raise Unsupported(f"input {index} is missing")
        return value.detach().cpu().numpy()

    def sizes(self, key: str, index: int) -> list[int] | None:
        """Integers that are the attribute ``key`` in old opsets and input ``index`` in new ones; None if absent."""
        attribute = self.step.integers(key)
        if attribute is not None:
            return list(attribute)
        return list(self.array(index).reshape(-1).tolist()) if self.has(index) else None

    def number(self, key: str, index: int, default: float) -> float:
        """A number that is the attribute ``key`` in old opsets and input ``index`` in new ones."""
        if key in self.step.attributes:
            return self.step.real(key)
        return self.array(index).reshape(-1).tolist()[0] if self.has(index) else default


def as_tensor(array: Array, device: torch.device | None = None) -> Tensor:
    """``array`` as a tensor; sizes that are symbols become a tensor of int64."""
    if array.dtype == object:
        flat = array.reshape(-1).tolist()
        return torch.stack([torch.as_tensor(item, device=device) for item in flat]).reshape(array.shape)
    tensor = torch.from_numpy(np.array(array, order="C"))
    return tensor if device is None else tensor.to(device)


Function = Callable[[Call], Value | tuple[Value, ...]]
Registered = TypeVar("Registered", bound=Function)
FUNCTIONS: dict[str, Function] = {}
"""Operators on tensors."""
ON_SHAPES: dict[str, Function] = {}
"""Operators on sizes, used where no input is a tensor."""
KNOWN_INPUTS: Mapping[str, frozenset[int]] = {
    name: frozenset(indices)
    for name, indices in {
        "Clip": (1, 2),
        "ConstantOfShape": (0,),
        "CumSum": (1,),
        "Dropout": (1, 2),
        "Expand": (1,),
        "Pad": (1, 2, 3),
        "Range": (0, 1, 2),
        "Reshape": (1,),
        "Resize": (1, 2, 3),
        "Slice": (1, 2, 3, 4),
        "Split": (1,),
        "Squeeze": (1,),
        "Tile": (1,),
        "TopK": (1,),
        "Trilu": (1,),
        "Unsqueeze": (1,),
        "Upsample": (1,),
        **{f"Reduce{kind}": (1,) for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum")},
        "ReduceSumSquare": (1,),
    }.items()
}
"""Inputs that are read as numbers: sizes, axes, bounds."""


def operator(*names: str) -> Callable[[Registered], Registered]:
    """Register a function for tensors."""

    def register(function: Registered) -> Registered:
        FUNCTIONS.update(dict.fromkeys(names, function))
        return function

    return register


def on_shapes(*names: str) -> Callable[[Registered], Registered]:
    """Register a function for sizes."""

    def register(function: Registered) -> Registered:
        ON_SHAPES.update(dict.fromkeys(names, function))
        return function

    return register


def run(call: Call) -> tuple[Value, ...]:
    """The outputs of one step.

    Raises:
        Unsupported: the operator is used in a way that has no counterpart.
    """
    step = call.step
    shapes_only = not any(isinstance(value, Tensor) for value in call.values)
    function = ON_SHAPES.get(step.operator) if shapes_only or step.operator in ("Shape", "Size") else None
    outputs = (function or FUNCTIONS[step.operator])(call)
    return outputs if isinstance(outputs, tuple) else (outputs,)


# --- activations and other functions of one tensor -------------------------------------------------------------------

_UNARY: Mapping[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "HardSwish": F.hardswish,
    "Identity": lambda x: x,
    "IsNaN": torch.isnan,
    "Log": torch.log,
    "Mish": F.mish,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal,
    "Relu": F.relu,
    "Round": torch.round,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Softplus": F.softplus,
    "Softsign": F.softsign,
    "Sqrt": torch.sqrt,
    "Tanh": torch.tanh,
}
for _name, _unary in _UNARY.items():
    FUNCTIONS[_name] = lambda call, function=_unary: function(call.tensor())  # type: ignore[misc]


@operator("LeakyRelu")
def _leaky_relu(call: Call) -> Tensor:
    return F.leaky_relu(call.tensor(), call.step.real("alpha", 0.01))


@operator("Elu")
def _elu(call: Call) -> Tensor:
    return F.elu(call.tensor(), call.step.real("alpha", 1.0))


@operator("Celu")
def _celu(call: Call) -> Tensor:
    return F.celu(call.tensor(), call.step.real("alpha", 1.0))


@operator("Selu")
def _selu(call: Call) -> Tensor:
    x, alpha = call.tensor(), call.step.real("alpha", 1.6732632423543772)
    return call.step.real("gamma", 1.0507009873554805) * F.elu(x, alpha)


@operator("ThresholdedRelu")
def _thresholded_relu(call: Call) -> Tensor:
    return F.threshold(call.tensor(), call.step.real("alpha", 1.0), 0.0)


@operator("HardSigmoid")
def _hard_sigmoid(call: Call) -> Tensor:
    alpha, beta = call.step.real("alpha", 0.2), call.step.real("beta", 0.5)
    if math.isclose(alpha, 1 / 6, rel_tol=1e-6) and beta == 0.5:
        return F.hardsigmoid(call.tensor())
    return torch.clamp(call.tensor() * alpha + beta, 0, 1)


@operator("Gelu")
def _gelu(call: Call) -> Tensor:
    return F.gelu(call.tensor(), approximate=call.step.text("approximate", "none"))


@operator("Clip")
def _clip(call: Call) -> Tensor:
    x = call.tensor()
    low = call.number("min", 1, -math.inf)
    high = call.number("max", 2, math.inf)
    if low == 0 and high == 6 and x.is_floating_point():
        return F.relu6(x)
    if low == 0 and high == math.inf and x.is_floating_point():
        return F.relu(x)
    if low == -math.inf and high == math.inf:
        return x
    return torch.clamp(x, None if low == -math.inf else low, None if high == math.inf else high)


@operator("Softmax", "LogSoftmax")
def _softmax(call: Call) -> Tensor:
    x = call.tensor()
    function = torch.softmax if call.step.operator == "Softmax" else torch.log_softmax
    if call.step.opset >= 13:
        return function(x, call.step.integer("axis", -1))
    axis = call.step.integer("axis", 1) % max(x.ndim, 1)
    if axis == x.ndim - 1:
        return function(x, axis)
    return function(x.flatten(axis), -1).reshape(x.shape)


@operator("Cast")
def _cast(call: Call) -> Tensor:
    return call.tensor().to(_dtype(call.step.integer("to")))


@operator("CastLike")
def _cast_like(call: Call) -> Tensor:
    return call.tensor().to(call.tensor(1).dtype)


def _dtype(element: int) -> torch.dtype:
    if element not in DTYPES:
        raise Unsupported(f"elements of type {TensorProto.DataType.Name(element)}")
    return DTYPES[element]


@operator("LpNormalization")
def _lp_normalization(call: Call) -> Tensor:
    return F.normalize(call.tensor(), call.step.integer("p", 2), call.step.integer("axis", -1))


@operator("LRN")
def _local_response_normalization(call: Call) -> Tensor:
    size = call.step.integer("size")
    if size % 2 == 0:
        raise Unsupported(f"an even size of {size}")
    alpha, beta, bias = (call.step.real(key, d) for key, d in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0)))
    return F.local_response_norm(call.tensor(), size, alpha, beta, bias)


@operator("CumSum")
def _cumulative_sum(call: Call) -> Tensor:
    x, axis = call.tensor(), int(call.array(1).reshape(-1)[0])
    reverse = call.step.integer("reverse")
    x = x.flip(axis) if reverse else x
    total = torch.cumsum(x, axis, dtype=x.dtype)
    total = total - x if call.step.integer("exclusive") else total
    return total.flip(axis) if reverse else total


@operator("Trilu")
def _triangle(call: Call) -> Tensor:
    diagonal = int(call.array(1).reshape(-1)[0]) if call.has(1) else 0
    return (torch.triu if call.step.integer("upper", 1) else torch.tril)(call.tensor(), diagonal)


# --- arithmetic ------------------------------------------------------------------------------------------------------


def _divide(a: Tensor | float, b: Tensor | float) -> Tensor:
    tensor = a if isinstance(a, Tensor) else b
    assert isinstance(tensor, Tensor), "one operand is a tensor"
    rounding = None if tensor.is_floating_point() else "trunc"
    return torch.div(torch.as_tensor(a) if not isinstance(a, Tensor) else a, b, rounding_mode=rounding)


def _power(a: Tensor | float, b: Tensor | float) -> Tensor:
    result = torch.pow(a, b)  # type: ignore[arg-type]
    return result.to(a.dtype) if isinstance(a, Tensor) else result


_BINARY: Mapping[str, Callable[[Any, Any], Any]] = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "Div": _divide,
    "Pow": _power,
    "Equal": lambda a, b: a == b,
    "Greater": lambda a, b: a > b,
    "GreaterOrEqual": lambda a, b: a >= b,
    "Less": lambda a, b: a < b,
    "LessOrEqual": lambda a, b: a <= b,
}
for _name, _binary in _BINARY.items():
    FUNCTIONS[_name] = lambda call, function=_binary: function(call.operand(0), call.operand(1))  # type: ignore[misc]

_LOGICAL: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "And": torch.logical_and,
    "Or": torch.logical_or,
    "Xor": torch.logical_xor,
}
for _name, _logical in _LOGICAL.items():
    FUNCTIONS[_name] = lambda call, function=_logical: function(call.tensor(0), call.tensor(1))  # type: ignore[misc]


@operator("Mod")
def _modulo(call: Call) -> Tensor:
    return (torch.fmod if call.step.integer("fmod") else torch.remainder)(call.tensor(0), call.tensor(1))


@operator("Min", "Max", "Sum", "Mean")
def _variadic(call: Call) -> Tensor:
    pair = {"Min": torch.minimum, "Max": torch.maximum}.get(call.step.operator, torch.add)
    result = call.tensor(0)
    for index in range(1, len(call.values)):
        result = pair(result, call.tensor(index))
    return result / len(call.values) if call.step.operator == "Mean" else result


@operator("Where")
def _where(call: Call) -> Tensor:
    return torch.where(call.tensor(0).bool(), call.tensor(1), call.tensor(2))


# --- layers: a module where the weights are in the file, a function where they are computed ---------------------------


@operator("MatMul")
def _matmul(call: Call) -> Tensor:
    return _through(call) if call.module is not None else torch.matmul(call.tensor(0), call.tensor(1))


@operator("Gemm")
def _gemm(call: Call) -> Tensor:
    if call.module is not None:
        return _through(call)
    a, b = call.tensor(0), call.tensor(1)
    a = a.T if call.step.integer("transA") else a
    b = b.T if call.step.integer("transB") else b
    product = call.step.real("alpha", 1.0) * (a @ b)
    return product + call.step.real("beta", 1.0) * call.tensor(2) if call.has(2) else product


def _through(call: Call) -> Tensor:
    assert call.module is not None, f"{call.step.name} has a layer"
    result: Tensor = call.module(call.tensor(0))
    return result


@operator("Einsum")
def _einsum(call: Call) -> Tensor:
    return torch.einsum(call.step.text("equation"), *(call.tensor(i) for i in range(len(call.values))))


def window_pads(
    step: Step, sizes: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> tuple[list[int], list[int]]:
    """The padding before and after each spatial dimension of ``sizes``, as ``pads`` or ``auto_pad`` say."""
    auto = step.text("auto_pad", "NOTSET")
    count = len(kernel)
    if auto in ("NOTSET", ""):
        pads = step.integers("pads") or (0,) * (2 * count)
        return list(pads[:count]), list(pads[count:])
    if auto == "VALID":
        return [0] * count, [0] * count
    before, after = [], []
    for size, k, s, d in zip(sizes, kernel, stride, dilation, strict=True):
        outputs = (size + s - 1) // s
        total = max((outputs - 1) * s + (k - 1) * d + 1 - size, 0) if s > 1 else (k - 1) * d
        small, large = total // 2, total - total // 2
        before.append(large if auto == "SAME_LOWER" else small)
        after.append(small if auto == "SAME_LOWER" else large)
    return before, after


def pads_apart(step: Step, kernel: Sequence[int]) -> bool:
    """Whether a convolution's padding differs between the sides, or depends on the input: it is then done before."""
    stride = step.integers("strides") or (1,) * len(kernel)
    if step.text("auto_pad").startswith("SAME") and max(stride) > 1:
        return True
    before, after = window_pads(step, kernel, kernel, stride, step.integers("dilations") or (1,) * len(kernel))
    return before != after


def crops(step: Step) -> bool:
    """Whether a transposed convolution's output is cut by other amounts than its module's padding can say."""
    pads = step.integers("pads") or ()
    uneven = pads[: len(pads) // 2] != pads[len(pads) // 2 :]
    return uneven or "output_shape" in step.attributes or step.text("auto_pad").startswith("SAME")


def transposed_pads(step: Step, count: int) -> tuple[int, ...]:
    """What a transposed convolution's module cuts on either side; 0 where :func:`crops`."""
    pads = step.integers("pads") if step.text("auto_pad", "NOTSET") == "NOTSET" and not crops(step) else None
    return (pads or (0,) * count)[:count]


def interleave(before: Sequence[int], after: Sequence[int]) -> list[int]:
    """Paddings in the order of :func:`torch.nn.functional.pad`: the last dimension first."""
    return [pad for pair in zip(reversed(before), reversed(after), strict=True) for pad in pair]


@operator("Conv")
def _convolution(call: Call) -> Tensor:
    x, step = call.tensor(), call.step
    kernel = _kernel(call)
    count = len(kernel)
    stride = step.integers("strides") or (1,) * count
    dilation = step.integers("dilations") or (1,) * count
    convolution = call.module
    if isinstance(convolution, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        if not pads_apart(step, kernel):
            return _through(call)
        before, after = window_pads(step, x.shape[2:], kernel, stride, dilation)
        padded: Tensor = convolution(F.pad(x, interleave(before, after)) if any(before + after) else x)
        return padded
    before, after = window_pads(step, x.shape[2:], kernel, stride, dilation)
    x = F.pad(x, interleave(before, after)) if any(before + after) else x
    function: Callable[..., Tensor] = (F.conv1d, F.conv2d, F.conv3d)[count - 1]
    return function(x, call.tensor(1), call.optional(2), stride, 0, dilation, step.integer("group", 1))


def _kernel(call: Call) -> tuple[int, ...]:
    declared = call.step.integers("kernel_shape")
    if declared is not None:
        return declared
    weight = call.module.weight if call.module is not None else call.tensor(1)
    assert isinstance(weight, Tensor), f"{call.step.name} has weights"
    return tuple(weight.shape[2:])


@operator("ConvTranspose")
def _transposed_convolution(call: Call) -> Tensor:
    step, module, x = call.step, call.module, call.tensor()
    weight = module.weight if module is not None else call.tensor(1)
    assert isinstance(weight, Tensor), f"{step.name} has weights"
    kernel = tuple(weight.shape[2:])
    count = len(kernel)
    stride = step.integers("strides") or (1,) * count
    dilation = step.integers("dilations") or (1,) * count
    if module is None:
        function: Callable[..., Tensor] = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[count - 1]
        output_padding = step.integers("output_padding") or (0,) * count
        groups = step.integer("group", 1)
        pads = transposed_pads(step, count)
        y = function(x, weight, call.optional(2), stride, pads, output_padding, groups, dilation)
    else:
        y = _through(call)
    if not crops(step):
        return y
    wanted = step.integers("output_shape")
    if wanted is not None or step.text("auto_pad", "NOTSET").startswith("SAME"):
        sizes = (
            [size * s for size, s in zip(x.shape[2:], stride, strict=True)] if wanted is None else list(wanted[-count:])
        )
        totals = [have - want for have, want in zip(y.shape[2:], sizes, strict=True)]
        if any(total < 0 for total in totals):
            raise Unsupported(f"an output of {sizes}, larger than the {list(y.shape[2:])} that the kernel reaches")
        before = [t // 2 if step.text("auto_pad") == "SAME_UPPER" else t - t // 2 for t in totals]
        after = [total - b for total, b in zip(totals, before, strict=True)]
    else:
        before, after = window_pads(step, x.shape[2:], kernel, stride, dilation)
    for axis, (b, a) in enumerate(zip(before, after, strict=True), start=2):
        y = y.narrow(axis, b, y.shape[axis] - a - b)
    return y


@operator("BatchNormalization")
def _batch_normalization(call: Call) -> Tensor:
    if call.module is not None:
        return _through(call)
    scale, bias, mean, variance = (call.tensor(i) for i in range(1, 5))
    return F.batch_norm(call.tensor(), mean, variance, scale, bias, False, 0.0, call.step.real("epsilon", 1e-5))


@operator("InstanceNormalization")
def _instance_normalization(call: Call) -> Tensor:
    if call.module is not None:
        return _through(call)
    return F.instance_norm(
        call.tensor(), weight=call.tensor(1), bias=call.tensor(2), eps=call.step.real("epsilon", 1e-5)
    )


@operator("LayerNormalization")
def _layer_normalization(call: Call) -> Tensor:
    if call.module is not None:
        return _through(call)
    x = call.tensor()
    axis = call.step.integer("axis", -1) % x.ndim
    normal = F.layer_norm(x, x.shape[axis:], eps=call.step.real("epsilon", 1e-5)) * call.tensor(1)
    return normal + call.tensor(2) if call.has(2) else normal


@operator("RMSNormalization")
def _rms_normalization(call: Call) -> Tensor:
    x = call.tensor()
    axes = list(range(call.step.integer("axis", -1) % x.ndim, x.ndim))
    return x * torch.rsqrt(x.square().mean(axes, keepdim=True) + call.step.real("epsilon", 1e-5)) * call.tensor(1)


@operator("GroupNormalization")
def _group_normalization(call: Call) -> Tensor:
    if call.module is not None:
        return _through(call)
    x, scale, bias, groups = call.tensor(), call.tensor(1), call.tensor(2), call.step.integer("num_groups")
    if scale.shape[0] != x.shape[1]:  # opset 18 had one scale per group
        scale, bias = (t.repeat_interleave(x.shape[1] // groups) for t in (scale, bias))
    return F.group_norm(x, groups, scale, bias, call.step.real("epsilon", 1e-5))


@operator("PRelu")
def _prelu(call: Call) -> Tensor:
    if call.module is not None:
        return _through(call)
    x = call.tensor()
    return torch.where(x < 0, x * call.tensor(1), x)


@operator("Dropout")
def _dropout(call: Call) -> Tensor:
    return _through(call) if call.module is not None else call.tensor()


# --- pooling ---------------------------------------------------------------------------------------------------------


def _window(call: Call) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], list[int], list[int]]:
    kernel = call.step.integers("kernel_shape") or ()
    stride = call.step.integers("strides") or (1,) * len(kernel)
    dilation = call.step.integers("dilations") or (1,) * len(kernel)
    before, after = window_pads(call.step, call.tensor().shape[2:], kernel, stride, dilation)
    return kernel, stride, dilation, before, after


def _fits(before: list[int], after: list[int], kernel: tuple[int, ...]) -> bool:
    """Whether torch's pooling can pad so by itself."""
    return before == after and all(2 * b <= k for b, k in zip(before, kernel, strict=True))


@operator("MaxPool")
def _max_pool(call: Call) -> Tensor:
    x = call.tensor()
    kernel, stride, dilation, before, after = _window(call)
    function: Callable[..., Tensor] = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(kernel) - 1]
    ceil = bool(call.step.integer("ceil_mode"))
    if not _fits(before, after, kernel):
        x = F.pad(x, interleave(before, after), value=-math.inf)
        before = [0] * len(kernel)
    return function(x, kernel, stride, tuple(before), dilation, ceil_mode=ceil)


@operator("AveragePool")
def _average_pool(call: Call) -> Tensor:
    x = call.tensor()
    kernel, stride, dilation, before, after = _window(call)
    if set(dilation) != {1}:
        raise Unsupported(f"dilations of {list(dilation)}")
    function: Callable[..., Tensor] = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[len(kernel) - 1]
    ceil, count_pad = bool(call.step.integer("ceil_mode")), bool(call.step.integer("count_include_pad"))
    if _fits(before, after, kernel):
        return function(x, kernel, stride, tuple(before), ceil, count_pad)
    pads = interleave(before, after)
    mean = function(F.pad(x, pads), kernel, stride, 0, ceil)
    if count_pad:
        return mean
    return mean / function(F.pad(torch.ones_like(x), pads), kernel, stride, 0, ceil)


@operator("GlobalAveragePool")
def _global_average_pool(call: Call) -> Tensor:
    x = call.tensor()
    functions: Mapping[int, Callable[..., Tensor]] = {
        3: F.adaptive_avg_pool1d,
        4: F.adaptive_avg_pool2d,
        5: F.adaptive_avg_pool3d,
    }
    return functions[x.ndim](x, 1)


@operator("GlobalMaxPool")
def _global_max_pool(call: Call) -> Tensor:
    x = call.tensor()
    return torch.amax(x, list(range(2, x.ndim)), keepdim=True)


# --- shapes of tensors -----------------------------------------------------------------------------------------------


@operator("Concat")
def _concat(call: Call) -> Tensor:
    return torch.cat([call.tensor(i) for i in range(len(call.values))], call.step.integer("axis", 1))


@operator("Split")
def _split(call: Call) -> tuple[Tensor, ...]:
    x, axis = call.tensor(), call.step.integer("axis")
    sizes = call.sizes("split", 1)
    count = len(call.step.outputs)
    if sizes is None or len(set(sizes)) == 1:
        return tuple(torch.chunk(x, count, axis))
    return tuple(torch.split(x, sizes, axis))


@operator("Slice")
def _slice(call: Call) -> Tensor:
    x = call.tensor()
    for axis, start, end, step in _slices(call, x.ndim):
        if step < 0:
            x = x.flip(axis)
            size = x.shape[axis]
            start = size - 1 - (start + size if start < 0 else min(start, size - 1))
            end = _FURTHEST if end < -size else size - 1 - (end + size if end < 0 else end)
            step = -step
        index: list[slice] = [slice(None)] * x.ndim
        index[axis] = slice(start, end if not isinstance(end, int) or end < _FURTHEST else None, step)
        x = x[tuple(index)]
    return x


def _slices(call: Call, ndim: int) -> list[tuple[int, int, int, int]]:
    starts, ends = call.sizes("starts", 1), call.sizes("ends", 2)
    assert starts is not None and ends is not None, "a slice has starts and ends"
    axes = call.sizes("axes", 3) or list(range(len(starts)))
    steps = call.sizes("steps", 4) or [1] * len(starts)
    return [(a % ndim, s, e, t) for a, s, e, t in zip(axes, starts, ends, steps, strict=True)]


@operator("Gather")
def _gather(call: Call) -> Tensor:
    x, axis = call.tensor(0), call.step.integer("axis")
    axis %= x.ndim
    value = call.values[1]
    if isinstance(value, np.ndarray) and value.ndim == 0:
        return x.select(axis, value.item())
    indices = call.tensor(1).long()
    indices = torch.where(indices < 0, indices + x.shape[axis], indices)
    picked = x.index_select(axis, indices.reshape(-1))
    return picked.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


@operator("GatherElements")
def _gather_elements(call: Call) -> Tensor:
    x, axis, indices = call.tensor(0), call.step.integer("axis"), call.tensor(1).long()
    return torch.gather(x, axis, torch.where(indices < 0, indices + x.shape[axis], indices))


@operator("Reshape")
def _reshape(call: Call) -> Tensor:
    x = call.tensor()
    relative = call.step.integers("relative_shape")
    if relative is None and call.step.integer("allowzero"):
        return x.reshape(call.sizes("shape", 1) or [])
    wanted = list(relative) if relative is not None else call.sizes("shape", 1) or []
    if wanted == [0, -1]:
        return x.flatten(1)
    return x.reshape([x.shape[i] if isinstance(size, int) and size == 0 else size for i, size in enumerate(wanted)])


@operator("Flatten")
def _flatten(call: Call) -> Tensor:
    x, axis = call.tensor(), call.step.integer("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    if axis == 1:
        return x.flatten(1) if x.ndim > 1 else x.reshape(-1, 1)
    return x.reshape(math.prod(x.shape[:axis]), -1)


@operator("Transpose")
def _transpose(call: Call) -> Tensor:
    x = call.tensor()
    order = call.step.integers("perm")
    return x.permute(tuple(reversed(range(x.ndim))) if order is None else order)


@operator("Squeeze")
def _squeeze(call: Call) -> Tensor:
    axes = call.sizes("axes", 1)
    return call.tensor().squeeze() if axes is None else call.tensor().squeeze(tuple(axes))


@operator("Unsqueeze")
def _unsqueeze(call: Call) -> Tensor:
    x, axes = call.tensor(), call.sizes("axes", 1) or []
    rank = x.ndim + len(axes)
    for axis in sorted(a % rank for a in axes):
        x = x.unsqueeze(axis)
    return x


@operator("Expand")
def _expand(call: Call) -> Tensor:
    x, wanted = call.tensor(), call.sizes("shape", 1) or []
    rank = max(x.ndim, len(wanted))
    own = [1] * (rank - x.ndim) + list(x.shape)
    wanted = [1] * (rank - len(wanted)) + wanted
    return x.expand([have if want == 1 else want for have, want in zip(own, wanted, strict=True)])


@operator("Tile")
def _tile(call: Call) -> Tensor:
    return call.tensor().repeat(call.sizes("repeats", 1) or [])


@operator("Pad")
def _pad(call: Call) -> Tensor:
    x, mode = call.tensor(), call.step.text("mode", "constant")
    pads = call.sizes("pads", 1) or []
    axes = call.sizes("axes", 3) or list(range(x.ndim))
    before, after = [0] * x.ndim, [0] * x.ndim
    for position, axis in enumerate(axes):
        before[axis], after[axis] = pads[position], pads[position + len(axes)]
    if mode == "constant":
        return F.pad(x, interleave(before, after), value=call.number("value", 2, 0.0))
    names = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    first = next((i for i in range(x.ndim) if before[i] or after[i]), x.ndim)
    if first == x.ndim:
        return x
    if first == 0 or x.ndim > 5:
        raise Unsupported(f"mode {mode} along the batch")
    first = 2 if x.ndim > 2 and first >= 2 else 1
    return F.pad(x, interleave(before[first:], after[first:]), mode=names[mode])


@operator("DepthToSpace")
def _depth_to_space(call: Call) -> Tensor:
    x, size = call.tensor(), call.step.integer("blocksize")
    if call.step.text("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, size)
    n, channels, height, width = x.shape
    x = x.reshape(n, size, size, channels // size**2, height, width).permute(0, 3, 4, 1, 5, 2)
    return x.reshape(n, channels // size**2, height * size, width * size)


@operator("SpaceToDepth")
def _space_to_depth(call: Call) -> Tensor:
    x, size = call.tensor(), call.step.integer("blocksize")
    if call.step.text("mode", "DCR") == "CRD":
        return F.pixel_unshuffle(x, size)
    n, channels, height, width = x.shape
    x = x.reshape(n, channels, height // size, size, width // size, size).permute(0, 3, 5, 1, 2, 4)
    return x.reshape(n, channels * size**2, height // size, width // size)


# --- reductions ------------------------------------------------------------------------------------------------------


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


_REDUCTIONS: Mapping[str, Callable[[Tensor, list[int], bool], Tensor]] = {
    "ReduceMean": lambda x, axes, keep: x.mean(axes, keepdim=keep),
    "ReduceSum": lambda x, axes, keep: x.sum(axes, keepdim=keep, dtype=x.dtype),
    "ReduceMax": lambda x, axes, keep: torch.amax(x, axes, keepdim=keep),
    "ReduceMin": lambda x, axes, keep: torch.amin(x, axes, keepdim=keep),
    "ReduceProd": _product,
    "ReduceL1": lambda x, axes, keep: x.abs().sum(axes, keepdim=keep, dtype=x.dtype),
    "ReduceL2": lambda x, axes, keep: x.square().sum(axes, keepdim=keep).sqrt(),
    "ReduceSumSquare": lambda x, axes, keep: x.square().sum(axes, keepdim=keep, dtype=x.dtype),
    "ReduceLogSum": lambda x, axes, keep: x.sum(axes, keepdim=keep).log(),
    "ReduceLogSumExp": lambda x, axes, keep: torch.logsumexp(x, axes, keepdim=keep),
}


@operator(*_REDUCTIONS)
def _reduce(call: Call) -> Tensor:
    x = call.tensor()
    axes = call.sizes("axes", 1)
    if not axes:
        if call.step.integer("noop_with_empty_axes"):
            return x
        axes = list(range(x.ndim))
    keep = bool(call.step.integer("keepdims", 1))
    return _REDUCTIONS[call.step.operator](x, [a % x.ndim for a in axes], keep) if x.ndim else x


@operator("ArgMax", "ArgMin")
def _arg_extremum(call: Call) -> Tensor:
    x, axis, keep = call.tensor(), call.step.integer("axis"), bool(call.step.integer("keepdims", 1))
    function = torch.argmax if call.step.operator == "ArgMax" else torch.argmin
    if call.step.integer("select_last_index"):
        return x.shape[axis] - 1 - function(x.flip(axis), axis, keepdim=keep)
    return function(x, axis, keepdim=keep)


@operator("TopK")
def _top_k(call: Call) -> tuple[Tensor, ...]:
    k = int(call.array(1).reshape(-1)[0])
    largest = bool(call.step.integer("largest", 1))
    axis = call.step.integer("axis", -1)
    values, indices = torch.sort(call.tensor(), dim=axis, descending=largest, stable=True)
    return values.narrow(axis, 0, k), indices.narrow(axis, 0, k)


# --- resizing --------------------------------------------------------------------------------------------------------


@operator("Resize", "Upsample")
def _resize(call: Call) -> Tensor:
    x, step = call.tensor(), call.step
    scales, sizes = _resize_target(call, x.ndim)
    mode = step.text("mode", "nearest")
    old = step.operator == "Upsample" or step.opset < 11
    transformation = step.text("coordinate_transformation_mode", "asymmetric" if old else "half_pixel")
    rounding = step.text("nearest_mode", "floor" if old else "round_prefer_floor")
    for key, default in (("antialias", "0"), ("keep_aspect_ratio_policy", "stretch"), ("exclude_outside", "0")):
        if step.text(key, default) != default:
            raise Unsupported(f"{key} of {step.text(key)}")
    resized = [i for i in range(x.ndim) if (scales[i] != 1 if scales else sizes[i] != x.shape[i])]
    if not resized:
        return x
    spatial = x.ndim in (3, 4, 5) and min(resized) >= 2
    whole = bool(scales) and all(float(s).is_integer() for s in scales)
    direct = None
    if mode == "nearest" and (
        (transformation == "asymmetric" and rounding == "floor")
        or (whole and transformation == "half_pixel" and rounding.startswith("round_prefer"))
    ):
        direct = "nearest"
    elif mode == "linear" and transformation in ("half_pixel", "align_corners", "pytorch_half_pixel"):
        direct = {3: "linear", 4: "bilinear", 5: "trilinear"}.get(x.ndim)
    elif (
        mode == "cubic"
        and x.ndim == 4
        and transformation in ("half_pixel", "align_corners")
        and math.isclose(step.real("cubic_coeff_a", -0.75), -0.75)
    ):
        direct = "bicubic"
    target = sizes[2:] if sizes else [int(n * s) for n, s in zip(x.shape[2:], scales[2:], strict=True)]
    if transformation == "pytorch_half_pixel" and 1 in target:
        direct = None
    if direct and spatial:
        corners = None if direct == "nearest" else transformation == "align_corners"
        if scales and not corners:
            return F.interpolate(x, scale_factor=list(scales[2:]), mode=direct, align_corners=corners)
        return F.interpolate(x, size=target, mode=direct, align_corners=corners)
    if mode == "cubic":
        raise Unsupported(f"mode cubic with {transformation}")
    for axis in resized:
        size = sizes[axis] if sizes else int(x.shape[axis] * scales[axis])
        scale = scales[axis] if scales else size / x.shape[axis]
        x = _resize_axis(x, axis, size, scale, mode, transformation, rounding)
    return x


def _resize_target(call: Call, rank: int) -> tuple[list[float], list[int]]:
    """Scales, or sizes, one per dimension; the other list is empty."""
    step = call.step
    raw_scales: list[float] = []
    raw_sizes: list[int] = []
    if "scales" in step.attributes:
        raw_scales = [float(s) for s in step.attributes["scales"]]  # type: ignore[union-attr]
    else:
        index = 1 if step.operator == "Upsample" or step.opset < 11 else 2
        if call.has(index) and call.array(index).size:
            raw_scales = call.array(index).reshape(-1).tolist()
        elif call.has(3):
            raw_sizes = call.array(3).reshape(-1).tolist()
    axes = step.integers("axes")
    if axes is not None:
        x = call.tensor()
        if raw_scales:
            full_scales = [1.0] * rank
            for axis, scale in zip(axes, raw_scales, strict=True):
                full_scales[axis] = scale
            raw_scales = full_scales
        else:
            full_sizes = list(x.shape)
            for axis, size in zip(axes, raw_sizes, strict=True):
                full_sizes[axis] = size
            raw_sizes = full_sizes
    return raw_scales, raw_sizes


def _resize_axis(
    x: Tensor, axis: int, size: int, scale: float, mode: str, transformation: str, rounding: str
) -> Tensor:
    """``x`` with ``size`` samples along ``axis``, taken where the coordinates of the outputs fall."""
    have = x.shape[axis]
    output = torch.arange(size, device=x.device, dtype=torch.float32)
    if transformation == "asymmetric":
        place = output / scale
    elif transformation == "align_corners":
        place = output * ((have - 1) / (size - 1)) if size > 1 else output * 0
    elif transformation == "half_pixel" or (transformation == "pytorch_half_pixel" and size > 1):
        place = (output + 0.5) / scale - 0.5
    elif transformation == "pytorch_half_pixel":
        place = output * 0
    else:
        raise Unsupported(f"coordinate_transformation_mode of {transformation}")
    if mode == "nearest":
        functions: Mapping[str, Callable[[Tensor], Tensor]] = {
            "floor": torch.floor,
            "ceil": torch.ceil,
            "round_prefer_floor": lambda p: torch.ceil(p - 0.5),
            "round_prefer_ceil": lambda p: torch.floor(p + 0.5),
        }
        rounded = functions[rounding](place)
        return x.index_select(axis, rounded.clamp(0, have - 1).long())
    place = place.clamp(0, have - 1)
    low = place.floor().long()
    fraction = (place - low).reshape([-1 if i == axis else 1 for i in range(x.ndim)]).to(x.dtype)
    high = (low + 1).clamp(max=have - 1)
    return x.index_select(axis, low) * (1 - fraction) + x.index_select(axis, high) * fraction


# --- sizes -----------------------------------------------------------------------------------------------------------


def size_array(sizes: Sequence[int]) -> Array:
    """Sizes as an array: of int64, or of objects where some are symbols."""
    if all(type(size) is int for size in sizes):
        return np.asarray(sizes, np.int64)
    array = np.empty(len(sizes), object)
    array[:] = list(sizes)
    return array


@on_shapes("Shape")
def _shape(call: Call) -> Array:
    sizes = list(call.values[0].shape)  # type: ignore[union-attr]
    stop = call.step.integer("end", len(sizes))
    return size_array(sizes[call.step.integer("start") : stop])


@on_shapes("Size")
def _size(call: Call) -> Array:
    return size_array([math.prod(call.values[0].shape)]).reshape(())  # type: ignore[union-attr]


@operator("ConstantOfShape")
def _constant_of_shape(call: Call) -> Tensor:
    value = call.step.attributes.get("value", np.zeros(1, np.float32))
    assert isinstance(value, np.ndarray), "the value is a tensor"
    return torch.full(call.sizes("shape", 0) or [], value.reshape(-1)[0].item(), dtype=as_tensor(value).dtype)


@on_shapes("ConstantOfShape")
def _known_constant_of_shape(call: Call) -> Value:
    sizes = call.array(0).reshape(-1).tolist()
    if len(sizes) > 1 or not all(type(size) is int for size in sizes):
        return _constant_of_shape(call)
    value = call.step.attributes.get("value", np.zeros(1, np.float32))
    assert isinstance(value, np.ndarray), "the value is a tensor"
    return np.full(sizes, value.reshape(-1)[0])


@operator("Range")
def _range(call: Call) -> Tensor:
    start, limit, delta = (call.array(i).reshape(-1).tolist()[0] for i in range(3))
    first = call.values[0]
    dtype = torch.float32 if isinstance(first, np.ndarray) and first.dtype.kind == "f" else torch.int64
    return torch.arange(start, limit, delta, dtype=first.dtype if isinstance(first, Tensor) else dtype)


def _each(function: Callable[..., Any], *arrays: Array) -> Array:
    """``function`` of every element, broadcast; Python's own arithmetic, which symbols take part in."""
    spread = np.broadcast_arrays(*arrays)
    flat = [function(*items) for items in zip(*(array.reshape(-1).tolist() for array in spread), strict=True)]
    if all(type(item) is bool for item in flat):
        return np.asarray(flat, bool).reshape(spread[0].shape)
    if all(type(item) is int for item in flat):
        return np.asarray(flat, np.int64).reshape(spread[0].shape)
    if all(type(item) in (int, float) for item in flat):
        return np.asarray(flat, np.float32).reshape(spread[0].shape)
    result = np.empty(len(flat), object)
    result[:] = flat
    return result.reshape(spread[0].shape)


def _quotient(a: Any, b: Any) -> Any:
    if isinstance(a, (float, torch.SymFloat)) or isinstance(b, (float, torch.SymFloat)):
        return a / b
    if type(a) is int and type(b) is int and (a < 0) != (b < 0):
        return -(abs(a) // abs(b))
    return a // b


_SIZE_ARITHMETIC: Mapping[str, Callable[..., Any]] = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "Div": _quotient,
    "Mod": lambda a, b: a % b,
    "Min": lambda *items: _fold(torch.sym_min, items),
    "Max": lambda *items: _fold(torch.sym_max, items),
    "Neg": lambda a: -a,
    "Floor": lambda a: _as_float(math.floor(a)),
    "Ceil": lambda a: _as_float(math.ceil(a)),
    "Equal": lambda a, b: bool(a == b),
    "Greater": lambda a, b: bool(a > b),
    "GreaterOrEqual": lambda a, b: bool(a >= b),
    "Less": lambda a, b: bool(a < b),
    "LessOrEqual": lambda a, b: bool(a <= b),
    "And": lambda a, b: bool(a and b),
    "Or": lambda a, b: bool(a or b),
    "Not": lambda a: not a,
    "Where": lambda condition, a, b: a if condition else b,
}


def _as_float(number: Any) -> Any:
    return float(number) if type(number) in (bool, int, float) else torch.sym_float(number)  # type: ignore[no-untyped-call]


def _as_integer(number: Any) -> Any:
    return int(number) if type(number) in (bool, int, float) else torch.sym_int(number)  # type: ignore[no-untyped-call]


def _fold(function: Callable[[Any, Any], Any], items: Sequence[Any]) -> Any:
    result = items[0]
    for item in items[1:]:
        result = function(result, item)
    return result


@on_shapes(*_SIZE_ARITHMETIC)
def _size_arithmetic(call: Call) -> Array:
    return _each(_SIZE_ARITHMETIC[call.step.operator], *(call.array(i) for i in range(len(call.values))))


@on_shapes("Cast")
def _cast_sizes(call: Call) -> Array:
    dtype = _dtype(call.step.integer("to"))
    if dtype == torch.bool:
        return _each(bool, call.array(0))
    if dtype.is_floating_point:
        return _each(_as_float, call.array(0))
    return _each(_as_integer, call.array(0))


@on_shapes("Identity")
def _same_sizes(call: Call) -> Array:
    return call.array(0)


@on_shapes("Gather")
def _gather_sizes(call: Call) -> Array:
    return np.asarray(np.take(call.array(0), call.array(1).astype(np.int64), call.step.integer("axis")))


@on_shapes("Concat")
def _concat_sizes(call: Call) -> Array:
    return np.concatenate([call.array(i) for i in range(len(call.values))], call.step.integer("axis"))


@on_shapes("Slice")
def _slice_sizes(call: Call) -> Array:
    array = call.array(0)
    index: list[slice] = [slice(None)] * array.ndim
    for axis, start, end, step in _slices(call, array.ndim):
        index[axis] = slice(start, None if step < 0 and end < -array.shape[axis] else end, step)
    return array[tuple(index)]


@on_shapes("Squeeze")
def _squeeze_sizes(call: Call) -> Array:
    axes = call.sizes("axes", 1)
    return np.squeeze(call.array(0), None if axes is None else tuple(axes))


@on_shapes("Unsqueeze")
def _unsqueeze_sizes(call: Call) -> Array:
    return np.expand_dims(call.array(0), tuple(call.sizes("axes", 1) or ()))


@on_shapes("Reshape")
def _reshape_sizes(call: Call) -> Array:
    return call.array(0).reshape([int(size) for size in call.sizes("shape", 1) or []])


@on_shapes("Expand")
def _expand_sizes(call: Call) -> Value:
    sizes = call.sizes("shape", 1) or []
    if not all(type(size) is int for size in sizes):
        return _expand(call)
    array = call.array(0)
    return np.broadcast_to(array, np.broadcast_shapes(array.shape, tuple(sizes)))


@on_shapes("Split")
def _split_sizes(call: Call) -> tuple[Array, ...]:
    array, axis, sizes = call.array(0), call.step.integer("axis"), call.sizes("split", 1)
    parts: int | list[int] = len(call.step.outputs) if sizes is None else [int(n) for n in np.cumsum(sizes)[:-1]]
    return tuple(np.split(array, parts, axis))


@on_shapes("ReduceProd", "ReduceSum", "ReduceMax", "ReduceMin")
def _reduce_sizes(call: Call) -> Array:
    items = call.array(0).reshape(-1).tolist()
    functions: Mapping[str, Callable[[list[Any]], Any]] = {
        "ReduceProd": math.prod,
        "ReduceSum": sum,
        "ReduceMax": lambda a: _fold(torch.sym_max, a),
        "ReduceMin": lambda a: _fold(torch.sym_min, a),
    }
    total = functions[call.step.operator](items)
    keep = bool(call.step.integer("keepdims", 1))
    return _each(lambda a: a, size_array([total])).reshape((1,) * call.array(0).ndim if keep else ())
