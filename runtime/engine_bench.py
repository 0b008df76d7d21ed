"""Times engines in the terms of TensorRT's trtexec.

>>> from edgejpeg.runtime.engine_bench import InferenceSettings, measure_engine, summarise
>>> traces = measure_engine(engine, feeds, InferenceSettings())
>>> summarise(traces, InferenceSettings())["latency"]["median"]

A query is one inference of one batch. As in trtexec, queries count after the warm-up, latency is the sum of transfers
and compute, and throughput is the number of queries over the host's time for all of them.
"""

from __future__ import annotations

import math
import statistics
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from edgejpeg.errors import InvalidInputError
from edgejpeg.runtime.bench import DURATION_S, ITERATIONS, PERCENTILES, WARM_UP_MS, percentile
from edgejpeg.runtime.engines.base import Engine, Query, Trace

Feeds = Mapping[str, npt.NDArray[Any]]

AVG_RUNS = 10

TRTEXEC_DEFAULTS = {
    10: {"transfers": True, "graph": False, "spin": False},
    11: {"transfers": False, "graph": True, "spin": True},
}
"""What trtexec does when nothing is said, by its major version."""

ENQUEUE_BOUND = 0.8
"""Enqueue time over compute time, medians, from which on trtexec warns."""

UNSTABLE_PERCENT = {10: 1.0, 11: 2.5}
"""Coefficient of variation of the compute time from which on trtexec warns."""


