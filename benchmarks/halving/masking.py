"""Whether a pruned network computes what the original does without the removed channels, told from the edits alone."""

from __future__ import annotations

import copy
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from compress.stage import Result

PER_CHANNEL = (nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._BatchNorm, nn.Embedding, nn.MultiheadAttention)


class Within(nn.Module):
    """A normalization over channels that sees those that stay: taken out, normalized, put back among zeros."""

    def __init__(self, small: nn.Module, kept: tuple[int, ...], channels: int) -> None:
        super().__init__()
        self.small, self.kept, self.channels = small, torch.tensor(kept), channels

    def forward(self, x: Tensor, *rest: Any) -> Tensor:
        axes = [d for d in range(1, x.ndim) if x.shape[d] == self.channels]
        first = type(self.small).__name__.endswith("2d") or isinstance(self.small, nn.GroupNorm)
        axis = axes[0] if first else axes[-1]
        normalized = self.small(x.index_select(axis, self.kept), *rest)
        return torch.zeros_like(x).index_copy(axis, self.kept, normalized)


def masked(model: nn.Module, result: Result) -> nn.Module:
    """A copy of ``model`` in float64 in which the removed channels are produced as zeros and consumed by zeros."""
    model = copy.deepcopy(model).double().eval()
    of_layer: dict[str, list[Any]] = defaultdict(list)
    for edit in result.edits:
        if edit.kind == "tensor" and edit.kept is not None:
            of_layer[edit.layer].append(edit)
    with torch.no_grad():
        for layer, edits in of_layer.items():
            for edit in edits:
                tensor = getattr(model.get_submodule(layer), edit.what)
                assert edit.axis is not None and edit.kept is not None
                gone = sorted(set(range(tensor.shape[edit.axis])) - set(edit.kept))
                if edit.what != "running_var":
                    tensor.index_fill_(edit.axis, torch.tensor(gone), 0)
    for layer, edits in of_layer.items():
        module = model.get_submodule(layer)
        if layer and not isinstance(module, PER_CHANNEL) and not list(module.children()):
            scales = [e for e in edits if len(e.before) == 1]
            if scales and ("Norm" in type(module).__name__ or "RMS" in type(module).__name__):
                small = copy.deepcopy(result.model.get_submodule(layer)).double()
                parent, _, name = layer.rpartition(".")
                setattr(model.get_submodule(parent), name, Within(small, scales[0].kept, scales[0].before[0]))
    return model


def masking_error(model: nn.Module, result: Result, inputs: tuple[Tensor, ...]) -> float:
    """The largest difference between the pruned network and the masked one, relative to the largest output, float64."""
    generator = torch.Generator().manual_seed(7)
    x = tuple(torch.randn(i.shape, generator=generator, dtype=torch.float64) for i in inputs)
    with torch.no_grad():
        expected = [leaf for leaf in tree_leaves(masked(model, result)(*x)) if isinstance(leaf, Tensor)]
        found = [leaf for leaf in tree_leaves(copy.deepcopy(result.model).double()(*x)) if isinstance(leaf, Tensor)]
    worst = 0.0
    for a, b in zip(found, expected, strict=True):
        scale = float(b.abs().max())
        if not scale > 0 or not float(b.std()) > 1e-12 * scale:
            raise RuntimeError("its outputs are constant: the comparison would see nothing")
        worst = max(worst, float((a - b).abs().max()) / scale)
    return worst
