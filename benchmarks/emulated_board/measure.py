"""Files on the emulated board and on this machine: outputs, accuracy, bytes that are sent."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from benchmarks.common.frame import ROOT, slug
from benchmarks.parity_matrix.measure import trained
from compress import deploy
from compress.data import DataConfig, load
from compress.pipeline import fold_for_export
from compress.quantize import Quantize
from compress.stage import Context
from runtimes import processor
from runtimes.checks.check import run_samples
from runtimes.checks.folder import Entry, Folder
from runtimes.devices.device import Settings
from runtimes.devices.local import LocalDevice
from runtimes.devices.remote import RemoteDevice
from runtimes.devices.ssh import SshConnection
from runtimes.runtime import Array, Options
from tests.support.board import PYTHON, Board, board

SAMPLES = 32
"""Of the test scans: a run takes up to a second under emulation."""

TARGET = "ort-arm"
COMMANDS = (
    "prune resnet20:width=4 --data x.npz --ratio 0.25 --round-to measured --epochs 0 --on board -q -o pruned --json",
    "quantize resnet20:width=4 --data x.npz --on board -q -o int8 --json",
)


def rows(name: str, work: Path, epochs: int, samples: int) -> list[dict[str, Any]]:
    """For the float and the int8 file of a network: how what it gives on the board compares with what it gives here."""
    data = load(DataConfig(source="digits", size=32))
    network = trained(name, data, work / f"{slug(name)}.safetensors", epochs)
    plain = fold_for_export(network)
    quantized = Quantize(target=TARGET, quantize_outputs=True).apply(plain.model, Context(plain.example_inputs, data))
    integer = replace(plain, model=quantized.model, encodings=dict(quantized.encodings))
    found = []
    with board() as made, _path(made):
        for network_ in (plain, integer):
            folder = work / f"{slug(name)}-files"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            deploy.write_folder(network_, folder, [deploy.Wanted("onnx", TARGET)], data, samples=samples)
            found.append({"network": name, **_compared(made, Folder.read(folder))})
            shutil.rmtree(folder)
    return found


def _compared(made: Board, folder: Folder) -> dict[str, Any]:
    (entry,) = folder.entries
    arrays, labels = folder.inputs()
    here = LocalDevice().load(folder.path / entry.file, entry.engine, Options(reference=not processor.is_exact(TARGET)))
    inputs = dict(zip((spec.name for spec in here.inputs), arrays, strict=True))
    expected = run_samples(here, inputs, 1)
    here.close()
    device = _device(made)
    there = device.load(folder.path / entry.file, entry.engine, Options())
    outputs = run_samples(there, inputs, 1)
    graph = there.executed_graph()
    device.close()
    second = _device(made)
    second.load(folder.path / entry.file, entry.engine, Options()).close()
    second.close()
    (output,) = expected
    error = float(np.abs(outputs[output].astype(np.float64) - expected[output]).max())
    return {
        "kind": entry.kind,
        "relative_error": error / float(np.abs(expected[output]).max()),
        "steps": error / _step(folder, entry) if entry.kind == "integer" else 0.0,
        "identical": bool(np.array_equal(outputs[output], expected[output])),
        "top1_there": _top1(outputs[output], labels),
        "top1_here": _top1(expected[output], labels),
        "integer_nodes": 0 if graph is None else graph.integer,
        "first_bytes": device.sent_bytes,
        "second_bytes": second.sent_bytes,
    }


def _step(folder: Folder, entry: Entry) -> float:
    """The step of the integers that the output is: the scale of the quantization that it comes from."""
    graph = onnx.load(str(folder.path / entry.file)).graph
    made_by = {name: node for node in graph.node for name in node.output}
    scales = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    last = made_by[graph.output[0].name]
    if last.op_type != "DequantizeLinear":
        raise ValueError(f"{entry.file}: expected outputs that come from integers, got those of {last.op_type}")
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
