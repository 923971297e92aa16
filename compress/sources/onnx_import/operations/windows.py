"""Convolution and pooling; a convolution is a module where the weights are in the file, else a function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - as everyone calls it
from torch import Tensor, nn

from ..step import Call, Step, Unsupported
from .registry import operator


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
            return call.through()
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
        y = call.through()
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
    if min(before + after, default=0) < 0:
        raise Unsupported(f"pads of {before + after}")
    if _fits(before, after, kernel):
        return function(x, kernel, stride, tuple(before), dilation, ceil_mode=ceil)
    # Torch pads both sides alike, and never yields the fill. What its windows have too many is cut off.
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    axes = list(zip(x.shape[2:], before, after, stride, reach, strict=True))
    wanted = [_windows(*axis, ceil) for axis in axes]
    pads = [_even_pad(axis, k, count) for axis, k, count in zip(axes, kernel, wanted, strict=True)]
    first = [0] * len(kernel)
    if None not in pads:
        even = [pad or 0 for pad in pads]
        first = [(pad - b) // s for pad, b, s in zip(even, before, stride, strict=True)]
        y = function(x, kernel, stride, tuple(even), dilation, ceil_mode=True)
    elif set(dilation) == {1} and all(p < k for p, k in zip(before + after, (*kernel, *kernel), strict=True)):
        # A window that sees padding sees the element at the border as well: its copies change no maximum.
        full = F.pad(x, interleave(before, after), mode="replicate")
        y = function(full, kernel, stride, 0, dilation, ceil_mode=ceil)
    else:
        for axis, (start, k, s, d, count) in enumerate(zip(before, kernel, stride, dilation, wanted, strict=True), 2):
            taps = _taps(x.shape[axis], start, k, s, d, count)
            x = x.index_select(axis, torch.tensor(taps, device=x.device))
        y = function(x, kernel, kernel)
    for axis, (start, count) in enumerate(zip(first, wanted, strict=True), start=2):
        y = y if y.shape[axis] == count else y.narrow(axis, start, count)
    return y


def _taps(size: int, before: int, kernel: int, stride: int, dilation: int, count: int) -> list[int]:
    """What each of ``count`` windows sees along a dimension, window by window.

    In the place of padding is the nearest element that the same window sees: it changes no maximum.
    """
    taps = []
    for start in range(-before, count * stride - before, stride):
        window = [start + i * dilation for i in range(kernel)]
        inside = [i for i in window if 0 <= i < size]
        if not inside:
            raise Unsupported("a window that sees nothing but padding")
        taps += [min(max(i, inside[0]), inside[-1]) for i in window]
    return taps


def _even_pad(axis: tuple[int, int, int, int, int], kernel: int, wanted: int) -> int | None:
    """A padding of both sides whose windows, rounded up in number, have all that are ``wanted`` among them.

    None where torch, which pads half a kernel at most, has none.
    """
    size, before, _, stride, reach = axis
    for pad in range(before, kernel // 2 + 1, stride):
        if _windows(size, pad, pad, stride, reach, True) - (pad - before) // stride >= wanted:
            return pad
    return None


def _windows(size: int, before: int, after: int, stride: int, reach: int, ceil: bool) -> int:
    """How many windows there are; with ``ceil`` also a last one that begins before the padding and ends behind it."""
    rest = size + before + after - reach
    if not ceil:
        return rest // stride + 1
    count = -(-rest // stride) + 1
    return count - 1 if (count - 1) * stride >= size + before else count


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
    axes = zip(x.shape[2:], before, after, stride, kernel, strict=True)
    # The last window may reach behind the padding; what it sees there is in no mean.
    behind = [max((_windows(*axis, ceil) - 1) * axis[3] + axis[4] - sum(axis[:3]), 0) if ceil else 0 for axis in axes]
    pads, rest = interleave(before, after), interleave([0] * len(kernel), behind)
    mean = function(F.pad(F.pad(x, pads), rest), kernel, stride)
    if count_pad and not any(behind):
        return mean
    counted = torch.ones_like(x)
    counted = F.pad(F.pad(counted, pads, value=float(count_pad)), rest)
    return mean / function(counted, kernel, stride)


@operator("GlobalAveragePool")
def _global_average_pool(call: Call) -> Tensor:
    x = call.tensor()
    functions: Mapping[int, Callable[..., Tensor]] = {
        3: F.adaptive_avg_pool1d,
        4: F.adaptive_avg_pool2d,
        5: F.adaptive_avg_pool3d,
    }
    if x.ndim not in functions:
        return x.mean(list(range(2, x.ndim)), keepdim=True) if x.ndim > 2 else x
    return functions[x.ndim](x, 1)


@operator("GlobalMaxPool")
def _global_max_pool(call: Call) -> Tensor:
    x = call.tensor()
    return torch.amax(x, list(range(2, x.ndim)), keepdim=True) if x.ndim > 2 else x
