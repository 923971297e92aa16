"""Every network of the zoo, because it is registered."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn

import models
from compress.graph import trace
from models import zoo

torch.set_num_threads(1)

PUBLISHED = {
    # 1000 classes: the figures that come with the reference weights of torchvision, and table 1 of MobileNetV1 (4.2 M)
    ("mobilenet_v1", 1000): 4_231_976,
    ("mobilenet_v2", 1000): 3_504_872,
    ("squeezenet_1_1", 1000): 1_235_496,
    ("shufflenet_v2_x1_0", 1000): 2_278_604,
    # CIFAR-10 forms: He et al. (2015), table 6 gives 0.27 M for the depth of 20; option B adds two 1x1 shortcuts
    ("resnet20", 10): 272_474,
    ("vgg11_bn", 10): 9_231_114,
    ("vgg16_bn", 10): 14_728_266,
    ("vgg19_bn", 10): 20_040_522,
}


def small(name: str, **options: object) -> nn.Module:
    """The network at a small width, where its builder takes a multiplier."""
    width = inspect.signature(zoo._BUILDERS[name]).parameters["width"].default
    torch.manual_seed(0)
    return models.build(name, width=8 if isinstance(width, int) else 0.25, **options)


def test_names_are_sorted_and_unique() -> None:
    names = models.names()
    assert list(names) == sorted(set(names))
    with pytest.raises(ValueError, match="already"):
        zoo.register(names[0], nn.Identity)


def test_an_unknown_name_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="resnet21"):
        models.build("resnet21")


@pytest.mark.parametrize("name", models.names())
def test_gives_one_score_per_class_for_any_channels_of_input(name: str) -> None:
    network = small(name, num_classes=7, in_channels=1).eval()
    scores = network(torch.randn(2, 1, 32, 32))
    assert scores.shape == (2, 7)
    assert torch.isfinite(scores).all()


@pytest.mark.parametrize("name", models.names())
def test_traces_and_every_parameter_is_used(name: str) -> None:
    network = small(name)
    x = torch.randn(2, 3, 32, 32)
    graph = trace(network, (x,), dynamic_batch=True)
    used = {graph.tensor_name(node) for node in graph.nodes if node.users}
    assert {parameter for parameter, _ in network.named_parameters()} <= used
    network.eval()
    more = torch.randn(3, 3, 32, 32)
    torch.testing.assert_close(graph.program.module()(more), network(more))


@pytest.mark.parametrize("name", models.names())
def test_width_makes_it_larger(name: str) -> None:
    parameters = inspect.signature(zoo._BUILDERS[name]).parameters
    wide = models.build(name, width=parameters["width"].default)
    assert _count(wide) > _count(small(name))


@pytest.mark.parametrize(("name", "classes"), PUBLISHED)
def test_parameters_as_published(name: str, classes: int) -> None:
    assert _count(models.build(name, num_classes=classes)) == PUBLISHED[name, classes]


@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v2", "squeezenet_1_1", "shufflenet_v2_x1_0"])
def test_the_form_for_large_images_has_the_same_weights_and_halves_twice_more(name: str) -> None:
    network, large = small(name), small(name, small_images=False)
    assert {k: v.shape for k, v in network.state_dict().items()} == {k: v.shape for k, v in large.state_dict().items()}
    smallest = []
    for net in (network.eval(), large.eval()):
        sizes: list[int] = []
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(lambda _m, _i, out, sizes=sizes: sizes.append(out.shape[-1]))
        net(torch.randn(1, 3, 96, 96))
        smallest.append(min(sizes))
    # 96 pixels: a stem without padding and pools that round up make it 5, not 6, in SqueezeNet
    assert smallest[1] in (smallest[0] // 4, smallest[0] // 4 - 1)


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
