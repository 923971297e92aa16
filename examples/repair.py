"""A repair after pruning in one file: put it in ``compress/prune/repair/`` as ``rescale.py``.

It is then ``--repair rescale`` on the command line, ``repair: [rescale]`` in a recipe and ``Prune(repair=["rescale"])``
in Python.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from compress.core.settings import setting
from compress.prune.repair import Account, Damage, Repair
from compress.stage import Edit


class Rescale(Repair):
    """Make the last layer's weights larger by what its outputs became smaller."""

    most: float = setting(2.0, "The largest factor.", gt=1, le=100)

    place: ClassVar[int] = 30

    def apply(self, damage: Damage) -> Account:
        """The layer that was rescaled."""
        x, _ = next(iter(damage.samples.batches(64)))
        with torch.no_grad():
            before, after = damage.original(x).norm(), damage.pruned.eval()(x).norm()
            factor = min(self.most, float(before / after))
            name, last = [(n, m) for n, m in damage.pruned.named_modules() if isinstance(m, nn.Linear)][-1]
            last.weight.mul_(factor)
        return (Edit(name, "weight", None, f"times {factor:.3g}", "weights"),), ()
