"""Kinds of files that commands read: how to make a small valid one, how to mutate it, and which commands read it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import yaml

from tests.faults import mutations as m
from tests.faults.commands import Command, Worker
from tests.support.measurements import bench, samples
from tests.support.measurements import record as measured
from tests.support.report_content import content as report_content
from tests.support.small_classifier import SMALL_NET

NET = "net.py:build --input-shape 1,8,8"
TRAINING = "--epochs 1 --batch-size 8 --precision fp32 --accelerator cpu"
RECIPE = """
model: net.py:build
data: {source: data.npz, validation: 0.2, calibration: 8}
seed: 1
train: {epochs: 1, batch_size: 8, learning_rate: 0.05, augment: [flip], precision: fp32, accelerator: cpu}
teacher: baseline
stages:
  - prune: {macs: 1.2, criterion: l2, round_to: 1, limits: {conv: 0.5}}
  - sparsify: {sparsity: 0.5}
  - quantize: {ranges: {samples: 8}, scheme: int8, revert_slower: false}
gates: {macs_ratio: 1.1, score_drop: 100}
"""


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Args:
        make: writes valid files into a folder that has net.py and data.npz already.
        mutate: changes one of them; returns its name.
        commands: that read it.
        stays: beginnings of names that these commands may leave or change.
    """

    name: str
    make: Callable[[Path, Worker], None]
    mutate: Callable[[Path, Random], str]
    commands: tuple[str, ...]
    stays: tuple[str, ...] = ()


def common(folder: Path) -> None:
    """What every folder has: the code of a network, data, and code that nobody named."""
    folder.mkdir(parents=True)
    (folder / "net.py").write_text(SMALL_NET)
    (folder / "canary.py").write_text("import os\nopen(os.environ['CANARY'], 'w')\nbuild = None\n")
    generator = np.random.default_rng(0)
    images = generator.integers(0, 255, (60, 1, 8, 8), dtype=np.uint8)
    np.savez(
        folder / "data.npz",
        x_train=images[:40],
        y_train=np.arange(40) % 10,
        x_test=images[40:],
        y_test=np.arange(20) % 10,
    )


def done(worker: Worker, folder: Path, *lines: str) -> None:
    """Run commands that must succeed."""
    for line in lines:
        ended = worker.run(Command.of(line), folder, seconds=120)
        assert ended.code == 0, f"{line}: {ended}"


def only(name: str, mutation: m.Mutation) -> Callable[[Path, Random], str]:
    """Mutate one file."""
    return lambda folder, random: m.within(folder, {name: mutation}, random)


def network_file(folder: Path, _: Worker) -> None:
    """net.onnx, of the operations that networks of images have."""
    from onnx import TensorProto, helper, numpy_helper, save

    generator = np.random.default_rng(0)

    def stored(name: str, *shape: int) -> TensorProto:
        return numpy_helper.from_array(generator.standard_normal(shape).astype(np.float32), name)

    ones = numpy_helper.from_array(np.ones(4, np.float32), "ones")
    shape = numpy_helper.from_array(np.array([0, -1]), "shape")
    nodes = [
        helper.make_node(
            "Conv", ["x", "w", "ones"], ["a"], "conv", kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]
        ),
        helper.make_node("BatchNormalization", ["a", "ones", "ones", "ones", "ones"], ["b"], "norm", epsilon=1e-5),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("Conv", ["c", "depth"], ["d"], "depthwise", group=4, pads=[1, 1, 1, 1]),
        helper.make_node("Clip", ["d", "low", "high"], ["e"]),
        helper.make_node("Add", ["c", "e"], ["f"]),
        helper.make_node("MaxPool", ["f"], ["g"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Concat", ["g", "g"], ["h"], axis=1),
        helper.make_node("Transpose", ["h"], ["i"], perm=[0, 1, 3, 2]),
        helper.make_node("Reshape", ["i", "shape"], ["j"]),
        helper.make_node("Gemm", ["j", "fc", "bias"], ["k"], "fc", transB=1),
        helper.make_node("Softmax", ["k"], ["y"], axis=-1),
    ]
    scalars = [numpy_helper.from_array(np.float32(value), name) for name, value in (("low", 0), ("high", 6))]  # type: ignore[arg-type]
    weights = [stored("w", 4, 1, 3, 3), stored("depth", 4, 1, 3, 3), stored("fc", 10, 32), stored("bias", 10)]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 10])],
        [*weights, *scalars, ones, shape],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    save(model, str(folder / "net.onnx"))


