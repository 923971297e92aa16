"""Kernels for layers of 1- and 2-bit weights, in C++, and what compiles them and gives them to ONNX Runtime."""
