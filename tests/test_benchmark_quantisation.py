"""The benchmark of quantisation counts the bytes of real files."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from edgejpeg.jpeg.reference import component_blocks, encode_reference
from edgejpeg.jpeg.tables import ijg_tables


@pytest.fixture(scope="module")
def benchmark(repository):
    path = repository / "benchmarks" / "quantisation.py"
    spec = importlib.util.spec_from_file_location("benchmark_quantisation", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("quality", [20, 75, 95])
def test_sizes_are_those_of_files_without_stuffing(benchmark, photo, rng, quality):
    frame = np.clip(photo(64, 96) + rng.normal(0, 20, (64, 96, 3)), 0, 255).astype(np.uint8)
    tables = ijg_tables(quality)
    blocks = component_blocks(frame, "420")
    planes = [benchmark.scan_order(b, 2 if i == 0 else 1) for i, b in enumerate(blocks)]
    levels = benchmark.quantized(planes, list(tables), None)
    optimal = benchmark.optimal(levels)
    for effort, pairs, dht in ((0, list(benchmark.STANDARD), 432), (1, optimal, benchmark.dht_bytes(optimal))):
        data = encode_reference(frame, tables, effort=effort)
        assert np.ceil(benchmark.size(levels, pairs, dht)) == len(data) - data.count(b"\xff\x00")
