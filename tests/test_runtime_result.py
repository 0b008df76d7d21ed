"""Encoder.last: each figure against the file, or against NumPy in float64."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from edgejpeg.design.statistics import image_statistics
from edgejpeg.errors import BudgetError, BufferTooSmallError, InvalidInputError
from edgejpeg.jpeg.reference import component_blocks, quantize
from edgejpeg.jpeg.tables import QuantTable, ijg_tables
from edgejpeg.profile import Level, Profile, load_profile
from edgejpeg.runtime import Encoder
from edgejpeg.runtime.result import SEGMENTS, STAGES


def fixed(quality: int, subsampling: str = "420") -> Profile:
    luma, chroma = ijg_tables(quality)
    return Profile.fixed(name="f", luma=luma, chroma=None if subsampling == "gray" else chroma, subsampling=subsampling)


def segments_of(data: bytes) -> dict[str, int]:
    """Walks the markers of a file with one scan."""
    names = {0xFE: "comment", 0xDB: "quantization", 0xC0: "frame", 0xC4: "huffman", 0xDA: "scan_headers"}
    sizes = dict.fromkeys(SEGMENTS, 0) | {"other": 4}
    at = 2
    while True:
        marker, length = data[at + 1], 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        sizes["app" if 0xE0 <= marker <= 0xEF else names[marker]] += length
        at += length
        if marker == 0xDA:
            return sizes | {"entropy_coded": len(data) - 2 - at}


@pytest.mark.parametrize("effort", [0, 1])
def test_segments_add_up(effort, photo):
    frame = photo(70, 90)
    for profile, comment in ((load_profile("efficientnet_lite0"), True), (fixed(60, "gray"), False)):
        with Encoder(profile, effort=effort, comment=comment) as encoder:
            assert encoder.last is None
            data = encoder.encode(frame)
            last = encoder.last
        assert last.segments == segments_of(data)
        assert sum(last.segments.values()) == last.size == len(data)
        assert last.milliseconds is None
        assert (last.segments["comment"] > 0) == comment


@pytest.mark.parametrize("subsampling", ["444", "422", "420", "gray"])
@pytest.mark.parametrize("quality", [30, 75, 98])
def test_swe_against_numpy(subsampling, quality, photo, monkeypatch):
    """Quality 98 is quantised by the float64 DCT; the reference back end does everything in it."""
    frame, profile = photo(75, 90), fixed(quality, subsampling)
    image = frame[..., 0].copy() if subsampling == "gray" else frame
    expected = []
    for c, blocks in enumerate(component_blocks(image, subsampling)):
        table = profile.luma if c == 0 else profile.chroma
        expected.append(float(((blocks - table.array * quantize(blocks, table)) ** 2).sum()))
    for threads in (1, 3):
        with Encoder(profile, color="rgb", measure=True, threads=threads) as encoder:
            encoder.encode(image)
            found = encoder.last.swe
        np.testing.assert_allclose(found, expected, rtol=0.02 if quality < 98 else 0.1)
    monkeypatch.setenv("EDGEJPEG_BACKEND", "reference")
    with Encoder(profile, color="rgb", measure=True) as encoder:
        encoder.encode(image)
        np.testing.assert_allclose(encoder.last.swe, expected, rtol=1e-9)


def test_swe_is_weighted_by_the_sensitivities_and_that_of_the_file_that_was_taken(photo, monkeypatch):
    """After a search, whose last try need not be the one that was taken."""
    monkeypatch.setenv("EDGEJPEG_BACKEND", "reference")
    profile, frame = load_profile("efficientnet_lite0"), photo(90, 100)
    for budget in (1500, 2500, 4000, 9000, 14000):
        with Encoder(profile, color="rgb", max_bytes=budget) as encoder:
            encoder.encode(frame)
            last = encoder.last
            found = last.swe
        for c, blocks in enumerate(component_blocks(frame, "420")):
            table = last.tables[min(c, 1)]
            errors = ((blocks - table.array * quantize(blocks, table)) ** 2).sum((0, 1))
            assert found[c] == pytest.approx(float((profile.sensitivity[c] * errors).sum()), rel=1e-9)


def test_swe_of_a_search_is_that_of_the_level_it_found(photo):
    profile, frame = load_profile("efficientnet_lite0"), photo(200, 300)
    for budget in (3000, 9000, 20000):
        with Encoder(profile, max_bytes=budget, effort=1, trellis=True) as encoder:
            encoder.encode(frame)
            found, level = encoder.last.swe, encoder.last.water_level
        with Encoder(profile, water_level=level, effort=1, trellis=True) as again:
            again.encode(frame)
            np.testing.assert_allclose(found, again.last.swe, rtol=1e-12)


def test_what_a_fixed_profile_has(photo):
    frame = photo(40, 50)
    with Encoder(fixed(50), color="rgb") as encoder:
        encoder.encode(frame)
        last = encoder.last
    assert last.tables == ijg_tables(50)
    assert (last.scale, last.water_level, last.level, last.encodes, last.statistics) == (1.0, None, None, 1, None)


def test_what_is_measured_on_request(photo):
    frame = photo(40, 50)
    with Encoder(fixed(50), color="rgb") as plain, Encoder(fixed(50), color="rgb", measure=True) as encoder:
        assert plain.encode(frame) == encoder.encode(frame)
        assert plain.last.swe is None
        expected = image_statistics(frame, "420", center=False)
        np.testing.assert_allclose(encoder.last.statistics.variance, expected.variance, rtol=0.02, atol=0.1)
        np.testing.assert_array_equal(encoder.last.statistics.variance, encoder.statistics.variance)


def test_swe_belongs_to_one_frame(photo):
    with Encoder("efficientnet_lite0") as encoder:
        encoder.encode(photo(40, 50))
        first = encoder.last
        value = first.swe
        encoder.encode(photo(50, 40))
        with pytest.raises(InvalidInputError, match="another frame since"):
            _ = first.swe
        assert (encoder.last.swe != value).any()
        kept = encoder.last
    with pytest.raises(InvalidInputError, match="closed"):
        _ = kept.swe


@pytest.mark.parametrize("threads", [1, 3])
def test_time_by_stage(threads, photo):
    frame = photo(300, 400)
    ladder = Profile.ladder(name="l", levels=[Level(0.5 + i, *ijg_tables(q)) for i, q in enumerate((30, 70))])
    for profile, options in (
        (load_profile("efficientnet_lite0"), {}),
        (load_profile("efficientnet_lite0"), {"effort": 1, "trellis": True, "max_bytes": 12000}),
        (fixed(60), {}),
        (ladder, {"slope": 100.0}),
    ):
        with Encoder(profile, timing=True, threads=threads, **options) as encoder:
            encoder.encode(frame)
            first = encoder.last.milliseconds
            assert tuple(first) == STAGES
            assert all(value > 0 for value in first.values())
            for _ in range(3):  # of a frame, and not of all so far
                encoder.encode(frame)
            assert sum(encoder.last.milliseconds.values()) < 1000


def test_options_survive_a_pickle(photo):
    frame = photo(80, 90)
    options = {"max_bytes": 4000, "trellis": 2.0, "measure": True, "timing": True, "comment": True, "effort": 1}
    with Encoder("efficientnet_lite0", **options) as encoder, pickle.loads(pickle.dumps(encoder)) as copy:
        assert copy.encode(frame) == encoder.encode(frame)
        assert copy.last.milliseconds is not None
        assert isinstance(copy.last.tables[0], QuantTable)


def test_last_after_frames_that_were_not_encoded(photo):
    encoder = Encoder("efficientnet_lite0", max_bytes=4000)
    assert encoder.last is None
    first = encoder.encode(photo(60, 80))
    assert encoder.last.size == len(first)
    with pytest.raises(InvalidInputError, match="dtype uint8"):
        encoder.encode(photo(60, 80).astype(np.float32))
    assert encoder.last.size == len(first)
    with pytest.raises(BufferTooSmallError) as caught:
        encoder.encode(photo(50, 70), out=bytearray(10))
    assert encoder.last.size == caught.value.needed
    with pytest.raises(BudgetError):
        encoder.encode(np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8))
    assert encoder.last is None
    assert encoder.encode(photo(60, 80)) == first


@pytest.mark.parametrize("options", [{"max_bytes": 2500}, {"target_bpp": 1.5, "comment": True}, {"trellis": True}])
def test_encode_many_and_copies_keep_all_settings(options, photo):
    encoder = Encoder("efficientnet_lite0", yuv_range="full", measure=True, **options)
    frames = [photo(60 + i, 80) for i in range(5)]
    expected = [encoder.encode(frame) for frame in frames]
    assert list(encoder.encode_many(frames, workers=2)) == expected
    assert encoder.last.size == len(expected[-1])
    copy = pickle.loads(pickle.dumps(encoder))
    assert [copy.encode(frame) for frame in frames] == expected


def test_the_level_of_one_frame_and_a_buffer(photo):
    levels = [Level(rate, *ijg_tables(quality)) for quality, rate in ((30, 0.5), (70, 1.0), (90, 2.0))]
    encoder = Encoder(Profile.ladder(name="l", levels=levels))
    frame = photo(40, 50)
    buffer = bytearray(20000)
    coarse = bytes(encoder.encode(frame, out=buffer, level=0))
    assert encoder.last.level == 0
    assert coarse == encoder.encode(frame, level=0)
    assert len(coarse) < len(encoder.encode(frame))
    assert encoder.last.level == 2
    assert list(encoder.encode_many([frame] * 3, workers=2)) == [encoder.encode(frame)] * 3
