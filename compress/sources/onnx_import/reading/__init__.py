"""What an ONNX file says, and whether it may be said: the graph, weights beside it, limits, half precision."""
