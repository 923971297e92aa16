"""Which processors compute which files exactly, and how files are judged where one does not."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
import torch

from compress import deploy
from compress.quantize import TARGETS, Quantize
from compress.sources.load import Network
from compress.sources.specification import Source
from runtimes import processor
from runtimes.checks.gate import check_folder, notes
from tests.support.small_networks import Joined, made

AVX2, VNNI = ["avx2"], ["avx2", "avx512_vnni"]


@pytest.mark.parametrize("target", TARGETS)
def test_only_full_weights_on_x86_without_vnni_are_clipped(target: str) -> None:
    clipped = target in ("ort-x86", "ort-arm", "tensorrt", "openvino")
    assert processor.is_exact(target, "x86_64", AVX2) is not clipped
    assert processor.is_exact(target, "AMD64", None) is not clipped
    assert processor.is_exact(target, "x86_64", VNNI)
    assert processor.is_exact(target, "aarch64", ["asimd"])


def test_flags_are_read_as_linux_writes_them(tmp_path: Path) -> None:
    (tmp_path / "x86").write_text("processor : 0\nflags\t\t: fpu avx2 avx512_vnni\n")
    (tmp_path / "arm").write_text("Features\t: fp asimd asimddp\n")
    assert processor.flags(tmp_path / "x86") == ("fpu", "avx2", "avx512_vnni")
    assert processor.flags(tmp_path / "arm") == ("fp", "asimd", "asimddp")
    assert processor.flags(tmp_path / "none") is None


@pytest.mark.parametrize("target", ["ort-x86", "ort-arm", "tensorrt"])
def test_a_file_for_another_device_is_judged_as_that_computes(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On every processor: where this one is exact, it is told that it is not."""
    monkeypatch.setattr(processor, "is_exact", lambda target: False)
    model, inputs, context = made(Joined)
    result = Quantize().apply(model, context)
    network = Network(result.model, Source("module", "Joined"), encodings=dict(result.encodings), example_inputs=inputs)
    (tmp_path / "files").mkdir()
    (record,) = deploy.write_folder(network, tmp_path / "files", [deploy.Wanted("onnx", target)])
    assert record.parity is not None and record.parity.snr_db > 60  # type: ignore[operator]
    assert any("has no VNNI" in note and target in note for note in record.notes)
    (checked,) = check_folder(tmp_path / "files")
    assert checked.passed and checked.parity is not None and checked.here is not None
    assert checked.parity.snr_db > 60 and checked.parity.snr_db >= checked.here.snr_db
    assert checked.executed is not None and checked.executed.integer > 0, "what is executed is told of the file itself"
    assert any("has no VNNI" in note and "SNR" in note for note in notes(checked))


def test_files_in_floats_are_judged_as_they_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "is_exact", lambda target: False)
    network = Network(torch.nn.Linear(4, 3), Source("module", "Linear"), example_inputs=(torch.randn(2, 4),))
    (tmp_path / "files").mkdir()
    (record,) = deploy.write_folder(network, tmp_path / "files", [deploy.Wanted("onnx", "tensorrt")])
    assert not record.notes
    (checked,) = check_folder(tmp_path / "files")
    assert checked.here is None and not notes(checked)


@pytest.mark.parametrize(("limit", "exact"), [("", True), ("ALL", True), ("AVX512_CORE_VNNI", True), ("AVX2", False)])
def test_openvino_is_held_to_what_the_environment_allows(
    monkeypatch: pytest.MonkeyPatch, limit: str, exact: bool
) -> None:
    monkeypatch.setattr(processor, "flags", lambda: ("avx2", "avx512_vnni"))
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert processor.is_exact("openvino") is exact and processor.is_exact("ort-x86")
