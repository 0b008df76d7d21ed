"""Sources of frames: folders with broken files, videos whole and truncated, sizes, and what is refused."""

from __future__ import annotations

import io
import os
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edgejpeg.errors import DataError, InvalidInputError
from edgejpeg.runtime.encoder import Encoder
from edgejpeg.runtime.frames import fit_frame, open_source, read_image

cv2 = pytest.importorskip("cv2")


@pytest.fixture(scope="module", autouse=True)
def _quiet_ffmpeg():
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


def colour(index: int, shape: tuple[int, int] = (48, 64)) -> np.ndarray:
    """A flat BGR frame that tells its index."""
    return np.full((*shape, 3), (20 + 20 * index, 100, 230 - 20 * index), np.uint8)


def write_video(path: Path, frames: int = 10, codec: str = "mp4v") -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), 10, (64, 48))
    if not writer.isOpened():
        pytest.skip(f"this OpenCV cannot write {codec}")
    for index in range(frames):
        writer.write(colour(index))
    writer.release()
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images 0 to 4 as PNG, of which 1 is empty and 3 cut; a text file; a folder."""
    for index in range(5):
        cv2.imwrite(str(tmp_path / f"frame{index}.png"), colour(index))
    (tmp_path / "frame1.png").write_bytes(b"")
    whole = (tmp_path / "frame3.png").read_bytes()
    (tmp_path / "frame3.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "folder.png").mkdir()
    return tmp_path


@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "mp4v"), (".avi", "MJPG")])
def test_video_yields_every_frame_in_order(tmp_path, suffix, codec):
    path = write_video(tmp_path / f"clip{suffix}", codec=codec)
    before = time.time_ns()
    with open_source(path) as source:
        frames = list(source)
    assert source.total == len(frames) == 10 and source.problems == []
    for index, frame in enumerate(frames):
        assert frame.index == index and frame.name == f"{path.name}#{index}"
        assert frame.image.shape == (48, 64, 3) and frame.image.dtype == np.uint8 and frame.image.flags.c_contiguous
        np.testing.assert_allclose(frame.image.mean((0, 1)), colour(index)[0, 0], atol=8)
    stamps = [frame.timestamp_ns for frame in frames]
    assert before <= stamps[0] and stamps == sorted(stamps) and stamps[-1] <= time.time_ns()


@pytest.mark.parametrize(
    ("options", "indices"),
    [
        ({"limit": 3}, [0, 1, 2]),
        ({"every": 4}, [0, 4, 8]),
        ({"every": 4, "limit": 2}, [0, 4]),
        ({"every": 100}, [0]),
        ({"limit": 100}, list(range(10))),
    ],
)
def test_limit_and_every(tmp_path, options, indices):
    with open_source(write_video(tmp_path / "clip.mp4"), **options) as source:
        frames = list(source)
    assert [frame.index for frame in frames] == indices and source.total == len(indices)
    np.testing.assert_allclose(frames[-1].image.mean((0, 1)), colour(indices[-1])[0, 0], atol=8)


def test_truncated_video_is_told_from_its_end(tmp_path):
    path = write_video(tmp_path / "clip.avi", frames=40, codec="MJPG")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    seen = 0
    with open_source(path) as source, pytest.raises(DataError, match=r"ends after \d+ of the 40 frames"):
        for _ in source:
            seen += 1
    assert 0 < seen < 40
    with open_source(path, on_error="skip") as source:
        assert len(list(source)) == seen
    assert len(source.problems) == 1 and f"after {seen} of the 40" in source.problems[0]
    with open_source(path, limit=3) as source:  # what was asked for is there
        assert len(list(source)) == 3


@pytest.mark.parametrize("content", [b"", b"not a video at all" * 50])
def test_what_is_no_video_is_refused(tmp_path, content):
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be opened"):
        open_source(path)


def test_mp4_without_its_index_is_refused(tmp_path):
    path = write_video(tmp_path / "clip.mp4")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="truncated"):
        open_source(path)


def test_folder_in_order_with_broken_files_skipped_and_named(folder):
    with open_source(folder, on_error="skip") as source:
        frames = list(source)
    assert [frame.name for frame in frames] == ["frame0.png", "frame2.png", "frame4.png"]
    assert [frame.index for frame in frames] == [0, 2, 4] and source.total == 5
    for frame in frames:
        np.testing.assert_array_equal(frame.image, colour(frame.index))
    assert len(source.problems) == 2
    assert "frame1.png" in source.problems[0] and "frame3.png" in source.problems[1]


def test_folder_fails_at_the_first_broken_file(folder):
    with open_source(folder) as source, pytest.raises(DataError, match=r"frame1\.png"):
        list(source)


def test_limit_counts_frames_and_not_broken_files(folder):
    with open_source(folder, on_error="skip", limit=2) as source:
        assert [frame.name for frame in source] == ["frame0.png", "frame2.png"]


def test_single_image_and_missing_ones(folder, tmp_path):
    with open_source(folder / "frame2.png") as source:
        assert [frame.name for frame in source] == ["frame2.png"]
    with pytest.raises(DataError, match="no source"):
        open_source(tmp_path / "absent.mp4")
    (tmp_path / "bare").mkdir()
    with pytest.raises(DataError, match="no image in"):
        open_source(tmp_path / "bare")
    with pytest.raises(DataError, match="cannot read"):
        read_image(tmp_path / "absent.png")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tif"])
def test_truncated_images_are_refused(tmp_path, suffix, rng):
    noise = cv2.GaussianBlur(rng.integers(0, 256, (120, 160, 3), dtype=np.uint8), (0, 0), 3)
    data = cv2.imencode(suffix, noise)[1].tobytes()
    path = tmp_path / f"image{suffix}"
    path.write_bytes(data)
    assert read_image(path).shape == (120, 160, 3)
    for length in (len(data) // 2, len(data) - 20):
        path.write_bytes(data[:length])
        with pytest.raises(DataError, match=path.name):
            read_image(path)


def test_jpeg_is_pillows_jpeg_and_upright(tmp_path, photo):
    pil = pytest.importorskip("PIL.Image")
    rgb = photo(40, 64)
    turned = pil.Exif()
    turned[0x112] = 6  # the camera was turned: rotate by 90 degrees clockwise to see it upright
    pil.fromarray(rgb).save(tmp_path / "a.jpg", quality=95, subsampling=0)
    pil.fromarray(rgb).save(tmp_path / "b.jpg", quality=95, subsampling=0, exif=turned)
    pil.fromarray(rgb).convert("L").save(tmp_path / "gray.jpg", quality=95)
    decoded = np.asarray(pil.open(io.BytesIO((tmp_path / "a.jpg").read_bytes())))
    plain = read_image(tmp_path / "a.jpg")
    assert np.abs(plain[:, :, ::-1].astype(int) - decoded).max() <= 2
    np.testing.assert_array_equal(read_image(tmp_path / "b.jpg"), np.rot90(plain, -1))
    gray = read_image(tmp_path / "gray.jpg")
    assert gray.shape == (40, 64, 3) and (gray == gray[:, :, :1]).all()


@pytest.mark.parametrize("shape", [(480, 640), (640, 480), (224, 224), (100, 90), (1, 1), (7, 900), (225, 224)])
@pytest.mark.parametrize(("size", "resize"), [((224, 224), None), ((224, 224), 256), ((96, 160), None), ((1, 1), None)])
def test_fit_gives_the_size_and_keeps_the_centre(shape, size, resize):
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]]
    ramps = [255 * y / max(shape[0] - 1, 1), 255 * x / max(shape[1] - 1, 1), np.full(shape, 99)]
    image = np.stack(ramps, 2).astype(np.uint8)
    fitted = fit_frame(image, size, resize)
    assert fitted.shape == (*size, 3) and fitted.dtype == np.uint8 and fitted.flags.c_contiguous
    if min(shape) > 8 and min(size) > 8:
        middle = image[(shape[0] - 1) // 2, (shape[1] - 1) // 2].astype(int)
        assert np.abs(fitted[size[0] // 2, size[1] // 2].astype(int) - middle).max() <= 4


def test_fit_scales_the_short_side():
    image = np.zeros((100, 200, 3), np.uint8)
    image[:, 50:150] = 255  # the centre square
    assert (fit_frame(image, (50, 50)) == 255).all()
    wide = fit_frame(image, (50, 50), resize=50)
    np.testing.assert_array_equal(wide, fit_frame(image, (50, 50)))
    assert fit_frame(image, (100, 200)) is image


def test_size_applies_to_every_kind_of_source(tmp_path):
    video = write_video(tmp_path / "clip.mp4", frames=2)
    cv2.imwrite(str(tmp_path / "a.png"), colour(0))
    for source in (video, tmp_path / "a.png"):
        with open_source(source, size=32) as frames:
            assert {frame.image.shape for frame in frames} == {(32, 32, 3)}
        with open_source(source, size=(16, 24), resize=40) as frames:
            assert {frame.image.shape for frame in frames} == {(16, 24, 3)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 0}, "limit"),
        ({"every": 0}, "every"),
        ({"size": 0}, "size"),
        ({"size": (10, 70000)}, "size"),
        ({"resize": 10}, "resize needs a size"),
        ({"size": 20, "resize": 10}, "resize"),
        ({"on_error": "ignore"}, "on_error"),
    ],
)
def test_options_are_checked(folder, options, message):
    with pytest.raises(InvalidInputError, match=message):
        open_source(folder, **options)


@pytest.mark.parametrize("spec", ["camera:", "camera:x", "camera:-1", "camera:²"])
def test_camera_needs_a_number(spec):
    with pytest.raises(InvalidInputError, match="camera:N"):
        open_source(spec)


def test_absent_camera_is_one_line(capfd):
    with pytest.raises(DataError, match="camera 987 cannot be opened") as error:
        open_source("camera:987")
    assert "\n" not in str(error.value) and capfd.readouterr().err == ""


class FakeCamera:
    """A camera that delivers four frames, then is unplugged."""

    left = 4
    released = False

    def __init__(self, *_: object) -> None:
        pass

    def isOpened(self) -> bool:  # noqa: N802
        return True

    def grab(self) -> bool:
        self.left -= 1
        return self.left >= 0

    def retrieve(self) -> tuple[bool, np.ndarray]:
        return True, colour(self.left)

    def release(self) -> None:
        FakeCamera.released = True


def test_camera_that_stops_is_a_failure_even_when_skipping(monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", FakeCamera)
    got = []
    with open_source("camera:0", on_error="skip", every=2) as source, pytest.raises(DataError, match="after 4 frames"):
        assert source.total is None
        for frame in source:
            got.append((frame.index, frame.name))
    assert got == [(0, "camera 0#0"), (2, "camera 0#2")] and FakeCamera.released
    with open_source("camera:0", limit=3) as source:
        assert len(list(source)) == 3 and source.total == 3


def test_gstreamer(monkeypatch):
    with pytest.raises(InvalidInputError, match="pipeline"):
        open_source("gst:  ")
    monkeypatch.setattr(cv2.videoio_registry, "hasBackend", lambda _: False)
    with pytest.raises(DataError, match="without GStreamer"):
        open_source("gst:videotestsrc num-buffers=3")
    opened = []
    monkeypatch.setattr(cv2.videoio_registry, "hasBackend", lambda _: True)
    monkeypatch.setattr(cv2, "VideoCapture", lambda *args: opened.append(args) or FakePipeline())
    with open_source("gst:videotestsrc num-buffers=4") as source:
        assert len(list(source)) == 4  # the end of a pipeline is no failure
    with open_source("gst:a ! appsink name=x"):
        pass
    assert opened[0][0].endswith("! videoconvert ! video/x-raw,format=BGR ! appsink")
    assert opened[0][1] == cv2.CAP_GSTREAMER
    assert opened[1][0] == "a ! appsink name=x"


class FakePipeline(FakeCamera):
    """Frames of 48 rows as OpenCV gives those of a pipeline."""

    frame = colour(0)[:48]

    def retrieve(self) -> tuple[bool, np.ndarray]:
        return True, self.frame

    def get(self, which: int) -> float:
        assert which == cv2.CAP_PROP_FRAME_HEIGHT
        return 48.0


@pytest.fixture
def pipeline_of(monkeypatch):
    """Lets a pipeline give a frame."""
    monkeypatch.setattr(cv2.videoio_registry, "hasBackend", lambda _: True)

    def give(frame: np.ndarray) -> None:
        monkeypatch.setattr(cv2, "VideoCapture", type("Pipeline", (FakePipeline,), {"frame": frame}))

    return give


STACKED, PAIRS = np.zeros((72, 64), np.uint8), np.zeros((48, 64, 2), np.uint8)


@pytest.mark.parametrize(
    ("format_", "frame", "color"),
    [("NV12", STACKED, "nv12"), ("NV21", STACKED, "nv21"), ("I420", STACKED, "i420"), ("YUY2", PAIRS, "yuyv")],
)
@pytest.mark.parametrize("caps", ["video/x-raw,format={}", "video/x-raw, format=(string){}, width=64"])
def test_pipelines_of_a_cameras_own_format(format_, frame, color, caps, pipeline_of):
    pipeline_of(frame)
    spec = f"gst:v4l2src ! {caps.format(format_)} ! appsink"
    with open_source(spec, own_color=True) as source:
        assert source.color == color
        for got in source:
            assert got.image.shape == frame.shape
            assert len(Encoder("efficientnet_lite0", color=source.color).encode(got.image)) > 100
    for options in ({}, {"own_color": True, "size": 32}):
        with pytest.raises(DataError, match=f"ends in {format_}.*end it with ! videoconvert ! video/x-raw,format=BGR"):
            open_source(spec, **options)
    # Behind a conversion the format is OpenCV's choice, BGR.
    pipeline_of(colour(0)[:48])
    with open_source(spec.replace("appsink", "videoconvert ! appsink")) as source:
        assert (source.color, next(iter(source)).image.shape) == ("bgr", (48, colour(0).shape[1], 3))


@pytest.mark.parametrize(
    ("spec", "frame"),
    [
        ("gst:v4l2src ! appsink", STACKED),  # not said, and no gray picture
        ("gst:v4l2src ! appsink", PAIRS),
        ("gst:v4l2src ! appsink", np.zeros((48, 64, 4), np.uint8)),
        ("gst:v4l2src ! video/x-raw,format=NV12 ! appsink", np.zeros((48, 64), np.uint8)),
        ("gst:v4l2src ! video/x-raw,format=YUY2 ! appsink", STACKED),
    ],
)
def test_pipelines_that_give_something_else(spec, frame, pipeline_of):
    pipeline_of(frame)
    with (
        open_source(spec, own_color=True) as source,
        pytest.raises(DataError, match=r"are not \w+; end it with ! videoconvert ! video/x-raw,format=BGR ! appsink"),
    ):
        next(iter(source))


def test_gray_pipelines_become_bgr(pipeline_of):
    pipeline_of(np.full((48, 64), 7, np.uint8))
    with open_source("gst:v4l2src ! video/x-raw,format=GRAY8 ! appsink") as source:
        image = next(iter(source)).image
    assert image.shape == (48, 64, 3)
    assert (image == 7).all()


def test_opencv_is_named_when_missing(monkeypatch):
    import edgejpeg.runtime.frames as frames
    from edgejpeg.errors import MissingDependencyError

    def absent(*_: object, **__: object) -> SimpleNamespace:
        raise MissingDependencyError("install it with: pip install 'edgejpeg[camera]'")

    monkeypatch.setattr(frames, "require", absent)
    with pytest.raises(MissingDependencyError, match="camera"):
        open_source("camera:0")
