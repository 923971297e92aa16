"""Files for TensorRT in NVIDIA's own parser and builder, which need no GPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import helper
from torch import Tensor, nn

from compress import deploy
from compress.deploy import builds
from compress.errors import GateFailed, InvalidInput
from compress.quantize import Quantize
from compress.sources.load import Network
from compress.sources.specification import Source
from export.facts import formats
from export.format import Job, exporter
from export.rules import check
from runtimes.tensorrt.layers import layers_logged
from tests.support.command_line import runner
from tests.support.small_networks import context_on
from tests.support.written_files import Written, rounded, saved

pytest.importorskip("tensorrt_rtx_bindings", reason="pip install edgepress[tensorrt-rtx], on Linux on x86-64")
GPU = ("sm86",)


class Residual(nn.Module):
    """Two convolutions, a sum and a linear layer: (N, 3, 8, 8) -> (N, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Linear(8, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = torch.relu(self.first(image))
        return self.last(torch.relu(x + self.second(x)).mean((2, 3)))


def network_of(model: nn.Module, x: Tensor) -> Network:
    return Network(model.eval(), Source("file", "net.py", "build"), example_inputs=(x,))


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    return network_of(Residual(), torch.randn(4, 3, 8, 8))


def in_numbers(network: Network, scheme: str) -> Network:
    result = Quantize(scheme=scheme).apply(network.model, context_on(network.example_inputs))
    return replace(network, model=result.model, encodings=dict(result.encodings))


@pytest.fixture(scope="module")
def folder(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network's files for TensorRT in float32, float16 and int8, and one for x86."""
    made = tmp_path_factory.mktemp("files")
    wanted = deploy.Wanted("onnx", "tensorrt")
    deploy.write_files(
        made,
        [
            deploy.Asked("float32", network, wanted),
            deploy.Asked("float16", in_numbers(network, "fp16"), wanted),
            deploy.Asked("int8", in_numbers(network, "int8"), wanted),
            deploy.Asked("x86", network, deploy.Wanted("onnx", "ort-x86")),
        ],
    )
    return made


def test_products_run_in_the_numbers_of_the_file(folder: Path) -> None:
    made = {build.file: build for build in builds.try_builds(folder, "tensorrt-rtx", GPU)}
    assert list(made) == ["float32.onnx", "float16.onnx", "int8.onnx"], "files for other targets are left out"
    assert all(build.trial.built and (build.trial.size_bytes or 0) > 10_000 for build in made.values())
    assert {file: build.trial.products for file, build in made.items()} == {
        "float32.onnx": {"float32": 3},
        "float16.onnx": {"float16": 3},
        "int8.onnx": {"int8": 3},
    }
    assert made["int8.onnx"].trial.in_float == () and len(made["float32.onnx"].trial.in_float) == 3
    assert made["int8.onnx"].trial.layers is not None and made["int8.onnx"].trial.layers > 3


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    return runner(monkeypatch, capfd)


def test_the_command_tells_and_fails_where_a_file_is_refused(run: Callable[..., str], folder: Path) -> None:
    told = json.loads(run(f"check {folder} --build tensorrt-rtx --gpu sm86 --json -q"))
    assert told["builder"] == "tensorrt-rtx" and [file["built"] for file in told["files"]] == [True] * 3
    assert told["files"][2]["products"] == {"int8": 3}
    error = run(f"check {folder / 'float32.onnx'} --build tensorrt-rtx --gpu turing -q", code=1)
    assert "1 of 1 files are not built: float32.onnx: " in error and "Cannot compile operation" in error


def test_what_the_command_refuses(run: Callable[..., str], folder: Path, network: Network, tmp_path: Path) -> None:
    error = run(f"check {folder} --build tensorrt-rtx --gpu volta", code=2)
    assert "GPU 'volta': expected some of sm75, " in error and "turing, ampere, ada, blackwell" in error
    assert "leave it out with --build" in run(f"check {folder} --build tensorrt-rtx --engine onnxruntime", code=2)
    assert "give --build as well" in run(f"check {folder} --gpu sm86", code=2)
    deploy.write_folder(network, tmp_path, [deploy.Wanted("onnx", "ort-x86")])
    with pytest.raises(InvalidInput, match=r"no ONNX file for tensorrt; export one: --format onnx --target tensorrt"):
        list(builds.try_builds(tmp_path, "tensorrt-rtx", GPU))


NUMBER = [
    *rounded("x", "a"),
    helper.make_node("DequantizeLinear", ["n", "s", "z"], ["nd"], name="restore"),
    helper.make_node("Add", ["a", "nd"], ["y"], name="plus"),
]
NUMBERS: dict[str, np.ndarray] = {
    "s": np.asarray(0.1, np.float32),
    "z": np.asarray(0, np.int8),
    "n": np.asarray(3, np.int8),
}


@pytest.mark.parametrize(
    "written",
    [
        Written(zero=3),
        Written(weight_zero=2, peak=100),
        Written(bias="int32"),
        Written(scale=0.0),
        Written(scale=float("nan")),
        None,
    ],
    ids=["zero point", "zero point of a weight", "bias in integers", "scale of 0", "no scale", "number in integers"],
)
def test_what_the_rules_refuse_the_builder_refuses(written: Written | None, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    file = saved(NUMBER, NUMBERS, path, fixed=True) if written is None else written.save(path)
    assert "refused" in {violation.effect for violation in check(file, "tensorrt")}
    (build,) = builds.try_builds(file, "tensorrt-rtx", GPU)
    assert not build.trial.built and build.trial.products is None and build.trial.message
    assert builds.row(build)[2:4] == ("REFUSED", "-") and builds.notes(build) == (build.trial.message,)


def test_the_parser_names_the_node_that_it_refuses(tmp_path: Path) -> None:
    (build,) = builds.try_builds(Written(bias="int32").save(tmp_path / "net.onnx"), "tensorrt-rtx", GPU)
    assert "parser refuses the network" in build.trial.message
    assert "node_of_bd" in build.trial.message and "(DequantizeLinear)" in build.trial.message


@pytest.mark.parametrize(
    ("written", "products"),
    [
        (Written(), {"int8": 1}),
        (Written(add="x"), {"int8": 1}),
        (Written(quantize_weight=True), {"int8": 1}),
        (Written(activation_scales=4), {"float32": 1}),
    ],
    ids=["as ours", "sum with a float", "weight rounded in the file", "scales per channel"],
)
def test_what_is_slow_is_built(written: Written, products: dict[str, int], tmp_path: Path) -> None:
    file = written.save(tmp_path / "net.onnx")
    assert {violation.effect for violation in check(file, "tensorrt")} <= {"slow"}
    (build,) = builds.try_builds(file, "tensorrt-rtx", GPU)
    assert build.trial.products == products


def test_numbers_beside_integers_stay_in_float(tmp_path: Path) -> None:
    """As the 3 in a hard swish, which ONNX Runtime wants as an integer."""

    class Swish(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, image: Tensor) -> Tensor:
            return nn.functional.hardswish(self.conv(image))

    swish = in_numbers(network_of(Swish(), torch.randn(4, 3, 8, 8)), "int8")
    deploy.write_folder(swish, tmp_path, [deploy.Wanted("onnx", "tensorrt")])
    assert check(tmp_path / "model.onnx", "tensorrt") == ()
    (build,) = builds.try_builds(tmp_path, "tensorrt-rtx", GPU)
    assert build.trial.built and build.trial.products == {"int8": 1}


def test_an_engine_for_two_families(network: Network, tmp_path: Path) -> None:
    quantized = in_numbers(network, "int8")
    job = Job(quantized.model, quantized.example_inputs, "tensorrt", quantized.encodings, gpus=("sm86", "sm89"))
    account = exporter("tensorrt-rtx").export(job, tmp_path / "net.rtx.engine")
    assert account.file.stat().st_size == account.size_bytes > 10_000
    assert [file.name for file in tmp_path.iterdir()] == ["net.rtx.engine"]
    assert account.inputs == ("image",) and any("built for sm86, sm89" in note for note in account.notes)
    turing = Job(network.model, network.example_inputs, "tensorrt", gpus=("sm75",))
    with pytest.raises(GateFailed, match=r"cannot build the engine: .*Turing"):
        exporter("tensorrt-rtx").export(turing, tmp_path / "old.rtx.engine")
    assert not (tmp_path / "old.rtx.engine").exists()


def test_sizes_that_are_open(network: Network, tmp_path: Path) -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, image: Tensor) -> Tensor:
            return self.conv(image).mean((2, 3))

    pooled = network_of(Pooled(), network.example_inputs[0])
    deploy.write_folder(pooled, tmp_path, [deploy.Wanted("onnx", "tensorrt", dynamic_size=True)])
    (build,) = builds.try_builds(tmp_path, "tensorrt-rtx", GPU)
    assert build.trial.built, "the samples of the folder have a size"
    with pytest.raises(InvalidInput, match="its size is open"):
        list(builds.try_builds(tmp_path / "model.onnx", "tensorrt-rtx", GPU))


@pytest.mark.parametrize("message", [None, "", "Layers:", "Layers:\nsomething else", "Layers:\nName: a, LayerType: b"])
def test_a_log_that_is_written_otherwise_tells_nothing(message: str | None) -> None:
    assert layers_logged(message) is None


def test_facts() -> None:
    form = formats()["tensorrt-rtx"]
    assert form.gpus_named(("blackwell", "sm120")) == ("sm120", "sm121") and not form.portable
    with pytest.raises(InvalidInput, match="format onnx: GPU 'sm86': it is built for none by name"):
        formats()["onnx"].gpus_named(GPU)
