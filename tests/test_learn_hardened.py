"""A hardened layer is the encoder's file behind libjpeg-turbo's decoder, bit for bit; a profile's layer is so too."""

from __future__ import annotations

import ctypes
import io
import shutil
import subprocess

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import edgejpeg  # noqa: E402
from edgejpeg.errors import InvalidInputError  # noqa: E402
from edgejpeg.jpeg.tables import QuantTable, ijg_tables  # noqa: E402
from edgejpeg.learn.layer import JpegLayer  # noqa: E402
from edgejpeg.profile import DeadZone, Level, Profile  # noqa: E402

SUBSAMPLINGS = ("444", "422", "420")


def _tensor(image):
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None].float()


def _images(photo, rng):
    yield "photo", photo(131, 185)
    yield "photo, whole MCUs", photo(96, 128)
    yield "noise", rng.integers(0, 256, (47, 61, 3)).astype(np.uint8)
    for size in ((1, 1), (3, 100), (25, 2), (34, 50)):
        yield f"noise {size}", rng.integers(0, 256, (*size, 3)).astype(np.uint8)


def _pillow(data):
    image_module = pytest.importorskip("PIL.Image")
    return np.asarray(image_module.open(io.BytesIO(data)).convert("RGB"))


def _opencv(data):
    cv2 = pytest.importorskip("cv2")
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def _plain(data):
    """libjpeg-turbo without "fancy" upsampling: its TurboJPEG library with TJFLAG_FASTUPSAMPLE, or djpeg."""
    try:
        library = ctypes.CDLL("libturbojpeg.so.0")
    except OSError:
        return _djpeg(data)
    library.tjInitDecompress.restype = ctypes.c_void_p
    info = edgejpeg.parse_jpeg(data)
    pixels = np.empty((info.height, info.width, 3), np.uint8)
    handle = ctypes.c_void_p(library.tjInitDecompress())
    size, rgb, fast_upsampling, accurate_dct = ctypes.c_ulong(len(data)), 0, 256, 4096
    status = library.tjDecompress2(
        handle,
        data,
        size,
        pixels.ctypes.data_as(ctypes.c_void_p),
        info.width,
        0,
        info.height,
        rgb,
        fast_upsampling | accurate_dct,
    )
    library.tjDestroy(handle)
    assert status == 0
    return pixels


def _djpeg(data):
    image_module = pytest.importorskip("PIL.Image")
    if shutil.which("djpeg") is None:
        pytest.skip("djpeg, which decodes without interpolation, is not installed")
    done = subprocess.run(["djpeg", "-nosmooth", "-ppm"], input=data, capture_output=True, check=True)
    return np.asarray(image_module.open(io.BytesIO(done.stdout)))


def _random_tables(rng):
    return tuple(QuantTable(rng.integers(1, 60, (8, 8))) for _ in range(2))


def _assert_decoded(layer, image, data, decoder, name):
    ours = layer(_tensor(image))[0].permute(1, 2, 0)
    np.testing.assert_array_equal(ours.numpy(), decoder(data), name)


