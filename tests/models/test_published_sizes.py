"""Networks have the parameters and multiply-adds that are published for them, to the last published digit."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

import pytest
import torch

import models
from compress.cost.count import Cost, cost

IMAGENET, CIFAR = {"num_classes": 1000, "small_images": False}, {"num_classes": 10}
UNITS = {"": 1, "M": 10**6, "G": 10**9}

TORCHVISION = "torchvision 0.28, the table of its weights (num_params and GFLOPS)"
PYCLS = "Radosavovic et al. (2020), figures 15 and 16, and the model zoo of its authors' pycls"
TIMM = "timm, results/benchmark-infer-amp-nhwc-pt240-cu124-rtx4090.csv (its multiply-adds count other operations too)"
SHUFFLENET = "Zhang et al. (2017), table 1, which leaves the classifier out; parameters: megvii-model/ShuffleNet-Series"
CHENYAOFO = "chenyaofo/pytorch-cifar-models, the table for CIFAR-10"
IMGCLSMOB = "osmr/imgclsmob, the table for CIFAR-10 (its multiply-adds count other operations too)"


@dataclass(frozen=True)
class Published:
    """Figures as they are printed; None where a source has none that compares."""

    parameters: str
    macs: str | None
    source: str
    size: int = 224
    fast: bool = False
    without_classifier: bool = False


LARGE = {
    "densenet121": Published("7978856", "2.834 G", TORCHVISION),
    "efficientnet_b0": Published("5288548", "0.386 G", TORCHVISION),
    "ghostnet": Published("5.2 M", "141 M", "Han et al. (2020), table 7"),
    "mobilenet_v1": Published("4.2 M", "569 M", "Howard et al. (2017), table 8"),
    "mobilenet_v2": Published("3504872", "0.301 G", TORCHVISION, fast=True),
    "mobilenet_v3_large": Published("5483032", "0.217 G", TORCHVISION),
    "mobilenet_v3_small": Published("2542856", "0.057 G", TORCHVISION),
    "regnet_x_200mf": Published("2.7 M", "0.2 G", PYCLS),
    "regnet_x_400mf": Published("5.2 M", "0.4 G", PYCLS),
    "regnet_x_800mf": Published("7259656", "0.8 G", TORCHVISION),
    "regnet_y_200mf": Published("3.2 M", "0.2 G", PYCLS),
    "regnet_y_400mf": Published("4344144", "0.402 G", TORCHVISION),
    "regnet_y_800mf": Published("6.3 M", "0.8 G", PYCLS),
    "resnet18": Published("11689512", "1.814 G", TORCHVISION),
    "resnet34": Published("21797672", "3.664 G", TORCHVISION),
    "resnet50": Published("25557032", "4.089 G", TORCHVISION, fast=True),
    "resnet101": Published("44549160", "7.801 G", TORCHVISION),
    "resnet152": Published("60192808", "11.514 G", TORCHVISION),
    "se_resnet18": Published("11.78 M", None, TIMM),
    "se_resnet34": Published("21.96 M", None, TIMM),
    "se_resnet50": Published("28.09 M", "4.1 G", TIMM),
    "se_resnet101": Published("49.33 M", None, TIMM),
    "shufflenet_v1_g1": Published("1531936", "143 M", SHUFFLENET, without_classifier=True),
    "shufflenet_v1_g2": Published("1733848", "140 M", SHUFFLENET, without_classifier=True),
    "shufflenet_v1_g3": Published("1.9 M", "137 M", SHUFFLENET, without_classifier=True, fast=True),
    "shufflenet_v1_g4": Published("1968344", "133 M", SHUFFLENET, without_classifier=True),
    "shufflenet_v1_g8": Published("2.4 M", "137 M", SHUFFLENET, without_classifier=True),
    "shufflenet_v2_x0_5": Published("1366792", "0.04 G", TORCHVISION),
    "shufflenet_v2_x1_0": Published("2278604", "0.145 G", TORCHVISION),
    "shufflenet_v2_x1_5": Published("3503624", "0.296 G", TORCHVISION),
    "shufflenet_v2_x2_0": Published("7393996", "0.583 G", TORCHVISION),
    "squeezenet_1_0": Published("1248424", "0.819 G", TORCHVISION),
    "squeezenet_1_1": Published("1235496", "0.349 G", TORCHVISION, fast=True),
    "vgg11_bn": Published("132868840", "7.609 G", TORCHVISION),
    "vgg13_bn": Published("133053736", "11.308 G", TORCHVISION),
    "vgg16_bn": Published("138365992", "15.470 G", TORCHVISION, fast=True),
    "vgg19_bn": Published("143678248", "19.632 G", TORCHVISION),
    "vit_tiny": Published("5.7 M", "1.3 G", "Wang et al., Pyramid Vision Transformer (2021), table 2: DeiT-Tiny"),
    "wrn_50_2": Published("68883240", "11.398 G", TORCHVISION),
    "xception": Published("22855952", "8.4 G", "Chollet (2017), table 3; multiply-adds: " + TIMM, size=299),
}
SMALL = {
    "densenet_bc_100_12": Published("769162", None, IMGCLSMOB),
    "mobilenet_v2": Published("2.24 M", "87.98 M", CHENYAOFO),
    "resnet20": Published("0.27 M", "40.81 M", CHENYAOFO, fast=True),
    "resnet32": Published("0.47 M", "69.12 M", CHENYAOFO),
    "resnet44": Published("0.66 M", "97.44 M", CHENYAOFO),
    "resnet56": Published("0.86 M", "125.75 M", CHENYAOFO),
    "resnet110": Published("1.7 M", None, "He et al. (2015), table 6"),
    "shufflenet_v2_x0_5": Published("0.35 M", "10.90 M", CHENYAOFO),
    "shufflenet_v2_x1_0": Published("1.26 M", "45.00 M", CHENYAOFO),
    "wrn_16_4": Published("2.7 M", None, "Zagoruyko & Komodakis (2016)"),
    "wrn_28_10": Published("36.5 M", "5.2 G", "Zagoruyko & Komodakis (2016), table 4; multiply-adds: " + IMGCLSMOB),
}


def rounded_like(figure: str, value: int) -> str:
    """``value`` as ``figure`` is printed.

    >>> rounded_like("4.09 G", 4089184256), rounded_like("769162", 769162)
    ('4.09 G', '769162')
    """
    number, _, unit = figure.partition(" ")
    digits = Decimal(value) / UNITS[unit]
    return f"{digits.quantize(Decimal(number), ROUND_HALF_UP)} {unit}".strip()


def measured(name: str, form: dict[str, object], size: int) -> Cost:
    """The cost of the network, which is built without memory for its weights."""
    with torch.device("meta"):
        return cost(models.build(name, **form), (torch.empty(1, 3, size, size),))


def _cases(published: dict[str, Published], form: dict[str, object], size: int | None = None) -> list[object]:
    return [
        pytest.param(name, form, size or row.size, row, id=name, marks=() if row.fast else pytest.mark.slow)
        for name, row in published.items()
    ]


@pytest.mark.parametrize(
    ("name", "form", "size", "published"),
    [*_cases(LARGE, IMAGENET), *_cases(SMALL, CIFAR, size=32)],  # type: ignore[arg-type]
)
def test_costs_what_is_published(name: str, form: dict[str, object], size: int, published: Published) -> None:
    found = measured(name, form, size)
    assert rounded_like(published.parameters, found.params) == published.parameters, published.source
    if published.macs is not None:
        macs = found.macs - (found.layers[-1].macs if published.without_classifier else 0)
        assert rounded_like(published.macs, macs) == published.macs, published.source


@pytest.mark.parametrize(
    ("name", "form", "published"),
    [*((n, IMAGENET, p) for n, p in LARGE.items()), *((n, CIFAR, p) for n, p in SMALL.items())],
)
def test_has_the_parameters_that_are_published(name: str, form: dict[str, object], published: Published) -> None:
    with torch.device("meta"):
        network = models.build(name, **form)
    count = sum(parameter.numel() for parameter in network.parameters())
    assert rounded_like(published.parameters, count) == published.parameters, published.source


def test_every_network_has_a_published_size() -> None:
    forms_of_others = {"resnet18_cifar", "bireal_resnet18_cifar", "bireal_resnet20"}
    own = {"bireal_resnet18", "fcos"}
    assert set(models.names()) - forms_of_others - own == set(LARGE) | set(SMALL)


def test_bireal_net_has_the_memory_of_its_paper() -> None:
    """Liu et al. (2018), table 4: 33.6 Mbit, 3x3 convolutions of one bit; RPReLU is of a later paper."""
    with torch.device("meta"):
        network = models.build("bireal_resnet18")
    bits = 0
    for name, parameter in network.named_parameters():
        if ".act." not in name:
            bits += parameter.numel() * (1 if name.endswith(".conv.weight") else 32)
    buffers = sum(buffer.numel() for name, buffer in network.named_buffers() if "running" in name)
    assert 33.2e6 < bits < 33.65e6 < bits + 32 * buffers < 34e6, "between batch norms of two numbers and of four"


@pytest.mark.slow
def test_squeeze_and_excitation_adds_what_its_paper_says() -> None:
    """Hu et al. (2017), table 2: 3.87 against 3.86 GFLOPs; section 4: about 2.5 million parameters more."""
    with_it, without = (measured(name, IMAGENET, 224) for name in ("se_resnet50", "resnet50"))  # type: ignore[arg-type]
    assert rounded_like("2.5 M", with_it.params - without.params) == "2.5 M"
    assert with_it.macs - without.macs < 0.01e9
