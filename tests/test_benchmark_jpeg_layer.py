"""The benchmark of the JPEG layer compares like with like, and counts memory rightly."""

from __future__ import annotations

import importlib.util

import pytest

torch = pytest.importorskip("torch")

from edgejpeg.jpeg.tables import ijg_tables  # noqa: E402
from edgejpeg.learn.layer import JpegLayer  # noqa: E402
from edgejpeg.learn.quantizer import soft_quantize  # noqa: E402


@pytest.fixture(scope="module")
def benchmark(repository):
    path = repository / "benchmarks" / "jpeg_layer.py"
    spec = importlib.util.spec_from_file_location("benchmark_jpeg_layer", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_plain_layer_does_the_same_work(benchmark, photo):
    image = torch.from_numpy(photo(64, 96).transpose(2, 0, 1).copy())[None].double()
    plain = benchmark.PlainLayer().double()
    ours = JpegLayer(*ijg_tables(benchmark.QUALITY), "420", "hard")
    difference = (plain(image) - ours(image)).abs()
    assert float(difference.detach().median()) < 1e-3 and float(difference.detach().mean()) < 0.1


def test_the_naive_quantizer_is_the_same_function(benchmark):
    z, q = torch.randn(50, 64, dtype=torch.float64) * 30, torch.rand(64, dtype=torch.float64) + 0.5
    torch.testing.assert_close(benchmark.naive_quantize(z, q, 0.7, 8), soft_quantize(z, q, 0.7, bits=8))


def test_memory_is_counted(benchmark):
    x = torch.randn(1000, 1000, requires_grad=True)
    assert benchmark.kept_bytes(lambda: x.exp().sin(), [x]) == 4_000_000  # exp keeps its result, and sin its argument
    assert 12_000_000 <= benchmark.peak_bytes(lambda: x.exp().sin().sum().backward(), "cpu") < 20_000_000


def test_a_fiftieth_of_the_whole_softmax_and_one_number_per_coefficient(benchmark):
    entry = benchmark.quantizer_memory("cpu", 8)
    assert entry["peak ratio"] > 50
    layer = JpegLayer(*ijg_tables(75), "420")
    image = torch.rand(2, 3, 64, 96) * 255
    kept = benchmark.kept_bytes(lambda: layer(image), [image, *layer.parameters()])
    tables = 8 * 4 * (96 + 48) * 3  # of each width: the steps as one long row, and what makes them
    assert kept <= 6 * 2 * 64 * 96 + tables
