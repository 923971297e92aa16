"""How a training computes here: in which precision, and with which order of images and weights in memory.

Both depend on the processor. Without instructions for bfloat16, torch sends the backward pass of convolutions in
bfloat16 to a reference kernel that is hundreds of times slower; without AVX-512, oneDNN has a backward pass that
writes out of bounds.
"""

from __future__ import annotations

import platform
from typing import Literal

import torch
from torch import Tensor, nn

from ..siblings import runtimes

Precision = Literal["fp32", "bf16"]
BFLOAT16 = {"x86": ("avx512_bf16", "amx_bf16"), "arm": ("bf16",)}
"""The instruction sets with products of bfloat16, as Linux names them."""
SAFE_CHANNELS = 8
"""A strided 1x1 convolution with fewer input channels than this may write out of bounds with channels last."""


def training_device(accelerator: Literal["auto", "cpu", "cuda"] = "auto") -> Literal["cpu", "cuda"]:
    """The kind of device on which a training with this accelerator runs."""
    return "cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu"


def native_bfloat16(device: Literal["cpu", "cuda"]) -> bool:
    """Whether ``device`` multiplies bfloat16 by instructions of its own, under the limits that the environment sets.

    A GPU is asked through torch. Of a CPU, the system tells the instruction sets, and ``ONEDNN_MAX_CPU_ISA`` and
    torch's own capability tell whether torch may use them.
    """
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    present = runtimes.processor.flags() or ()
    if platform.machine().lower() in ("aarch64", "arm64"):
        return any(name in present for name in BFLOAT16["arm"])
    capability = torch.backends.cpu.get_cpu_capability()
    allowed: bool = runtimes.processor.onednn_allows("BF16", "AMX")
    return allowed and capability.startswith("AVX512") and any(name in present for name in BFLOAT16["x86"])


def precision_on(device: Literal["cpu", "cuda"], asked: Literal["auto", "fp32", "bf16"] = "auto") -> Precision:
    """The precision of a training: the one asked for, or bf16 where the device has it and fp32 elsewhere."""
    if asked != "auto":
        return asked
    return "bf16" if native_bfloat16(device) else "fp32"


def memory_format_of(model: nn.Module, device: Literal["cpu", "cuda"]) -> torch.memory_format:
    """The order of images and weights in memory in which ``model`` trains fast and safely.

    Channels last, but not where a CPU would train a strided 1x1 convolution of few channels: on processors without
    AVX-512, oneDNN 3 writes the gradient of its input past the end.
    """
    if device == "cpu":
        for module in model.modules():
            if (
                isinstance(module, nn.Conv2d)
                and set(module.kernel_size) == {1}
                and max(module.stride) > 1
                and module.in_channels // module.groups < SAFE_CHANNELS
            ):
                return torch.contiguous_format
    return torch.channels_last


def arranged(x: Tensor, order: torch.memory_format) -> Tensor:
    """``x`` in this order in memory; the tensor itself where it lies so already, or is no image (N, C, H, W).

    Where an axis has one entry, ``Tensor.contiguous`` takes either order for the other, while convolutions go by the
    strides: here it is the strides that count.
    """
    if x.ndim != 4 or x.stride() == torch.empty(x.shape, device="meta", memory_format=order).stride():
        return x
    return torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=order).copy_(x)


def arrange(model: nn.Module, order: torch.memory_format) -> None:
    """Put the weights of convolutions, in place, into this order in memory."""
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = arranged(tensor.data, order)
