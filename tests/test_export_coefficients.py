"""The coefficient front end: graph against the reference encoder and the encoder on the compiled library."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from edgejpeg.cli import main  # noqa: E402
from edgejpeg.design.opts import design_tables  # noqa: E402
from edgejpeg.design.statistics import Statistics, image_statistics  # noqa: E402
from edgejpeg.errors import ExportError, InvalidInputError  # noqa: E402
from edgejpeg.export import coefficients, export_coefficients, layer_from_profile, layer_from_quality  # noqa: E402
from edgejpeg.export.front_end import front_end_model  # noqa: E402
from edgejpeg.jpeg.colour import sample_planes  # noqa: E402
from edgejpeg.jpeg.reference import component_blocks, quantize  # noqa: E402
from edgejpeg.jpeg.tables import ijg_tables  # noqa: E402
from edgejpeg.jpeg.zigzag import to_zigzag  # noqa: E402
from edgejpeg.profile import DeadZone, Profile, load_profile  # noqa: E402

SIZES = [(8, 8), (1, 1), (17, 9), (33, 48), (40, 24)]


def steps(quality):
    return np.stack([table.array.reshape(64) for table in ijg_tables(quality)]).astype(np.float32)


def run(model, rgb, tables=None):
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feed = {"image": np.ascontiguousarray(np.moveaxis(rgb, -1, 1))}
    if tables is not None:
        feed["tables"] = tables
    return session.run(None, feed)


def extremes(height, width, rng):
    """Noise with the colours at which fixed point saturates or rounds."""
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    corners = np.array([[0, 0, 255], [255, 0, 0], [255, 255, 255], [0, 0, 0], [0, 255, 0]], np.uint8)
    flat = image.reshape(-1, 3)
    flat[: len(corners)] = corners[: len(flat)]
    return image


@pytest.mark.parametrize("subsampling", ["444", "422", "420", "gray"])
@pytest.mark.parametrize("size", SIZES)
def test_levels_and_statistics_of_any_size(subsampling, size, rng):
    images = np.stack([extremes(*size, rng) for _ in range(2)])
    tables = np.stack([steps(40), steps(85)])
    statistics, *levels = run(front_end_model(size, subsampling), images, tables)
    for n, image in enumerate(images):
        expected = image_statistics(image, subsampling, center=False)
        found = statistics[n].astype(np.float64).reshape(3, -1, 8, 8)
        np.testing.assert_allclose(found[0], expected.mean, atol=2e-3)
        np.testing.assert_allclose(found[1], expected.variance, rtol=1e-4, atol=0.5)
        np.testing.assert_allclose(found[2], expected.laplace_scale, atol=2e-3)
        for index, blocks in enumerate(component_blocks(image, subsampling)):
            table = ijg_tables((40, 85)[n])[min(index, 1)]
            packed = levels[index][n]
            assert packed.dtype == np.int32 and packed.shape[-1] == 32
            vectors = packed.view(np.int16)[: blocks.shape[0], : blocks.shape[1]]
            ratio = to_zigzag(blocks / table.array)
            decided = np.abs(np.abs(ratio) % 1 - 0.5) > 1e-5
            np.testing.assert_array_equal(vectors[decided], to_zigzag(quantize(blocks, table))[decided])
            assert np.abs(vectors - ratio).max() < 0.5001 and decided.mean() > 0.9


def test_every_colour_of_a_coarse_cube_has_the_encoder_s_samples():
    """DC of flat blocks with step 1 is 8 x the sample: the fixed point, to the last bit, for 17 ** 3 colours."""
    axis = np.minimum(np.arange(17) * 16, 255).astype(np.uint8)
    cube = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(1, -1, 3)
    image = cube.repeat(8, axis=0).repeat(8, axis=1)
    ones = np.ones((1, 2, 64), np.float32)
    for subsampling in ("444", "420"):
        _, *levels = run(front_end_model(image.shape[:2], subsampling, tables=ones), image[None])
        for packed, plane in zip(levels, sample_planes(image, subsampling), strict=True):
            # Mean of an 8x8 block of samples times 8, rounded with halves away from zero.
            rows, columns = packed.shape[1:3]
            sums = plane[: 8 * rows, : 8 * columns].reshape(rows, 8, columns, 8).sum(axis=(1, 3)) / 8
            dc = np.sign(sums) * np.floor(np.abs(sums) + 0.5)
            np.testing.assert_array_equal(packed[0].view(np.int16)[..., 0], dc)


def test_dead_zone_zeroes_and_dc_does_not(rng):
    zone = np.full((8, 8), 0.9)
    zone[0, 0] = 0.5
    image = rng.integers(100, 140, (16, 16, 3), dtype=np.uint8)
    table = ijg_tables(60)
    _, y, *_ = run(front_end_model((16, 16), "444", tables=steps(60)[None], dead_zones=(zone, zone)), image[None])
    blocks = component_blocks(image, "444")[0]
    expected = to_zigzag(quantize(blocks, table[0], zone))
    assert (expected != to_zigzag(quantize(blocks, table[0]))).any()
    np.testing.assert_array_equal(y[0].view(np.int16), expected)


def test_neighbours_of_both_signs_survive_the_packing(rng):
    image = (255 * rng.integers(0, 2, (32, 32, 1))).astype(np.uint8).repeat(3, axis=2)
    _, packed = run(front_end_model((32, 32), "gray", tables=np.ones((1, 2, 64), np.float32)), image[None])
    ratio = to_zigzag(component_blocks(image, "gray")[0])
    levels = packed[0].view(np.int16)
    assert np.abs(levels - ratio).max() < 0.5001
    low, high = levels[..., 0::2], levels[..., 1::2]
    for first in (low < -9, low > 9):
        assert (first & (high < -9)).any() and (first & (high > 9)).any()


def test_a_design_from_the_graph_s_statistics_is_the_encoder_s(photo):
    profile = load_profile("efficientnet_lite0")
    image = photo(96, 128)
    statistics, *_ = run(front_end_model((96, 128), profile.subsampling), image[None], steps(75)[None])
    mean, variance, scale = statistics[0].astype(np.float64).reshape(3, 3, 8, 8)
    reference = image_statistics(image, profile.subsampling, center=False)
    ours = Statistics(mean, np.maximum(variance, 0), scale, reference.blocks)
    made = [
        design_tables(profile.sensitivity, s, profile.water_level, profile.q_max, profile.chroma_water_level)
        for s in (ours, reference)
    ]
    for table, expected in zip(*made, strict=True):
        difference = np.abs(np.asarray(table, int) - np.asarray(expected, int))
        assert difference.max() <= 1 and (difference == 0).mean() > 0.98


def test_files_and_document(tmp_path):
    tables = layer_from_profile(
        Profile.fixed(
            name="mine", luma=ijg_tables(50)[0], chroma=ijg_tables(50)[1], subsampling="422",
            dead_zone=DeadZone(np.array([0.5] + [0.6] * 63).reshape(8, 8), np.array([0.5] + [0.7] * 63).reshape(8, 8)),
        )
    )  # fmt: skip
    result = export_coefficients(tmp_path, size=(30, 44), tables=tables)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["coefficients-422-30x44.json", "coefficients-422-30x44.onnx"]
    document = json.loads(result.json_path.read_text())
    assert document == result.document
    assert document["form"] == "coefficients" and list(document["outputs"]) == ["statistics", "y", "cb", "cr"]
    assert document["front_end"]["dead_zones"]["chroma"][7][7] == 0.7
    assert document["front_end"]["profile_id"] == tables.profile_id is not None
    assert document["check"]["passed"] and document["check"]["coefficients"] == 4 * (4 * 6 + 2 * 4 * 3) * 64


@pytest.mark.parametrize("size", [(0, 8), (8, 9000), (8.0, 8)])
def test_sizes_outside_what_is_allowed(tmp_path, size):
    with pytest.raises(InvalidInputError, match="1 to 8192"):
        export_coefficients(tmp_path, size=size, tables=layer_from_quality(75))


@pytest.mark.parametrize(
    "spoil, words",
    [
        (("basis", lambda a: a * np.float32(1.01)), "off any rounding tie|statistics differ"),
        (("zigzag", lambda a: a[::-1]), "off any rounding tie"),
        (("raster", lambda a: np.arange(64)), "statistics differ"),
        (("y_half", lambda a: a * 0), "off any rounding tie|flipped"),
    ],
)
def test_sabotaged_graph_is_found(tmp_path, monkeypatch, spoil, words):
    name, change = spoil
    original = coefficients.front_end_model

    def spoiled(*args, **kwargs):
        model = original(*args, **kwargs)
        tensor = next(t for t in model.graph.initializer if t.name == name)
        value = np.ascontiguousarray(change(onnx.numpy_helper.to_array(tensor)))
        tensor.CopyFrom(onnx.numpy_helper.from_array(value, name))
        return model

    monkeypatch.setattr(coefficients, "front_end_model", spoiled)
    with pytest.raises(ExportError, match=words):
        export_coefficients(tmp_path, size=(64, 64), tables=layer_from_quality(90))
    assert list(tmp_path.iterdir()) == []


def test_verb(tmp_path, capsys):
    command = ["export", "--form", "coefficients", "-o", str(tmp_path)]
    assert main([*command, "--size", "24x40", "-p", "efficientnet_lite0"]) == 0
    out = capsys.readouterr().out
    assert "coefficients-420-24x40.onnx" in out and "tables (N or 1, 2, 64) float32 -> statistics, y, cb, cr" in out
    for options, words in (
        ([], "needs --size"),
        (["--size", "24x40", "--model", "resnet18"], "--model has no meaning"),
        (["--size", "24x40", "--fp16"], "--fp16 has no meaning"),
        (["--size", "24x40", "--input", "float"], "--input float has no meaning"),
    ):
        assert main([*command, *options]) == 2
        assert words in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*command, "--size", "24"])
