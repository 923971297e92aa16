"""ExecuTorch: a ``.pte`` program whose operations XNNPACK runs, as far as it has them.

The network is traced, written in PyTorch's quantize and dequantize operations where it is quantized, and lowered by
``to_edge_transform_and_lower``: https://docs.pytorch.org/executorch/stable/using-executorch-export.html. A program
knows its inputs and outputs by position: they are called ``input_0``, ... and ``output_0``, ....
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule, Node
from torch.fx.passes.infra.pass_base import PassBase, PassResult
from torch.utils._pytree import tree_leaves, tree_map

from compress.errors import InvalidInput
from compress.files.outputs import new_files
from compress.graph.trace import Graph, trace
from compress.stage import evaluation_copy

from ..decomposed import in_integers
from ..format import Exported, Job, NotConvertible
from ..quiet import quiet
from .xnnpack import rewrite

with quiet():
    from executorch.backends.xnnpack.operators import node_visitor
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import (
        EdgeCompileConfig,
        EdgeProgramManager,
        ExecutorchBackendConfig,
        ExecutorchProgramManager,
        to_edge_transform_and_lower,
    )
    from executorch.exir.passes import MemoryPlanningPass
    from executorch.exir.sym_util import eval_upper_bound
    from executorch.extension.pybindings import portable_lib

TITLE = "ExecuTorch"
SUFFIX = ".pte"
ENGINE = "executorch"
TARGETS = ("executorch",)
INSTALL = "pip install executorch"

MOST_SAMPLES = 256
"""Of a batch whose size varies: a program plans its memory, so there is a bound."""
MOST_PLANNED_BYTES = 2**26
"""That a program with such a batch sets aside."""

_VISITORS: dict[str, Any] = node_visitor._node_visitor_dict
_CONVOLUTION = "aten.convolution.default"
_BOOKKEEPING = frozenset({"executorch_call_delegate", "getitem", "sym_size"})
# Operations that XNNPACK takes over where no size of theirs varies.
_VARYING = frozenset({"slice_copy", "view_copy", "upsample_bilinear2d", "max_pool2d", "max_pool2d_with_indices"})
_CAST = "_to_dim_order_copy"


def export(job: Job, path: Path) -> Exported:
    """The account of the program that was written to ``path``.

    Raises:
        InvalidInput: the network cannot be traced or lowered, or not as asked; says where and what to do.
    """
    path = Path(path)
    _refuse(job, path)
    with quiet():
        network = _network(job)
        lowered = _Lowering(network, job, path).best()
        program = _program(lowered, job, path)
    with new_files(path, overwrite=True) as folder:
        (folder / path.name).write_bytes(program.buffer)
    return Exported(
        path,
        "executorch",
        len(program.buffer),
        inputs=tuple(f"input_{place}" for place in range(len(job.example_inputs))),
        outputs=tuple(f"output_{place}" for place in range(lowered.results)),
        notes=(*_stored_in_float32(job), *lowered.notes),
    )


def _refuse(job: Job, path: Path) -> None:
    """Raise InvalidInput where it is known beforehand that the engine cannot do what is asked."""
    if job.interface != "float32":
        raise InvalidInput(
            f"export {path}: {job.interface} inputs and outputs: ExecuTorch files are written in float32"
        )
    if any(each.kind == "integer" and each.bits <= 4 for each in job.encodings.values()):
        job.plan.require_products()


def _stored_in_float32(job: Job) -> tuple[str, ...]:
    """A note of shorter floats that the file does not have."""
    kinds = {encoding.kind for encoding in job.encodings.values()} - {"integer"}
    if job.in_half or not kinds:
        return ()
    return (f"{' and '.join(sorted(kinds))} weights are rounded, and stored in float32: XNNPACK would not run them",)


def _network(job: Job) -> nn.Module:
    """What is lowered: with the file's inputs and outputs, in the file's numbers."""
    network: nn.Module
    if job.in_half:
        network = evaluation_copy(job.model).half()
    elif job.encodings:
        network = in_integers(job.plan)
    else:
        network = evaluation_copy(job.model)
    plain = network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return _Interface(plain, half=job.in_half, channels_last=job.layout == "nhwc")


class _Interface(nn.Module):
    """A network with the inputs and outputs of its file."""

    def __init__(self, network: nn.Module, *, half: bool, channels_last: bool) -> None:
        super().__init__()
        self.network = network
        self.half_inside = half
        self.channels_last = channels_last

    def forward(self, *inputs: Tensor) -> Any:
        taken = [x.permute(0, 3, 1, 2) if self.channels_last and x.ndim == 4 else x for x in inputs]
        if not self.half_inside:
            return self.network(*taken)
        outputs = self.network(*(x.half() if x.is_floating_point() else x for x in taken))
        return tree_map(lambda y: y.float() if isinstance(y, Tensor) and y.dtype == torch.float16 else y, outputs)


@dataclass(frozen=True)
class _Lowered:
    """A lowered network: with a batch that varies or not, ``left`` to portable kernels what XNNPACK does not have."""

    edge: EdgeProgramManager
    results: int
    left: Mapping[str, int]
    planned_bytes: int
    notes: tuple[str, ...]


class _Lowering:
    def __init__(self, network: nn.Module, job: Job, path: Path) -> None:
        self.network, self.job, self.path = network, job, path
        permuted = job.layout == "nhwc"
        self.inputs = tuple(
            x.permute(0, 2, 3, 1).contiguous() if permuted and x.ndim == 4 else x.contiguous()
            for x in job.example_inputs
        )

    def best(self) -> _Lowered:
        """The network lowered with a batch that varies, if XNNPACK takes over all of that; else with a fixed one."""
        if not self.job.dynamic_batch:
            return self._named(self._lower(None))
        try:
            lowered = self._lower(Dim("batch", min=1, max=MOST_SAMPLES))
            lost = sorted(_VARYING & set(lowered.left))
            if not lost and lowered.planned_bytes <= MOST_PLANNED_BYTES:
                return self._named(lowered)
            named = ", ".join(name.removesuffix("_copy") for name in lost or lowered.left)
            reason = (
                f"with one that varies, {'XNNPACK would not take over' if lost else 'too much memory goes to'} {named}"
            )
        except InvalidInput:
            raise
        except Exception:  # noqa: BLE001 - whatever the reason, the fixed batch decides
            reason = "the network's code fixes it"
        fixed = self._lower(None)
        note = f"the batch size is fixed at {len(self.inputs[0])}: {reason}"
        return self._named(replace(fixed, notes=(*fixed.notes, note)))

    def _lower(self, batch: Any) -> _Lowered:
        """Raises whatever goes wrong; InvalidInput, explained, where the batch is fixed."""
        try:
            inputs, shapes = self._inputs(batch)
            together = None if shapes is None else (shapes,)  # forward has one argument: *inputs
            functional = torch.export.export(self.network, inputs, dynamic_shapes=together, strict=False)
            module = functional.run_decompositions({}).module(check_guards=False)
            module = GraphModule(module, module.graph)
            notes = rewrite(module)
            program = torch.export.export(module, inputs, dynamic_shapes=shapes, strict=False)
            with _half_filters():
                lowered = to_edge_transform_and_lower(
                    program,
                    transform_passes=[_Tidy()],
                    partitioner=[XnnpackPartitioner()],
                    constant_methods=_constants(self.job) or None,
                    compile_config=EdgeCompileConfig(_check_ir_validity=False),
                )
        except Exception as error:
            if batch is not None:
                raise
            raise NotConvertible(self.path, "the network cannot be lowered", _first_line(error)) from error
        results, made = len(program.graph_signature.user_outputs), lowered.exported_program()
        return _Lowered(lowered, results, _left(made), _planned_bytes(made), notes)

    def _inputs(self, batch: Any) -> tuple[tuple[Tensor, ...], tuple[Any, ...] | None]:
        """Tensors to trace with and which of their dimensions vary.

        As many samples as there may be: the choice of a convolution's backend would narrow the range around fewer.
        """
        if batch is None:
            return self.inputs, None
        samples = len(self.inputs[0]) if self.inputs[0].ndim else 0
        varies = [x.ndim > 0 and len(x) == samples for x in self.inputs]
        inputs = tuple(
            x.new_zeros((MOST_SAMPLES, *x.shape[1:])) if vary else x
            for x, vary in zip(self.inputs, varies, strict=True)
        )
        return inputs, tuple({0: batch} if vary else None for vary in varies)

    def _named(self, lowered: _Lowered) -> _Lowered:
        """With a note of what XNNPACK left."""
        names = {name: count for name, count in lowered.left.items() if name != _CAST or not self.job.in_half}
        if not names:
            return lowered
        graph = trace(self.job.model, self.job.example_inputs)
        left = ", ".join(_place(graph, name, count) for name, count in names.items())
        return replace(lowered, notes=(*lowered.notes, f"run by portable kernels, not by XNNPACK: {left}"))


class _Tidy(PassBase):
    """Reshapes to one size that varies infer it, which XNNPACK can; copies and expansions that change nothing go."""

    def call(self, graph_module: GraphModule) -> PassResult:
        for node in graph_module.graph.nodes:
            name = _operation(node) if node.op == "call_function" else ""
            if name == "view_copy":
                shape = [size if isinstance(size, int) else -1 for size in node.meta["val"].shape]
                if shape.count(-1) == 1:
                    node.args = (node.args[0], shape)
            elif name in ("expand_copy", "_clone_dim_order") and _changes_nothing(node):
                node.replace_all_uses_with(node.args[0])
        graph_module.graph.eliminate_dead_code()
        graph_module.recompile()
        return PassResult(graph_module, True)


def _changes_nothing(node: Any) -> bool:
    """Whether the result has the shape and the order in memory of what is read."""
    read, made = node.args[0].meta["val"], node.meta["val"]
    same: bool = read.shape == made.shape and read.dim_order() == made.dim_order()
    return same and node.args[0].op != "placeholder"


_Convolution: Any = _VISITORS[_CONVOLUTION]


class _HalfFilter(_Convolution):  # type: ignore[misc]
    """A convolution whose weights are stored as they are; the lowering would store float16 as float32."""

    def define_node(self, node: Node, *args: Any) -> None:
        self._as_stored = not node.args[6]  # of transposed ones XNNPACK has none in float16
        super().define_node(node, *args)

    def define_tensor(self, *args: Any, force_fp32: bool = False, **kwargs: Any) -> None:
        super().define_tensor(*args, force_fp32=force_fp32 and not self._as_stored, **kwargs)


@contextmanager
def _half_filters() -> Iterator[None]:
    """Inside, convolutions are lowered by `_HalfFilter`."""
    before = _VISITORS[_CONVOLUTION]
    _VISITORS[_CONVOLUTION] = _HalfFilter
    try:
        yield
    finally:
        _VISITORS[_CONVOLUTION] = before


def _constants(job: Job) -> dict[str, str]:
    """Texts in the file, as methods of the program that return them."""
    content = {"labels": list(job.labels), "metadata": dict(job.metadata)}
    return {name: json.dumps(value, ensure_ascii=False) for name, value in content.items() if value}


def _left(program: ExportedProgram) -> dict[str, int]:
    """How often each operation is called that no delegate has."""
    names = [_operation(node) for node in program.graph.nodes if node.op == "call_function"]
    return dict(Counter(name for name in names if name not in _BOOKKEEPING))


def _planned_bytes(program: ExportedProgram) -> int:
    """How much memory the program sets aside for what is computed outside of delegates, with the largest batch."""
    calls = [node for node in program.graph.nodes if node.op == "call_function" and _operation(node) in _left(program)]
    values = [value for node in calls for value in tree_leaves(node.meta.get("val")) if isinstance(value, Tensor)]
    return sum(math.prod(eval_upper_bound(size) for size in value.shape) * value.itemsize for value in values)


def _operation(node: Node) -> str:
    """The name of an operation without its namespace and overload: "topk"."""
    schema = getattr(node.target, "_schema", None)
    name = str(getattr(node.target, "__name__", node.target)) if schema is None else str(schema.name)
    return name.rpartition("::")[2]


def _place(graph: Graph, name: str, count: int) -> str:
    """An operation with the line of source that calls it first, where one does under this name."""
    base = name.removesuffix("_copy").strip("_")
    calls = [node for node in graph.calls() if f"_{_operation(node).strip('_')}".endswith(f"_{base}")]
    line = f"{base}, {count} times" if count > 1 else base
    return f"{line} ({graph.source(calls[0])})" if calls else line


def _program(lowered: _Lowered, job: Job, path: Path) -> ExecutorchProgramManager:
    """The program as it is stored. Raises InvalidInput where ExecuTorch has no kernel for an operation."""
    planning = MemoryPlanningPass(alloc_graph_input=False, alloc_graph_output=False)
    try:
        program = lowered.edge.to_executorch(ExecutorchBackendConfig(memory_planning_pass=planning))
    except Exception as error:
        missing = re.findall(r"'(\w+::\w+)'", str(error)) if "out variants" in str(error) else []
        if not missing:
            raise NotConvertible(path, "the network cannot be lowered", _first_line(error)) from error
        raise _without_kernel(missing, job, path) from error
    called = {
        operator.name + (f".{operator.overload}" if operator.overload else "")
        for plan in program.executorch_program.execution_plan
        for operator in plan.operators
    }
    missing = sorted(called - set(portable_lib._get_operator_names()))
    if missing:
        raise _without_kernel(missing, job, path)
    return program


def _without_kernel(operators: list[str], job: Job, path: Path) -> InvalidInput:
    graph = trace(job.model, job.example_inputs)
    named = ", ".join(_place(graph, name.rpartition("::")[2].partition(".")[0], 1) for name in operators)
    return InvalidInput(
        f"export {path}: ExecuTorch has no kernel for {named}; write it with other operations, or keep it out of the "
        f"network and compute it on the result"
    )


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error.__cause__ or error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