def artifact_folder(folder: Path, worker: Worker) -> None:
    """net/, pruned and quantized."""
    done(
        worker,
        folder,
        f"prune {NET} --macs 1.5 --round-to 1 -o pruned",
        "quantize pruned --data data.npz --keep-slower -o net",
    )
    shutil.rmtree(folder / "pruned")


def artifact_of_onnx(folder: Path, worker: Worker) -> None:
    network_file(folder, worker)
    done(worker, folder, "fold net.onnx -o net")
    (folder / "net.onnx").unlink()


def spoil_artifact(folder: Path, random: Random) -> str:
    """Mutate a file of the artifact; two times of three with the digests that belong to it."""
    path = folder / "net"
    manifest = {"manifest.json": m.either(m.json_text, m.json_text, m.damaged)}
    weights = {"weights.safetensors": m.either(m.safetensors, m.damaged)}
    arrays = dict.fromkeys(("inputs.npz", "expected.npz"), m.either(m.npz, m.damaged))
    network = {"source.onnx": m.either(m.onnx_file, m.damaged)} if (path / "source.onnx").exists() else {}
    name = m.within(path, random.choice((manifest, manifest, weights, arrays, network or weights)), random)
    if random.random() < 0.67:
        signed(path, name)
    return f"net/{name}"


def signed(path: Path, name: str) -> None:
    """Give a manifest the digests that belong to it and to the file of that name."""
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        if name != "manifest.json":
            manifest["files"][name] = hashlib.sha256((path / name).read_bytes()).hexdigest()
        manifest.pop("digest", None)
        text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
        (path / "manifest.json").write_text(
            json.dumps({**manifest, "digest": hashlib.sha256(text.encode()).hexdigest()})
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass  # so broken that no digest belongs to it


def exported_folder(folder: Path, worker: Worker) -> None:
    """files/, with an ONNX file in integers."""
    artifact_folder(folder, worker)
    done(worker, folder, "export net --format onnx --data data.npz -o files")
    shutil.rmtree(folder / "net")


def spoil_exported(folder: Path, random: Random) -> str:
    arrays = {path.name: m.either(m.npz, m.npz, m.damaged) for path in (folder / "files").glob("*.npz")}
    listing = {"export.json": m.either(m.json_text, m.json_text, m.damaged)}
    network = {"model.onnx": m.either(m.onnx_file, m.damaged)}
    return "files/" + m.within(folder / "files", random.choice((arrays, listing, listing, network)), random)


def packed_file(folder: Path, worker: Worker) -> None:
    network_file(folder, worker)
    done(worker, folder, "pack net.onnx -o net.packed")
    (folder / "net.onnx").unlink()


def pictures(folder: Path, _: Worker) -> None:
    from PIL import Image

    generator = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 3)):
        for name in ("a", "b"):
            (folder / "photos" / split / name).mkdir(parents=True)
            for number in range(count):
                image = Image.fromarray(generator.integers(0, 255, (8, 8), dtype=np.uint8))
                image.save(folder / "photos" / split / name / f"{number}.{'png' if number % 2 else 'jpg'}")


def spoil_pictures(folder: Path, random: Random) -> str:
    files = {str(path.relative_to(folder)): m.either(m.image, m.damaged) for path in (folder / "photos").rglob("*.*g")}
    if random.random() < 0.1:
        name = random.choice(sorted(files))
        (folder / name).unlink()
        random.choice((lambda p: p.mkdir(), lambda p: p.symlink_to(p), lambda p: p.symlink_to("/dev/zero")))(
            folder / name
        )
        return name
    return m.within(folder, files, random)


def weights_files(folder: Path, _: Worker) -> None:
    import torch
    from safetensors.torch import save_file

    made: dict[str, object] = {}
    exec(SMALL_NET, made)
    state = made["build"]().state_dict()  # type: ignore[operator]
    save_file(state, folder / "w.safetensors")
    torch.save(state, folder / "w.pt")


