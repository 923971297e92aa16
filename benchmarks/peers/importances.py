"""Torch-Pruning 1.6.1 on the trained ResNet-20: the networks that its importances make, at a given cost."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.common.cifar10 import CHECKPOINTS
from compress.data import Data
from models import build

WEIGHTS = CHECKPOINTS / "resnet20_cifar10.safetensors"


def baseline() -> nn.Module:
    model = build("resnet20")
    model.load_state_dict(load_file(WEIGHTS))
    return model.eval()


def multiply_adds(model: nn.Module, example: Tensor) -> int:
    """Of convolutions and linear layers for one sample, as :mod:`compress.cost.count` counts them."""
    counts: list[int] = []

    def count(layer: nn.Module, _: Any, output: Tensor) -> None:
        weight = layer.weight
        assert isinstance(weight, Tensor)
        counts.append(output[0].numel() * weight[0].numel())

    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    with torch.no_grad():
        model(example[:1])
    for hook in hooks:
        hook.remove()
    return sum(counts)


def widths(model: nn.Module) -> list[int]:
    return [layer.out_channels for layer in model.modules() if isinstance(layer, nn.Conv2d)]


class TorchPruning:
    """Torch-Pruning's importances on the baseline, with what those that need data have to be given."""

    def __init__(self, data: Data, example: Tensor) -> None:
        import torch_pruning as tp

        self.tp, self.example = tp, example
        self.images, labels = next(data.split("train").batches(1024, shuffle_seed=(0, 0)))
        assert labels is not None
        self.labels = labels
        model = baseline()
        cross_entropy(model(self.images), self.labels).backward()
        self.mean_gradient = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        self.mean_square = {name: torch.zeros_like(g) for name, g in self.mean_gradient.items()}
        samples = 256
        for x, y in zip(self.images[:samples].split(1), self.labels[:samples].split(1), strict=True):
            model.zero_grad()
            cross_entropy(model(x), y).backward()
            for name, p in model.named_parameters():
                if p.grad is not None:
                    self.mean_square[name] += p.grad.square() / samples

    def candidates(self) -> dict[str, Callable[[float], nn.Module]]:
        importance = self.tp.importance
        local: dict[str, Callable[[], Any]] = {
            "L1": lambda: importance.GroupMagnitudeImportance(p=1),
            "L2": lambda: importance.GroupMagnitudeImportance(p=2),
            "BNScale": importance.BNScaleImportance,
            "LAMP": importance.LAMPImportance,
            "FPGM": importance.FPGMImportance,
            "Taylor": importance.GroupTaylorImportance,
            "Hessian": importance.GroupHessianImportance,
            "OBD-C": lambda: importance.OBDCImportance(num_classes=10),
            "Random": importance.RandomImportance,
        }
        made: dict[str, Callable[[float], nn.Module]] = {}
        for name, create in local.items():
            for scope in ("local", "global"):
                # LAMP orders within a layer as L2 does, and random scores know no layer.
                if (name, scope) not in (("LAMP", "local"), ("Random", "global")):
                    made[f"{name} {scope}"] = lambda ratio, c=create, s=scope: self.pruned(c, s, ratio)  # type: ignore[misc]
        return made

    def pruned(self, create: Callable[[], Any], scope: str, ratio: float) -> nn.Module:
        """With the fewest multiply-adds that are not fewer than 1 / ``ratio`` of the baseline's."""
        budget = multiply_adds(baseline(), self.example) / ratio
        low, high = 0.0, 1.0
        best = baseline()
        for _ in range(11):
            middle = (low + high) / 2
            try:
                network = self.at(create, scope, middle)
                cost = multiply_adds(network, self.example)
            except Exception:  # noqa: BLE001 - too high a ratio breaks some networks
                cost = 0
            if cost >= budget:
                low, best = middle, network
            else:
                high = middle
        return best

    def at(self, create: Callable[[], Any], scope: str, channels: float) -> nn.Module:
        """The baseline with the share ``channels`` of its channels removed."""
        random.seed(0)
        torch.manual_seed(0)
        model, importance = baseline(), create()
        kind = type(importance).__name__
        pruner = self.tp.pruner.BasePruner(
            model,
            self.example,
            importance=importance,
            global_pruning=scope == "global",
            pruning_ratio=channels,
            ignored_layers=[model.fc],
        )
        if kind == "GroupTaylorImportance":
            self._give(model, self.mean_gradient)
        elif kind == "GroupHessianImportance":
            # It squares what it is given; its own accumulation keeps only the last sample.
            self._give(model, {name: square.sqrt() for name, square in self.mean_square.items()})
            importance.zero_grad()
            importance.accumulate_grad(model)
        elif kind == "OBDCImportance":
            # Version 1.6.1 fails here on every network without attention.
            pruner._downstream_node_as_root_if_attention = lambda group: group
            importance._prepare_model(model, pruner)
            del pruner._downstream_node_as_root_if_attention
            for x in self.images[:256].split(64):
                logits = model(x)
                labels = torch.multinomial(logits.detach().softmax(1), 1).squeeze(1)
                model.zero_grad()
                cross_entropy(logits, labels).backward()
                importance.step()
        pruner.step()
        if kind == "OBDCImportance":
            importance._rm_hooks(model)
        for parameter in model.parameters():
            parameter.grad = None
        return model.eval()

    @staticmethod
    def _give(model: nn.Module, gradients: dict[str, Tensor]) -> None:
        for name, parameter in model.named_parameters():
            parameter.grad = gradients[name].clone()
