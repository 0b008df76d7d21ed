"""Raw video for ``edgejpeg encode``: every frame becomes a file."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

COLORS = ("bgr", "rgb", "bgrx", "rgbx", "nv12", "nv21", "i420", "yuyv", "gray")


def add_raw_arguments(parser: argparse.ArgumentParser, and_so: str = "") -> None:
    """``--raw``, ``--color``, ``--yuv-range``; ``and_so`` ends the group's description."""
    group = parser.add_argument_group("raw video", "frames without a header, one after another" + and_so)
    group.add_argument(
        "--raw", type=_size, metavar="WxH", help="the input is raw video of this size; - is the standard input"
    )
    group.add_argument("--color", choices=COLORS, default="bgr", help="of raw frames (default: %(default)s)")
    group.add_argument(
        "--yuv-range",
        choices=("limited", "full"),
        default="limited",
        help="of nv12, nv21, i420 and yuyv: Y 16..235 as cameras have it, or 0..255 (default: %(default)s)",
    )


def encoder_color(args: argparse.Namespace) -> str:
    """The color that the encoder is made for: what is read from image files is BGR.

    Raises:
        InvalidInputError: a color or a range without raw video.
    """
    from edgejpeg.errors import InvalidInputError

    if args.raw is None and (args.color, args.yuv_range) != ("bgr", "limited"):
        raise InvalidInputError(
            "--color and --yuv-range are those of raw video; give its size, --raw WxH, or leave them"
        )
    return color_for(args.color)


def color_for(color: str) -> str:
    """The encoder's color for frames of one of :data:`COLORS`: one for BGR takes gray frames too."""
    return "bgr" if color == "gray" else color


def run_raw(
    args: argparse.Namespace, encode: Callable[[NDArray[np.uint8]], bytes], write: Callable[[Path, bytes], None]
) -> int:
    """Encode every frame to OUT/000000.jpg and so on; returns 1 when the last one was not whole."""
    from edgejpeg.errors import DataError, InvalidInputError
    from edgejpeg.runtime.raw import read_raw

    if len(args.inputs) != 1:
        raise InvalidInputError(f"--raw takes one file, or - for the standard input; got {len(args.inputs)}")
    if args.output.suffix.lower() in (".jpg", ".jpeg") or args.output.is_file():
        raise InvalidInputError(f"with --raw, -o is a folder for the frames' files; got {args.output}")
    width, height = args.raw
    source = args.inputs[0]
    frames = read_raw(sys.stdin.buffer if str(source) == "-" else source, width, height, args.color)
    index = 0
    while True:
        try:
            frame = next(frames, None)
        except DataError as error:
            if args.on_error == "fail" or not index:
                raise
            print(f"skipped: {error}", file=sys.stderr)
            return 1
        if frame is None:
            return 0
        data = encode(frame)
        target = args.output / f"{index:06}.jpg"
        write(target, data)
        bpp = 8 * len(data) / (height * width)
        if args.json:
            record = {"input": str(source), "frame": index, "output": str(target), "width": width, "height": height}
            print(json.dumps({**record, "bytes": len(data), "bits_per_pixel": round(bpp, 4)}))
        else:
            print(f"{target}  {width}x{height}  {len(data)} bytes  {bpp:.3f} bpp")
        index += 1


def _size(text: str) -> tuple[int, int]:
    """``1920x1080`` as (width, height), for argparse."""
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write WIDTHxHEIGHT, for example 1920x1080")
    return int(match[1]), int(match[2])
