"""Bytes at equal sensitivity-weighted error: dead zones, end-of-block trimming and the trellis against plain rounding.

For every frame the OptS tables of a profile are designed at a range of water levels, and the same coefficients are
quantised by each method. A method's bytes are read off its own curve at the SWE [OptS eq. 10] of plain rounding, in
logarithms, and divided by those of plain rounding with the standard Huffman tables. Bytes are the codes' lengths and
the headers, without the bytes stuffed behind 0xFF, which are alike for all methods. Equal SWE is not equal accuracy:
networks notice zeroing more than SWE says.

    python benchmarks/quantisation.py --images kodak/ --video clip.mp4 --json benchmarks/results/quantisation.json
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from ctypes import CDLL
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgejpeg.design import block_statistics, design_tables, raw_water_level
from edgejpeg.jpeg import huffman
from edgejpeg.jpeg.huffman import HuffmanTable
from edgejpeg.jpeg.reference import component_blocks, quantize
from edgejpeg.jpeg.tables import QuantTable
from edgejpeg.jpeg.trellis import code_lengths
from edgejpeg.jpeg.zigzag import ZIGZAG, to_zigzag
from edgejpeg.profile import Profile, load_profile
from edgejpeg.runtime.frames import open_source

WATER_LEVELS = np.geomspace(0.05, 25.6, 10)
REFERENCE_BPP = (0.35, 3.0)  # where plain rounding with standard Huffman tables is compared
DEAD_ZONES = (0.6, 0.7, 0.8)
MULTIPLIERS = (1.0, 1.5, 2.0, 3.0)  # lambda over the water level, both raw
STANDARD = (
    (huffman.STANDARD_DC_LUMA, huffman.STANDARD_AC_LUMA),
    (huffman.STANDARD_DC_CHROMA, huffman.STANDARD_AC_CHROMA),
)
HEADER_BYTES, TABLE_BYTES = 193, 21  # all segments but DHT; a Huffman table without its symbols

Levels = list[NDArray[np.int16]]  # per component (blocks, 64), zigzag, in scan order
Pairs = list[tuple[HuffmanTable, HuffmanTable]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=Path, help="a folder of images")
    parser.add_argument("--video", type=Path, action="append", default=[], help="a video; give it again for more")
    parser.add_argument("--frames", type=int, default=3, help="frames of each video, evenly spread")
    parser.add_argument("--profile", default="efficientnet_lite0", help="an adaptive 4:2:0 profile")
    parser.add_argument("--json", type=Path, help="where to write the results")
    args = parser.parse_args()
    profile, hooks = load_profile(args.profile), load_hooks()
    groups: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    clocks: list[tuple[float, float]] = []
    for group, name, image in frames(args):
        ratios, clock = compare(image, profile, hooks)
        clocks.append(clock)
        for method, values in ratios.items():
            groups[group][method] += values
        best = min(ratios, key=lambda method: float(np.mean(ratios[method])))
        print(f"{group} {name}: best {best} {np.mean(ratios[best]):.3f}", flush=True)
    results = {group: summary(methods) for group, methods in groups.items()}
    results["all"] = summary(merge(groups.values()))
    for group, methods in results.items():
        print(f"\n{group}: bytes at equal SWE over plain rounding with standard Huffman tables (mean, worst, best)")
        for method, entry in methods.items():
            print(f"  {method:28s} {entry['mean']:.3f}  {entry['worst']:.3f}  {entry['best']:.3f}")
    nanoseconds = {name: round(float(np.mean([c[i] for c in clocks])), 1) for i, name in enumerate(("trellis", "trim"))}
    print("\nns a block:", nanoseconds)
    if args.json:
        document = {
            "benchmark": "quantisation",
            "machine": {"processor": platform.processor() or platform.machine(), "python": platform.python_version()},
            "profile": {"name": profile.name, "id": profile.profile_id},
            "water_levels": [float(d) for d in WATER_LEVELS],
            "reference_bpp": REFERENCE_BPP,
            "frames": len(clocks),
            "nanoseconds_per_block": nanoseconds,
            "results": results,
        }
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def load_hooks() -> CDLL:
    """The compiled single stages, built in a temporary folder."""
    path = Path(__file__).resolve().parent.parent / "runtime" / "native" / "testing" / "hooks.py"
    spec = importlib.util.spec_from_file_location("native_hooks", path)
    assert spec is not None
    assert spec.loader is not None
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    with tempfile.TemporaryDirectory() as folder:
        library: CDLL = hooks.load_hooks(Path(folder))
    return library


def frames(args: argparse.Namespace) -> Iterator[tuple[str, str, NDArray[np.uint8]]]:
    """(group, name, RGB cropped to whole MCUs)."""

    def crop(bgr: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.ascontiguousarray(bgr[: bgr.shape[0] // 16 * 16, : bgr.shape[1] // 16 * 16, ::-1])

    if args.images:
        with open_source(str(args.images)) as source:
            for frame in source:
                yield "images", frame.name, crop(frame.image)
    for path in args.video:
        with open_source(str(path)) as source:
            every = max((source.total or 1) // args.frames, 1)
        with open_source(str(path), every=every) as source:
            for _, frame in zip(range(args.frames), source, strict=False):
                yield "videos", frame.name, crop(frame.image)


def compare(
    image: NDArray[np.uint8], profile: Profile, hooks: CDLL
) -> tuple[dict[str, list[float]], tuple[float, float]]:
    """For each method its bytes over the reference's at the SWE of the reference, one number per water level."""
    assert profile.sensitivity is not None
    sensitivity = profile.sensitivity
    blocks = component_blocks(image, "420")
    statistics = block_statistics(blocks)
    planes = [scan_order(block, 2 if index == 0 else 1).astype(np.float32) for index, block in enumerate(blocks)]
    curves: dict[str, list[tuple[float, float]]] = defaultdict(list)
    clock = {"trellis": 0.0, "trim": 0.0}
    decided = 0
    for level in WATER_LEVELS:
        tables = list(design_tables(sensitivity, statistics, float(level), profile.q_max))
        raw = raw_water_level(float(level), sensitivity)

        def add(name: str, levels: Levels, tables: list[QuantTable] = tables) -> Pairs:
            error = swe(planes, levels, tables, sensitivity)
            best = optimal(levels)
            curves[f"{name}, standard Huffman"].append((error, size(levels, list(STANDARD), 432)))
            curves[f"{name}, optimal Huffman"].append((error, size(levels, best, dht_bytes(best))))
            return best

        rounded = quantized(planes, tables, None)
        best = add("rounding", rounded)
        for threshold in DEAD_ZONES:
            add(f"dead zone {threshold}", quantized(planes, tables, threshold))
        for multiplier in MULTIPLIERS:
            for name, trim in (("trim", True), ("trellis", False)):
                decide = partial(trellis, hooks, planes, rounded, tables, sensitivity, multiplier * raw, trim)
                # With the code lengths of the tables that the file will have, as far as they are known.
                levels, seconds = decide(list(STANDARD))
                clock[name] += seconds
                method = f"{name} {multiplier:g}"
                error = swe(planes, levels, tables, sensitivity)
                curves[f"{method}, standard Huffman"].append((error, size(levels, list(STANDARD), 432)))
                pairs = best
                for method_round in (method, f"{method} twice"):
                    levels, _ = decide(pairs)
                    pairs = optimal(levels)
                    error = swe(planes, levels, tables, sensitivity)
                    curves[f"{method_round}, optimal Huffman"].append((error, size(levels, pairs, dht_bytes(pairs))))
        decided += len(MULTIPLIERS) * sum(map(len, rounded))
    reference = np.log(np.array(curves["rounding, standard Huffman"]))
    bpp = np.exp(reference[:, 1]) * 8 / (image.shape[0] * image.shape[1])
    wanted = (bpp >= REFERENCE_BPP[0]) & (bpp <= REFERENCE_BPP[1])
    ratios = {}
    for method, curve in curves.items():
        points = np.log(np.array(curve))
        inside = wanted & (reference[:, 0] >= points[0, 0]) & (reference[:, 0] <= points[-1, 0])
        at = np.interp(reference[inside, 0], points[:, 0], points[:, 1])
        ratios[method] = np.exp(at - reference[inside, 1]).tolist()
    per_block = 1e9 / max(decided, 1)
    return ratios, (clock["trellis"] * per_block, clock["trim"] * per_block)


