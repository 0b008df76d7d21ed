"""trtexec's figures, lines and keys, recomputed and parsed; ONNX Runtime's engine behind the same interface."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import re
import stat
import sys
import types

import numpy as np
import pytest

from edgejpeg.errors import InvalidInputError, MissingDependencyError, ModelError
from edgejpeg.runtime import board
from edgejpeg.runtime.engine_bench import (
    InferenceSettings,
    Timing,
    cost,
    measure_engine,
    measure_interleaved,
    summarise,
    times,
)
from edgejpeg.runtime.engines import input_shapes, open_engine, random_feeds
from edgejpeg.runtime.engines.base import LayerTimes, Trace
from edgejpeg.runtime.trtexec_report import (
    exported_profile,
    exported_times,
    profile_lines,
    summary_lines,
    trace_lines,
)

NUMBER = r"(?:[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?)"

# The format of trtexec 10, the time stamps left out.
TRTEXEC = """\
=== Performance summary ===
Throughput: 1111.7 qps
Latency: min = 1.12891 ms, max = 5.26953 ms, mean = 1.17 ms, median = 1.15 ms, percentile(90%) = 1.2 ms, percentile(95%) = 1.25 ms, percentile(99%) = 1.4 ms
Enqueue Time: min = 0.803711 ms, max = 4.93372 ms, mean = 0.818735 ms, median = 0.809937 ms, percentile(90%) = 0.811035 ms, percentile(95%) = 0.811035 ms, percentile(99%) = 0.812012 ms
H2D Latency: min = 0.20 ms, max = 0.25 ms, mean = 0.21 ms, median = 0.21 ms, percentile(90%) = 0.225708 ms, percentile(95%) = 0.227783 ms, percentile(99%) = 0.236572 ms
GPU Compute Time: min = 0.803711 ms, max = 4.93372 ms, mean = 0.818735 ms, median = 0.809937 ms, percentile(90%) = 0.811035 ms, percentile(95%) = 0.811035 ms, percentile(99%) = 0.812012 ms
D2H Latency: min = 0.112061 ms, max = 0.168457 ms, mean = 0.138235 ms, median = 0.142334 ms, percentile(90%) = 0.147095 ms, percentile(95%) = 0.149506 ms, percentile(99%) = 0.15715 ms
Total Host Walltime: 3.00186 s
Total GPU Compute Time: 2.70264 s
* Throughput may be bound by Enqueue Time rather than GPU Compute and the GPU may be under-utilized.
* GPU compute time is unstable, with coefficient of variance = 20.4616%.
"""  # noqa: E501


def parse_summary(text):
    """A trtexec summary as a reader of its logs takes it apart: every line must be understood."""
    lines = text.strip().splitlines()
    assert lines.pop(0) == "=== Performance summary ==="
    fields, warnings = {}, []
    for line in lines:
        if line.startswith("* "):
            warnings.append(line[2:])
            continue
        title, _, rest = line.partition(": ")
        single = re.fullmatch(rf"({NUMBER}) (qps|s)", rest)
        if single:
            fields[title] = {single[2]: float(single[1])}
            continue
        parts = [re.fullmatch(rf"(.+) = ({NUMBER}) ms", part) for part in rest.split(", ")]
        assert all(parts), line
        fields[title] = {part[1]: float(part[2]) for part in parts}
    return fields, warnings


def traces_of(rng, count):
    found, now = [], 0.0
    for _ in range(count):
        steps = np.cumsum(rng.uniform(0.1, 2.0, 4))
        enqueue = rng.uniform(0, 0.3)
        found.append(Trace(now, now + enqueue, now, now + steps[0], now + steps[1], now + steps[2],
                           now + steps[2], now + steps[3]))  # fmt: skip
        now += steps[3]
    return found


def test_summary_has_the_fields_of_trtexec_in_its_order(rng):
    settings = InferenceSettings()
    figures = summarise(Timing(3, traces_of(rng, 50)), settings)
    ours, _ = parse_summary("\n".join(summary_lines(figures)))
    theirs, _ = parse_summary(TRTEXEC)
    assert list(ours) == list(theirs)
    for title, fields in theirs.items():
        assert list(ours[title]) == list(fields), title


@pytest.mark.parametrize("count", [1, 2, 10, 99, 100])
def test_summary_is_the_arithmetic_of_the_traces(rng, count):
    settings = InferenceSettings(percentiles=(0, 50, 90, 99, 100))
    traces = traces_of(rng, count)
    ours, _ = parse_summary("\n".join(summary_lines(summarise(Timing(0, traces), settings))))
    parts = {
        "H2D Latency": [t.h2d_end - t.h2d_start for t in traces],
        "GPU Compute Time": [t.compute_end - t.compute_start for t in traces],
        "D2H Latency": [t.d2h_end - t.d2h_start for t in traces],
        "Enqueue Time": [t.enqueue_end - t.enqueue_start for t in traces],
    }
    parts["Latency"] = [
        sum(row) for row in zip(parts["H2D Latency"], parts["GPU Compute Time"], parts["D2H Latency"], strict=True)
    ]
    for title, values in parts.items():
        assert ours[title]["min"] == pytest.approx(min(values), rel=1e-5)
        assert ours[title]["max"] == pytest.approx(max(values), rel=1e-5)
        assert ours[title]["mean"] == pytest.approx(np.mean(values), rel=1e-5)
        assert ours[title]["median"] == pytest.approx(np.median(values), rel=1e-5)
        for percent in settings.percentiles:
            nearest = np.percentile(values, percent, method="inverted_cdf")
            assert ours[title][f"percentile({percent}%)"] == pytest.approx(nearest, rel=1e-5)
    wall = traces[-1].d2h_end - traces[0].h2d_start
    assert ours["Throughput"]["qps"] == pytest.approx(1e3 * count / wall, rel=1e-5)
    assert ours["Total Host Walltime"]["s"] == pytest.approx(wall / 1e3, rel=1e-5)
    assert ours["Total GPU Compute Time"]["s"] == pytest.approx(sum(parts["GPU Compute Time"]) / 1e3, rel=1e-5)


def constant(enqueue=0.0, h2d=0.1, compute=1.0, d2h=0.1, count=20):
    return [
        Trace(i, i + enqueue, i, i + h2d, i + h2d, i + h2d + compute, i + h2d + compute, i + h2d + compute + d2h)
        for i in (10.0 * index for index in range(count))
    ]


@pytest.mark.parametrize(
    ("traces", "words"),
    [
        (constant(), []),
        (constant(enqueue=0.79), []),
        (constant(enqueue=0.81), ["bound by Enqueue Time"]),
        (constant(h2d=1.01), ["bound by host-to-device transfers"]),
        (constant(d2h=1.01), ["bound by device-to-host transfers"]),
        (constant(count=19) + constant(compute=1.2, count=1), ["coefficient of variance = 4."]),
        (constant(h2d=0, d2h=0, compute=1), []),
    ],
)
def test_warnings_of_trtexec(traces, words):
    _, warnings = parse_summary("\n".join(summary_lines(summarise(Timing(0, traces), InferenceSettings()))))
    assert len(warnings) == len(words)
    for warning, word in zip(warnings, words, strict=True):
        assert word in warning


def test_thresholds_of_the_two_versions():
    traces = constant(count=10) + constant(compute=1.034, count=10)  # a variation of 1.67 %
    for version, warned in ((10, True), (11, False)):
        figures = summarise(Timing(0, traces), InferenceSettings(trtexec=version))
        assert any("unstable" in text for text in figures["warnings"]) == warned
    streams = summarise(Timing(0, constant()), InferenceSettings(streams=2))["warnings"]
    assert len(streams) == 1 and "Multiple inference streams" in streams[0]


def test_exported_times_have_the_keys_of_trtexec(rng):
    traces = traces_of(rng, 5)
    document = json.loads(json.dumps(exported_times(traces)))
    keys = ("startEnqMs endEnqMs startH2dMs endH2dMs startComputeMs endComputeMs startD2hMs endD2hMs h2dMs computeMs "
            "d2hMs latencyMs")  # fmt: skip
    for entry in document:
        assert list(entry) == keys.split()
        assert entry["h2dMs"] == pytest.approx(entry["endH2dMs"] - entry["startH2dMs"])
        assert entry["latencyMs"] == pytest.approx(entry["h2dMs"] + entry["computeMs"] + entry["d2hMs"])


def test_profile_is_trtexecs_table_and_document():
    layers = [LayerTimes("JpegLayer/levels", [1.0, 3.0]), LayerTimes("never", [0.0, 0.0]), LayerTimes("fc", [4.0, 4.0])]
    count, *entries = exported_profile(layers)
    assert count == {"count": 2}
    assert entries == [
        {
            "name": "JpegLayer/levels",
            "timeMs": 4.0,
            "averageMs": 2.0,
            "medianMs": 2.0,
            "percentage": pytest.approx(100 / 3),
        },
        {"name": "fc", "timeMs": 8.0, "averageMs": 4.0, "medianMs": 4.0, "percentage": pytest.approx(200 / 3)},
    ]
    head, columns, *rows = profile_lines(layers)
    assert head == "=== Profile (2 iterations ) ==="
    assert columns.split() == ["Time(ms)", "Avg.(ms)", "Median(ms)", "Time(%)", "Layer"]
    assert [row.split() for row in rows][-1] == ["12.00", "6.0000", "6.0000", "100.0", "Total"]
    assert rows[0].split() == ["4.00", "2.0000", "2.0000", "33.3", "JpegLayer/levels"]


def test_trace_averages(rng):
    traces, settings = traces_of(rng, 25), InferenceSettings(avg_runs=10)
    timing = Timing(7, traces)
    lines = trace_lines(timing, summarise(timing, settings), settings)
    assert lines[0] == "Warmup completed 7 queries over 200 ms"
    assert lines[1].startswith("Timing trace has 25 queries over ")
    averages = [line for line in lines if line.startswith("Average on 10 runs - GPU latency: ")]
    assert len(averages) == 2
    second = float(re.search(rf"Host latency: ({NUMBER}) ms", averages[1])[1])
    assert second == pytest.approx(np.mean(times(traces)["latency"][10:20]), rel=1e-5)
    long = Timing(0, constant(count=500))
    settings = InferenceSettings(avg_runs=1)
    lines = trace_lines(long, summarise(long, settings), settings)
    assert "... Omitting 100 lines" in lines and len(lines) == 5 + 401


@pytest.mark.parametrize(
    "changed",
    [{"warm_up_ms": -1}, {"duration_s": math.inf}, {"iterations": 0}, {"streams": 0}, {"percentiles": (101,)},
     {"trtexec": 9}, {"avg_runs": 0}],
)  # fmt: skip
def test_settings_outside_what_is_allowed(changed):
    with pytest.raises(InvalidInputError):
        InferenceSettings(**changed)


# ONNX Runtime.


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory):
    onnx = pytest.importorskip("onnx", reason="onnx, which makes the graph, is not installed")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("Relu", ["image"], ["r"], name="body/Relu"),
         helper.make_node("ReduceMean", ["r"], ["logits"], name="head/Mean", axes=[2, 3], keepdims=0)],
        "g",
        [helper.make_tensor_value_info("image", kind, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", kind, ["N", 3])],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path_factory.mktemp("onnx") / "mean.onnx"
    onnx.save(model, path)
    return path


def test_onnx_runtime_behind_the_interface(onnx_file, rng):
    engine = open_engine(onnx_file)
    image = rng.standard_normal((4, 3, 8, 8)).astype(np.float32)
    (found,) = engine.run({"image": image})
    np.testing.assert_allclose(found, np.maximum(image, 0).mean(axis=(2, 3)), atol=1e-6)
    assert engine.describe()["providers"] == ["CPUExecutionProvider"] and engine.describe()["device"] == "CPU"
    assert input_shapes(engine) == {"image": (1, 3, 8, 8)}
    assert input_shapes(engine, {"image": [8, 3, 8, 8]}) == {"image": (8, 3, 8, 8)}
    with pytest.raises(InvalidInputError, match=r"no input 'data'; its inputs are image"):
        input_shapes(engine, {"data": [1]})
    assert random_feeds(engine, {"image": (2, 3, 8, 8)})["image"].shape == (2, 3, 8, 8)


def test_onnx_runtime_takes_pytorchs_arrays_as_they_are(onnx_file):
    torch = pytest.importorskip("torch")
    engine = open_engine(onnx_file)
    image = torch.rand(2, 3, 8, 8)
    np.testing.assert_allclose(engine.run({"image": image.numpy()})[0], image.mean(dim=(2, 3)).numpy(), atol=1e-6)
    gpu = types.SimpleNamespace(__cuda_array_interface__={"shape": (1, 3, 8, 8)})
    with pytest.raises(InvalidInputError, match=r"runs on CPUExecutionProvider, and an input is an array on a GPU"):
        engine.run({"image": gpu})


@pytest.mark.parametrize("streams", [1, 3])
def test_measurement_on_the_cpu(onnx_file, streams):
    engine = open_engine(onnx_file)
    feeds = random_feeds(engine, {"image": (2, 3, 8, 8)})
    settings = InferenceSettings(5, 0.02, 7, streams=streams)
    timing = measure_engine(engine, feeds, settings)
    figures = summarise(timing, settings)
    assert figures["queries"] >= 7 * streams and (timing.warm_up > 0 or streams > 1)
    assert min(trace.compute_start for trace in timing.traces) >= 5
    assert timing.traces[-1].d2h_end >= 25
    assert figures["enqueue"]["max"] == figures["h2d"]["max"] == figures["d2h"]["max"] == 0
    assert figures["latency"] == figures["compute"]


def test_interleaved_measurement_pairs_its_turns(onnx_file):
    engines = [open_engine(onnx_file), open_engine(onnx_file)]
    feeds = [random_feeds(engine, {"image": (1, 3, 8, 8)}) for engine in engines]
    first, second = measure_interleaved(engines, feeds, InferenceSettings(2, 0.02, 5))
    assert len(first.traces) == len(second.traces) >= 5 and first.warm_up == second.warm_up
    result = cost(first, second)
    assert result["low"] <= result["ratio"] <= result["high"]


def test_cost_is_the_median_of_paired_ratios():
    base = constant(compute=1.0, h2d=0, d2h=0, count=99)
    more = constant(compute=1.1, h2d=0, d2h=0, count=99)
    assert cost(Timing(0, more), Timing(0, base)) == pytest.approx(
        {"ratio": 1.1, "low": 1.1, "high": 1.1, "median_ms": 0.1}
    )


def test_layers_by_onnx_runtimes_profiler(onnx_file):
    engine = open_engine(onnx_file)
    layers = engine.profile(random_feeds(engine, {"image": (1, 3, 8, 8)}), 5)
    assert [layer.name for layer in layers] == ["body/Relu (Relu)", "head/Mean (ReduceMean)"]
    assert all(len(layer.milliseconds) == 5 for layer in layers)


def test_a_provider_that_is_not_there_is_an_error(onnx_file):
    onnxruntime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(ModelError, match=r"CUDAExecutionProvider is not in this onnxruntime .*available: .*CPU"):
        open_engine(onnx_file, providers=["cuda", "cpu"])


def test_a_session_that_fell_back_is_an_error(onnx_file, monkeypatch):
    onnxruntime = pytest.importorskip("onnxruntime")
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    plain = onnxruntime.InferenceSession

    def falls_back(path, options, providers, provider_options):
        assert provider_options == [{"device_id": "1"}]
        return plain(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", falls_back)
    with pytest.raises(ModelError, match=r"was to run on CUDA.*, but onnxruntime chose CPUExecutionProvider"):
        open_engine(onnx_file, providers=["cuda"], device=1)


def test_two_distributions_of_onnxruntime(onnx_file, monkeypatch):
    plain = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.0" if name == "onnxruntime-gpu" else plain(name))
    with pytest.raises(MissingDependencyError, match="overwrite each other's files; keep one"):
        open_engine(onnx_file)


def test_broken_onnx_files(tmp_path):
    pytest.importorskip("onnxruntime")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"\x08\x09garbage")
    with pytest.raises(ModelError, match="cannot be loaded by onnxruntime"):
        open_engine(broken)
    with pytest.raises(ModelError, match="no ONNX file at"):
        open_engine(tmp_path / "none.onnx")


# Power and clocks.


def test_the_cpu_tells_nothing():
    with board.BoardMonitor(None) as monitor:
        pass
    assert monitor.report(3) == {"available": False, "why": "measured on the CPU"}


def test_a_board_without_anyone_to_ask(monkeypatch):
    monkeypatch.setattr(board.shutil, "which", lambda name: None)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with board.BoardMonitor(0) as monitor:
        pass
    assert "nvidia-ml-py" in monitor.report()["why"]


def test_nvml(monkeypatch):
    class NVMLError(Exception):
        pass

    def unsupported(*_):
        raise NVMLError("Not Supported")

    nvml = types.SimpleNamespace(
        NVMLError=NVMLError, NVML_CLOCK_SM=1, NVML_CLOCK_MEM=2, NVML_TEMPERATURE_GPU=0, nvmlInit=lambda: None,
        nvmlShutdown=lambda: None, nvmlDeviceGetHandleByIndex=lambda index: index + 7,
        nvmlDeviceGetPowerUsage=lambda handle: 25_000 if handle == 9 else 0,
        nvmlDeviceGetClockInfo=lambda handle, kind: 1000 * kind, nvmlDeviceGetTemperature=unsupported,
    )  # fmt: skip
    monkeypatch.setattr(board.shutil, "which", lambda name: None)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    with board.BoardMonitor(2) as monitor:
        pass
    monitor._seconds = 2.0
    report = monitor.report(queries=100)
    assert report["source"] == "nvml" and report["power_w"] == 25 and "temperature_c" not in report
    assert (report["gpu_clock_mhz"], report["memory_clock_mhz"]) == (1000, 2000)
    assert report["joules_per_query"] == pytest.approx(0.5)


LINE = (
    "11-23-2026 01:02:03 RAM 3210/7620MB (lfb 4x4MB) SWAP 0/3810MB CPU [12%@1510,off] GR3D_FREQ 45%@[918] cpu@48.5C "
    "gpu@47.25C VDD_IN 7012mW/6900mW VDD_CPU_GPU_CV 2120mW/2000mW VDD_SOC 1500mW/1500mW"
)


def test_tegrastats(tmp_path, monkeypatch):
    assert board.parse_tegrastats(LINE) == {"power_w": 7.012, "gpu_clock_mhz": 918.0, "temperature_c": 47.25}
    assert board.parse_tegrastats("RAM 1/2MB POM_5V_IN 4321/4000 GPU@40C") == {"power_w": 4.321, "temperature_c": 40.0}
    assert board.parse_tegrastats("nothing") == {}
    for name, text in (
        ("tegrastats", f"while true; do echo '{LINE}'; sleep 0.01; done"),
        ("nvpmodel", "echo 'NV Power Mode: MAXN'"),
    ):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with board.BoardMonitor(0) as monitor:
        for _ in range(200):
            if monitor._samples:
                break
            board.time.sleep(0.01)
    report = monitor.report(queries=10)
    assert report["source"] == "tegrastats" and report["power_mode"] == "MAXN" and report["power_w"] == 7.012
