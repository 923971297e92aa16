"""Networks of torchvision and timm with random weights, and what they cost; they need the folder of the peers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

CLASSES = 1000
"""Of every network here: the layer with so many outputs is the classifier."""


def torchvision_names(count: int | None = None) -> list[str]:
    """torchvision's classifiers, the smallest first; the ``count`` with the fewest parameters."""
    import torchvision.models as zoo

    def parameters(name: str) -> int:
        return min(int(weights.meta["num_params"]) for weights in zoo.get_model_weights(name))

    return sorted(zoo.list_models(module=zoo), key=parameters)[:count]


def torchvision_network(name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A network with random weights, in evaluation mode, and an example input (1, 3, H, W)."""
    import torchvision.models as zoo

    options: dict[str, Any] = {"weights": None}
    if name in ("googlenet", "inception_v3"):
        options |= {"init_weights": False, "aux_logits": False}
    with _without_initialization():
        model = zoo.get_model(name, **options)
    size = 299 if "inception" in name else 224
    return _settled(randomized(model), (3, size, size))


def timm_network(name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """As :func:`torchvision_network`, of timm's networks."""
    import timm

    with _without_initialization():
        model = timm.create_model(name, pretrained=False)
    return _settled(randomized(model), model.default_cfg["input_size"])


def network(zoo: str, name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A network of "torchvision" or "timm"."""
    return torchvision_network(name) if zoo == "torchvision" else timm_network(name)


def _settled(model: nn.Module, shape: tuple[int, ...]) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The network and an example input; the statistics of its batch norms are near those of what really flows there, so
    that signals neither explode nor vanish in deep networks.
    """
    generator = torch.Generator().manual_seed(1)
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    kept = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 0.9
    if norms:
        with torch.no_grad():
            model(torch.randn(2, *shape, generator=generator))
    for norm, momentum in zip(norms, kept, strict=True):
        norm.eval()
        norm.momentum = momentum
    return model, (torch.randn(1, *shape, generator=generator),)


class _without_initialization:  # noqa: N801
    """The large draws of constructors take longer than pruning; everything is drawn again afterwards."""

    names = ("kaiming_normal_", "kaiming_uniform_", "normal_", "trunc_normal_", "uniform_", "xavier_uniform_")

    def __enter__(self) -> None:
        self.kept = {name: getattr(nn.init, name) for name in self.names}
        for name in self.names:
            setattr(nn.init, name, lambda tensor, *_, **__: tensor)

    def __exit__(self, *_: object) -> None:
        for name, function in self.kept.items():
            setattr(nn.init, name, function)


def randomized(model: nn.Module, seed: int = 0) -> nn.Module:
    """``model`` in evaluation mode with all weights, scales and statistics at random, so that no zero or one (of a
    batch norm, a layer scale, a zero-initialized head) hides a wrong channel. In place.
    """
    generator = torch.Generator().manual_seed(seed)
    model.eval()
    with torch.no_grad():
        for module in model.modules():
            for name, tensor in module.named_parameters(recurse=False):
                if tensor.ndim >= 2:
                    fan_in = max(1, tensor[0].numel()) if name.endswith("weight") else 4
                    tensor.normal_(0.0, (2.0 / fan_in) ** 0.5, generator=generator)
                elif name.endswith("bias"):
                    tensor.normal_(0.0, 0.1, generator=generator)
                else:
                    tensor.uniform_(0.5, 1.5, generator=generator)
            for name, buffer in module.named_buffers(recurse=False):
                if name == "running_mean":
                    buffer.normal_(0.0, 0.1, generator=generator)
                elif name == "running_var":
                    buffer.uniform_(0.5, 1.5, generator=generator)
    return model


def parameters(model: nn.Module) -> int:
    """The number of parameters, shared ones once."""
    return sum(p.numel() for p in model.parameters())


def macs(model: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    """Multiply-adds of convolutions and matrix products, those of attention too, as PyTorch's own counter sees them."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    learning = [p for p in model.parameters() if p.requires_grad]
    for parameter in learning:  # the counter hooks what learns, which fails on views made without gradients
        parameter.requires_grad_(False)
    try:
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            model(*inputs)
        return int(counter.get_total_flops()) // 2
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for parameter in learning:
            parameter.requires_grad_(True)
