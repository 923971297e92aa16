"""Programs of engines: their arguments, and texts of the forms that their documentation has."""

from __future__ import annotations

import pytest

from runtimes.devices.native.tools import TOOLS, ToolRun
from runtimes.errors import DeviceError
from runtimes.facts import describe, engines

LITERT = """\
INFO: STARTING!
INFO: Log parameter values verbosely: [0]
INFO: Num threads: [2]
INFO: Graph: [/data/local/tmp/net.tflite]
INFO: Loaded model /data/local/tmp/net.tflite
INFO: Created TensorFlow Lite XNNPACK delegate for CPU.
INFO: Initialized session in 5.25ms.
INFO: Running benchmark for at least 10 iterations and at least 0 seconds but terminate if exceeding 150 seconds.
INFO: count=10 first=9100 curr=2100 min=2000 max=9100 avg=2790 std=2103 p5=2000 median=2080 p95=9100

INFO: Running benchmark for at least 50 iterations and at least 0 seconds but terminate if exceeding 150 seconds.
INFO: count=50 first=2105 curr=2001 min=1990 max=2405 avg=2050.5 std=61 p5=1995 median=2030 p95=2200

INFO: Inference timings in us: Init: 5250, First inference: 9100, Warmup (avg): 2790, Inference (avg): 2050.5
INFO: Memory footprint delta from the start of the tool (MB): init=3.1 overall=7.8
"""
ONNXRUNTIME = """\
Setting intra_op_num_threads to 2
iteration:1,time_cost:0.0021
iteration:2,time_cost:0.0019
iteration:3,time_cost:1.5e-03
Session creation time cost: 0.0125 s
First inference time cost: 4 ms
Total inference time cost: 0.0055 s
Total inference requests: 3
Average inference time cost: 1.83333 ms
"""
NCNN = """\
loop_count = 8
num_threads = 2
powersave = 0
gpu_device = -1
cooling_down = 0
          net.param  min =    3.21  max =    4.05  avg =    3.50
"""
EXECUTORCH = """\
I 00:00:00.000410 executorch:executor_runner.cpp:185] Model file net.pte is loaded.
I 00:00:00.001102 executorch:executor_runner.cpp:294] Inputs prepared.
I 00:00:00.451102 executorch:executor_runner.cpp:330] Model executed successfully 100 time(s) in 450.500000 ms.
"""


def test_engines_name_their_programs() -> None:
    named = {describe(engine).native_tool for engine in engines()} - {None}
    assert named == set(TOOLS)


def test_litert_tells_figures_over_the_runs_after_warm_up() -> None:
    told = TOOLS["benchmark_model"].times(LITERT)
    assert (told.runs, told.mean_ms, told.p50_ms, told.std_ms) == (50, 2.0505, 2.03, 0.061)
    assert (told.min_ms, told.max_ms, told.load_ms, told.first_ms) == (1.99, 2.405, 5.25, 9.1)
    assert told.samples_ms == ()


def test_onnxruntime_tells_every_run() -> None:
    told = TOOLS["onnxruntime_perf_test"].times(ONNXRUNTIME)
    assert told.samples_ms == pytest.approx((2.1, 1.9, 1.5)) and told.runs == 3
    assert told.mean_ms == pytest.approx(5.5 / 3) and (told.load_ms, told.first_ms) == (12.5, 4.0)


def test_ncnn_and_executorch_tell_means() -> None:
    ncnn, executorch = TOOLS["benchncnn"].times(NCNN), TOOLS["executor_runner"].times(EXECUTORCH)
    assert (ncnn.runs, ncnn.min_ms, ncnn.max_ms, ncnn.mean_ms) == (8, 3.21, 4.05, 3.5)
    assert (executorch.runs, executorch.mean_ms, executorch.samples_ms) == (100, 4.505, ())


@pytest.mark.parametrize("name", sorted(TOOLS))
@pytest.mark.parametrize(
    "text",
    ["", "Segmentation fault", "count=0 min=a", "iteration:1,time_cost:nan", "loop_count = 0\nmin = 1 max = 1 avg = e"],
)
def test_another_text_is_no_measurement(name: str, text: str) -> None:
    with pytest.raises(DeviceError, match=f"{name} printed no times of the form"):
        TOOLS[name].times(text)


def test_names_are_words_of_their_own() -> None:
    place = "/data/local/tmp/a b; rm -rf $HOME"
    run = ToolRun("/tools/x y", place, threads=2, warmup_runs=3, runs=7, shapes=((3, 224, 192),))
    calls = {name: tool.words(run) for name, tool in TOOLS.items()}
    assert all(words[0] == "/tools/x y" for words in calls.values())
    assert all(any(word.endswith(place) for word in words) for words in calls.values())
    assert calls["benchncnn"][1:] == ["7", "2", "0", "-1", "0", f"param={place}", "shape=[192,224,3]"]
    assert {"--num_threads=2", "--num_runs=7", "--warmup_runs=3"} <= set(calls["benchmark_model"])
    assert calls["onnxruntime_perf_test"][-1] == place and "-v" in calls["onnxruntime_perf_test"]
    assert "--num_executions=7" in calls["executor_runner"]
