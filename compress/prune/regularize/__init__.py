"""Training that makes channels unimportant, so that pruning finds them."""

from .stage import Regularize

__all__ = ["Regularize"]
