"""A device that answers with what is none of it: every answer is refused with exit code 4, none is taken as it came."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from runtimes.agent.arrays import packed, unpacked
from runtimes.devices.connection import Connection, start
from runtimes.devices.device import Settings
from runtimes.devices.remote import RemoteDevice
from runtimes.errors import DeviceError, InvalidModel
from runtimes.measure.benchmark import benchmark
from runtimes.measure.modes.cold_start import ColdStarts
from runtimes.measure.modes.roofline import RooflineProbe
from runtimes.measure.modes.sustained import SustainedLoad
from runtimes.measure.modes.work import Work
from runtimes.measure.presets import PRESETS
from runtimes.measure.request import Request
from runtimes.measure.subject import Subject
from runtimes.runtime import Options
from runtimes.sensors.conditions import conditions

IMPOSTOR = """
import json, pathlib, struct, sys, time
answers = json.loads(pathlib.Path(sys.argv[1]).read_text())
source, target = sys.stdin.buffer, sys.stdout.buffer
def send(header, body=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    target.write(struct.pack("!4sIQ", b"EPw1", len(text), len(body)) + text + body)
    target.flush()
source.readline()
target.write(b"\\0edgepress 3 11 9\\n")
target.flush()
source.read(int(source.readline()))
send({"event": "ready"})
while head := source.read(16):
    _, header_bytes, body_bytes = struct.unpack("!4sIQ", head)
    asked, _ = json.loads(source.read(header_bytes)), source.read(body_bytes)
    if asked.get("do") == "become":
        send({"event": "ready"})
    elif asked.get("do") == "missing" and "takes nothing" in answers:
        send({"id": asked["id"], "result": {"digests": [digest for _, _, digest in asked["files"]]}})
        time.sleep(60)
    elif "do" in asked:
        for part in answers.get("parts", []) if asked["do"] == "measure" else []:
            send({"id": asked["id"], "event": "part", "part": part})
        answer = dict(answers.get(asked["do"], {}))
        body = bytes.fromhex(answer.pop("body", ""))
        if answers.get("nested at") == asked["do"]:
            send(b'{"id": %d, "result": {"a": ' % asked["id"] + b"[" * 900 + b"]" * 900 + b"}}")
        else:
            send({"id": asked["id"], "result": answer}, body)
"""

SPEC = {"name": "x", "shape": [1, 4], "dtype": "float32", "scale": None, "zero_point": 0}
NODE = {"name": "n", "op": "Relu", "kind": "float", "duration_ms": 1.0}
FEED = {"x": np.ones((1, 4), np.float32)}

Answers = dict[str, Any]
Reach = Callable[[Answers], RemoteDevice]


class Impostor:
    """A connection to a program of this test."""

    place = "board"

    def __init__(self, program: Path, answers: Path) -> None:
        self.words = [sys.executable, str(program), str(answers)]

    def argv(self, command: str) -> Sequence[str]:
        return self.words

    def explain(self, status: int | None, said: str) -> str:
        return f"it ended with {status}: {said}"

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def answers() -> Answers:
    """What a device says that means well."""
    cache = {"folder": "/c", "bytes": 1, "free_bytes": 10**9, "environments": [{"requirements": ["numpy==2"]}]}
    facts = {"python": "3.11.9", "machine": "x86_64", "libc": "glibc 2.36", "venv": True, "pip": True, "time": 1.0}
    return {
        "probe": {**facts, "cache": cache},
        "conditions": json.loads(json.dumps(asdict(conditions()))),
        "missing": {"digests": []},
        "tree": {"folder": "/c/t"},
        "load": {"runtime": 1, "inputs": [SPEC], "outputs": [{**SPEC, "name": "y"}]},
        "run": with_arrays(y=np.ones((1, 4), np.float32)),
        "run_samples": with_arrays(y=np.ones((3, 4), np.float32)),
        "executed": {"nodes": [NODE]},
    }


@pytest.fixture(scope="module")
def measured(file: Path) -> dict[str, Any]:
    return benchmark([file], Request(PRESETS["quick"]), engine=["onnxruntime"])[0].to_json()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from onnx import TensorProto, helper, save

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    path = tmp_path_factory.mktemp("file") / "relu.onnx"
    model: ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    save(model, path)
    return path


@pytest.fixture
def reach(tmp_path: Path) -> Iterator[Reach]:
    devices: list[RemoteDevice] = []

    def make(told: Answers) -> RemoteDevice:
        program, content = tmp_path / "impostor.py", tmp_path / "answers.json"
        program.write_text(IMPOSTOR)
        content.write_text(json.dumps(told))
        devices.append(RemoteDevice(Impostor(program, content), Settings(python="python"), "board"))
        return devices[-1]

    yield make
    for device in devices:
        device.close()


def with_arrays(**arrays: np.ndarray[Any, Any]) -> dict[str, Any]:
    index, body = packed(arrays)
    return {"arrays": index, "body": body.hex()}


def changed(answers: Answers, path: str, value: object) -> Answers:
    """The answers with another value at a path; DEL takes it out."""
    copied: Answers = json.loads(json.dumps(answers))
    *parents, last = path.split("/")
    place: Any = copied
    for name in parents:
        place = place[int(name) if isinstance(place, list) else name]
    if value == "DEL":
        del place[last]
    else:
        place[last] = value
    return copied


def refused(work: Callable[[], object]) -> str:
    with pytest.raises(DeviceError) as caught:
        work()
    return str(caught.value)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *((f"probe/{name}", "DEL") for name in ("python", "machine", "libc", "time", "cache")),
        *((f"probe/cache/{name}", "DEL") for name in ("folder", "bytes", "free_bytes", "environments")),
        ("probe/python", 5),
        ("probe/time", float("nan")),
        ("probe/cache/bytes", "many"),
        ("probe/cache/free_bytes", float("inf")),
        ("probe/cache/free_bytes", 10**40),
        ("probe/cache/environments", [{"requirements": 5}]),
        ("nested at", "probe"),
    ],
)
def test_facts_of_other_types(reach: Reach, answers: Answers, path: str, value: object) -> None:
    assert "what it sent cannot be used" in refused(reach({"nested at": None, **changed(answers, path, value)}).facts)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *[("architecture", 7), ("isa", "abc"), ("isa", 1), ("cores", "x"), ("cores", True), ("cpu", ["x"])],
        *[("load_average", [1.0]), ("temperatures_c", {"cpu": float("nan")}), ("clusters", {"big": ["x"]})],
    ],
)
def test_conditions_of_other_types(reach: Reach, answers: Answers, path: str, value: object) -> None:
    device = reach(changed(answers, f"conditions/{path}", value))
    assert "what it sent cannot be used" in refused(device.conditions)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("load/inputs/0/shape", [-1, 4]),
        ("load/inputs/0/dtype", "object"),
        ("load/inputs/0/dtype", "foo"),
        ("load/inputs/0/name", 5),
        ("load/outputs/0/zero_point", 10**40),
        ("run", with_arrays(z=np.ones((1, 4), np.float32))),
        ("run", with_arrays(y=np.ones((1, 4), np.int8))),
        ("run_samples", with_arrays(y=np.ones((2, 4), np.float32))),
        ("run_samples", with_arrays(y=np.array(1, np.float32))),
        ("executed/nodes", [{**NODE, "duration_ms": float("nan")}]),
        ("executed/nodes", [{**NODE, "kind": "gold"}]),
    ],
)
def test_files_that_give_something_else(reach: Reach, answers: Answers, file: Path, path: str, value: object) -> None:
    device = reach(changed(answers, path, value))

    def work() -> None:
        loaded = device.load(file, "onnxruntime", Options())
        loaded.run(FEED)
        loaded.run_samples({"x": np.ones((3, 4), np.float32)}, 1)  # type: ignore[attr-defined]
        loaded.executed_graph(FEED)

    assert "what it sent cannot be used" in refused(work)


def test_measurements_of_other_types(reach: Reach, answers: Answers, file: Path, measured: dict[str, Any]) -> None:
    def measure(**values: object) -> object:
        device = reach({**answers, "benchmark": {"measurements": [{**measured, **values}]}})
        return device.benchmark([file], Request(PRESETS["quick"]), engine=["onnxruntime"])

    measure()
    wrong: list[tuple[str, object]] = [
        ("threads", "x"), ("size_bytes", [1]), ("engine_version", None), ("duration_s", float("nan")),
        ("samples_ms", []), ("sentinel_ms", [float("inf")]), ("disturbances", [5]), ("preset", {}),
        ("watched", {"readings": [], "others_share": "all"}), ("loop", 5), ("peak_memory_bytes", 10**40),
    ]  # fmt: skip
    for name, value in wrong:
        assert "what it sent cannot be used" in refused(partial(measure, **{name: value})), name


READING = {"at_s": 0.0, "clocks_mhz": None, "temperatures_c": None, "throttled": None, "cooling": None}
BEFORE = {"before": READING, "disturbances": []}
WINDOW = {
    "begin_s": 0.0, "end_s": 1.0, "p50_ms": [1.0], "p90_ms": [1.0], "max_ms": [2.0], "runs": [5], "sentinel_ms": 0.2,
    "after": READING,
}  # fmt: skip
WRONG: tuple[dict[str, Any], ...] = (
    {"p50_ms": [1.0, 2.0]},
    {"p50_ms": [-1.0]},
    {"p50_ms": [0.0]},
    {"p90_ms": [float("nan")]},
    {"runs": []},
    {"runs": ["5"]},
    {"begin_s": "now"},
    {"after": {"at_s": 0.0, "clocks_mhz": 7}},
    {"more": 1},
)
PROCESS = dict.fromkeys(("total_ms", "start_ms", "import_ms", "load_ms", "first_ms", "second_ms"), 1.0)


@pytest.mark.parametrize(
    ("work", "parts"),
    [
        (SustainedLoad(1.0), []),
        (SustainedLoad(1.0), [BEFORE]),
        (SustainedLoad(1.0), [7, WINDOW]),
        (SustainedLoad(1.0), [WINDOW, BEFORE]),
        *((SustainedLoad(1.0), [BEFORE, {**WINDOW, **wrong}]) for wrong in WRONG),
        (ColdStarts(1), []),
        (ColdStarts(1), [PROCESS]),
        (ColdStarts(1), [{"disturbances": 7}, PROCESS]),
        (ColdStarts(1), [{"disturbances": []}, {**PROCESS, "first_ms": "x"}]),
        (ColdStarts(1), [{"disturbances": []}, {**PROCESS, "first_ms": -1.0}]),
        (RooflineProbe(), [{"threads": 1, "float_ops": "all", "integer_ops": None, "bytes_per_s": 1.0}]),
    ],
)  # fmt: skip
def test_parts_of_modes_of_other_types(
    reach: Reach, answers: Answers, file: Path, work: Work[Any], parts: list[Any]
) -> None:
    device, subject = reach({**answers, "parts": parts}), Subject.of([file])
    assert "what it sent cannot be used" in refused(lambda: device.measure(work, subject))


def test_parts_that_are_meant_well(reach: Reach, answers: Answers, file: Path) -> None:
    device = reach({**answers, "parts": [BEFORE, {**WINDOW, "after": {**READING, "cooling": {"\x1b[2J": 1}}}]})
    found = device.measure(SustainedLoad(1.0), Subject.of([file]))
    assert found.slowdown(0) == 1.0 and found.windows[0].after.cooling == {"\\x1b[2J": 1}


def test_an_array_without_dimensions_stays_one() -> None:
    assert unpacked(*packed({"y": np.array(3, np.float32)}))["y"].shape == ()


def test_a_device_that_takes_nothing_is_left(
    reach: Reach, answers: Answers, file: Path, ending_signals: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in its pipe keeps that from being closed."""
    monkeypatch.setattr("runtimes.devices.link._ENDING_S", 0.5)
    started: list[subprocess.Popen[bytes]] = []

    def noted(connection: Connection) -> subprocess.Popen[bytes]:
        started.append(start(connection))
        return started[-1]

    monkeypatch.setattr("runtimes.devices.link.start", noted)
    device = reach({**answers, "takes nothing": True})
    main = threading.get_ident()
    timer = threading.Timer(2.0, signal.pthread_kill, (main, signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        device.load(file, "onnxruntime", Options())
    device.close()
    (process,) = started
    assert process.returncode is not None


@pytest.mark.parametrize("location", ["/etc/hostname", "../weights.bin"])
def test_weights_outside_of_a_folder_are_not_sent(
    reach: Reach, answers: Answers, file: Path, tmp_path: Path, location: str
) -> None:
    from onnx import TensorProto, load, save

    (tmp_path / "weights.bin").write_bytes(bytes(16))
    outside = tmp_path / "folder" / "outside.onnx"
    outside.parent.mkdir()
    model = load(file)
    weights = TensorProto(name="w", dims=[4], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    weights.external_data.add(key="location", value=location)
    model.graph.initializer.append(weights)
    save(model, outside)
    device = reach(answers)
    with pytest.raises(InvalidModel, match="outside of its folder"):
        device.load(outside, "onnxruntime", Options())
