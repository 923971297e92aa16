"""Quantization: which tensors become integers, over which ranges, and a float network that rounds as they do."""

from .encoding import Encoding, IntegerParameters
from .flavour import FLAVOURS, Flavour, FlavourName
from .quantize import Quantize
from .simulate import simulate

__all__ = ["FLAVOURS", "Encoding", "Flavour", "FlavourName", "IntegerParameters", "Quantize", "simulate"]
