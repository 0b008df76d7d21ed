"""Budgets, ladders and the trellis of the encoder: how near, how many encodings, how long, how many bytes.

- **Budgets**: every frame at several budgets in bits per pixel, with an adaptive profile, with the IJG's tables of
  quality 75 that are scaled, and with a ladder of the IJG's tables. Budgets that the finest tables do not fill (all
  steps 1) or that no table meets are left out.
- **Slope**: the level of equal slope against the one that the bytes of all levels give. What a wrong level costs is
  its bytes - slope x level above the minimum, as a part of the frame's bytes.
- **Trellis**: bytes at the SWE of plain rounding with the standard Huffman tables of ITU-T T.81 Annex K, read off each
  way's own curve over the water level, in logarithms, within .35 to 3 bits per pixel.
- **Time**: processor time of whole rounds over all frames of a size, mosaics of unscaled crops, as the median over the
  rounds of the ratio to one plain encoding of the same round.

    python benchmarks/control.py --images kodak/ --video clip.mp4 --json benchmarks/results/control.json
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgejpeg.design.control import ladder_slope, level_of_equal_slope
from edgejpeg.errors import BudgetError
from edgejpeg.jpeg.tables import ijg_tables
from edgejpeg.profile import Level, Profile, load_profile
from edgejpeg.runtime import Encoder
from edgejpeg.runtime.control import Control
from edgejpeg.runtime.frames import open_source
from edgejpeg.runtime.library import NativeEncoder
from edgejpeg.runtime.pixels import picture_of
from edgejpeg.runtime.scenes import mosaic

BUDGETS = (0.4, 0.6, 0.9, 1.3, 2.0, 3.0)  # bits per pixel
WATER_LEVELS = np.geomspace(0.05, 25.6, 14)
REFERENCE_BPP = (0.35, 3.0)
LADDER = (10, 20, 30, 40, 50, 58, 66, 72, 77, 81, 84, 87, 89, 91)  # qualities
SIZES = {"1080p": (1920, 1080, 6), "720p": (1280, 720, 10), "224": (224, 224, 64)}

Frame = NDArray[np.uint8]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=Path, required=True, help="a folder of images")
    parser.add_argument("--video", type=Path, action="append", default=[], help="a video; give it again for more")
    parser.add_argument("--frames", type=int, default=3, help="frames of each video, evenly spread")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of the timing")
    parser.add_argument("--profile", default="efficientnet_lite0", help="an adaptive profile")
    parser.add_argument("--json", type=Path, help="where to write the results")
    args = parser.parse_args()
    frames = read_frames(args)
    profile = load_profile(args.profile)
    ladder = make_ladder(frames, profile.subsampling)
    luma, chroma = ijg_tables(75)
    scaled = Profile.fixed(name="quality 75", luma=luma, chroma=chroma, subsampling=profile.subsampling)
    document: dict[str, Any] = {
        "benchmark": "control",
        "machine": {"processor": platform.processor() or platform.machine(), "python": platform.python_version()},
        "profile": {"name": profile.name, "id": profile.profile_id},
        "frames": len(frames),
        "budgets_bpp": BUDGETS,
        "budget": {
            f"{name}, effort {effort}": budgets(frames, used, effort)
            for name, used in (("adaptive", profile), ("scaled tables", scaled), ("ladder", ladder))
            for effort in (0, 1)
        },
        "slope": {f"effort {effort}": slopes(frames, ladder, effort) for effort in (0, 1)},
        "bytes_at_equal_swe": trellis_bytes(frames, profile),
        "time": {name: times(frames, profile, ladder, size, args.rounds) for name, size in SIZES.items()},
    }
    for section in ("budget", "slope", "bytes_at_equal_swe", "time"):
        print(f"\n{section}")
        for name, figures in document[section].items():
            print(f"  {name}: {figures}")
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def read_frames(args: argparse.Namespace) -> list[Frame]:
    with open_source(str(args.images)) as source:
        frames = [frame.image for frame in source]
    for path in args.video:
        with open_source(str(path)) as source:
            every = max((source.total or 1) // args.frames, 1)
        with open_source(str(path), every=every) as source:
            frames += [frame.image for _, frame in zip(range(args.frames), source, strict=False)]
    return frames


def make_ladder(frames: list[Frame], subsampling: str) -> Profile:
    """The IJG's tables, with the rates that these frames have."""
    levels = []
    for quality in LADDER:
        luma, chroma = ijg_tables(quality)
        fixed = Profile.fixed(name="level", luma=luma, chroma=chroma, subsampling=subsampling)
        with Encoder(fixed) as encoder:
            bits = [8 * len(encoder.encode(frame)) / (frame.shape[0] * frame.shape[1]) for frame in frames]
        levels.append(Level(float(np.mean(bits)), luma, chroma))
    return Profile.ladder(name="IJG", levels=levels, subsampling=subsampling)


