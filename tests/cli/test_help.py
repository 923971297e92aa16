"""Help in groups, what is generated, completion, and lists as people type them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import BashComplete
from click.testing import CliRunner

from compress.cli import COMMANDS, cli
from compress.cli.completion import VARIABLE
from compress.cli.generate.__main__ import files


def said(*words: str) -> str:
    result = CliRunner().invoke(cli, [*words])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("path", files(), ids=lambda path: path.name)
def test_generated_files_are_what_the_settings_say(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == files()[path], "run python -m compress.cli.generate"


def flags(text: str) -> list[str]:
    return re.findall(r"^  (?:-\w, )?(--[a-z0-9-]+)", text.partition("Example")[2], flags=re.MULTILINE)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_the_common_options_and_help_all_every_one(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    short = said(name, "--help")
    options = [option for option in command.params if isinstance(option, click.Option) and not option.hidden]
    if "--help-all" not in short:
        assert len(flags(short)) == len(options) + 1
        return
    whole = said(name, "--help-all")
    left = int(re.search(rf"^(\d+) more options: .*{name} --help-all$", short, flags=re.MULTILINE)[1])  # type: ignore[index]
    assert len(flags(short)) + left == len(flags(whole)) == len(options) + 2
    assert {"Network:", "Output:", "Telling:"} <= set(whole.splitlines()) or name in ("run", "report", "compare")


def completed(words: str) -> list[str]:
    """What TAB offers after ``words``, whose last one is not complete."""
    *before, incomplete = words.split(" ")[1:]
    return [item.value for item in BashComplete(cli, {}, "compress", VARIABLE).get_completions(before, incomplete)]


def test_completion() -> None:
    assert completed("compress quan") == ["quantize"]
    assert "resnet20" in completed("compress analyze resn")
    assert completed("compress export x --format onnx,li") == ["onnx,litert"]
    assert "tensorrt" in completed("compress export x --target t")
    assert "digits" in completed("compress train resnet20 --data d")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_completion_is_of_this_command(shell: str) -> None:
    script = said("completion", shell)
    assert VARIABLE in script and "compress" in script
    if shutil.which(shell) is not None:
        done = subprocess.run([shell, "-n"], input=script, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_completion_is_asked_for_as_the_script_asks() -> None:
    code = "import sys\nsys.argv = ['compress']\nfrom compress.cli import main\nmain()\n"
    environment = {VARIABLE: "bash_complete", "COMP_WORDS": "compress spars", "COMP_CWORD": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert "sparsify" in done.stdout, done.stderr


def test_lists_are_taken_with_commas(small_net_file: Path, tmp_path: Path) -> None:
    network, out = f"{small_net_file}:build", tmp_path / "files"
    result = CliRunner().invoke(
        cli, ["export", network, "--input-shape", "1,8,8", "--format", "onnx,openvino", "-o", str(out)]
    )
    assert result.exit_code == 0, result.exception
    assert {"model.onnx", "model.xml"} <= {path.name for path in out.iterdir()}
    words = ["fold", network, "--input-shape", "1,8,8", "-o", str(tmp_path / "folded"), "-q", "--json"]
    json.loads(CliRunner().invoke(cli, words).output)


def test_two_files_after_json_are_two_files(
    small_net_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The word after --json is a file to time, and never the place for the JSON."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.onnx", "b.onnx"):
        result = CliRunner().invoke(cli, ["export", f"{small_net_file}:build", "--input-shape", "1,8,8", "-o", name])
        assert result.exit_code == 0, result.exception
    before = Path("a.onnx").read_bytes()
    words = ["bench", "--json", "a.onnx", "b.onnx", "--preset", "quick", "-q"]
    result = CliRunner().invoke(cli, [*words, "--json-file", "told.json"])
    assert result.exit_code == 0, result.exception
    assert [record["name"] for record in json.loads(result.output)["measurements"]] == ["a.onnx", "b.onnx"]
    assert json.loads(Path("told.json").read_text()) == json.loads(result.output)
    assert Path("a.onnx").read_bytes() == before


def test_json_replaces_a_file_only_where_that_is_asked(small_net_file: Path, tmp_path: Path) -> None:
    told = tmp_path / "told.json"
    told.write_text("mine")
    words = ["analyze", f"{small_net_file}:build", "--input-shape", "1,8,8", "-q", "--json-file", str(told)]
    assert CliRunner().invoke(cli, words).exit_code != 0 and told.read_text() == "mine"
    assert CliRunner().invoke(cli, [*words, "--overwrite"]).exit_code == 0
    assert json.loads(told.read_text())["params"] > 0
