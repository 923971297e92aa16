"""Which layers are replaced by what, and what that saves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Literal

from torch import Tensor, nn

from ..clock import Timed
from ..compact.substitutions import Substitution
from ..cost.count import cost
from ..errors import InvalidInput
from ..graph.layer_values import calls_of, input_of
from ..stage import Context, Skip

Saved = Literal["latency", "macs"]


@dataclass(frozen=True)
class Site:
    """A layer that may be replaced.

    Args:
        name: of the layer.
        substitution: that would stand in its place.
        read: what the layer reads of one sample.
    """

    name: str
    substitution: Substitution
    read: Tensor


def require_matches(model: nn.Module, setting: str, patterns: Iterable[str]) -> None:
    """Raise InvalidInput where a pattern matches no layer."""
    names = [name for name, _ in model.named_modules() if name]
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in names):
            raise InvalidInput(f"substitute: {setting} {pattern!r} matches no layer; layers are named like {names[:3]}")


def sites(
    model: nn.Module,
    substitutions: Sequence[Substitution],
    layers: Sequence[str],
    exclude: Sequence[str],
    context: Context,
) -> tuple[list[Site], list[Skip]]:
    """The layers that may be replaced, in the order in which they run, and the others of these types, with the reason.

    Args:
        layers: patterns of those that may be; none are all.
        exclude: patterns of those that stay.
    """
    inputs = tuple(x[:1] for x in context.example_inputs)
    wanted = {
        name: [each for each in substitutions if each.wants(module)]
        for name, module in model.named_modules()
        if name and (not layers or any(fnmatch(name, pattern) for pattern in layers))
    }
    wanted = {name: fitting for name, fitting in wanted.items() if fitting}
    calls = calls_of(model, wanted, inputs)
    holders = [id(p) for module in model.modules() for p in module._parameters.values() if p is not None]
    found, skipped = [], []
    for name in dict.fromkeys([*calls, *wanted]):
        module = model.get_submodule(name)
        reason = "excluded" if any(fnmatch(name, pattern) for pattern in exclude) else None
        reason = reason or _unfit(module, calls.count(name), holders)
        if reason is None:
            reasons = {each: each.obstacle(module) for each in wanted[name]}
            fitting = next((each for each, obstacle in reasons.items() if obstacle is None), None)
            if fitting is not None:
                found.append(Site(name, fitting, input_of(model, module, inputs)))
                continue
            reason = "; ".join(f"{each.name}: {obstacle}" for each, obstacle in reasons.items())
        skipped.append(Skip(name, reason))
    return found, skipped


def _unfit(module: nn.Module, calls: int, holders: Sequence[int]) -> str | None:
    """Why a layer cannot be replaced, by how the network uses it."""
    if calls != 1:
        return f"it is called {calls} times in a pass" if calls else "the network's code calls it in another way"
    if any(holders.count(id(parameter)) > 1 for parameter in module._parameters.values() if parameter is not None):
        return "it shares its weight with another layer"
    return None


@dataclass(frozen=True)
class Savings:
    """What layers and what would stand in their places cost alone, measured once for each pair of the same shapes."""

    context: Context
    by: Saved

    def split(self, model: nn.Module, found: Iterable[Site]) -> tuple[list[Site], list[Skip]]:
        """The sites where something is saved, and the others with both figures."""
        pairs: dict[str, tuple[nn.Module, nn.Module, Tensor]] = {}
        kinds: dict[str, str] = {}
        for site in found:
            layer = model.get_submodule(site.name)
            kinds[site.name] = kind = f"{layer} -> {site.substitution!r} of {tuple(site.read.shape)}"
            pairs.setdefault(kind, (layer, site.substitution.build(layer).eval(), site.read))
        figures = self._figures(pairs)
        saving, skipped = [], []
        for site in found:
            before, after = figures[kinds[site.name]]
            if after < before:
                saving.append(site)
            else:
                told = f"{site.substitution.name} would save nothing: {self._told(before)} become {self._told(after)}"
                skipped.append(Skip(site.name, told))
        return saving, skipped

    def _figures(self, pairs: Mapping[str, tuple[nn.Module, nn.Module, Tensor]]) -> Mapping[str, tuple[float, float]]:
        """For each kind of site what the layer costs, and what would stand in its place."""
        if self.by == "macs":
            return {
                kind: (cost(layer, (x,)).macs, cost(substitute, (x,)).macs)
                for kind, (layer, substitute, x) in pairs.items()
            }
        clock = self.context.require_clock("substitute: what is faster is measured")
        figures = {}
        for number, (kind, (layer, substitute, x)) in enumerate(pairs.items()):
            self.context.progress("time layers", number, len(pairs), kind.partition(" of ")[0])
            before, after = clock.ms_of([Timed(layer, (x,)), Timed(substitute, (x,))])
            figures[kind] = before, after
        self.context.progress("time layers", len(pairs), len(pairs))
        return figures

    def _told(self, figure: float) -> str:
        return f"{figure:,.0f} multiply-adds" if self.by == "macs" else f"{figure:.3g} ms"
