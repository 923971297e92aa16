"""The networks of the zoo as tests want them: narrow, and the fast suite runs one of each family."""

from __future__ import annotations

import inspect
from collections.abc import Collection

import pytest
import torch
from torch import nn

import models
from models import zoo

CLASSIFIERS = tuple(name for name in models.names() if name not in models.detectors())
FAST = frozenset(
    {
        "mobilenet_v1",
        "mobilenet_v2",
        "mobilenet_v3_small",
        "regnet_y_200mf",
        "resnet18_cifar",
        "resnet20",
        "se_resnet18",
        "shufflenet_v1_g3",
        "shufflenet_v2_x1_0",
        "squeezenet_1_1",
        "vgg11_bn",
        "wrn_16_4",
    }
)
"""What is left out is deeper, of a family that is here, or slow to trace."""


def options_of(name: str) -> frozenset[str]:
    """The keywords that the builder of ``name`` takes."""
    return frozenset(inspect.signature(zoo._BUILDERS[name]).parameters)


def small(name: str, **options: object) -> nn.Module:
    """The network at a small width: a builder takes the first stage's channels (int) or a multiplier (float)."""
    width = inspect.signature(zoo._BUILDERS[name]).parameters["width"].default
    narrow = 0.5 if name == "shufflenet_v1_g8" else 0.25  # eight groups of three channels cannot be pruned
    torch.manual_seed(0)
    return models.build(name, width=8 if isinstance(width, int) else narrow, **options)


def every_network(fast: Collection[str] = FAST, without: Collection[str] = ()) -> list[object]:
    """All classifiers but those in ``without``, as parameters of a test; what is not ``fast`` is marked slow."""
    names = [name for name in CLASSIFIERS if name not in without]
    return [pytest.param(name, marks=() if name in fast else pytest.mark.slow) for name in names]
