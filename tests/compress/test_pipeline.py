"""The loop: what is told of stages that undo each other, and the integers that a quantized network is judged in."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from compress import Context, Prune, Sparsify, Training
from compress.data import Data, from_arrays
from compress.errors import InvalidInput
from compress.integers.plan import plan
from compress.pipeline import advance, step
from compress.quantize.detect import detected
from compress.sources.load import Network
from compress.sources.specification import Source
from tests.support.small_networks import Three, labelled


def network_of(model: nn.Module, data: Data) -> tuple[Network, Context]:
    inputs = (data.example(),)
    return Network(model, Source("module", "tests.support.small_networks", "Three"), example_inputs=inputs), Context(
        inputs, data
    )


@pytest.mark.parametrize("sparse", [True, False])
def test_a_training_that_fills_zeros_is_told(sparse: bool) -> None:
    torch.manual_seed(0)
    network, context = network_of(Three().eval(), labelled())
    if sparse:
        network, _ = advance(network, Sparsify(sparsity=0.8), context, name="sparsify")
    _, record = advance(network, Training(epochs=1, learning_rate=0.01), context, name="train")
    told = [skip.reason for skip in record.skipped]
    assert ("training filled the zeros of the earlier sparsify: sparsify last" in told) == sparse


@pytest.mark.parametrize("target", ["litert", None])
def test_a_quantized_network_is_judged_in_the_integers_of_its_target(
    target: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from compress import Quantize

    torch.manual_seed(0)
    network, context = network_of(Three().eval(), labelled())
    asked: list[object] = []

    def noted(*arguments: object) -> object:
        asked.append(arguments[3])
        return plan(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(step, "plan", noted)
    stage = Quantize(target=target, revert_slower=False)
    _, record = advance(network, stage, replace(context, seed=1), name="quantize")
    assert asked == [target or detected().target] and record.after.score is not None


def test_a_stage_that_trains_is_refused_before_any_work_without_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    model, samples = Three().eval(), torch.randn(8, 1, 8, 8)
    network = Network(model, Source("module", "networks", "three"), example_inputs=(samples[:1],))
    monkeypatch.setattr(step, "measure", lambda *_: pytest.fail("there was work"))
    with pytest.raises(InvalidInput, match="no train samples, and this command needs them; it has calibration"):
        advance(
            network, Prune(ratio=0.5, training=Training(epochs=1)), Context((samples,), from_arrays(x_calib=samples))
        )
