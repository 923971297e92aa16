"""How a layer rounds what it reads to signs or to few steps. In evaluation these are plain operations of torch, so that
a network traces, converts and runs in any engine; gradients are those of the papers.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from .learned_scales import TINY, gradient_factor, lsq


def signs(x: Tensor, threshold: Tensor, *, training: bool) -> Tensor:
    """1 where ``x`` reaches ``threshold``, -1 elsewhere; in training with the gradient of Bi-Real Net.

    Liu et al., "Bi-Real Net" (2018), equation 7: sign is differentiated as the piecewise polynomial whose slope is
    ``2 - 2 |x|`` between -1 and 1, and 0 elsewhere. The threshold is that of RSign (Liu et al., "ReActNet", 2020,
    equation 3), with the gradient of ``-x``.
    """
    if not training:
        return torch.where(x >= threshold, 1.0, -1.0)
    found: Tensor = _Sign.apply(x - threshold)  # type: ignore[no-untyped-call]
    return found


class _Sign(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Any:
        ctx.save_for_backward(x)
        return (x >= 0).to(x.dtype).mul_(2).sub_(1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return x.abs().mul_(-2).add_(2).clamp_min_(0).mul_(gradients[0])


class Sign(nn.Module):
    """Signs of (N, C, ...) or (..., C), about a threshold for each channel that is learnt.

    Args:
        channels: of what is rounded.
        last: channels are the last dimension, as linear layers read them.
    """

    def __init__(self, channels: int, last: bool = False) -> None:
        super().__init__()
        self.last = last
        self.threshold = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """1 or -1, in the shape of ``x``."""
        return signs(x, _along(self.threshold, x, self.last), training=self.training)

    def start(self, x: Tensor) -> None:
        """Thresholds: 0, or the means of channels where no value is negative, as after a ReLU: 0 would part none."""
        if float(x.min()) >= 0:
            channels = x.flatten(0, -2) if self.last else x.transpose(0, 1).flatten(1).mT
            with torch.no_grad():
                self.threshold.copy_(channels.mean(0))


class Signs(nn.Module):
    """A sum of several signs about thresholds of their own, each times a factor; both are learnt.

    Lin et al., "Towards Accurate Binary Convolutional Neural Network" (ABC-Net, 2017), equations 8-10, where values are
    clipped to 0..1 before they are compared with 0.5: a shift of 0.5 in the threshold.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.zeros(count))
        self.factor = nn.Parameter(torch.full((count,), 1.0 / count))

    def forward(self, x: Tensor) -> Tensor:
        """The sum of factors times signs, in the shape of ``x``."""
        total = self.factor[0] * signs(x, self.threshold[0], training=self.training)
        for number in range(1, len(self.factor)):
            total = total + self.factor[number] * signs(x, self.threshold[number], training=self.training)
        return total

    def start(self, x: Tensor) -> None:
        """Spread the thresholds over the deviation of ``x``."""
        mean, deviation = x.mean(), x.std().clamp_min(TINY)
        places = torch.linspace(-1, 1, len(self.factor)) if len(self.factor) > 1 else torch.zeros(1)
        with torch.no_grad():
            self.threshold.copy_(mean + deviation * places)
            self.factor.fill_(float(deviation) / len(self.factor))


class ResidualSigns(nn.Module):
    """Signs, and the signs of what they leave over, each times a factor that is learnt.

    Li et al., "Performance Guaranteed Network Acceleration via High-Order Residual Quantization" (HORQ, 2017),
    equations 10-13. There the factors are the means of magnitudes of every input; here they start from those of the
    first ones and are learnt, so that none has to be computed when the network runs.
    """

    def __init__(self, order: int) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(order))

    def forward(self, x: Tensor) -> Tensor:
        """The sum of factors times signs, in the shape of ``x``."""
        zero = torch.zeros(1, dtype=x.dtype, device=x.device)
        part = self.factor[0] * signs(x, zero, training=self.training)
        total = part
        for number in range(1, len(self.factor)):
            x = x - part
            part = self.factor[number] * signs(x, zero, training=self.training)
            total = total + part
        return total

    def start(self, x: Tensor) -> None:
        """Factors: the mean magnitudes of ``x`` and of what each order leaves over."""
        with torch.no_grad():
            for number in range(len(self.factor)):
                self.factor[number] = x.abs().mean()
                x = x - self.factor[number] * torch.where(x >= 0, 1.0, -1.0)


