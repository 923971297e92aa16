"""What makes a channel important: what every criterion has in common."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from ...core.parts import Part
from ...core.settings import setting
from ...errors import InvalidInput
from ...graph.trace import Graph
from ...stage import Context
from ..channels.groups import Channels, Group
from ..channels.labels import Site
from . import scores
from .scores import Aggregate, Members, Normalization


class Criterion(Part):
    """What makes a channel important. A subclass has :meth:`slice_scores`, or :meth:`site_scores` where it looks at
    more than one weight at a time.
    """

    aggregate: Aggregate = setting(
        "mean",
        "How the scores of coupled layers become one; first is that of the first of them to run.",
        flag="--aggregate",
    )
    members: Members | None = setting(
        None,
        "Whose weights count: the filters that produce a channel, its consumers, or all, normalizations included "
        "(Fang et al., DepGraph, 2023, section 3.3); left out, what suits the criterion.",
        flag="--members",
    )
    normalize: Normalization | None = setting(
        None,
        "How scores within a layer are made comparable with those of others, where selections compare them; left out, "
        "what suits the criterion.",
        flag="--normalize",
    )

    usual_members: ClassVar[Members] = "filters"
    """Whose weights count where nothing else is asked for."""

    usual_normalization: ClassVar[Normalization] = "none"
    """How scores compare between layers where nothing else is asked for: estimates of a change of the loss and shares
    as they are, magnitudes by what is usual in their layer.
    """

    stand_in: ClassVar[str | None] = None
    """The criterion in place of this one for channels that several layers shuffle, if it cannot score these."""

    blind: ClassVar[str] = "no layer produces these channels"
    """Why it can tell nothing of a group."""

    def slice_scores(self, weight: Tensor, axis: int) -> Tensor:
        """The scores of the slices of ``weight`` along ``axis``: (weight.shape[axis],)."""
        raise NotImplementedError(f"the criterion {self.name} has neither slice_scores nor site_scores")

    def site_scores(
        self, sites: Collection[Site], model: nn.Module, tensors: Mapping[str, Tensor], context: Context
    ) -> dict[Site, Tensor]:
        """The scores of the slices at each site, float64 on the CPU; sites that it can tell nothing of are left out.

        Args:
            model: the network, in evaluation mode.
            tensors: its parameters and buffers that ``sites`` name.

        Raises:
            InvalidInput: data or labels that it needs are not there, or what it returns are no scores.
        """
        return {site: self.checked(self.slice_scores, tensors[site[0]], site).cpu() for site in sites}

    def sites_of(self, group: Group, tensors: Mapping[str, Tensor]) -> tuple[Site, ...]:
        """The sites whose scores count for a group, those that produce its channels first."""
        cut = tuple(site for site in group.sites if isinstance(tensors.get(site[0]), nn.Parameter))
        consumers = tuple(site for site in cut if tensors[site[0]].ndim > 1 and site not in group.filters)
        members = self.members or self.usual_members
        if members == "all":
            return tuple(dict.fromkeys((*group.filters, *group.scales, *consumers))) or cut
        wanted = consumers if members == "consumers" else group.filters
        return wanted or group.filters or cut

    def seen(self, graph: Graph, tensors: Mapping[str, Tensor], sites: tuple[Site, ...]) -> tuple[Site, ...]:
        """Those of ``sites`` that it can tell something of, without looking at samples."""
        return sites

    def together(self, of_layers: Tensor) -> Tensor:
        """Scores of the coupled layers of a group, (layers, units), as one per unit, (units,)."""
        return scores.aggregated(of_layers, self.aggregate)

    def score(self, groups: Sequence[Group], channels: Channels, context: Context) -> list[Tensor]:
        """The importance of each unit of each group, (units,), float64 on the CPU.

        Raises:
            InvalidInput: data or labels that it needs are not there, it cannot tell the units of a group apart
                (:meth:`blind_to`), or what it returns are no scores.
        """
        tensors = weights(channels)
        sites = [self.sites_of(group, tensors) for group in groups]
        wanted = tuple(dict.fromkeys(site for of_group in sites for site in of_group))
        by_site = self.site_scores(wanted, channels.graph.model, tensors, context) if groups else {}
        comparable = {site: self._comparable(scores, site) for site, scores in by_site.items()}
        result = []
        for group, of_group in zip(groups, sites, strict=True):
            layers = [comparable[site][group.sites[site]].mean(1) for site in of_group if site in comparable]
            if not layers:
                raise InvalidInput(
                    f"prune: criterion {self.name} tells nothing about "
                    f"{', '.join(group.layers) or 'a group of channels'}: {self.blind}; keep them with exclude, or "
                    "take another criterion"
                )
            result.append(self.together(torch.stack(layers)))
        return result

    def blind_to(self, group: Group, channels: Channels) -> str | None:
        """Why it cannot tell the units of ``group`` apart, or None if it can."""
        tensors = weights(channels)
        sites = self.seen(channels.graph, tensors, self.sites_of(group, tensors))
        return None if sites else f"{self.name}: {self.blind}"

    def _comparable(self, values: Tensor, site: Site) -> Tensor:
        how = self.normalize or self.usual_normalization
        if how in ("mean", "max") and bool((values < 0).any()):
            raise InvalidInput(
                f"prune: criterion {self.name} has scores below zero on {site[0]}, which cannot be divided by their "
                f"{how}; normalize by gaussian or none"
            )
        return scores.normalized(values, how)

    def checked(self, function: Callable[[Tensor, int], Tensor], weight: Tensor, site: Site) -> Tensor:
        """What ``function`` returns for the weight at ``site``, (weight.shape[axis],), as float64.

        Raises:
            InvalidInput: it fails, or does not return one finite score per slice.
        """
        name, axis = site
        place = f"prune: criterion {self.name} on {name}, dimension {axis}"
        count = weight.shape[axis]
        try:
            with torch.no_grad():
                values: object = function(weight.detach(), axis)
        except Exception as error:
            raise InvalidInput(f"{place}: it failed: {type(error).__name__}: {error}") from error
        expected = f"expected a tensor of {count} scores, one for each index of the dimension"
        if not isinstance(values, Tensor):
            raise InvalidInput(f"{place}: {expected}, got {type(values).__name__}")
        if tuple(values.shape) != (count,) or values.is_complex():
            raise InvalidInput(f"{place}: {expected}, got shape {tuple(values.shape)} of {values.dtype}")
        values = values.detach().double()
        if not bool(torch.isfinite(values).all()):
            bad = int((~torch.isfinite(values)).sum())
            raise InvalidInput(f"{place}: {bad} of {count} scores are not finite (NaN or infinity)")
        return values


def weights(channels: Channels) -> dict[str, Tensor]:
    """The parameters and buffers of floating point of the traced network, by every name that they have."""
    model = channels.graph.model
    named = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    return {name: tensor for name, tensor in named.items() if tensor.is_floating_point()}
