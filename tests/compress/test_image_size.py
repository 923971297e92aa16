"""Images of a folder, and digits, take the size that a network is known to take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from compress import Recipe, run
from compress.data import DataConfig, load, sizes_of_images
from compress.errors import InvalidInput
from compress.pipeline import open_network, sized
from compress.sources import artifact
from tests.support.command_line import runner

VARIED = ((20, 30), (26, 18), (40, 40))


def folder(root: Path, sizes: Sequence[tuple[int, int]]) -> str:
    """Noise in images of ``sizes``, (height, width), in turn: two classes of twelve, and of two to test with."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 2)):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = generator.integers(0, 256, (*sizes[i % len(sizes)], 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i:02}.png")
    return str(root)


def onnx_file(path: Path, shape: Sequence[int | str], channels: int) -> str:
    """A convolution of 1x1 to two classes, which are the means over the image."""
    weight = np.random.default_rng(0).normal(size=(2, channels, 1, 1)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["maps"]),
        helper.make_node("GlobalAveragePool", ["maps"], ["means"]),
        helper.make_node("Flatten", ["means"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "means",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [shape[0], 2])],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), str(path))
    return str(path)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> str:
    return folder(tmp_path_factory.mktemp("photos"), VARIED)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An artifact whose inputs are (1, 3, 24, 24)."""
    path = tmp_path_factory.mktemp("made") / "artifact"
    artifact.save(open_network("resnet20:width=4,num_classes=2", input_shapes=((1, 3, 24, 24),)), path)
    return str(path)


def test_sizes_are_those_of_the_images(photos: str) -> None:
    assert sizes_of_images(Path(photos)) == set(VARIED)


def test_an_artifact_tells_size_and_channels(photos: str, made: str) -> None:
    config = sized(DataConfig(source=photos), [made])
    assert (config.size, config.channels) == (24, 3)
    assert load(config).example(4).shape == (4, 3, 24, 24)
    assert load(sized(DataConfig(source="digits"), [made])).example(4).shape == (4, 3, 24, 24)


@pytest.mark.parametrize(("shape", "expected"), [([1, 1, 20, 28], (20, 28)), (["n", 1, 16, 16], 16)])
def test_an_onnx_file_tells_size_and_channels(
    tmp_path: Path, photos: str, shape: list[int | str], expected: int | tuple[int, int]
) -> None:
    config = sized(DataConfig(source=photos), [onnx_file(tmp_path / "net.onnx", shape, channels=1)])
    assert (config.size, config.channels) == (expected, 1)
    assert load(config).example(2).shape[1:] == (1, *((expected, expected) if isinstance(expected, int) else expected))


@pytest.mark.parametrize(
    ("network", "sizes", "expected"),
    [
        ("resnet18", VARIED, 32),
        ("resnet18", ((100, 120), (120, 100)), 224),
        ("resnet18:small_images=False", VARIED, 224),
        ("resnet18", ((48, 48),), None),  # as they are
        ("resnet20", ((100, 120),), 32),
        ("vit_tiny:image_size=64", ((48, 48),), 64),
    ],
)
def test_the_zoo_tells_the_size_unless_all_images_are_squares_of_one(
    tmp_path: Path, network: str, sizes: Sequence[tuple[int, int]], expected: int | None
) -> None:
    config = sized(DataConfig(source=folder(tmp_path, sizes)), [network])
    assert (config.size, config.channels) == (expected, None)


def test_what_is_typed_and_what_the_data_says_go_first(photos: str, made: str) -> None:
    assert sized(DataConfig(source=photos), [made], ((1, 1, 20, 12),)).size == (20, 12)
    assert sized(DataConfig(source=photos, size=7), [made]).size == 7
    with pytest.raises(InvalidInput, match=r"sides of 16384 at most, and these are to be 3x1x99999; .*--input-shape"):
        sized(DataConfig(source=photos), [made], ((1, 3, 1, 99999),))


def test_the_size_is_asked_for_where_nothing_tells_it(tmp_path: Path, photos: str) -> None:
    open_sizes = onnx_file(tmp_path / "net.onnx", ["n", 3, "height", "width"], channels=3)
    for network in (open_sizes, "net.py:build"):
        config = sized(DataConfig(source=photos), [network])
        assert config.size is None
        with pytest.raises(InvalidInput, match=r"different sizes \(20x30, 26x18, 40x40\).*give --input-shape"):
            load(config)
    assert load(folder(tmp_path / "alike", ((20, 30),))).example().shape == (1, 3, 20, 30)


def test_no_shape_is_needed_on_the_command_line(
    tmp_path: Path, photos: str, made: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    compress: Callable[..., str] = runner(monkeypatch, capfd)
    compress(f"quantize {made} --data {photos} -o {tmp_path / 'int8'}")
    quantized = artifact.load(tmp_path / "int8")
    assert quantized.encodings and quantized.example_inputs[0].shape[1:] == (3, 24, 24)


def test_a_recipe_takes_the_size_of_its_network(tmp_path: Path, photos: str, made: str) -> None:
    recipe = Recipe.model_validate({"model": made, "data": {"source": photos}, "stages": ["fold"]})
    report = run(recipe, tmp_path / "run")
    assert report.stages[0].after.score is not None
    assert artifact.load(tmp_path / "run" / "1-fold").example_inputs[0].shape[1:] == (3, 24, 24)
