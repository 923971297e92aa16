"""A part is one file: examples are put into a copy of the packages, and appear everywhere with no other edit."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress.core.part_files import InvalidPart, part_files
from compress.core.parts import Kind
from compress.distill.losses import LOSSES
from compress.prune.criteria import CRITERIA, Criterion
from compress.prune.criteria.taylor import Taylor
from compress.prune.repair import REPAIRS
from compress.prune.select import SELECTIONS
from compress.quantize.recover import RECOVERIES
from tests.support.copied_packages import ROOT, copy_packages

KINDS = (CRITERIA, SELECTIONS, REPAIRS, RECOVERIES, LOSSES)
PLACES = {
    "criterion": "prune/criteria/spread.py",
    "selection": "prune/select/late.py",
    "repair": "prune/repair/rescale.py",
    "recovery": "quantize/recover/trim.py",
    "distillation_loss": "distill/losses/moments.py",
}
"""Each example, and where its first line says that it is put."""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages with the examples among them, and a network and data beside them."""
    folder = tmp_path_factory.mktemp("packages")
    copy_packages(folder)
    for example, place in PLACES.items():
        source = ROOT / "examples" / f"{example}.py"
        assert f"``compress/{place.rpartition('/')[0]}/``" in source.read_text(encoding="utf-8").partition("\n")[0]
        shutil.copy(source, folder / "compress" / place)
    generator = np.random.default_rng(0)
    images = generator.integers(0, 255, (60, 3, 8, 8), dtype=np.uint8)
    np.savez(folder / "data.npz", x_train=images, y_train=np.arange(60) % 10, x_test=images, y_test=np.arange(60) % 10)
    return folder


PRUNING = """
import json, torch, models
from click.testing import CliRunner
from compress.cli import cli
from compress.data import DataConfig, load
from compress.prune import Prune
from compress.recipe import Recipe, schema
from compress.stage import Context

settings = {"ratio": 0.5, "round_to": 1, "criterion": {"spread": {"power": 2}}, "select": "late", "repair": ["rescale"]}
recipe = Recipe.model_validate({"model": "resnet20", "stages": [{"prune": settings}]})
stage = recipe.stages[0].stage
assert stage == Prune(**settings), stage
torch.manual_seed(0)
model = models.build("resnet20", width=8).eval()
data = load(DataConfig(source="data.npz"), 0)
result = stage.apply(model, Context((torch.zeros(1, 3, 8, 8),), data))
line = "prune resnet20:width=8 --data data.npz --ratio 0.5 --criterion spread --select late --repair rescale -o out"
done = CliRunner().invoke(cli, line.split())
print(json.dumps({
    "rescaled": [edit.layer for edit in result.edits if "times" in str(edit.after)],
    "widths": [model_.conv1.out_channels for model_ in (model, result.model)],
    "schema": [name in json.dumps(schema()) for name in ("spread", "late", "rescale", "power")],
    "cli": [done.exit_code, done.output[-300:]],
}))
"""


QUANTIZING = """
import json, torch, models
from click.testing import CliRunner
from compress.cli import cli
from compress.data import DataConfig, load
from compress.quantize import Quantize
from compress.recipe import Recipe, schema
from compress.stage import Context

settings = {"recover": ["bias_correction", {"trim": {"deviations": 1.5}}]}
recipe = Recipe.model_validate({"model": "resnet20", "stages": [{"quantize": settings}]})
stage = recipe.stages[0].stage
assert stage == Quantize(**settings), stage
torch.manual_seed(0)
model = models.build("resnet20", width=4).eval()
result = stage.apply(model, Context((torch.zeros(1, 3, 8, 8),), load(DataConfig(source="data.npz"), 0)))
done = CliRunner().invoke(cli, "quantize resnet20:width=4 --data data.npz --recover trim=2,equalize -o int8".split())
told = [str(edit.after) for edit in result.edits]
print(json.dumps({
    "trimmed": sum(text.startswith("within") for text in told),
    "before_biases": next(i for i, t in enumerate(told) if "within" in t) < next(
        i for i, t in enumerate(told) if "corrected" in t),
    "schema": "trim" in json.dumps(schema()) and "deviations" in json.dumps(schema()),
    "cli": [done.exit_code, done.output[-300:]],
}))
"""


DISTILLING = """
import json, torch, models
from click.testing import CliRunner
from compress.cli import cli
from compress.data import DataConfig, load
from compress.distill import Distill
from compress.recipe import Recipe, schema
from compress.stage import Context

settings = {"losses": ["dkd", {"moments": {"layers": {"layer2": "layer2"}, "spread": 2}}], "training": {"epochs": 1}}
recipe = Recipe.model_validate({"model": "resnet20", "stages": [{"distill": settings}]})
stage = recipe.stages[0].stage
assert stage == Distill(**settings), stage
assert stage == Distill(losses=["dkd", "moments:layer2=layer2:spread=2"], training={"epochs": 1}), stage
torch.manual_seed(0)
student, teacher = models.build("resnet20", width=4).eval(), models.build("resnet20", width=8).eval()
data = load(DataConfig(source="data.npz"), 0)
result = stage.apply(student, Context((torch.zeros(1, 3, 8, 8),), data, teacher))
line = "distill resnet20:width=4 --teacher resnet20:width=8 --data data.npz --epochs 1 --batch-size 16 "
done = CliRunner().invoke(cli, (line + "--loss dkd --loss moments:layer2=layer2:weight=2 -o student").split())
print(json.dumps({
    "epochs": len(result.history),
    "schema": "moments" in json.dumps(schema()) and "spread" in json.dumps(schema()),
    "cli": [done.exit_code, done.output[-300:]],
}))
"""


