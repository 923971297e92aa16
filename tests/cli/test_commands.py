"""Every command on real, small input, in the order of the work."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner

from compress.cli import COMMANDS, cli
from compress.quantize.detect import detected
from compress.report import read as read_report
from compress.sources import artifact
from tests.support.command_line import runner
from tests.support.small_classifier import SMALL_NET

FAST = "--batch-size 16 --lr 0.05 --precision fp32 --accelerator cpu --quiet"
Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, npz: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in a folder with ``net.py`` and ``data.npz``; returns its stdout."""
    assert npz.parent == tmp_path
    (tmp_path / "net.py").write_text(SMALL_NET)
    monkeypatch.chdir(tmp_path)

    return runner(monkeypatch, capfd)


def test_the_whole_way_by_single_commands(run: Run, tmp_path: Path) -> None:
    run(f"train net.py:build:width=16 --data data.npz --epochs 2 {FAST} -o base")
    run(f"prune base --ratio 0.5 --data data.npz --epochs 1 --teacher base {FAST} -o pruned")
    run(f"distill pruned --teacher base --data data.npz --epochs 1 {FAST} -o taught")
    run("fold taught --data data.npz -q -o folded")
    run("quantize folded --data data.npz --keep-slower -q -o int8")
    exported = json.loads(run("export int8 --format onnx -o files --json"))
    assert sorted(path.name for path in Path("files").iterdir()) == [
        f"expected-{detected().target}.npz", "export.json", "model.onnx", "samples.npz",
    ]  # fmt: skip
    assert exported["nodes"]["integer"] > 0 and exported["nodes"]["float"] == 0
    assert exported["size_bytes"] == Path("files/model.onnx").stat().st_size

    network = artifact.load(tmp_path / "int8")
    assert [record["stage"] for record in network.lineage] == ["train", "prune", "distill", "fold", "quantize"]
    assert type(network.model).__name__ == "SmallNet" and network.model.conv.out_channels == 8  # type: ignore[union-attr]
    assert set(network.encodings) >= {"conv.weight", "fc.weight"}

    measured = json.loads(run("bench base files/model.onnx --data data.npz --preset quick --json"))
    first, second = measured["measurements"]
    assert len(first["samples_ms"]) == first["runs"] >= 30 and first["runtime"] == "onnxruntime"
    assert second["name"] == "files/model.onnx" and 0 <= second["scores"][0]["value"] <= 100 and second["samples"] == 20
    assert measured["machine"]["cores"]


def test_an_onnx_file_is_folded_quantized_exported_and_analyzed(run: Run, tmp_path: Path) -> None:
    namespace: dict[str, Callable[[], torch.nn.Module]] = {}
    exec(SMALL_NET, namespace)
    model = namespace["build"]().eval()
    torch.onnx.export(model, (torch.zeros(1, 1, 8, 8),), "net.onnx", external_data=False, verbose=False)
    x = np.random.default_rng(0).normal(size=(16, 1, 8, 8)).astype(np.float32)
    np.savez("calib.npz", x_calib=x)
    run("fold net.onnx -q -o f")
    run("quantize --model net.onnx --data calib.npz --keep-slower -q -o q")
    Path("net.onnx").unlink()  # the artifact holds what it needs
    run("export q --format onnx -q -o x")
    types = {tensor.data_type for tensor in onnx.load("x/model.onnx").graph.initializer}
    assert onnx.TensorProto.INT8 in types
    counted = json.loads(run("analyze q --json"))
    assert counted["params"] == sum(p.numel() for p in model.parameters()) - 16  # the batch norm is folded
    assert json.loads(run("bench x/model.onnx --preset quick --json"))["measurements"][0]["runs"]


def test_a_single_file_export(run: Run) -> None:
    run("export net.py:build --input-shape 1,8,8 -q -o net.onnx")
    assert onnx.load("net.onnx").graph.node and [p.name for p in Path().glob("*.onnx")] == ["net.onnx"]
    run("export net.py:build --input-shape 1,8,8 -q -o net.onnx", code=2)
    run("export net.py:build --input-shape 1,8,8 -q -o net.onnx --overwrite")


def test_analyze_tells_what_it_did_not_count(run: Run) -> None:
    out = run("analyze net.py:build:width=8 --input-shape 1,8,8")
    assert "conv" in out and f"{8 * 9 * 64 + 8 * 10:,} multiply-adds" in out
    told = [line.rpartition(": ")[0] for line in out.splitlines() if line.startswith("not counted: ")]
    assert told and len(set(told)) == len(told)


def test_doctor_names_the_engines(run: Run) -> None:
    told = json.loads(run("doctor --json"))
    assert told["engines"]["onnxruntime"]["version"] and told["machine"]["architecture"]


RECIPE = """
model: net.py:build:width=16
data: {source: data.npz}
train: {epochs: 2, batch_size: 16, precision: fp32, accelerator: cpu}
stages:
  - prune: {ratio: 0.5, training: {epochs: 1, batch_size: 16, precision: fp32, accelerator: cpu}}
  - fold
  - quantize
"""
EXPORTS = """
exports:
  - {name: baseline, after: baseline}
  - {name: int8, after: quantize}
gates: {float_nodes: 0, macs_ratio: 1.5}
"""


