from __future__ import annotations

import copy
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from compress.errors import InvalidInput
from compress.sources.weights import load_weights, require_finite
from tests.support.small_classifier import SMALL_NET, SmallNet

State = dict[str, Tensor]


def below(prefix: str) -> Callable[[State], State]:
    return lambda state: {f"{prefix}{key}": value for key, value in state.items()}


def without(*endings: str) -> Callable[[State], State]:
    return lambda state: {key: value for key, value in state.items() if not key.endswith(endings)}


def averaged(state: State) -> State:
    return {"n_averaged": torch.tensor(3), **below("module.")(state)}


def compiled_within(state: State) -> State:
    """Only one layer was compiled, and it was replicated."""
    return {key.replace("conv2.", "conv2._orig_mod.module."): value for key, value in state.items()}


def counted(state: State) -> State:
    """With what a counter of operations left behind."""
    return {**state, "total_ops": torch.zeros(1), "conv1.total_params": torch.zeros(1)}


def lightning(state: State) -> State:
    return {**below("model.")(state), "loss.weight": torch.ones(3)}


def zeros(state: State) -> State:
    return {key: torch.zeros_like(value) for key, value in state.items()}


def parts(state: State) -> dict[str, Any]:
    """A state dict for every layer."""
    layers = dict.fromkeys(key.partition(".")[0] for key in state)
    return {
        layer: {key.removeprefix(f"{layer}."): v for key, v in state.items() if key.startswith(f"{layer}.")}
        for layer in layers
    }


WRITTEN: dict[str, Callable[[State], Any]] = {
    "plain": dict,
    "data parallel": below("module."),
    "compiled": below("_orig_mod."),
    "compiled and parallel": below("module._orig_mod."),
    "parallel and compiled": below("_orig_mod.module."),
    "one layer compiled": compiled_within,
    "fsdp": below("_fsdp_wrapped_module."),
    "any prefix": below("backbone.encoder."),
    "averaged": averaged,
    "no counts of batches": without("num_batches_tracked"),
    "counted": counted,
    "state_dict": lambda s: {"state_dict": s, "epoch": 3},
    "lightning": lambda s: {"state_dict": lightning(s), "hyper_parameters": {"lr": 0.1}, "loops": {}},
    "lightning compiled": lambda s: {"state_dict": below("model._orig_mod.")(s)},
    "model_state_dict": lambda s: {"optimizer_state_dict": {"state": {0: s}}, "model_state_dict": s},
    "net": lambda s: {"net": below("module.")(s), "acc": 93.0},
    "weights": lambda s: {"weights": s},
    "nested twice": lambda s: {"checkpoint": {"model": below("net.")(s)}},
    "under a name of the user's": lambda s: {"generator": s, "step": torch.tensor(4)},
    "only averages": lambda s: {"ema": below("module.")(s)},
    "averages first": lambda s: {"model_ema": zeros(s), "model": s},
    "averages beside": lambda s: {"state_dict": {**below("ema_model.")(zeros(s)), **below("online_model.")(s)}},
    "student and teacher": lambda s: {**below("student.")(s), **below("teacher.")(zeros(s))},
    "query and key": lambda s: {
        "state_dict": {**below("module.encoder_k.")(zeros(s)), **below("module.encoder_q.")(s), "queue": torch.ones(2)}
    },
    "deep": lambda s: {"classy_state_dict": {"base_model": {"model": {"trunk": s, "heads": {}}}}},
    "parts": parts,
    "parts, parallel, beside others": lambda s: {
        "epoch": 3, "optimizer": {"state": {0: s}}, **{k: below("module.")(part) for k, part in parts(s).items()},
    },
    "parts in a dictionary": lambda s: {"ema": parts(zeros(s)), "networks": parts(s)},
    "a list": lambda s: [s, 3],
    "half": lambda s: {key: value.half() if value.is_floating_point() else value for key, value in s.items()},
    "parameters": lambda s: {k: nn.Parameter(v) if v.is_floating_point() else v for k, v in s.items()},
}  # fmt: skip


