"""QuantTable, the IJG tables and the zigzag order, held against libjpeg as Pillow carries it."""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest

from edgejpeg.errors import InvalidInputError
from edgejpeg.jpeg.markers import parse_jpeg
from edgejpeg.jpeg.tables import IJG_CHROMA, IJG_LUMA, QuantTable, ijg_tables
from edgejpeg.jpeg.zigzag import RASTER_TO_ZIGZAG, ZIGZAG, from_zigzag, to_zigzag


def test_zigzag_walks_the_diagonals_one_step_at_a_time():
    rows, columns = ZIGZAG // 8, ZIGZAG % 8
    assert sorted(ZIGZAG) == list(range(64))
    assert (rows[0], columns[0], rows[1], columns[1]) == (0, 0, 0, 1)
    for k in range(63):
        step = (rows[k + 1] - rows[k], columns[k + 1] - columns[k])
        assert step in {(0, 1), (1, 0), (1, -1), (-1, 1)}
    assert (rows + columns == np.sort(rows + columns)).all()


def test_zigzag_round_trip(rng):
    blocks = rng.integers(0, 999, (3, 5, 8, 8))
    assert (from_zigzag(to_zigzag(blocks)) == blocks).all()
    assert (to_zigzag(blocks)[..., RASTER_TO_ZIGZAG] == blocks.reshape(3, 5, 64)).all()
    assert to_zigzag(np.arange(64).reshape(8, 8))[2] == 8


@pytest.mark.parametrize("quality", range(1, 101))
def test_ijg_tables_equal_libjpegs(quality):
    image = pytest.importorskip("PIL.Image", reason="Pillow, which carries libjpeg, is not installed")
    buffer = io.BytesIO()
    image.new("RGB", (8, 8)).save(buffer, "JPEG", quality=quality)
    written = image.open(buffer).quantization
    info = parse_jpeg(buffer.getvalue())
    for slot, table in enumerate(ijg_tables(quality)):
        assert table.raster_list() == list(written[slot])
        assert QuantTable(info.tables[slot]) == table


def test_quality_50_is_the_standards_table():
    assert ijg_tables(50) == (IJG_LUMA, IJG_CHROMA)


@pytest.mark.parametrize("quality", [0, 101, -1, 75.0, "75", None, True])
def test_quality_out_of_range(quality):
    with pytest.raises(InvalidInputError, match="from 1 to 100"):
        ijg_tables(quality)


def test_quant_table_is_a_value(rng):
    values = rng.integers(1, 256, (8, 8))
    table = QuantTable(values)
    assert table == QuantTable(values.tolist()) == QuantTable(values.astype(float)) == QuantTable(table)
    assert hash(table) == hash(QuantTable(values))
    assert table != QuantTable(np.where(values == values[3, 4], 1 + values % 255, values))
    assert pickle.loads(pickle.dumps(table)) == table
    assert QuantTable.from_zigzag(table.zigzag()) == table
    assert table.array.dtype == np.uint8
    assert np.asarray(table, dtype=float).sum() == values.sum()
    values[0, 0] = 1 if values[0, 0] != 1 else 2
    assert table.array[0, 0] != values[0, 0]
    with pytest.raises(ValueError, match="read-only"):
        table.array[0, 0] = 3
    with pytest.raises(AttributeError):
        table.array = values
    assert eval(repr(table)) == table


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones(64), "from_zigzag"),
        (np.ones((8, 7)), r"\(8, 7\)"),
        (np.zeros((8, 8), int), "got 0 at row 0, column 0"),
        (np.full((8, 8), 256), "got 256"),
        (np.full((8, 8), 1.5), "got 1.5"),
        (np.full((8, 8), np.nan), "got nan"),
        (np.full((8, 8), "1"), "dtype"),
        (np.full((8, 8), True), "dtype"),
    ],
)
def test_quant_table_refuses(values, message):
    with pytest.raises(InvalidInputError, match=message):
        QuantTable(values)


def test_from_zigzag_refuses_another_length():
    with pytest.raises(InvalidInputError, match="64 values"):
        QuantTable.from_zigzag([1] * 63)
