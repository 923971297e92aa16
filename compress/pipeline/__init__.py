"""The loop: a recipe's stages in order, each measured before and after, then the files, then the report."""

from .files import fold_for_export, ready_for_export, wanted
from .gates import check_gates, layers
from .images import sized
from .module import export
from .recipe_run import run
from .saving import save
from .source import open_network
from .step import advance, measure, train

__all__ = [
    "advance",
    "check_gates",
    "export",
    "fold_for_export",
    "layers",
    "measure",
    "open_network",
    "ready_for_export",
    "run",
    "save",
    "sized",
    "train",
    "wanted",
]
