"""Engines on the emulated board: files run there over SSH as they must, and kernels that are compiled for ARM load."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from compress import deploy
from compress.data import DataConfig, load
from compress.pipeline import fold_for_export, open_network
from compress.quantize import Quantize
from compress.stage import Context
from runtimes.bitwise import build
from runtimes.checks.folder import Folder
from runtimes.checks.gate import check_folder
from runtimes.devices.device import Settings
from runtimes.devices.remote import RemoteDevice
from runtimes.devices.ssh import SshConnection
from tests.support.board import PYTHON, ROOT, Board

TARGETS = {"onnx": "ort-arm", "litert": "litert", "ncnn": "ncnn", "openvino": "openvino"}
COMPILER = "aarch64-linux-gnu-g++"
SOURCES = ("library.cpp", "prepare.cpp", "scalar.cpp", "neon.cpp")
BIT_LAYERS = """
import sys, numpy as np
from pathlib import Path
from runtimes.bitwise.known import FILE, example, main
from runtimes.runtime import Options, load
main(sys.argv[1])  # both kernels against ONNX Runtime's own functions
session = load(FILE, "bitwise", Options())
plain = load(FILE, "onnxruntime", Options())
feed = {"x": example()}
assert np.array_equal(session.run(feed)["y"], plain.run(feed)["y"])
print(session.kernels, *[node.op for node in session.executed_graph().nodes if node.kind == "integer"], sep="\\n")
"""


def put(board: Board, files: Mapping[str, Path]) -> None:
    """Copy files and folders into the home folder of the board."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, path in files.items():
            archive.add(path, name, filter=lambda each: None if "__pycache__" in each.name else each)
    assert board.run("tar", "-x", text=packed.getvalue()).returncode == 0


@pytest.fixture
def device(arm_board: Board, monkeypatch: pytest.MonkeyPatch) -> Iterator[RemoteDevice]:
    monkeypatch.setenv("PATH", arm_board.environment["PATH"])
    reached = RemoteDevice(SshConnection.of(arm_board.url), Settings(python=PYTHON), "board")
    yield reached
    reached.close()


def test_an_emulated_processor_shows(device: RemoteDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEPRESS_EMULATED", raising=False)
    there = device.conditions()
    assert (there.architecture, there.emulated) == ("aarch64", True)


@pytest.mark.parametrize("evidence", ["arch", "executed"])
def test_each_evidence_is_enough(arm_board: Board, evidence: str) -> None:
    """A kernel before Linux 6.1 has no file ``arch``; a hardened one hides what it executes."""
    module = (ROOT / "runtimes/sensors/emulation.py").read_text(encoding="utf-8").replace("from .files", "from files")
    arm_board.run("sh", "-c", "mkdir -p told && cat > told/emulation.py", text=module.encode())
    arm_board.run("sh", "-c", "cat > told/files.py", text=(ROOT / "runtimes/sensors/files.py").read_bytes())
    other = {"arch": "emulation._executed_family = lambda root: None", "executed": "emulation.text = lambda file: None"}
    code = (
        f"import sys; sys.path.insert(0, 'told'); import emulation; {other[evidence]}; print(emulation.is_emulated())"
    )
    done = arm_board.run("python3", "-c", code)
    assert done.stdout == b"True\n", done.stderr.decode()


def exported(form: str, target: str, folder: Path) -> Folder:
    """A network of random weights in float and in int8, and some digits."""
    data = load(DataConfig(source="digits", size=32))
    network = fold_for_export(open_network("resnet20:width=4", data=data))
    quantized = Quantize(target=target).apply(network.model, Context(network.example_inputs, data))
    integer = replace(network, model=quantized.model, encodings=dict(quantized.encodings))
    wanted = deploy.Wanted(form, target)
    both = [deploy.Asked(name, made, wanted) for name, made in (("float", network), ("int8", integer))]
    deploy.write_files(folder, both, data, samples=8)
    return Folder.read(folder)


@pytest.mark.parametrize("form", TARGETS)
def test_files_give_there_what_their_network_gives(form: str, device: RemoteDevice, tmp_path: Path) -> None:
    entry = exported(form, TARGETS[form], tmp_path).entries[0]
    checked = list(check_folder(tmp_path, device=device))
    assert [each.reasons for each in checked] == [(), ()]
    assert [each.entry.kind for each in checked] == ["float32", "integer"]
    assert {each.entry.engine for each in checked} == {entry.engine}
    in_integers = [each.executed.integer for each in checked if each.executed is not None]
    assert in_integers[0] == 0 and in_integers[1] > 0


def test_kernels_of_bit_layers_run_in_onnx_runtime(arm_board: Board, tmp_path: Path) -> None:
    if shutil.which(COMPILER) is None:
        pytest.skip(f"{COMPILER}: apt-get install g++-aarch64-linux-gnu")
    library, sources = tmp_path / build.NAME, Path(build.__file__).parent
    flags = build.compiled("library.cpp")
    subprocess.run([COMPILER, *flags, "-shared", *(str(sources / s) for s in SOURCES), "-o", str(library)], check=True)
    put(arm_board, {"runtimes": ROOT / "runtimes", build.NAME: library})
    named = ("env", f"{build.LIBRARY}=/root/{build.NAME}", "PYTHONPATH=/root")
    done = arm_board.run(*named, PYTHON, "-c", BIT_LAYERS, f"/root/{build.NAME}")
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().splitlines() == [
        "neon",
        "BitConv 1-bit x 1-bit neon",
        "BitConv 2-bit x 2-bit neon",
        "BitGemm 2-bit x 1-bit neon",
    ]