@pytest.fixture(scope="module")
def told(copy: Path) -> dict[str, Any]:
    """What each of the scripts printed, in one process."""
    done = subprocess.run(
        [sys.executable, "-c", PRUNING + QUANTIZING + DISTILLING],
        capture_output=True,
        text=True,
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return dict(zip(("pruning", "quantizing", "distilling"), lines, strict=True))


def test_a_recovery_method_is_one_file(told: dict[str, Any]) -> None:
    told = told["quantizing"]
    assert told["trimmed"] > 10 and told["before_biases"] and told["schema"]
    assert told["cli"][0] == 0, told["cli"][1]


def test_a_distillation_loss_is_one_file(told: dict[str, Any]) -> None:
    told = told["distilling"]
    assert told["epochs"] == 1 and told["schema"]
    assert told["cli"][0] == 0, told["cli"][1]


def test_parts_of_pruning_are_one_file_each(told: dict[str, Any]) -> None:
    told = told["pruning"]
    assert told["rescaled"] == ["fc"] and told["widths"][1] < told["widths"][0]
    assert all(told["schema"]) and told["cli"][0] == 0, told["cli"][1]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.word)
def test_every_part_is_read_back_from_what_is_written(kind: Kind[Criterion]) -> None:
    assert kind.names == tuple(sorted(kind.names)) and len(kind.names) > 1
    for name in kind.names:
        part = kind.read(name)
        assert part.name == name and part.model_dump() == name and kind.read({name: None}) == part  # type: ignore[comparison-overlap]
        assert (type(part).__doc__ or "").strip(), f"{name} says what it does"


def test_shorthands_and_settings() -> None:
    made = CRITERIA.read({"taylor": {"batches": 3}})
    assert made == Taylor(batches=3) == CRITERIA.read("{taylor: {batches: 3}}") == CRITERIA.read(made)
    assert CRITERIA.read(made.model_dump()) == made
    assert SELECTIONS.read("sensitivity=out/scan") == SELECTIONS.read({"sensitivity": "out/scan"})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("l3", "expected one of .*or file.py:function of your own, got 'l3'"),
        ({"l1": {}, "l2": {}}, "expected one criterion with its settings, as {name: {...}}, got 2"),
        ({"taylor": {"batches": 0}}, "taylor.batches: Input should be greater than or equal to 1, got 0"),
        ({"taylor": {"many": 1}}, "taylor.many: no such key"),
        ("{taylor: [", "criterion: .*not YAML"),
        ("__init__", "expected one of"),
    ],
)
def test_what_is_no_part_is_told(value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("{", r"\{").replace("...", r"\.\.\.")):
        CRITERIA.read(value)


def test_another_folder_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from compress.prune import criteria

    monkeypatch.setattr(criteria, "__path__", [*criteria.__path__])
    shutil.copy(ROOT / "examples" / "criterion.py", tmp_path / "spread.py")
    CRITERIA.search(str(tmp_path))
    assert "spread" in CRITERIA.names and CRITERIA.read("spread").name == "spread"
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(ValueError, match=r"empty\.py: expected one subclass of Criterion, got 0"):
        CRITERIA.read("empty")


RECOVERY = (ROOT / "examples" / "recovery.py").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (RECOVERY + "x = (\n", r"mine\.py, line \d+: '\(' was never closed"),
        ("import nothing_of_this_name\n", r"mine\.py, line 1: ModuleNotFoundError: No module named"),
        (RECOVERY.replace('= "weights"\n', '= "weight"\n'), r"mine\.py: Trim\.phase: .*'weights'"),
        (RECOVERY.replace("    phase: ClassVar", "    other: ClassVar"), r"mine\.py: Trim does not state phase"),
        (RECOVERY.replace("def apply", "def applies"), r"mine\.py: Trim does not define apply, which every recovery"),
        (RECOVERY.replace("    phase:", "    mute: int = 1\n\n    phase:"), r"Trim\.mute: expected a description"),
    ],
)
def test_a_part_that_is_wrong_is_told_of_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str, told: str
) -> None:
    from compress.quantize import recover

    monkeypatch.setattr(recover, "__path__", [*recover.__path__, str(tmp_path)])
    (tmp_path / "mine.py").write_text(wrong, encoding="utf-8")
    try:
        with pytest.raises(InvalidPart, match=told):
            RECOVERIES.read("mine")
    finally:
        sys.modules.pop("compress.quantize.recover.mine", None)


def test_files_that_are_no_parts(tmp_path: Path) -> None:
    for name in ("_private", ".#editor", "a copy", "fine", "global_"):
        (tmp_path / f"{name}.py").touch()
    assert list(part_files([tmp_path])) == ["fine", "global"]
    (tmp_path / "global.py").touch()
    with pytest.raises(InvalidPart, match=r"global_\.py: .*global\.py is called global too"):
        part_files([tmp_path])
