"""SE-ResNet: Hu et al., "Squeeze-and-Excitation Networks" (2017), figure 3 and table 1.

A ResNet whose branches end with squeeze-and-excitation, before the sum, with the paper's reduction of 16.
"""

from __future__ import annotations

from functools import partial

from .resnet import ResNet
from .zoo import register

_REDUCTION = 16

for _depth in (18, 34, 50, 101):
    register(f"se_resnet{_depth}", partial(ResNet, _depth, reduction=_REDUCTION))
