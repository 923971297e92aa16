"""A whole ONNX graph in float16, for engines in which the file's own types decide what is computed."""

from __future__ import annotations

import onnx
from onnx import ModelProto


def in_half(model: ModelProto) -> ModelProto:
    """``model`` with weights and arithmetic in float16; inputs and results stay float32, converted by Cast.

    Operations that have no float16 form keep float32 between casts. A strongly typed TensorRT network (its only kind
    from version 11 on) computes as the file says, so that this is what makes it run in half precision.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    made = OnnxModel(convert_float_to_float16(model, keep_io_types=True))
    made.topological_sort()
    assert isinstance(made.model, onnx.ModelProto)
    return made.model
