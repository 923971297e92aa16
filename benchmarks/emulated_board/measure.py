"""Files on the emulated board and on this machine: outputs, accuracy, nodes, bytes that are sent."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from benchmarks.common.frame import ROOT, slug
from benchmarks.emulated_board import nodes
from benchmarks.parity_matrix.measure import trained
from compress import deploy
from compress.data import DataConfig, load
from compress.pipeline import fold_for_export
from compress.quantize import Quantize
from compress.stage import Context
from runtimes import processor
from runtimes.bound import call, one_feed
from runtimes.checks import gate
from runtimes.checks.check import compare
from runtimes.checks.folder import Folder
from runtimes.devices.device import Settings
from runtimes.devices.local import LocalDevice
from runtimes.devices.remote import RemoteDevice
from runtimes.devices.ssh import SshConnection
from runtimes.runtime import Array, Options
from tests.support.board import PYTHON, Board, board

SAMPLES = 32
"""Of the test scans: a run takes up to a second under emulation."""

IN_NODES = 8
"""Of these, those that are run node by node."""

TARGETS = {"onnx": "ort-arm", "litert": "litert", "ncnn": "ncnn", "openvino": "openvino"}
"""By format: whose integers the files have that run on the board."""

COMMANDS = (
    "prune resnet20:width=4 --data x.npz --ratio 0.25 --round-to measured --epochs 0 --on board -q -o pruned --json",
    "quantize resnet20:width=4 --data x.npz --on board -q -o int8 --json",
)


def rows(name: str, work: Path, epochs: int, samples: int, form: str) -> list[dict[str, Any]]:
    """For the float and the int8 file of a network in one format: how what they give on the board compares.

    They are held against the network, or its simulation in integers, and against what the same file gives here.
    """
    data, target = load(DataConfig(source="digits", size=32)), TARGETS[form]
    network = trained(name, data, work / f"{slug(name)}.safetensors", epochs)
    plain = fold_for_export(network)
    quantized = Quantize(target=target, quantize_outputs=True).apply(plain.model, Context(plain.example_inputs, data))
    integer = replace(plain, model=quantized.model, encodings=dict(quantized.encodings))
    found = []
    with board() as made, _path(made):
        for each in (plain, integer):
            with tempfile.TemporaryDirectory(dir=work) as folder:
                deploy.write_folder(each, Path(folder), [deploy.Wanted(form, target)], data, samples)
                found.append({"network": name, **_compared(made, Folder.read(Path(folder)))})
    return found


def _compared(made: Board, folder: Folder) -> dict[str, Any]:
    """What one file gives on the board beside what it must give, and what it gives here."""
    (entry,) = folder.entries
    file, target = folder.path / entry.file, entry.target
    arrays, labels = folder.inputs()
    here = LocalDevice().load(file, entry.engine, Options(reference=not processor.is_exact(target)))
    (output_here,) = call(here, entry.binding, arrays)
    here.close()
    device = _device(made)
    there = device.load(file, entry.engine, Options())
    (output,) = call(there, entry.binding, arrays)
    graph = there.executed_graph(one_feed(there, entry.binding, arrays))
    device.close()
    second = _device(made)
    second.load(file, entry.engine, Options()).close()
    second.close()
    (expected,) = folder.expected(entry)
    parity, beside = (compare({"y": each}, {"y": output}) for each in (expected, output_here))
    same = [np.array_equal(*pair) for pair in zip(output, output_here, strict=True)]
    in_nodes = entry.engine == "onnxruntime" and entry.kind == "integer"
    return {
        "kind": entry.kind,
        "engine": entry.engine,
        "relative_error": parity.relative_error,
        "relative_difference": beside.relative_error,
        "identical_percent": 100.0 * float(np.mean(same)),
        "passed": not gate.judge(entry.kind, parity),
        "agreement_percent": parity.top1_agreement,
        "top1_there": _top1(output, labels),
        "top1_here": _top1(output_here, labels),
        "integer_nodes": 0 if graph is None else graph.integer,
        "float_nodes": 0 if graph is None else graph.float,
        "first_bytes": device.sent_bytes,
        "second_bytes": second.sent_bytes,
        "nodes": _in_nodes(made, file, arrays[0][:IN_NODES], parity.max_abs_error) if in_nodes else None,
    }


def _in_nodes(made: Board, file: Path, inputs: Array, error: float) -> dict[str, Any]:
    """How far single nodes are from exact arithmetic, beside how far the output is from the simulation's."""
    made_there = nodes.held(made, file, inputs)
    return {**asdict(made_there), "not_held": sorted(made_there.not_held), "output_steps": error / _step(file)}


def _step(file: Path) -> float:
    """The step of the integers that the output is: the scale of the quantization that it comes from."""
    graph = onnx.load(str(file)).graph
    made_by = {name: node for node in graph.node for name in node.output}
    scales = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    last = made_by[graph.output[0].name]
    if last.op_type != "DequantizeLinear":
        raise ValueError(f"{file.name}: expected outputs that come from integers, got those of {last.op_type}")
    return float(np.max(scales[last.input[1]]))


def _top1(outputs: Array, labels: Array | None) -> float:
    return float("nan") if labels is None else 100.0 * float(np.mean(outputs.argmax(axis=1) == labels))


def _device(made: Board) -> RemoteDevice:
    return RemoteDevice(SshConnection.of(made.url), Settings(python=PYTHON), "board")


@contextmanager
def _path(made: Board) -> Iterator[None]:
    """Within, ``ssh`` knows the board."""
    before = os.environ["PATH"]
    os.environ.update(made.environment)
    try:
        yield
    finally:
        os.environ["PATH"] = before


def clocks(work: Path) -> list[dict[str, Any]]:
    """Commands whose choices are timed on the board: what they end with, and what their clock was."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    generator = np.random.default_rng(0)
    images = {f"x_{part}": generator.normal(size=(40, 3, 32, 32)).astype(np.float32) for part in ("train", "test")}
    labels = {f"y_{part}": np.arange(40) % 10 for part in ("train", "test")}
    np.savez(work / "x.npz", allow_pickle=False, **images, **labels)
    found = []
    for command in COMMANDS:
        with board() as made:
            entry = {"board": {"url": made.url, "python": PYTHON}}
            (work / "devices.yaml").write_text(json.dumps(entry), encoding="utf-8")
            variables = os.environ | dict(made.environment) | {"PYTHONPATH": str(ROOT)}
            variables["EDGEPRESS_CACHE"] = str(work / "cache")  # no latency is remembered
            words = [sys.executable, "-c", "from compress.cli import main; main()", *command.split()]
            done = subprocess.run(words, cwd=work, env=variables, capture_output=True, text=True, check=False)
            found.append(
                {
                    "command": f"compress {command.partition(' --data')[0]}",
                    "exit_code": done.returncode,
                    "files_there": sum(1 for _ in made.changes.rglob("*.onnx")),
                    "said": done.stderr[-300:],
                }
            )
    return found
