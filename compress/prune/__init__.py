"""Structured pruning: channels through the graph of their dependencies, and whole residual blocks."""

from .blocks import RemoveBlocks
from .prune import Prune

__all__ = ["Prune", "RemoveBlocks"]