def budgets(frames: list[Frame], profile: Profile, effort: int) -> dict[str, float]:
    parts: list[float] = []
    encodes: list[int] = []
    above = 0
    for bits in BUDGETS:
        with Encoder(profile, effort=effort, target_bpp=bits) as encoder:
            for frame in frames:
                budget = int(frame.shape[0] * frame.shape[1] * bits / 8)
                try:
                    size = len(encoder.encode(frame))
                except BudgetError:
                    continue
                last = encoder.last
                assert last is not None
                above += size > budget
                is_end = last.level == len(profile.levels) - 1 if profile.kind == "ladder" else finest(last.tables)
                if not is_end:
                    parts.append(size / budget)
                    encodes.append(last.encodes)
    return {
        "cases": len(parts),
        "above": above,
        "within_3_percent": rounded(np.mean(np.array(parts) >= 0.97)),
        "mean": rounded(np.mean(parts)),
        "worst": rounded(min(parts)),
        "encodes": rounded(np.mean(encodes)),
        "in_two_encodes": rounded(np.mean(np.array(encodes) <= 2)),
    }


def finest(tables: Any) -> bool:
    return all(table is None or table.array.max() == 1 for table in tables)


def slopes(frames: list[Frame], ladder: Profile, effort: int) -> dict[str, float]:
    excess, equal = [], []
    for frame in frames:
        sizes = []
        for level in range(len(ladder.levels)):
            with Encoder(ladder, level=level, effort=effort) as encoder:
                sizes.append(len(encoder.encode(frame)))
        for level in range(1, len(sizes) - 1):
            slope = ladder_slope([entry.rate for entry in ladder.levels], level, frame.shape[0] * frame.shape[1])
            with Encoder(ladder, slope=slope, effort=effort) as encoder:
                encoder.encode(frame)
                assert encoder.last is not None
                found = encoder.last.level
            assert found is not None
            best = level_of_equal_slope(sizes, slope)
            equal.append(found == best)
            excess.append((sizes[found] - slope * found - sizes[best] + slope * best) / sizes[best])
    return {
        "cases": len(equal),
        "same_level": rounded(np.mean(equal)),
        "mean_excess": rounded(np.mean(excess)),
        "worst_excess": rounded(max(excess)),
    }


