"""Bad input: one clear line, the right exit code, nothing half-written."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from compress.errors import InvalidInput
from tests.support.small_classifier import SMALL_NET

NET = "net.py:build --input-shape 1,8,8"
FAST = "--epochs 1 --batch-size 8 --precision fp32 --accelerator cpu"
DENSE = "{} net.py:dense --task classification --data good.npz -o out"


@dataclass(frozen=True)
class Case:
    """A command in a folder that ``spoil`` has prepared; ``says`` must all stand in its one line."""

    name: str
    command: str
    says: tuple[str, ...]
    code: int = 2


CASES = (
    Case("no network", "fold -o out", ("no network given", "--model")),
    Case("network twice", "fold resnet20 --model resnet32 -o out", ("given twice",)),
    Case("unknown zoo name", "fold resnet21 -o out", ("resnet21", "resnet20")),
    Case("missing python file", "fold gone.py:build -o out", ("gone.py", "no such file")),
    Case("no callable named", "fold net.py -o out", ("net.py:callable",)),
    Case("no such callable", "fold net.py:make --input-shape 1,8,8 -o out", ("has no make", "build")),
    Case("user's code fails", "fold broken.py:build --input-shape 1,8,8 -o out", ("broken.py", "ZeroDivisionError")),
    Case("not a module", "fold net.py:SMALL --input-shape 1,8,8 -o out", ("expected a torch.nn.Module", "int")),
    Case("unknown option of the zoo", "fold resnet20:widht=3 --input-shape 3,8,8 -o out", ("widht",)),
    Case("no input shape", "fold net.py:build -o out", ("--input-shape",)),
    Case("malformed input shape", "fold net.py:build --input-shape 1,a,8 -o out", ("1,a,8", "3,32,32")),
    Case("wrong input shape", "fold net.py:build --input-shape 3,8,8 -o out", ("(1, 3, 8, 8)", "--input-shape")),
    Case("missing weights", f"fold {NET} --weights gone.pt -o out", ("gone.pt", "no such file")),
    Case("JSON over the output", f"fold {NET} -o o.json --json-file o.json", ("--json-file o.json", "has this name")),
    Case("JSON over a folder", f"fold {NET} --json-file a.json -o out", ("--json-file a.json", "this is a folder")),
    Case("a pickle posing as weights", f"fold {NET} --weights evil.pt -o out", ("--trust",)),
    Case("text posing as weights", f"fold {NET} --weights notes.safetensors -o out", ("safetensors",)),
    Case("weights of another network", f"fold {NET} --weights other.safetensors -o out", ("missing", "unknown")),
    Case("NaN weights", f"fold {NET} --weights nan.safetensors -o out", ("fc.bias", "not finite")),
    Case("missing onnx", "fold gone.onnx -o out", ("gone.onnx", "no such file")),
    Case("truncated onnx", "quantize cut.onnx --data good.npz -o out", ("cut.onnx",)),
    Case("truncated onnx to bench", "bench cut.onnx --preset quick", ("cut.onnx",)),
    Case("a network after --json", "bench --json cut.onnx empty.onnx", ("empty.onnx: the file is empty",)),
    Case("a network for JSON", "bench empty.onnx --json-file cut.onnx", ("--json-file cut.onnx", "ends with .json")),
    Case("a network for JSON, forced", "analyze cut.onnx --json-file cut.onnx --overwrite", ("ends with .json",)),
    Case("JSON over a file", f"fold {NET} --json-file told.json -o out", ("told.json", "--overwrite")),
    Case("JSON in the output", f"fold {NET} --json-file out/a.json -o out", ("out/a.json", "in the output")),
    Case("the output is the data", "fold net.py:build --data photos -o photos --overwrite", ("photos", "is read by")),
    Case("the output holds the code", "fold own/net.py:build -o own --overwrite", ("own/net.py", "lies in it")),
    Case("the output holds weights", f"fold {NET} --weights own/w.pt -o own --overwrite", ("own/w.pt", "lies in it")),
    Case("the output is the recipe", "run good.yaml --trust -o good.yaml --overwrite", ("good.yaml", "is read by")),
    Case("the run's output is its data", "run data.yaml --trust -o good.npz --overwrite", ("good.npz", "is read by")),
    Case("the output is a setting", f"prune {NET} --select sensitivity=own -o own --overwrite", ("own", "is read by")),
    Case("JSON over a part", "analyze own --json-file own/told.json --overwrite", ("own/told.json", "a part of own")),
    Case("empty onnx", "analyze empty.onnx", ("empty.onnx",)),
    Case("missing data", "quantize net.py:build --data gone -o out", ("gone", "no such file or folder")),
    Case("no data for quantize", f"quantize {NET} -o out", ("--data",)),
    Case("no calibration samples", "quantize net.py:build --data testonly.npz -o out", ("calibration",)),
    Case("no data for train", f"train {NET} -o out", ("--data",)),
    Case("empty class folder", "train net.py:build --data photos -o out", ("photos/train/b", "no images")),
    Case("no train folder", "train net.py:build --data emptyfolder -o out", ("train", "<class>")),
    Case("not an image", f"train net.py:build --data badphotos -o out {FAST}", ("0.png", "not a readable image")),
    Case("npz without labels", "train net.py:build --data nolabels.npz -o out", ("no labels that", "--teacher")),
    Case("npz with NaN", "quantize net.py:build --data nan.npz -o out", ("x_calib", "not finite")),
    Case("damaged npz", "quantize net.py:build --data cut.npz -o out", ("cut.npz",)),
    Case("data of other shape", "quantize net.py:build --data rgb.npz -o out", ("3, 8, 8",)),
    Case("train a dense one", f"train net.py:dense --data good.npz -o out {FAST}", ("no labels that", "--task")),
    Case("train a dense one as a classifier", f"{DENSE.format('train')} {FAST}", ("a classifier", "(1, 10, 8, 8)")),
    Case("teach a dense one", f"distill net.py:dense --teacher net.py:build --data good.npz -o o {FAST}", ("(8, 10)",)),
    Case("tune a dense one", f"{DENSE.format('prune')} --ratio 0.5 {FAST}", ("a classifier",)),
    Case("quantize a dense one", DENSE.format("quantize"), ("a classifier", "task outputs")),
    Case("bench a dense one", DENSE.format("bench"), ("test split: expected a class",)),
    Case("dense labels", f"train net.py:build --data dense.npz -o out {FAST}", ("has no labels that the network",)),
    Case(
        "dense labels of classes",
        f"train net.py:build --task classification --data dense.npz -o out {FAST}",
        ("expected a class, an integer, for each", "--task"),
    ),
    Case(
        "no maps for a segmenter",
        f"train net.py:dense --task segmentation --data good.npz -o out {FAST}",
        ("train split: expected the output (N, classes, H, W) and labels (N, H, W) of integers", "int64 (1,)"),
    ),
    Case(
        "augmented numbers",
        f"train net.py:dense --task regression --data numbers.npz --augment flip -o out {FAST}",
        ("--augment flip", "would be wrong"),
    ),
    Case("no such task", f"train net.py:build --task segment --data good.npz -o out {FAST}", ("segmentation",)),
    Case("too few outputs", f"train net.py:other --data good.npz -o out {FAST}", ("up to 9", "7 classes")),
    Case("a model is a pipe", "fold pipe.onnx -o out", ("pipe.onnx", "named pipe")),
    Case("code is a pipe", "fold pipe.py:build -o out", ("pipe.py", "named pipe")),
    Case("weights are a pipe", f"fold {NET} --weights pipe.npz -o out", ("pipe.npz",)),
    Case("a file is a pipe", "bench pipe.onnx", ("pipe.onnx", "named pipe")),
    Case("too many processes", f"train net.py:build --data good.npz -o out --devices 64 {FAST}", ("--devices", "64")),
    Case("data is a pipe", f"train net.py:build --data pipe.npz -o out {FAST}", ("pipe.npz", "named pipe")),
    Case("recipe missing", "run gone.yaml -o out", ("gone.yaml",)),
    Case("recipe not given", "run -o out", ("no recipe",)),
    Case("unknown recipe key", "run key.yaml -o out", ("stages.0.prune.ratoi", "no such key")),
    Case("recipe not yaml", "run notyaml.yaml -o out", ("not YAML",)),
    Case("recipe value out of range", "run range.yaml -o out", ("train.epochs",)),
    Case("prune without a target", f"prune {NET} -o out", ("ratio", "macs")),
    Case("prune ratio out of range", "prune net.py:build --ratio 1.5 --input-shape 1,8,8 -o out", ("ratio",)),
    Case("prune target out of reach", "prune net.py:build --macs 1e6 --input-shape 1,8,8 -o out", ("macs",)),
    Case("distill without a teacher", f"distill net.py:build --data good.npz -o out {FAST}", ("--teacher",)),
    Case("other classes", f"distill net.py:build --teacher net.py:other --data good.npz -o out {FAST}", ("logits",)),
    Case("unknown augmentation", f"train net.py:build --data good.npz --augment spin -o out {FAST}", ("augment",)),
    Case("output exists", "fold net.py:build --input-shape 1,8,8 -o taken", ("taken", "--overwrite")),
    Case("run output exists", "run good.yaml --trust -o taken", ("taken", "--overwrite")),
    Case("output below a file", f"fold {NET} -o notes.safetensors/out", ("cannot be written",)),
    Case("read-only output", f"fold {NET} -o /proc/out", ("/proc/out", "cannot be written")),
    Case("read-only output of a run", "run good.yaml --trust -o /proc/out", ("/proc/out", "cannot be written")),
    Case("damaged artifact", "export damaged -o out", ("manifest.json", "damaged")),
    Case("a folder that is no artifact", "export emptyfolder -o out", ("emptyfolder", "manifest.json")),
    Case("no report", "report emptyfolder", ("report.json",)),
    Case("damaged report", "report damagedreport", ("report.json",)),
    Case("unknown option", "fold net.py:build --widht 3 -o out", ("--widht",)),
    Case("misspelt option", "fold net.py:build --wieghts w.pt -o out", ("--wieghts", "Did you mean", "--weights")),
    Case("unknown command", "shrink resnet20", ("shrink",)),
    Case("misspelt command", "quantise resnet20", ("quantise", "Did you mean quantize?")),
    Case("a format in a list", f"export {NET} --format onnx,onx -o out", ("--format", "onx")),
    Case("nothing to bench", "bench", ("no network given",)),
)  # fmt: skip


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the commands name."""
    root = tmp_path_factory.mktemp("work")
    other = "\n\ndef other():\n    net = build()\n    net.fc = nn.Linear(8, 7)\n    return net\n"
    dense = "\n\ndef dense():\n    return nn.Conv2d(1, 10, 1)\n"
    (root / "net.py").write_text(SMALL_NET + other + dense + "\n\nSMALL = 3\n")
    (root / "broken.py").write_text("def build():\n    return 1 / 0\n")
    torch.manual_seed(0)
    torch.save({"a": Path("x")}, root / "evil.pt")
    (root / "notes.safetensors").write_text("these are notes")
    save_file({"something": torch.ones(3)}, root / "other.safetensors")
    namespace: dict[str, object] = {}
    exec(SMALL_NET, namespace)
    net = namespace["build"]()  # type: ignore[operator]
    state = net.state_dict() | {"fc.bias": torch.tensor([0.0, float("nan"), *[0.0] * 8])}
    save_file(state, root / "nan.safetensors")
    torch.onnx.export(net.eval(), (torch.zeros(1, 1, 8, 8),), root / "whole.onnx", external_data=False, verbose=False)
    (root / "cut.onnx").write_bytes((root / "whole.onnx").read_bytes()[:-400])
    (root / "empty.onnx").touch()
    x = np.random.default_rng(0).integers(0, 255, (40, 1, 8, 8), dtype=np.uint8)
    y = np.arange(40) % 10
    np.savez(root / "good.npz", x_train=x, y_train=y, x_test=x[:10], y_test=y[:10])
    np.savez(root / "testonly.npz", x_test=x, y_test=y)
    np.savez(root / "nolabels.npz", x_train=x)
    np.savez(root / "nan.npz", x_calib=np.full((4, 1, 8, 8), np.nan, np.float32))
    np.savez(root / "rgb.npz", x_calib=np.zeros((4, 3, 8, 8), np.float32))
    np.savez(root / "dense.npz", x_train=x, y_train=x[:, 0] * 1.0)
    np.savez(root / "numbers.npz", x_train=x, y_train=x.repeat(10, 1) * 1.0)
    for name in ("pipe.npz", "pipe.onnx", "pipe.py"):
        os.mkfifo(root / name)
    (root / "cut.npz").write_bytes((root / "good.npz").read_bytes()[:300])
    for folder, spoilt in (("photos", False), ("badphotos", True)):
        for name in ("a", "b"):
            (root / folder / "train" / name).mkdir(parents=True)
            for i in range(8 if spoilt or name == "a" else 0):
                Image.fromarray(x[i, 0]).save(root / folder / "train" / name / f"{i}.png")
    (root / "badphotos" / "train" / "b" / "0.png").write_text("no picture")
    (root / "emptyfolder").mkdir()
    (root / "taken").mkdir()
    (root / "a.json").mkdir()
    (root / "told.json").write_text("{}")
    (root / "taken" / "mine.txt").write_text("keep")
    (root / "damaged").mkdir()
    (root / "damaged" / "manifest.json").write_text('{"schema_version": 1, ')
    (root / "damagedreport").mkdir()
    (root / "damagedreport" / "report.json").write_text('{"schema_version": 1, ')
    (root / "good.yaml").write_text("model: net.py:build\ndata: {source: good.npz}\nstages: [fold]\n")
    (root / "data.yaml").write_text("model: net.py:build\ndata: {source: good.npz}\n")
    (root / "own").mkdir()
    for name in ("net.py", "w.pt", "told.json"):
        (root / "own" / name).write_text("mine")
    (root / "key.yaml").write_text("model: resnet20\nstages:\n  - prune: {ratoi: 0.5}\n")
    (root / "notyaml.yaml").write_text("model: [\n")
    (root / "range.yaml").write_text("model: resnet20\ntrain: {epochs: -3}\n")
    return root


