"""Times the encoder on frames of other colors against BGR, and encode_many against one thread: method in README.md.

    python benchmarks/inputs.py [--rounds N] [--output FILE]

Prints ratios and writes the JSON behind them. Needs OpenCV to read and convert frames.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from encoder import HERE, default_sources, machine, make_frames, read_pictures

import edgejpeg
from edgejpeg.profile import Profile, load_profile
from edgejpeg.runtime import Encoder

COLORS = ("bgr", "bgrx", "nv12", "i420", "yuyv", "gray")


def convert(frame: np.ndarray, color: str) -> np.ndarray:
    """A BGR frame in another color, as cameras deliver it."""
    if color == "bgr":
        return frame
    if color == "bgrx":
        return cv2.cvtColor(frame, cv2.COLOR_BGR2BGRA)
    if color == "gray":
        return cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
    i420 = cv2.cvtColor(frame, cv2.COLOR_BGR2YUV_I420)
    if color == "i420":
        return i420
    height, width = frame.shape[:2]
    cb, cr = i420[height:].reshape(2, height // 2, width // 2)
    if color == "nv12":
        return np.concatenate([i420[:height], np.stack([cb, cr], axis=2).reshape(height // 2, width)])
    yuyv = np.empty((height, width, 2), np.uint8)
    yuyv[..., 0] = i420[:height]
    yuyv[:, 0::2, 1], yuyv[:, 1::2, 1] = cb.repeat(2, axis=0), cr.repeat(2, axis=0)
    return yuyv


def ratios(bodies: dict[str, Callable[[], float]], rounds: int, reference: str) -> dict[str, dict[str, float]]:
    """Median over the rounds of the time, and of its ratio to the reference's in the same round, with p10 and p90."""
    for body in bodies.values():
        body()
    times: dict[str, list[float]] = {name: [] for name in bodies}
    for _ in range(rounds):
        for name, body in bodies.items():
            times[name].append(body())
    result = {}
    for name, values in times.items():
        each = [value / other for value, other in zip(values, times[reference], strict=True)]
        low, high = np.percentile(each, [10, 90])
        result[name] = {
            "milliseconds": statistics.median(values),
            "ratio": statistics.median(each),
            "ratio_p10": float(low),
            "ratio_p90": float(high),
        }
    return result


def time_colors(frames: list[np.ndarray], profile: Profile, rounds: int) -> dict[str, dict[str, float]]:
    """Processor time of one frame, from Python, by color."""

    def body(color: str) -> Callable[[], float]:
        encoder = Encoder(profile, "bgr" if color == "gray" else color)
        converted = [convert(frame, color) for frame in frames]

        def timed() -> float:
            start = time.thread_time()
            for frame in converted:
                encoder.encode(frame)
            return 1e3 * (time.thread_time() - start) / len(converted)

        return timed

    return ratios({color: body(color) for color in COLORS}, rounds, "bgr")


def time_workers(frames: list[np.ndarray], profile: Profile, rounds: int) -> dict[str, dict[str, float]]:
    """Wall-clock time of one frame: one after another, and by encode_many."""
    encoder = Encoder(profile)

    def timed(run: Callable[[], Any]) -> Callable[[], float]:
        def body() -> float:
            start = time.perf_counter()
            run()
            return 1e3 * (time.perf_counter() - start) / len(frames)

        return body

    bodies = {"encode": timed(lambda: [encoder.encode(frame) for frame in frames])}
    for workers in (1, 2):
        bodies[f"encode_many, {workers} workers"] = timed(lambda n=workers: list(encoder.encode_many(frames, n)))
    return ratios(bodies, rounds, "encode")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--profile", default="efficientnet_lite0")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "inputs.json")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    profile = load_profile(arguments.profile)
    frames = make_frames(read_pictures(default_sources()), "1080p")
    report = {
        "edgejpeg": edgejpeg.__version__,
        "machine": machine() | {"load": os.getloadavg()[0]},
        "profile": profile.name,
        "rounds": arguments.rounds,
        "colors": time_colors(frames, profile, arguments.rounds),
        "workers": time_workers(frames * 4, profile, max(3, arguments.rounds // 4)),
    }
    for title in ("colors", "workers"):
        print(f"{title}, 1080p {profile.subsampling}")
        for name, row in report[title].items():
            spread = f"{row['ratio_p10']:.2f}-{row['ratio_p90']:.2f}"
            print(f"{name:>22} {row['milliseconds']:>7.3f} ms {row['ratio']:>6.3f} {spread:>10}")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
