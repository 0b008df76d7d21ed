"""Trellis and trimming in the encoder: the float64 back end against the readable trellis, the others against it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from edgejpeg.design.opts import raw_water_level
from edgejpeg.jpeg import reference
from edgejpeg.jpeg.markers import parse_jpeg
from edgejpeg.jpeg.reference import component_blocks, quantize
from edgejpeg.jpeg.tables import ijg_tables
from edgejpeg.jpeg.trellis import trellis_quantize
from edgejpeg.profile import DeadZone, Profile
from edgejpeg.runtime import Encoder

DEFAULT_WEIGHT = 1.5


@pytest.fixture(scope="module")
def coding():
    """The readable decoder and coder of coefficients of the coefficients' tests."""
    path = Path(__file__).with_name("test_runtime_coefficients.py")
    spec = importlib.util.spec_from_file_location("coefficients", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def designed(subsampling="420", **changes) -> Profile:
    radius = np.add.outer(np.arange(8.0), np.arange(8.0))
    maps = [2.7e-4 * np.exp(-(((radius - 4) / 3.5) ** 2)), 3e-4 * np.exp(-radius / 1.7), 2e-4 * np.exp(-radius / 1.7)]
    settings = {"name": "t", "sensitivity": np.stack(maps), "water_level": 0.05, "chroma_water_level": 0.08}
    return Profile.adaptive(subsampling=subsampling, **(settings | changes))


def fixed(subsampling="420", quality=60, **changes) -> Profile:
    luma, chroma = ijg_tables(quality)
    return Profile.fixed(
        name="f", luma=luma, chroma=None if subsampling == "gray" else chroma, subsampling=subsampling, **changes
    )


def expected_levels(frame, profile, last, multiplier, trim, effort, zones=None):
    """The oracle's levels: weights s and lambda of the water level, or 1/q^2 and 1/12.

    At effort 0 the code lengths are those of the stored tables that the encoder chooses for rounded levels.
    """
    blocks = component_blocks(frame, profile.subsampling)
    rounded = []
    for c, coefficients in enumerate(blocks):
        slot = min(c, 1)
        rounded.append(quantize(coefficients, last.tables[slot], None if zones is None else zones[slot]))

    def weighed(ac_tables):
        levels = []
        for c, coefficients in enumerate(blocks):
            slot = min(c, 1)
            table = last.tables[slot]
            if profile.kind == "adaptive":
                weights = profile.sensitivity[c]
                level = raw_water_level((last.water_level, last.chroma_water_level)[slot], profile.sensitivity)
            else:
                weights, level = 1.0 / table.array.astype(float) ** 2, 1 / 12
            arguments = (table, weights, ac_tables[slot], multiplier * level)
            levels.append(trellis_quantize(coefficients, rounded[c], *arguments, trim_only=trim))
        return levels

    if effort == 0:
        plain = parse_jpeg(Encoder(profile, color="rgb").encode(frame)).huffman
        return weighed([plain[1, slot] for slot in range(min(len(blocks), 2))])

    def optimal(levels):
        tokens = list(reference._tokens(levels, profile.subsampling, frame.shape[:2]))
        slots = range(1 if profile.subsampling == "gray" else 2)
        return [reference._optimal(tokens, slot, is_ac=True) for slot in slots]

    # Two rounds: the lengths of the rounded levels' tables, then of those levels' tables.
    return weighed(optimal(weighed(optimal(rounded))))


@pytest.mark.parametrize("subsampling", ["420", "444", "gray"])
@pytest.mark.parametrize("effort", [0, 1])
@pytest.mark.parametrize(
    ("trellis", "multiplier"), [(True, DEFAULT_WEIGHT), (3.0, 3.0), ("trim", DEFAULT_WEIGHT)], ids=str
)
@pytest.mark.parametrize("make", [designed, fixed])
def test_the_float64_back_end_equals_the_oracle(
    coding, subsampling, effort, trellis, multiplier, make, photo, monkeypatch
):
    monkeypatch.setenv("EDGEJPEG_BACKEND", "reference")
    profile, frame = make(subsampling), photo(45, 61)
    frame = frame[..., 1].copy() if subsampling == "gray" else frame
    with Encoder(profile, color="rgb", effort=effort, trellis=trellis) as encoder:
        data, last = encoder.encode(frame), encoder.last
    levels = expected_levels(frame, profile, last, multiplier, trellis == "trim", effort)
    tables = [table for table in last.tables if table is not None]
    assert data == coding.code_as_the_reference(
        levels, tables, subsampling, frame.shape[:2], effort, parse_jpeg(data).huffman
    )
    assert data != Encoder(profile, color="rgb", effort=effort).encode(frame)


def test_with_dead_zones_and_wide_levels(coding, photo, monkeypatch):
    """Steps of 1 and 2, so that levels leave eight bits, and thresholds in front of the trellis."""
    monkeypatch.setenv("EDGEJPEG_BACKEND", "reference")
    zone = np.full((8, 8), 0.7)
    zone[0, 0] = 0.5
    profile = fixed(quality=99, dead_zone=DeadZone(zone, zone))
    frame = photo(40, 48)
    frame[8:16, :24] = np.random.default_rng(1).integers(0, 2, (8, 24, 1)) * 255
    with Encoder(profile, color="rgb", trellis=True) as encoder:
        data, last = encoder.encode(frame), encoder.last
    levels = expected_levels(frame, profile, last, DEFAULT_WEIGHT, False, 0, (zone, zone))
    assert max(np.abs(level[..., 1:]).max() for level in levels) > 127
    assert data == coding.code_as_the_reference(
        levels, last.tables, "420", frame.shape[:2], 0, parse_jpeg(data).huffman
    )


@pytest.mark.parametrize("make", [designed, fixed])
@pytest.mark.parametrize("quality", [50, 97])
def test_the_int16_back_ends_decide_nearly_alike(coding, make, quality, photo, monkeypatch):
    """Quality 97 is quantised by the float64 DCT, and weighed with the int16 one's coefficients."""
    profile = fixed(quality=quality) if make is fixed else designed(water_level=0.05 if quality == 50 else 0.0005)
    frame = photo(90, 120)
    fast = Encoder(profile, color="rgb", trellis=True).encode(frame)
    monkeypatch.setenv("EDGEJPEG_BACKEND", "reference")
    exact = Encoder(profile, color="rgb", trellis=True).encode(frame)
    different = total = 0
    for a, b in zip(coding.decode_coefficients(fast), coding.decode_coefficients(exact), strict=True):
        different += int((a != b).sum())
        total += a.size
    assert different <= 0.01 * total
    assert abs(len(fast) - len(exact)) <= 0.005 * len(exact)


@pytest.mark.parametrize("effort", [0, 1])
def test_fewer_bytes_for_more_error(effort, photo):
    profile, frame = designed(), photo(300, 400)
    sizes, errors = [], []
    for trellis in (False, "trim", True, 3.0):
        with Encoder(profile, color="rgb", effort=effort, trellis=trellis) as encoder:
            sizes.append(len(encoder.encode(frame)))
            errors.append(float(encoder.last.swe.sum()))
    assert sizes == sorted(sizes, reverse=True)
    assert errors == sorted(errors)
    assert sizes[2] < 0.97 * sizes[0]
