"""What a penalty acts on: the slices of parameters that belong to the units of a group."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..channels.groups import Channels, Group
from ..channels.labels import Site


@dataclass(frozen=True)
class Slices:
    """Where the units of a group lie in one parameter.

    Args:
        name: of the parameter ("layer1.0.conv1.weight").
        axis: its dimension.
        index: (units, indices of a unit), along ``axis``.
    """

    name: str
    axis: int
    index: Tensor

    def squares(self, model: nn.Module) -> Tensor:
        """The sum of the squares of each unit's slices, (units,), in the parameter's dtype."""
        weight = model.get_parameter(self.name).detach()
        return weight.movedim(self.axis, 0).reshape(weight.shape[self.axis], -1).square().sum(1)[self.index].sum(1)

    def spread(self, values: Tensor, model: nn.Module, elsewhere: float) -> Tensor:
        """A value per unit, (units,), as a factor that broadcasts over the parameter, ``elsewhere`` for the rest."""
        weight = model.get_parameter(self.name)
        full = torch.full((weight.shape[self.axis],), elsewhere, dtype=weight.dtype, device=weight.device)
        full[self.index] = values.to(full)[:, None]
        return full.view([-1 if d == self.axis else 1 for d in range(weight.ndim)])


@dataclass(frozen=True)
class Members:
    """Parameters of the units of one group, each unit being a vector of all its slices.

    Args:
        layers: the layers whose output channels the units are.
        units: how many.
        slices: no element belongs to two units.
    """

    layers: tuple[str, ...]
    units: int
    slices: tuple[Slices, ...]

    def norms(self, model: nn.Module) -> Tensor:
        """The l2 norm of each unit, (units,)."""
        return torch.stack([part.squares(model) for part in self.slices]).sum(0).sqrt()

    def scale(self, model: nn.Module, factors: Tensor) -> None:
        """Multiply the slices of each unit by its factor of ``factors`` (units,), in place."""
        with torch.no_grad():
            for part in self.slices:
                model.get_parameter(part.name).mul_(part.spread(factors, model, 1.0))


def _members(group: Group, sites: Collection[Site]) -> Members:
    slices = [Slices(*site, group.sites[site]) for site in sites]
    return Members(group.layers, len(group.units), tuple(slices))


def scales(group: Group) -> Members:
    """The normalization scales of the units."""
    return _members(group, group.scales)


def filters(group: Group, channels: Channels) -> Members:
    """The filters that produce the units, with their biases."""
    return _members(group, (*group.filters, *_vectors(group, channels, group.filters)))


def produced(group: Group, channels: Channels) -> Members:
    """All that makes the output of the units: filters, biases, normalization scales and shifts.

    Where these are zero the units are zero, and taking them out changes nothing. The columns of the layers that read
    the units are not among them, so that groups have no element in common.
    """
    own = (*group.filters, *group.scales)
    return _members(group, (*own, *_vectors(group, channels, own)))


def _vectors(group: Group, channels: Channels, sites: Collection[Site]) -> list[Site]:
    """The other parameters of one dimension (biases, shifts) of the modules that own ``sites``."""
    owners = {name.rpartition(".")[0] for name, _ in sites}
    parameters = dict(channels.graph.model.named_parameters(remove_duplicate=False))
    return [
        site
        for site in group.sites
        if site not in sites
        and site[0] in parameters
        and parameters[site[0]].ndim == 1
        and site[0].rpartition(".")[0] in owners
    ]