def filled() -> SmallNet:
    """A network whose every value differs from a fresh one, and survives half precision."""
    torch.manual_seed(5)
    net = SmallNet()
    for tensor in net.state_dict().values():
        tensor.copy_(torch.randint(1, 9, tensor.shape))
    return net.eval()


@pytest.mark.parametrize("written", WRITTEN.values(), ids=WRITTEN)
def test_whatever_trainers_wrap_around(small_net: SmallNet, tmp_path: Path, written: Callable[[State], Any]) -> None:
    expected = filled()
    holds = written(dict(expected.state_dict()))
    torch.save(holds, tmp_path / "w.pt")
    load_weights(small_net, tmp_path / "w.pt")
    for name, tensor in small_net.named_parameters():
        assert torch.equal(tensor, expected.get_parameter(name)), name
    if isinstance(holds, dict) and all(isinstance(value, Tensor) for value in holds.values()):
        again = SmallNet()
        save_file({key: value.detach().clone() for key, value in holds.items()}, tmp_path / "w.safetensors")
        load_weights(again, tmp_path / "w.safetensors")
        assert torch.equal(again.bn2.running_var, expected.bn2.running_var)  # type: ignore[arg-type]


class Holder(nn.Module):
    """A network of which a submodule has the name of a wrapper."""

    def __init__(self, name: str) -> None:
        super().__init__()
        setattr(self, name, SmallNet())
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = getattr(self, self.name)(x)
        return result


@pytest.mark.parametrize("name", ["module", "model", "_orig_mod", "net"])
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "_orig_mod.", "trainer.model."])
def test_a_network_whose_own_names_look_like_a_wrapper_s(tmp_path: Path, name: str, prefix: str) -> None:
    expected = filled()
    torch.save(below(f"{prefix}{name}.")(dict(expected.state_dict())), tmp_path / "w.pt")
    net = Holder(name)
    load_weights(net, tmp_path / "w.pt")
    assert torch.equal(getattr(net, name).fc.weight, expected.fc.weight)
    torch.save(below(prefix)(dict(filled().state_dict())), tmp_path / "inner.pt")
    again = Holder(name)  # the weights of what it holds
    load_weights(again, tmp_path / "inner.pt")
    assert torch.equal(getattr(again, name).fc.weight, expected.fc.weight)


