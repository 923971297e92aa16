"""What each ONNX operator computes, in torch; and on shapes, in plain integers.

Open Neural Network Exchange, "Operator Schemas", opsets 7 to 23.
"""

from . import (
    activations,
    arithmetic,
    movement,
    normalization,
    products,
    recurrent,
    reductions,
    resizing,
    sizes,
    windows,
)
from .registry import FUNCTIONS, KNOWN_INPUTS, ON_SHAPES, run

__all__ = [
    "FUNCTIONS",
    "KNOWN_INPUTS",
    "ON_SHAPES",
    "activations",
    "arithmetic",
    "movement",
    "normalization",
    "products",
    "recurrent",
    "reductions",
    "resizing",
    "run",
    "sizes",
    "windows",
]
