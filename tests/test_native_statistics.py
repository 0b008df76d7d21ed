"""The sums of coefficients of all back ends against NumPy, to the last unit."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

BACKENDS = ("scalar", "avx2", "avx512", "neon")
LARGEST = 30900
"""No coefficient of the int16 DCT is larger."""
MOST_PAIRS = 256


@pytest.fixture(params=BACKENDS)
def accumulate(request, native_hooks):
    """(pairs, 8 u, 2 blocks, 8 v) int16 -> sums (3, 8 u, 8 v): values, magnitudes, squares, on top of `before`."""
    function = native_hooks.library.hook_accumulate
    function.restype = ctypes.c_int32
    function.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    name = request.param.encode()
    if not function(name, None, 0, np.zeros((3, 8, 8), np.int64).ctypes.data):
        pytest.skip(f"this machine's processor has no {request.param} back end")

    def sums(coefficients, before=0):
        coefficients = np.ascontiguousarray(coefficients, np.int16)
        out = np.full((3, 8, 8), before, np.int64)
        function(name, coefficients.ctypes.data, len(coefficients), out.ctypes.data)
        return out

    return sums


def expected(coefficients, before=0):
    values = np.asarray(coefficients, np.int64)
    return np.stack([f(values).sum(axis=(0, 2)) for f in (np.array, np.abs, np.square)]) + before


@pytest.mark.parametrize("scale", [3, 60, 400, 6000])
def test_random_coefficients(scale, accumulate, rng):
    for pairs in (*range(1, 10), 31, 32, 33, MOST_PAIRS - 1, MOST_PAIRS):
        coefficients = np.clip(rng.laplace(0, scale, (pairs, 8, 2, 8)), -LARGEST, LARGEST).astype(np.int16)
        coefficients[:, 0, :, 0] = rng.integers(-LARGEST, LARGEST + 1, (pairs, 2))
        before = int(rng.integers(-(10**12), 10**12))
        np.testing.assert_array_equal(accumulate(coefficients, before), expected(coefficients, before))


@pytest.mark.parametrize("value", [-LARGEST, LARGEST])
@pytest.mark.parametrize("pairs", [1, 2, 3, 32, MOST_PAIRS])
def test_extreme_coefficients(pairs, value, accumulate):
    coefficients = np.full((pairs, 8, 2, 8), value, np.int16)
    np.testing.assert_array_equal(accumulate(coefficients), expected(coefficients))
    coefficients[::2] *= -1
    np.testing.assert_array_equal(accumulate(coefficients), expected(coefficients))


@pytest.mark.parametrize("total", [2**15 - 1, 2**15, 2**16 - 1, 2**16, 2**17])
def test_sums_at_the_limits_of_sixteen_bits(total, accumulate, rng):
    """One frequency of one block whose magnitudes sum to `total`, all of one sign: at every place in turn."""
    for u in range(8):
        for v in range(8):
            for block, sign in ((0, 1), (1, -1)):
                coefficients = rng.integers(-9, 10, (33, 8, 2, 8)).astype(np.int16)
                share = np.full(33, total // 33)
                share[0] += total - share.sum()
                coefficients[:, u, block, v] = sign * share
                np.testing.assert_array_equal(accumulate(coefficients), expected(coefficients))
