from __future__ import annotations

import json
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path

import jsonschema
import pytest
from pydantic import ValidationError

from compress import presets
from compress.cli.generate.shapes import in_words
from compress.errors import InvalidInput
from compress.files import strict_yaml
from compress.pipeline import check_gates
from compress.presets import PRESETS
from compress.prune import Prune
from compress.recipe import STAGES, Gates, Recipe, Step, read, schema
from compress.report.schema import Summary
from compress.stage import Stage
from compress.training.loop import Training

WITHOUT = "at least 2 (this processor has no dot products of 8-bit integers; at least 4 with them)"
GOOD = """
model: resnet20:width=8
data: {source: digits}
train: {epochs: 2}
stages:
  - prune: {macs: 2, training: {epochs: 1, augment: [crop]}}
  - fold
  - prune: {ratio: 0.5}
  - quantize:
exports:
  - {name: base, after: baseline}
  - {name: small, after: prune-2}
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    return path


def test_stages_in_order(tmp_path: Path) -> None:
    recipe = read(write(tmp_path, GOOD))
    assert recipe.step_names == ("prune", "fold", "prune-2", "quantize")
    first = recipe.stages[0].stage
    assert isinstance(first, Prune) and first.macs == 2 and first.training is not None and first.training.epochs == 1


@pytest.mark.parametrize("name", ["quantize", "share", "sparsify", "regularize"])
def test_a_training_left_to_itself_is_that_of_the_command(name: str, tmp_path: Path) -> None:
    """What a recipe leaves out of a training is what the command of the same name has as its default."""
    key = "train" if name == "quantize" else "training"
    text = GOOD.replace("quantize:\n", f"{name}: {{{key}: {{epochs: 2}}}}\n")
    training = getattr(read(write(tmp_path, text)).stages[-1].stage, key)
    command = import_module(f"compress.cli.{name}").command
    defaults = {option.name: getattr(option, "default_told", "") for option in command.params}
    in_python = getattr(STAGES[name].model_validate({key: Training(epochs=2)}), key)
    for field in ("optimizer", "learning_rate", "weight_decay", "precision", "batch_size"):
        assert in_words(getattr(training, field), None) == defaults[f"{key}.{field}"], field
        assert getattr(in_python, field) == getattr(training, field), field
    kept = read(write(tmp_path, text.replace("epochs: 2", "epochs: 2, optimizer: sgd, learning_rate: 0.2")))
    assert getattr(kept.stages[-1].stage, key).optimizer == "sgd"


def test_every_stage_has_a_key_and_applies() -> None:
    assert set(Step.model_fields) == set(STAGES)
    for name, kind in STAGES.items():
        assert Step.model_fields[name].annotation == kind | None
        assert callable(getattr(kind, "apply", None)) and issubclass(kind, Stage)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("macs: 2", "macz: 2"), "stages.0.prune.macz: no such key"),
        (("epochs: 1", "epochs: -1"), r"stages.0.prune.training.epochs: .*greater than or equal to 0"),
        (("model: resnet20:width=8", ""), "model: Field required"),
        (("after: prune-2", "after: prune-3"), "'prune-3' is not a step"),
        (("name: small", "name: base"), "export names must differ"),
        (("- fold", "- fold: {}\n    quantize: {}"), "stages.1: expected one stage"),
        (("- fold", "- melt"), "stages.1.melt: no such key"),
        (("stages:", "stages: ["), "not YAML"),
    ],
)
def test_mistakes_are_named_with_their_place(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        read(write(tmp_path, GOOD.replace(*change)))


def test_overrides(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    recipe = read(path, ["stages.0.prune.macs=3.5", "seed=7", "data.source=/some/where", "gates.speedup=2"])
    assert recipe.stages[0].prune is not None and recipe.stages[0].prune.macs == 3.5
    assert recipe.seed == 7 and recipe.gates.speedup == 2
    assert recipe.data is not None and recipe.data.source == "/some/where"
    for bad in ("seed", "stages.9.prune.macs=2", "model.x.y=1"):
        with pytest.raises(InvalidInput, match="--set"):
            read(path, [bad])


def test_digest_is_of_the_settings_not_the_layout(tmp_path: Path) -> None:
    digest = read(write(tmp_path, GOOD)).digest
    assert (
        read(write(tmp_path, "# a comment\n" + GOOD.replace("{source: digits}", "\n  source: digits"))).digest == digest
    )
    assert read(write(tmp_path, GOOD.replace("macs: 2", "macs: 3"))).digest != digest


WRITTEN = (
    "stages: [fold, {prune: {macs: 2, repair: reconstruct}}]",
    "stages: [{fold: null}, {prune: {ratio: 0.5, repair: 'recalibrate_bn,reconstruct', criterion: mine.py:score}}]",
    "stages: [{prune: {ratio: 0.5, repair: none, select: {sensitivity: out/scan}}}]",
    "stages: [{quantize: {ranges: mse, recover: {adaround: 100}}}]",
    "stages: [{quantize: {ranges: {calibration: mse}, recover: [equalize, {smooth: 0.5}, {bias_correction: null}]}}]",
    "input_shape: [[1, 8], [1, 4]]",
)
WRONG = (
    "stages: [flod]",
    "stages: [{prune: {macs: 2, repair: reconstrct}}]",
    "stages: [{quantize: {ranges: msee}}]",
    "stages: [{quantize: {recover: [{adaround: {iteration: 3}}]}}]",
    "stages: [{quantize: {target: toy}}]",
    "input_shape: [[]]",
)


def by_schema(content: object) -> list[str]:
    """What a validator of JSON schemas has against a recipe."""
    validator = jsonschema.validators.validator_for(schema())
    validator.check_schema(schema())
    return [error.message for error in validator(schema()).iter_errors(json.loads(json.dumps(content)))]


@pytest.mark.parametrize("text", [*WRITTEN, *WRONG])
def test_editors_take_what_recipes_take(text: str) -> None:
    content = strict_yaml.parse(f"model: resnet20\n{text}\n", "recipe")
    right = text in WRITTEN
    assert (by_schema(content) == []) is right
    with nullcontext() if right else pytest.raises(ValidationError):
        Recipe.model_validate(content)


@pytest.mark.parametrize("path", sorted(Path("recipes").glob("*.yaml")), ids=str)
def test_editors_take_shipped_recipes(path: Path) -> None:
    assert by_schema(strict_yaml.parse(path.read_text(encoding="utf-8"), "recipe")) == []


@pytest.mark.parametrize("name", PRESETS)
def test_editors_take_presets(name: str) -> None:
    content = strict_yaml.parse(presets.path(name).read_text(encoding="utf-8"), "recipe")
    assert isinstance(content, dict) and by_schema({"model": "resnet20", **content}) == []


def test_schema_names_the_stages() -> None:
    text = str(schema())
    assert all(name in text for name in STAGES) and "additionalProperties" in text


@pytest.mark.parametrize("path", sorted(Path("recipes").glob("*.yaml")), ids=str)
def test_shipped_recipes_are_valid(path: Path) -> None:
    assert isinstance(read(path), Recipe)


@pytest.mark.parametrize(
    ("flags", "got", "expected", "passed"),
    [
        (
            ("avx2",),
            3.0,
            WITHOUT,
            True,
        ),
        (("avx512_vnni",), 3.0, "at least 4 (this processor has avx512_vnni)", False),
        (("asimd", "asimddp"), 4.5, "at least 4 (this processor has asimddp)", True),
        (
            ("avx2",),
            None,
            WITHOUT,
            False,
        ),
    ],
)
def test_the_speed_that_is_asked_for_is_what_the_processor_allows(
    monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], got: float | None, expected: str, passed: bool
) -> None:
    monkeypatch.setattr("runtimes.processor.flags", lambda: flags)
    gates = Gates(speedup=2, speedup_with_dot_products=4, top1_agreement=None)
    (gate,) = check_gates(gates, Summary(speedup=got), [], [])
    assert (gate.name, gate.expected, gate.got, gate.passed) == ("speedup", expected, got, passed)
    (plain,) = check_gates(Gates(speedup=2, top1_agreement=None), Summary(speedup=got), [], [])
    assert plain.expected == "at least 2" and plain.passed is (got is not None)


def test_the_former_name_of_a_preset_is_read_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recipe = read(
        write(tmp_path, GOOD + "benchmark: {preset: standard, threads: 2, cores: [big, 0], start_below: 50}\n")
    )
    assert recipe.benchmark.preset == "default"
    assert [record.getMessage() for record in caplog.records] == ["preset standard is called default now; write that"]
    request = recipe.benchmark.request
    assert (request.preset.name, request.threads, request.cores, request.start_below_c) == (
        "default",
        2,
        ("big", 0),
        50,
    )
