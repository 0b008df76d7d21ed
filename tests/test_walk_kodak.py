"""`edgejpeg encode` on lossless photos: the tables in the files equal a second implementation of OptS, from the text.

What is expected is computed without edgejpeg: SciPy's DCT, the distortion as a sum over the quantizer's cells, the
largest step by trying all of them.
"""

from __future__ import annotations

import numpy as np
import pytest

from edgejpeg import cli
from edgejpeg.profile import load_profile

Image = pytest.importorskip("PIL.Image", reason="Pillow, which reads the tables back, is not installed")
scipy_fft = pytest.importorskip("scipy.fft", reason="SciPy, whose DCT is the second implementation's, is not installed")

STEPS = np.arange(1, 101, dtype=np.longdouble)


def _planes(rgb: np.ndarray, cell: tuple[int, int]) -> list[np.ndarray]:
    """Y, Cb, Cr as a file codes them: chroma averaged over its cell, then rounded to whole numbers, halves up."""
    red, green, blue = np.moveaxis(rgb.astype(np.int64), 2, 0)
    luma = ((19595 * red + 38470 * green + 7471 * blue + 2**15) >> 16) - 128
    height, width = luma.shape
    means = [
        c.reshape(height // cell[0], cell[0], width // cell[1], cell[1]).swapaxes(1, 2).sum((2, 3))
        / (cell[0] * cell[1])
        for c in (red, green, blue)
    ]
    cb = np.floor((-11059 * means[0] - 21709 * means[1] + 32768 * means[2]) / 65536 + 0.5)
    cr = np.floor((32768 * means[0] - 27439 * means[1] - 5329 * means[2]) / 65536 + 0.5)
    return [luma, np.minimum(cb, 127), np.minimum(cr, 127)]


def _distortion(lam: float) -> np.ndarray:
    """[OptS eq. 12-14] for q = 1..100: a dead zone (-z, z), then cells of width q with centroids at multiples of q."""
    if lam == 0:
        return np.zeros(100)
    lam = np.longdouble(lam)
    ratio = STEPS / lam
    gap = -np.expm1(-ratio)  # 1 - u
    z = STEPS / gap - lam
    return np.asarray(2 * lam**2 - np.exp(-z / lam) * STEPS**2 * (2 - gap) / gap**2, dtype=float)


def _step(s: float, variance: float, lam: float, level: float, is_dc: bool) -> int:
    if s * variance < level:
        return 100
    if is_dc:
        return max(1, min(100, int(np.floor(np.sqrt(12 * level / s)))))
    feasible = np.flatnonzero(_distortion(lam) <= level / s)
    return int(feasible[-1]) + 1 if len(feasible) else 1


def _moments(rgb: np.ndarray, cell: tuple[int, int]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Variance and lam, the mean of |C| [OptS eq. 12 as printed], of Y, Cb, Cr."""
    moments = []
    for plane in _planes(rgb, cell):
        blocks = plane.reshape(plane.shape[0] // 8, 8, plane.shape[1] // 8, 8).swapaxes(1, 2).reshape(-1, 8, 8)
        coefficients = scipy_fft.dctn(blocks.astype(float), axes=(1, 2), norm="ortho").reshape(-1, 64)
        moments.append((coefficients.var(0), np.abs(coefficients).mean(0)))
    return moments


def _expected(
    moments: list[tuple[np.ndarray, np.ndarray]], sensitivity: np.ndarray, water_level: float
) -> list[list[int]]:
    """[OptS Algorithms 1 and 2], row-major."""
    level = water_level * 10 * sensitivity[0].max()
    luma, chroma = [], []
    s_y, s_cb, s_cr = sensitivity.reshape(3, 64)
    for i in range(64):
        luma.append(_step(s_y[i], moments[0][0][i], moments[0][1][i], level, i == 0))
        cb, cr = ((s[i], v[i], lam[i]) for s, (v, lam) in ((s_cb, moments[1]), (s_cr, moments[2])))
        cb_below, cr_below = (s * v < level for s, v, _ in (cb, cr))
        if cb_below and cr_below:  # case 1
            chroma.append(100)
        elif cr_below:  # case 2
            chroma.append(_step(*cb, level, i == 0))
        elif cb_below:  # case 3
            chroma.append(_step(*cr, level, i == 0))
        elif i == 0:  # case 4
            chroma.append(max(1, min(100, int(np.floor(np.sqrt(12 * level / max(cb[0], cr[0])))))))
        else:
            chroma.append(min(_step(*cb, level, False), _step(*cr, level, False)))
    return [luma, chroma]


WALKS = pytest.mark.parametrize(
    ("name", "cell", "water_level"),
    [
        ("efficientnet_lite0", (2, 2), None),
        ("efficientnet_lite0", (2, 2), 0.02),
        ("efficientnet_lite0-444", (1, 1), 0.2),
    ],
)


def _encode(shared_data, folder, name, water_level):
    """The tables that `edgejpeg encode` wrote, with each photo's statistics."""
    photos = sorted((shared_data / "images" / "kodak").glob("*.png"))
    assert len(photos) == 16
    options = [] if water_level is None else ["--water-level", str(water_level)]
    argv = ["encode", str(shared_data / "images" / "kodak"), "-p", name, "-o", str(folder), *options]
    assert cli.main(argv) == 0
    for photo in photos:
        written = Image.open(folder / f"{photo.stem}.jpg").quantization
        yield np.asarray(Image.open(photo).convert("RGB")), [list(written[0]), list(written[1])]


@WALKS
def test_tables_of_encode_read_back_by_pillow(name, cell, water_level, shared_data, tmp_path, monkeypatch):
    """In float64 (the reference back end) every step is the one expected."""
    monkeypatch.setenv("EDGEJPEG_BACKEND", "reference")
    profile = load_profile(name)
    for rgb, written in _encode(shared_data, tmp_path, name, water_level):
        assert written == _expected(_moments(rgb, cell), profile.sensitivity, water_level or profile.water_level)


@WALKS
def test_tables_in_fixed_point_are_those_of_nearly_the_same_statistics(name, cell, water_level, shared_data, tmp_path):
    """The fast back ends' int16 DCT moves variance and lam a little; the step lies between those at both ends.

    The DCT's rounding adds noise of about .03 squared to a variance and at most .03 to a lam; beside that 0.1 %.
    """
    profile = load_profile(name)
    differing = total = 0
    for rgb, written in _encode(shared_data, tmp_path, name, water_level):
        moments = _moments(rgb, cell)
        level = water_level or profile.water_level
        ends = []
        for sign in (-1, 1):
            moved = [
                (
                    np.maximum(v * (1 + sign * 1e-3) + sign * 0.03, 0),
                    np.maximum(lam * (1 + sign * 1e-3) + sign * 0.03, 0),
                )
                for v, lam in moments
            ]
            ends.append(np.array(_expected(moved, profile.sensitivity, level)))
        assert (np.minimum(*ends) <= written).all()
        assert (written <= np.maximum(*ends)).all()
        differing += int((_expected(moments, profile.sensitivity, level) != np.array(written)).sum())
        total += 128
    assert differing <= 0.015 * total
