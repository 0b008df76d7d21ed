"""Encode frames with a profile and send them to an Open Inference Protocol server.

SOURCE is camera:N, gst:PIPELINE, or the path of a video, an image or a folder of images:

  edgejpeg send clip.mp4 --to http://127.0.0.1:8000 -p efficientnet_lite0 --size 224

Raw video from a file or the standard input, and pipelines that end in NV12, NV21, I420 or YUY2 and an appsink, are
encoded as they are:

  edgejpeg send "gst:v4l2src ! video/x-raw,format=NV12 ! appsink" --to http://127.0.0.1:8000 -p efficientnet_lite0

Exits with 1 when a frame failed or was skipped.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejpeg.cli.arguments import (
    add_control_arguments,
    add_on_error_argument,
    control_options,
    positive_float,
    positive_int,
)
from edgejpeg.cli.encode_raw import add_raw_arguments

if TYPE_CHECKING:
    from edgejpeg.runtime.encoder import Encoder
    from edgejpeg.runtime.frames import FrameSource
    from edgejpeg.runtime.uplink.sender import Result, Sender

HELP = "encode frames and send them to a server"

# Statuses that every further frame would meet as well: wrong token, no permission, no such model.
_HOPELESS = (401, 403, 404)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    parser.add_argument(
        "source", metavar="SOURCE", help="camera:N, gst:PIPELINE, a video, an image, a folder, or raw video"
    )
    parser.add_argument("-p", "--profile", required=True, help="a shipped profile's name, or a .toml file")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the summary and each frame's result here")
    frames = parser.add_argument_group("frames")
    frames.add_argument("--limit", type=positive_int, help="send at most so many")
    frames.add_argument("--every", type=positive_int, default=1, help="take every n-th (default: %(default)s)")
    frames.add_argument("--size", type=positive_int, metavar="S", help="crop the centre to S x S, the network's input")
    frames.add_argument("--resize", type=positive_int, metavar="S", help="short side before the crop (default: --size)")
    add_on_error_argument(frames)
    add_raw_arguments(parser)
    add_control_arguments(parser)
    link = parser.add_argument_group("server")
    link.add_argument("--to", required=True, metavar="URL", help="for example http://127.0.0.1:8000")
    link.add_argument("--model", help="the model's name (default: the server's only one)")
    link.add_argument("--token-file", type=Path, metavar="FILE", help="the bearer token, if the server wants one")
    link.add_argument("--ca-file", type=Path, metavar="PEM", help="the certificate to trust, if the server has its own")
    link.add_argument("--in-flight", type=positive_int, default=4, help="requests at once (default: %(default)s)")
    link.add_argument("--timeout", type=positive_float, default=10.0, metavar="S", help="default: %(default)s")
    link.add_argument("--retries", type=int, default=5, help="after the first attempt (default: %(default)s)")
    link.add_argument("--logits", action="store_true", help="ask for the logits too, and write them into --json")
    link.add_argument("--device-id", help="first part of the frames' ids (default: the host's name)")


def run(args: argparse.Namespace) -> int:
    """Send every frame; returns 1 when one failed or was skipped."""
    # Read by OpenCV when it opens its first video: FFmpeg's own lines would stand between ours.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    from edgejpeg.errors import InvalidInputError
    from edgejpeg.profile import load_profile
    from edgejpeg.runtime.control import Control
    from edgejpeg.runtime.encoder import Encoder
    from edgejpeg.runtime.server.serve import read_token
    from edgejpeg.runtime.uplink.sender import RetryPolicy, Sender

    if args.json is not None and not args.json.parent.is_dir():
        raise InvalidInputError(f"--json cannot be written: no folder {args.json.parent}; make it first")
    if args.logits and args.json is None:
        raise InvalidInputError("--logits are written into --json; give it a file")
    profile = load_profile(args.profile)
    Control(**control_options(args)).check(profile)  # before a camera is opened
    source = _source(args)
    encoder = Encoder(profile, color=source.color, yuv_range=args.yuv_range, **control_options(args))
    sender = Sender(
        args.to,
        model=args.model,
        token=None if args.token_file is None else read_token(args.token_file),
        ca_file=args.ca_file,
        timeout=args.timeout,
        retry=RetryPolicy(args.retries),
        in_flight=args.in_flight,
        device=args.device_id,
        logits=args.logits,
    )
    report = Report(args.source, args.to, profile.name)
    with source, sender:
        report.model = sender.connect()
        parameters = {"profile_id": profile.profile_id}
        try:
            send_frames(source, encoder, sender, report, parameters, verbose=args.verbose, on_error=args.on_error)
        finally:
            # Also when the server went away: what was delivered until then is worth knowing.
            report.problems += source.problems
            if args.json is not None:
                args.json.write_text(json.dumps(report.document(), indent=1) + "\n", encoding="utf-8")
    print(report.text())
    for problem in report.problems:
        print(f"skipped: {problem}", file=sys.stderr)
    return 0 if report.complete else 1


def _source(args: argparse.Namespace) -> FrameSource:
    from edgejpeg.errors import InvalidInputError
    from edgejpeg.runtime.frames import open_source
    from edgejpeg.runtime.raw import RawSource

    if args.raw is None:
        if args.color != "bgr":
            raise InvalidInputError("--color is that of raw video; give its size, --raw WxH, or leave it")
        return open_source(
            args.source,
            limit=args.limit,
            every=args.every,
            size=args.size,
            resize=args.resize,
            on_error=args.on_error,
            own_color=True,
        )
    if args.size is not None or args.resize is not None:
        raise InvalidInputError("raw video is not scaled or cropped; leave --size and --resize")
    raw = sys.stdin.buffer if args.source == "-" else args.source
    width, height = args.raw
    return RawSource(raw, width, height, args.color, limit=args.limit, every=args.every, on_error=args.on_error)


@dataclass
class Report:
    """What was sent, and what became of it."""

    source: str
    url: str
    profile: str
    model: str = ""
    seconds: float = 0.0
    pixels: int = 0
    encode_s: list[float] = field(default_factory=list)
    choices: list[dict[str, Any]] = field(default_factory=list)  # by frame that was sent, in order
    results: list[Result] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """There were frames, and all of them arrived."""
        return bool(self.results) and not self.problems and all(result.delivered for result in self.results)

    def document(self) -> dict[str, Any]:
        """Everything as JSON; times in milliseconds, bits per pixel over all frames."""
        delivered = [result for result in self.results if result.delivered]
        sent = sum(result.bytes for result in self.results)
        return {
            "source": self.source,
            "url": self.url,
            "model": self.model,
            "profile": self.profile,
            "frames": len(self.results),
            "delivered": len(delivered),
            "failed": len(self.results) - len(delivered),
            "skipped": len(self.problems),
            "bytes": sent,
            "bits_per_pixel": round(8 * sent / self.pixels, 4) if self.pixels else None,
            "seconds": round(self.seconds, 3),
            "encode_ms": summarize_ms(self.encode_s),
            "latency_ms": summarize_ms([result.latency_s for result in delivered]),
            "top_classes": [
                {"index": index, "name": name, "frames": count}
                for (index, name), count in Counter(
                    (result.classes[0].index, result.classes[0].name) for result in delivered
                ).most_common(5)
            ],
            "problems": self.problems,
            "results": [
                {
                    "id": result.id,
                    "name": result.name,
                    "bytes": result.bytes,
                    "latency_ms": round(1e3 * result.latency_s, 3),
                    "attempts": result.attempts,
                    "status": result.status,
                    "error": result.error,
                    "classes": [[c.probability, c.index, c.name] for c in result.classes],
                    **({} if result.logits is None else {"logits": result.logits.tolist()}),
                    **choice,
                }
                # Of frames on their way when the server went away there is no result.
                for result, choice in zip(self.results, self.choices, strict=False)
            ],
        }

    def text(self) -> str:
        """The summary for the terminal."""
        facts = self.document()
        bpp = facts["bits_per_pixel"]
        lines = [
            f"{facts['frames']} frames to {self.model} at {self.url} in {self.seconds:.1f} s: "
            f"{facts['delivered']} delivered, {facts['failed']} failed, {facts['skipped']} skipped",
            f"  {facts['bytes']} bytes" + ("" if bpp is None else f", {bpp:.3f} bits per pixel"),
        ]
        for what in ("encode", "latency"):
            times = facts[f"{what}_ms"]
            if times:
                lines.append(f"  {what} ms: mean {times['mean']}, median {times['p50']}, 95 % {times['p95']}")
        for entry in facts["top_classes"]:
            lines.append(f"  {entry['frames']:5d} x {entry['name'] or entry['index']}")
        reasons = Counter(result.error for result in self.results if result.error is not None)
        lines += [f"  failed {count} x {reason}" for reason, count in reasons.most_common(5)]
        return "\n".join(lines)


def send_frames(
    source: FrameSource,
    encoder: Encoder,
    sender: Sender,
    report: Report,
    parameters: dict[str, str],
    *,
    verbose: bool = False,
    on_error: str = "fail",
) -> None:
    """Encode and send every frame of a source, collecting the results in order.

    Raises:
        TransportError: the server stopped answering. ServerError: it refuses every frame. DataError: the source failed.
        BudgetError: a frame's smallest file is above the budget, unless ``on_error`` is "skip", which notes it.
    """
    from edgejpeg.cli.encode import describe_choice
    from edgejpeg.errors import BudgetError
    from edgejpeg.runtime.pixels import size_of

    begin = time.perf_counter()
    waiting: deque[Future[Result]] = deque()
    try:
        for frame in _progress(source):
            start = time.perf_counter()
            try:
                jpeg = encoder.encode(frame.image)
            except BudgetError as error:
                if on_error == "fail":
                    raise
                report.problems.append(f"{frame.name}: {error}")
                continue
            report.encode_s.append(time.perf_counter() - start)
            report.choices.append(describe_choice(encoder))
            report.pixels += math.prod(size_of(frame.image, source.color))
            waiting.append(
                sender.submit(jpeg, name=frame.name, capture_ts_ns=frame.timestamp_ns, parameters=parameters)
            )
            while waiting and waiting[0].done():
                _collect(waiting.popleft().result(), report, verbose)
        while waiting:
            _collect(waiting.popleft().result(), report, verbose)
    finally:
        report.seconds = time.perf_counter() - begin


def _progress(source: FrameSource) -> Iterator[Any]:
    try:
        from tqdm import tqdm
    except ImportError:  # a device need not have it, and loses the progress bar alone
        return iter(source)
    return iter(tqdm(source, total=source.total, unit="frame", disable=None, file=sys.stderr))


def _collect(result: Result, report: Report, verbose: bool) -> None:
    from edgejpeg.errors import ServerError, TransportError

    report.results.append(result)
    if verbose:
        best = f"{result.classes[0].name or result.classes[0].index}" if result.classes else result.error
        print(f"{result.id}  {result.name}  {result.bytes} bytes  {1e3 * result.latency_s:.1f} ms  {best}")
    if result.error is None:
        return
    delivered = sum(one.delivered for one in report.results)
    if result.status is None:
        raise TransportError(f"{result.error} ({result.attempts} attempts); {delivered} frames were delivered before")
    if result.status in _HOPELESS:
        raise ServerError(f"{result.error}; {delivered} frames were delivered before")


def summarize_ms(seconds: list[float]) -> dict[str, float] | None:
    """Mean, median and 95th percentile (nearest rank) in milliseconds; None without values."""
    if not seconds:
        return None
    ordered = sorted(seconds)
    rank = max(0, -(-95 * len(ordered) // 100) - 1)
    values = {"mean": statistics.fmean(ordered), "p50": statistics.median(ordered), "p95": ordered[rank]}
    return {name: round(1e3 * value, 3) for name, value in values.items()}
