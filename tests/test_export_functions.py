"""The function ``edgejpeg::JpegLayer`` in ONNX Runtime, against float64 and against libjpeg."""

from __future__ import annotations

import io

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
onnx_inliner = pytest.importorskip("onnx.inliner")

from onnx import TensorProto, helper  # noqa: E402

from edgejpeg.errors import InvalidInputError  # noqa: E402
from edgejpeg.export.functions import DOMAIN, OP_TYPE, expose_levels, jpeg_function, level_names  # noqa: E402
from edgejpeg.export.kernels import mcu_size  # noqa: E402
from edgejpeg.export.reference import quantizer_ratios, reconstruct  # noqa: E402
from edgejpeg.jpeg.tables import ijg_tables  # noqa: E402

SUBSAMPLINGS = ("444", "422", "420", "gray")
CHROMA_CELL = {"444": (1, 1), "422": (1, 2), "420": (2, 2)}


def layer_model(subsampling, opset=18):
    """A model that is the JPEG layer alone."""
    node = helper.make_node(
        OP_TYPE,
        ["image", "tables"],
        ["decoded"],
        domain=DOMAIN,
        plugin_namespace="edgejpeg",
        plugin_version="1",
        subsampling=subsampling,
    )
    graph = helper.make_graph(
        [node],
        "layer",
        [
            helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, "H", "W"]),
            helper.make_tensor_value_info("tables", TensorProto.FLOAT, ["T", 2, 64]),
        ],
        [helper.make_tensor_value_info("decoded", TensorProto.FLOAT, ["N", 3, "H", "W"])],
    )
    return helper.make_model(
        graph,
        functions=[jpeg_function(subsampling, opset)],
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, 1)],
        ir_version=10,
    )


def run(model, image, tables):
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"image": image, "tables": tables})


def tables_of(*qualities):
    return np.stack([[np.asarray(t, dtype=np.float32).reshape(64) for t in ijg_tables(q)] for q in qualities])


def dct_matrix():
    """The DCT from its definition [ITU-T T.81, A.3.3], not from edgejpeg."""
    u, x = np.mgrid[0:8, 0:8]
    matrix = 0.5 * np.cos((2 * x + 1) * u * np.pi / 16)
    matrix[0] /= np.sqrt(2)
    return matrix