DECODERS = [_pillow, _opencv, _plain, _djpeg]


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_hardened_layer_is_the_decoded_file_bit_for_bit(photo, rng, monkeypatch, subsampling, decoder):
    """The file of the encoder that people use, with the back end of this processor."""
    monkeypatch.delenv("EDGEJPEG_BACKEND", raising=False)
    upsampling = "fancy" if decoder in (_pillow, _opencv) else "plain"
    for name, image in _images(photo, rng):
        for tables in (*map(ijg_tables, (10, 50, 91)), _random_tables(rng)):
            layer = JpegLayer(*tables, subsampling, upsampling=upsampling).hardened()
            data = edgejpeg.encode_jpeg(image, tables=tables, subsampling=subsampling)
            _assert_decoded(layer, image, data, decoder, f"{name}, {tables[0].array[0]}")


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_hardened_layer_at_small_sizes_and_with_worst_content(rng, monkeypatch, subsampling):
    monkeypatch.delenv("EDGEJPEG_BACKEND", raising=False)
    for height, width in rng.integers(1, 41, (40, 2)).tolist():
        image = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
        extreme = (rng.integers(0, 2, (height, width, 3)) * 255).astype(np.uint8)
        tables = ijg_tables(int(rng.integers(1, 101)))
        for pixels in (image, extreme):
            data = edgejpeg.encode_jpeg(pixels, tables=tables, subsampling=subsampling)
            for decoder, upsampling in ((_opencv, "fancy"), (_plain, "plain")):
                layer = JpegLayer(*tables, subsampling, upsampling=upsampling).hardened()
                _assert_decoded(layer, pixels, data, decoder, f"{height}x{width} {tables[0].array[0]} {upsampling}")


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_hardened_layer_on_photographs(shared_data, monkeypatch, subsampling):
    """Whole photographs of 768 x 512, through a profile's file."""
    cv2 = pytest.importorskip("cv2")
    monkeypatch.delenv("EDGEJPEG_BACKEND", raising=False)
    paths = sorted((shared_data / "images" / "kodak").rglob("*.png"))[::8]
    assert paths
    for path, quality in zip(paths, (30, 75, 92), strict=False):
        image = np.ascontiguousarray(cv2.imread(str(path))[..., ::-1])
        layer = JpegLayer(*ijg_tables(quality), subsampling, input_range=1)
        data = edgejpeg.Encoder(layer.profile("photographs"), color="rgb").encode(image)
        ours = layer.hardened()(_tensor(image) / 255)[0].permute(1, 2, 0) * 255
        np.testing.assert_array_equal(ours.round().numpy(), _opencv(data), path.name)
        torch.testing.assert_close(ours, ours.round(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_hardened_in_float64_is_the_reference_back_end(photo, rng, monkeypatch, subsampling):
    monkeypatch.setenv("EDGEJPEG_BACKEND", "reference")
    for name, image in _images(photo, rng):
        for tables in (*map(ijg_tables, (10, 50, 91)), _random_tables(rng)):
            layer = JpegLayer(*tables, subsampling).hardened("float64")
            data = edgejpeg.encode_jpeg(image, tables=tables, subsampling=subsampling)
            _assert_decoded(layer, image, data, _pillow, f"{name}, {tables[0].array[0]}")
    with pytest.raises(InvalidInputError, match="encoder_rounding is 'int16' or 'float64'; got True"):
        layer.hardened(True)


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_a_profile_with_a_dead_zone_is_its_layer(photo, rng, monkeypatch, subsampling):
    zones = rng.uniform(0.5, 1, (2, 8, 8))
    zones[:, 0, 0] = 0.5
    for backend, encoder_rounding in (("", "int16"), ("reference", "float64")):
        monkeypatch.setenv("EDGEJPEG_BACKEND", backend)
        luma, chroma = _random_tables(rng)
        profile = Profile.fixed(
            name="zones", luma=luma, chroma=chroma, dead_zone=DeadZone(*zones), subsampling=subsampling
        )
        layer = JpegLayer.from_profile(profile).hardened(encoder_rounding)
        assert layer.profile("again").profile_id == profile.profile_id
        for name, image in _images(photo, rng):
            data = edgejpeg.Encoder(profile, color="rgb").encode(image)
            _assert_decoded(layer, image, data, _opencv, f"{name} {encoder_rounding}")


def test_tables_designed_for_a_frame_are_given_to_the_layer(photo, monkeypatch):
    monkeypatch.delenv("EDGEJPEG_BACKEND", raising=False)
    radius = np.add.outer(np.arange(8.0), np.arange(8.0))
    profile = Profile.adaptive(name="designed", sensitivity=[np.exp(-radius / 4)] * 3, water_level=0.5)
    encoder = edgejpeg.Encoder(profile, color="rgb")
    layer = JpegLayer(*ijg_tables(50), "420").hardened()
    for image in (photo(64, 90), photo(131, 50)):
        data = encoder.encode(image)
        designed = tuple(torch.tensor(table.array.astype(np.float32)) for table in encoder.last.tables)
        ours = layer(_tensor(image), designed)[0].permute(1, 2, 0)
        np.testing.assert_array_equal(ours.numpy(), _opencv(data))


def test_from_profile_takes_tables_of_colour():
    luma, chroma = ijg_tables(50)
    ladder = Profile.ladder(name="steps", levels=[Level(1.0, luma, chroma)])
    assert JpegLayer.from_profile(ladder.at_level(0), input_range=1).tables() == (luma, chroma)
    gray = Profile.fixed(name="gray", luma=luma, subsampling="gray")
    for wrong, message in ((ladder, "'steps' is ladder in 420: of a ladder, give one level"), (gray, "fixed in gray")):
        with pytest.raises(InvalidInputError, match=message):
            JpegLayer.from_profile(wrong)


def test_the_float64_encoder_differs_in_single_coefficients(photo, rng):
    """How far the two encoders' pixels are apart, which docs/jpeg_layer.md says."""
    noise = rng.integers(0, 256, (96, 96, 3)).astype(np.uint8)
    for image, within, mean in ((photo(192, 256), 0.93, 0.3), (noise, 0.65, 2.0)):
        for quality in (30, 75, 90):
            layer = JpegLayer(*ijg_tables(quality), "420")
            pixels = [layer.hardened(kind)(_tensor(image)) for kind in ("int16", "float64")]
            difference = (pixels[0] - pixels[1]).abs().amax(1)
            assert within < float((difference <= 1).double().mean()) and 0 < float(difference.mean()) < mean


def test_a_hardened_layer_says_what_it_is_and_passes_gradients_on(photo):
    layer = JpegLayer(*ijg_tables(50), "420")
    assert "rounding" not in repr(layer)
    hardened = layer.hardened()
    assert "encoder_rounding='int16', decoder_rounding=True" in repr(hardened)
    assert "encoder_rounding='float64'" in repr(JpegLayer(*ijg_tables(50), encoder_rounding=True))
    image = _tensor(photo(40, 50)).requires_grad_()
    weights = torch.randn(image.shape)
    (through,) = torch.autograd.grad(hardened(image), image, weights)
    (plain,) = torch.autograd.grad(JpegLayer(*ijg_tables(50), "420", "hard")(image), image, weights)
    torch.testing.assert_close(through, plain, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("quality", [50, 97])
def test_a_hardened_layer_compiles_and_runs_under_autocast(photo, quality):
    image, layer = _tensor(photo(30, 44)), JpegLayer(*ijg_tables(quality), "420").hardened()
    expected = layer(image)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(image), expected, atol=0, rtol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(layer(image), expected, atol=0, rtol=0)
    torch.testing.assert_close(layer(image.double()).float(), expected, atol=0, rtol=0)


def test_a_dead_zone_is_the_encoders():
    luma, chroma = ijg_tables(50)
    zone = DeadZone(np.full((8, 8), 0.5), np.full((8, 8), 0.5))
    for options in ({}, {"quantizer": "hard"}, {"encoder_rounding": "int16"}):
        with pytest.raises(InvalidInputError, match="needs quantizer='hard' and an encoder_rounding"):
            JpegLayer(luma, chroma, dead_zone=zone, **options)
    options = {"quantizer": "hard", "encoder_rounding": "int16"}
    with pytest.raises(InvalidInputError, match="no thresholds for chroma"):
        JpegLayer(luma, chroma, dead_zone=DeadZone(zone.luma), **options)
    layer = JpegLayer(luma, chroma, dead_zone=zone, **options)
    assert "dead_zone" in repr(layer)
    layer.quantizer = "soft"
    with pytest.raises(InvalidInputError, match="got 'soft' and 'int16'"):
        layer(torch.zeros(1, 3, 8, 8))
