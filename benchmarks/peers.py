"""The networks and the pruner that the benchmarks compare with, from a folder of their own:

pip install --no-deps --target DIR torchvision==0.28.0 timm==1.0.31 torch-pruning==1.6.1 pillow huggingface-hub

The folder is given as ``--peers DIR`` or in the variable EDGEPRESS_PEERS.
"""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

OPERATIONS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "roi_align(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width, "
    "int sampling_ratio, bool aligned) -> Tensor",
)
"""What torchvision expects of its binary, which does not load beside a CPU-only torch; classifiers never call it."""

CLASSES = 1000
"""Of every network here: the layer with so many outputs is the classifier."""

_library: list[torch.library.Library] = []


def make_importable(folder: str | None) -> str:
    """The folder of the peers, which is put on the path. Exits with one line where there is no such folder."""
    folder = folder or os.environ.get("EDGEPRESS_PEERS")
    if not folder or not (Path(folder) / "torchvision").is_dir():
        sys.exit(f"{folder or 'no --peers DIR'}: expected a folder with torchvision, timm and torch_pruning; {__doc__}")
    sys.path.insert(0, str(Path(folder).resolve()))
    if not _library:
        _library.append(torch.library.Library("torchvision", "DEF"))
        for schema in OPERATIONS:
            _library[0].define(schema)
    return folder


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
            for name, tensor in module.named_buffers(recurse=False):
                if name == "running_mean":
                    tensor.normal_(0.0, 0.1, generator=generator)
                elif name == "running_var":
                    tensor.uniform_(0.5, 1.5, generator=generator)
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


def torch_pruning(
    model: nn.Module, inputs: tuple[Tensor, ...], *, ratio: float, round_to: int | None = None
) -> nn.Module:
    """``model``, pruned in place by Torch-Pruning as its own examples do (torchvision_pruning.py and
    prune_timm_models.py at commit e80127d): the classifier is ignored, attention is told its heads, and what the
    forward code holds as numbers is put right afterwards.
    """
    import torch_pruning as tp

    num_heads: dict[nn.Module, int] = {}
    channel_groups: dict[nn.Module, int] = {}
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            channel_groups[module] = module.num_heads
        elif isinstance(getattr(module, "qkv", None), nn.Linear) and isinstance(
            getattr(module, "num_heads", None), int
        ):
            num_heads[module.qkv] = module.num_heads
    ignored = [m for m in model.modules() if CLASSES in (getattr(m, "out_features", 0), getattr(m, "out_channels", 0))]
    pruner = tp.pruner.BasePruner(
        model,
        inputs[0],
        importance=tp.importance.GroupMagnitudeImportance(),
        global_pruning=False,
        pruning_ratio=ratio,
        round_to=round_to,
        ignored_layers=ignored,
        num_heads=num_heads,
        out_channel_groups=channel_groups,
    )
    for group in pruner.step(interactive=True):
        group.prune()
    for module in model.modules():
        if getattr(module, "qkv", None) in num_heads:
            module.num_heads = pruner.num_heads[module.qkv]
            if hasattr(module, "head_dim"):
                module.head_dim = module.qkv.out_features // (3 * module.num_heads)
            if type(module).__module__.startswith("timm."):
                _follow_heads(module)
    if type(model).__name__ == "VisionTransformer" and type(model).__module__.startswith("torchvision."):
        model.hidden_dim = model.conv_proj.out_channels
    return model


def _follow_heads(module: Any) -> None:
    """The forward of attention that follows its heads, which Torch-Pruning's example for timm puts in."""
    from timm.models.vision_transformer import Attention

    if type(module) is not Attention:
        return

    def forward(self: Any, x: Tensor, *_: Any, **__: Any) -> Tensor:
        assert not any(option is not None and option is not False for option in (*_, *__.values()))
        n, length = x.shape[:2]
        qkv = self.qkv(x).reshape(n, length, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        q, k = self.q_norm(q) * self.scale, self.k_norm(k)
        x = (q @ k.transpose(-2, -1)).softmax(dim=-1) @ v
        x = x.transpose(1, 2).reshape(n, length, -1)
        return self.proj(self.norm(x) if hasattr(self, "norm") else x)  # type: ignore[no-any-return]

    module.forward = types.MethodType(forward, module)
