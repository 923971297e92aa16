"""Edits taken back: the source's shapes and attributes, the same outputs, and the smaller network again."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import models
from compress.edits import from_json, replay, to_json, undo
from compress.errors import InvalidInput
from compress.fold import Fold
from compress.prune import Prune, RemoveBlocks
from compress.stage import Context, Edit, Result
from tests.support.random_weights import randomized

IMAGE = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
CONTEXT = Context((IMAGE,))
PLAIN = (bool, int, float, str, tuple, list, type(None))


def built(name: str) -> nn.Module:
    torch.manual_seed(0)
    options = {"width": 8} if name == "resnet20" else {"width": 0.25}
    return randomized(models.build(name, num_classes=5, **options)).double()


def attributes(model: nn.Module) -> dict[str, Any]:
    """Everything plain that the modules hold, their classes, and the shapes and types of their tensors."""
    found: dict[str, Any] = {}
    for layer, module in model.named_modules():
        found[layer] = type(module)
        for name, value in vars(module).items():
            if isinstance(value, PLAIN) and name != "training":
                found[f"{layer}:{name}"] = value
        for name, tensor in {**module._parameters, **module._buffers}.items():
            found[f"{layer}/{name}"] = None if tensor is None else (type(tensor), tensor.shape, tensor.dtype)
    return found


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def fine_tuned(model: nn.Module) -> nn.Module:
    """Other values everywhere."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            noise = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
            tensor.mul_(0.9 + 0.2 * noise if "var" in name else 1.0).add_(0.1 * noise)
    return model


@cache
def cut(name: str) -> tuple[nn.Module, Result]:
    model = built(name)
    result = Prune(ratio=0.5, round_to=1, steps=2 if name == "resnet20" else 1).apply(model, CONTEXT)
    return model, Result(fine_tuned(result.model), result.edits)


def pruned(name: str) -> tuple[nn.Module, Result]:
    """A network, and it pruned (ResNet in two steps) and with other weights."""
    model, result = cut(name)
    return copy.deepcopy(model), Result(copy.deepcopy(result.model), result.edits)


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2"])
def test_without_the_source_it_computes_what_the_pruned_network_does(name: str) -> None:
    model, result = pruned(name)
    back = copy.deepcopy(result.model)
    undo(back, result.edits)
    assert attributes(back) == attributes(model)
    with torch.no_grad():
        expected = result.model(IMAGE)
        torch.testing.assert_close(back(IMAGE), expected, rtol=1e-6, atol=1e-9 * float(expected.abs().max()))
    replay(back, result.edits)
    assert attributes(back) == attributes(result.model) and same(back, result.model)


@pytest.mark.parametrize("form", ["module", "state dict", "state dict of float32"])
def test_with_the_source_what_comes_back_has_its_values(form: str) -> None:
    model, result = pruned("resnet20")
    bare = copy.deepcopy(model)
    replay(bare, result.edits)
    state = {k: v.float() if "32" in form else v for k, v in model.state_dict().items()}
    original = model if form == "module" else state
    undo(bare, [from_json(to_json(edit)) for edit in result.edits], original)
    assert attributes(bare) == attributes(model)
    if "32" not in form:
        assert same(bare, model), "nothing was trained, so it is the source"
    tuned = copy.deepcopy(result.model)
    undo(tuned, result.edits, original)
    replay(tuned, result.edits)
    assert same(tuned, result.model), "what was trained is in its place"


def test_indices_of_several_edits_by_hand() -> None:
    model = nn.Linear(4, 3)
    edits = [
        Edit("", "weight", (3, 4), (2, 4), "tensor", 0, (0, 2)),
        Edit("", "weight", (2, 4), (2, 2), "tensor", 1, (1, 3)),
        Edit("", "out_features", 3, 2),
        Edit("", "weights", None, "3 epochs", "weights"),
        Edit("", "weight", (2, 2), (1, 2), "tensor", 0, (1,)),
    ]
    source = copy.deepcopy(model)
    replay(model, edits)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[7.0, 8.0]]))
    model.weight.requires_grad_(False)
    zeros, filled = copy.deepcopy(model), copy.deepcopy(model)
    undo(zeros, edits)
    assert zeros.weight.tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [0, 7, 0, 8]]
    assert isinstance(zeros.weight, nn.Parameter) and not zeros.weight.requires_grad and zeros.out_features == 3
    undo(filled, edits, source)
    expected = source.weight.detach().clone()
    expected[2, [1, 3]] = torch.tensor([7.0, 8.0])
    assert torch.equal(filled.weight, expected)


