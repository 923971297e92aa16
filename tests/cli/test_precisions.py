"""compress sensitivity --stage quantize, and compress quantize under a budget that reads it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from compress.cli import cli
from compress.errors import InvalidInput


def test_a_scan_is_written_and_read(small_net_file: Path, npz: Path, tmp_path: Path) -> None:
    def run(*words: str) -> None:
        result = CliRunner().invoke(cli, [*words, "-q"])
        assert result.exit_code == 0, result.exception

    network, scan, mixed = f"{small_net_file}:build", tmp_path / "scan", tmp_path / "mixed"
    run("sensitivity", network, "--stage", "quantize", "--data", str(npz), "--samples", "10", "-o", str(scan))
    assert {path.name for path in scan.iterdir()} == {
        "sensitivity.json", "sensitivity.svg", "trade_off.json", "trade_off.svg",
    }  # fmt: skip
    curve = json.loads((scan / "trade_off.json").read_text())
    assert curve["points"][0]["bytes"] < curve["points"][-1]["bytes"] < curve["float_bytes"]
    budget = ("--size", "1.5", "--scan", str(scan), "--keep-slower")
    run("quantize", network, "--data", str(npz), *budget, "-o", str(mixed), "--json-file", str(tmp_path / "told.json"))
    config = json.loads((tmp_path / "told.json").read_text())["config"]["budget"]
    assert config["size"] == 1.5 and config["sensitivity"] == "snr" and config["scan"] == str(scan)


def test_a_scan_without_a_budget_is_refused(small_net_file: Path, tmp_path: Path) -> None:
    words = ["quantize", f"{small_net_file}:build", "--scan", str(tmp_path), "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(cli, words)
    assert isinstance(result.exception, InvalidInput)
    with pytest.raises(InvalidInput, match="give --size or --latency too"):
        raise result.exception


@pytest.mark.parametrize(
    ("stage", "words", "told"),
    [
        ("prune", ("--others-in", "int8"), "--others-in: it is of --stage quantize; leave it out, or give that"),
        ("prune", ("--sensitivity", "score"), "--sensitivity: it is of --stage quantize; leave it out, or give that"),
        ("quantize", ("--ratios", "0.5"), "--ratios: it is of --stage prune; leave it out, or give that"),
        ("quantize", ("--samples", "0"), "--samples: "),
    ],
)
def test_settings_of_the_other_stage_are_refused(
    stage: str, words: tuple[str, ...], told: str, small_net_file: Path, tmp_path: Path
) -> None:
    network = f"{small_net_file}:build"
    result = CliRunner().invoke(
        cli, ["sensitivity", network, "--stage", stage, *words, "--data", "digits", "-o", str(tmp_path / "scan")]
    )
    assert isinstance(result.exception, InvalidInput) and str(result.exception).startswith(told)
    assert not (tmp_path / "scan").exists()
