"""Compression of trained networks: stages that compose, and the loop that runs and measures them.

>>> from compress import Context, Distill, Fold, Prune, Quantize, run
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .deploy.clock import MachineClock as MachineClock
    from .distill import Distill as Distill
    from .fold import Fold as Fold
    from .pipeline import advance as advance
    from .pipeline import export as export
    from .pipeline import open_network as open_network
    from .pipeline import run as run
    from .pipeline import save as save
    from .prune import Prune as Prune
    from .prune import RemoveBlocks as RemoveBlocks
    from .prune.regularize import Regularize as Regularize
    from .quantize import Quantize as Quantize
    from .recipe import Recipe as Recipe
    from .recipe import preset as preset
    from .share import Share as Share
    from .sources.load import Network as Network
    from .sparsify import Sparsify as Sparsify
    from .stage import Context as Context
    from .stage import Edit as Edit
    from .stage import Result as Result
    from .stage import Skip as Skip
    from .substitute.stage import Substitute as Substitute
    from .tasks.boxes.losses import GridLoss as GridLoss
    from .tasks.built_in.detection import detection as detection
    from .tasks.mean import MeanScore as MeanScore
    from .tasks.task import Score as Score
    from .tasks.task import Task as Task
    from .training.loop import Training as Training

# What is public, and where it lives. Importing `compress` must not import torch: the command line starts at once.
_PUBLIC = {
    "Context": "stage",
    "Distill": "distill",
    "Edit": "stage",
    "Fold": "fold",
    "GridLoss": "tasks.boxes.losses",
    "MachineClock": "deploy.clock",
    "MeanScore": "tasks.mean",
    "Network": "sources.load",
    "Prune": "prune",
    "Quantize": "quantize",
    "Recipe": "recipe",
    "Regularize": "prune.regularize",
    "RemoveBlocks": "prune",
    "Result": "stage",
    "Score": "tasks.task",
    "Share": "share",
    "Skip": "stage",
    "Sparsify": "sparsify",
    "Substitute": "substitute.stage",
    "Task": "tasks.task",
    "Training": "training.loop",
    "advance": "pipeline",
    "detection": "tasks.built_in.detection",
    "export": "pipeline",
    "open_network": "pipeline",
    "preset": "recipe",
    "run": "pipeline",
    "save": "pipeline",
}
__all__ = sorted(_PUBLIC)
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'compress' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_PUBLIC[name]}", __name__), name)
