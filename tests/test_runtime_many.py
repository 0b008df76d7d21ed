"""encode_many and encoders in several threads: order, look-ahead, failures, ends, and the free interpreter lock."""

from __future__ import annotations

import ctypes
import gc
import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from edgejpeg.errors import InvalidInputError
from edgejpeg.jpeg.tables import ijg_tables
from edgejpeg.profile import Profile
from edgejpeg.runtime import Encoder
from edgejpeg.runtime.library import find_library


def adaptive(**options) -> Encoder:
    profile = Profile.adaptive(name="a", sensitivity=np.full((3, 8, 8), 1e-4), water_level=0.1)
    return Encoder(profile, **options)


def workers_alive() -> int:
    return sum(thread.name.startswith("edgejpeg") for thread in threading.enumerate())


@pytest.mark.parametrize("workers", [None, 1, 2, 5])
def test_files_in_order(workers, photo):
    frames = [photo(20 + 17 * (i % 7), 200 - 23 * (i % 5)) for i in range(40)]
    with adaptive(comment=True, effort=1) as encoder:
        expected = [encoder.encode(frame) for frame in frames]
        assert list(encoder.encode_many(frames, workers)) == expected
        assert list(encoder.encode_many(iter(frames[:1]), workers)) == expected[:1]
        assert list(encoder.encode_many([], workers)) == []
    assert workers_alive() == 0


@pytest.mark.parametrize("workers", [1, 3])
def test_an_endless_camera_is_read_no_further_than_promised(workers, photo):
    taken = 0

    def camera():
        nonlocal taken
        for index in itertools.count():
            taken += 1
            yield photo(30 + index % 3, 40)

    encoder = adaptive()
    files = encoder.encode_many(camera(), workers)
    assert taken == 0
    for index in range(20):
        assert next(files) == encoder.encode(photo(30 + index % 3, 40))
        assert taken <= index + 1 + 2 * workers
    files.close()
    assert workers_alive() == 0
    assert encoder.encode(photo(30, 40))


def test_files_are_not_kept_back_while_the_camera_waits(photo):
    """A camera delivers its third frame only after the first file has come: nothing hangs."""
    first_file_came = threading.Event()

    def camera():
        yield photo(16, 16)
        time.sleep(0.5)  # until the first file is ready: it must be given out before the third frame is asked for
        yield photo(16, 16)
        assert first_file_came.wait(20)
        yield photo(16, 16)

    files = adaptive().encode_many(camera(), 4)
    next(files)
    first_file_came.set()
    assert len(list(files)) == 2


def test_letting_go_frees_the_pool(photo):
    files = adaptive().encode_many(itertools.repeat(photo(16, 16)), 2)
    next(files)
    assert workers_alive() > 0
    del files
    gc.collect()
    assert workers_alive() == 0


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_a_bad_frame_raises_in_its_place(workers, photo):
    good = photo(24, 24)
    files = adaptive().encode_many([good, good, good[..., :2], good], workers)
    assert len([next(files), next(files)]) == 2
    with pytest.raises(InvalidInputError, match=r"got \(24, 24, 2\)"):
        next(files)
    with pytest.raises(StopIteration):
        next(files)
    assert workers_alive() == 0


def test_a_broken_source_raises_behind_its_frames(photo):
    def camera():
        yield from [photo(24, 24)] * 3
        raise OSError("unplugged")

    files = adaptive().encode_many(camera(), 2)
    assert len([next(files) for _ in range(3)]) == 3
    with pytest.raises(OSError, match="unplugged"):
        next(files)
    assert workers_alive() == 0


def test_bad_arguments(photo):
    encoder = adaptive()
    for workers in (0, 257, 1.5, True):
        with pytest.raises(InvalidInputError, match="workers is an integer from 1 to 256; got"):
            encoder.encode_many([], workers)
    with pytest.raises(InvalidInputError, match="frames is something to iterate over; got int"):
        encoder.encode_many(5)
    encoder.close()
    with pytest.raises(InvalidInputError, match="this Encoder is closed"):
        encoder.encode_many([photo(8, 8)])


def test_yuv_and_settings_reach_the_pool(rng):
    frames = [rng.integers(0, 256, (36, 32), dtype=np.uint8) for _ in range(6)]
    for yuv_range in ("limited", "full"):
        encoder = adaptive(color="nv12", yuv_range=yuv_range, water_level=0.02)
        assert list(encoder.encode_many(frames, 2)) == [encoder.encode(frame) for frame in frames]


def test_several_encoders_in_several_threads(photo):
    luma, chroma = ijg_tables(85)
    profiles = [
        Profile.fixed(name="f", luma=luma, chroma=chroma, subsampling="444"),
        Profile.adaptive(name="a", sensitivity=np.full((3, 8, 8), 1e-4), water_level=0.1, subsampling="422"),
    ]
    frames = [photo(50 + 9 * i, 120) for i in range(5)]
    expected = [[Encoder(profile).encode(frame) for frame in frames] for profile in profiles]

    def work(index: int) -> list[bytes]:
        with Encoder(profiles[index % 2], threads=1 + index % 3) as encoder:
            return [encoder.encode(frame) for frame in frames]

    with ThreadPoolExecutor(6) as pool:
        for index, files in enumerate(pool.map(work, range(12))):
            assert files == expected[index % 2]


def test_the_interpreter_runs_while_a_frame_is_encoded(photo):
    """Turns of this thread during one encode, against those while the same call holds the interpreter's lock."""
    frame = photo(3000, 4000)
    encoder = adaptive()
    encoder.encode(frame)
    native = encoder._native

    def turns() -> int:
        inside: list[bool] = []

        def call() -> None:
            inside.append(True)
            encoder.encode(frame)
            inside.append(False)

        thread = threading.Thread(target=call)
        thread.start()
        count = 0
        while len(inside) < 2:
            count += len(inside)
            time.sleep(0)
        thread.join()
        return count

    free = turns()
    holding = ctypes.PyDLL(str(find_library()))
    released = native._library
    holding.edgejpeg_encoder_encode.argtypes = released.edgejpeg_encoder_encode.argtypes
    native._library = holding
    held = turns()
    native._library = released
    assert free > 10 * (held + 1), (free, held)
