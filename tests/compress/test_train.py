from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch._inductor import config as inductor_config

from compress.data import Data
from compress.errors import InvalidInput
from compress.sources.load import build
from compress.sources.specification import parse
from compress.stage import Context
from compress.tasks.built_in.classification import top1
from compress.training.augmentation import augmentation
from compress.training.loop import Training, fit
from compress.training.optimizer import learning_rate_factor

FAST = Training(epochs=3, batch_size=8, learning_rate=0.05, precision="fp32", accelerator="cpu")


USERS_NET = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm2d(1)
        self.fc = nn.Linear(64, 3)

    def forward(self, x):
        return self.fc(x.flatten(1)) + 0 * self.bn(x).mean()


def build():
    torch.manual_seed(0)
    return Net()
"""


def states_equal(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_training_learns(small_net: nn.Module, data: Data) -> None:
    before = top1(small_net, data.split("test"))
    history = fit(small_net, data, FAST.model_copy(update={"epochs": 8}))
    assert top1(small_net, data.split("test")) > max(before, 80)
    assert history[-1]["loss"] < history[0]["loss"] and len(history) == 8
    assert not small_net.training


def test_accuracy_is_that_in_evaluation_and_leaves_the_network_as_it_was(small_net: nn.Module, data: Data) -> None:
    split = data.split("test")
    x, y = next(iter(split.batches(len(split))))
    with torch.no_grad():
        expected = 100.0 * float((small_net(x).argmax(1) == y).double().mean())
    training = copy.deepcopy(small_net).train()
    assert top1(training, split, batch_size=5) == pytest.approx(expected)
    assert training.training and states_equal(training, small_net)


class Recorder:
    """Remembers the weights after every step."""

    def __init__(self) -> None:
        self.weights: list[torch.Tensor] = []

    def after_backward(self, model: nn.Module, step: int, steps: int) -> None:
        pass

    def after_step(self, model: nn.Module, average: nn.Module | None, step: int, steps: int) -> None:
        self.weights.append(model.get_parameter("fc.weight").detach().clone())

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def test_a_moving_average_is_what_a_training_ends_with(small_net: nn.Module, data: Data) -> None:
    recorder = Recorder()
    fit(small_net, data, FAST.model_copy(update={"epochs": 2, "ema": 0.75}), callback=recorder)
    expected, *rest = recorder.weights
    for weight in rest:
        expected = 0.75 * expected + 0.25 * weight
    assert len(rest) > 3 and not torch.allclose(expected, rest[-1])
    torch.testing.assert_close(small_net.get_parameter("fc.weight").detach(), expected)


@pytest.mark.parametrize("ema", [None, 0.9])
def test_an_interrupted_training_resumes_with_the_same_result(
    small_net: nn.Module, data: Data, tmp_path: Path, ema: float | None
) -> None:
    training = FAST.model_copy(update={"epochs": 4, "ema": ema, "augment": ("flip", "crop", "cutout")})
    whole, broken = copy.deepcopy(small_net), copy.deepcopy(small_net)
    expected = fit(whole, data, training, seed=5)
    checkpoint = tmp_path / "train.ckpt"

    def stop(task: str, done: int, total: int, note: str = "") -> None:
        if note.startswith("epoch 3/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(broken, data, training, seed=5, checkpoint=checkpoint, progress=stop)
    assert checkpoint.exists() and not states_equal(whole, broken)
    resumed = copy.deepcopy(small_net)
    assert fit(resumed, data, training, seed=5, checkpoint=checkpoint) == expected
    assert states_equal(whole, resumed)


def test_a_checkpoint_of_another_training_is_refused(small_net: nn.Module, data: Data, tmp_path: Path) -> None:
    fit(small_net, data, FAST, checkpoint=tmp_path / "c")
    with pytest.raises(InvalidInput, match="other settings"):
        fit(small_net, data, FAST.model_copy(update={"learning_rate": 0.2}), checkpoint=tmp_path / "c")


@pytest.mark.parametrize("damage", ["a tensor", "cut", "no archive"])
def test_a_checkpoint_that_is_not_what_was_written_is_not_gone_on_from(
    damage: str, small_net: nn.Module, data: Data, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, resumed, checkpoint = copy.deepcopy(small_net), copy.deepcopy(small_net), tmp_path / "c"
    fit(whole, data, FAST, checkpoint=checkpoint)
    content = checkpoint.read_bytes()
    weight = whole.fc.weight.detach().numpy().tobytes()  # type: ignore[operator, union-attr]
    place = content.index(weight)
    spoilt = {
        "a tensor": content[:place] + bytes(8) + content[place + 8 :],
        "cut": content[: len(content) // 2],
        "no archive": b"{}",
    }
    checkpoint.write_bytes(spoilt[damage])
    with caplog.at_level(logging.WARNING, logger="compress"):
        fit(resumed, data, FAST, checkpoint=checkpoint)
    assert [message for message in caplog.messages if "is damaged" in message and "begins anew" in message]
    assert states_equal(whole, resumed)


def test_the_same_seed_gives_the_same_weights(small_net: nn.Module, data: Data) -> None:
    first, second, third = (copy.deepcopy(small_net) for _ in range(3))
    fit(first, data, FAST, seed=1)
    fit(second, data, FAST, seed=1)
    fit(third, data, FAST, seed=2)
    assert states_equal(first, second) and not states_equal(first, third)


def test_two_processes_train_a_users_network_as_one_does(tmp_path: Path, data: Data) -> None:
    """Its class lives in a file that new processes cannot import by name; the gradients of two halves of a batch are
    averaged to the step of the whole batch, where a batch norm has no part in it."""
    (tmp_path / "net.py").write_text(USERS_NET)
    network, _ = build(parse(f"{tmp_path}/net.py:build"))
    before, alone, together = (copy.deepcopy(network) for _ in range(3))
    training = FAST.model_copy(update={"epochs": 4})
    expected = fit(alone, data, training)
    history = fit(together, data, training.model_copy(update={"devices": 2}))
    assert len(history) == len(expected) == 4 and history[-1]["loss"] < history[0]["loss"]
    assert not torch.equal(together.bn.running_mean, before.bn.running_mean) and not together.training  # type: ignore[arg-type, union-attr]
    for a, b in zip(alone.parameters(), together.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_training_as_a_stage_leaves_the_network_given(small_net: nn.Module, data: Data) -> None:
    untouched = copy.deepcopy(small_net)
    result = FAST.apply(small_net, Context((data.example(1),), data))
    assert states_equal(small_net, untouched) and not states_equal(small_net, result.model)
    assert len(result.history) == 3


def test_a_diverging_training_is_an_error(small_net: nn.Module, data: Data) -> None:
    with pytest.raises(InvalidInput, match="not finite"):
        fit(small_net, data, FAST.model_copy(update={"learning_rate": 1e30, "warmup_epochs": 0.0}))


def test_learning_rate_warms_up_then_falls_to_zero() -> None:
    factors = [learning_rate_factor(step, 100, 10, "cosine") for step in range(101)]
    assert factors[0] == 0.1 and max(factors) == 1 and factors[100] == pytest.approx(0)
    assert np.all(np.diff(factors[:10]) > 0) and np.all(np.diff(factors[10:]) <= 0)
    assert learning_rate_factor(99, 100, 10, "constant") == 1


def test_augmentations_keep_shape_and_pixels() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(1, 255, (16, 3, 16, 16), dtype=torch.uint8)
    flipped, _ = augmentation(x, None, generator, ["flip"])
    for before, after in zip(x, flipped, strict=True):
        assert torch.equal(after, before) or torch.equal(after, before.flip(2))
    assert not torch.equal(flipped, x) and not torch.equal(flipped, x.flip(3))
    places = set()
    for before, after in zip(x, augmentation(x, None, generator, ["crop"])[0], strict=True):
        padded = torch.nn.functional.pad(before, (2,) * 4)
        windows = {(t, s): padded[:, t : t + 16, s : s + 16] for t in range(5) for s in range(5)}
        (place,) = (place for place, window in windows.items() if torch.equal(after, window))
        places.add(place)
    assert len({top for top, _ in places}) >= 3 and len({left for _, left in places}) >= 3
    cut, _ = augmentation(x, None, generator, ["cutout"])
    hidden = (cut == 0).sum((1, 2, 3))
    assert torch.equal(cut[cut != 0], x[cut != 0]) and int(hidden.min()) > 0 and int(hidden.max()) <= 3 * 16


@pytest.mark.usefixtures("cpp_compiler")
def test_a_compiled_training_learns_and_is_kept_as_one_that_is_not(
    small_net: nn.Module, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same weights up to the order of sums; names in its checkpoint are those of the network."""
    torch.compiler.reset()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))  # shared with no other run
    plain, fused, resumed = (copy.deepcopy(small_net) for _ in range(3))
    compiled = FAST.model_copy(update={"compiled": True})
    expected = fit(plain, data, FAST)
    history = fit(fused, data, compiled, checkpoint=tmp_path / "c")
    assert history[-1]["loss"] == pytest.approx(expected[-1]["loss"], rel=1e-3)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(fused.state_dict()[name], value, rtol=1e-3, atol=1e-4)
    assert set(torch.load(tmp_path / "c", weights_only=True)["model"]) == set(plain.state_dict())
    fit(resumed, data, compiled, checkpoint=tmp_path / "c")
    assert states_equal(resumed, fused)


def test_where_nothing_compiles_one_line_says_so(
    small_net: nn.Module, data: Data, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    torch.compiler.reset()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    missing = inductor_config.patch({"cpp.cxx": ("no-such-compiler",)})
    with missing, pytest.raises(InvalidInput, match=r"torch.compile failed \(.*\); train without compiled"):
        fit(small_net, data, FAST.model_copy(update={"compiled": True, "epochs": 1, "batch_size": 7}))
