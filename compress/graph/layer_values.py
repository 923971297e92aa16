"""What one layer of a network reads and yields, by passes that end there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class _Reached(BaseException):
    """Ends a pass at the layer asked for; no code in a network catches it."""

    def __init__(self, values: tuple[Tensor, Tensor | None]) -> None:
        self.values = values


def input_of(model: nn.Module, layer: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    """The input of ``layer``, which is called once, when ``model`` runs on ``inputs``; the pass ends before it."""

    def before(_module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        raise _Reached((_input(args, kwargs), None))

    return _values(model, layer.register_forward_pre_hook(before, with_kwargs=True), inputs)[0]


def input_and_output_of(model: nn.Module, layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """The input and the output of ``layer``, which is called once, when ``model`` runs on ``inputs``."""

    def after(_module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], output: Tensor) -> None:
        raise _Reached((_input(args, kwargs), output))

    read, yielded = _values(model, layer.register_forward_hook(after, with_kwargs=True), inputs)
    assert yielded is not None, "the hook is given the output"
    return read, yielded


def calls_of(model: nn.Module, layers: Iterable[str], inputs: tuple[Tensor, ...]) -> list[str]:
    """The names among ``layers`` in the order in which a pass calls them, one called twice twice."""
    calls: list[str] = []
    hooks = [
        model.get_submodule(name).register_forward_pre_hook(lambda _module, _args, name=name: calls.append(name))
        for name in layers
    ]
    try:
        with torch.no_grad():
            model(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _input(args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> Tensor:
    return args[0] if args else kwargs["input"]


def _values(model: nn.Module, hook: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor | None]:
    try:
        with torch.no_grad():
            model(*inputs)
    except _Reached as reached:
        return reached.values
    finally:
        hook.remove()
    raise AssertionError("the layer is called once in a pass")
