"""The folder of what is compared with: ``make peers``, or

pip install --no-deps --target DIR torchvision==0.28.0 timm==1.0.31 torch-pruning==1.6.1 pillow huggingface-hub

and for NNCF also nncf==3.4.0 ninja openvino-telemetry "pydot<4.0.2" pyparsing tabulate. It is given as ``--peers DIR``
or in the variable EDGEPRESS_PEERS.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click
import torch

OPERATIONS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "roi_align(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width, "
    "int sampling_ratio, bool aligned) -> Tensor",
)
"""What torchvision expects of its binary, which does not load beside a CPU-only torch; classifiers never call it."""

_library: list[torch.library.Library] = []


def make_importable(folder: str | None, *, required: bool = True) -> str | None:
    """Put the folder of the peers on the path, and return it.

    Args:
        folder: as the user gave it; None takes EDGEPRESS_PEERS.
        required: whether a missing folder is an error; otherwise None is returned.

    Raises:
        click.ClickException: there is no such folder, with the line that makes one.
    """
    folder = folder or os.environ.get("EDGEPRESS_PEERS")
    if not folder and not required:
        return None
    if not folder or not Path(folder).is_dir():
        raise click.ClickException(
            f"{folder or 'no --peers DIR'}: expected the folder of what is compared with; make peers, or {__doc__}"
        )
    sys.path.insert(0, str(Path(folder).resolve()))
    if not _library:
        _library.append(torch.library.Library("torchvision", "DEF"))
        for schema in OPERATIONS:
            _library[0].define(schema)
    return folder
