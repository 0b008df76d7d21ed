"""The measurement itself: trtexec's terms, frames in rotation, and libjpeg-turbo beside us."""

from __future__ import annotations

import io
import itertools
import math
import subprocess
import sys

import numpy as np
import pytest

from edgejpeg.errors import InvalidInputError, NativeLibraryError
from edgejpeg.jpeg.huffman import STANDARD_TABLES
from edgejpeg.jpeg.markers import parse_jpeg
from edgejpeg.jpeg.tables import ijg_tables
from edgejpeg.runtime import encode_jpeg
from edgejpeg.runtime.bench import (
    Measurement,
    Settings,
    compare,
    measure,
    measure_stages,
    nearest_quality,
    percentile,
    summarise,
)
from edgejpeg.runtime.scenes import generated_scenes, mosaic
from edgejpeg.runtime.turbojpeg import find_turbojpeg


class Clock:
    """Nanoseconds that pass only when something is encoded."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now


class Recorder:
    """An encoder that takes a time of its own and remembers its frames by their first sample."""

    def __init__(self, clock: Clock, milliseconds: float = 1.0, size: int = 100) -> None:
        self.clock, self.nanoseconds, self.size = clock, int(milliseconds * 1e6), size
        self.seen: list[int] = []

    def __call__(self, frame: np.ndarray) -> bytes:
        index = int(frame.flat[0])
        self.seen.append(index)
        self.clock.now += self.nanoseconds * (index + 1)
        return bytes(self.size + index)


def _frames(count: int) -> list[np.ndarray]:
    return [np.full((4, 5, 3), index, np.uint8) for index in range(count)]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 10, 99, 100, 101, 1000])
@pytest.mark.parametrize("percent", [0, 0.1, 1, 25, 50, 90, 95, 99, 99.9, 100])
def test_percentile_is_of_nearest_rank(count, percent, rng):
    values = rng.normal(size=count)
    # The definition: the smallest value that at least `percent` of the values do not exceed.
    need = math.ceil(round(percent * 10) * count / 1000)
    expected = min(v for v in values if np.count_nonzero(values <= v) >= max(need, 1))
    assert percentile(values.tolist(), percent) == expected
    # NumPy's own nearest rank, where its floating-point rank is not on an edge.
    if (percent * count / 100) % 1:
        assert percentile(values.tolist(), percent) == np.percentile(values, percent, method="inverted_cdf")


def test_percentile_refuses_what_is_none():
    for values, percent in (([], 50), ([1.0], -1), ([1.0], 100.5), ([1.0], math.nan)):
        with pytest.raises(InvalidInputError, match="0 to 100"):
            percentile(values, percent)


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_frames_are_rotated_and_each_encoder_gets_each_equally_often(count):
    clock = Clock()
    encoders = [Recorder(clock), Recorder(clock, 2.0)]
    settings = Settings(warm_up_ms=0, duration_s=0, iterations=11)
    results = measure(encoders, _frames(count), settings, clock)
    turns = math.ceil(11 / count) * count
    for encoder, result in zip(encoders, results, strict=True):
        warmed_up, *measured = encoder.seen
        assert len(measured) == len(result.milliseconds) == turns
        assert all(measured.count(index) == turns // count for index in range(count))
        assert all((b - a) % count == 1 % count for a, b in itertools.pairwise(measured))
        assert warmed_up == measured[0]
        assert result.bytes_per_frame == [100 + index for index in range(count)]
        factor = encoder.nanoseconds / 1e6
        assert result.milliseconds == pytest.approx([factor * (index + 1) for index in measured])
    if count > 1:
        assert all(a != b for a, b in zip(encoders[0].seen, encoders[1].seen, strict=True))


def test_duration_and_warm_up_are_kept():
    clock = Clock()
    encoder = Recorder(clock)
    (result,) = measure([encoder], _frames(1), Settings(warm_up_ms=7.5, duration_s=0.025, iterations=10), clock)
    assert len(result.milliseconds) == 25
    assert len(encoder.seen) == 25 + 8
    (result,) = measure([encoder], _frames(1), Settings(warm_up_ms=0, duration_s=0.025, iterations=40), clock)
    assert len(result.milliseconds) == 40


def test_summary_against_numpy():
    clock = Clock()
    frames = _frames(3)
    results = measure([Recorder(clock, 1.0), Recorder(clock, 4.0, 200)], frames, Settings(0, 0, 9), clock)
    summary = summarise(results[0], frames, (50, 90))
    times = np.array([1.0, 2.0, 3.0] * 3)
    latency = summary["latency_ms"]
    assert summary["encodes"] == 9
    assert (latency["min"], latency["max"]) == (1, 3)
    assert latency["mean"] == pytest.approx(times.mean())
    assert latency["median"] == pytest.approx(np.median(times))
    assert latency["percentiles"] == {"50": 2.0, "90": 3.0}
    assert summary["frames_per_second"] == pytest.approx(1e3 / times.mean())
    assert summary["megapixels_per_second"] == pytest.approx(20 / times.mean() * 1e3 / 1e6)
    assert summary["bytes_per_frame"] == pytest.approx(101)
    assert summary["bits_per_pixel"] == pytest.approx(8 * 101 / 20)
    ratio = compare(*results)
    assert ratio == {"time": pytest.approx(0.25), "bytes": pytest.approx(303 / 603)}


def test_ratio_of_time_is_the_median_over_the_rotations():
    ours = Measurement([1, 1, 2, 2, 50, 50], [10, 10])
    theirs = Measurement([2, 2, 2, 2, 2, 2], [10, 30])
    assert compare(ours, theirs) == {"time": 1.0, "bytes": 0.5}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warm_up_ms": -1}, "warm_up_ms"),
        ({"duration_s": math.inf}, "duration_s"),
        ({"duration_s": math.nan}, "duration_s"),
        ({"iterations": 0}, "iterations"),
        ({"percentiles": (50, 101)}, "percentile 101"),
    ],
)
def test_settings_refuse(options, message):
    with pytest.raises(InvalidInputError, match=message):
        Settings(**options)


def test_no_frames_are_refused():
    with pytest.raises(InvalidInputError, match="no frames"):
        measure([lambda frame: b""], [], Settings())
    with pytest.raises(InvalidInputError, match="no pictures"):
        mosaic([], 8, 8, 0)


@pytest.mark.parametrize("target", [0, 7, 2500, 4999, 5003, 10**6])
def test_nearest_quality_against_all(target):
    asked = []

    def size_at(quality: int) -> int:
        asked.append(quality)
        return quality * quality + 3

    best = min(range(1, 101), key=lambda quality: abs(quality * quality + 3 - target))
    assert nearest_quality(size_at, target) == best
    assert len(asked) == len(set(asked)) <= 9


def test_mosaic_has_the_pixels_of_the_pictures(photo):
    picture = photo(200, 300)
    frame = mosaic([picture], 1001, 700, 5)
    assert (frame.shape, frame.dtype) == ((700, 1001, 3), np.uint8)
    colours = {tuple(pixel) for pixel in picture.reshape(-1, 3)}
    assert {tuple(pixel) for pixel in frame[::7, ::7].reshape(-1, 3)} <= colours
    assert np.array_equal(frame, mosaic([picture], 1001, 700, 5))
    assert not np.array_equal(frame, mosaic([picture], 1001, 700, 6))
    # Neighbours stay neighbours: not a shuffle of pixels.
    top = frame[:100, :100].astype(int)
    assert np.abs(np.diff(top, axis=1)).mean() < 2 * np.abs(np.diff(picture.astype(int), axis=1)).mean() + 5


@pytest.mark.parametrize(("width", "height"), [(1, 1), (7, 300), (320, 180)])
def test_generated_scenes(width, height):
    frames = generated_scenes(width, height, 3, seed=1)
    assert [frame.shape for frame in frames] == [(height, width, 3)] * 3
    assert all(frame.dtype == np.uint8 and frame.flags.c_contiguous for frame in frames)
    assert all(np.array_equal(a, b) for a, b in zip(frames, generated_scenes(width, height, 3, seed=1), strict=True))
    if width > 100:
        assert not np.array_equal(frames[0], frames[1])
        bits = 8 * len(encode_jpeg(frames[0], quality=75)) / (width * height)
        assert 0.3 < bits < 4  # as photos have, not flat and not noise


@pytest.fixture
def turbo():
    found = find_turbojpeg()
    if found is None:
        pytest.skip("no libturbojpeg.so.0 on this machine")
    with found:
        yield found


@pytest.mark.parametrize("subsampling", ["444", "422", "420", "gray"])
def test_libjpeg_turbo_writes_what_is_said_of_it(turbo, subsampling, photo):
    pillow = pytest.importorskip("PIL.Image", reason="Pillow, which decodes, is not installed")
    rgb = photo(61, 83)
    data = turbo.encode(rgb[:, :, ::-1].copy(), 80, subsampling)
    info = parse_jpeg(data)
    assert (info.width, info.height, info.subsampling, info.process) == (83, 61, subsampling, "baseline")
    assert info.quant_table(0) == ijg_tables(80)[0]
    slots = (0,) if subsampling == "gray" else (0, 1)
    assert info.huffman == {key: table for key, table in STANDARD_TABLES.items() if key[1] in slots}
    decoded = np.asarray(pillow.open(io.BytesIO(data)).convert("RGB")).astype(int)
    expected = rgb if subsampling != "gray" else np.asarray(pillow.fromarray(rgb).convert("L"))[:, :, None]
    assert np.abs(decoded - expected).mean() < 6
    # A view of rows with gaps between them, and one sample a pixel.
    wide = np.zeros((61, 100, 3), np.uint8)
    wide[:, :83] = rgb[:, :, ::-1]
    assert turbo.encode(wide[:, :83], 80, subsampling) == data
    gray = parse_jpeg(turbo.encode(rgb[:, :, 0].copy(), 80, "gray"))
    assert gray.subsampling == "gray"


def test_libjpeg_turbo_errors(turbo, photo):
    with pytest.raises(InvalidInputError, match="adjacent"):
        turbo.encode(photo(8, 16)[:, ::2], 80, "420")
    with pytest.raises(NativeLibraryError, match="does not encode a frame of 16 x 8"):
        turbo.encode(photo(8, 16), 101, "420")
    turbo.close()
    turbo.close()


def test_version_is_the_file_s_own(turbo):
    assert turbo.library.startswith("libturbojpeg")
    assert turbo.version is None or all(part.isdigit() for part in turbo.version.split("."))


def test_import_needs_numpy_alone():
    code = (
        "import sys; import edgejpeg.runtime.bench, edgejpeg.runtime.turbojpeg, edgejpeg.runtime.scenes; "
        "print([m for m in ('cv2', 'PIL', 'torch', 'tqdm') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/")
    assert done.stdout.strip() == "[]", done.stderr


def test_stages_are_medians_of_rounds_and_means_of_frames():
    taken = iter([99.0, 99.0, 1.0, 10.0, 2.0, 30.0, 30.0, 20.0])  # two frames, a warm-up and three rounds
    frames = [np.zeros((8, 8, 3), np.uint8)] * 2
    assert measure_stages(lambda frame: {"a": next(taken), "b": 1.0}, frames, 3) == {"a": (2.0 + 20.0) / 2, "b": 1.0}