def test_one_of_several_is_named_by_its_key(
    small_net: SmallNet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = dict(filled().state_dict())
    torch.save({"model": state, "model_ema": zeros(state)}, tmp_path / "w.pt")
    with caplog.at_level(logging.WARNING, "compress"):
        load_weights(small_net, tmp_path / "w.pt")
    assert "'model'" in caplog.text and "w.pt:model_ema" in caplog.text
    load_weights(small_net, Path(f"{tmp_path}/w.pt:model_ema"))
    assert not small_net.fc.weight.any()
    with pytest.raises(InvalidInput, match=r"no state dict 'swa'; it has model, model_ema"):
        load_weights(small_net, Path(f"{tmp_path}/w.pt:swa"))


def test_one_of_several_is_named_by_its_prefix(
    small_net: SmallNet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = dict(filled().state_dict())
    torch.save({"nets": {**below("a.")(state), **below("b.")(zeros(state))}}, tmp_path / "w.pt")
    with caplog.at_level(logging.WARNING, "compress"):
        load_weights(small_net, tmp_path / "w.pt")
    assert "taken from a.*" in caplog.text and "in 'nets.b' too" in caplog.text and "w.pt:nets.b" in caplog.text
    assert small_net.fc.weight.any()
    load_weights(small_net, Path(f"{tmp_path}/w.pt:nets.b"))
    assert not small_net.fc.weight.any()


def test_a_part_that_is_missing_is_named(small_net: SmallNet, tmp_path: Path) -> None:
    holds = parts(dict(filled().state_dict()))
    del holds["fc"]
    torch.save(holds, tmp_path / "w.pt")
    with pytest.raises(InvalidInput, match=r"2 tensors are missing \(fc.bias, fc.weight\)"):
        load_weights(small_net, tmp_path / "w.pt")


def test_what_is_left_out_is_named(small_net: SmallNet, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save(lightning(dict(filled().state_dict())), tmp_path / "w.pt")
    with caplog.at_level(logging.WARNING, "compress"):
        load_weights(small_net, tmp_path / "w.pt")
    assert "1 tensors beside it are left out (loss.weight)" in caplog.text


def test_a_whole_network_in_a_pickle(small_net: SmallNet, tmp_path: Path) -> None:
    torch.save({"epoch": 3, "model": filled(), "optimizer": None}, tmp_path / "w.pt")
    with pytest.raises(InvalidInput, match=r"names tests\.support\.small_classifier\.SmallNet.*--trust"):
        load_weights(small_net, tmp_path / "w.pt")
    load_weights(small_net, tmp_path / "w.pt", trust=True)
    assert torch.equal(small_net.fc.weight, filled().fc.weight)


def test_a_pickle_whose_code_lies_beside_the_network(tmp_path: Path) -> None:
    import sys

    from compress.siblings import users_imports

    (tmp_path / "its_code.py").write_text(SMALL_NET)
    with users_imports(tmp_path):
        import its_code  # type: ignore[import-not-found]

        net = its_code.build()
        torch.save(net, tmp_path / "w.pt")
    del sys.modules["its_code"]
    again = copy.deepcopy(net)
    nn.init.zeros_(again.fc.weight)
    load_weights(again, tmp_path / "w.pt", trust=True, imports=tmp_path)
    assert torch.equal(again.fc.weight, net.fc.weight)
    del sys.modules["its_code"]
    with pytest.raises(InvalidInput, match=r"code is not found here \(No module named 'its_code'\)"):
        load_weights(again, tmp_path / "w.pt", trust=True, imports=tmp_path / "elsewhere")


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.b.weight = self.a.weight


def test_a_tensor_of_several_names(tmp_path: Path) -> None:
    for stored in ("a", "b"):
        net = Tied()
        torch.save({f"{stored}.weight": torch.eye(4)}, tmp_path / "w.pt")
        load_weights(net, tmp_path / "w.pt")
        assert torch.equal(net.a.weight, torch.eye(4)) and net.b.weight is net.a.weight
    torch.save({"a.weight": torch.eye(4), "b.weight": torch.ones(4, 4)}, tmp_path / "w.pt")
    with pytest.raises(InvalidInput, match=r"a\.weight and b\.weight differ, and are one tensor"):
        load_weights(Tied(), tmp_path / "w.pt")


class Renamed(SmallNet):
    """It knows the names of an older version of itself."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        for name in [name for name in state_dict if name.startswith("classifier.")]:
            state_dict[name.replace("classifier.", "fc.")] = state_dict.pop(name)
        super()._load_from_state_dict(state_dict, prefix, *arguments)


def test_names_that_the_network_itself_translates(tmp_path: Path) -> None:
    state = {name.replace("fc.", "classifier."): value for name, value in filled().state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "w.pt")
    net = Renamed()
    load_weights(net, tmp_path / "w.pt")
    assert torch.equal(net.fc.bias, filled().fc.bias)


def test_weights_that_do_not_fit(small_net: SmallNet, tmp_path: Path) -> None:
    state = dict(small_net.state_dict())
    before = small_net.fc.weight.clone()
    save_file({k: v for k, v in state.items() if k != "fc.bias"} | {"extra": torch.ones(1)}, tmp_path / "a.safetensors")
    with pytest.raises(InvalidInput, match=r"1 tensors are missing \(fc.bias\) and 1 are unknown \(extra\)"):
        load_weights(small_net, tmp_path / "a.safetensors")
    save_file(state | {"fc.bias": torch.ones(5)}, tmp_path / "b.safetensors")
    with pytest.raises(InvalidInput, match=r"fc.bias has shape \(5,\), the network's is \(3,\)"):
        load_weights(small_net, tmp_path / "b.safetensors")
    renamed = {name.replace("fc.", "fc1."): torch.ones_like(value) for name, value in state.items()}
    torch.save({"model": below("module.")(renamed)}, tmp_path / "c.pt")
    with pytest.raises(InvalidInput, match=r"'model' has 12 of its 14 tensors below 'module.'; nearest to fc.bias is"):
        load_weights(small_net, tmp_path / "c.pt")
    assert torch.equal(small_net.fc.weight, before)


def test_a_pickle_is_not_run_without_trust(small_net: SmallNet, tmp_path: Path) -> None:
    path, mark = tmp_path / "w.pt", tmp_path / "it-ran"

    class Payload:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return Path.touch, (mark,)

    torch.save({"weights": Payload()}, path)
    with pytest.raises(InvalidInput, match="--trust"):
        load_weights(small_net, path)
    assert not mark.exists()
    with pytest.raises(InvalidInput, match="expected a state dict"):
        load_weights(small_net, path, trust=True)
    assert mark.exists()


KINDS: dict[str, tuple[object, str]] = {
    "sparse": (torch.eye(3).to_sparse(), "sparse"),
    "nested": (lambda: torch.nested.nested_tensor([torch.ones(3)]), "nested"),
    "quantized": (lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), "quantized"),
    "meta": (torch.ones(3, device="meta"), "meta"),
    "complex": (torch.ones(3, dtype=torch.complex64), "complex64"),
    "a number": (3.0, "is a float, expected a tensor"),
    "a list": ([1.0, 2.0, 3.0], "is a list, expected a tensor"),
    "nothing": (None, "is a NoneType, expected a tensor"),
    "NaN": (torch.full((3,), torch.nan), "3 values that are not finite"),
    "infinity": (torch.tensor([0.0, torch.inf, 0.0]), "1 values that are not finite"),
}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(("value", "says"), KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_values_that_no_weights_have(
    small_net: SmallNet, tmp_path: Path, value: object, says: str, prefix: str
) -> None:
    state: dict[str, Any] = {**small_net.state_dict(), "fc.bias": value() if callable(value) else value}
    torch.save({f"{prefix}{name}": value for name, value in state.items()}, tmp_path / "w.pt")
    with pytest.raises(InvalidInput, match=rf"fc\.bias .*{says}") as raised:
        load_weights(small_net, tmp_path / "w.pt")
    assert "\n" not in str(raised.value)


def _cut(path: Path, part: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.98])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors", "pickle", "notes"])
def test_damaged_files_are_one_line(small_net: SmallNet, tmp_path: Path, kind: str, part: float) -> None:
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pt")
    state = dict(small_net.state_dict())
    if kind == "safetensors":
        save_file(state, path)
    elif kind == "pickle":
        path.write_bytes(pickle.dumps({"a": [1.0] * 400}))
    elif kind == "notes":
        path.write_text("these are notes " * 40)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    _cut(path, part)
    for trust in (False, True):
        with pytest.raises(InvalidInput, match=r"^weights .*not a readable") as raised:
            load_weights(small_net, path, trust=trust)
        assert "\n" not in str(raised.value) and "\x1b" not in str(raised.value)


def test_what_a_file_is_counts_not_its_name(small_net: SmallNet, tmp_path: Path) -> None:
    save_file(dict(filled().state_dict()), tmp_path / "w.bin")
    load_weights(small_net, tmp_path / "w.bin")
    assert torch.equal(small_net.fc.weight, filled().fc.weight)
    with pytest.raises(InvalidInput, match="expected a file, got a folder"):
        load_weights(small_net, tmp_path)


def test_masks_may_be_infinite_and_statistics_not(small_net: SmallNet) -> None:
    small_net.register_buffer("mask", torch.full((2, 2), -torch.inf))
    require_finite(small_net, "model")
    small_net.bn1.running_var[0] = torch.inf  # type: ignore[index]
    with pytest.raises(InvalidInput, match=r"model: bn1\.running_var holds 1 values"):
        require_finite(small_net, "model")
