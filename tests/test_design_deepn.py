"""DeepN-JPEG's mapping at the points that its published constants give by hand."""

from __future__ import annotations

import numpy as np
import pytest

from edgejpeg.design import DeepNMapping, Statistics, deepn_tables
from edgejpeg.errors import InvalidInputError


def test_mapping_by_hand() -> None:
    deviations = [0.0, 1.0, 10.0, 20.0, 20.001, 45.0, 60.0, 60.001, 70.0, 78.0, 79.0, 500.0]
    expected = [255, 245, 158, 60, 60, 35, 20, 60, 30, 6, 5, 5]  # 255 - 9.75 = 245.25; 255 - 97.5 = 157.5
    assert DeepNMapping().steps(deviations).tolist() == expected


def test_own_constants() -> None:
    mapping = DeepNMapping(c=200, q_min=2)
    assert mapping.steps([60.0, 60.001, 65.0, 100.0]).tolist() == [20, 20, 5, 2]
    assert DeepNMapping(a=900).steps([0.0, 10.0]).tolist() == [255, 255], "a baseline file holds no more"
    assert (np.diff(mapping.steps(np.linspace(0, 100, 2_000))) <= 0).all()


def test_tables_take_the_components_deviations(rng: np.random.Generator) -> None:
    deviation = rng.uniform(0, 90, (3, 8, 8))
    statistics = Statistics(np.zeros((3, 8, 8)), deviation**2, deviation / 2, np.array([4, 4, 4]))
    luma, chroma = deepn_tables(statistics)
    for row in range(8):
        for column in range(8):
            pooled = ((deviation[1, row, column] ** 2 + deviation[2, row, column] ** 2) / 2) ** 0.5
            for table, delta in ((luma, deviation[0, row, column]), (chroma, pooled)):
                if delta <= 20:
                    q = 255 - 9.75 * delta
                elif delta <= 60:
                    q = 80 - delta
                else:
                    q = 240 - 3 * delta
                assert abs(int(table.array[row, column]) - max(q, 5)) <= 0.5


def test_bad_input_is_named() -> None:
    gray = Statistics(np.zeros((1, 8, 8)), np.ones((1, 8, 8)), np.ones((1, 8, 8)), np.array([4]))
    with pytest.raises(InvalidInputError, match="gray"):
        deepn_tables(gray)
    with pytest.raises(InvalidInputError, match="t1 = 70"):
        DeepNMapping(t1=70)
    with pytest.raises(InvalidInputError, match=r"q_min.*got 0"):
        DeepNMapping(q_min=0)
    with pytest.raises(InvalidInputError, match=r"k3.*nan"):
        DeepNMapping(k3=float("nan"))
    with pytest.raises(InvalidInputError, match="-1"):
        DeepNMapping().steps(-1.0)
