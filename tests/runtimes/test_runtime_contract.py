"""Every engine with a file in ``engines/`` keeps the contract of `runtimes.runtime`; new ones are found by name."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export.facts import formats
from export.format import Job, exporter
from runtimes.errors import EngineMissing, InvalidInputs, InvalidModel
from runtimes.facts import describe, engine_of, engines
from runtimes.runtime import (
    ExecutedGraph,
    Options,
    Runtime,
    TensorSpec,
    available,
    check_inputs,
    engine_named,
    load,
    random_inputs,
    size_bytes,
)

INSTALLED = [engine for engine in engines() if available(engine)[0] is not None]


@pytest.fixture(scope="module")
def samples(
    tmp_path_factory: pytest.TempPathFactory, linear_layer: tuple[np.ndarray, np.ndarray]
) -> Callable[[str], Path]:
    """A folder with the linear network, (N, 4) -> (N, 5), as the exporter for an engine writes it; ``sample.*``."""
    known = {each.engine: each for each in formats().values()}
    weight, bias = linear_layer
    linear = torch.nn.Linear(4, 5)
    linear.load_state_dict({"weight": torch.from_numpy(weight.T.copy()), "bias": torch.from_numpy(bias)})
    network = torch.nn.Sequential(linear, torch.nn.ReLU()).eval()

    @cache
    def write(engine: str) -> Path:
        # An engine without a format of its own runs files of the engine that it builds on.
        form = known.get(engine) or known[describe(engine).package]
        suffix = form.suffix if form.engine == engine else describe(engine).suffixes[0]
        folder = tmp_path_factory.mktemp(engine)
        job = Job(network, (torch.zeros(1, 4),), form.targets[0])
        exporter(form.name).export(job, folder / f"sample{suffix}")
        return folder

    return write


@pytest.fixture
def sample(samples: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """The linear network in the format of an engine: a copy that a test may damage."""

    def make(engine: str) -> Path:
        shutil.copytree(samples(engine), tmp_path, dirs_exist_ok=True)
        return next(file for file in tmp_path.iterdir() if file.name.endswith(describe(engine).suffixes))

    return make


def test_engines_are_the_files_in_backends() -> None:
    folder = Path(importlib.import_module("runtimes.engines").__file__ or "").parent
    files = [file.stem for file in folder.iterdir() if file.suffix == ".py" and file.stem != "__init__"]
    assert engines() == tuple(sorted(file.replace("_", "-") for file in files))
    assert "onnxruntime" in engines()


@pytest.mark.parametrize("engine", engines())
def test_engine_declares_what_it_is(engine: str) -> None:
    facts = describe(engine)
    assert facts.suffixes and all(suffix.startswith(".") and suffix == suffix.lower() for suffix in facts.suffixes)
    assert facts.install.startswith("pip install ")
    assert facts.package in facts.install or f"edgepress[{engine}]" in facts.install


@pytest.mark.parametrize("engine", engines())
def test_engine_is_available_or_says_how_to_install_it(engine: str) -> None:
    version, reason = available(engine)
    assert (version is None) != (reason == "")
    assert version is not None or describe(engine).install in reason


@pytest.mark.parametrize("engine", INSTALLED)
def test_engine_runs_the_sample(engine: str, sample: Callable[[str], Path], reference: Callable[..., Any]) -> None:
    file = sample(engine)
    runtime = load(file, engine, Options(threads=2))
    assert isinstance(runtime, Runtime)
    assert [(spec.shape[1:], spec.dtype) for spec in runtime.inputs] == [((4,), "float32")]
    assert [(spec.shape[1:], spec.dtype) for spec in runtime.outputs] == [((5,), "float32")]
    assert runtime.inputs[0].shape[0] is None, "the batch is open wherever the engine or its adapter can have it so"
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    outputs = runtime.run({runtime.inputs[0].name: x})
    assert list(outputs) == [spec.name for spec in runtime.outputs]
    np.testing.assert_allclose(outputs[runtime.outputs[0].name], reference(x), rtol=1e-5, atol=1e-6)
    graph = runtime.executed_graph()
    assert graph is None or graph.float >= 1
    assert graph is None or sum(graph.providers.values()) == len(graph.nodes), "each node has a provider"
    assert graph is None or ExecutedGraph.from_json(json.loads(json.dumps(graph.to_json()))) == graph
    runtime.close()
    runtime.close()
    with pytest.raises(InvalidModel, match="closed"):
        runtime.run({runtime.inputs[0].name: x})
    assert size_bytes(file, engine) >= file.stat().st_size


@pytest.mark.parametrize("engine", INSTALLED)
@pytest.mark.parametrize(
    "change",
    [
        lambda name, x: {f"not_{name}": x},
        lambda name, x: {name: x, "more": x},
        lambda _name, _x: {},
        lambda name, x: {name: x[:, :3]},
        lambda name, x: {name: x[0]},
        lambda name, x: {name: x.astype(np.float64)},
        lambda name, x: {name: x.tolist()},
        lambda name, x: {name: x.astype(x.dtype.newbyteorder())},
    ],
    ids=["name", "one too many", "none", "width", "rank", "dtype", "list", "byte order"],
)
def test_engine_refuses_wrong_inputs(engine: str, change: Callable[..., Any], sample: Callable[[str], Path]) -> None:
    runtime = load(sample(engine), engine)
    with pytest.raises(InvalidInputs, match="expected") as caught:
        runtime.run(change(runtime.inputs[0].name, np.zeros((2, 4), np.float32)))
    assert "\n" not in str(caught.value) and isinstance(caught.value, ValueError)


@pytest.mark.parametrize("engine", INSTALLED)
@pytest.mark.parametrize("content", [b"", b"\0" * 64, b"not a model at all\n" * 50], ids=["empty", "zeros", "text"])
def test_engine_refuses_what_is_no_model(engine: str, content: bytes, tmp_path: Path) -> None:
    file = tmp_path / f"bad{describe(engine).suffixes[0]}"
    file.write_bytes(content)
    with pytest.raises(InvalidModel, match="bad") as caught:
        load(file, engine)
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2


@pytest.mark.parametrize("engine", INSTALLED)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_engine_refuses_a_truncated_file(engine: str, share: float, sample: Callable[[str], Path]) -> None:
    file = sample(engine)
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(InvalidModel, match="sample") as caught:
        load(file, engine)
    assert "\n" not in str(caught.value)


def test_missing_file_folder_and_unknown_suffix(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match="cannot be read"):
        load(tmp_path / "none.onnx")
    with pytest.raises(InvalidModel, match="folder"):
        load(tmp_path)
    (tmp_path / "net.xyz").write_bytes(b"x")
    with pytest.raises(InvalidModel, match=r"\.onnx"):
        load(tmp_path / "net.xyz")


def test_suffix_names_the_engine() -> None:
    assert engine_of(Path("a/net.onnx")) == engine_of(Path("NET.ONNX")) == "onnxruntime"


def test_unknown_engine_lists_the_known_ones(linear: Path) -> None:
    with pytest.raises(InvalidInputs, match="onnxruntime"):
        load(linear, "nonesuch")


def test_threads_are_checked() -> None:
    with pytest.raises(InvalidInputs, match="threads"):
        Options(threads=0)


@pytest.mark.parametrize("engine", engines())
def test_missing_package_gives_the_install_line(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, f"runtimes.engines.{engine}", raising=False)
    monkeypatch.setitem(sys.modules, describe(engine).package.replace("-", "_"), None)
    with pytest.raises(EngineMissing) as caught:
        engine_named(engine)
    assert describe(engine).install in str(caught.value) and caught.value.exit_code == 3
    assert available(engine) == (None, str(caught.value))


def test_listing_engines_imports_none_of_them() -> None:
    code = (
        "import sys; from runtimes.facts import describe, engines; import runtimes.measure.benchmark; "
        "import runtimes.checks.check; "
        "packages = [describe(engine).package for engine in engines()]; "
        "print(sorted(set(sys.modules) & {*packages, 'torch', 'compress', 'onnx', 'pydantic'}))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


def test_random_inputs_follow_the_specs() -> None:
    specs = (
        TensorSpec("image", (None, 3, 8, 8), "float32"),
        TensorSpec("half", (2, 3), "float16"),
        TensorSpec("bytes", (None, 1000), "uint8"),
        TensorSpec("tokens", (1, 1000), "int64"),
        TensorSpec("mask", (None, 5), "bool"),
        TensorSpec("scalar", (), "float32"),
    )
    made = random_inputs(specs, seed=7)
    check_inputs(specs, made)
    assert made["image"].shape == (1, 3, 8, 8)
    assert (made["bytes"].min(), made["bytes"].max()) == (0, 255)
    assert set(np.unique(made["tokens"])) == {0, 1}
    again, other = random_inputs(specs, seed=7), random_inputs(specs, seed=8)
    assert all(np.array_equal(made[name], again[name]) for name in made)
    assert not np.array_equal(made["image"], other["image"])


@pytest.mark.parametrize(
    "spec",
    [
        TensorSpec("x", (None, 3, None, None), "float32"),
        TensorSpec("x", (1,), "bfloat16"),
        TensorSpec("x", (1,), "object"),
    ],
)
def test_random_inputs_guess_nothing(spec: TensorSpec) -> None:
    with pytest.raises(InvalidInputs, match="give the inputs"):
        random_inputs([spec])
