"""Layers of 1- and 2-bit weights, and integers of fewer than 8 bits, in an ONNX file."""
