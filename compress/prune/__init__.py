"""Structured pruning through a graph of channel dependencies."""

from .prune import Prune

__all__ = ["Prune"]
