"""Edits replayed on a network: what pruning and folding do to it, and how an artifact is rebuilt from its source."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from .errors import InvalidInput
from .stage import Edit

REPLACEMENTS = {"Identity": nn.Identity}


def replay(model: nn.Module, edits: Iterable[Edit]) -> None:
    """Make ``edits`` on ``model``, in order and in place. Tensors that modules share stay shared.

    Raises:
        InvalidInput: the network is not the one that the edits were made on.
    """
    holders: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                holders.setdefault(id(tensor), []).append((module, name))
    for edit in edits:
        if edit.kind in ("precision", "weights"):
            continue
        try:
            module = model.get_submodule(edit.layer)
        except AttributeError as error:
            raise InvalidInput(
                f"edit of {edit.layer}: the network has no such layer; its source has changed"
            ) from error
        if edit.kind == "attribute":
            setattr(module, edit.what, edit.after)
        elif edit.kind == "module":
            parent, _, name = edit.layer.rpartition(".")
            setattr(model.get_submodule(parent), name, REPLACEMENTS[str(edit.after)]())
        else:
            _edit_tensor(module, edit, holders)


def _edit_tensor(module: nn.Module, edit: Edit, holders: dict[int, list[tuple[nn.Module, str]]]) -> None:
    tensor = getattr(module, edit.what, None)
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
        like = next(module.parameters(recurse=False))
        changed = nn.Parameter(torch.zeros(_shape(edit.after), dtype=like.dtype, device=like.device))
    else:
        assert edit.axis is not None and edit.kept is not None, f"{edit} says not what to keep"
        index = torch.tensor(edit.kept, dtype=torch.long, device=tensor.device)
        changed = tensor.detach().index_select(edit.axis, index).clone()
        if isinstance(tensor, nn.Parameter):
            changed = nn.Parameter(changed, requires_grad=tensor.requires_grad)
    places = [(module, edit.what)] if tensor is None else holders.pop(id(tensor), [(module, edit.what)])
    for holder, name in places:
        setattr(holder, name, changed)
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
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value
