"""The property on networks drawn at random: what is left computes what the whole does without the channels removed."""

from __future__ import annotations

import copy
import json
from collections import Counter

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from compress.edits import from_json, replay, to_json
from compress.errors import InvalidInput
from compress.graph.trace import trace
from compress.prune import Prune
from compress.prune.channels.masked import masked_outputs
from compress.prune.channels.verify import readable
from compress.stage import Context, Edit, Result, evaluation_copy
from tests.support.generated_networks import program_through, programs
from tests.support.generated_operations import ANY, OPERATIONS, PRUNABLE
from tests.support.generated_program import Program
from tests.support.masked_by_hand import labels_cut

TOLERANCE = 1e-8
NOTHING = ("can be pruned", "nothing is removed")


class KeptLayerNorm(nn.Module):
    """Layer normalization (Ba et al., 2016, equation 4) with the statistics of the kept channels, zeros elsewhere."""

    def __init__(self, norm: nn.LayerNorm, kept: list[int]) -> None:
        super().__init__()
        self.norm, self.kept = norm, kept

    def forward(self, x: Tensor) -> Tensor:
        part = x[..., self.kept]
        centred = part - part.mean(-1, keepdim=True)
        scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + self.norm.eps).sqrt()
        y = torch.zeros_like(x)
        y[..., self.kept] = scaled * self.norm.weight[self.kept] + self.norm.bias[self.kept]
        return y


