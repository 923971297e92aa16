"""An ONNX file as a torch network, so that every stage works on a network whose source is lost.

Nodes with weights become modules (``nn.Conv2d``, ``nn.BatchNorm2d``, ...), the others functions of torch.
Names come from the file alone: the same file gives the same modules and the same ``state_dict`` keys.
"""

from .inputs import example_inputs_of, inputs_of_shapes
from .load import load_onnx
from .network import OnnxNetwork

__all__ = ["OnnxNetwork", "example_inputs_of", "inputs_of_shapes", "load_onnx"]