def recipe_file(folder: Path, worker: Worker) -> None:
    done(worker, folder, f"fold {NET} -o known")  # the code is named once by who runs it
    shutil.rmtree(folder / "known")
    (folder / "r.yaml").write_text(RECIPE.replace("net.py", str(folder / "net.py")))


def report_file(folder: Path, _: Worker) -> None:
    content = report_content()
    for benchmark in content["benchmarks"]:  # type: ignore[attr-defined]
        del benchmark["samples_ms"][20:]
    (folder / "report.json").write_text(json.dumps(content))


def measurements(folder: Path, _: Worker) -> None:
    """Two files of `bench -o`, and a log."""
    for name, median in (("a", 1.0), ("b", 1.2)):
        told = [measured(each, median) | {"samples_ms": samples(median, 20)} for each in ("one", "two")]
        (folder / f"{name}.json").write_text(json.dumps(bench(*told)))
        with (folder / "log.jsonl").open("a") as log:
            log.writelines(json.dumps(each | {"label": name}) + "\n" for each in told)


def prune_scan(folder: Path, worker: Worker) -> None:
    done(worker, folder, f"sensitivity {NET} --data data.npz -o scan")


def precision_scan(folder: Path, worker: Worker) -> None:
    done(worker, folder, f"sensitivity {NET} --data data.npz --stage quantize -o scan")


spoil_scan = only("scan/sensitivity.json", m.either(m.json_text, m.json_text, m.damaged))


def unfinished_run(folder: Path, worker: Worker) -> None:
    """A run whose last stage cannot be done; what it did until then is kept."""
    recipe = yaml.safe_load(RECIPE)
    recipe["stages"] = ["fold", {"prune": {"macs": 1e6}}]
    (folder / "r.yaml").write_text(yaml.safe_dump(recipe))
    ended = worker.run(Command.of("run r.yaml --trust -o out"), folder)
    assert ended.code == 2 and (folder / ".out.unfinished" / "1-fold").is_dir(), ended


def spoil_unfinished(folder: Path, random: Random) -> str:
    kept = folder / ".out.unfinished"
    mutations = {".json": m.either(m.json_text, m.damaged), ".npz": m.damaged, ".safetensors": m.damaged}
    files = {str(p.relative_to(folder)): mutations[p.suffix] for p in kept.rglob("*") if p.suffix in mutations}
    return m.within(folder, files, random)


