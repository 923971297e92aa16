"""The stage: exact zeros, before and through trainings, and beside the other stages."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from compress import Context, Fold, Prune, Quantize, Result, Sparsify
from compress.data import Data, DataConfig, load
from compress.errors import InvalidInput
from compress.sparsify.callback import Choice, MaskedTraining
from compress.sparsify.fisher import fisher_diagonal
from compress.sparsify.gains import GAINS
from compress.sparsify.sites import Site, find_sites
from compress.tasks.built_in.classification import task
from compress.tasks.reading import Reading
from compress.training.loop import Training

FAST = Training(epochs=2, batch_size=8, learning_rate=0.05, precision="fp32", accelerator="cpu")
ONE = (torch.zeros(1, 1, 8, 8),)


def zeros(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p == 0 for name, p in model.named_parameters() if p.ndim > 1}


def sparsity(model: nn.Module) -> float:
    found = torch.cat([mask.flatten() for mask in zeros(model).values()])
    return float(found.double().mean())


@pytest.mark.parametrize("granularity", ["weight", "kernel", "row", "block", "n:m"])
@pytest.mark.parametrize("criterion", ["magnitude", "obd"])
def test_one_shot_zeros(small_net: nn.Module, data: Data, granularity: str, criterion: str) -> None:
    before = copy.deepcopy(small_net.state_dict())
    stage = Sparsify(
        sparsity=None if granularity == "n:m" else 0.75,
        granularity=granularity,
        criterion=criterion,
        block=(2, 2),
        samples=8,
    )
    result = stage.apply(small_net, Context(ONE, data if criterion == "obd" else None))
    assert all(torch.equal(a, b) for a, b in zip(before.values(), small_net.state_dict().values(), strict=True))
    masks = zeros(result.model)
    for edit in result.edits:
        after, was = result.model.get_parameter(f"{edit.layer}.weight"), before[f"{edit.layer}.weight"]
        assert after.shape == was.shape and edit.kind == "weights"
        assert (edit.before, edit.after) == (int(was.count_nonzero()), int(after.count_nonzero()))
        assert torch.equal(after, torch.where(after == 0, torch.zeros(()), was))
        assert not bool(torch.signbit(after[after == 0]).any())
    assert abs(float(masks["conv2.weight"].double().mean()) - stage.target) < 0.02
    told = {skip.layer: skip.reason for skip in result.skipped}
    assert "one dimension" in told["bn1"] and GAINS[stage.granularity].speed in told[""]
    assert ("conv1" in told) == (granularity == "n:m")
    if granularity == "n:m":
        assert bool((masks["conv2.weight"].view(8, 2, 4, 3, 3).sum(2) == 2).all())


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_the_least_magnitudes_go(small_net: nn.Module, scope: str) -> None:
    result = Sparsify(sparsity=0.5, scope=scope).apply(small_net, Context(ONE))
    weights = {n: p.detach() for n, p in small_net.named_parameters() if p.ndim > 1}
    values = torch.cat([w.abs().flatten() for w in weights.values()])
    for name, mask in zeros(result.model).items():
        threshold = (weights[name].abs() if scope == "layer" else values).flatten().quantile(0.5)
        wrong = mask != (weights[name].abs() < threshold)
        assert int(wrong.sum()) <= 1, name
    assert sparsity(result.model) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("criterion", "schedule"),
    [("magnitude", "one_shot"), ("magnitude", "iterative"), ("movement", "gradual"), ("obd", "gradual")],
)
def test_zeros_survive_a_training(small_net: nn.Module, data: Data, criterion: str, schedule: str) -> None:
    training = FAST.model_copy(update={"ema": 0.5})
    stage = Sparsify(sparsity=0.8, criterion=criterion, schedule=schedule, training=training, scope="global")
    result = stage.apply(small_net, Context(ONE, data))
    assert sparsity(result.model) == pytest.approx(0.8, abs=0.01)
    assert len(result.history) == 2 and np.isfinite(result.history[-1]["loss"])
    assert not torch.equal(result.model.get_parameter("bn1.weight"), small_net.get_parameter("bn1.weight"))
    if schedule == "one_shot":
        alone = Sparsify(sparsity=0.8, scope="global").apply(small_net, Context(ONE)).model
        for name, mask in zeros(alone).items():
            assert torch.equal(mask, zeros(result.model)[name])


def test_digits_through_two_epochs(small_net: nn.Module) -> None:
    digits = load(DataConfig(source="digits", size=8))
    small_net.fc = nn.Linear(8, 10)
    training = FAST.model_copy(update={"batch_size": 64, "learning_rate": 0.1})
    result = Sparsify(sparsity=0.7, schedule="gradual", training=training).apply(small_net, Context(ONE, digits))
    assert sparsity(result.model) == pytest.approx(0.7, abs=0.005)
    assert result.history[1]["loss"] < result.history[0]["loss"]


@pytest.mark.parametrize("criterion", ["magnitude", "movement"])
def test_an_interrupted_training_resumes_with_the_same_masks(
    small_net: nn.Module, data: Data, tmp_path: Path, criterion: str
) -> None:
    training = FAST.model_copy(update={"epochs": 4, "ema": 0.9})
    stage = Sparsify(sparsity=0.8, schedule="gradual", end=0.9, criterion=criterion, training=training)
    expected = stage.apply(small_net, Context(ONE, data, seed=3))

    def stop(task: str, done: int, total: int, note: str = "") -> None:
        if note.startswith("epoch 3/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stage.apply(small_net, Context(ONE, data, seed=3, progress=stop, checkpoints=str(tmp_path)))
    assert (tmp_path / "sparsify.ckpt").exists()
    other = stage.model_copy(update={"sparsity": 0.7})
    with pytest.raises(InvalidInput, match="other settings"):
        other.apply(small_net, Context(ONE, data, seed=3, checkpoints=str(tmp_path)))
    resumed = stage.apply(small_net, Context(ONE, data, seed=3, checkpoints=str(tmp_path)))
    assert resumed.history == expected.history
    for a, b in zip(expected.model.state_dict().values(), resumed.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_a_weight_that_went_comes_back_with_its_value() -> None:
    """Movement: scores take in the gradient of masked weights, and a later choice may bring them back."""
    layer = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    choice = Choice("weight", 2, 4, (1, 1), "layer", 0.0)
    masked = MaskedTraining((Site("", "weight"),), choice, "movement", "gradual", 0.5, 0.0, 1.0, 4)
    layer.weight.grad = torch.tensor([[1.0, 1.0, -1.0, -1.0]])
    masked.after_backward(layer, 1, 4)
    masked.choose(layer, 0.5)
    assert layer.weight.tolist() == [[0.0, 0.0, 3.0, 4.0]]
    layer.weight.grad = torch.tensor([[-9.0, 5.0, -1.0, 5.0]])  # scores become 8, -12, 6, -16
    masked.after_backward(layer, 2, 4)
    assert layer.weight.grad.tolist() == [[0.0, 0.0, -1.0, 5.0]]
    masked.choose(layer, 0.5)
    assert layer.weight.tolist() == [[1.0, 0.0, 3.0, 0.0]]


def test_fisher_diagonal_is_the_mean_of_squared_gradients(small_net: nn.Module, data: Data) -> None:
    found = fisher_diagonal(small_net, ["fc.weight"], data, task(Reading()), 5, seed=1)["fc.weight"]
    expected = torch.zeros_like(found)
    batches = data.split("train").batches(1, shuffle_seed=(1, 0))
    for (x, y), _ in zip(batches, range(5), strict=False):
        features = torch.zeros(0)

        def keep(module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
            nonlocal features
            features = inputs[0].detach()

        handle = small_net.get_submodule("fc").register_forward_pre_hook(keep)
        error = small_net(x).softmax(1).detach() - nn.functional.one_hot(y, 3)
        handle.remove()
        expected += (error.T @ features).square() / 5  # the gradient of the cross-entropy in closed form
    torch.testing.assert_close(found, expected)


class Odd(nn.Module):
    """A grouped, a depthwise and a transposed convolution, an embedding and a shared linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 4)
        self.grouped = nn.Conv2d(8, 8, 3, groups=2)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.up = nn.ConvTranspose2d(8, 6, 2, bias=False)
        self.first = nn.Linear(6, 6)
        self.second = nn.Linear(6, 6)
        self.second.weight = self.first.weight


