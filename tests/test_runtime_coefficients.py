"""What the encoder codes: within rounding of the reference's coefficients, and entropy-coded exactly as it does.

The int16 DCT moves a coefficient across the border between two levels now and then: by one level, and at most one
coefficient in two hundred. Where finer tables would make it more, the float64 DCT of the reference is used.
"""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest

from edgejpeg.design.opts import design_gray_table, design_tables
from edgejpeg.design.statistics import Statistics, block_statistics, image_statistics
from edgejpeg.jpeg import reference
from edgejpeg.jpeg.markers import parse_jpeg
from edgejpeg.jpeg.tables import QuantTable, ijg_tables
from edgejpeg.jpeg.zigzag import from_zigzag
from edgejpeg.profile import Profile
from edgejpeg.runtime import Encoder, encode_jpeg

SUBSAMPLINGS = ("444", "422", "420", "gray")
FACTORS = {"444": (1, 1), "422": (1, 2), "420": (2, 2), "gray": (1, 1)}
MOST = 0.005
"""The largest fraction of coefficients that may differ from the reference's."""


def decode_coefficients(data: bytes) -> list[np.ndarray]:
    """The levels of a baseline file, (rows, columns, 8, 8) for each component: ITU-T T.81, F.2.2, bit by bit."""
    info = parse_jpeg(data)
    vertical, horizontal = FACTORS[info.subsampling]
    start = data.index(b"\xff\xda")
    scan = data[start + 2 + int.from_bytes(data[start + 2 : start + 4], "big") : -2].replace(b"\xff\x00", b"\xff")
    bits = bin(int.from_bytes(b"\x01" + scan, "big"))[3:]
    symbols = {
        key: {f"{code:0{length}b}": symbol for symbol, (code, length) in table.codes().items()}
        for key, table in info.huffman.items()
    }
    at = 0

    def read_symbol(table):
        nonlocal at
        for length in range(1, 17):
            symbol = table.get(bits[at : at + length])
            if symbol is not None:
                at += length
                return symbol
        raise AssertionError("no such code")

    def read_value(size):
        nonlocal at
        if size == 0:
            return 0
        text = bits[at : at + size]
        at += size
        return int(text, 2) - (0 if text[0] == "1" else (1 << size) - 1)

    mcu_rows, mcu_columns = -(-info.height // (8 * vertical)), -(-info.width // (8 * horizontal))
    factors = [(vertical, horizontal)] + [(1, 1)] * (len(info.components) - 1)
    planes = [np.zeros((mcu_rows * v, mcu_columns * h, 64), np.int32) for v, h in factors]
    previous = [0] * len(planes)
    for mcu_row, mcu_column in itertools.product(range(mcu_rows), range(mcu_columns)):
        for c, (v, h) in enumerate(factors):
            slot = min(c, 1)
            for row, column in itertools.product(
                range(mcu_row * v, mcu_row * v + v), range(mcu_column * h, mcu_column * h + h)
            ):
                block = planes[c][row, column]
                previous[c] += read_value(read_symbol(symbols[0, slot]))
                block[0] = previous[c]
                k = 1
                while k < 64:
                    run, size = divmod(read_symbol(symbols[1, slot]), 16)
                    if size == 0 and run < 15:
                        break
                    k += run
                    block[k] = read_value(size)
                    k += 1
    assert set(bits[at:]) <= {"1"}
    assert len(bits) - at < 8
    # Blocks that only complete an MCU are not the component's.
    real = [(-(-info.height // 8), -(-info.width // 8))] + [(mcu_rows, mcu_columns)] * (len(planes) - 1)
    return [from_zigzag(plane[:rows, :columns]) for plane, (rows, columns) in zip(planes, real, strict=True)]


def code_as_the_reference(levels, tables, subsampling, size, effort, chosen):
    """The file that the reference makes of given levels; at effort 0 with the Huffman tables that were chosen."""
    tokens = list(reference._tokens(levels, subsampling, size))
    slots = range(1 if subsampling == "gray" else 2)
    if effort == 0:
        dc, ac = ([chosen[kind, slot] for slot in slots] for kind in (0, 1))
    else:
        dc, ac = ([reference._optimal(tokens, slot, is_ac=is_ac) for slot in slots] for is_ac in (False, True))
    head = reference._headers(size, tables, subsampling, dc, ac, None)
    return head + reference._entropy_code(tokens, dc, ac) + b"\xff\xd9"


class Tally:
    """Compares files with the reference, and counts the coefficients that differ."""

    def __init__(self) -> None:
        self.different = self.total = 0

    def add(self, data, image, tables, subsampling, effort=0):
        levels = decode_coefficients(data)
        assert data == code_as_the_reference(
            levels, tables, subsampling, image.shape[:2], effort, parse_jpeg(data).huffman
        )
        for index, blocks in enumerate(reference.component_blocks(image, subsampling)):
            difference = np.abs(levels[index] - reference.quantize(blocks, tables[min(index, 1)]))
            assert difference.max() <= 1
            self.different += int(difference.sum())
            self.total += difference.size

    @property
    def fraction(self):
        return self.different / self.total


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
@pytest.mark.parametrize("quality", [1, 10, 50, 75, 85, 90, 91, 92, 95])
def test_coefficients_are_within_rounding(subsampling, quality, photo):
    for image in (photo(90, 141), noise(61, 75)):
        tally = Tally()
        for effort in (0, 1):
            data = encode_jpeg(image, quality=quality, subsampling=subsampling, effort=effort, threads=1 + effort)
            tally.add(data, image, ijg_tables(quality), subsampling, effort)
        assert tally.fraction <= MOST


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_every_small_size(subsampling):
    tally = Tally()
    for height, width in itertools.product(range(1, 41, 3), range(1, 41)):
        image = noise(height, width, seed=height * 41 + width)
        effort = (height + width) % 2
        data = encode_jpeg(image, quality=88, subsampling=subsampling, effort=effort, threads=1 + height % 3)
        tally.add(data, image, ijg_tables(88), subsampling, effort)
    assert 0 < tally.fraction <= MOST


def extreme_frames(rng):
    y, x = np.mgrid[0:50, 0:70]
    black, white = np.zeros(3, np.uint8), np.full(3, 255, np.uint8)
    blue, yellow, red, cyan = (np.array(c, np.uint8) for c in ([0, 0, 255], [255, 255, 0], [255, 0, 0], [0, 255, 255]))
    yield "two values", rng.choice(np.array([0, 255], np.uint8), (64, 90, 3))
    yield "checkerboard", np.where(((x + y) % 2).astype(bool)[..., None], white, black)
    yield "blue and yellow", np.where(((x + y) % 2).astype(bool)[..., None], blue, yellow)
    yield "rows of red and cyan", np.where((y % 2).astype(bool)[..., None], red, cyan)
    yield "columns", np.where((x % 2).astype(bool)[..., None], white, black)
    yield "blocks", np.where((((x // 8) + (y // 8)) % 2).astype(bool)[..., None], white, black)
    # Rows and columns with the signs of a cosine: the largest coefficient of every frequency.
    angles = (2 * np.arange(8) + 1) * np.pi / 16
    for u, v in itertools.product(range(8), repeat=2):
        pattern = np.where(np.outer(np.cos(angles * v), np.cos(angles * u)) > 0, 255, 0).astype(np.uint8)
        yield f"pattern {u} {v}", np.repeat(pattern[..., None], 3, axis=2)


def test_extremes(rng):
    """Steps of 7 are the finest for the int16 DCT; AC levels of up to 146 do not fit eight bits."""
    tables = (QuantTable(np.full((8, 8), 7)),) * 2
    for name, image in extreme_frames(rng):
        for subsampling in ("444", "420"):
            data = encode_jpeg(image, tables=tables, subsampling=subsampling)
            levels = decode_coefficients(data)
            chosen = parse_jpeg(data).huffman
            assert data == code_as_the_reference(levels, tables, subsampling, image.shape[:2], 0, chosen), name
            for index, blocks in enumerate(reference.component_blocks(image, subsampling)):
                assert np.abs(levels[index] - reference.quantize(blocks, tables[0])).max() <= 1, name


def test_finer_tables_than_the_int16_dct_can_serve_give_the_reference_to_the_byte(photo):
    image = photo(60, 90)
    for step in (1, 2, 3, 5):
        tables = (QuantTable(np.full((8, 8), step)),) * 2
        ours = encode_jpeg(image, tables=tables)
        assert ours == reference.encode_reference(image, tables, huffman_tables=parse_jpeg(ours).huffman)


def test_long_runs(rng):
    """Single coefficients far apart: runs of 16 zeros and more, and no end of block behind the last coefficient."""
    tables = (QuantTable(np.full((8, 8), 8)),) * 2
    frames = []
    for _ in range(40):
        blocks = np.zeros((4, 4, 64))
        for block in blocks.reshape(16, 64):
            positions = rng.choice(np.arange(1, 64), rng.integers(1, 4), replace=False)
            block[positions] = rng.choice([-40.0, 40.0, 90.0], len(positions))
            if rng.random() < 0.5:
                block[63] = 60
        planes = np.einsum("ux,rcuv,vy->rxcy", DCT, from_zigzag(blocks), DCT).reshape(32, 32)
        frames.append((planes + 128).round().clip(0, 255).astype(np.uint8))
    for frame in frames:
        data = encode_jpeg(frame, tables=tables[0])
        levels = decode_coefficients(data)
        assert data == code_as_the_reference(levels, tables, "gray", frame.shape, 0, parse_jpeg(data).huffman)
        assert (
            np.abs(levels[0] - reference.quantize(reference.component_blocks(frame, "gray")[0], tables[0])).max() <= 1
        )


DCT = np.array(
    [[np.cos((2 * x + 1) * u * np.pi / 16) * (0.5 if u else 0.125**0.5) for x in range(8)] for u in range(8)]
)


# --- designed tables ---


def synthetic_sensitivity(seed: int = 0) -> np.ndarray:
    """(3, 8, 8) with the shape of measured maps: luma peaks at middle frequencies, chroma falls, its DC is large."""
    radius = np.add.outer(np.arange(8.0), np.arange(8.0))
    luma = 2.7e-4 * np.exp(-(((radius - 4) / 3.5) ** 2))
    chroma = [peak * np.exp(-radius / 1.7) for peak in (3e-4, 2e-4)]
    noise = np.random.default_rng(seed).lognormal(0, 0.3, (3, 8, 8))
    return np.stack([luma, *chroma]) * noise


def adaptive(**changes) -> Profile:
    settings = {"name": "test", "sensitivity": synthetic_sensitivity(), "water_level": 0.05}
    return Profile.adaptive(**(settings | changes))


def assert_near(statistics: Statistics, expected: Statistics) -> None:
    """Within the rounding of the int16 DCT, up to a few tenths in one coefficient, averaged over the blocks."""
    np.testing.assert_array_equal(statistics.blocks, expected.blocks)
    for c, blocks in enumerate(expected.blocks):
        tolerance = 0.01 + 0.3 / np.sqrt(blocks)
        np.testing.assert_allclose(statistics.mean[c], expected.mean[c], rtol=1e-4, atol=tolerance)
        np.testing.assert_allclose(statistics.laplace_scale[c], expected.laplace_scale[c], rtol=1e-3, atol=tolerance)
        deviation, expected_deviation = np.sqrt(statistics.variance[c]), np.sqrt(expected.variance[c])
        np.testing.assert_allclose(deviation, expected_deviation, rtol=1e-3, atol=tolerance)


def assert_designed(encoder: Encoder, frame: np.ndarray, profile: Profile) -> bytes:
    """Encode, and hold the statistics, the tables and the file against the Python implementation."""
    data = encoder.encode(frame)
    assert_near(encoder.statistics, image_statistics(frame, profile.subsampling, center=False))
    tables = design_tables(
        profile.sensitivity, encoder.statistics, profile.water_level, profile.q_max, profile.chroma_water_level
    )
    assert encoder.tables == tables
    tally = Tally()
    tally.add(data, frame, tables, profile.subsampling, profile.effort)
    assert tally.fraction <= MOST
    return data


@pytest.mark.parametrize("subsampling", ["444", "422", "420"])
@pytest.mark.parametrize("water_level", [0.002, 0.05, 0.9])
def test_adaptive_tables_equal_the_design(subsampling, water_level, photo, rng):
    profile = adaptive(subsampling=subsampling, water_level=water_level, chroma_water_level=3 * water_level, effort=1)
    encoder = Encoder(profile, color="rgb", threads=2)
    for frame in (photo(130, 175), photo(16, 9), rng.integers(0, 256, (50, 40, 3), dtype=np.uint8)):
        assert_designed(encoder, frame, profile)
    assert len(np.unique(encoder.tables[0].array)) > 5


def test_adaptive_tables_equal_the_printed_algorithms(photo):
    """Algorithms 1 and 2 of OptS from the text, step by step, with eq. 12-14 as printed in extended precision."""
    profile = adaptive(water_level=0.02, q_max=120, subsampling="444")
    encoder = Encoder(profile, color="rgb")
    encoder.encode(photo(120, 160))
    statistics = encoder.statistics
    d = np.longdouble(0.02) * 10 * profile.sensitivity[0].max()

    def largest(s, lam):
        lam, best = np.longdouble(lam), 1
        for q in range(1, 121):
            u = np.exp(-q / lam)
            z = q / (1 - u) - lam
            if s * (2 * lam**2 - np.exp(-z / lam) * q**2 * (1 + u) / (1 - u) ** 2) <= d:
                best = q
        return best

    for i in range(64):
        v, u = divmod(i, 8)
        s, variance, lam = (a[:, v, u] for a in (profile.sensitivity, statistics.variance, statistics.laplace_scale))
        small = s * variance < d
        own = [min(max(int(np.sqrt(12 * d / s[c])), 1), 120) if i == 0 else largest(s[c], lam[c]) for c in range(3)]
        luma = 120 if small[0] else own[0]
        if small[1] and small[2]:
            chroma = 120
        elif small[2]:
            chroma = own[1]
        elif small[1]:
            chroma = own[2]
        elif i == 0:
            chroma = min(max(int(np.sqrt(12 * d / max(s[1], s[2]))), 1), 120)
        else:
            chroma = min(own[1], own[2])
        assert (encoder.tables[0].array[v, u], encoder.tables[1].array[v, u]) == (luma, chroma), (v, u)


@pytest.mark.parametrize("network", ["alexnet", "mobilenet_v2"])
def test_kodak_with_published_sensitivities(network, shared_data):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    files = sorted((shared_data / "images" / "kodak").glob("*.png"))[:3]
    maps = [shared_data / "sensitivities" / "opts" / f"{network}_{c}.npy" for c in ("Y", "Cb", "Cr")]
    if not files or not all(path.is_file() for path in maps):
        pytest.skip("the Kodak images or the published sensitivities are not there")
    sensitivity = np.stack([from_zigzag(np.load(path).reshape(64)) for path in maps])
    for path, subsampling in zip(files, ("444", "422", "420"), strict=False):
        frame = np.asarray(image.open(path).convert("RGB"))[:256, :320]
        profile = adaptive(sensitivity=sensitivity, water_level=0.03, subsampling=subsampling)
        encoder = Encoder(profile, color="rgb")
        read = image.open(io.BytesIO(assert_designed(encoder, frame, profile))).quantization
        assert [read[0], read[1]] == [table.raster_list() for table in encoder.tables]
        # The float64 statistics give nearly the same tables.
        exact = design_tables(sensitivity, image_statistics(frame, subsampling, center=False), 0.03)
        for ours, theirs in zip(encoder.tables, exact, strict=True):
            assert np.mean(ours.array != theirs.array) <= 0.2
            assert np.abs(np.log(ours.array / theirs.array)).max() < 0.1


def test_constant_and_odd_sensitivities(photo):
    flat = np.full((24, 24, 3), 77, np.uint8)
    encoder = Encoder(adaptive(q_max=255), color="rgb")
    encoder.encode(flat)
    assert all((table.array == 255).all() for table in encoder.tables)
    sparse = np.zeros((3, 8, 8))
    sparse[0, 0, 0] = 1e30
    sparse[1, 3, 3] = 5e-324
    profile = adaptive(sensitivity=sparse, water_level=1e-30, q_max=7)
    assert_designed(Encoder(profile, color="rgb"), photo(40, 40), profile)


def test_gray_with_an_adaptive_profile(photo):
    frame = photo(70, 50)
    for profile, shown in ((adaptive(), frame[..., 0].copy()), (adaptive(subsampling="gray"), frame)):
        encoder = Encoder(profile, color="rgb")
        data = encoder.encode(shown)
        assert_near(encoder.statistics, image_statistics(shown, "gray", center=False))
        table = design_gray_table(profile.sensitivity, encoder.statistics, profile.water_level, profile.q_max)
        assert encoder.tables == (table, None)
        tally = Tally()
        tally.add(data, shown, [table], "gray")
        assert tally.fraction <= MOST


# --- the reference back end: float64 throughout ---


@pytest.mark.parametrize("subsampling", ["444", "422", "420", "gray"])
@pytest.mark.parametrize("water_level", [0.002, 0.05, 0.9])
def test_the_reference_back_end_equals_the_python_reference(subsampling, water_level, photo, rng, monkeypatch):
    monkeypatch.setenv("EDGEJPEG_BACKEND", "reference")
    profile = adaptive(subsampling=subsampling, water_level=water_level, chroma_water_level=3 * water_level, effort=1)
    encoder = Encoder(profile, color="rgb", threads=2)
    for frame in (photo(130, 175), photo(16, 9), rng.integers(0, 256, (50, 40, 3), dtype=np.uint8)):
        data = encoder.encode(frame)
        expected = block_statistics(reference.component_blocks(frame, subsampling), center=False)
        for name in ("mean", "variance", "laplace_scale", "blocks"):
            np.testing.assert_array_equal(getattr(encoder.statistics, name), getattr(expected, name), err_msg=name)
        if subsampling == "gray":
            tables = (design_gray_table(profile.sensitivity, expected, water_level, profile.q_max), None)
        else:
            tables = design_tables(profile.sensitivity, expected, water_level, profile.q_max, 3 * water_level)
        assert encoder.tables == tables
        assert data == reference.encode_reference(frame, [t for t in tables if t is not None], subsampling, effort=1)


@pytest.mark.parametrize("effort", [0, 1])
def test_the_reference_back_end_with_any_tables(effort, photo, rng, monkeypatch):
    monkeypatch.setenv("EDGEJPEG_BACKEND", "reference")
    for quality in (1, 30, 75, 90):
        for frame in (photo(97, 131), rng.integers(0, 256, (33, 18, 3), dtype=np.uint8)):
            ours = encode_jpeg(frame, quality=quality, subsampling="420", effort=effort, threads=3)
            chosen = parse_jpeg(ours).huffman if effort == 0 else None
            expected = reference.encode_reference(
                frame, ijg_tables(quality), "420", effort=effort, huffman_tables=chosen
            )
            assert ours == expected
