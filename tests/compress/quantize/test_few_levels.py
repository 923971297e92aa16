"""Schemes of few levels: what is rounded, what is left, that training lowers the loss, and that artifacts come back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from compress import Context
from compress.cost.count import cost
from compress.edits import replay, undo
from compress.errors import InvalidInput
from compress.integers.plan import plan
from compress.pipeline import advance, open_network
from compress.quantize import Quantize, simulate
from compress.quantize.scheme import SCHEMES
from compress.sources.artifact import load as load_artifact
from compress.sources.artifact import save
from compress.training.loop import Training
from tests.support.small_networks import Three, context_on, labelled

FEW = [name for name, scheme in SCHEMES.items() if scheme.kind == "levels"]
LEVELS = {
    "binary": 2,
    "abc": 8,
    "horq": 2,
    "bwn": 2,
    "w1a8": 2,
    "ternary": 3,
    "ttq": 3,
    "w2a8": 3,
    "w2a2": 3,
    "w4a4": 15,
}
LEVELS |= {"pow2": 9, "inq": 9}


def made() -> tuple[nn.Module, Context]:
    torch.manual_seed(0)
    model, images = Three(), torch.randn(48, 3, 8, 8)
    for _ in range(3):
        model.train()(images)
    return model.eval(), context_on((images,))


@pytest.mark.parametrize("scheme", FEW)
def test_weights_of_the_middle_take_few_values(scheme: str) -> None:
    model, context = made()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = Quantize(scheme=scheme).apply(model, context)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    few = {name: encoding for name, encoding in result.encodings.items() if encoding.kind == "levels"}
    assert set(few) == {"middle.0.weight", "hidden.weight"}
    for name, encoding in few.items():
        values = result.model.get_parameter(name).detach().numpy()
        assert max(len(np.unique(channel)) for channel in values) <= LEVELS[scheme]
        assert np.array_equal(encoding.decoded(encoding.codes(values)), values)
    assert {"stem.0", "last"} <= {skip.layer for skip in result.skipped}
    assert not any(isinstance(module, nn.BatchNorm2d) for module in result.model.modules())
    simulated = simulate(result.model, result.encodings, context.example_inputs)
    bits = SCHEMES[scheme].activation_bits  # type: ignore[index]
    with torch.no_grad():
        same = torch.allclose(simulated(*context.example_inputs), result.model(*context.example_inputs), atol=1e-5)
    assert same == (bits is None), "without encoded activations the network is its own simulation"


@pytest.mark.parametrize(("scheme", "bits"), [("binary", 8), ("w2a8", 2)])
def test_ends(scheme: str, bits: int) -> None:
    model, context = made()
    kept = Quantize(scheme=scheme, first_last="w8" if scheme == "binary" else "same").apply(model, context)
    assert kept.encodings["stem.0.weight"].bits == bits
    assert kept.encodings["stem.0.weight"].kind == ("integer" if bits == 8 else "levels")


def test_excluded_layers_stay() -> None:
    model, context = made()
    result = Quantize(scheme="binary", exclude=("hidden",)).apply(model, context)
    assert set(result.encodings) == {"middle.0.weight"}
    assert any(skip.layer == "hidden" for skip in result.skipped)
    without_last = Quantize(scheme="binary", exclude=("last",)).apply(model, context)
    assert set(without_last.encodings) == {"middle.0.weight", "hidden.weight"}, "what is excluded is still the last"
    assert type(result.model.get_submodule("hidden")) is nn.Linear


@pytest.mark.parametrize("scheme", ["binary", "ttq", "w2a2", "w2a8", "inq"])
def test_training_learns(scheme: str) -> None:
    model, _ = made()
    data = labelled()
    context = Context((data.split("train").batches(4).__iter__().__next__()[0],), data=data)
    training = Training(
        epochs=12, batch_size=16, optimizer="adamw", learning_rate=1e-2, weight_decay=0.0, precision="fp32"
    )
    result = Quantize(scheme=scheme, train=training).apply(model, context)
    losses = [record["loss"] for record in result.history]
    assert len(losses) == 12 and [record["epoch"] for record in result.history] == list(range(1, 13))
    assert losses[-1] < 0.8 * losses[0]
    assert any(encoding.kind == "levels" for encoding in result.encodings.values())


def test_an_artifact_comes_back_with_its_rounded_inputs(tmp_path: Path) -> None:
    data = labelled()
    network = open_network("bireal_resnet20:width=4", data=data)
    context = Context(network.example_inputs, data=data)
    made, record = advance(
        network, Quantize(scheme="binary", exclude=("steps.*.shortcut.*",)), context, name="quantize"
    )
    assert record.after.size_bytes < record.before.size_bytes / 3  # type: ignore[operator]
    save(made, tmp_path / "binary")
    back = load_artifact(tmp_path / "binary")
    with torch.no_grad():
        assert torch.equal(back.model(*network.example_inputs), made.model(*network.example_inputs))
    assert back.encodings == made.encodings


def test_edits_of_inputs_are_undone() -> None:
    model, context = made()
    result = Quantize(scheme="w2a2").apply(model, context)
    edits = tuple(edit for edit in result.edits if edit.kind == "module" and edit.layer in ("middle.0", "hidden"))
    rounded, source = Three(), Three()
    replay(rounded, edits)
    assert hasattr(rounded.middle[0], "rounding")
    undo(rounded, edits, source)
    assert type(rounded.middle[0]) is nn.Conv2d


@pytest.mark.parametrize(
    ("scheme", "factor"),
    [
        ("binary", 1),
        ("abc", 9),
        ("horq", 2),
        ("w2a2", 4),
        ("w2a8", 64),
        ("ternary", 1024),
        ("pow2", 1024),
        ("int8", 64),
    ],
)
def test_bit_operations_are_those_that_run(scheme: str, factor: int) -> None:
    model, context = made()
    result = Quantize(scheme=scheme).apply(model, context)
    layers = {
        layer.layer: layer
        for layer in cost(
            result.model,
            context.example_inputs,
            plan(result.model, context.example_inputs, result.encodings, "ort-x86"),
        ).layers
    }
    middle = layers["middle.0"]
    assert middle.macs == 8 * 8 * 8 * 8 * 9
    assert middle.bit_operations == factor * middle.macs
    assert layers["stem.0"].bit_operations == (64 if scheme in ("w2a8", "int8") else 1024) * layers["stem.0"].macs


@pytest.mark.parametrize("recover", ["equalize", "adaround", "smooth=0.5"])
def test_what_would_move_weights_off_their_levels_is_refused(recover: str) -> None:
    with pytest.raises(ValidationError, match="few levels"):
        Quantize(scheme="ternary", recover=recover)


def test_refusals() -> None:
    model, context = made()
    with pytest.raises(InvalidInput, match="no data to train on"):
        Quantize(scheme="ttq", train=Training(epochs=1)).apply(model, Context(context.example_inputs))
    with pytest.raises(InvalidInput, match="no layer of this network can have few levels"):
        Quantize(scheme="ttq", exclude=("middle.*", "hidden")).apply(model, context)
