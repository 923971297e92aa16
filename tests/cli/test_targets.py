"""Targets and schemes on the command line and in recipes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
from click import Command

from compress.cli import main
from compress.cli.analyze import command as analyze
from compress.cli.export import command as export
from compress.errors import InvalidInput
from compress.quantize import TargetName
from compress.recipe import Recipe, read


@pytest.fixture
def run(
    small_net_file: Path, npz: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[str, str]]:
    """Run a command line beside ``net.py`` and ``data.npz``; returns its stdout and stderr."""
    assert small_net_file.parent == npz.parent
    monkeypatch.chdir(npz.parent)

    def call(line: str, code: int = 0) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["compress", *line.split()])
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capfd.readouterr()
        assert end.value.code == code, err
        return out, err

    return call


@pytest.mark.parametrize("command", [export, analyze], ids=["export", "analyze"])
def test_the_options_name_every_target(command: Command) -> None:
    option = next(p for p in command.params if p.name == "target")
    assert tuple(option.type.choices) == get_args(TargetName)  # type: ignore[attr-defined]


def test_a_file_for_another_target_is_written_checked_and_told(run: Callable[..., tuple[str, str]]) -> None:
    run("quantize net.py:build --data data.npz --keep-slower -q -o int8")
    told = {}
    for target in ("ort-x86", "tensorrt"):
        told[target] = json.loads(run(f"export int8 --target {target} -o {target}.onnx --json")[0])
        assert told[target]["target"] == target
    assert "uint8" not in told["tensorrt"]["bytes_by_dtype"] and "uint8" in told["ort-x86"]["bytes_by_dtype"]
    out, _ = run("analyze tensorrt.onnx --target tensorrt")
    assert "keeps to all rules of tensorrt" in out
    out, err = run("analyze ort-x86.onnx --target tensorrt --json", code=1)
    found = json.loads(out)["violations"]
    assert {"bias", "type of activation"} <= {violation["rule"] for violation in found}
    assert f"ort-x86.onnx: {len(found)} tensors break rules of tensorrt" in err
    _, err = run("export int8 --format onnx --target ncnn -o ncnn.onnx", code=2)
    assert "format onnx: not written for ncnn; targets are ort-x86, " in err
    assert not Path("ncnn.onnx").exists()


def test_weights_alone_need_no_data(run: Callable[..., tuple[str, str]]) -> None:
    run("quantize net.py:build --scheme w4 --input-shape 1,8,8 -q -o w4")
    told = json.loads(run("export w4 -o files --json")[0])
    assert told["opset"] == 21
    assert told["bytes_by_dtype"]["int4"] == (8 * 9 + 8 * 10) // 2
    assert any(note.startswith("w4: ") for note in told["notes"])


def test_doctor_tells_the_target_and_why(run: Callable[..., tuple[str, str]]) -> None:
    target, reason = json.loads(run("doctor --json")[0])["machine"]["target"].split(" ", 1)
    assert target in get_args(TargetName)
    assert reason.startswith("(") and reason.endswith(")")


def test_a_file_that_breaks_a_rule_is_not_kept(
    run: Callable[..., tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from export import rules

    run("quantize net.py:build --data data.npz --keep-slower -q -o int8")
    looked_at = rules.check
    monkeypatch.setattr(rules, "check", lambda path, target: looked_at(path, "tensorrt"))
    _, err = run("export int8 --target ort-x86 -o net.onnx", code=1)
    named = err.split("break rules of ort-x86: ")[1].split("; ")
    assert f"{len(named)} tensors break rules" in err, "every one is named"
    assert all(text.startswith("refused: ") for text in named)
    assert not Path("net.onnx").exists()


def test_a_recipe_says_for_which_target(tmp_path: Path) -> None:
    recipe = Recipe.model_validate({"model": "resnet20", "exports": [{"name": "jetson", "target": "tensorrt"}]})
    assert recipe.exports[0].target == "tensorrt"
    (tmp_path / "r.yaml").write_text("model: resnet20\nexports: [{name: a, target: tpu}]\n")
    with pytest.raises(InvalidInput, match=r"exports\.0\.target"):
        read(tmp_path / "r.yaml")


def test_gpus_and_accelerators_are_for_formats_that_build_for_them(run: Callable[..., tuple[str, str]]) -> None:
    _, err = run("export net.py:build --data data.npz --format onnx --gpu sm86 -o a.onnx", code=2)
    assert "format onnx: GPU 'sm86': it is built for none by name" in err
    _, err = run("export net.py:build --data data.npz --format onnx --target tensorrt --dla 0 -o a.onnx", code=2)
    assert "format onnx: not for an accelerator; leave --dla out, or take tensorrt" in err
    _, err = run("export net.py:build --data data.npz --format tensorrt --dla 0 -o a.engine", code=2)
    assert "--dla: the accelerator takes batches of one size; give --fixed-batch as well" in err
