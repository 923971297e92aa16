"""Edits of an ONNX graph in place: integers, kernels that engines know, float16, inputs and outputs."""
