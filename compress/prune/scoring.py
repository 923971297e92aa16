"""How much each unit of a group matters: a criterion on every coupled layer of the group, put together."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from ..errors import InvalidInput
from ..stage import Context
from . import criteria, custom
from .activations import ActivationCriterion, activation_scores, places
from .channels import Channels, Group
from .criteria import Aggregate, Criterion, Normalization, criterion_name
from .discrimination import discrimination_scores
from .gradients import loss_scores
from .labels import Site

Members = Literal["filters", "consumers", "all"]

_OF_WEIGHTS: Mapping[str, Callable[[Tensor, int], Tensor]] = {
    "l1": lambda weight, axis: criteria.filter_norms(weight, axis, 1),
    "l2": lambda weight, axis: criteria.filter_norms(weight, axis, 2),
    "lamp": lambda weight, axis: criteria.filter_norms(weight, axis, 2).square(),
    "fpgm": criteria.fpgm,
    "bn_scale": lambda gamma, _: criteria.scales(gamma),
}


def group_scores(
    groups: Sequence[Group],
    found: Channels,
    criterion: Criterion,
    context: Context,
    *,
    aggregate: Aggregate = "mean",
    members: Members | None = None,
    normalize: Normalization | None = None,
    batches: int = 16,
) -> list[Tensor]:
    """The importance of each unit of each group, (units,), float64 on the CPU.

    A criterion scores every index of a layer. These scores are normalized within the layer, averaged over the indices
    that a unit takes there, and aggregated over the coupled layers of the group.

    Args:
        aggregate: how the scores of coupled layers become one; ``first`` is the first of them to run.
        members: the dimensions that count: the ``filters`` that produce the channels, the weights that are their
            ``consumers``, or ``all`` weights, normalizations included (Fang et al., "DepGraph", 2023, section 3.3).
            None is consumers for taylor, because ``sum(g * w)`` of a consumer is the derivative by a gate on its input
            (the gates of Molchanov et al., 2019, section 3), and for discrimination, and filters for all others.
            bn_scale, apoz and activation_mean have members of their own.
        normalize: within each layer, for comparing across the network; None is what suits the criterion
            (:data:`compress.prune.criteria.NORMALIZATIONS`), and for a custom one none.
        batches: of 32 samples, that taylor, obd, apoz, activation_mean and discrimination look at.

    Raises:
        InvalidInput: the criterion needs data or labels that are not there, cannot tell the units of a group apart
            (:func:`unscorable`), or is a custom one that does not return what it should.
    """
    if not groups:
        return []
    name = criterion_name(criterion)
    if criterion == "random":
        generator = torch.Generator().manual_seed(context.seed)
        return [torch.rand(len(group.units), generator=generator, dtype=torch.float64) for group in groups]
    how = normalize or criteria.NORMALIZATIONS.get(name, "none")
    if criterion == "lamp" and how == "gaussian":
        raise InvalidInput("prune: criterion lamp divides magnitudes, which gaussian makes negative; take another")
    tensors = weights(found)
    sites = [_members(group, tensors, criterion, members) for group in groups]
    wanted = tuple(dict.fromkeys(site for of_group in sites for site in of_group))
    by_site = _site_scores(wanted, found, tensors, criterion, context, batches)
    comparable = {site: _normalized(scores, how, name, site) for site, scores in by_site.items()}
    result = []
    for group, of_group in zip(groups, sites, strict=True):
        per_layer = [_of_units(group, site, comparable[site]) for site in of_group if site in comparable]
        if not per_layer:
            raise InvalidInput(
                f"prune: criterion {name} tells nothing about {', '.join(group.layers) or 'a group of channels'}: "
                f"{_blind(criterion)}; keep them with exclude, or take another criterion"
            )
        together = criteria.aggregated(torch.stack(per_layer), aggregate)
        result.append(criteria.lamp(together) if criterion == "lamp" else together)
    return result


def unscorable(group: Group, found: Channels, criterion: Criterion) -> str | None:
    """Why ``criterion`` cannot tell the units of ``group`` apart, or None if it can."""
    tensors = weights(found)
    sites = _members(group, tensors, criterion, None)
    if criterion in ("apoz", "activation_mean"):
        seen = places(found.graph, tensors, sites, cast(ActivationCriterion, criterion))
        sites = tuple(site for site in sites if seen[site])
    return None if sites or criterion == "random" else f"{criterion_name(criterion)}: {_blind(criterion)}"


def weights(found: Channels) -> dict[str, Tensor]:
    """The parameters and buffers of floating point of the traced network, by every name that they have."""
    model = found.graph.model
    named = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    return {name: tensor for name, tensor in named.items() if tensor.is_floating_point()}


def _members(
    group: Group, tensors: Mapping[str, Tensor], criterion: Criterion, members: Members | None
) -> tuple[Site, ...]:
    """The sites whose scores count for a group, those that produce its channels first."""
    if criterion == "bn_scale":
        return group.scales
    if criterion in ("apoz", "activation_mean"):
        return group.filters
    cut = tuple(site for site in group.sites if isinstance(tensors.get(site[0]), nn.Parameter))
    consumers = tuple(site for site in cut if tensors[site[0]].ndim > 1 and site not in group.filters)
    members = members or ("consumers" if criterion in ("taylor", "discrimination") else "filters")
    if members == "all":
        return tuple(dict.fromkeys((*group.filters, *group.scales, *consumers))) or cut
    wanted = consumers if members == "consumers" else group.filters
    return wanted or group.filters or cut


def _site_scores(
    sites: Collection[Site],
    found: Channels,
    tensors: Mapping[str, Tensor],
    criterion: Criterion,
    context: Context,
    batches: int,
) -> dict[Site, Tensor]:
    """The scores of all indices of each site, float64 on the CPU; activations may leave sites out."""
    model = found.graph.model
    if criterion in ("taylor", "obd"):
        of_loss = cast(Literal["taylor", "obd"], criterion)
        return loss_scores(model, tensors, sites, of_loss, context, batches)
    if criterion in ("apoz", "activation_mean"):
        of_activations = cast(ActivationCriterion, criterion)
        return activation_scores(model, tensors, sites, of_activations, context, batches)
    if criterion == "discrimination":
        return discrimination_scores(model, tensors, sites, context, batches)
    if isinstance(criterion, str) and criterion in _OF_WEIGHTS:
        return {(name, axis): _OF_WEIGHTS[criterion](tensors[name], axis).cpu() for name, axis in sites}
    function = custom.resolve(criterion)
    return {site: custom.scored(criterion, function, tensors[site[0]], site).cpu() for site in sites}


def _normalized(scores: Tensor, how: Normalization, criterion: str, site: Site) -> Tensor:
    if how in ("mean", "max") and bool((scores < 0).any()):
        raise InvalidInput(
            f"prune: criterion {criterion} has scores below zero on {site[0]}, which cannot be divided by their {how}; "
            "normalize by gaussian or none"
        )
    return criteria.normalized(scores, how)


def _of_units(group: Group, site: Site, scores: Tensor) -> Tensor:
    """The mean score of the indices that each unit takes, (units,)."""
    return scores[group.sites[site]].mean(1)


def _blind(criterion: Criterion) -> str:
    if criterion == "bn_scale":
        return "no batch normalization follows"
    return "no activation with zeros (ReLU) follows" if criterion == "apoz" else "no layer produces these channels"
