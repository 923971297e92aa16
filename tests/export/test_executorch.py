"""ExecuTorch programs, run by ExecuTorch and held against torch, and read with ExecuTorch's own reader."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from compress.errors import InvalidInput
from compress.integers.plan import plan
from compress.quantize import Quantize, simulate
from export.decomposed import in_integers, operations
from export.facts import formats
from export.format import Exported, Job, exporter
from runtimes.runtime import load
from tests.support.small_networks import Joined, Tokens, context_on, made, snr_db

pytest.importorskip("executorch")


class Small(nn.Module):
    """Two convolutions, a sum, an average and a classifier: (N, 3, 8, 8) -> (N, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.classify = nn.Linear(8, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = torch.relu(self.stem(image))
        logits: Tensor = self.classify((x + self.depthwise(x)).mean((2, 3)))
        return logits


class Mobile(nn.Module):
    """A hard swish, channels split and shuffled, a squeeze-and-excitation gate, averages without their dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.swish = nn.Hardswish()
        self.branch = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.squeeze = nn.Conv2d(8, 8, 1)
        self.gate = nn.Hardsigmoid()
        self.drop = nn.Dropout()
        self.classify = nn.Linear(8, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = self.swish(self.stem(image))
        left, right = x.chunk(2, 1)
        x = torch.cat([left, torch.relu(self.branch(right))], 1)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)
        x = x * self.gate(self.squeeze(x.mean((2, 3), keepdim=True)))
        logits: Tensor = self.classify(self.drop(x.mean((2, 3))))
        return logits


@cache
def quantized(kind: type[nn.Module], scheme: str = "int8") -> tuple[Any, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The network with its encodings, samples, and an example of its input."""
    if kind in (Small, Mobile):
        torch.manual_seed(0)
        model: nn.Module = kind().eval()
        inputs: tuple[Tensor, ...] = (torch.randn(32, 3, 8, 8),)
        context = context_on(inputs)
    else:
        model, inputs, context = made(kind)
    return Quantize(scheme=scheme).apply(model, context), inputs, context.example_inputs


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    """One network in 16 and in 8 bits; the engine's tests have one in float."""
    folder = tmp_path_factory.mktemp("executorch") / "new"
    found = {}
    for name in ("fp16", "int8"):
        result, _, example = quantized(Small, name)
        labels = ("ant", "é", "c", "d", "e") if name == "int8" else ()
        job = Job(
            result.model, example, "executorch", encodings=result.encodings, labels=labels, metadata={"made": name}
        )
        found[name] = exporter("executorch").export(job, folder / f"{name}.pte")
    return found


def run(file: Path, inputs: tuple[Tensor, ...]) -> Tensor:
    engine = load(file)
    try:
        outputs = engine.run({f"input_{place}": x.numpy() for place, x in enumerate(inputs)})
        return torch.from_numpy(outputs["output_0"])
    finally:
        engine.close()


@pytest.mark.parametrize(("name", "least_snr_db"), [("fp16", 50), ("int8", 35)])
@pytest.mark.parametrize("batch", [1, 7])
def test_programs_compute_what_torch_computes(
    name: str, least_snr_db: float, batch: int, programs: dict[str, Exported]
) -> None:
    result, inputs, example = quantized(Small, "fp16" if name == "fp16" else "int8")
    network = result.model
    if name == "int8":
        network = simulate(result.model, result.encodings, example, target="executorch")
    some = (inputs[0][:batch],)
    with torch.no_grad():
        assert snr_db(network(*some), run(programs[name].file, some)) > least_snr_db


def test_accounts(programs: dict[str, Exported]) -> None:
    for name, written in programs.items():
        assert (written.format, written.inputs, written.outputs) == ("executorch", ("input_0",), ("output_0",))
        assert written.size_bytes == written.file.stat().st_size
        assert written.notes == (), f"{name}: XNNPACK takes over all of it, with a batch that varies"
        assert written.file.stat().st_mode & 0o777 == 0o644
    assert sorted(each.name for each in programs["int8"].file.parent.iterdir()) == ["fp16.pte", "int8.pte"]
    assert formats()["executorch"].suffix == ".pte"


def test_everything_is_delegated_and_types_are_as_asked(programs: dict[str, Exported]) -> None:
    from executorch.exir._serialize._program import deserialize_pte_binary

    for name, written in programs.items():
        program = deserialize_pte_binary(written.file.read_bytes()).program
        plan = next(plan for plan in program.execution_plan if plan.name == "forward")
        assert [delegate.id for delegate in plan.delegates] == ["XnnpackBackend"]
        assert [each.name for each in plan.operators] == ["dim_order_ops::_to_dim_order_copy"] * (name == "fp16")
    graphs = {name: load(written.file).executed_graph() for name, written in programs.items()}
    assert all(graph is not None for graph in graphs.values())
    kinds = {name: (graph.integer, graph.float) for name, graph in graphs.items() if graph is not None}
    assert kinds["int8"] == (5, 0), "two convolutions, a sum, an average and the linear layer"
    assert kinds["fp16"] == (0, 5)


def test_weights_are_stored_in_their_type(programs: dict[str, Exported]) -> None:
    """XNNPACK's constants are in the program by their content."""
    result, _, example = quantized(Small)
    weight = result.model.stem.weight.detach()
    last = {name: written.file.read_bytes() for name, written in programs.items()}
    nhwc = weight.permute(0, 2, 3, 1).contiguous().numpy()
    assert nhwc.astype(np.float16).tobytes() in last["fp16"]
    module = in_integers(plan(result.model, example, result.encodings, "executorch"))
    stored = [buffer for name, buffer in module.named_buffers() if buffer.dtype == torch.int8 and buffer.ndim == 4]
    assert len(stored) == 2
    assert stored[0].permute(0, 2, 3, 1).contiguous().numpy().tobytes() in last["int8"]


def test_texts_are_methods_of_the_program(programs: dict[str, Exported]) -> None:
    from executorch.extension.pybindings import portable_lib

    program = portable_lib._load_program(str(programs["int8"].file))
    assert program.load_method("labels")([]) == ['["ant", "é", "c", "d", "e"]']
    assert program.load_method("metadata")([]) == ['{"made": "int8"}']


@pytest.mark.parametrize("kind", [Joined, Tokens, Mobile], ids=lambda kind: kind.__name__)
def test_rewriting_changes_no_value(kind: type[nn.Module]) -> None:
    from export.executorch.xnnpack import rewrite

    result, inputs, example = quantized(kind)  # type: ignore[arg-type]
    module = in_integers(plan(result.model, example, result.encodings, "executorch"))
    functional = torch.export.export(module, example, strict=False).run_decompositions({}).module(check_guards=False)
    rewritten = GraphModule(functional, functional.graph)
    rewrite(rewritten)
    with torch.no_grad():
        before, after = module(inputs[0][:1]), rewritten(inputs[0][:1])
    assert snr_db(before, after) > 30, "but for linear layers, whose input is rounded anew"
    targets = {node.target for node in rewritten.graph.nodes}
    dequantize = operations.dequantize_per_tensor.default
    readers = [{user.target for user in node.users} for node in rewritten.graph.nodes if node.target is dequantize]
    assert all(len(each) == 1 or operations.choose_qparams.tensor in each for each in readers)
    assert not targets & {torch.ops.aten.chunk.default, torch.ops.aten.dropout.default, torch.ops.aten.clamp.default}
    if kind is Mobile:
        for node in rewritten.graph.nodes:
            if node.target in (torch.ops.aten.mul.Tensor, torch.ops.aten.cat.default, torch.ops.aten.add.Tensor):
                assert all(read.target is dequantize for read in node.all_input_nodes), f"{node}: runs in integers"


class Sorted(nn.Module):
    """An operation that XNNPACK does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cumsum(self.linear(x), 1)


class Unknown(nn.Module):
    """An operation that ExecuTorch has no kernel for."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.special.i0(x)


def test_what_xnnpack_leaves_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    model, x = Sorted().eval(), torch.randn(2, 4)
    job = Job(model, (x,), "executorch", dynamic_batch=False)
    written = exporter("executorch").export(job, tmp_path / "net.pte")
    load(written.file).close()
    told = capfd.readouterr()
    assert told.out == "" and told.err == ""
    assert len(written.notes) == 1
    assert "not by XNNPACK: cumsum (test_executorch.py:" in written.notes[0]
    assert "return torch.cumsum(self.linear(x), 1)" in written.notes[0]
    with torch.no_grad():
        assert torch.allclose(run(written.file, (x,)), model(x), atol=1e-6)
    assert load(written.file).inputs[0].shape == (2, 4)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"interface": "int8"}, "int8 inputs"),
        ({"model": Unknown(), "dynamic_batch": False}, r"no kernel for i0 \(test_executorch\.py:\d+: return"),
    ],
    ids=["interface", "operation"],
)
def test_what_cannot_be_written_leaves_nothing(settings: dict[str, Any], told: str, tmp_path: Path) -> None:
    result, _, example = quantized(Small)
    job = Job(**{"model": result.model, "example_inputs": example, "target": "executorch", **settings})
    with pytest.raises(InvalidInput, match=told) as caught:
        exporter("executorch").export(job, tmp_path / "net.pte")
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())