def test_a_recipe_runs_reports_and_is_drawn_again(run: Run) -> None:
    Path("r.yaml").write_text(RECIPE + EXPORTS)
    told = json.loads(run("run r.yaml --trust -o out --json -q"))
    assert [stage["name"] for stage in told["stages"]] == ["train", "prune", "fold", "quantize"]
    for stage in told["stages"]:
        assert {"params", "macs", "size_bytes", "scores"} <= set(stage["before"]) & set(stage["after"])
    assert told["summary"]["macs_ratio"] > 1.5 and "top-1" in told["summary"]["score_drops"]
    assert all(gate["passed"] for gate in told["gates"]) and len(told["gates"]) == 4
    assert [b["name"] for b in told["benchmarks"]] == ["baseline", "int8"] and told["schema_version"] == 1
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "0-baseline", "1-prune", "2-fold", "3-quantize", "exports", "recipe.json", "report.html", "report.json",
    ]  # fmt: skip
    target = detected().target
    assert {path.name for path in Path("out/exports").iterdir()} == {
        "baseline.onnx", "int8.onnx", "export.json", "samples.npz", "expected-baseline.npz", "expected-int8.npz",
    }  # fmt: skip
    checked = json.loads(run("check out/exports --json"))["files"]
    assert [(file["file"], file["target"]) for file in checked] == [("baseline.onnx", target), ("int8.onnx", target)]
    Path("out/report.html").unlink()
    assert "int8" in run("report out")
    assert "<svg" in Path("out/report.html").read_text()


def test_a_recipe_exports_what_the_command_exports(run: Run) -> None:
    settings = "opset: 18, dynamic_size: true, bake_preprocessing: true, pack: true, check_samples: 7"
    stages = RECIPE.replace("  - fold\n  - quantize\n", "")
    files = f"exports: [{{name: base, {settings}}}, {{name: small, after: prune, {settings}}}]\n"
    Path("r.yaml").write_text(stages + files + "benchmark: {preset: quick, profile: true}\n")
    told = json.loads(run("run r.yaml --trust -o out --json -q"))
    line = "--opset 18 --dynamic-size --bake-preprocessing --pack --check-samples 7 --data data.npz --json -q"
    alone = json.loads(run(f"export out/1-prune {line} -o files"))
    _, small = told["exports"]
    same = ("opset", "size_bytes", "bytes_by_dtype", "target", "nodes")
    assert {key: small[key] for key in same} == {key: alone[key] for key in same} and small["opset"] == 18
    assert small["packed_bytes"] and Path("out/exports/small.onnx.packed").exists()
    assert np.array_equal(np.load("out/exports/samples.npz")["000"], np.load("files/samples.npz")["000"])
    metadata = [onnx.load(name).metadata_props for name in ("out/exports/small.onnx", "files/model.onnx")]
    labels, of_command = ({each.key: each.value for each in found} for found in metadata)
    assert labels == of_command and labels
    assert told["benchmarks"][0]["scores"][0]["value"] == pytest.approx(
        told["stages"][1]["before"]["scores"][0]["value"], abs=25
    ), "of pixels"
    assert all(b["parity"]["top1_agreement"] == 100 for b in told["benchmarks"])
    for benchmark in told["benchmarks"]:
        layers = [row for row in benchmark["profile"]["rows"] if row["macs"]]
        assert layers and benchmark["profile"]["left_layers"] == [], "every layer's time is told, joined with its cost"
    run("check out/exports -q")


def test_a_failed_gate_is_exit_code_1_and_everything_is_written(run: Run) -> None:
    stages = RECIPE.replace("  - fold\n  - quantize\n", "")
    Path("r.yaml").write_text(stages + "gates: {macs_ratio: 1000}\n")
    run("run r.yaml --trust -o out -q", code=1)
    assert [gate.passed for gate in read_report(Path("out")).gates].count(False) == 1


def test_an_interrupted_run_goes_on_with_the_same_result(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("r.yaml").write_text(RECIPE)
    run("run r.yaml --trust -o whole -q")

    from compress.fold import Fold
    from compress.training.loop import Training

    original = Fold.apply
    calls = {"fit": 0}
    fit = Training.apply

    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    def counted(self: object, *arguments: object) -> object:
        calls["fit"] += 1
        return fit(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Training, "apply", counted)
    monkeypatch.setattr(Fold, "apply", stop)
    run("run r.yaml --trust -o again -q", code=130)
    assert not Path("again").exists() and calls["fit"] == 1
    monkeypatch.setattr(Fold, "apply", original)
    run("run r.yaml --trust -o again -q")
    assert calls["fit"] == 1, "the baseline was trained again"
    for step in ("0-baseline", "1-prune", "2-fold", "3-quantize"):
        first, second = (artifact.load(Path(folder, step)) for folder in ("whole", "again"))
        assert artifact.weights_digest(first.model) == artifact.weights_digest(second.model)
        assert first.encodings == second.encodings
    assert not list(Path().glob(".again*"))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name: str) -> None:
    result = CliRunner().invoke(cli, [name, "--help"])
    assert result.exit_code == 0 and f"compress {name}" in result.output.split("Example")[1]


def test_no_color(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in run("analyze net.py:build --input-shape 1,8,8")