def scan_order(blocks: NDArray[np.float64], sampling: int) -> NDArray[np.float64]:
    """``(rows, columns, 8, 8)`` as ``(blocks, 8, 8)`` in the order of the scan; whole MCUs of sampling x sampling."""
    rows, columns = blocks.shape[:2]
    split = blocks.reshape(rows // sampling, sampling, columns // sampling, sampling, 8, 8)
    return np.ascontiguousarray(split.transpose(0, 2, 1, 3, 4, 5).reshape(-1, 8, 8))


def quantized(planes: list[NDArray[np.float32]], tables: list[QuantTable], threshold: float | None) -> Levels:
    zone = None
    if threshold is not None:
        zone = np.full((8, 8), threshold)
        zone[0, 0] = 0.5
    levels = [quantize(plane.astype(np.float64), tables[min(i, 1)], zone) for i, plane in enumerate(planes)]
    return [np.ascontiguousarray(to_zigzag(level).reshape(-1, 64), dtype=np.int16) for level in levels]


def trellis(
    hooks: CDLL,
    planes: list[NDArray[np.float32]],
    rounded: Levels,
    tables: list[QuantTable],
    sensitivity: NDArray[np.float64],
    lagrangian: float,
    trim: bool,
    pairs: Pairs,
) -> tuple[Levels, float]:
    result, seconds = [level.copy() for level in rounded], 0.0
    for component, (plane, level) in enumerate(zip(planes, result, strict=True)):
        slot = min(component, 1)
        arguments = (
            tables[slot].array.astype(np.float64),
            np.ascontiguousarray(sensitivity[component]),
            ZIGZAG.astype(np.uint8),
            code_lengths(pairs[slot][1]),
            lagrangian,
            trim,
            level,
        )
        start = time.perf_counter()
        hooks.hook_trellis(plane.ctypes.data, True, len(plane), *arguments)
        seconds += time.perf_counter() - start
    return result, seconds


def swe(
    planes: list[NDArray[np.float32]], levels: Levels, tables: list[QuantTable], sensitivity: NDArray[np.float64]
) -> float:
    """Sum of s (C - q K)^2 over the frame."""
    total = 0.0
    for component, (plane, level) in enumerate(zip(planes, levels, strict=True)):
        error = to_zigzag(plane).reshape(-1, 64) - tables[min(component, 1)].zigzag().astype(np.float64) * level
        total += float(to_zigzag(sensitivity[component]) @ np.einsum("bk,bk->k", error, error))
    return total


def symbol_counts(levels: Levels) -> tuple[list[list[NDArray[np.int64]]], int]:
    """How often each symbol occurs, [slot][DC, AC] of 256, and the number of value bits."""
    counts = [[np.zeros(256, np.int64), np.zeros(256, np.int64)] for _ in range(2)]
    value_bits = 0
    for component, level in enumerate(levels):
        dc, ac = counts[min(component, 1)]
        sizes = bit_length(np.diff(level[:, 0].astype(np.int64), prepend=0))
        dc += np.bincount(sizes, minlength=256)
        value_bits += int(sizes.sum())
        block, position = np.nonzero(level[:, 1:])
        position += 1
        first = np.diff(block, prepend=-1) != 0
        run = position - np.where(first, 0, np.roll(position, 1)) - 1
        sizes = bit_length(level[block, position])
        ac += np.bincount((run % 16) << 4 | sizes, minlength=256)
        ac[0xF0] += int((run // 16).sum())
        ac[0x00] += int((level[:, 63] == 0).sum())
        value_bits += int(sizes.sum())
    return counts, value_bits


def bit_length(values: NDArray[Any]) -> NDArray[np.int64]:
    return np.frexp(np.abs(values).astype(np.float64))[1].astype(np.int64)


def optimal(levels: Levels) -> Pairs:
    counts, _ = symbol_counts(levels)
    return [(huffman.optimal_table(dc), huffman.optimal_table(ac)) for dc, ac in counts]


def dht_bytes(pairs: Pairs) -> int:
    return sum(TABLE_BYTES + len(table.symbols) for pair in pairs for table in pair)


def size(levels: Levels, pairs: Pairs, table_bytes: int) -> float:
    """Bytes of the file, stuffing aside."""
    counts, bits = symbol_counts(levels)
    for slot_counts, pair in zip(counts, pairs, strict=True):
        for count, table in zip(slot_counts, pair, strict=True):
            codes = table.codes()
            bits += sum(int(count[symbol]) * codes[symbol][1] for symbol in np.flatnonzero(count).tolist())
    return HEADER_BYTES + table_bytes + bits / 8


def merge(groups: Any) -> dict[str, list[float]]:
    merged: dict[str, list[float]] = defaultdict(list)
    for methods in groups:
        for method, values in methods.items():
            merged[method] += values
    return merged


def summary(methods: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    functions: dict[str, Callable[[list[float]], Any]] = {"mean": np.mean, "worst": max, "best": min, "points": len}
    return {
        method: {name: round(float(function(values)), 4) for name, function in functions.items()}
        for method, values in methods.items()
        if values
    }


if __name__ == "__main__":
    main()
