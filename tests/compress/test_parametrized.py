"""Weights that parametrizations compute: stored before anything else, in every stage and from every file."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from compress import Context, Fold, Prune, Quantize
from compress.data import Data, SampleSplit
from compress.edits import replay
from compress.errors import InvalidInput
from compress.graph.parametrized import bake, is_parametrized
from compress.pipeline import open_network
from compress.sources import artifact
from compress.sources.weights import load_weights
from compress.sparsify import Sparsify
from compress.stage import Stage, evaluation_copy
from compress.training.loop import Training

Layer = Callable[[nn.Module], object]


class Centred(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight - weight.mean()


def frozen(module: nn.Module) -> None:
    parametrizations.weight_norm(module)
    module.requires_grad_(False)


def twice(module: nn.Module) -> None:
    parametrize.register_parametrization(module, "weight", Centred())
    parametrizations.spectral_norm(module)


HOW: dict[str, Layer] = {
    "spectral": parametrizations.spectral_norm,
    "weight": parametrizations.weight_norm,
    "orthogonal": parametrizations.orthogonal,
    "own": lambda module: parametrize.register_parametrization(module, "weight", Centred()),
    "own of a bias": lambda module: parametrize.register_parametrization(module, "bias", Centred()),
    "two in a row": twice,
    "frozen": frozen,
    "old weight": lambda module: nn.utils.weight_norm(module, dim=None),  # type: ignore[arg-type]
    "old spectral": nn.utils.spectral_norm,
    "masked": lambda module: prune.l1_unstructured(module, "weight", 0.5),
}
STAGES: dict[str, Stage] = {
    "fold": Fold(),
    "int8": Quantize(),
    "prune": Prune(ratio=0.5, round_to=8),
    "sparsify": Sparsify(sparsity=0.5),
    "train": Training(epochs=1, precision="fp32", accelerator="cpu"),
}


class Net(nn.Module):
    """Two convolutions and a classifier, all of them parametrized: (N, 3, 8, 8) -> (N, 5)."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.a, self.bn = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.b, self.fc = nn.Conv2d(16, 16, 3, padding=1), nn.Linear(16, 5)
        for module in (self.a, self.b, self.fc):
            HOW[how](module)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(torch.relu(self.b(torch.relu(self.bn(self.a(x))))).mean((2, 3)))
        return logits


def made(how: str) -> tuple[Net, Tensor, Context]:
    """A network that has run in training, as networks have that were trained in the same script."""
    torch.manual_seed(0)
    net, x = Net(how), torch.randn(32, 3, 8, 8)
    net.train()(x)
    split = SampleSplit(x, torch.arange(32) % 5)
    return net.eval(), x, Context((x[:4],), Data("random", {"calibration": split, "train": split}))


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("how", HOW)
def test_what_is_computed_is_stored(how: str) -> None:
    net, x, _ = made(how)
    with torch.no_grad():
        expected, names = net(x), set(net.state_dict())
        stored = evaluation_copy(net)
        assert set(stored.state_dict()) == set(evaluation_copy(Net("own")).state_dict())
        torch.testing.assert_close(stored(x), expected, rtol=1e-5, atol=1e-6)
        assert type(stored.a) is nn.Conv2d and isinstance(stored.a.weight, nn.Parameter)
        assert set(net.state_dict()) == names and is_parametrized(net) and not is_parametrized(stored)
        torch.testing.assert_close(net(x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("how", ["spectral", "weight", "old weight", "old spectral", "masked"])
def test_stages_work_on_stored_weights(how: str, stage: str, caplog: pytest.LogCaptureFixture) -> None:
    net, x, context = made(how)
    with caplog.at_level(logging.WARNING, "compress"):
        result = STAGES[stage].apply(net, context)
    assert [r.message.partition(":")[0] for r in caplog.records if "parametrizations" in r.message] == [
        "3 tensors are computed by parametrizations; they are stored as they are now, and training goes on without"
    ]
    assert not any("computed" in skip.reason for skip in result.skipped)
    if stage == "int8":
        assert {"a.weight", "b.weight", "fc.weight"} <= result.encodings.keys()
    elif stage == "prune":
        assert result.model.get_submodule("a").out_channels == 8
    again = Net(how)
    replay(again, [edit for edit in result.edits if edit.kind not in ("precision", "weights")])
    bake(again)
    again.load_state_dict(result.model.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(x), result.model(x))


SOURCE = """
import torch
from torch import nn
from torch.nn.utils import parametrizations


def build():
    net = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(576, 4))
    parametrizations.spectral_norm(net[0])
    parametrizations.weight_norm(net[3])
    return net
"""


def test_files_and_artifacts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "net.py").write_text(SOURCE)
    namespace: dict[str, Callable[[], nn.Module]] = {}
    exec(SOURCE, namespace)
    trained = namespace["build"]().eval()
    torch.save({"model": trained.state_dict()}, tmp_path / "whole.pt")
    torch.save(evaluation_copy(trained).state_dict(), tmp_path / "stored.pt")
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        expected = trained(x)
    caplog.set_level(logging.WARNING, "compress")
    for name in ("whole.pt", "stored.pt"):
        caplog.clear()
        network = open_network(
            f"{tmp_path}/net.py:build", weights=tmp_path / name, input_shapes=((1, 1, 8, 8),), trust=False
        )
        assert sum("0.weight (SpectralNorm), 3.weight (WeightNorm)" in r.message for r in caplog.records) == 1
        torch.testing.assert_close(network.model(x), expected)
    pruned = Prune(ratio=0.5, round_to=8).apply(network.model, Context(network.example_inputs))
    network = type(network)(pruned.model, network.source, pruned.edits, (), {}, network.example_inputs)
    artifact.save(network, tmp_path / "a")
    again = open_network(str(tmp_path / "a"))
    assert again.model[0].out_channels == 8  # type: ignore[index]
    torch.testing.assert_close(again.model(x), pruned.model(x))


def test_weights_of_a_parametrized_network_in_one_that_is_not(tmp_path: Path) -> None:
    """They name what computed them, and cannot be taken for the weights."""
    net = made("weight")[0]
    torch.save(net.state_dict(), tmp_path / "w.pt")
    stored = evaluation_copy(made("own")[0])
    with pytest.raises(Exception, match=r"3 tensors are missing \(a.weight, b.weight, fc.weight\)"):
        load_weights(stored, tmp_path / "w.pt")


class Failing(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        raise ArithmeticError(f"no weight of {tuple(weight.shape)}")


def test_a_parametrization_that_fails_and_modes_that_stay() -> None:
    net = made("spectral")[0]
    net.train()
    net.bn.eval()
    modes = {name: module.training for name, module in net.named_modules() if "parametrizations" not in name}
    bake(net)
    assert {name: module.training for name, module in net.named_modules()} == modes
    parametrize.register_parametrization(net.fc, "weight", Centred())
    net.fc.parametrizations["weight"][0] = Failing()  # type: ignore[assignment, index]
    with pytest.raises(InvalidInput, match=r"layer fc: the parametrization of its weight fails \(ArithmeticError"):
        bake(net)