class Steps(nn.Module):
    """Values rounded to ``0 .. 2^bits - 1`` times a step that is learnt (LSQ), or about 0 where they are ``signed``."""

    def __init__(self, bits: int, signed: bool = False) -> None:
        super().__init__()
        self.high: int = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
        self.low: int = -self.high if signed else 0
        self.step = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        """Multiples of the step, in the shape of ``x``."""
        if self.training:
            factor = gradient_factor(x.numel() // max(1, len(x)), self.high)
            return lsq(x, self.step, torch.zeros_like(self.step), self.low, self.high, factor)
        step = self.step.clamp_min(TINY)
        return torch.clamp(torch.round(x * step.reciprocal()), self.low, self.high) * step

    def start(self, x: Tensor) -> None:
        """The step that LSQ starts from: ``2 mean |x| / sqrt(Qp)`` (Esser et al., 2020, section 2.1)."""
        with torch.no_grad():
            self.step.fill_(float((2 * x.abs().mean() / self.high**0.5).clamp_min(TINY)))


Rounding = Sign | Signs | ResidualSigns | Steps

_NAMED = re.compile(r"signs( [1-9]\d?)?|residual signs [1-9]\d?|([2-9]|1[0-6]) bits signed|([1-9]|1[0-6]) bits")


def names_rounding(text: str) -> bool:
    """Whether ``text`` is what :func:`rounding_of` understands, of as many steps as a layer has use for."""
    return _NAMED.fullmatch(text) is not None


def rounding_of(text: str, channels: int, *, last: bool) -> Rounding:
    """The rounding that ``text`` names: ``signs``, ``signs 3``, ``residual signs 2``, ``2 bits``, ``4 bits signed``."""
    words = text.split()
    if words[0] == "residual":
        return ResidualSigns(int(words[2]))
    if words[0] == "signs":
        return Sign(channels, last) if len(words) == 1 else Signs(int(words[1]))
    return Steps(int(words[0]), words[-1] == "signed")


class RoundingConv1d(nn.Conv1d):
    """A convolution that rounds what it reads by ``rounding``."""

    rounding: nn.Module

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's own name
        return super().forward(self.rounding(input))


class RoundingConv2d(nn.Conv2d):
    """A convolution that rounds what it reads by ``rounding``."""

    rounding: nn.Module

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's own name
        return super().forward(self.rounding(input))


class RoundingLinear(nn.Linear):
    """A linear layer that rounds what it reads by ``rounding``."""

    rounding: nn.Module

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's own name
        return super().forward(self.rounding(input))


_ROUNDING: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: RoundingConv1d,
    nn.Conv2d: RoundingConv2d,
    nn.Linear: RoundingLinear,
}


def rounding_layers(network: nn.Module) -> dict[str, RoundingConv1d | RoundingConv2d | RoundingLinear]:
    """The layers of ``network`` that round what they read, by name; what a user's own modules call so is not meant."""
    kinds = (RoundingConv1d, RoundingConv2d, RoundingLinear)
    return {name: module for name, module in network.named_modules() if isinstance(module, kinds)}


def rounds_inputs(layer: nn.Module) -> bool:
    """Whether ``layer`` is of a class that can be made to round what it reads."""
    return type(layer) in _ROUNDING


def rounding_inputs(layer: nn.Module, text: str) -> nn.Module:
    """``layer`` with the same parameters, which rounds what it reads as ``text`` names it."""
    last = isinstance(layer, nn.Linear)
    channels = int(layer.in_features if last else layer.in_channels)  # type: ignore[arg-type]
    made = _ROUNDING[type(layer)].__new__(_ROUNDING[type(layer)])
    made.__dict__ = {key: value.copy() if isinstance(value, dict) else value for key, value in vars(layer).items()}
    made.rounding = rounding_of(text, channels, last=last)
    return made.train(layer.training)


def _along(threshold: Tensor, x: Tensor, last: bool) -> Tensor:
    return threshold if last else threshold.view(-1, *(1 for _ in x.shape[2:]))
