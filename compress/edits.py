"""Edits replayed on a network: what pruning and folding do to it, how an artifact is rebuilt, and the way back."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .core.edit import Edit
from .errors import InvalidInput
from .graph.parametrized import bake
from .graph.trace import first_names, named_tensors
from .replacements import replacement

PLAIN = (bool, int, float, str, tuple, list, torch.Size)
"""What the attributes are that edits change: no methods, classes, tensors or modules."""

Holders = dict[int, list[tuple[nn.Module, str]]]
"""The modules and names that hold a tensor, by its identity."""


def replay(model: nn.Module, edits: Iterable[Edit]) -> None:
    """Make ``edits`` on ``model``, in order and in place. Tensors that modules share stay shared.

    Raises:
        InvalidInput: the network is not the one that the edits were made on.
    """
    bake(model, tell=False)
    holders = _holders(model)
    for edit in edits:
        if edit.kind in ("precision", "weights"):
            continue
        module = _layer(model, edit)
        if edit.kind == "attribute":
            _require_plain(module, edit)
            setattr(module, edit.what, edit.after)
        elif edit.kind == "module":
            _replace(model, edit.layer, replacement(module, str(edit.after)))
        else:
            _edit_tensor(module, edit, holders)


def _require_plain(module: nn.Module, edit: Edit) -> None:
    """Raise InvalidInput unless the edit changes a plain value that the module has (``out_channels``), never what it
    does: a method, a class, a tensor or a module."""
    place = f"edit of {edit.layer}.{edit.what}"
    now = vars(module).get(edit.what) if edit.what.isidentifier() and not edit.what.startswith("_") else None
    if not isinstance(now, PLAIN):
        raise InvalidInput(f"{place}: expected a number, a word or several of them there; its source has changed")
    if not _is_plain(edit.after):
        raise InvalidInput(f"{place}: expected a plain value, got {edit.after!r}")


def _is_plain(value: object) -> bool:
    if isinstance(value, (tuple, list)):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, (bool, int, float, str))


def _edit_tensor(module: nn.Module, edit: Edit, holders: Holders) -> None:
    held: dict[str, Tensor | None] = {**module._buffers, **module._parameters}
    if edit.what not in held:
        raise InvalidInput(f"edit of {edit.layer}.{edit.what}: the layer has no such tensor; its source has changed")
    tensor = held[edit.what]
    shape = None if tensor is None else tuple(tensor.shape)
    before = None if edit.before is None else _shape(edit.before)
    if shape != before:
        raise InvalidInput(
            f"edit of {edit.layer}.{edit.what}: expected a tensor of shape {before}, got {shape}; "
            "its source has changed"
        )
    changed: Tensor | None
    if edit.after is None:
        changed = None
    elif tensor is None:
        like = next(module.parameters(recurse=False), torch.empty(0))
        changed = nn.Parameter(torch.zeros(_shape(edit.after), dtype=like.dtype, device=like.device))
    else:
        assert edit.axis is not None and edit.kept is not None, f"{edit} says not what to keep"
        changed = tensor.detach().index_select(edit.axis, _index(edit, tensor)).clone()
        if isinstance(tensor, nn.Parameter):
            changed = nn.Parameter(changed, requires_grad=tensor.requires_grad)
    _put(module, edit.what, tensor, changed, holders)


def undo(model: nn.Module, edits: Iterable[Edit], original: nn.Module | Mapping[str, Tensor] | None = None) -> None:
    """Take ``edits`` back, the last one first and in place: ``model``, on which they were made, gets the shapes and
    attributes of its source again, and keeps what it has learnt since. Tensors that modules share stay shared.

    Channels that come back are zeros (with a running variance of 1), so that the network computes what it did before
    them; only normalizations over several channels (layer and group norm) count them in. With ``original`` they have
    the values of the source instead. ``replay`` makes the smaller network again, bit for bit.

    Args:
        original: the source of the edits or its state dict. Modules that were replaced come back from it, for which it
            has to be the network itself.

    Raises:
        InvalidInput: the network is not the one that the edits were made on, ``original`` is not its source or is
            needed and absent, or weights were folded, which cannot be told apart again.
    """
    edits = tuple(edits)
    for edit in edits:
        if edit.kind == "weights" and edit.before == "as stored":
            raise InvalidInput(
                f"edit of {edit.layer}.{edit.what}: {edit.after}, which cannot be undone; undo the edits before it on "
                "the network as it was before folding"
            )
    source = _source_of(edits, model, original)
    holders = _holders(model)
    for place, edit in reversed(list(enumerate(edits))):
        if edit.kind in ("precision", "weights"):
            continue
        if edit.kind == "module":
            _layer(model, edit)
            _replace(model, edit.layer, source.module(place, edit, model))
            holders = _holders(model)
        elif edit.kind == "attribute":
            _undo_attribute(_layer(model, edit), edit)
        else:
            _undo_tensor(_layer(model, edit), edit, source.tensors.get(place), holders)


@dataclass
class _Source:
    """What the source had where edits, told by their number, were made.

    Args:
        modules: the module that was replaced.
        twins: another name of that module.
        shared: tensors of it that other modules hold too: (name in the module, name in the network).
    """

    tensors: dict[int, Tensor] = field(default_factory=dict)
    modules: dict[int, nn.Module] = field(default_factory=dict)
    twins: dict[int, str] = field(default_factory=dict)
    shared: dict[int, list[tuple[str, str]]] = field(default_factory=dict)

    def module(self, place: int, edit: Edit, model: nn.Module) -> nn.Module:
        """The module that edit number ``place`` replaced, with the tensors that it shares with ``model``."""
        if place not in self.modules:
            raise InvalidInput(
                f"edit of {edit.layer}: the {edit.before} that was here is in none of the edits; give the source "
                "network (not its state dict) as original"
            )
        if place in self.twins:
            return model.get_submodule(self.twins[place])
        module = self.modules[place].train(model.training)
        for inner, outer in self.shared[place]:
            owner, _, name = inner.rpartition(".")
            setattr(module.get_submodule(owner), name, _tensor(model, outer))
        return module


def _source_of(edits: tuple[Edit, ...], model: nn.Module, original: nn.Module | Mapping[str, Tensor] | None) -> _Source:
    """The values of ``original`` at each edit, found by replaying the edits on it."""
    source = _Source()
    if original is None:
        return source
    if not isinstance(original, nn.Module):
        _values(edits, dict(original), first_names(model), source)
        return source
    _values(edits, dict(named_tensors(original)), first_names(original), source)
    ahead, replayed = copy.deepcopy(original), 0
    for place, edit in enumerate(edits):
        if edit.kind != "module":
            continue
        replay(ahead, edits[replayed:place])
        module = _layer(ahead, edit)
        inside = set(module.modules())
        for name, other in ahead.named_modules(remove_duplicate=False):
            if other is module and name != edit.layer:
                source.twins.setdefault(place, name)
        outside = {
            id(holder): outer
            for outer, holder in named_tensors(ahead)
            if ahead.get_submodule(outer.rpartition(".")[0]) not in inside
        }
        source.modules[place] = module
        source.shared[place] = [(name, outside[id(t)]) for name, t in named_tensors(module) if id(t) in outside]
        replayed = place
    return source


def _values(edits: tuple[Edit, ...], values: dict[str, Tensor], first: Mapping[str, str], source: _Source) -> None:
    """Fill in the tensors of the source as each edit found them; ``first`` has one name for each shared tensor."""
    for place, edit in enumerate(edits):
        if edit.kind != "tensor" or edit.before is None:
            continue
        name = f"{edit.layer}.{edit.what}".lstrip(".")
        known = name if first.get(name) not in values else first[name]
        shape = tuple(values[known].shape) if known in values else None
        if shape != _shape(edit.before):
            raise InvalidInput(
                f"edit of {name}: expected a tensor of shape {_shape(edit.before)} in original, got {shape}; "
                "give the network that the edits begin with"
            )
        source.tensors[place] = values[known].detach()
        if edit.axis is not None and edit.kept is not None:
            values[known] = source.tensors[place].index_select(edit.axis, _index(edit, values[known]))


def _undo_attribute(module: nn.Module, edit: Edit) -> None:
    now, before = getattr(module, edit.what, None), edit.before
    if _frozen(now) != _frozen(edit.after):
        raise InvalidInput(
            f"edit of {edit.layer}.{edit.what}: expected {edit.after}, got {now}; it is not the network that was edited"
        )
    setattr(module, edit.what, list(before) if isinstance(now, list) and isinstance(before, tuple) else before)


def _undo_tensor(module: nn.Module, edit: Edit, value: Tensor | None, holders: Holders) -> None:
    """``value`` is that of the source, if it is known."""
    tensor = getattr(module, edit.what, None)
    shape = None if tensor is None else tuple(tensor.shape)
    after = None if edit.after is None else _shape(edit.after)
    place = f"edit of {edit.layer}.{edit.what}"
    if shape != after:
        raise InvalidInput(
            f"{place}: expected a tensor of shape {after}, got {shape}; it is not the network that was edited"
        )
    changed: Tensor | None
    if edit.before is None:
        if tensor is not None and bool(tensor.detach().any()):
            raise InvalidInput(f"{place}: it is new and not zero, so that the network computes something else without")
        changed = None
    elif tensor is None:
        if value is None:
            raise InvalidInput(f"{place}: its values are in none of the edits; give the source network as original")
        changed = nn.Parameter(value.clone()) if edit.what in module._parameters else value.clone()
    else:
        assert edit.axis is not None and edit.kept is not None, f"{edit} says not what to keep"
        if value is None:
            neutral = 1 if edit.what == "running_var" else 0
            changed = torch.full(_shape(edit.before), neutral, dtype=tensor.dtype, device=tensor.device)
        else:
            changed = value.to(tensor.device, tensor.dtype, copy=True)
        changed.index_copy_(edit.axis, _index(edit, tensor), tensor.detach())
        if isinstance(tensor, nn.Parameter):
            changed = nn.Parameter(changed, requires_grad=tensor.requires_grad)
    _put(module, edit.what, tensor, changed, holders)


def _index(edit: Edit, tensor: Tensor) -> Tensor:
    return torch.tensor(edit.kept, dtype=torch.long, device=tensor.device)


def _tensor(model: nn.Module, name: str) -> Tensor:
    owner, _, attribute = name.rpartition(".")
    tensor: Tensor = getattr(model.get_submodule(owner), attribute)
    return tensor


def _holders(model: nn.Module) -> Holders:
    holders: Holders = {}
    for module in model.modules():
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                holders.setdefault(id(tensor), []).append((module, name))
    return holders


def _layer(model: nn.Module, edit: Edit) -> nn.Module:
    try:
        return model.get_submodule(edit.layer)
    except AttributeError as error:
        raise InvalidInput(f"edit of {edit.layer}: the network has no such layer; its source has changed") from error


def _replace(model: nn.Module, layer: str, module: nn.Module) -> None:
    parent, _, name = layer.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


def _put(module: nn.Module, name: str, tensor: Tensor | None, changed: Tensor | None, holders: Holders) -> None:
    """Set ``changed`` in the place of ``tensor`` on all modules that hold it."""
    places = [(module, name)] if tensor is None else holders.pop(id(tensor), [(module, name)])
    for holder, held in places:
        setattr(holder, held, changed)
    if changed is not None:
        holders[id(changed)] = places


def _shape(value: object) -> tuple[int, ...]:
    assert isinstance(value, (tuple, list)), f"a tensor's edit tells shapes, not {value!r}"
    return tuple(value)


def to_json(edit: Edit) -> dict[str, Any]:
    """A mapping of plain values, without the fields that say nothing."""
    return {key: value for key, value in asdict(edit).items() if not (value is None and key in ("axis", "kept"))}


def from_json(record: dict[str, Any]) -> Edit:
    """The edit that :func:`to_json` wrote; lists become tuples again."""
    return Edit(**{key: _frozen(value) for key, value in record.items()})


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, (list, tuple)) else value
