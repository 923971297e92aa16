"""Each engine as its own documentation runs it: loaded, and a loop around the call with a clock at both ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Call = Callable[[], object]
Inputs = Mapping[str, NDArray[Any]]


def onnxruntime(file: Path, inputs: Inputs, threads: int) -> Call:
    """https://onnxruntime.ai/docs/api/python/: ``InferenceSession(...).run(None, inputs)``."""
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.intra_op_num_threads = threads
    session = ort.InferenceSession(str(file), settings, providers=["CPUExecutionProvider"])
    feed = dict(inputs)
    return lambda: session.run(None, feed)


def litert(file: Path, inputs: Inputs, threads: int) -> Call:
    """https://ai.google.dev/edge/litert: ``set_tensor``, ``invoke``, ``get_tensor``."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(file), num_threads=threads)
    interpreter.allocate_tensors()
    (x,) = inputs.values()
    taken, given = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def call() -> object:
        interpreter.set_tensor(taken, x)
        interpreter.invoke()
        return interpreter.get_tensor(given)

    return call


def openvino(file: Path, inputs: Inputs, threads: int) -> Call:
    """https://docs.openvino.ai, "Integrate OpenVINO": ``compile_model``, ``create_infer_request``, ``infer``."""
    import openvino as ov

    compiled = ov.Core().compile_model(
        str(file), "CPU", {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 1}
    )
    request = compiled.create_infer_request()
    (x,) = inputs.values()
    return lambda: request.infer([x])


def ncnn(file: Path, inputs: Inputs, threads: int) -> Call:
    """https://github.com/Tencent/ncnn/wiki, "use ncnn with pytorch or onnx": an extractor for each run."""
    import ncnn as engine

    net = engine.Net()
    net.opt.num_threads = threads
    net.load_param(str(file))
    net.load_model(str(file.with_suffix(".bin")))
    (x,) = inputs.values()
    taken, given = net.input_names()[0], net.output_names()[0]

    def call() -> object:
        extractor = net.create_extractor()
        extractor.input(taken, engine.Mat(x[0]))
        return np.array(extractor.extract(given)[1])

    return call


def executorch(file: Path, inputs: Inputs, threads: int) -> Call:
    """https://docs.pytorch.org/executorch, "Running an ExecuTorch model using the Python bindings"."""
    import torch
    from executorch.extension.pybindings import portable_lib
    from executorch.runtime import Runtime

    portable_lib._unsafe_reset_threadpool(threads)
    method = Runtime.get().load_program(str(file)).load_method("forward")
    (x,) = (torch.from_numpy(value) for value in inputs.values())
    assert method is not None, "the program has a method of this name"
    return lambda: method.execute((x,))


LOOPS: dict[str, Callable[[Path, Inputs, int], Call]] = {
    "onnx": onnxruntime,
    "litert": litert,
    "openvino": openvino,
    "ncnn": ncnn,
    "executorch": executorch,
}
"""By format."""


def median_ms(call: Call, seconds: float, warmup: int = 5) -> float:
    """Return the median of a plain loop of so many seconds."""
    for _ in range(warmup):
        call()
    took: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(took) < 10:
        start = time.perf_counter()
        call()
        took.append(time.perf_counter() - start)
    return 1e3 * float(np.median(took))


def litert_tool_ms(file: Path, runs: int, threads: int) -> float:
    """Return the median that LiteRT's own benchmark program tells, which its wheel has."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, "-m", "ai_edge_litert.tools.benchmark_litert_model", "--model", str(file)]
        command += ["--num_runs", str(runs), "--num_threads", str(threads), "--result_json", str(result)]
        subprocess.run(command, check=True, capture_output=True, env=os.environ | {"PYTHONWARNINGS": "ignore"})
        told = json.loads(result.read_text(encoding="utf-8"))
    return float(told["latency"]["median_ms"])