def test_layers_that_take_part() -> None:
    sites, skipped = find_sites(Odd())
    assert [site.name for site in sites] == ["grouped.weight", "up.weight", "first.weight"]
    told = {skip.layer: skip.reason for skip in skipped}
    assert set(told) == {"table", "depthwise", "second"}
    assert "depthwise" in told["depthwise"] and told["table"].startswith("Embedding")
    sites, skipped = find_sites(Odd(), ("grou*",), window=4)
    assert [site.name for site in sites] == ["up.weight"]
    assert {s.layer: s.reason for s in skipped}["first"] == "6 inputs are no multiple of m=4"


def test_n_of_m_goes_along_the_inputs_of_a_transposed_convolution() -> None:
    model = nn.Sequential(nn.ConvTranspose2d(8, 6, 2))
    result = Sparsify(granularity="n:m").apply(model, Context((torch.zeros(1, 8, 4, 4),)))
    kept = result.model.get_parameter("0.weight") != 0
    assert bool((kept.view(2, 4, 6, 2, 2).sum(1) == 2).all())


def test_zeros_stay_through_fold_and_quantize(small_net: nn.Module, data: Data, tmp_path: Path) -> None:
    with torch.no_grad():
        small_net.get_parameter("bn1.weight").copy_(torch.linspace(-1, 1, 8))
    context = Context((data.example(2),), data)
    pruned = Prune(ratio=0.25, round_to=1).apply(small_net, context)
    sparse = Sparsify(sparsity=0.8, scope="global").apply(pruned.model, context)
    folded = Fold().apply(sparse.model, context)
    quantized: Result = Quantize().apply(folded.model, context)
    for name, mask in zeros(sparse.model).items():
        for model in (folded.model, quantized.model):
            assert not bool(model.get_parameter(name)[mask].count_nonzero())
    assert {name for name in quantized.encodings if name.endswith("weight")} == set(zeros(sparse.model))
    for name, mask in zeros(sparse.model).items():
        integers = quantized.encodings[name].parameters("int8", narrow=True)
        values = quantized.model.get_parameter(name).detach().numpy()
        assert not integers.quantize(values, axis=0)[mask.numpy()].any()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"granularity": "n:m", "sparsity": 0.5}, "leave `sparsity` out"),
        ({"granularity": "n:m", "n": 4}, "less than m"),
        ({"granularity": "n:m", "scope": "global"}, "within each layer"),
        ({"criterion": "movement"}, "set `schedule`"),
        ({"schedule": "gradual"}, "set `training`"),
        ({"begin": 0.6}, "before end"),
        ({"block": (0, 4)}, "greater than or equal to 1"),
        ({"sparsity": 1.0}, "less than 1"),
        ({"sparsty": 0.5}, "Extra inputs"),
    ],
)
def test_settings_that_contradict(settings: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Sparsify.model_validate(settings)


def test_bad_input(small_net: nn.Module, data: Data) -> None:
    with pytest.raises(InvalidInput, match="matches no layer"):
        Sparsify(exclude=("gone*",)).apply(small_net, Context(ONE))
    with pytest.raises(InvalidInput, match="no weight of BatchNorm2d can go"):
        Sparsify().apply(nn.BatchNorm2d(3), Context(ONE))
    with pytest.raises(InvalidInput, match="no data to train on"):
        Sparsify(training=FAST).apply(small_net, Context(ONE))
    with pytest.raises(InvalidInput, match="obd measures gradients"):
        Sparsify(criterion="obd").apply(small_net, Context(ONE))
    with pytest.raises(InvalidInput, match="out of reach: at most"):
        Sparsify(sparsity=0.95, scope="global", minimum=0.3).apply(small_net, Context(ONE))
    with torch.no_grad():
        small_net.get_parameter("conv2.weight")[0, 0, 0, 0] = float("nan")
    with pytest.raises(InvalidInput, match=r"conv2\.weight are not all finite"):
        Sparsify().apply(small_net, Context(ONE))
