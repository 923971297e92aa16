"""What TensorRT and TensorRT for RTX share: one API in two libraries, an engine's layers, and a loaded engine."""
