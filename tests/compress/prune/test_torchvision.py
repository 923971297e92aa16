"""torchvision's classifiers halve, and compute what the originals do without the channels that are gone.

They come from a folder that EDGEPRESS_PEERS names (make peers); each runs in a process of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

NAMES = """
alexnet convnext_base convnext_small convnext_tiny densenet121 densenet161 densenet169 densenet201 efficientnet_b0
efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnet_b4 efficientnet_b5 efficientnet_b6 efficientnet_b7
efficientnet_v2_l efficientnet_v2_m efficientnet_v2_s googlenet inception_v3 maxvit_t mnasnet0_5 mnasnet0_75
mnasnet1_0 mnasnet1_3 mobilenet_v2 mobilenet_v3_large mobilenet_v3_small regnet_x_16gf regnet_x_1_6gf regnet_x_32gf
regnet_x_3_2gf regnet_x_400mf regnet_x_800mf regnet_x_8gf regnet_y_16gf regnet_y_1_6gf regnet_y_3_2gf regnet_y_400mf
regnet_y_800mf regnet_y_8gf resnet101 resnet152 resnet18 resnet34 resnet50 resnext101_32x8d resnext101_64x4d
resnext50_32x4d shufflenet_v2_x0_5 shufflenet_v2_x1_0 shufflenet_v2_x1_5 shufflenet_v2_x2_0 squeezenet1_0
squeezenet1_1 swin_b swin_s swin_t swin_v2_b swin_v2_s swin_v2_t vgg11 vgg11_bn vgg13 vgg13_bn vit_b_16 vit_b_32
wide_resnet101_2 wide_resnet50_2
""".split()  # noqa: SIM905 - 70 lines otherwise
"""The 70 of torchvision's 80 classifiers that have the fewest parameters."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def examine() -> Callable[[str], dict[str, Any]]:
    """Halves the network of a name in a process of its own."""
    folder = os.environ.get("EDGEPRESS_PEERS")
    if not folder or not (Path(folder) / "torchvision").is_dir():
        pytest.skip("EDGEPRESS_PEERS names no folder with torchvision: make peers")
    from benchmarks.halving.measure import examine, processes

    return partial(examine, processes(folder), "torchvision", pruner="ours")


@pytest.mark.parametrize("name", NAMES)
def test_halves_and_equals_its_masked_self(examine: Callable[[str], dict[str, Any]], name: str) -> None:
    record = examine(name)
    assert record["halved"], record.get("error")
    assert "masking_failed" not in record, record["masking_failed"]
    assert record["masking_error"] <= 1e-8