@dataclass(frozen=True)
class InferenceSettings:
    """How to measure, in trtexec's terms and with its defaults.

    Attributes:
        warm_up_ms: milliseconds whose queries do not count.
        duration_s: seconds of measurement at least.
        iterations: queries at least, of each stream.
        avg_runs: queries in one of the averages of the trace.
        percentiles: of the times to report, 0 to 100.
        streams: inferences at once.
        transfers: copy inputs and outputs in every query.
        graph: launch a CUDA graph.
        spin: wait by spinning.
        trtexec: the version whose defaults and thresholds these are, 10 or 11.

    Raises:
        InvalidInputError: a number outside what is allowed.
    """

    warm_up_ms: float = WARM_UP_MS
    duration_s: float = DURATION_S
    iterations: int = ITERATIONS
    avg_runs: int = AVG_RUNS
    percentiles: tuple[float, ...] = PERCENTILES
    streams: int = 1
    transfers: bool = True
    graph: bool = False
    spin: bool = False
    trtexec: int = 10

    def __post_init__(self) -> None:
        for name in ("warm_up_ms", "duration_s"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InvalidInputError(f"{name} is {getattr(self, name)}; it is a finite number from 0 on")
        for name in ("iterations", "avg_runs", "streams"):
            if getattr(self, name) < 1:
                raise InvalidInputError(f"{name} is {getattr(self, name)}; it is at least 1")
        for value in self.percentiles:
            if not 0 <= value <= 100:
                raise InvalidInputError(f"percentile {value} is outside 0 to 100")
        if self.trtexec not in TRTEXEC_DEFAULTS:
            raise InvalidInputError(f"trtexec's defaults are those of version 10 or 11; got {self.trtexec}")


@dataclass(frozen=True)
class Timing:
    """The traces of a measurement.

    Attributes:
        warm_up: queries before the measurement.
        traces: of those that count, in the order in which they ended.
    """

    warm_up: int
    traces: list[Trace]


def measure_engine(engine: Engine, feeds: Feeds, settings: InferenceSettings) -> Timing:
    """Run an engine on the same input again and again.

    An engine with a queue is given the next query while it works on the last one, as trtexec does. A synchronous one
    runs in as many threads as there are streams.

    Raises:
        EdgeJpegError: of the engine.
    """
    rows = _queries([engine], [feeds], settings, depth=1 if engine.synchronous else 2)[0]
    try:
        engine.start_clock()
        if engine.synchronous and len(rows) > 1:
            return _counted([_threaded(rows, settings)], settings)[0]
        return _counted([_pipelined(rows, settings)], settings)[0]
    finally:
        _close([rows])


def measure_interleaved(engines: Sequence[Engine], feeds: Sequence[Feeds], settings: InferenceSettings) -> list[Timing]:
    """Run engines in turn, one query each, so that what disturbs the machine disturbs all of them.

    Every query is waited for before the next engine's begins; the order is reversed at every other turn.

    Returns:
        Of each engine as many traces as of the others; those at the same place belong to the same turn.
    """
    made = _queries(engines, feeds, settings, depth=1)
    try:
        queries = [rows[0][0] for rows in made]
        for engine in engines:
            engine.start_clock()
        found: list[list[Trace]] = [[] for _ in engines]
        turn, counted, last = 0, 0, 0.0
        while counted < settings.iterations or last < settings.warm_up_ms + 1e3 * settings.duration_s:
            order = range(len(queries)) if turn % 2 == 0 else range(len(queries) - 1, -1, -1)
            for index in order:
                queries[index].enqueue()
                found[index].append(queries[index].wait())
            last = found[0][-1].d2h_end
            counted += min(traces[-1].compute_start for traces in found) >= settings.warm_up_ms
            turn += 1
        # A turn counts for all of the engines or for none.
        first = next(i for i in range(turn) if min(t[i].compute_start for t in found) >= settings.warm_up_ms)
        return [Timing(first, traces[first:]) for traces in found]
    finally:
        _close(made)


def _queries(
    engines: Sequence[Engine], feeds: Sequence[Feeds], settings: InferenceSettings, depth: int
) -> list[list[list[Query]]]:
    made: list[list[list[Query]]] = []
    try:
        for engine, feed in zip(engines, feeds, strict=True):
            made.append(
                engine.queries(
                    feed,
                    streams=settings.streams,
                    depth=depth,
                    transfers=settings.transfers,
                    graph=settings.graph,
                    spin=settings.spin,
                )
            )
    except BaseException:
        _close(made)
        raise
    return made


def _close(made: Sequence[Sequence[Sequence[Query]]]) -> None:
    for rows in made:
        for row in rows:
            for query in row:
                query.close()


def _enough(traces: list[Trace], counted: int, wanted: int, settings: InferenceSettings) -> bool:
    ended = bool(traces) and traces[-1].d2h_end >= settings.warm_up_ms + 1e3 * settings.duration_s
    return ended and counted >= wanted


def _pipelined(rows: list[list[Query]], settings: InferenceSettings) -> list[Trace]:
    traces: list[Trace] = []
    depth, turn, counted = len(rows[0]), 0, 0
    in_flight: list[list[Query]] = [[] for _ in rows]

    def take(waiting: list[Query]) -> None:
        nonlocal counted
        traces.append(waiting.pop(0).wait())
        counted += traces[-1].compute_start >= settings.warm_up_ms

    while not _enough(traces, counted, settings.iterations * len(rows), settings):
        for row, waiting in zip(rows, in_flight, strict=True):
            if len(waiting) == depth:
                take(waiting)
            query = row[turn % depth]
            query.enqueue()
            waiting.append(query)
            if depth == 1:
                take(waiting)
        turn += 1
    for waiting in in_flight:
        while waiting:
            take(waiting)
    return traces


def _threaded(rows: list[list[Query]], settings: InferenceSettings) -> list[Trace]:
    found: list[list[Trace]] = [[] for _ in rows]
    failures: list[BaseException] = []

    def work(row: list[Query], traces: list[Trace]) -> None:
        try:
            traces += _pipelined([row], settings)
        except BaseException as error:  # is raised again in the thread that started this one
            failures.append(error)

    threads = [threading.Thread(target=work, args=pair) for pair in zip(rows, found, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return sorted((trace for traces in found for trace in traces), key=lambda trace: trace.d2h_end)


def _counted(found: Sequence[list[Trace]], settings: InferenceSettings) -> list[Timing]:
    timings = []
    for traces in found:
        counted = [trace for trace in traces if trace.compute_start >= settings.warm_up_ms]
        timings.append(Timing(len(traces) - len(counted), counted))
    return timings


def times(traces: Sequence[Trace]) -> dict[str, list[float]]:
    """Milliseconds by trtexec's metrics: ``latency``, ``enqueue``, ``h2d``, ``compute``, ``d2h``."""
    h2d = [trace.h2d_end - trace.h2d_start for trace in traces]
    compute = [trace.compute_end - trace.compute_start for trace in traces]
    d2h = [trace.d2h_end - trace.d2h_start for trace in traces]
    return {
        "latency": [sum(parts) for parts in zip(h2d, compute, d2h, strict=True)],
        "enqueue": [trace.enqueue_end - trace.enqueue_start for trace in traces],
        "h2d": h2d,
        "compute": compute,
        "d2h": d2h,
    }


def statistics_of(values: Sequence[float], percentiles: Sequence[float]) -> dict[str, Any]:
    """``min``, ``max``, ``mean``, ``median``, ``percentiles`` (nearest rank) and ``variation_percent`` of times."""
    mean = statistics.fmean(values)
    return {
        "min": min(values),
        "max": max(values),
        "mean": mean,
        "median": statistics.median(values),
        "percentiles": {f"{percent:g}": percentile(values, percent) for percent in percentiles},
        "variation_percent": 100 * statistics.pstdev(values) / mean if mean else 0.0,
    }


def summarise(timing: Timing, settings: InferenceSettings, *, interleaved: bool = False) -> dict[str, Any]:
    """trtexec's figures of a measurement, for JSON. Of an interleaved one, the host's time is that of its own queries.

    Returns:
        ``queries``, ``warmup_queries``, ``throughput_qps``, ``host_walltime_s``, ``total_compute_s``, for each metric
        of :func:`times` what :func:`statistics_of` gives, in milliseconds, and ``warnings``.
    """
    traces = timing.traces
    if interleaved:
        wall = sum(trace.d2h_end - trace.h2d_start for trace in traces)
    else:
        wall = max(trace.d2h_end for trace in traces) - min(trace.h2d_start for trace in traces)
    figures: dict[str, Any] = {
        "queries": len(traces),
        "warmup_queries": timing.warm_up,
        "throughput_qps": 1e3 * len(traces) / wall,
        "host_walltime_s": wall / 1e3,
    }
    for name, values in times(traces).items():
        figures[name] = statistics_of(values, settings.percentiles)
    figures["total_compute_s"] = figures["compute"]["mean"] * len(traces) / 1e3
    figures["warnings"] = _warnings(figures, settings)
    return figures


def _warnings(figures: Mapping[str, Any], settings: InferenceSettings) -> list[str]:
    """trtexec's warnings; each is its first line, and what to do about it."""
    compute = figures["compute"]
    found = []
    if figures["enqueue"]["median"] > ENQUEUE_BOUND * compute["median"]:
        found.append(
            "Throughput may be bound by Enqueue Time rather than GPU Compute and the GPU may be under-utilized."
            + ("" if settings.graph else " Leave out --noCudaGraph, or add --useCudaGraph.")
        )
    for key, what in (
        ("h2d", "host-to-device transfers for the inputs"),
        ("d2h", "device-to-host transfers for the outputs"),
    ):
        if figures[key]["median"] and figures[key]["median"] >= compute["median"]:
            found.append(
                f"Throughput may be bound by {what} rather than GPU Compute and the GPU may be under-utilized. "
                "--noDataTransfers measures without them."
            )
    if compute["variation_percent"] > UNSTABLE_PERCENT[settings.trtexec]:
        found.append(
            f"GPU compute time is unstable, with coefficient of variance = {compute['variation_percent']:g}%. "
            "Lock the clocks, end other programs, or measure for longer."
        )
    if settings.streams > 1:
        found.append(
            "Multiple inference streams are used. Latencies may not be accurate since inferences may run in parallel: "
            "look at the throughput."
        )
    return found


def cost(with_layer: Timing, without: Timing) -> dict[str, float]:
    """What the first engine's latency is over the second's, from :func:`measure_interleaved`.

    Returns:
        ``ratio``: the median over the turns of the ratio of latencies; ``low`` and ``high``: the ends of its 95 %
        interval (order statistics); ``median_ms``: the difference of the median latencies.
    """
    first, second = times(with_layer.traces)["latency"], times(without.traces)["latency"]
    ratios = sorted(a / b for a, b in zip(first, second, strict=True))
    half = 1.96 * math.sqrt(len(ratios)) / 2
    low = max(math.floor(len(ratios) / 2 - half), 0)
    high = min(math.ceil(len(ratios) / 2 + half), len(ratios) - 1)
    return {
        "ratio": statistics.median(ratios),
        "low": ratios[low],
        "high": ratios[high],
        "median_ms": statistics.median(first) - statistics.median(second),
    }
