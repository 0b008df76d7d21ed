"""Raw video: its frames, its damage, and ``edgejpeg encode --raw``."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from edgejpeg import cli
from edgejpeg.errors import DataError, InvalidInputError
from edgejpeg.runtime import Encoder, encode_jpeg
from edgejpeg.runtime.pixels import size_of
from edgejpeg.runtime.raw import RAW_COLORS, RawSource, raw_shape, read_raw

PROFILE = "efficientnet_lite0"


@pytest.mark.parametrize("color", RAW_COLORS)
def test_frames(color, rng, tmp_path):
    frames = rng.integers(0, 256, (4, *raw_shape(14, 6, color)), dtype=np.uint8)
    path = tmp_path / "clip.yuv"
    path.write_bytes(frames.tobytes())
    for source in (path, str(path), io.BytesIO(frames.tobytes())):
        read = list(read_raw(source, 14, 6, color))
        np.testing.assert_array_equal(read, frames)
    assert not np.shares_memory(read[0], read[1])
    Encoder(PROFILE, "bgr" if color == "gray" else color).encode(read[0])


def test_pipes_that_give_little_at_a_time(rng):
    frames = rng.integers(0, 256, (2, 9, 4), dtype=np.uint8)
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb", buffering=0) as out:
        for byte in frames.tobytes():
            out.write(bytes([byte]))
    with os.fdopen(reader, "rb", buffering=0) as stream:
        np.testing.assert_array_equal(list(read_raw(stream, 4, 6, "nv12")), frames)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 8, "bgr"), "1 to 65535 pixels wide and high; got 0x8"),
        ((8, 65536, "bgr"), "got 8x65536"),
        ((7, 8, "nv12"), "the width and height are even with nv12; got 7x8"),
        ((8, 7, "i420"), "the width and height are even with i420; got 8x7"),
        ((7, 8, "yuyv"), "the width is even with yuyv; got 7x8"),
        ((8, 8, "yv12"), "color is one of bgr, .* gray; got 'yv12'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(InvalidInputError, match=message):
        raw_shape(*arguments)


def test_damage(tmp_path):
    path = tmp_path / "a.yuv"
    path.write_bytes(bytes(250))
    frames = read_raw(path, 8, 8, "rgb")
    next(frames)
    with pytest.raises(DataError, match=r"a\.yuv ends in frame 1, after 58 of its 192 bytes; is it 8x8 rgb\?"):
        next(frames)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="ends in frame 0, after 0 of its 192 bytes"):
        list(read_raw(path, 8, 8, "rgb"))
    with pytest.raises(DataError, match=r"cannot read .*none: No such file"):
        list(read_raw(tmp_path / "none", 8, 8, "rgb"))


@pytest.mark.parametrize(
    ("options", "indices"),
    [({}, [0, 1, 2, 3, 4]), ({"every": 2}, [0, 2, 4]), ({"limit": 2}, [0, 1]), ({"every": 3, "limit": 1}, [0])],
)
def test_a_source_of_frames(options, indices, rng, tmp_path):
    frames = rng.integers(0, 256, (5, 12, 8), dtype=np.uint8)
    path = tmp_path / "a.yuv"
    path.write_bytes(frames.tobytes())
    with RawSource(path, 8, 8, "nv12", **options) as source:
        assert (source.color, source.total) == ("nv12", len(indices))
        got = list(source)
    assert [(frame.index, frame.name) for frame in got] == [(i, f"a.yuv#{i}") for i in indices]
    for frame in got:
        np.testing.assert_array_equal(frame.image, frames[frame.index])
        assert size_of(frame.image, "nv12") == (8, 8)
    with RawSource(io.BytesIO(frames.tobytes()), 8, 12, "gray", **options) as source:
        assert source.color == "bgr"
        assert source.total == options.get("limit")
        assert len(list(source)) == len(indices)


def test_a_source_that_is_cut(tmp_path):
    path = tmp_path / "a.yuv"
    path.write_bytes(bytes(250))
    with RawSource(path, 8, 8, "rgb", on_error="skip") as source:
        assert len(list(source)) == 1
        assert "ends in frame 1" in source.problems[0]
    with RawSource(path, 8, 8, "rgb") as source, pytest.raises(DataError, match="ends in frame 1"):
        list(source)
    with pytest.raises(DataError, match="cannot read"):
        RawSource(tmp_path / "none", 8, 8, "rgb")
    with pytest.raises(InvalidInputError, match="limit"):
        RawSource(path, 8, 8, "rgb", limit=0)


# --- edgejpeg encode --raw ---


@pytest.fixture
def clip(rng, tmp_path):
    frames = rng.integers(0, 256, (3, 36, 32), dtype=np.uint8)
    path = tmp_path / "clip.yuv"
    path.write_bytes(frames.tobytes())
    return path, frames


def test_every_frame_becomes_a_file(clip, tmp_path, capsys):
    path, frames = clip
    out = tmp_path / "out"
    raw = ["--raw", "32x24", "--color", "nv12"]
    assert cli.main(["encode", *raw, str(path), "-p", PROFILE, "-o", str(out), "--json"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(r["frame"], r["width"], r["height"]) for r in records] == [(0, 32, 24), (1, 32, 24), (2, 32, 24)]
    encoder = Encoder(PROFILE, "nv12")
    for index, frame in enumerate(frames):
        data = (out / f"{index:06}.jpg").read_bytes()
        assert data == encoder.encode(frame)
        assert records[index]["bytes"] == len(data)
    options = ["--quality", "80", "--yuv-range", "full", "--subsampling", "444"]
    assert cli.main(["encode", *raw, str(path), *options, "-o", str(out)]) == 0
    expected = encode_jpeg(frames[2], quality=80, subsampling="444", color="nv12", yuv_range="full")
    assert (out / "000002.jpg").read_bytes() == expected
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_the_standard_input(clip, tmp_path):
    path, frames = clip
    command = [sys.executable, "-m", "edgejpeg", "encode", "--raw", "32x36", "--color", "gray", "-", "--quality", "70"]
    with path.open("rb") as stream:
        subprocess.run([*command, "-o", tmp_path / "out"], stdin=stream, check=True, capture_output=True, timeout=60)
    for index, frame in enumerate(frames):
        assert (tmp_path / "out" / f"{index:06}.jpg").read_bytes() == encode_jpeg(frame, quality=70)


def test_a_truncated_clip(clip, tmp_path, capsys):
    path, _ = clip
    path.write_bytes(path.read_bytes()[:-5])
    argv = ["encode", "--raw", "32x24", "--color", "i420", str(path), "-p", PROFILE, "-o", str(tmp_path / "out")]
    assert cli.main(argv) == 1
    assert "skipped: " in capsys.readouterr().err
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["000000.jpg", "000001.jpg"]
    assert cli.main([*argv, "--on-error", "fail"]) == 1
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--raw", "32x25", "--color", "nv12"], 2, "the width and height are even with nv12; got 32x25"),
        (["--raw", "32"], 2, "'32' is no size; write WIDTHxHEIGHT"),
        (["--color", "nv12"], 2, "--color and --yuv-range are those of raw video; give its size, --raw WxH"),
        (["--yuv-range", "full"], 2, "those of raw video"),
        (["b.yuv", "--raw", "32x36", "--color", "gray"], 2, "--raw takes one file, or - for the standard input; got 2"),
    ],
)
def test_wrong_usage(options, code, message, clip, tmp_path, capsys):
    argv = ["encode", str(clip[0]), *options, "-p", PROFILE, "-o", str(tmp_path / "out")]
    try:
        result = cli.main(argv)
    except SystemExit as end:
        result = end.code
    assert result == code
    assert message in capsys.readouterr().err


def test_a_folder_is_needed(clip, tmp_path, capsys):
    argv = ["encode", str(clip[0]), "--raw", "32x36", "--color", "gray", "-p", PROFILE, "-o", str(tmp_path / "a.jpg")]
    assert cli.main(argv) == 2
    assert "with --raw, -o is a folder" in capsys.readouterr().err
