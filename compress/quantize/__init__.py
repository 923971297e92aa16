"""Quantization: which tensors become integers, over which ranges, and a float network that rounds as they do."""

from ..integers.encoding import Encoding, IntegerParameters
from ..integers.simulate import simulate
from ..integers.target import TARGETS, Target, TargetName
from .quantize import Quantize

__all__ = ["TARGETS", "Encoding", "Target", "TargetName", "IntegerParameters", "Quantize", "simulate"]
