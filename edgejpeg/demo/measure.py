"""Encode, send, compare: every frame at every setting of every method."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgejpeg._optional import require
from edgejpeg.demo.results import OURS, REFERENCE, Measurements
from edgejpeg.evaluate.metrics import kl_divergence
from edgejpeg.jpeg.markers import parse_jpeg
from edgejpeg.profile import Profile

Pixels = NDArray[np.uint8]
Encode = Callable[[Pixels], bytes]
Classify = Callable[[bytes], NDArray[np.float32]]


@dataclass(frozen=True)
class Method:
    """A way to make JPEG files, with a knob.

    Attributes:
        key, label, parameter: see :class:`~edgejpeg.demo.results.Measurements`.
        settings: the knob's values, in order of rising rate.
        encoder: from a setting to a function from (H, W, 3) uint8 RGB to a file.
    """

    key: str
    label: str
    parameter: str
    settings: Sequence[float]
    encoder: Callable[[float], Encode]


def ordinary_jpeg(qualities: Sequence[float]) -> Method:
    """libjpeg-turbo by Pillow: IJG tables, 4:2:0, Huffman tables made for each file."""
    pillow = require("PIL.Image", extra="demo", purpose="edgejpeg demo")

    def encoder(quality: float) -> Encode:
        def encode(rgb: Pixels) -> bytes:
            buffer = io.BytesIO()
            pillow.fromarray(rgb).save(buffer, "JPEG", quality=int(quality), subsampling="4:2:0", optimize=True)
            return buffer.getvalue()

        return encode

    return Method(REFERENCE, "ordinary JPEG", "quality", qualities, encoder)


def edgejpeg_method(profile: Profile, water_levels: Sequence[float]) -> Method:
    """Our encoder with an adaptive profile, with the same entropy coding: Huffman tables made for each file."""
    from edgejpeg.runtime.encoder import Encoder

    def encoder(water_level: float) -> Encode:
        return Encoder(profile, color="rgb", effort=1, water_level=water_level).encode

    return Method(OURS, "edgejpeg", "water level", water_levels, encoder)


def measure(
    methods: Sequence[Method],
    frames: Sequence[Pixels],
    clean_logits: NDArray[np.float32],
    classify: Classify,
    *,
    step: Callable[[], object] = lambda: None,
) -> list[Measurements]:
    """Send every frame at every setting of every method, one file at a time, and measure.

    One file is under way at a time, so that the round trip is the file's own: decoding, inference, the way there and
    back. Methods and settings alternate frame by frame, so that a busy moment of the machine falls on all of them.

    Args:
        methods: what to compare.
        frames: (H, W, 3) uint8 RGB, at the network's size.
        clean_logits: (frames, classes), the network on the uncompressed frames.
        classify: from a file to its (classes,) logits.
        step: called after each file, for a progress bar.
    """
    encoders = [[method.encoder(setting) for setting in method.settings] for method in methods]
    for row in encoders:
        for encode in row:
            classify(encode(frames[0]))  # warm: first calls make tables, scratch memory and connections
    results = [_empty(method, len(frames)) for method in methods]
    for n, frame in enumerate(frames):
        for row, found in zip(encoders, results, strict=True):
            for i, encode in enumerate(row):
                started = time.perf_counter()
                jpeg = encode(frame)
                encoded = time.perf_counter()
                logits = classify(jpeg)
                answered = time.perf_counter()
                found.bytes[i, n] = len(jpeg)
                found.scan_bytes[i, n] = parse_jpeg(jpeg).scan_bytes
                found.kl[i, n] = kl_divergence(clean_logits[n], logits)
                found.top1[i, n] = int(logits.argmax())
                found.encode_ms[i, n] = (encoded - started) * 1e3
                found.round_trip_ms[i, n] = (answered - encoded) * 1e3
                step()
    return results


def nearest_setting(method: Method, candidates: Sequence[float], frame: Pixels, size: int) -> tuple[float, bytes]:
    """The candidate whose file of ``frame`` is nearest to ``size`` bytes, and that file."""
    files = [(setting, method.encoder(setting)(frame)) for setting in candidates]
    return min(files, key=lambda item: abs(len(item[1]) - size))


def _empty(method: Method, frames: int) -> Measurements:
    shape = (len(method.settings), frames)
    return Measurements(
        key=method.key,
        label=method.label,
        parameter=method.parameter,
        settings=method.settings,
        bytes=np.zeros(shape, np.int64),
        scan_bytes=np.zeros(shape, np.int64),
        kl=np.zeros(shape),
        top1=np.zeros(shape, np.int64),
        encode_ms=np.zeros(shape),
        round_trip_ms=np.zeros(shape),
    )
