"""The estimate of a file's size against real files, its gradient against finite differences of their bytes."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgejpeg.errors import InvalidInputError  # noqa: E402
from edgejpeg.jpeg import huffman  # noqa: E402
from edgejpeg.jpeg.reference import component_blocks, encode_reference  # noqa: E402
from edgejpeg.jpeg.tables import QuantTable, ijg_tables  # noqa: E402
from edgejpeg.learn.entropy import STORED_CHOICES, file_bytes, optimal_lengths  # noqa: E402
from edgejpeg.learn.transform import coefficients_from_rgb  # noqa: E402
from edgejpeg.profile import DeadZone, Profile  # noqa: E402
from edgejpeg.runtime.encoder import Encoder  # noqa: E402
from edgejpeg.runtime.once import encode_jpeg  # noqa: E402


def coefficients(image, subsampling):
    return [torch.from_numpy(blocks.astype(np.float32))[None] for blocks in component_blocks(image, subsampling)]


def steps_of(tables):
    luma, chroma = (torch.tensor(np.asarray(table), dtype=torch.float32) for table in tables)
    return [luma, chroma, chroma]


def estimate(image, tables, subsampling="420", effort=1, thresholds=None):
    levels = [c / q for c, q in zip(coefficients(image, subsampling), steps_of(tables), strict=False)]
    if thresholds is not None:
        thresholds = [torch.tensor(t, dtype=torch.float32) for t in thresholds]
    steps = steps_of(tables)[:2]
    return float(file_bytes(levels, image.shape[:2], subsampling, effort=effort, thresholds=thresholds, steps=steps))


@pytest.mark.parametrize("effort", [0, 1])
@pytest.mark.parametrize("subsampling", ["420", "422", "444", "gray"])
def test_within_three_per_cent_of_real_files(photo, subsampling, effort):
    errors = []
    for height, width in ((224, 224), (251, 333), (320, 480)):
        image = photo(height, width)
        for quality in (10, 30, 60, 80, 90, 95):
            real = len(encode_jpeg(image, quality=quality, subsampling=subsampling, effort=effort))
            if 0.3 <= real * 8 / (height * width) <= 4:
                errors.append(estimate(image, ijg_tables(quality), subsampling, effort) / real - 1)
    assert len(errors) >= 9
    assert np.abs(errors).max() < 0.02
    assert abs(np.mean(errors)) < 0.005


def test_within_three_per_cent_on_real_data(shared_data):
    image_module = pytest.importorskip("PIL.Image")
    files = sorted((shared_data / "images" / "imagenet-val800").glob("*.JPEG"))[::80]
    files += sorted((shared_data / "images" / "kodak").glob("*"))[::6]
    errors = []
    for file in files:
        image = np.asarray(image_module.open(file).convert("RGB"))
        for quality in (20, 50, 75, 92):
            for effort in (0, 1):
                real = len(encode_jpeg(image, quality=quality, effort=effort))
                if 0.3 <= real * 8 / image[..., 0].size <= 4:
                    errors.append(estimate(image, ijg_tables(quality), effort=effort) / real - 1)
    assert len(errors) > 60
    assert np.abs(errors).max() < 0.02


def test_synthetic_images(rng):
    ramp = np.broadcast_to(np.arange(96, dtype=np.uint8)[:, None, None], (96, 80, 3)).copy()
    noise = rng.integers(0, 256, (64, 72, 3), dtype=np.uint8)
    for image in (ramp, noise, np.full((40, 24, 3), 77, np.uint8)):
        for quality in (20, 75, 98):
            for effort in (0, 1):
                data = encode_jpeg(image, quality=quality, effort=effort)
                # Where content repeats, so do bytes of 0xFF: more or fewer are stuffed than in the mean.
                real = len(data) - data.count(b"\xff\x00")
                assert estimate(image, ijg_tables(quality), effort=effort) == pytest.approx(real, rel=0.01, abs=3)


def test_each_image_takes_the_cheapest_stored_tables(photo):
    image, tables = photo(160, 160), ijg_tables(70)
    levels = [c / q for c, q in zip(coefficients(image, "420"), steps_of(tables), strict=True)]

    def size(luma_ac):
        annex_k = huffman.STANDARD_TABLES
        stored = (((annex_k[0, 0],), luma_ac), ((annex_k[0, 1],), (annex_k[1, 1],)))
        return float(file_bytes(levels, (160, 160), "420", effort=0, stored=stored))

    standard = size((huffman.STANDARD_AC_LUMA,))
    assert standard == pytest.approx(len(encode_reference(image, tables, "420", effort=0)), rel=0.005)
    poor = huffman.optimal_table(np.eye(256, dtype=np.int64)[0])  # codes the end of a block alone
    assert size((huffman.STANDARD_AC_LUMA, poor)) == standard
    sizes = [size((table,)) for table in STORED_CHOICES[0][1]]
    assert size(STORED_CHOICES[0][1]) == min(sizes) < standard


def test_a_batch_is_its_images(photo):
    image, tables = photo(96, 200), ijg_tables(60)
    left, right = image[:, :96], image[:, 104:]
    parts = [coefficients(np.ascontiguousarray(part), "420") for part in (left, right)]
    levels = [torch.cat(pair) / q for pair, q in zip(zip(*parts, strict=True), steps_of(tables), strict=True)]
    both = file_bytes(levels, (96, 96), "420")
    assert both.tolist() == pytest.approx([estimate(left, tables), estimate(right, tables)], rel=1e-6)


def test_blocks_of_padding_do_not_count(photo):
    image, tables = photo(43, 61), ijg_tables(70)
    rgb = torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32))[None]
    whole_mcus = [c / q for c, q in zip(coefficients_from_rgb(rgb, "420"), steps_of(tables), strict=True)]
    assert whole_mcus[0].shape[1:3] == (6, 8)  # two MCUs of padding blocks more than the 6 x 8 of the image
    real = len(encode_jpeg(image, quality=70, effort=1))
    assert float(file_bytes(whole_mcus, (43, 61), "420")) == pytest.approx(real, rel=0.01)


def dead_zone_bytes(image, tables, zones, effort):
    profile = Profile.fixed(name="z", luma=tables[0], chroma=tables[1], dead_zone=DeadZone(*zones), effort=effort)
    return len(Encoder(profile, color="rgb").encode(image))


def test_dead_zone_thresholds(photo, rng):
    image, tables = photo(96, 128), ijg_tables(80)
    zones = rng.uniform(0.5, 1.0, (2, 8, 8))
    zones[:, 0, 0] = 0.5
    # At effort 0 the encoder chooses from two of these six rows, not always the best table.
    for effort, tolerance in ((0, 0.02), (1, 0.01)):
        real = dead_zone_bytes(image, tables, zones, effort)
        assert estimate(image, tables, effort=effort, thresholds=zones) == pytest.approx(real, rel=tolerance)
        assert real < 0.98 * len(encode_jpeg(image, tables=tables, effort=effort))


def test_lengths_are_those_of_the_optimal_table(rng):
    fibonacci = [1, 1]
    while len(fibonacci) < 30:
        fibonacci.append(fibonacci[-1] + fibonacci[-2])
    skewed = np.zeros(256)
    skewed[:30] = fibonacci  # Huffman's own codes would have 30 bits
    cases = [skewed, np.eye(256)[7] * 5, *(np.floor(rng.pareto(0.7, 256)) for _ in range(10))]
    for counts in cases:
        lengths = np.zeros(256)
        for symbol, (_, length) in huffman.optimal_table(counts.astype(np.int64)).codes().items():
            lengths[symbol] = length
        ours = optimal_lengths(counts)
        assert ((ours > 0) == (counts > 0)).all() and ours.max() <= 16
        assert ours @ counts == pytest.approx(lengths @ counts, rel=2e-3, abs=1)


def test_rate_falls_as_steps_rise(photo):
    image = photo(224, 224)
    blocks = coefficients(image, "420")
    for effort in (0, 1):
        sizes = []
        for q in np.geomspace(2, 120, 30):
            sizes.append(float(file_bytes([c / q for c in blocks], (224, 224), "420", effort=effort)))
        assert (np.diff(sizes) < 0).all()


def scaled(tables, rows, factor):
    """Luma steps of some rows times a factor, rounded to what a file holds."""
    luma = np.asarray(tables[0], dtype=float).copy()
    luma[rows] *= factor
    return QuantTable(luma.round().astype(int)), tables[1]


@pytest.mark.parametrize("effort", [0, 1])
def test_gradient_by_steps_against_real_bytes(photo, effort):
    """Finite differences of real files over a change of a quarter, in bands of four rows, against the gradient."""
    image, tables = photo(320, 480), tuple(QuantTable(np.full((8, 8), 20)) for _ in range(2))
    size = image.shape[:2]
    steps = [q.clone().requires_grad_() for q in steps_of(tables)]
    blocks = coefficients(image, "420")
    file_bytes([c / q for c, q in zip(blocks, steps, strict=True)], size, "420", effort=effort).sum().backward()
    for q in steps:
        assert (q.grad <= 1e-6).all()  # a coarser step never costs
    for rows in (slice(0, 2), slice(2, 4), slice(4, 8)):
        larger, smaller = (
            len(encode_jpeg(image, tables=scaled(tables, rows, factor), effort=effort)) for factor in (1.25, 0.8)
        )
        finite = (larger - smaller) / (np.log(1.25) - np.log(0.8))
        ours = float((steps[0].grad * steps[0].detach())[rows].sum())
        assert finite < -50
        assert ours == pytest.approx(finite, rel=0.25)


def test_gradient_by_thresholds_against_real_bytes(photo):
    image, tables = photo(96, 128), ijg_tables(60)
    zone = np.full((8, 8), 0.7)
    zone[0, 0] = 0.5
    thresholds = [torch.tensor(zone, dtype=torch.float32, requires_grad=True) for _ in range(2)]
    levels = [c / q for c, q in zip(coefficients(image, "420"), steps_of(tables), strict=True)]
    file_bytes(levels, (96, 128), "420", thresholds=thresholds).sum().backward()

    def size(change):
        moved = np.where(zone == 0.7, zone + change, zone)
        return dead_zone_bytes(image, tables, [moved, moved], 1)

    finite = (size(0.12) - size(-0.12)) / 0.24
    ours = sum(float(t.grad.sum()) for t in thresholds)
    assert finite < 0
    assert ours == pytest.approx(finite, rel=0.25)
    for t in thresholds:
        assert t.grad[0, 0] == 0 and (t.grad <= 0).all()


def test_gradient_reaches_soft_levels_and_is_finite(rng):
    levels = [torch.tensor(rng.laplace(0, 2, (2, 3, 4, 8, 8)), requires_grad=True) for _ in range(3)]
    sizes = file_bytes(levels, (24, 32), "444")
    assert sizes.dtype == torch.float64 and sizes.shape == (2,)
    sizes.sum().backward()
    for plane in levels:
        ac = torch.ones(8, 8, dtype=torch.bool)
        ac[0, 0] = False
        assert torch.isfinite(plane.grad).all()
        assert (plane.grad * plane.detach())[..., ac].min() >= 0  # a larger magnitude never saves
        assert (plane.grad[..., ac] > 0).any()
    empty = [torch.zeros(1, 2, 2, 8, 8, requires_grad=True) for _ in range(3)]
    file_bytes(empty, (16, 16), "444").sum().backward()
    assert all(torch.isfinite(plane.grad).all() for plane in empty)


def test_bad_input(photo):
    levels = coefficients(photo(32, 32), "420")
    with pytest.raises(InvalidInputError, match="420 has 3 components; got levels of 1"):
        file_bytes(levels[:1], (32, 32), "420")
    with pytest.raises(InvalidInputError, match="at least 5 x 4 blocks"):
        file_bytes(levels, (40, 32), "420")
    with pytest.raises(InvalidInputError, match="effort is 0"):
        file_bytes(levels, (32, 32), "420", effort=2)
    with pytest.raises(InvalidInputError, match="subsampling is one of"):
        file_bytes(levels, (32, 32), "411")
    with pytest.raises(InvalidInputError, match=r"thresholds \(8, 8\) for 2 tables"):
        file_bytes(levels, (32, 32), "420", thresholds=[torch.full((64,), 0.5)] * 2)
    with pytest.raises(InvalidInputError, match="NaN or infinity"):
        file_bytes([levels[0] / 0, *levels[1:]], (32, 32), "420")
