"""The registry of the zoo: names to builders, filled by the architecture files of this folder."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from pathlib import Path

from torch import nn

SMALL, LARGE = 32, 224
"""Sides of the images of the two forms."""

Builder = Callable[..., nn.Module]
_BUILDERS: dict[str, Builder] = {}
_DETECTORS: set[str] = set()


def register(name: str, builder: Builder, *, detects: bool = False) -> None:
    """Make ``name`` known; a name can be taken once.

    Args:
        detects: whether it gives boxes and scores of places, instead of one score for each class.

    Raises:
        ValueError: ``name`` is taken.
    """
    if name in _BUILDERS:
        raise ValueError(f"the zoo has a network named {name!r} already")
    _BUILDERS[name] = builder
    if detects:
        _DETECTORS.add(name)


def _import_architectures() -> None:
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if module.name != "zoo":
            importlib.import_module(f"{__package__}.{module.name}")


def names() -> tuple[str, ...]:
    """The names of all networks, sorted."""
    _import_architectures()
    return tuple(sorted(_BUILDERS))


def detectors() -> frozenset[str]:
    """The names of the networks that give boxes (N, A, 4) and scores (N, A, classes) instead of (N, classes)."""
    _import_architectures()
    return frozenset(_DETECTORS)


def options(name: str) -> frozenset[str]:
    """The keywords that the builder of ``name`` takes; raises KeyError where there is none."""
    _import_architectures()
    return frozenset(inspect.signature(_BUILDERS[name]).parameters)


def input_shape(name: str, **chosen: object) -> tuple[int, int, int]:
    """The channels, height and width of the images that a network takes which is built with these options.

    >>> input_shape("resnet20"), input_shape("resnet50", small_images=False, in_channels=1)
    ((3, 32, 32), (1, 224, 224))

    Raises:
        KeyError: no such name.
    """
    _import_architectures()
    taken = inspect.signature(_BUILDERS[name]).parameters
    settings = {option: parameter.default for option, parameter in taken.items()} | chosen
    side = settings.get("image_size") or (SMALL if settings.get("small_images", True) else LARGE)
    return settings["in_channels"], *sides(side)


def sides(image_size: int | str) -> tuple[int, int]:
    """Height and width of images, of their side or of both.

    >>> sides(256), sides("192x256")
    ((256, 256), (192, 256))

    Raises:
        ValueError: it is neither.
    """
    if isinstance(image_size, int):
        return image_size, image_size
    height, _, width = image_size.partition("x")
    if not height.isdecimal() or not width.isdecimal():
        raise ValueError(f"image_size: expected a side, as 256, or height and width, as 192x256, got {image_size}")
    return int(height), int(width)


def build(name: str, **options: object) -> nn.Module:
    """The network called ``name``, with random weights, in training mode.

    Args:
        name: one of :func:`names`.
        options: the builder's keywords; all take ``num_classes`` and ``in_channels``.

    Raises:
        KeyError: no such name.
        TypeError: the builder has no such option.
    """
    _import_architectures()
    return _BUILDERS[name](**options)