def contents(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else b""
        for path in sorted(root.rglob("*"))
        if "__pycache__" not in path.parts
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input(
    case: Case, workplace: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from compress.cli import main

    before = contents(workplace)
    monkeypatch.chdir(workplace)
    monkeypatch.setattr(sys, "argv", ["compress", *case.command.split()])
    with pytest.raises(SystemExit) as end:
        main()
    out, err = capfd.readouterr()
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert end.value.code == case.code, err
    assert len(errors) == 1 and err.splitlines()[-1] == errors[0], err
    assert "Traceback" not in err + out and "defect of this program" not in errors[0]
    for text in case.says:
        assert text in errors[0], errors[0]
    assert contents(workplace) == before, "something was written or changed"


def test_a_missing_engine_is_exit_code_3_with_the_install_line(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from compress.cli import main

    for name in [name for name in sys.modules if name.partition(".")[0] == "onnxruntime"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delitem(sys.modules, "runtimes.engines.onnxruntime", raising=False)
    monkeypatch.chdir(workplace)
    monkeypatch.setattr(sys, "argv", ["compress", "bench", "whole.onnx"])
    with pytest.raises(SystemExit) as end:
        main()
    err = capfd.readouterr().err
    assert end.value.code == 3, err
    assert err.startswith("error: ") and "pip install" in err and len(err.splitlines()) == 1


@pytest.mark.parametrize("strict", [False, True])
def test_an_invalid_measurement_is_told_and_is_exit_code_5_when_strict(
    strict: bool, workplace: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from compress.cli import main
    from runtimes.measure import validity

    monkeypatch.chdir(workplace)
    monkeypatch.setattr(validity, "TOLERANCE", -1.0)
    words = ["compress", "bench", "whole.onnx", "--preset", "quick", "--json", *(["--strict"] if strict else [])]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as end:
        main()
    out, err = capfd.readouterr()
    assert end.value.code == (5 if strict else 0)
    assert ("1 of 1 measurements are invalid (spread of" in err) is strict
    (measured,) = json.loads(out)["measurements"]
    assert measured["valid"] is False and measured["notes"][0].startswith("spread of")


def test_debug_shows_a_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error leaves the program as it is, and Python shows it."""
    from compress.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["compress", "fold", "gone.py:f", "-o", "x", "--debug"])
    with pytest.raises(InvalidInput, match=r"gone\.py"):
        main()
