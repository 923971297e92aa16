"""Vision transformer: Dosovitskiy et al., "An Image is Worth 16x16 Words" (2020), section 3.1, in the size ViT-Ti of
Touvron et al., "Training data-efficient image transformers & distillation through attention" (2020), table 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .zoo import register

_DEPTH, _HEADS, _HEAD = 12, 3, 64
"""Blocks; heads of attention and channels of a head, both of ViT-Ti (192 channels)."""
_MLP_RATIO = 4


class Attention(nn.Module):
    """Attention of tokens to each other: (N, T, C) -> (N, T, C)."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.project = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, _ = x.shape
        query, key, value = self.qkv(x).reshape(n, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        out = functional.scaled_dot_product_attention(query, key, value)
        return self.project(out.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention, then two linear layers, each after its norm and with a shortcut: (N, T, C) -> (N, T, C)."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=1e-6)
        self.attention = Attention(channels, heads)
        self.norm2 = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = nn.Sequential(
            nn.Linear(channels, _MLP_RATIO * channels), nn.GELU(), nn.Linear(_MLP_RATIO * channels, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class VisionTransformer(nn.Module):
    """ViT with a class token and learnt positions: (N, in_channels, S, S) -> (N, num_classes), S = ``image_size``.

    Args:
        width: multiplies the heads (3 in ViT-Ti, at least one is left), each of 64 channels.
        small_images: patches of 4 pixels instead of 16.
        image_size: S; by default 32 with ``small_images`` and 224 without.
    """

    def __init__(
        self,
        width: float = 1.0,
        num_classes: int = 10,
        in_channels: int = 3,
        small_images: bool = True,
        image_size: int | None = None,
    ) -> None:
        super().__init__()
        patch, default = (4, 32) if small_images else (16, 224)
        size = default if image_size is None else image_size
        if size % patch:
            raise ValueError(f"image_size is a multiple of {patch}, not {size}")
        heads = max(1, round(_HEADS * width))
        channels = heads * _HEAD
        self.patches = nn.Conv2d(in_channels, channels, patch, patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, channels))
        self.positions = nn.Parameter(torch.zeros(1, (size // patch) ** 2 + 1, channels))
        self.blocks = nn.Sequential(*(Block(channels, heads) for _ in range(_DEPTH)))
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.head = nn.Linear(channels, num_classes)
        for parameter in (self.class_token, self.positions):
            nn.init.trunc_normal_(parameter, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(tokens.shape[0], -1, -1), tokens], dim=1) + self.positions
        return self.head(self.norm(self.blocks(tokens))[:, 0])  # type: ignore[no-any-return]


register("vit_tiny", VisionTransformer)
