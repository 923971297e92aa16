"""What a stage did to a network, edit by edit, and what it left alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

EditKind = Literal["attribute", "tensor", "module", "precision", "weights"]


@dataclass(frozen=True)
class Edit:
    """One thing that a stage changed in a network.

    ``kind`` says how the edit is replayed on a freshly built network:

    - ``attribute``: ``layer.what = after``, as in ``("layer1.0.conv1", "out_channels", 16, 10)``;
    - ``tensor``: the parameter or buffer ``layer.what`` has the shape ``after``, where ``before`` was; along dimension
      ``axis`` the indices ``kept`` stay. Where ``before`` is None the tensor is new (a bias from folding), and where
      ``after`` is None it is gone;
    - ``module``: the module ``layer`` was a ``before`` and is an ``after`` ("Identity");
    - ``precision``: the tensor ``layer.what`` is held in ``after`` ("int8") in the exported file, nothing to replay;
    - ``weights``: values changed, shapes did not, nothing to replay.
    """

    layer: str
    what: str
    before: object
    after: object
    kind: EditKind = "attribute"
    axis: int | None = None
    kept: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Skip:
    """A layer that a stage left alone, and why."""

    layer: str
    reason: str
