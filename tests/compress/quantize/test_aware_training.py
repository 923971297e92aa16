"""Quantization-aware training: from encodings to scales and back, what it wins, and what a run leaves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from compress import Context
from compress.data import Data
from compress.errors import InvalidInput
from compress.integers.target import TARGETS
from compress.quantize import Encoding, Quantize, simulate
from compress.quantize.train.aware_training import Learned, learnable, train_quantized
from compress.training.loop import Training, fit
from tests.support.small_classifier import SmallNet, pattern_data
from tests.support.small_networks import SHAPES, Joined, PoolFirst, Tokens, made, snr_db

TRAINING = Training(epochs=4, batch_size=32, learning_rate=0.02, precision="fp32", warmup_epochs=0)


def same_grids(first: dict[str, Encoding], second: dict[str, Encoding], target: str = "ort-x86") -> None:
    engine = TARGETS[target]
    assert first.keys() == second.keys()
    for name, encoding in first.items():
        derive = engine.activation_parameters if encoding.axis is None else engine.weight_parameters
        one, other = derive(encoding), derive(second[name])
        np.testing.assert_array_equal(one.scale, other.scale, err_msg=name)
        np.testing.assert_array_equal(one.zero_point, other.zero_point, err_msg=name)
        assert (one.low, one.high) == (other.low, other.high)


@pytest.mark.parametrize(
    ("kind", "learned"),
    [*((kind, "lsq") for kind in SHAPES), (Joined, "lsq+"), (Joined, "pact"), (PoolFirst, "pact")],
)
def test_untrained_it_is_the_simulation_and_gives_the_encodings_back(kind: type[nn.Module], learned: Learned) -> None:
    model, inputs, context = made(kind)
    result = Quantize().apply(model, context)
    simulation = learnable(result.model, result.encodings, context.example_inputs, learned=learned, target="ort-x86")
    with torch.no_grad():
        expected = simulate(result.model, result.encodings, context.example_inputs)(*inputs)
        found = simulation.module(*inputs)
    pairs = zip(expected, found, strict=True) if isinstance(found, tuple) else [(expected, found)]
    for one, other in pairs:
        assert snr_db(one, other) > 45, "but for biases, which 32 bits hold"
    back = simulation.encodings()
    same_grids(dict(result.encodings), back)


@pytest.mark.parametrize("target", ["ort-arm", "ort-avx2", "tensorrt"])
def test_encodings_come_back_in_every_target(target: str) -> None:
    model, _, context = made(Joined)
    encodings = Quantize().apply(model, context).encodings
    simulation = learnable(model, encodings, context.example_inputs, target=target)
    engine = TARGETS[target]
    generator = np.random.default_rng(0)
    with torch.no_grad():
        for parameter in simulation.module.parameters():
            if parameter.ndim == 1:
                parameter.mul_(float(generator.uniform(0.5, 2)))
    for name, encoding in simulation.encodings().items():
        if name in simulation.weights:
            found, wanted = engine.weight_parameters(encoding, 1.0), simulation.weights[name].learnt()
        else:
            found = engine.activation_parameters(encoding)
            wanted = simulation.activations[simulation.groups[name]].learnt()
        np.testing.assert_array_equal(found.scale, wanted.scale)
        np.testing.assert_array_equal(found.zero_point, wanted.zero_point)


def test_weights_in_blocks_and_shared_ones() -> None:
    model, inputs, context = made(Tokens)
    result = Quantize(scheme="w4").apply(model, context)
    simulation = learnable(result.model, result.encodings, context.example_inputs, target="ort-x86")
    assert set(simulation.weights) == {"query.weight", "value.weight"}
    with torch.no_grad():
        expected = simulate(result.model, result.encodings, context.example_inputs)(*inputs)
        torch.testing.assert_close(simulation.module(*inputs), expected, rtol=1e-5, atol=1e-6)
    same_grids(dict(result.encodings), simulation.encodings())


def test_zero_points_are_learnt_where_asked_and_signed() -> None:
    model, _, context = made(Joined)
    encodings = Quantize().apply(model, context).encodings
    for learned, some in (("lsq", False), ("lsq+", True)):
        simulation = learnable(model, encodings, context.example_inputs, learned=learned, target="ort-x86")  # type: ignore[arg-type]
        zeros = [one.zero.requires_grad for one in simulation.activations.values()]
        assert any(zeros) is some
        assert not simulation.activations["relu"].zero.requires_grad


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, dict[str, Encoding], Context]:
    """A trained network with 3-bit weights and 4-bit activations, where rounding costs a lot."""
    torch.manual_seed(0)
    data = pattern_data(384)
    model = SmallNet().eval()
    fit(model, data, Training(epochs=20, batch_size=32, learning_rate=0.1, precision="fp32"))
    context = Context((data.example(2),), data)
    result = Quantize().apply(model, context)
    encodings = {
        name: replace(encoding, bits=3 if encoding.axis == 0 else 4) for name, encoding in result.encodings.items()
    }
    return result.model, encodings, context


def loss_of(model: nn.Module, data: Data) -> float:
    with torch.no_grad():
        batches = list(data.split("train").batches(64))
        return float(sum(cross_entropy(model(x), y) * len(x) for x, y in batches) / len(data.split("train")))


@pytest.mark.parametrize("learned", ["lsq", "lsq+", "pact"])
def test_training_wins_most_of_the_loss_back(
    trained: tuple[nn.Module, dict[str, Encoding], Context], learned: Learned
) -> None:
    model, encodings, context = trained
    assert context.data is not None
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    own = loss_of(model, context.data)
    rounded = loss_of(simulate(model, encodings, context.example_inputs), context.data)
    done = train_quantized(model, encodings, TRAINING, context, learned=learned, target="ort-x86")
    after = loss_of(simulate(done.model, done.encodings, context.example_inputs), context.data)
    assert after < own + 0.3 * (rounded - own), (own, rounded, after)
    assert done.history[-1]["loss"] < done.history[0]["loss"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert any(not torch.equal(tensor, before[name]) for name, tensor in done.model.state_dict().items())
    changed = [name for name in encodings if done.encodings[name] != encodings[name]]
    assert len(changed) > len(encodings) / 2
    assert all(done.encodings[name].bits == encodings[name].bits for name in encodings)


def test_what_was_trained_is_what_the_new_encodings_round(
    trained: tuple[nn.Module, dict[str, Encoding], Context],
) -> None:
    model, encodings, context = trained
    assert context.data is not None
    training = TRAINING.model_copy(update={"epochs": 1})
    done = train_quantized(model, encodings, training, context, target="ort-x86")
    again = train_quantized(
        done.model, done.encodings, training.model_copy(update={"epochs": 0}), context, target="ort-x86"
    )
    same_grids(dict(done.encodings), dict(again.encodings))
    told = done.history[-1]["validation_score"]
    simulated = simulate(done.model, done.encodings, context.example_inputs)
    split = context.data.split("validation")
    with torch.no_grad():
        right = sum(int((simulated(x).argmax(1) == y).sum()) for x, y in split.batches(32))
    assert 100 * right / len(split) == pytest.approx(told)


def test_an_interrupted_training_goes_on(
    trained: tuple[nn.Module, dict[str, Encoding], Context], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, encodings, context = trained
    whole = train_quantized(model, encodings, TRAINING, context, target="ort-x86")

    def stop(task: str, done: int, total: int, note: str = "") -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_quantized(
            model, encodings, TRAINING, replace(context, checkpoints=str(tmp_path), progress=stop), target="ort-x86"
        )
    assert (tmp_path / "quantize.ckpt").exists()
    resumed = train_quantized(model, encodings, TRAINING, replace(context, checkpoints=str(tmp_path)), target="ort-x86")
    assert resumed.encodings == whole.encodings
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name


def test_a_teacher_is_distilled_from(trained: tuple[nn.Module, dict[str, Encoding], Context]) -> None:
    model, encodings, context = trained
    one = TRAINING.model_copy(update={"epochs": 1})
    alone = train_quantized(model, encodings, one, context, target="ort-x86").history[0]["loss"]
    taught = train_quantized(model, encodings, one, replace(context, teacher=model), target="ort-x86").history[0][
        "loss"
    ]
    assert alone != taught


def test_training_without_data_is_refused(trained: tuple[nn.Module, dict[str, Encoding], Context]) -> None:
    model, encodings, context = trained
    with pytest.raises(InvalidInput, match="no data to train on"):
        train_quantized(model, encodings, TRAINING, replace(context, data=None), target="ort-x86")


def test_the_stage_rounds_and_trains() -> None:
    data = pattern_data(96)
    torch.manual_seed(0)
    model, context = SmallNet().eval(), Context((data.example(2),), data)
    training = TRAINING.model_copy(update={"epochs": 1})
    stage = Quantize(scheme="w4a8", train={**dict(training), "method": "pact"}, recover=[{"adaround": 5}])
    result = stage.apply(model, context)
    assert [edit.after for edit in result.edits if edit.kind == "weights" and not edit.layer] == [
        "rounded by adaround",
        "1 epochs",
    ]
    assert len(result.history) == 1
    assert {e.bits for e in result.encodings.values() if e.axis == 0} == {4}
    assert float(simulate(result.model, result.encodings, context.example_inputs)(data.example(2)).detach().sum())
    with pytest.raises(InvalidInput, match="no calibration samples"):
        Quantize(scheme="w4", recover=["brecq"]).apply(model, replace(context, data=Data("none", {})))


@pytest.mark.parametrize("recover", [("absorb", "equalize", "bias_correction"), ("adaround",), ("brecq",), ("smooth",)])
def test_a_plain_sequence_whose_input_is_called_input(recover: tuple[str, ...]) -> None:
    """torch.export calls the input of nn.Sequential "input", and a module of the trace calls it "input_1"."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)).eval()
    data = pattern_data()
    context = Context((data.example(2),), data, teacher=model)
    quick = {"adaround": {"iterations": 2}, "brecq": {"iterations": 2}}
    recovery = [{name: quick[name]} if name in quick else name for name in recover]
    stage = Quantize.model_validate(
        {"recover": recovery, "train": {"epochs": 1, "batch_size": 32}, "revert_slower": False}
    )
    result = stage.apply(model, context)
    assert "input" in result.encodings
    assert result.history
