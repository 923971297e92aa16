"""A device over SSH, from the first word to measurements, held against this machine itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto

from runtimes.measure.presets import PRESETS
from runtimes.measure.request import Request
from runtimes.runtime import Options, load, random_inputs
from runtimes.sensors.conditions import conditions
from tests.support.ssh_server import Reach, SshServer

Saved = Callable[[ModelProto, str], Path]
Models = dict[str, Callable[..., ModelProto]]


def kept(server: SshServer) -> set[str]:
    return {path.name for path in server.home.iterdir()}


@pytest.mark.parametrize("name", ["float", "int8"])
def test_files_give_there_what_they_give_here(reach: Reach, saved: Saved, models: Models, name: str) -> None:
    file = saved(models[name](), f"{name}.onnx")
    device, here = reach(), load(file)
    there = device.load(file, "onnxruntime", Options())
    assert (there.inputs, there.outputs) == (here.inputs, here.outputs)
    feed = random_inputs(here.inputs, seed=3)
    for output, expected in here.run(feed).items():
        np.testing.assert_array_equal(there.run(feed)[output], expected)
    executed, expected_graph = there.executed_graph(feed), here.executed_graph(feed)
    assert executed is not None and expected_graph is not None and executed.ops == expected_graph.ops
    there.close()
    there.close()


def test_a_second_session_sends_nothing(reach: Reach, saved: Saved, models: Models, server: SshServer) -> None:
    file = saved(models["float"](), "float.onnx")
    for session in range(2):
        device = reach(cache="again")
        (measured,) = device.benchmark([file], Request(PRESETS["quick"]), engine=[None])
        assert (device.sent_bytes == 0) is (session == 1)
        device.close()
    assert measured.file == str(file) and len(measured.samples_ms) >= PRESETS["quick"].runs
    assert measured.peak_memory_bytes and measured.conditions.cpu == conditions().cpu
    assert kept(server) == {".cache", "again"} or kept(server) == {"again"}
    left = {path.name for path in (server.home / "again").iterdir()}
    assert left == {"device"} and not list((server.home / "again" / "device" / "partial").iterdir())
