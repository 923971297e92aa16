"""OpenVINO: an ONNX file in its integers becomes a network and its weights."""
