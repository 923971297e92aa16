"""ONNX graphs: reading what is in one, and rewriting it; each file one kind of rewrite."""
