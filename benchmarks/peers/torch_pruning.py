"""Torch-Pruning 1.6.1 as its own examples use it."""

from __future__ import annotations

import types
from typing import Any

from torch import Tensor, nn

from benchmarks.peers.networks import CLASSES


def torch_pruning(
    model: nn.Module, inputs: tuple[Tensor, ...], *, ratio: float, round_to: int | None = None
) -> nn.Module:
    """``model``, pruned in place by Torch-Pruning as its own examples do (torchvision_pruning.py and
    prune_timm_models.py at commit e80127d): the classifier is ignored, attention is told its heads, and what the
    forward code holds as numbers is put right afterwards.
    """
    import torch_pruning as tp

    network: Any = model
    modules: list[Any] = list(model.modules())
    num_heads: dict[nn.Module, int] = {}
    channel_groups: dict[nn.Module, int] = {}
    for module in modules:
        if isinstance(module, nn.MultiheadAttention):
            channel_groups[module] = module.num_heads
        elif isinstance(getattr(module, "qkv", None), nn.Linear) and isinstance(
            getattr(module, "num_heads", None), int
        ):
            num_heads[module.qkv] = module.num_heads
    ignored = [m for m in modules if CLASSES in (getattr(m, "out_features", 0), getattr(m, "out_channels", 0))]
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
    for module in modules:
        if getattr(module, "qkv", None) in num_heads:
            module.num_heads = pruner.num_heads[module.qkv]
            if hasattr(module, "head_dim"):
                module.head_dim = module.qkv.out_features // (3 * module.num_heads)
            if type(module).__module__.startswith("timm."):
                _follow_heads(module)
    if type(model).__name__ == "VisionTransformer" and type(model).__module__.startswith("torchvision."):
        network.hidden_dim = network.conv_proj.out_channels
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