class Tied(nn.Module):
    """One weight under two names, and a block that holds it too: (N, 4) -> (N, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.block = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.block.weight = self.first.weight
        self.again = self.block

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(self.second(torch.relu(self.first(x))))
        return y


@pytest.mark.parametrize("twin", [False, True])
def test_what_is_shared_stays_shared(twin: bool) -> None:
    source = Tied()
    edits = [
        Edit("second", "weight", (4, 4), (3, 4), "tensor", 0, (0, 1, 3)),
        Edit("block", "module", "Linear", "Identity", "module"),
        *([] if twin else [Edit("again", "module", "Linear", "Identity", "module")]),
        Edit("first", "weight", (3, 4), (2, 4), "tensor", 0, (0, 2)),
    ]
    model = copy.deepcopy(source)
    replay(model, edits)
    assert model.first.weight is model.second.weight and tuple(model.first.weight.shape) == (2, 4)
    bare = copy.deepcopy(model)
    undo(model, edits, source)
    assert model.first.weight is model.second.weight is model.block.weight is model.again.weight
    assert model.again is model.block
    assert same(model, source)
    for original in (None, source.state_dict()):
        with pytest.raises(InvalidInput, match=r"edit of (block|again): the Linear .* source network"):
            undo(copy.deepcopy(bare), edits, original)


def test_removed_blocks_come_back_from_the_source() -> None:
    model, smaller = pruned("resnet20")
    shorter = RemoveBlocks(count=2).apply(smaller.model, CONTEXT)
    edits = (*smaller.edits, *shorter.edits)
    back = copy.deepcopy(shorter.model)
    undo(back, edits, model)
    assert attributes(back) == attributes(model)
    gone = [edit.layer for edit in shorter.edits if edit.kind == "module"]
    assert len(gone) == 2 and all(same(back.get_submodule(name), model.get_submodule(name)) for name in gone)
    replay(back, edits)
    assert same(back, shorter.model)


def test_folded_weights_cannot_be_taken_apart() -> None:
    result = Fold().apply(built("resnet20"), CONTEXT)
    with pytest.raises(InvalidInput, match=r"edit of conv1\.weight: folded with bn1, which cannot be undone; undo the"):
        undo(result.model, result.edits, built("resnet20"))


def test_a_new_tensor_goes_only_while_it_is_zero() -> None:
    model = nn.Linear(3, 2, bias=False)
    added = [Edit("", "bias", None, (2,), "tensor")]
    replay(model, added)
    learnt = copy.deepcopy(model)
    undo(model, added)
    assert model.bias is None
    with torch.no_grad():
        learnt.bias.fill_(1)
    with pytest.raises(InvalidInput, match="it is new and not zero"):
        undo(learnt, added)


def test_a_removed_tensor_comes_back_from_the_source() -> None:
    source = nn.Linear(3, 2)
    gone = [Edit("", "bias", (2,), None, "tensor")]
    model = copy.deepcopy(source)
    replay(model, gone)
    with pytest.raises(InvalidInput, match="give the source network as original"):
        undo(copy.deepcopy(model), gone)
    undo(model, gone, source.state_dict())
    assert isinstance(model.bias, nn.Parameter) and torch.equal(model.bias, source.bias)


def test_another_source_is_refused() -> None:
    _, result = pruned("resnet20")
    other = models.build("resnet20", width=12, num_classes=5)
    with pytest.raises(InvalidInput, match=r"edit of \S+: expected a tensor of shape \(.*\) in original, got \(12,"):
        undo(result.model, result.edits, other)
    with pytest.raises(InvalidInput, match=r"got None; give the network that the edits begin with"):
        undo(result.model, result.edits, {})


def test_another_network_is_refused() -> None:
    model, result = pruned("resnet20")
    with pytest.raises(InvalidInput, match="it is not the network that was edited"):
        undo(model, result.edits)
    with pytest.raises(InvalidInput, match="the network has no such layer"):
        undo(nn.Linear(2, 2), result.edits)
    wrong = [Edit("", "weight", (3, 4), (2, 4), "tensor", 0, (0, 1))]
    with pytest.raises(InvalidInput, match=r"expected a tensor of shape \(2, 4\), got \(2, 2\)"):
        undo(nn.Linear(2, 2), wrong)


@pytest.mark.parametrize(
    "edit",
    [
        *(Edit("1", "module", "BatchNorm2d", f"rounding {text}", "module") for text in ("signs", "", "2 bits")),
        *(Edit("0", "module", "Conv2d", f"rounding {text}", "module") for text in ("", "x", "9" * 50 + " bits")),
        *(
            Edit("0", "module", "Conv2d", f"rounding {text}", "module")
            for text in ("signs 999999", "-3 bits", "0 bits")
        ),
        *(Edit(layer, "module", "Conv2d", "Conv2d", "module") for layer in ("", "0")),
        *(Edit("0", what, None, (1,), "tensor") for what in ("forward", "__class__", "training", "a.b", "", "new")),
        Edit("", "weight", None, (1,), "tensor"),
    ],
    ids=lambda edit: f"{edit.layer} {edit.what} {edit.after}"[:40],
)
def test_edits_that_fit_no_layer_are_refused(edit: Edit) -> None:
    with pytest.raises(InvalidInput, match=r"^edit "):
        replay(nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)), [edit])
