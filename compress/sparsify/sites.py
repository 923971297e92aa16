"""Which weights can become zero: those of convolutions and linear layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from ..errors import InvalidInput
from ..stage import Skip


@dataclass(frozen=True)
class Site:
    """A weight that takes part: parameter ``name`` of ``layer``, ``swapped`` if it is held as (in, out, *kernel)."""

    layer: str
    name: str
    swapped: bool = False

    def seen(self, tensor: Tensor) -> Tensor:
        """A tensor of the weight's shape as (out, in, *kernel), and back again."""
        return tensor.transpose(0, 1) if self.swapped else tensor


def find_sites(model: nn.Module, exclude: Sequence[str] = (), window: int = 1) -> tuple[list[Site], list[Skip]]:
    """The weights that take part, and the layers that do not, with the reason.

    Args:
        exclude: patterns of names of layers.
        window: consecutive inputs that are chosen among together: the m of n:m.

    Raises:
        InvalidInput: a pattern matches no layer.
    """
    names = [name for name, _ in model.named_modules() if name]
    for pattern in exclude:
        if not any(fnmatch(name, pattern) for name in names):
            raise InvalidInput(f"sparsify: exclude {pattern!r} matches no layer; layers are named like {names[:3]}")
    sites: list[Site] = []
    skipped: list[Skip] = []
    owners: dict[int, str] = {}
    holders = _holders(model)
    for layer, module in model.named_modules():
        own = {name: tensor for name, tensor in module._parameters.items() if tensor is not None}
        fresh = {name: tensor for name, tensor in own.items() if id(tensor) not in owners}
        shared = {owners[id(tensor)] for tensor in own.values() if tensor.ndim > 1 and id(tensor) in owners}
        owners.update((id(tensor), layer) for tensor in fresh.values())
        if shared:
            skipped.append(Skip(layer, f"its weight is that of {', '.join(sorted(shared))}, and is what becomes of it"))
            continue
        if not fresh:
            continue
        reason = _reason(module, fresh, window) or _other_reader(module, holders)
        if reason is None and any(fnmatch(layer, pattern) for pattern in exclude):
            reason = "excluded"
        if reason is not None:
            skipped.append(Skip(layer, reason))
        else:
            name = f"{layer}.weight" if layer else "weight"
            sites.append(Site(layer, name, isinstance(module, _ConvTransposeNd)))
    return sites, skipped


def _holders(model: nn.Module) -> dict[int, list[tuple[str, nn.Module]]]:
    """The modules that hold each parameter, by its identity."""
    holders: dict[int, list[tuple[str, nn.Module]]] = {}
    for layer, module in model.named_modules():
        for tensor in module._parameters.values():
            if tensor is not None:
                holders.setdefault(id(tensor), []).append((layer, module))
    return holders


def _other_reader(module: nn.Module, holders: dict[int, list[tuple[str, nn.Module]]]) -> str | None:
    """Why a weight that a layer of another kind reads too, as an embedding does, is left alone."""
    for layer, other in holders[id(module.weight)]:
        if not isinstance(other, (nn.Linear, _ConvNd)):
            return f"its weight is that of {layer} too, a {type(other).__name__}"
    return None


def _reason(module: nn.Module, own: dict[str, Tensor], window: int) -> str | None:
    """Why the layer does not take part, or None."""
    if all(tensor.ndim < 2 for tensor in own.values()):
        return "its parameters have one dimension"
    if not isinstance(module, (nn.Linear, _ConvNd)) or "weight" not in own:
        return f"{type(module).__name__}: only the weights of convolutions and linear layers take part"
    if isinstance(module, _ConvNd) and module.groups > 1 and module.groups == module.in_channels:
        return "depthwise: each of its few weights matters"
    inputs = module.in_channels // module.groups if isinstance(module, _ConvNd) else module.in_features
    if inputs % window:
        return f"{inputs} inputs are no multiple of m={window}"
    return None
