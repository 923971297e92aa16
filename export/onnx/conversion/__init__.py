"""A traced program as an ONNX graph: marks that survive, and the translations of ``torch.onnx``."""
