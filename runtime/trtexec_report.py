"""Figures of :mod:`edgejpeg.runtime.engine_bench` in trtexec's words, lines and JSON keys, for tools that read them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from edgejpeg.runtime.engine_bench import InferenceSettings, Timing, times
from edgejpeg.runtime.engines.base import LayerTimes, Trace

_METRICS = (
    ("Latency", "latency"),
    ("Enqueue Time", "enqueue"),
    ("H2D Latency", "h2d"),
    ("GPU Compute Time", "compute"),
    ("D2H Latency", "d2h"),
)

AVERAGES_SHOWN = 200
"""Averages at the beginning and at the end of a long trace; trtexec leaves out those between."""


def summary_lines(figures: Mapping[str, Any]) -> list[str]:
    """trtexec's performance summary."""
    lines = ["=== Performance summary ===", f"Throughput: {figures['throughput_qps']:g} qps"]
    for title, key in _METRICS:
        values = figures[key]
        parts = [f"{name} = {values[name]:g} ms" for name in ("min", "max", "mean", "median")]
        parts += [f"percentile({percent}%) = {value:g} ms" for percent, value in values["percentiles"].items()]
        lines.append(f"{title}: {', '.join(parts)}")
    lines.append(f"Total Host Walltime: {figures['host_walltime_s']:g} s")
    lines.append(f"Total GPU Compute Time: {figures['total_compute_s']:g} s")
    return lines + [f"* {warning}" for warning in figures["warnings"]]


def trace_lines(timing: Timing, figures: Mapping[str, Any], settings: InferenceSettings) -> list[str]:
    """trtexec's lines before the summary: how much was measured, and the averages of the trace."""
    runs, values = settings.avg_runs, times(timing.traces)
    averages = []
    for start in range(0, len(timing.traces) - runs + 1, runs):
        part = {key: statistics.fmean(values[key][start : start + runs]) for key in ("compute", "latency", "enqueue")}
        averages.append(
            f"Average on {runs} runs - GPU latency: {part['compute']:g} ms - Host latency: {part['latency']:g} ms "
            f"(enqueue {part['enqueue']:g} ms)"
        )
    if len(averages) > 2 * AVERAGES_SHOWN:
        left_out = len(averages) - 2 * AVERAGES_SHOWN
        averages[AVERAGES_SHOWN:-AVERAGES_SHOWN] = [f"... Omitting {left_out} lines"]
    return [
        f"Warmup completed {timing.warm_up} queries over {settings.warm_up_ms:g} ms",
        f"Timing trace has {len(timing.traces)} queries over {figures['host_walltime_s']:g} s",
        "",
        "=== Trace details ===",
        f"Trace averages of {runs} runs:",
        *averages,
    ]


def exported_times(traces: Sequence[Trace]) -> list[dict[str, float]]:
    """The document of trtexec's ``--exportTimes``: milliseconds, one entry a query."""
    entries = []
    for trace, latency in zip(traces, times(traces)["latency"], strict=True):
        entries.append(
            {
                "startEnqMs": trace.enqueue_start,
                "endEnqMs": trace.enqueue_end,
                "startH2dMs": trace.h2d_start,
                "endH2dMs": trace.h2d_end,
                "startComputeMs": trace.compute_start,
                "endComputeMs": trace.compute_end,
                "startD2hMs": trace.d2h_start,
                "endD2hMs": trace.d2h_end,
                "h2dMs": trace.h2d_end - trace.h2d_start,
                "computeMs": trace.compute_end - trace.compute_start,
                "d2hMs": trace.d2h_end - trace.d2h_start,
                "latencyMs": latency,
            }
        )
    return entries


def exported_profile(layers: Sequence[LayerTimes]) -> list[dict[str, Any]]:
    """The document of trtexec's ``--exportProfile``: the number of inferences, then one entry a layer."""
    total = sum(sum(layer.milliseconds) for layer in layers)
    entries: list[dict[str, Any]] = [{"count": max((len(layer.milliseconds) for layer in layers), default=0)}]
    for layer in layers:
        own = sum(layer.milliseconds)
        if own:
            entries.append(
                {
                    "name": layer.name,
                    "timeMs": own,
                    "averageMs": statistics.fmean(layer.milliseconds),
                    "medianMs": statistics.median(layer.milliseconds),
                    "percentage": 100 * own / total,
                }
            )
    return entries


def profile_lines(layers: Sequence[LayerTimes]) -> list[str]:
    """The table of trtexec's ``--dumpProfile``."""
    count, *entries = exported_profile(layers)
    lines = [
        f"=== Profile ({count['count']} iterations ) ===",
        "   Time(ms)     Avg.(ms)   Median(ms)   Time(%)   Layer",
    ]
    sums = {key: sum(entry[key] for entry in entries) for key in ("timeMs", "averageMs", "medianMs")}
    for entry in [*entries, {"name": "Total", **sums, "percentage": 100.0}]:
        lines.append(
            f"{entry['timeMs']:11.2f}{entry['averageMs']:13.4f}{entry['medianMs']:13.4f}{entry['percentage']:10.1f}   "
            f"{entry['name']}"
        )
    return lines