def interrupted_run(folder: Path, worker: Worker) -> None:
    """A run that was killed within the training after a pruning."""
    training = "{epochs: 4, batch_size: 8, precision: fp32, accelerator: cpu}"
    stage = f"{{prune: {{macs: 1.2, round_to: 1, training: {training}}}}}"
    (folder / "r.yaml").write_text(f"model: net.py:build\ndata: {{source: data.npz}}\nstages: [{stage}]\n")
    kept = folder / ".out.unfinished" / "resume" / "1-prune"
    command = Command.of("run r.yaml --trust -o out")
    _, writes = worker.writes(command, folder)
    shutil.rmtree(folder / "out")
    for last in range(writes // 2, 0, -2):  # the last write that leaves a checkpoint
        worker.run(command, folder, dies_at=last)
        if (kept / "prune.ckpt").exists() and (kept / "prune.json").exists():
            return
        shutil.rmtree(folder / ".out.unfinished", ignore_errors=True)
    raise AssertionError("no write leaves a checkpoint")


def spoil_interrupted(folder: Path, random: Random) -> str:
    kept = folder / ".out.unfinished" / "resume"
    mutations = {".json": m.either(m.json_text, m.damaged), ".ckpt": m.damaged}
    files = {str(p.relative_to(folder)): mutations[p.suffix] for p in kept.rglob("*") if p.suffix in mutations}
    return m.within(folder, files, random)


def inputs_file(folder: Path, worker: Worker) -> None:
    network_file(folder, worker)
    np.savez(folder / "inputs.npz", x=np.zeros((1, 1, 8, 8), np.float32))


def files_of_engines(folder: Path, worker: Worker) -> None:
    artifact_folder(folder, worker)
    done(worker, folder, "export net --format openvino --format litert --format ncnn --data data.npz -o files")
    shutil.rmtree(folder / "net")


def spoil_files_of_engines(folder: Path, random: Random) -> str:
    files = {path.name: m.damaged for path in (folder / "files").iterdir() if path.suffix not in (".npz", ".json")}
    return "files/" + m.within(folder / "files", files, random)  # type: ignore[arg-type]


KINDS = (
    Kind("onnx", network_file, only("net.onnx", m.either(m.onnx_file, m.onnx_file, m.damaged)), (
        "fold net.onnx -o out", "analyze net.onnx", "analyze net.onnx --target ort-x86", "pack net.onnx -o out",
        "quantize net.onnx --data data.npz --keep-slower -o out", "bench net.onnx --preset quick",
        "prune net.onnx --ratio 0.5 --round-to 1 -o out", "analyze net.onnx --target tensorrt",
    )),
    Kind("artifact", artifact_folder, spoil_artifact, (
        "fold net -o out", "analyze net", "analyze net --json", "export net -o out",
        "prune net --ratio 0.5 --round-to 1 -o out",
    )),
    Kind("artifact-of-onnx", artifact_of_onnx, spoil_artifact, ("fold net -o out", "analyze net")),
    Kind("exported", exported_folder, spoil_exported, ("check files", "runtimes check files", "check files --json")),
    Kind("packed", packed_file, only("net.packed", m.either(m.packed, m.packed, m.damaged)), (
        "unpack net.packed -o out",
    )),
    Kind("arrays", lambda folder, worker: None, only("data.npz", m.either(m.npz, m.npz, m.npz, m.damaged)), (
        "analyze net.py:build --data data.npz", "quantize net.py:build --data data.npz --keep-slower -o out",
        f"train net.py:build --data data.npz -o out {TRAINING}", "sensitivity net.py:build --data data.npz -o out",
    )),
    Kind("pictures", pictures, spoil_pictures, (
        "quantize net.py:build --data photos --keep-slower -o out",
        f"train net.py:build --data photos -o out {TRAINING}",
    )),
    Kind("safetensors", weights_files, only("w.safetensors", m.either(m.safetensors, m.damaged)), (
        f"fold {NET} --weights w.safetensors -o out",
    )),
    Kind("state-dict", weights_files, only("w.pt", m.either(m.state_dict, m.state_dict, m.damaged)), (
        f"fold {NET} --weights w.pt -o out",
    )),
    Kind("recipe", recipe_file, only("r.yaml", m.either(m.yaml_text, m.yaml_text, m.yaml_text, m.damaged)), (
        "run r.yaml -o out",
    ), (".out.unfinished",)),
    Kind("report", report_file, only("report.json", m.either(m.json_text, m.json_text, m.damaged)), (
        "report report.json -o out", "report report.json --json -o out",
    )),
    Kind("measurements", measurements, only("b.json", m.either(m.json_text, m.json_text, m.damaged)), (
        "compare a.json b.json", "compare a.json b.json --json", "compare b.json",
        "compare a.json b.json --markdown out", "compare a.json b.json --junit out",
    ), ("out",)),
    Kind("log", measurements, only("log.jsonl", m.damaged), ("compare --log log.jsonl --baseline a",)),
    Kind("prune-scan", prune_scan, spoil_scan, (
        f"prune {NET} --macs 1.5 --round-to 1 --select sensitivity=scan -o out",
    )),
    Kind("precision-scan", precision_scan, spoil_scan, (
        "quantize net.py:build --size 5 --scan scan --data data.npz --keep-slower -o out",
    )),
    Kind("inputs", inputs_file, only("inputs.npz", m.either(m.npz, m.damaged)), (
        "runtimes net.onnx --inputs inputs.npz --preset quick",
    )),
    Kind("interrupted", interrupted_run, spoil_interrupted, ("run r.yaml --trust -o out",), (
        ".out.unfinished", ".out.compress-lock",
    )),
    Kind("engines", files_of_engines, spoil_files_of_engines, ("check files", "runtimes check files")),
    Kind("unfinished", unfinished_run, spoil_unfinished, ("run r.yaml --trust -o out",), (".out.unfinished",)),
)  # fmt: skip
