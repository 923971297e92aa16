"""The size of images that a network takes, for data whose images can be brought to any."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..data import DataConfig, sizes_of_images
from ..data.partition import LARGEST_SIDE, MOST_CHANNELS
from ..errors import InvalidInput
from ..siblings import models
from ..sources import artifact
from ..sources.load import has_large_images
from ..sources.specification import Source, parse

Shape = tuple[int, ...]


def sized(config: DataConfig, networks: Iterable[str], input_shapes: tuple[Shape, ...] = ()) -> DataConfig:
    """``config`` with the size and the channels of the images that are taken, where it says none itself.

    Shapes that were typed come first, then what the first of the networks knows that knows any: an artifact the inputs
    that it stores, an ONNX file those that it declares, a network of the zoo the images that it is made for. What is
    left out still is up to the images; see :func:`compress.data.load`.

    Args:
        networks: as a user names them.
        input_shapes: of the inputs, each with its batch.

    Raises:
        InvalidInput: images are not of that size; or a network of the zoo is to take those of a folder without any.
    """
    if config.size is not None or not (config.source == "digits" or Path(config.source).is_dir()):
        return config
    if input_shapes:
        image = _image(input_shapes)
        return config if image is None else _with(config, *image)
    for network in networks:
        known = _known(network, config)
        if known is not None:
            return _with(config, *known)
    return config


def _with(config: DataConfig, channels: int | None, height: int, width: int) -> DataConfig:
    if max(height, width) > LARGEST_SIDE or (channels or 1) > MOST_CHANNELS:
        raise InvalidInput(
            f"data {config.source}: images can have {MOST_CHANNELS} channels and sides of {LARGEST_SIDE} at most, and "
            f"these are to be {channels}x{height}x{width}; check --input-shape"
        )
    size = height if height == width else (height, width)
    return config.model_copy(update={"size": size, "channels": config.channels or channels})


def _known(network: str, config: DataConfig) -> tuple[int | None, int, int] | None:
    """Channels (None where the images tell), height and width of the images that ``network`` takes; None if unknown."""
    path = Path(network)
    if artifact.is_artifact(path):
        return _image(tuple(tuple(x.shape) for x in artifact.stored_inputs(path)))
    try:
        source = parse(network)
    except InvalidInput:
        return None  # it is told of where the network is opened
    if source.kind == "onnx":
        from ..sources.onnx_import import example_inputs_of

        try:
            return _image(tuple(tuple(x.shape) for x in example_inputs_of(Path(source.name))))
        except InvalidInput:
            return None  # sizes that the file leaves open; what else is wrong is told of where it is opened
    return _of_zoo(source, Path(config.source)) if source.kind == "zoo" and config.source != "digits" else None


def _image(shapes: tuple[Shape, ...]) -> tuple[int, int, int] | None:
    """Channels, height and width, where there is one input, and it is an image."""
    if len(shapes) != 1 or len(shapes[0]) != 4:
        return None
    _, channels, height, width = shapes[0]
    return channels, height, width


def _of_zoo(source: Source, folder: Path) -> tuple[int | None, int, int] | None:
    """The images of the form that is built for those of ``folder``; None where these are squares of one size.

    A network of the zoo takes squares of many sizes, so that such images, which someone prepared, stay as they are;
    unless its options name the size.
    """
    chosen = dict(source.options)
    sizes = sizes_of_images(folder)
    if "image_size" not in chosen and len(sizes) == 1 and all(height == width for height, width in sizes):
        return None
    if "small_images" in models.options(source.name):
        chosen.setdefault("small_images", not has_large_images(max(sizes)))
    _, height, width = models.input_shape(source.name, **chosen)
    return chosen.get("in_channels"), height, width