def float64_layer(image, tables, subsampling):
    """The layer by einsum and repetition, one image at a time: ratios before rounding, per component (r, c, 8, 8)."""
    r, g, b = 255 * image.astype(np.float64)
    y = 0.299 * r + 0.587 * g + 0.114 * b
    planes = [y - 128]
    if subsampling != "gray":
        v, h = CHROMA_CELL[subsampling]
        for difference in ((b - y) / 1.772, (r - y) / 1.402):
            planes.append(sum(difference[i::v, j::h] for i in range(v) for j in range(h)) / (v * h))
    matrix, ratios = dct_matrix(), []
    for index, plane in enumerate(planes):
        rows, columns = plane.shape[0] // 8, plane.shape[1] // 8
        out = np.empty((rows, columns, 8, 8))
        for row in range(rows):
            for column in range(columns):
                block = plane[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
                out[row, column] = matrix @ block @ matrix.T
        ratios.append(out / tables[min(index, 1)].astype(np.float64).reshape(8, 8))
    return ratios


def levels_of(outputs):
    """Graph levels of image 0 to per-component (r, c, 8, 8)."""
    found = []
    for group in outputs:
        channels, rows, columns = group.shape[1:]
        for first in range(0, channels, 64):
            found.append(group[0, first : first + 64].reshape(8, 8, rows, columns).transpose(2, 3, 0, 1))
    return found


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
@pytest.mark.parametrize("opset", [18, 21, 23])
def test_model_is_valid_onnx(subsampling, opset):
    onnx.checker.check_model(layer_model(subsampling, opset), full_check=True)


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
@pytest.mark.parametrize("quality", [5, 50, 75, 95, 100])
@pytest.mark.parametrize("content", ["noise", "photo"])
def test_levels_and_pixels_against_float64(subsampling, quality, content, rng, photo):
    if content == "noise":
        image = rng.random((3, 96, 128)).astype(np.float32)
    else:
        image = photo(192, 256).transpose(2, 0, 1).astype(np.float32) / np.float32(255)
    tables = tables_of(quality)
    model, names = expose_levels(layer_model(subsampling))
    assert names[1:] == list(level_names(subsampling))
    decoded, exposed, *levels = run(model, image[None], tables)
    np.testing.assert_array_equal(decoded, exposed)
    ratios = float64_layer(image, tables[0], subsampling)
    found = levels_of(levels)
    assert [f.shape for f in found] == [r.shape for r in ratios]
    count = sum(r.size for r in ratios)
    off_tie = [np.abs(f - r).max() - 0.5 for f, r in zip(found, ratios, strict=True)]
    assert max(off_tie) < 1e-3  # wrong nowhere but at a tie
    # A photograph's integer samples give exact ties in the flat parts; noise has none.
    flipped = sum(int((f != np.rint(r)).sum()) for f, r in zip(found, ratios, strict=True))
    assert flipped <= 1e-4 * count + 1
    assert np.abs(decoded[0] - reconstruct(found, tables[0], subsampling)).max() < 1e-5


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_shipped_reference_agrees_with_the_definition(subsampling, photo):
    image = photo(64, 96).transpose(2, 0, 1) / 255
    tables = tables_of(80)[0]
    for ours, theirs in zip(
        quantizer_ratios(image, tables, subsampling), float64_layer(image, tables, subsampling), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-9)


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
@pytest.mark.parametrize("quality", [10, 75, 95])
def test_decoding_against_libjpeg(subsampling, quality, photo, monkeypatch):
    """The graph's own levels in a real file, decoded by Pillow: only libjpeg's integer arithmetic differs."""
    image_module = pytest.importorskip("PIL.Image")
    from edgejpeg.jpeg import reference as encoder

    rgb = photo(96, 128)
    pair = ijg_tables(quality)
    model, _ = expose_levels(layer_model(subsampling))
    image = rgb.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255)
    decoded, _, *levels = run(model, image, tables_of(quality))
    coefficients = [
        level.astype(np.float64) * np.asarray(pair[min(index, 1)], dtype=np.float64)
        for index, level in enumerate(levels_of(levels))
    ]
    monkeypatch.setattr(encoder, "component_blocks", lambda *_: coefficients)
    file = encoder.encode_reference(rgb, pair, subsampling)
    pillow = np.asarray(image_module.open(io.BytesIO(file)).convert("RGB"), dtype=np.float64)
    difference = 255 * decoded[0].transpose(1, 2, 0) - pillow
    # Y, Cb, Cr and then R, G, B are rounded: 0.5 on average for blue, whose Cb counts 1.772 times.
    assert np.abs(difference).mean() < 0.55
    assert np.abs(difference).max() < 3
    assert np.abs(difference.mean(axis=(0, 1))).max() < 0.3


