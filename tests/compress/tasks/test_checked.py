"""Tasks of the user's that fail, or give something else than they must, end in one line before any work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from compress import Context, MeanScore, Task
from compress.data import from_loaders
from compress.errors import InvalidInput
from compress.pipeline import advance, open_network
from compress.pipeline.gates import require_scores
from compress.prune import Prune
from compress.recipe import Gates
from compress.sources.load import Network
from compress.sources.specification import Source
from compress.tasks.checked import checked
from compress.tasks.reading import Reading
from compress.tasks.record import ScoreRecord
from compress.tasks.resolve import read_task, resolve
from compress.training.loop import Training

FAST = Training(epochs=1, batch_size=8, learning_rate=0.01, precision="fp32", accelerator="cpu", warmup_epochs=0)


def batch(count: int = 8) -> dict[str, Any]:
    image = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(count))
    return {"picture": image, "centre": image.mean((2, 3)), "name": ["a"] * count}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 1)
    )


def error(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
    return (outputs - batch["centre"]).abs()


GOOD = Task(
    name="centre",
    inputs=lambda batch: (batch["picture"],),
    loss=lambda outputs, batch: mse_loss(outputs, batch["centre"]),
    scores={"error": lambda: MeanScore(error, higher_is_better=False)},
)
DATA = from_loaders(train=[batch(), batch(5)], calibration=[batch()], validation=[batch(), batch(3)])


def pruned(task: Task) -> tuple[Network, Any]:
    given = Network(network(), Source("file", "net.py", "build"), example_inputs=(batch()["picture"],))
    return advance(given, Prune(ratio=0.5, training=FAST), Context(given.example_inputs, DATA, task=task))


class Score:
    higher_is_better = True

    def reset(self) -> None: ...
    def update(self, outputs: Tensor, batch: Any) -> None: ...
    def compute(self) -> Any:
        return torch.ones(3)


class Undirected:
    reset = update = compute = print


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a loss that fails": (
        {"loss": lambda o, b: b["centr"]},
        r"its loss failed: KeyError: 'centr' at test_checked.py:\d+",
    ),
    "a loss of each sample": ({"loss": error}, r"its loss: expected a tensor of one float, got .* \(8, 1\)"),
    "no loss": ({"loss": lambda o, b: None}, "its loss: expected a tensor of one float, got NoneType"),
    "a detached loss": ({"loss": lambda o, b: o.detach().mean()}, "the loss does not depend on the network's weights"),
    "a loss that is no function": ({"loss": 5}, "expected a function as loss, got int"),
    "inputs that fail": ({"inputs": lambda b: (b["image"],)}, "its inputs failed: KeyError: 'image'"),
    "no inputs": ({"inputs": lambda b: b["name"]}, r"its inputs: expected a tuple of tensors.* got \(str"),
    "a match of each value": ({"loss": None, "match": lambda a, b: a - b}, "its match: expected a tensor of one float"),
    "a score, not its class": ({"scores": {"a": Score()}}, "its score a: expected a class, or a function that returns"),
    "a score of no direction": ({"scores": {"a": Undirected}}, "its score a: .* which has no higher_is_better"),
    "a score of three numbers": ({"scores": {"a": Score}}, r"its score a: expected a number, got .* \(3,\)"),
    "scores without names": ({"scores": [Score]}, "expected scores by name"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_task_that_is_wrong_is_refused_before_anything_is_pruned(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    changed, message = WRONG[kind]
    monkeypatch.setattr(Prune, "apply", lambda *_: pytest.fail("the work began"))
    with pytest.raises(InvalidInput, match=message):
        pruned(replace(GOOD, **changed))


def test_labels_cannot_be_smoothed_and_it_is_said_before_anything_is_pruned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Prune, "apply", lambda *_: pytest.fail("the work began"))
    given = Network(network(), Source("file", "net.py", "build"), example_inputs=(batch()["picture"],))
    stage = Prune(ratio=0.5, training=FAST.model_copy(update={"label_smoothing": 0.1}))
    with pytest.raises(InvalidInput, match=r"label_smoothing 0\.1: the task centre has no labels of classes"):
        advance(given, stage, Context(given.example_inputs, DATA, task=GOOD))


@pytest.mark.parametrize(
    "inputs", [lambda b: b["picture"], lambda b: [b["picture"]], lambda b: {"input": b["picture"]}]
)
def test_inputs_may_be_a_tensor_a_list_or_a_mapping_by_the_names_of_forward(inputs: Callable[[Any], Any]) -> None:
    task = resolve(replace(GOOD, inputs=inputs), network(), DATA)
    assert [x.shape for x in task.read(batch())] == [(8, 1, 8, 8)]


def test_a_checked_task_stays_as_it_is() -> None:
    once = checked(GOOD, Reading())
    assert checked(once, Reading()) is once


def test_a_task_without_a_loss_is_drawn_to_the_network_as_it_was() -> None:
    after, record = pruned(replace(GOOD, loss=None))
    assert after.model(batch()["picture"]).shape == (8, 1)
    assert len(record.history) == 1 and record.history[0]["loss"] > 0


def test_a_network_is_opened_by_the_inputs_of_the_users_task(tmp_path: Any) -> None:
    path = tmp_path / "net.py"
    path.write_text(
        "from torch import nn\nfrom compress import Task\n"
        "build = lambda: nn.Conv2d(1, 4, 3)\ntask = Task(inputs=lambda batch: (batch['picture'],))\n"
        "def fails():\n    raise RuntimeError('kaput')\n"
    )
    opened = open_network(f"{path}:build", data=DATA, task=f"{path}:task")
    assert [x.shape for x in opened.example_inputs] == [(8, 1, 8, 8)]
    with pytest.raises(InvalidInput, match="give a --task whose inputs picks them"):
        open_network(f"{path}:build", data=DATA)
    with pytest.raises(InvalidInput, match="fails failed: RuntimeError: kaput"):
        read_task(f"{path}:fails")
    with pytest.raises(InvalidInput, match="task nothing: expected one of"):
        read_task("nothing")


def test_a_split_without_labels_is_named() -> None:
    classes = [(torch.rand(4, 1, 8, 8), torch.arange(4))]
    data = from_loaders(train=[(classes[0][0],)], validation=classes)
    given = Network(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), Source("file", "n.py", "f"), example_inputs=classes[0][:1]
    )
    with pytest.raises(InvalidInput, match="train split needs labels"):
        advance(given, FAST, Context(given.example_inputs, data))


def test_a_generator_is_no_loader() -> None:
    with pytest.raises(InvalidInput, match="train loader is a generator, which can be gone through once"):
        from_loaders(train=(each for each in [batch()]))


def test_the_mean_of_a_batch_counts_as_often_as_it_has_samples() -> None:
    score = MeanScore(lambda outputs, batch: outputs.mean())
    score.update(torch.ones(3), torch.zeros(3, 2))
    score.update(torch.full((1,), 5.0), torch.zeros(1, 2))
    assert score.compute() == 2.0


def test_an_infinite_error_is_not_exact() -> None:
    error = ScoreRecord(name="error", value=float("inf"), higher_is_better=False)
    assert str(error) == "none" and error.written(float("-inf")) == "exact"


class Empty(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 32), nn.Linear(32, 16)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        values = self.second(self.first(image.flatten(1)).relu())
        return values, values[:, :0]


def test_a_network_with_an_empty_output_is_pruned() -> None:
    result = Prune(ratio=0.5).apply(Empty(), Context((batch()["picture"],)))
    assert result.model.get_parameter("first.weight").shape == (16, 64)
    assert [x.shape for x in result.model(batch()["picture"])] == [(8, 16), (8, 0)]


def test_a_gate_of_a_score_that_the_task_does_not_have_is_told_before_the_work() -> None:
    require_scores(Gates(score_drop={"error": 1.0}), GOOD)
    with pytest.raises(InvalidInput, match="score_drop: mIoU: the task centre has no such score; it has error"):
        require_scores(Gates(score_drop={"mIoU": 1.0}), GOOD)
    with pytest.raises(InvalidInput, match="score_drop: the task bare has no such score; it has none"):
        require_scores(Gates(score_drop=1.0), Task(name="bare"))
