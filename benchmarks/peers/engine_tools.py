"""Int8 files as each engine's own quantization tool makes them, from our float file or the same network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.peers.onnxruntime import SETTINGS, prepared, quantized
from runtimes.runtime import load

Tool = Callable[[nn.Module, Path, Sequence[Tensor], Path], list[Path]]


def onnxruntime(_model: nn.Module, plain: Path, samples: Sequence[Tensor], target: Path) -> list[Path]:
    """quantize_static in all of its settings; the fastest is what counts."""
    ready = prepared(plain, target.parent)
    return [
        quantized(ready, target.with_stem(f"{target.stem}-{number}"), [x.numpy() for x in samples], setting)
        for number, setting in enumerate(SETTINGS)
    ]


def litert(_model: nn.Module, plain: Path, samples: Sequence[Tensor], target: Path) -> list[Path]:
    """ai-edge-quantizer, 8-bit weights and activations."""
    from ai_edge_quantizer import quantizer, recipe

    name = load(plain).inputs[0].name
    tool = quantizer.Quantizer(str(plain), recipe.static_wi8_ai8())
    feeds = [{name: x.permute(0, 2, 3, 1).contiguous().numpy()} for x in samples]
    target.write_bytes(tool.quantize(tool.calibrate({"serving_default": feeds})).quantized_model)
    return [target]


def openvino(_model: nn.Module, plain: Path, samples: Sequence[Tensor], target: Path) -> list[Path]:
    """NNCF with its defaults."""
    import nncf
    import openvino as ov

    nncf.set_log_level(40)
    data = nncf.Dataset([x.numpy() for x in samples])
    made = nncf.quantize(ov.Core().read_model(str(plain)), data, subset_size=len(samples))
    ov.save_model(made, target, compress_to_fp16=False)
    return [target]


def executorch(model: nn.Module, _plain: Path, samples: Sequence[Tensor], target: Path) -> list[Path]:
    """PyTorch 2 Export quantization with the XNNPACK backend's own quantizer."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from executorch.exir import to_edge_transform_and_lower
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    one = (samples[0],)
    tool = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    ready = prepare_pt2e(torch.export.export(model, one).module(), tool)
    with torch.no_grad():
        for x in samples:
            ready(x)
    program = torch.export.export(convert_pt2e(ready), one)
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    target.write_bytes(lowered.to_executorch().buffer)
    return [target]


TOOLS: dict[str, tuple[str, Tool]] = {
    "onnx": ("quantize_static", onnxruntime),
    "litert": ("ai-edge-quantizer", litert),
    "openvino": ("NNCF", openvino),
    "executorch": ("XNNPACKQuantizer", executorch),
}
"""By format; ncnn's tool is not in its package."""
