"""The measuring loop, with a classifier whose answer is known."""

from __future__ import annotations

import io

import numpy as np
import pytest

from edgejpeg.demo import measure
from edgejpeg.jpeg.markers import parse_jpeg
from edgejpeg.profile import Profile

Image = pytest.importorskip("PIL.Image")


def _mean_colour(jpeg: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(jpeg)) as image:
        return np.asarray(image.convert("RGB"), np.float64).mean(axis=(0, 1)).astype(np.float32) / 255


def _frames(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(4)
    smooth = rng.integers(0, 256, (count, 8, 8, 3)).astype(np.uint8)
    return [np.asarray(Image.fromarray(f).resize((48, 32), Image.Resampling.BICUBIC)) for f in smooth]


def _profile() -> Profile:
    sensitivity = 1e-6 / (1 + np.arange(64).reshape(8, 8)) * np.array([3.0, 1.0, 1.0])[:, None, None]
    return Profile.adaptive(
        name="test", sensitivity=sensitivity, water_level=0.1, q_max=100, subsampling="420", provenance={}
    )


def test_every_frame_at_every_setting_is_measured() -> None:
    frames = _frames(3)
    clean = np.stack([frame.astype(np.float64).mean(axis=(0, 1)) / 255 for frame in frames]).astype(np.float32)
    methods = [measure.ordinary_jpeg((10, 90)), measure.edgejpeg_method(_profile(), (5.0, 0.5, 0.01))]
    steps: list[None] = []
    results = measure.measure(methods, frames, clean, _mean_colour, step=lambda: steps.append(None))
    assert [(m.key, m.bytes.shape) for m in results] == [("jpeg", (2, 3)), ("edgejpeg", (3, 3))]
    assert len(steps) == 15
    for method, found in zip(methods, results, strict=True):
        for i, setting in enumerate(method.settings):
            for n, frame in enumerate(frames):
                jpeg = method.encoder(setting)(frame)
                logits = _mean_colour(jpeg).astype(np.float64)
                p, q = (np.exp(v) / np.exp(v).sum() for v in (clean[n].astype(np.float64), logits))
                assert found.bytes[i, n] == len(jpeg)
                assert found.scan_bytes[i, n] == parse_jpeg(jpeg).scan_bytes < len(jpeg)
                assert found.kl[i, n] == pytest.approx(float((p * np.log(p / q)).sum()), rel=1e-6, abs=1e-15)
                assert found.top1[i, n] == logits.argmax()
        assert (np.diff(found.bytes.mean(axis=1)) > 0).all()
        assert (found.encode_ms > 0).all() and (found.round_trip_ms > 0).all()


def test_both_methods_write_the_same_kind_of_file() -> None:
    frame = _frames(1)[0]
    files = [
        method.encoder(setting)(frame)
        for method, setting in ((measure.ordinary_jpeg((50,)), 50), (measure.edgejpeg_method(_profile(), (0.5,)), 0.5))
    ]
    for jpeg in files:
        info = parse_jpeg(jpeg)
        assert (info.process, info.subsampling, info.width, info.height) == ("baseline", "420", 48, 32)
    from edgejpeg.jpeg.tables import ijg_tables

    assert parse_jpeg(files[0]).quant_table(0) == ijg_tables(50)[0]


def test_nearest_setting_is_the_nearest_in_bytes() -> None:
    frame = _frames(1)[0]
    method = measure.ordinary_jpeg(())
    sizes = {quality: len(method.encoder(quality)(frame)) for quality in range(1, 101)}
    for target in (0, sizes[40], (sizes[60] + sizes[61]) // 2 + 1, 10**6):
        quality, jpeg = measure.nearest_setting(method, range(1, 101), frame, target)
        assert len(jpeg) == sizes[int(quality)]
        assert abs(len(jpeg) - target) == min(abs(size - target) for size in sizes.values())