@pytest.mark.parametrize("subsampling", ["444", "422", "420"])
@pytest.mark.parametrize("quality", [30, 75, 95])
def test_coding_and_decoding_against_libjpeg(subsampling, quality, photo):
    """The same tables through Pillow. libjpeg rounds samples to integers, so coefficients near a tie differ."""
    image_module = pytest.importorskip("PIL.Image")
    rgb = photo(256, 320)
    luma, chroma = ijg_tables(quality)
    buffer = io.BytesIO()
    sampling = {"444": 0, "422": 1, "420": 2}[subsampling]
    image_module.fromarray(rgb).save(
        buffer, "JPEG", qtables=[luma.raster_list(), chroma.raster_list()], subsampling=sampling
    )
    decoded = np.asarray(image_module.open(buffer), dtype=np.float64)
    image = rgb.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255)
    ours = 255 * run(layer_model(subsampling), image, tables_of(quality))[0][0].transpose(1, 2, 0)
    assert np.abs(ours - decoded).mean() < min(1.2, 0.6 * np.abs(rgb - decoded).mean())


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_inlined_equals_function(subsampling, rng):
    model = layer_model(subsampling)
    inlined = onnx_inliner.inline_local_functions(model)
    assert not inlined.functions
    assert all(node.domain == "" for node in inlined.graph.node)
    image, tables = rng.random((2, 3, 32, 48)).astype(np.float32), tables_of(60)
    np.testing.assert_array_equal(run(model, image, tables)[0], run(inlined, image, tables)[0])


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_one_mcu_and_flat_images(subsampling):
    """Smallest size; black, white and mid-grey come back as they are."""
    height, width = mcu_size(subsampling)
    image = np.zeros((3, 3, height, width), dtype=np.float32)
    image[1], image[2] = 1, np.float32(128 / 255)
    decoded = run(layer_model(subsampling), image, np.ones((1, 2, 64), dtype=np.float32))[0]
    assert decoded.shape == image.shape
    # A DC level is worth 1/8 of a sample; the range is kept.
    np.testing.assert_allclose(decoded, image, atol=0.07 / 255)
    assert decoded.min() >= 0 and decoded.max() <= 1


@pytest.mark.parametrize("subsampling", ["444", "420"])
def test_tables_for_each_image_equal_images_alone(subsampling, rng):
    model = layer_model(subsampling)
    images, tables = rng.random((3, 3, 32, 32)).astype(np.float32), tables_of(20, 60, 90)
    together = run(model, images, tables)[0]
    for index in range(3):
        alone = run(model, images[index : index + 1], tables[index : index + 1])[0]
        # Equal but where a sum in another order tips a tie; on noise there is none.
        np.testing.assert_allclose(together[index], alone[0], atol=1e-5)
    assert np.abs(together[0] - run(model, images[:1], tables[1:2])[0][0]).max() > 0.01


def test_luma_and_chroma_tables_are_not_mixed_up(rng):
    """A huge chroma step leaves the grey image; a huge luma step leaves flat luma."""
    image = rng.random((1, 3, 32, 32)).astype(np.float32)
    tables = np.ones((1, 2, 64), dtype=np.float32)
    tables[:, 1] = 255 * 64
    for subsampling in ("444", "422", "420"):
        decoded = run(layer_model(subsampling), image, tables)[0][0]
        np.testing.assert_allclose(decoded[0], decoded[1], atol=1e-5)
        np.testing.assert_allclose(decoded[0], decoded[2], atol=1e-5)
        assert decoded[0].std() > 0.1


def test_row_and_column_of_tables_are_not_swapped():
    """A vertical wave meets the steps of the table's first column, rows 1 to 7."""
    wave = 0.5 + 0.3 * np.cos((2 * np.arange(8) + 1) * np.pi / 16)
    image = np.broadcast_to(wave[:, None].astype(np.float32), (1, 3, 8, 8))
    vertical, horizontal = np.ones((1, 2, 8, 8), np.float32), np.ones((1, 2, 8, 8), np.float32)
    vertical[..., 1, 0] = 10000
    horizontal[..., 0, 1] = 10000
    model = layer_model("444")
    flattened = run(model, np.ascontiguousarray(image), vertical.reshape(1, 2, 64))[0]
    kept = run(model, np.ascontiguousarray(image), horizontal.reshape(1, 2, 64))[0]
    assert np.ptp(flattened) < 0.01
    np.testing.assert_allclose(kept, image, atol=0.003)


def test_unknown_subsampling_is_refused():
    with pytest.raises(InvalidInputError, match="411"):
        jpeg_function("411", 18)
