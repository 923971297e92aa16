"""Every network of the zoo, because it is registered."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import models
from compress.graph.trace import trace
from models import zoo
from tests.support.zoo_networks import CLASSIFIERS, FAST, every_network, options_of, small

torch.set_num_threads(1)

CIFAR_ONLY = {"resnet20", "resnet32", "resnet44", "resnet56", "resnet110", "resnet18_cifar", "wrn_16_4", "wrn_28_10"}
SAME_WEIGHTS = (
    *("efficientnet_b0", "ghostnet", "mobilenet_v1", "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small"),
    *("regnet_x_200mf", "regnet_y_200mf", "shufflenet_v1_g3", "shufflenet_v2_x1_0", "squeezenet_1_1", "xception"),
)
"""Networks whose two forms differ in strides and poolings alone."""


def test_names_are_sorted_and_unique() -> None:
    names = models.names()
    assert list(names) == sorted(set(names))
    assert set(names) >= FAST | CIFAR_ONLY | set(SAME_WEIGHTS)
    with pytest.raises(ValueError, match="already"):
        zoo.register(names[0], nn.Identity)


def test_an_unknown_name_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="resnet21"):
        models.build("resnet21")


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_builders_take_the_same_options(name: str) -> None:
    assert options_of(name) >= {"width", "num_classes", "in_channels"}
    assert ("small_images" in options_of(name)) == (name not in CIFAR_ONLY)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_gives_one_score_per_class_for_any_channels_of_input(name: str) -> None:
    sizes = {32: {}} if name in CIFAR_ONLY else {32: {"small_images": True}, 224: {"small_images": False}}
    for size, form in sizes.items():
        assert models.input_shape(name, in_channels=1, **form) == (1, size, size)
        network = small(name, num_classes=7, in_channels=1, **form).eval()
        with torch.no_grad():
            scores = network(torch.randn(2, 1, size, size))
        assert scores.shape == (2, 7)
        assert torch.isfinite(scores).all()
        assert not torch.equal(scores[0], scores[1])


@pytest.mark.parametrize("name", every_network())
def test_traces_for_any_batch_and_every_parameter_is_used(name: str) -> None:
    network = small(name)
    x = torch.randn(2, 3, 32, 32)
    graph = trace(network, (x,), dynamic_batch=True)
    assert graph.unused == ()
    network.eval()
    more = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(graph.program.module()(more), network(more))


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_width_makes_it_larger(name: str) -> None:
    with torch.device("meta"):
        wide, narrow = models.build(name), small(name)
    assert sum(p.numel() for p in wide.parameters()) > sum(p.numel() for p in narrow.parameters())


@pytest.mark.parametrize("name", SAME_WEIGHTS)
def test_the_form_for_large_images_has_the_same_weights_and_halves_twice_more(name: str) -> None:
    network, large = small(name), small(name, small_images=False)
    assert {k: v.shape for k, v in network.state_dict().items()} == {k: v.shape for k, v in large.state_dict().items()}
    small_sizes, large_sizes = _sizes(network), _sizes(large)
    # stems without padding and pools that round up give up to one row less or more at each of five halvings
    assert abs(large_sizes[-1] - small_sizes[-1] / 4) <= 1
    assert small_sizes[0] in (95, 96)
    assert large_sizes[0] in (47, 48)


def _sizes(network: nn.Module) -> list[int]:
    """Rows of what each convolution gives for 96 rows, those of pooled averages left out."""
    sizes: list[int] = []

    def note(_module: nn.Module, _inputs: tuple[Tensor, ...], out: Tensor) -> None:
        if out.shape[-1] > 1:
            sizes.append(out.shape[-1])

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(note)
    with torch.no_grad():
        network.eval()(torch.randn(1, 3, 96, 96))
    return sizes


def test_resnet18_cifar_is_the_form_of_resnet18_for_small_images() -> None:
    fixed, chosen = small("resnet18_cifar").eval(), small("resnet18", small_images=True).eval()
    chosen.load_state_dict(fixed.state_dict())
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(fixed(x), chosen(x))
    stem = fixed.get_submodule("conv1")
    assert isinstance(stem, nn.Conv2d)
    assert (stem.kernel_size, stem.stride) == ((3, 3), (1, 1))
    assert not [module for module in fixed.modules() if isinstance(module, nn.MaxPool2d)]


@pytest.mark.parametrize(("name", "message"), [("resnet20", "6n"), ("wrn_28_10", "6n"), ("vit_tiny", "multiple")])
def test_sizes_that_the_papers_exclude_are_errors(name: str, message: str) -> None:
    options = {"image_size": 30} if name == "vit_tiny" else {}
    builder = zoo._BUILDERS[name]
    with pytest.raises(ValueError, match=message):
        builder(**options) if options else builder.func(21, width=8)  # type: ignore[attr-defined]


def test_vision_transformer_for_other_sizes_of_images() -> None:
    network = small("vit_tiny", image_size=48).eval()
    assert network(torch.randn(1, 3, 48, 48)).shape == (1, 10)
