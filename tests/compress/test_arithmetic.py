from __future__ import annotations

import logging
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import runtimes.processor as processor
from compress.core import arithmetic
from compress.core.arithmetic import arranged, memory_format_of, native_bfloat16, precision_on
from compress.data import Data
from compress.tasks.built_in.classification import task
from compress.tasks.reading import Reading
from compress.training.loop import Training, fit

ROOT = Path(__file__).resolve().parents[2]
HERE = "tests/compress"
AVX2 = {
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "OMP_NUM_THREADS": "1",
    "MALLOC_CHECK_": "3",  # glibc ends the process where the heap is damaged
}


def described(monkeypatch: pytest.MonkeyPatch, machine: str, flags: tuple[str, ...], capability: str) -> None:
    """Let this processor seem another one."""
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(processor, "flags", lambda: flags)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)


@pytest.mark.parametrize(
    ("machine", "flags", "capability", "native"),
    [
        ("x86_64", ("avx2", "avx512f", "avx512_bf16"), "AVX512", True),
        ("x86_64", ("avx2", "avx512f", "amx_bf16"), "AVX512", True),
        ("x86_64", ("avx2", "avx512f", "avx512_vnni"), "AVX512", False),
        ("x86_64", ("avx2",), "AVX2", False),
        ("x86_64", ("avx2", "avx512f", "avx512_bf16"), "AVX2", False),
        ("aarch64", ("asimd", "bf16"), "DEFAULT", True),
        ("aarch64", ("asimd", "asimddp"), "DEFAULT", False),
    ],
)
def test_bfloat16_is_native_where_the_processor_has_it_and_torch_may_use_it(
    monkeypatch: pytest.MonkeyPatch, machine: str, flags: tuple[str, ...], capability: str, native: bool
) -> None:
    described(monkeypatch, machine, flags, capability)
    assert native_bfloat16("cpu") is native
    assert precision_on("cpu") == ("bf16" if native else "fp32")
    assert precision_on("cpu", "bf16") == "bf16" and precision_on("cpu", "fp32") == "fp32"


def test_a_limit_on_onednn_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    described(monkeypatch, "x86_64", ("avx512_bf16",), "AVX512")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_VNNI")
    assert not native_bfloat16("cpu")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "avx512_core_bf16")
    assert native_bfloat16("cpu")


@pytest.mark.parametrize("native", [True, False])
def test_a_training_computes_in_bfloat16_by_default_only_where_it_is_native(
    small_net: nn.Module,
    data: Data,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    native: bool,
) -> None:
    described(monkeypatch, "x86_64", ("avx512_bf16",) if native else (), "AVX512")
    dtypes = set()
    for module in small_net.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda module, inputs, output: dtypes.add(output.dtype))
    training = Training(epochs=1, batch_size=16, accelerator="cpu")
    assert training.precision == "auto"
    own = task(Reading())
    fit(small_net, Data(data.name, {"train": data.split("train")}), training, own)
    assert dtypes == {torch.bfloat16 if native else torch.float32}
    with caplog.at_level(logging.WARNING):
        fit(small_net, data, training.model_copy(update={"epochs": 0, "precision": "bf16"}), own)
    assert ("no instructions for bf16" in caplog.text) is not native


@pytest.mark.parametrize(
    ("layer", "safe"),
    [
        (nn.Conv2d(4, 8, 1, stride=2), False),
        (nn.Conv2d(7, 8, 1, stride=(1, 2)), False),
        (nn.Conv2d(32, 32, 1, stride=2, groups=16), False),
        (nn.Conv2d(8, 8, 1, stride=2), True),
        (nn.Conv2d(4, 8, 1), True),
        (nn.Conv2d(4, 8, 3, stride=2), True),
        (nn.Linear(4, 4), True),
    ],
)
def test_strided_shortcuts_of_few_channels_are_trained_in_the_safe_order(layer: nn.Module, safe: bool) -> None:
    network = nn.Sequential(nn.Sequential(layer))
    assert memory_format_of(network, "cpu") is (torch.channels_last if safe else torch.contiguous_format)
    assert memory_format_of(network, "cuda") is torch.channels_last


def test_batches_reach_the_network_in_the_order_of_its_weights(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    orders: list[bool] = []
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4)
    )
    network[1].register_forward_pre_hook(lambda module, inputs: orders.append(inputs[0].is_contiguous()))
    only = Data(data.name, {"train": data.split("train")})
    training = Training(epochs=1, batch_size=16, precision="fp32", accelerator="cpu", augment=("crop",))
    for layout in (torch.contiguous_format, torch.channels_last):
        monkeypatch.setattr("compress.training.loop.memory_format_of", lambda model, device, layout=layout: layout)
        fit(network, only, training, task(Reading()))
        assert set(orders) == {layout is torch.contiguous_format}
        orders.clear()


def on_avx2(cache: Path, *tests: str) -> None:
    """Run tests where torch computes as on a processor with AVX2 alone, and damage to the heap is fatal.

    What torch compiles there goes into ``cache``: its usual cache would give it to processes that compute otherwise.
    """
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *tests]
    environment = os.environ | AVX2 | {"TORCHINDUCTOR_CACHE_DIR": str(cache)}
    ended = subprocess.run(command, env=environment, cwd=ROOT, text=True, capture_output=True, check=False)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-1000:]


def test_what_trains_also_trains_on_a_processor_with_avx2_alone(tmp_path: Path) -> None:
    on_avx2(
        tmp_path,
        f"{HERE}/test_train.py",
        f"{HERE}/test_arithmetic.py",
        "-k",
        "(learns or interrupted or narrow) and not compiled",
    )


@pytest.mark.slow
def test_all_trainings_pass_on_a_processor_with_avx2_alone(tmp_path: Path) -> None:
    trained = ("test_train.py", "test_share.py", "distill", "quantize/test_aware_training.py", "sparsify", "prune")
    on_avx2(tmp_path, *(f"{HERE}/{name}" for name in trained))


@pytest.mark.parametrize("shape", [(2, 1, 4, 4), (2, 3, 4, 4), (2, 3, 1, 1), (1, 1, 1, 1), (2, 3)])
def test_the_order_in_memory_is_that_of_the_strides(shape: tuple[int, ...]) -> None:
    x = torch.rand(shape)
    orders = (torch.channels_last, torch.contiguous_format) if len(shape) == 4 else (torch.contiguous_format,)
    for order in orders:
        x = arranged(given := x, order)
        assert torch.equal(x, given) and x.stride() == torch.empty(shape, memory_format=order).stride()
        assert arranged(x, order) is x


class Shortcut(nn.Module):
    """A residual block with a strided shortcut of four channels, the shape that pruning leads to."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.body, self.shortcut = nn.Conv2d(4, 8, 3, stride=2, padding=1), nn.Conv2d(4, 8, 1, stride=2)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        return self.head(torch.relu(self.body(x) + self.shortcut(x)).mean((2, 3)))


def test_a_narrow_shortcut_trains(data: Data) -> None:
    torch.manual_seed(0)
    history: Any = fit(Shortcut(), data, Training(epochs=12, batch_size=8, learning_rate=0.05, accelerator="cpu"))
    assert history[-1]["validation_score"] > 80


def test_the_report_tells_how_this_machine_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    from compress.deploy import machine

    described(monkeypatch, "x86_64", (), "AVX2")
    assert machine()["training_precision"] == "fp32" and machine()["threads_of_torch"] == torch.get_num_threads()
    monkeypatch.setattr(arithmetic, "native_bfloat16", lambda device: True)
    assert machine()["training_precision"] == "bf16"
