"""Where networks come from, and where they go: the zoo, a user's code, ONNX files, weights, artifacts."""
