"""What is particular to ExecuTorch: its pool of threads, sizes that vary, damaged programs, and the reader of them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from runtimes.errors import EngineMissing, InvalidInputs, InvalidModel
from runtimes.files.flatbuffer import Schema
from runtimes.runtime import Options, engine_named, load, size_bytes

pytest.importorskip("executorch")


class Net(nn.Module):
    """Two inputs, one of them of integers: (N, 4) and (N, 1) -> (N, 5) twice."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        z = torch.relu(self.linear(x))
        return z, torch.cumsum(z, 1) + y


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    """A program, a part of which XNNPACK runs, and what it was made from."""
    import compress  # noqa: F401 - whole before a part of it is asked for by the exporters
    from export.format import Job, exporter

    torch.manual_seed(0)
    model = Net().eval()
    inputs = (torch.randn(2, 4), torch.ones(2, 1, dtype=torch.int64))
    path = tmp_path_factory.mktemp("executorch") / "net.pte"
    return exporter("executorch").export(Job(model, inputs, "executorch"), path).file, model


def feed(samples: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "input_0": rng.standard_normal((samples, 4)).astype(np.float32),
        "input_1": rng.integers(0, 9, (samples, 1)),
    }


def expected(model: nn.Module, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    with torch.no_grad():
        found = model(*(torch.from_numpy(value) for value in inputs.values()))
    return {f"output_{place}": value.numpy() for place, value in enumerate(found)}


def test_specs_and_outputs(program: tuple[Path, nn.Module]) -> None:
    file, model = program
    engine = load(file)
    assert [str(spec) for spec in engine.inputs] == ["input_0 float32[?, 4]", "input_1 int64[?, 1]"]
    assert [str(spec) for spec in engine.outputs] == ["output_0 float32[?, 5]", "output_1 float32[?, 5]"]
    for samples in (1, 3, 256):
        found, wanted = engine.run(feed(samples)), expected(model, feed(samples))
        assert list(found) == list(wanted)
        for name in wanted:
            np.testing.assert_allclose(found[name], wanted[name], rtol=1e-5, atol=1e-6)
    assert size_bytes(file) == file.stat().st_size


def test_outputs_are_the_callers_own(program: tuple[Path, nn.Module]) -> None:
    engine = load(program[0])
    first = engine.run(feed())["output_0"]
    kept = first.copy()
    engine.run({**feed(), "input_0": np.ones((3, 4), np.float32)})
    np.testing.assert_array_equal(first, kept)


def test_arrays_that_are_not_contiguous_or_not_writable(program: tuple[Path, nn.Module]) -> None:
    file, model = program
    inputs = feed()
    inputs["input_0"] = np.asfortranarray(inputs["input_0"])
    inputs["input_1"].flags.writeable = False
    found = load(file).run(inputs)["output_0"]
    np.testing.assert_allclose(found, expected(model, feed())["output_0"], rtol=1e-5, atol=1e-6)


def test_more_samples_than_the_program_has_room_for(program: tuple[Path, nn.Module]) -> None:
    with pytest.raises(InvalidInputs, match="expected at most 256 samples at once, got 257"):
        load(program[0]).run(feed(257))


def test_programs_with_other_threads_live_side_by_side(program: tuple[Path, nn.Module]) -> None:
    file, model = program
    wanted = expected(model, feed())["output_0"]
    engines = [load(file, options=Options(threads=threads)) for threads in (1, 2, 1, 3)]
    for engine in (*engines, *reversed(engines)):
        np.testing.assert_allclose(engine.run(feed())["output_0"], wanted, rtol=1e-5, atol=1e-6)
    pool = engine_named("executorch").portable_lib  # type: ignore[attr-defined]
    assert pool._threadpool_get_thread_count() == 1, "that of the program that ran last"


def test_executed_graph_tells_kernels_and_durations(program: tuple[Path, nn.Module]) -> None:
    graph = load(program[0]).executed_graph(feed(), runs=3)
    assert graph is not None
    kinds = {node.op: node.kind for node in graph.nodes}
    assert kinds["Fully Connected (NC, F32) GEMM"] == kinds["aten::cumsum"] == "float"
    assert all(node.duration_ms >= 0 for node in graph.nodes) and sum(node.duration_ms for node in graph.nodes) > 0
    assert len({node.name for node in graph.nodes}) == len(graph.nodes)
    assert set(graph.providers) == {"XnnpackBackend", "portable kernels"}
    assert "aten::cumsum" in [node.op for node in graph.nodes if node.fell_back]
    assert {node.provider for node in graph.nodes if node.fell_back} == {"portable kernels"}
    assert graph.fallback_share is not None and 0 <= graph.fallback_share <= 1


def test_executed_graph_without_the_profiler(program: tuple[Path, nn.Module]) -> None:
    engine = load(program[0])
    written = list(engine._program.written())  # type: ignore[attr-defined]
    assert [node.kind for node in written if node.op in ("FullyConnected", "aten::cumsum")] == ["float", "float"]


def test_profiling_leaves_nothing_behind(
    program: tuple[Path, nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    load(program[0]).executed_graph(feed())
    assert not list(tmp_path.iterdir())


def test_every_truncation_is_refused(program: tuple[Path, nn.Module], tmp_path: Path) -> None:
    content = program[0].read_bytes()
    for length in range(1, len(content), 97):
        (tmp_path / "cut.pte").write_bytes(content[:length])
        with pytest.raises(InvalidModel, match=r"cut\.pte") as caught:
            load(tmp_path / "cut.pte")
        assert "\n" not in str(caught.value)


def test_reader_agrees_with_executorchs_own(program: tuple[Path, nn.Module]) -> None:
    from executorch.exir._serialize._program import deserialize_pte_binary

    theirs = deserialize_pte_binary(program[0].read_bytes()).program.execution_plan[0]
    root = engine_named("executorch")._program_schema().read(program[0].read_bytes(), "Program")  # type: ignore[attr-defined]
    ours = root["execution_plan"][0]
    assert (ours["inputs"], ours["outputs"]) == (theirs.inputs, theirs.outputs)
    assert [each["name"] for each in ours["operators"]] == [each.name for each in theirs.operators]
    assert [each["id"] for each in ours["delegates"]] == [each.id for each in theirs.delegates]
    assert len(ours["values"]) == len(theirs.values)
    for place in theirs.inputs:
        value = ours["values"][place]["val"]
        assert value["sizes"] == list(theirs.values[place].val.sizes)
        assert value["scalar_type"] == theirs.values[place].val.scalar_type.name


@pytest.mark.parametrize("content", [b"", b"\0" * 3, b"\xff" * 64, b"no flatbuffer" * 9])
def test_reader_refuses_what_is_none(content: bytes) -> None:
    schema = Schema.parse("table T { name: string; rest: [T]; }")
    with pytest.raises(ValueError, match="T"):
        schema.read(content, "T")


def test_core_ml_runs_on_apples_systems_alone() -> None:
    if sys.platform == "darwin":
        pytest.skip("this is one")
    with pytest.raises(EngineMissing, match=r"runs on Apple's systems alone.*pip install coremltools") as caught:
        engine_named("coreml")
    assert "\n" not in str(caught.value)
