"""What the JPEG layer costs a network on ONNX Runtime's CPU: the exported graph with and without it, in turn.

    python benchmarks/layer_cost.py -o benchmarks/results/layer_cost.json

The time of the processor (of the one thread that runs) is reported beside the clock: on a machine with other
work to do the first one says more.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

GOAL = 0.10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--subsamplings", default="420,444")
    parser.add_argument("--turns", type=int, default=60, help="of all graphs, for each batch")
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    document = measure(
        args.model, [int(size) for size in args.batches.split(",")], args.subsamplings.split(","), args.turns
    )
    for row in document["rows"]:
        print(
            f"{row['model']} batch {row['batch']} {row['subsampling']}: {100 * row['cost_cpu']:+.1f} % processor "
            f"time ({row['without_ms_cpu']:.1f} ms without), {100 * row['cost_clock']:+.1f} % clock; goal at most "
            f"{100 * GOAL:.0f} %"
        )
    if args.output:
        args.output.write_text(json.dumps(document, indent=1) + "\n")


def measure(model: str, batches: list[int], subsamplings: list[str], turns: int) -> dict[str, Any]:
    """Rows of costs: a median over the turns of the ratio to the graph without the layer, less one."""
    import numpy as np
    import onnxruntime

    from edgejpeg.export import export_onnx, layer_from_quality
    from edgejpeg.models import create_model
    from edgejpeg.runtime.engines import open_engine

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        loaded = create_model(model, weights="none")
        plain = export_onnx(loaded, Path(folder, "plain"), images=4)
        engines = {None: open_engine(plain.onnx_path)}
        for subsampling in subsamplings:
            result = export_onnx(loaded, Path(folder, subsampling), layer=layer_from_quality(75, subsampling), images=4)
            engines[subsampling] = open_engine(result.onnx_path)
        for batch in batches:
            image = np.random.default_rng(0).random((batch, 3, *loaded.input_size), dtype=np.float32)
            clock: dict[str | None, list[float]] = {name: [] for name in engines}
            processor: dict[str | None, list[float]] = {name: [] for name in engines}
            for turn in range(-2, turns):
                names = list(engines)
                for name in names if turn % 2 else reversed(names):
                    began, worked = time.perf_counter(), time.thread_time()
                    engines[name].run({"image": image})
                    if turn >= 0:
                        clock[name].append(1e3 * (time.perf_counter() - began))
                        processor[name].append(1e3 * (time.thread_time() - worked))
            for name in subsamplings:
                rows.append(
                    {
                        "model": model,
                        "batch": batch,
                        "size": list(loaded.input_size),
                        "subsampling": name,
                        "turns": turns,
                        "cost_cpu": _cost(processor[name], processor[None]),
                        "cost_clock": _cost(clock[name], clock[None]),
                        "cost_cpu_of_minima": min(processor[name]) / min(processor[None]) - 1,
                        "without_ms_cpu": statistics.median(processor[None]),
                        "without_ms_clock": statistics.median(clock[None]),
                        "goal": GOAL,
                    }
                )
    return {
        "benchmark": "layer_cost",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": {
            "processor": _processor(),
            "cpus": os.cpu_count(),
            "load": os.getloadavg()[0],
            "python": platform.python_version(),
        },
        "onnxruntime": onnxruntime.__version__,
        "threads": 1,
        "rows": rows,
    }


def _cost(first: list[float], base: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(first, base, strict=True)) - 1


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    main()
