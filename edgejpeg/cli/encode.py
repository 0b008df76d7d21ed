"""Encode images with a profile, or with ordinary JPEG tables at a quality."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejpeg.cli.arguments import (
    add_control_arguments,
    add_on_error_argument,
    control_options,
    positive_float,
    positive_int,
)
from edgejpeg.cli.encode_raw import add_raw_arguments, encoder_color, run_raw

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgejpeg.runtime.encoder import Encoder

HELP = "encode images as JPEG with a profile"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    parser.add_argument(
        "inputs", nargs="+", type=Path, metavar="IN", help="image files, or folders of images; or raw video"
    )
    tables = parser.add_mutually_exclusive_group(required=True)
    tables.add_argument("-p", "--profile", help="a shipped profile's name, or a .toml file")
    tables.add_argument("--quality", type=int, help="the IJG's tables at this quality, 1..100, instead of a profile")
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="OUT", help="a .jpg file, or a folder")
    parser.add_argument("--water-level", type=positive_float, help="the water level d, if not the profile's")
    add_control_arguments(parser)
    parser.add_argument(
        "--trellis",
        type=_trellis,
        default=False,
        metavar="full|trim|WEIGHT",
        help="weigh the error against the length of the codes: fewer bytes at equal weighted error",
    )
    parser.add_argument(
        "--comment", action="store_true", help="write the profile's id and what was chosen into the file"
    )
    parser.add_argument("--subsampling", choices=("444", "422", "420", "gray"), help="with --quality (default: 420)")
    parser.add_argument("--effort", type=int, choices=(0, 1), help="0: stored Huffman tables, 1: optimal ones")
    parser.add_argument("--exact-huffman", action="store_true", help="at effort 1, count all of large frames too")
    parser.add_argument("--progressive", action="store_true", help="progressive files: smaller, and slower to write")
    parser.add_argument("--container", choices=("jfif", "lean"), default="jfif", help="lean: fewer header bytes")
    parser.add_argument(
        "--restart-rows", type=positive_int, default=0, metavar="N", help="a restart marker every N rows"
    )
    parser.add_argument(
        "--orientation", type=int, choices=range(1, 9), metavar="1..8", help="write an EXIF orientation"
    )
    parser.add_argument("--threads", type=positive_int, default=1, help="threads (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object per image")
    add_raw_arguments(parser, "; OUT is a folder")
    add_on_error_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Encode every input; returns 1 when an image was skipped."""
    from edgejpeg.errors import DataError
    from edgejpeg.runtime.frames import read_image

    encode, described = _encoder(args)
    if args.raw is not None:
        return run_raw(args, encode, _write)
    jobs = _jobs(args.inputs, args.output)
    failed: list[str] = []
    for source, target in jobs:
        try:
            image = read_image(source)
        except DataError as error:
            if args.on_error == "fail":
                raise
            failed.append(str(error))
            continue
        data = encode(image)
        _write(target, data)
        height, width = image.shape[:2]
        bpp = 8 * len(data) / (height * width)
        if args.json:
            record = {"input": str(source), "output": str(target), "width": width, "height": height}
            print(json.dumps({**record, "bytes": len(data), "bits_per_pixel": round(bpp, 4), **described()}))
        else:
            print(f"{target}  {width}x{height}  {len(data)} bytes  {bpp:.3f} bpp")
    for reason in failed:
        print(f"skipped: {reason}", file=sys.stderr)
    if failed:
        print(f"edgejpeg encode: {len(failed)} of {len(jobs)} images skipped", file=sys.stderr)
    return 1 if failed else 0


def _encoder(args: argparse.Namespace) -> tuple[Callable[[NDArray[np.uint8]], bytes], Callable[[], dict[str, Any]]]:
    """What encodes one frame, with a profile or ordinary JPEG's tables, and what it says of the last one."""
    from edgejpeg.errors import InvalidInputError
    from edgejpeg.profile import load_profile
    from edgejpeg.runtime.encoder import Encoder
    from edgejpeg.runtime.once import encode_jpeg

    written = {
        "color": encoder_color(args),
        "yuv_range": args.yuv_range,
        "effort": args.effort,
        "threads": args.threads,
        "progressive": args.progressive,
        "container": args.container,
        "restart_rows": args.restart_rows,
        "orientation": args.orientation,
        "exact_huffman": args.exact_huffman,
    }
    if args.profile is None:
        for name in ("water_level", *control_options(args), "trellis", "comment"):
            if getattr(args, name) not in (None, False):
                belongs = "an adaptive profile" if name == "water_level" else "a profile"
                raise InvalidInputError(
                    f"--{name.replace('_', '-')} belongs to {belongs}; give -p PROFILE, or leave it out"
                )
        encode = partial(
            encode_jpeg,
            quality=args.quality,
            subsampling=args.subsampling or "420",
            **(written | {"effort": args.effort or 0}),
        )
        return encode, dict
    profile = load_profile(args.profile)
    if args.subsampling not in (None, profile.subsampling):
        raise InvalidInputError(
            f"profile {profile.name!r} is for subsampling {profile.subsampling}, not {args.subsampling}; "
            "leave --subsampling out, or calibrate a profile for it"
        )
    encoder = Encoder(
        profile,
        water_level=args.water_level,
        trellis=args.trellis,
        comment=args.comment,
        **control_options(args),
        **written,
    )
    return encoder.encode, partial(describe_choice, encoder)


def describe_choice(encoder: Encoder) -> dict[str, Any]:
    """What was chosen for an encoder's last image, as far as there was a choice."""
    last = encoder.last
    assert last is not None
    names = ("water_level", "chroma_water_level", "scale", "level", "encodes")
    return {name: getattr(last, name) for name in names if getattr(last, name) is not None}


def _trellis(text: str) -> bool | str | float:
    """``full``, ``trim`` or a positive number, for argparse."""
    return True if text == "full" else text if text == "trim" else positive_float(text)


def _jobs(inputs: list[Path], output: Path) -> list[tuple[Path, Path]]:
    """Every source with its target; refuses two sources with one target, and a source as its own target."""
    from edgejpeg.errors import DataError
    from edgejpeg.runtime.frames import IMAGE_SUFFIXES

    sources: list[tuple[Path, Path]] = []
    for path in inputs:
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
            if not found:
                raise DataError(f"no images in folder {path}; images end in {', '.join(sorted(IMAGE_SUFFIXES))}")
            sources += [(p, p.relative_to(path).with_suffix(".jpg")) for p in found]
        else:
            sources.append((path, Path(path.stem + ".jpg")))
    into_file = output.suffix.lower() in (".jpg", ".jpeg") and not output.is_dir()
    if into_file and len(sources) > 1:
        raise DataError(f"{len(sources)} images do not fit into the one file {output}; give a folder with -o")
    jobs = [(source, output if into_file else output / relative) for source, relative in sources]
    seen: dict[Path, Path] = {}
    for source, target in jobs:
        if target in seen:
            raise DataError(f"{seen[target]} and {source} would both be written to {target}; encode them one by one")
        if target.exists() and source.exists() and target.samefile(source):
            raise DataError(f"{source} would be overwritten by its own encoding; give another -o")
        seen[target] = source
    return jobs


def _write(target: Path, data: bytes) -> None:
    from edgejpeg.errors import DataError

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    except OSError as error:
        raise DataError(f"cannot write {target}: {error.strerror or error}; give another -o") from error
