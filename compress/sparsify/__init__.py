"""Fine-grained pruning: weights become zero, shapes stay."""

from .sparsify import Sparsify

__all__ = ["Sparsify"]