class KeptGroupNorm(nn.Module):
    """Group normalization (Wu and He, 2018, equation 7) with the statistics of each group's kept channels."""

    def __init__(self, norm: nn.GroupNorm, kept: list[int]) -> None:
        super().__init__()
        self.norm, self.kept = norm, kept

    def forward(self, x: Tensor) -> Tensor:
        y = torch.zeros_like(x)
        size = self.norm.num_channels // self.norm.num_groups
        for group in range(self.norm.num_groups):
            here = [c for c in self.kept if c // size == group]
            if here:
                part = x[:, here]
                centred = part - part.mean((1, 2, 3), keepdim=True)
                scaled = centred / (centred.pow(2).mean((1, 2, 3), keepdim=True) + self.norm.eps).sqrt()
                weight, bias = self.norm.weight[here], self.norm.bias[here]
                y[:, here] = scaled * weight[:, None, None] + bias[:, None, None]
        return y


def without(program: Program, model: nn.Module, edits: tuple[Edit, ...]) -> nn.Module:
    """A copy of the whole network that does not use what ``edits`` take away, told by the generator and not the pruner.

    Of every weight that consumes channels the slices of the removed ones are zero; so are the filters of removed
    channels of queries and keys, which meet each other and no weight; layer and group norms see the kept channels only.
    Values that are removed stay in the maps: wherever one of them still had an effect, the outputs would differ.
    """
    model = copy.deepcopy(model)
    for edit in edits:
        if edit.kind != "tensor":
            continue
        assert edit.kept is not None and edit.axis is not None
        name = f"{edit.layer}.{edit.what}".removeprefix(".")
        module = model.get_submodule(edit.layer)
        size = getattr(module, edit.what).shape[edit.axis]
        gone = torch.tensor([index for index in range(size) if index not in edit.kept], dtype=torch.long)
        consumes = program.consuming.get(name) == edit.axis
        if consumes or (edit.layer in program.vanishing and edit.axis == 0):
            with torch.no_grad():
                getattr(module, edit.what).index_fill_(edit.axis, gone, 0)
        if edit.what == "weight" and isinstance(module, nn.LayerNorm):
            setattr(model, edit.layer, KeptLayerNorm(module, list(edit.kept)))
        if edit.what == "weight" and isinstance(module, nn.GroupNorm):
            setattr(model, edit.layer, KeptGroupNorm(module, list(edit.kept)))
    return model


def outputs(model: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    with torch.no_grad():
        found = model(*inputs)
    return list(found) if isinstance(found, tuple) else [found]


def masked_by_labels(program: Program, model: nn.Module, result: Result, context: Context) -> tuple[Tensor, ...]:
    """The outputs of the network masked by the pruner's own rules, on inputs of another seed."""
    graph = trace(evaluation_copy(model), context.example_inputs)
    unused = {graph.tensor_name(node) for node in graph.nodes if node.op == "placeholder" and not node.users}
    cut = {f"{edit.layer}.{edit.what}".removeprefix(".") for edit in result.edits if edit.kind == "tensor"}
    assert not cut & unused, "a layer that is not called was cut"
    found = readable(graph, context)
    gone = labels_cut(found, result)
    assert gone
    return masked_outputs(found.graph, found.labels, gone, program.tensors(2))


def assert_same(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=TOLERANCE * max(1e-3, float(b.abs().max())))


def assert_smaller(model: nn.Module, result: Result) -> None:
    cut = [edit for edit in result.edits if edit.kind == "tensor"]
    assert cut
    last = {(edit.layer, edit.what): edit for edit in cut}
    for edit in cut:
        assert isinstance(edit.before, tuple) and isinstance(edit.after, tuple)
        assert sum(edit.after) < sum(edit.before) and min(edit.after) > 0
        owner = result.model.get_submodule(edit.layer)
        assert tuple(getattr(owner, edit.what).shape) == last[edit.layer, edit.what].after
    assert sum(p.numel() for p in result.model.parameters()) < sum(p.numel() for p in model.parameters())


def assert_consistent(model: nn.Module) -> None:
    """Every layer is what its attributes say, also one that the outputs do not depend on."""
    for name, module in model.named_modules():
        shapes = {key: tuple(tensor.shape) for key, tensor in module._parameters.items() if tensor is not None}
        if isinstance(module, nn.Linear):
            expected = {"weight": (module.out_features, module.in_features), "bias": (module.out_features,)}
        elif isinstance(module, nn.modules.conv._ConvNd):
            first, second = module.out_channels, module.in_channels
            if module.transposed:
                first, second = second, first
            sizes = (first, second // module.groups, *module.kernel_size)
            expected = {"weight": sizes, "bias": (module.out_channels,)}
        elif isinstance(module, nn.LayerNorm):
            expected = dict.fromkeys(("weight", "bias"), tuple(module.normalized_shape))
        elif isinstance(module, nn.GroupNorm):
            expected = dict.fromkeys(("weight", "bias"), (module.num_channels,))
            assert module.num_channels % module.num_groups == 0, name
        elif isinstance(module, nn.modules.batchnorm._NormBase):
            expected = dict.fromkeys(("weight", "bias"), (module.num_features,))
            assert module.running_mean is None or len(module.running_mean) == module.num_features, name
        else:
            continue
        assert shapes == {key: expected[key] for key in shapes}, name


def assert_replays(model: nn.Module, result: Result, inputs: tuple[Tensor, ...]) -> None:
    fresh = copy.deepcopy(model)
    replay(fresh, [from_json(json.loads(json.dumps(to_json(edit)))) for edit in result.edits])
    assert str(fresh) == str(result.model)
    for a, b in zip(outputs(fresh, inputs), outputs(result.model, inputs), strict=True):
        assert torch.equal(a, b)


def assert_trains(model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    trained = copy.deepcopy(model).train()
    found = trained(*inputs)
    sum(y.pow(2).mean() for y in (found if isinstance(found, tuple) else (found,))).backward()
    gradients = [p.grad for p in trained.parameters() if p.grad is not None]
    assert gradients and all(bool(torch.isfinite(g).all()) for g in gradients)


def pruned(model: nn.Module, ratio: float, context: Context) -> Result | None:
    """None where there was nothing to prune; every other complaint is a failure."""
    try:
        return Prune(ratio=ratio, round_to=1).apply(model, context)
    except InvalidInput as error:
        if not any(text in str(error) for text in NOTHING):
            raise
        return None


def check(program: Program, ratio: float, *, again: bool = True) -> bool:
    """Every property on one network; whether anything was pruned."""
    model = program.build()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    context = Context(program.tensors(1))
    result = pruned(model, ratio, context)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    if result is None:
        return False
    inputs = program.tensors(2)
    found = outputs(result.model, inputs)
    assert_smaller(model, result)
    assert_consistent(result.model)
    if not program.averaging:  # zeros would count in such a mean; the masks below leave them out
        assert_same(found, outputs(without(program, model, result.edits), inputs))
    assert_same(found, list(masked_by_labels(program, model, result, context)))
    assert_replays(model, result, inputs)
    assert_trains(result.model, inputs)
    if again:
        pruned(result.model, ratio, context)
    return True


RATIOS = (0.5, 0.3, 0.8)
LEAST_PRUNED = {"map": 0.9, "tokens": 0.7, "vector": 0.6}
"""Shares of the networks through every operation of which something has to be pruned."""
QUIET = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)


@pytest.mark.parametrize("layout", OPERATIONS)
def test_networks_through_every_operation(layout: str) -> None:
    drawn: Counter[str] = Counter()
    smaller: Counter[str] = Counter()
    operations = [o for o in OPERATIONS[layout] if layout != "vector" or o not in ANY]
    for seed, operation in enumerate(operations):
        program = program_through(layout, operation, seed)
        try:
            done = check(program, RATIOS[seed % 3], again=seed % 3 == 0)
        except Exception as error:
            raise AssertionError(f"{operation.__name__}, ratio {RATIOS[seed % 3]}: {program}") from error
        kinds = {"", *program.operations}
        drawn.update(kinds)
        smaller.update(kinds if done else ())
    assert smaller[""] >= LEAST_PRUNED[layout] * drawn[""]
    assert all(smaller[kind] == drawn[kind] for kind in PRUNABLE)


@settings(max_examples=8, deadline=None, derandomize=True, database=None, suppress_health_check=QUIET)
@given(program=programs(4), ratio=st.sampled_from(RATIOS))
def test_generated_networks(program: Program, ratio: float) -> None:
    check(program, ratio)


@pytest.mark.slow
@settings(max_examples=1500, deadline=None, derandomize=True, database=None, suppress_health_check=QUIET)
@given(program=programs(10), ratio=st.sampled_from(RATIOS))
def test_many_generated_networks(program: Program, ratio: float) -> None:
    check(program, ratio)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_many_networks_through_every_operation(seed: int) -> None:
    for layout, operations in OPERATIONS.items():
        for operation in operations:
            program = program_through(layout, operation, 100 + seed, longest=8)
            try:
                check(program, RATIOS[seed % 3])
            except Exception as error:
                raise AssertionError(f"{operation.__name__}, ratio {RATIOS[seed % 3]}: {program}") from error
