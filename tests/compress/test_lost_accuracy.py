from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

from compress.data import load
from compress.data.partition import DataConfig
from compress.pipeline import advance, open_network
from compress.pipeline.lost_accuracy import warning
from compress.prune import Prune
from compress.prune.regularize import Regularize
from compress.stage import Context, Edit, Result, Stage, evaluation_copy
from compress.tasks.record import ScoreRecord
from compress.training.loop import Training


def scored(percent: float | None) -> ScoreRecord | None:
    return None if percent is None else ScoreRecord(name="top-1", value=percent, unit=" %")


class Forget:
    """A stage that makes every weight zero."""

    remedy = "do not do this"

    def apply(self, model: nn.Module, context: Context) -> Result:
        made = evaluation_copy(model)
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.zero_()
        return Result(made, (Edit("", "weights", None, None, "weights"),))


def test_a_stage_that_loses_the_accuracy_says_so_and_is_recorded(
    small_net_file: object, caplog: pytest.LogCaptureFixture
) -> None:
    data = load(DataConfig(source="digits"), 0)
    network = open_network(f"{small_net_file}:build:width=16", data=data)
    context = Context(network.example_inputs, data)
    training = Training(epochs=2, batch_size=32, learning_rate=0.1, precision="fp32", accelerator="cpu")
    with caplog.at_level(logging.WARNING, "compress"):
        trained, record = advance(network, training, context, name="train")
        assert not record.warnings and not caplog.records
        _, record = advance(trained, Forget(), context, name="forget")
    assert record.after.score is not None and record.after.score.value < 25
    (told,) = record.warnings
    assert told.startswith("forget: validation top-1 fell from ") and told.endswith("%: do not do this")
    assert [entry.getMessage() for entry in caplog.records] == [told]


@pytest.mark.parametrize("before, after", [(None, 5), (90, None), (12, 10), (90, 60)])
def test_small_losses_are_no_news(before: float | None, after: float | None) -> None:
    assert warning("x", object(), scored(before), scored(after), 10) is None


@pytest.mark.parametrize("after, warned", [(49.9, True), (50.1, False)])
def test_the_bound_is_half_of_what_is_over_guessing(after: float, warned: bool) -> None:
    assert (warning("x", object(), scored(90.0), scored(after), 10) is not None) is warned
    assert warning("x", object(), scored(60.0), scored(45.0), 2) is not None, "of two classes half are guessed"


@pytest.mark.parametrize(
    "stage, remedy",
    [
        (Prune(ratio=0.5, repair=()), "give calibration samples (--data) and leave --repair out"),
        (Prune(ratio=0.5, repair=("reconstruct",)), "fine-tune (training, --epochs), or remove less"),
        (Prune(ratio=0.5, training={"epochs": 1}), "more --epochs, prune in more --steps, or remove less"),
        (Regularize(ratio=0.75, method="soft"), "a lower --ratio than 0.75, or prune it and fine-tune"),
        (Regularize(method="group_lasso"), "or with a lower --strength"),
    ],
)
def test_the_remedy_is_that_of_the_stage(stage: Stage, remedy: str) -> None:
    told = warning("x", stage, scored(78.46), scored(11.54), 10)
    assert told is not None and told.startswith("x: validation top-1 fell from 78.46 to 11.54 %: ") and remedy in told
