"""TensorRT: an ONNX file in its integers becomes an engine, on the device that runs it."""
