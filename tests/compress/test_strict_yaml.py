"""YAML that unfolds, hides or breaks something is refused, with its line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from compress import recipe
from compress.errors import InvalidInput
from compress.files import strict_yaml

BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nmodel: *b\n"
HOSTILE = {
    "a key twice": ("model: resnet20\nseed: 1\nseed: 2\n", "line 3, column 1: the key seed is given twice"),
    "a key twice inside": ("model: a\ntrain: {epochs: 1, epochs: 2}", "line 2, column 20: the key epochs is given"),
    "an alias": (BOMB, "line 2, column 8: the alias *a is not followed"),
    "an alias as key": ("&k model: a\n*k : b\n", "line 2, column 1: the alias *k"),
    "itself": ("&a [*a]", "the alias *a"),
    "a merge key": ("model: a\ntrain: {<<: {epochs: 3}}\n", "line 2, column 9: the merge key <<"),
    "nested lists": ("model: " + "[" * 5000 + "]" * 5000, "more than 32 lists and mappings"),
    "nested mappings": ("{a: " * 5000 + "1" + "}" * 5000, "more than 32 lists and mappings"),
    "nested lines": ("".join(" " * n + "a:\n" for n in range(40)), "line 32, column 32: more than 32"),
    "a number as key": ("model: a\n1: b\n", "line 2, column 1: the key 1 is no text"),
    "a truth as key": ("on: b\n", "line 1, column 1: the key on is no text"),
    "a list as key": ("? [a]\n: b\n", "the key a list or mapping is no text"),
    "no number": ("seed: .nan\n", "line 1, column 7: expected a number that is finite, got .nan"),
    "an infinity": ("seed: -.inf\n", "got -.inf"),
    "a large float": ("seed: 1.0e+400\n", "got 1.0e+400"),
    "base 60": ("seed: 1:30\n", "line 1, column 7: 1:30 is a number in base 60"),
    "base 60 with a point": ("seed: 1:30.5\n", "1:30.5 is a number in base 60"),
    "base 8": ("seed: -010\n", "-010 is a number in base 8"),
    "a tag that runs": ("model: !!python/object/apply:os.system [ls]\n", "line 1, column 8: not YAML"),
    "a tag that does not fit": ("model: !!int ''\n", "not YAML"),
    "no date": ("model: 2020-99-99\n", "not YAML: month must be"),
    "a long number": ("seed: " + "1" * 5000 + "\n", "not YAML: Exceeds the limit"),
    "not YAML": ("model: [\n", "line 2, column 1: not YAML"),
    "control characters": ("model: a\x07\n", "not YAML"),
    "two documents": ("model: a\n---\nmodel: b\n", "not YAML: expected a single document"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_yaml_is_refused_with_its_line(name: str, tmp_path: Path) -> None:
    text, says = HOSTILE[name]
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(InvalidInput) as refused:
        recipe.read(path)
    told = str(refused.value)
    assert told.startswith(f"recipe {path}: ") and says in told and "\n" not in told and len(told) < 500, told


@pytest.mark.parametrize("text", ["*a", "[" * 5000, ".nan", "{a: 1, a: 2}", "1" * 5000, "{<<: {a: 1}}", "["])
def test_values_on_the_command_line_are_read_likewise(text: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as refused:
        recipe.read(write(tmp_path, "model: a\n"), [f"seed={text}"])
    assert str(refused.value).startswith("--set seed=") and len(str(refused.value)) < 500


def write(folder: Path, text: str) -> Path:
    path = folder / "plain.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "model", "3", "null", "2020-01-01"])
def test_what_is_no_mapping_is_no_recipe(text: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="expected a mapping with 'model' and 'stages', got"):
        recipe.read(write(tmp_path, text))


def test_files_that_are_no_recipes_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"model: \xff\n")
    (tmp_path / "large.yaml").write_text("# padding\n" * 2**15)
    for name, says in (
        ("pipe.yaml", "expected a file, got a named pipe"),
        ("bytes.yaml", "expected text in UTF-8"),
        ("large.yaml", "327,680 bytes, and 262,144 is the most; add --large-files"),
        ("gone.yaml", "no such file"),
    ):
        with pytest.raises(InvalidInput, match=f"recipe .*{name}: {says}"):
            recipe.read(tmp_path / name)


@pytest.mark.parametrize(
    "key", ["stages.².prune", "stages.-1.prune", f"stages.{'9' * 5000}.prune", "model.a", "stages.9"]
)
def test_settings_are_changed_where_the_recipe_has_them(key: str, tmp_path: Path) -> None:
    path = write(tmp_path, "model: resnet20\nstages: [fold]\n")
    with pytest.raises(InvalidInput, match=r"^--set "):
        recipe.read(path, [f"{key}=1"])


def test_anchors_that_nothing_repeats_and_deep_but_sane_values_are_read() -> None:
    assert strict_yaml.parse("a: &here 1\nb: [[1.5, 1.0e-3], {c: 'x'}]\n'1': no\n", "r") == {
        "a": 1, "b": [[1.5, 0.001], {"c": "x"}], "1": False,
    }  # fmt: skip
