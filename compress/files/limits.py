"""How much memory and arithmetic a file may ask for before its user has allowed it more."""

from __future__ import annotations

import math
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, ValuesView
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import flop_registry

from ..errors import InvalidInput
from .untrusted import OPTION, large_files

_MEMORY_BYTES = 1 << 30
_MULTIPLY_ADDS = 10**12
_PER_ELEMENT = 16  # multiply-adds that take as long as writing an element takes
_REPEATS = "aten::expand"  # a view here, which engines write out
_SHARES = frozenset({"aten::_unsafe_view", "aten::detach", "aten::_reshape_alias"})


class TooLarge(InvalidInput):
    """A file asks for more than a limit allows."""


def memory_limit() -> int | None:
    """The bytes that a file may have in use at a time, beside those that it stores; None where any may be."""
    return None if large_files() else _MEMORY_BYTES


def require_memory(size_bytes: int, what: str, *, held: int = 0, stored: int | None = None) -> None:
    """Raise TooLarge if ``what``, of a file, may not take so many bytes beside those that are ``held`` already.

    Args:
        stored: the bytes of a file whose content alone it is computed of: then it may take a few times as many, or
            a quarter of the limit.
    """
    limit = memory_limit()
    if limit is not None and stored is not None:
        limit = max(limit // 4, 4 * stored)
    if limit is not None and size_bytes + held > limit:
        beside = f" beside {_in_words(held)} that are in use" if held > limit // 100 else ""
        raise TooLarge(
            f"{what} would take {_in_words(size_bytes)}{beside}; the most is {_in_words(limit)}, add {OPTION} if you "
            "trust who wrote the file"
        )


def _in_words(size_bytes: int) -> str:
    size, units = float(size_bytes), ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB"]
    while size >= 1024 and len(units) > 1:
        size /= 1024
        units.pop(0)
    return f"{size:.3g} {units[0]}"


class Measured(TorchDispatchMode):
    """Within it, an operation of torch that would take more memory or arithmetic than a file may is not begun.

    The sizes that an operation yields are computed first, without values. Where they depend on values, it runs.

    Args:
        stored: as in :func:`require_memory`.
    """

    def __init__(self, stored: int | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.stored = stored
        self.held = 0
        self.multiply_adds = 0
        self._tensors: Counter[int] = Counter()
        self._sizes: dict[int, int] = {}
        self._found: dict[tuple[Any, str], tuple[list[tuple[int, int]], int]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """What ``func`` yields; raises TooLarge."""
        keywords = dict(kwargs or {})
        name = func._schema.name
        if not (func.is_view or func._schema.is_mutable or name in _SHARES) or name == _REPEATS:
            self._look_ahead(func, args, keywords)
        made = func(*args, **keywords)
        for tensor in _tensors(made):
            self._hold(tensor)
        return made

    def _look_ahead(self, func: Any, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        read = [*_tensors(args), *_tensors(keywords.values())]
        if torch.Tag.pointwise in func.tags:
            sizes, multiply_adds = _element_wise(read)
        else:
            called = tree_map_only(Tensor, lambda t: (t.shape, t.stride(), t.dtype), (args, keywords))
            key = (func, repr(called))
            if key not in self._found:
                self._found[key] = _on_meta(func, args, keywords)
            sizes, multiply_adds = self._found[key]
        taken = sum(count * each for count, each in sizes)
        require_memory(taken, f"what {_name(func)} yields", held=self.held, stored=self.stored)
        self.multiply_adds += multiply_adds
        self.multiply_adds += _PER_ELEMENT * (sum(t.numel() for t in read) + sum(count for count, _ in sizes))
        if memory_limit() is not None and self.multiply_adds > _MULTIPLY_ADDS:
            raise TooLarge(
                f"one run takes more than {_MULTIPLY_ADDS:.0e} multiply-adds; add {OPTION} if you trust who wrote the "
                "file"
            )

    def _hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        place = storage._cdata
        if place not in self._sizes:
            self._sizes[place] = storage.nbytes()
            self.held += self._sizes[place]
        self._tensors[place] += 1
        weakref.finalize(tensor, self._release, place).atexit = False

    def _release(self, place: int) -> None:
        self._tensors[place] -= 1
        if not self._tensors[place]:
            del self._tensors[place]
            self.held -= self._sizes.pop(place)


def _name(func: Any) -> str:
    return str(func._schema.name).removeprefix("aten::")


def _tensors(values: object) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (tuple, list, ValuesView)):
        for value in values:
            yield from _tensors(value)


def _element_wise(read: Sequence[Tensor]) -> tuple[list[tuple[int, int]], int]:
    """As :func:`_on_meta`, of an operation that takes element with element."""
    with suppress(RuntimeError):  # they do not fit: the operation says so itself
        shape = torch.broadcast_shapes(*(t.shape for t in read))
        return [(math.prod(shape), max((t.element_size() for t in read), default=1))], 0
    return [], 0


def _on_meta(func: Any, args: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[list[tuple[int, int]], int]:
    """Elements and bytes of each of what an operation yields, and its multiply-adds, computed without values."""
    with suppress(Exception):  # its sizes depend on values, or it fails: then it says so itself
        args, keywords = tree_map_only(Tensor, _without_values, (args, keywords))
        if "device" in keywords or next(_tensors((*args, *keywords.values())), None) is None:
            keywords = {**keywords, "device": torch.device("meta")}
        made = func(*args, **keywords)
        counted = flop_registry.get(func._overloadpacket)
        operations = counted(*args, **keywords, out_val=made) if counted is not None else 0
        return [(t.numel(), t.element_size()) for t in _tensors(made)], operations // 2
    return [], 0


def _without_values(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
