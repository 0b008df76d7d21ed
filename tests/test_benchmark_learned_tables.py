"""The comparison of benchmarks/learned_tables.py, on numbers whose answer is known."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("PIL")


@pytest.fixture(scope="module")
def benchmark(repository):
    path = repository / "benchmarks" / "learned_tables.py"
    spec = importlib.util.spec_from_file_location("learned_tables_benchmark", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def method(rates, factor, rng):
    """Every image's KL falls as its bytes to the power -2; ``factor`` times the bytes for the same KL."""
    images = rng.uniform(0.7, 1.4, 300)
    size = np.outer(rates, images) * 1000
    return {
        "setting": np.arange(len(rates), dtype=float),
        "bytes": size * factor,
        "kl": np.outer(np.asarray(rates) ** -2.0, images),
        "agrees": rng.random(size.shape) < 0.8,
        "top1": np.zeros(size.shape, int),
    }


def test_ten_per_cent_fewer_bytes_are_found(benchmark):
    reference = method([0.5, 1.0, 2.0, 4.0], 1.0, np.random.default_rng(1))
    ladder = method([0.6, 1.1, 2.5], 0.9, np.random.default_rng(1))
    result = benchmark.compare({"libjpeg-turbo": reference, "learned tables": ladder}, np.zeros(300, int), 50176)
    delta = result["delta_rate"]
    assert delta["value"] == pytest.approx(-0.1, abs=0.005)
    assert delta["low"] <= delta["value"] <= delta["high"] < 0
    assert [row["change"] is not None for row in result["changes"]] == [False, True, True, False]
    assert result["changes"][1]["change"]["value"] == pytest.approx(-0.1, abs=0.01)
    assert [point["top1"] for point in result["points"]["learned tables"]] == [1.0] * 3


def test_a_single_level_is_compared_at_its_kl(benchmark):
    reference = method([0.5, 1.0, 2.0, 4.0], 1.0, np.random.default_rng(1))
    level = method([1.4], 0.8, np.random.default_rng(1))
    result = benchmark.compare({"libjpeg-turbo": reference, "learned tables": level}, None, 50176)
    assert "delta_rate" not in result
    change = result["change"]
    assert change["value"] == pytest.approx(-0.2, abs=0.01)
    assert change["low"] <= change["value"] <= change["high"] < 0
