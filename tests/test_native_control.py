"""The compiled rate control against the readable one: the model, its inverse, and every step of the search."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgejpeg.design import ScaleModel, WaterLevelModel, find_water_level, image_statistics, laplace_entropy
from edgejpeg.design.control import invert
from edgejpeg.errors import InvalidInputError
from edgejpeg.jpeg.tables import ijg_tables
from edgejpeg.profile import load_profile
from edgejpeg.runtime.library import _Statistics


class Pair:
    """The same model of a frame in both languages, and the factor from Python's control to the compiled one's."""

    def __init__(self, hooks, statistics, *, profile=None, tables=None, effort=0, ratio=1.0, zones=None):
        self.library = hooks.library
        self.hooks = hooks
        raw = _Statistics()
        raw.components = statistics.channels
        for name in ("mean", "variance", "laplace_scale"):
            ctypes.memmove(getattr(raw, name), getattr(statistics, name).tobytes(), statistics.channels * 64 * 8)
        raw.blocks[: statistics.channels] = statistics.blocks.tolist()
        frame = hooks.FrameModel(statistics=ctypes.addressof(raw), effort=effort)
        self.factor = 1.0
        self.kept = [raw, *(np.ascontiguousarray(zone) for zone in zones or ())]
        for slot, zone in enumerate(self.kept[1:]):
            frame.dead_zone[slot] = zone.ctypes.data
        if profile is not None:
            self.python = WaterLevelModel(profile.sensitivity, statistics, profile.q_max, ratio, effort, zones)
            self.factor = 10 * float(profile.sensitivity[0].max())
            sensitivity = np.ascontiguousarray(profile.sensitivity)
            self.kept.append(sensitivity)
            frame.sensitivity = sensitivity.ctypes.data
            frame.q_max = profile.q_max
            frame.luma_water_level, frame.chroma_water_level = self.factor, self.factor * ratio
        else:
            self.python = ScaleModel(tables, statistics, effort, zones)
            arrays = [np.ascontiguousarray(table.array) for table in tables]
            self.kept += arrays
            for slot, array in enumerate(arrays):
                frame.tables[slot] = array.ctypes.data
        self.frame = frame

    def bytes(self, control):
        return self.library.hook_model_bytes(self.frame, control * self.factor)

    def invert(self, size, start):
        return self.library.hook_model_invert(self.frame, size, start * self.factor) / self.factor

    def search(self, budget, encode, start, max_encodes=2, estimate=None):
        """(met, control, size, encodes), and the controls that were tried."""
        tried = []

        def call(control):
            tried.append(control / self.factor)
            return encode(control / self.factor)

        found = np.zeros(3)
        guess = self.hooks.ESTIMATE(lambda control: estimate(control / self.factor) if estimate else 0.0)
        met = self.library.hook_search(
            self.frame,
            budget,
            start * self.factor,
            max_encodes,
            self.hooks.ENCODE(call),
            guess if estimate else self.hooks.ESTIMATE(),
            found,
        )
        return (bool(met), found[0] / self.factor, int(found[1]), int(found[2])), tried


@pytest.fixture(scope="module", params=["design", "design, other chroma", "gray", "dead zone", "scale", "effort 1"])
def pair(request, native_hooks, photo):
    profile = load_profile("efficientnet_lite0")
    frame = photo(120, 160)
    colour = image_statistics(frame, "420")
    zone = np.full((8, 8), 0.75)
    zone[0, 0] = 0.5
    return {
        "design": lambda: Pair(native_hooks, colour, profile=profile),
        "design, other chroma": lambda: Pair(native_hooks, colour, profile=profile, ratio=3.7),
        "gray": lambda: Pair(native_hooks, image_statistics(frame[..., 0], "gray"), profile=profile),
        "dead zone": lambda: Pair(native_hooks, colour, profile=profile, zones=[zone, zone * 0.5 + 0.25]),
        "scale": lambda: Pair(native_hooks, colour, tables=ijg_tables(50), effort=1),
        "effort 1": lambda: Pair(native_hooks, colour, profile=profile, effort=1),
    }[request.param]()


def test_laplace_entropy(native_hooks, rng):
    lam, q = rng.exponential(30, 300), rng.integers(1, 256, 300).astype(float)
    lam[:5] = 0, 1e-300, 1e-3, 1e5, 1e9
    for threshold in (0.5, 0.7, 1.0):
        expected = laplace_entropy(lam, q, threshold)
        found = [native_hooks.library.hook_laplace_entropy(a, b, threshold) for a, b in zip(lam, q, strict=True)]
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_the_models_agree(pair):
    for control in np.geomspace(1e-4, 300, 25):
        assert pair.bytes(control) == pytest.approx(pair.python.bytes(control), rel=1e-9)


def test_the_inverses_agree(pair):
    for size in (1, 300, 900, 1500, 3000, 6000, 12000, 10**7):
        for start in (1e-3, 1.0, 50.0):
            assert pair.invert(size, start) == pytest.approx(invert(pair.python, size, start), rel=1e-9)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    wrong=st.floats(0.3, 3),
    power=st.floats(0.3, 1.5),
    step=st.integers(1, 400),
    budget=st.integers(1, 30000),
    start=st.floats(1e-3, 1e3),
    max_encodes=st.integers(1, 4),
    off=st.none() | st.floats(0.9, 1.1),
)
def test_the_searches_take_the_same_steps(pair, wrong, power, step, budget, start, max_encodes, off):
    """Files that are a power of the model's size, times a factor, in steps; estimates that are off by a factor."""

    def encode(control):
        return int(wrong * 2000 * (pair.python.bytes(control) / 2000) ** power) // step * step

    estimate = None if off is None else lambda control: off * encode(control)
    tried = []

    def traced(control):
        tried.append(control)
        return encode(control)

    try:
        match = find_water_level(pair.python, budget, traced, start, max_encodes, estimate)
        expected = (True, match.control, match.size, match.encodes)
    except InvalidInputError:
        expected = (False, tried[-1], encode(tried[-1]), len(tried))
    found, found_tried = pair.search(budget, encode, start, max_encodes, estimate)
    np.testing.assert_allclose(found_tried, tried, rtol=1e-9)
    assert found == (expected[0], pytest.approx(expected[1], rel=1e-9), *expected[2:])