def trellis_bytes(frames: list[Frame], profile: Profile) -> dict[str, dict[str, float]]:
    reference_name = "rounding, standard Huffman"
    ways: dict[str, dict[str, Any]] = {"rounding, effort 0": {}, "rounding, effort 1": {"effort": 1}}
    for trellis in ("trim", True):
        name = "trim" if trellis == "trim" else "trellis"
        ways |= {f"{name}, effort {effort}": {"trellis": trellis, "effort": effort} for effort in (0, 1)}
    ratios: dict[str, list[float]] = {name: [] for name in (reference_name, *ways)}
    for frame in frames:
        reference = np.log(standard_curve(frame, profile))
        curves = {name: np.log(curve(frame, profile, options)) for name, options in ways.items()}
        curves[reference_name] = reference
        bits = np.exp(reference[:, 1]) * 8 / (frame.shape[0] * frame.shape[1])
        wanted = (bits >= REFERENCE_BPP[0]) & (bits <= REFERENCE_BPP[1])
        for name, points in curves.items():
            inside = wanted & (reference[:, 0] >= points[0, 0]) & (reference[:, 0] <= points[-1, 0])
            at = np.interp(reference[inside, 0], points[:, 0], points[:, 1])
            ratios[name] += np.exp(at - reference[inside, 1]).tolist()
    return {
        name: {"mean": rounded(np.mean(r)), "worst": rounded(max(r)), "best": rounded(min(r)), "points": len(r)}
        for name, r in ratios.items()
    }


def curve(frame: Frame, profile: Profile, options: dict[str, Any]) -> NDArray[np.float64]:
    """(SWE, bytes) over the water level."""
    points = []
    for level in WATER_LEVELS:
        with Encoder(profile, water_level=float(level), **options) as encoder:
            size = len(encoder.encode(frame))
            assert encoder.last is not None
            assert encoder.last.swe is not None
            points.append((float(encoder.last.swe.sum()), size))
    return np.array(points)


def standard_curve(frame: Frame, profile: Profile) -> NDArray[np.float64]:
    """The same of plain rounding with the standard Huffman tables, which the C interface alone has as an option."""
    native = NativeEncoder(profile.subsampling, 0, 1, standard_huffman=1)
    points = []
    for level in WATER_LEVELS:
        Control(water_level=float(level)).apply(profile, native)
        size = len(native.encode(*picture_of(frame, "bgr")))
        errors = native.swe()
        assert errors is not None
        points.append((float(errors.sum()), size))
    native.close()
    return np.array(points)


def times(
    frames: list[Frame], profile: Profile, ladder: Profile, size: tuple[int, int, int], rounds: int
) -> dict[str, float]:
    """Each way's time over that of one plain encoding with the same kind of profile."""
    width, height, count = size
    made = [mosaic(frames, width, height, seed) for seed in range(count)]
    budget = int(np.mean([len(Encoder(profile).encode(frame)) for frame in made]))
    level = len(ladder.levels) // 2
    slope = ladder_slope([entry.rate for entry in ladder.levels], level, width * height)
    plain, alone = "adaptive", "ladder, level given"
    encoders = {
        plain: Encoder(profile),
        alone: Encoder(ladder, level=level),
        "adaptive, budget": Encoder(profile, max_bytes=budget),
        "adaptive, trim": Encoder(profile, trellis="trim"),
        "adaptive, trellis": Encoder(profile, trellis=True),
        "adaptive, effort 1": Encoder(profile, effort=1),
        "adaptive, trellis, effort 1": Encoder(profile, trellis=True, effort=1),
        "ladder, budget": Encoder(ladder, max_bytes=budget),
        "ladder, slope": Encoder(ladder, slope=slope),
    }
    taken: dict[str, list[float]] = {name: [] for name in encoders}
    for _ in range(rounds + 1):
        for name, encoder in encoders.items():
            start = time.thread_time()
            for frame in made:
                encoder.encode(frame)
            taken[name].append(time.thread_time() - start)
    for encoder in encoders.values():
        encoder.close()

    def ratio(name: str) -> float:
        one = taken[plain if name.startswith(plain) else alone]
        return statistics.median(a / b for a, b in zip(taken[name][1:], one[1:], strict=True))

    return {
        f"{plain}, ms": rounded(1e3 * statistics.median(taken[plain][1:]) / count),
        f"{alone}, ms": rounded(1e3 * statistics.median(taken[alone][1:]) / count),
        "bits_per_pixel": rounded(8 * budget / (width * height)),
        **{name: rounded(ratio(name)) for name in encoders},
    }


def rounded(value: Any) -> float:
    return round(float(value), 4)


if __name__ == "__main__":
    main()
