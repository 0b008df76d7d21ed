"""Photos in memory and crops of them."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
image_module = pytest.importorskip("PIL.Image")

from edgejpeg.errors import DataError, InvalidInputError  # noqa: E402
from edgejpeg.learn.crops import load_photos, random_crop, stacked  # noqa: E402
from edgejpeg.learn.data import open_data, read_image  # noqa: E402

PREPROCESSING = {"size": (32, 32), "resize": 36, "interpolation": "bilinear"}


@pytest.fixture
def folder(photo, tmp_path):
    whole = photo(200, 300)
    for index in range(20):
        y, x = 5 * index, 7 * index
        height = 200 - y if index == 3 else 40  # one is large
        image_module.fromarray(whole[y : y + height, x : x + 60]).save(tmp_path / f"{index:02}.png")
    image_module.fromarray(whole[:20, :24]).save(tmp_path / "small.png")
    return tmp_path


def test_photos_are_kept_whole_and_the_held_out_are_preprocessed(folder):
    data = open_data(folder)
    photos = load_photos(data, **PREPROCESSING, held_out=0.2, seed=3)
    assert (len(photos.train), len(photos.held_out), photos.skipped) == (17, 4, ())
    expected = {read_image(f, size=(32, 32), resize=36).tobytes(): f for f in data.files}
    held = {expected[stacked([image])[0].tobytes()] for image in photos.held_out}
    assert len(held) == 4
    whole = {np.asarray(image_module.open(f).convert("RGB")).tobytes() for f in set(data.files) - held}
    kept = [image for image in photos.train if image.tobytes() in whole]
    assert len(kept) >= len(photos.train) - 2  # all but the small and the large one
    assert min(min(image.shape[:2]) for image in photos.train) >= 32
    assert max(min(image.shape[:2]) for image in photos.train) <= 48


def test_the_seed_draws(folder):
    data = open_data(folder)
    first, again, other = (load_photos(data, **PREPROCESSING, max_images=12, seed=s) for s in (1, 1, 2))
    assert len(first.train) + len(first.held_out) == 12
    assert all(map(np.array_equal, first.train, again.train))
    assert {i.tobytes() for i in first.train} != {i.tobytes() for i in other.train}


def test_damaged_files(folder):
    (folder / "05.png").write_bytes(b"broken")
    data = open_data(folder)
    photos = load_photos(data, **PREPROCESSING)
    assert [file.name for file, _ in photos.skipped] == ["05.png"]
    with pytest.raises(DataError, match=r"05\.png.*--on-error skip"):
        load_photos(data, **PREPROCESSING, on_error="fail")


def test_too_few_and_wrong_options(folder):
    data = open_data(folder)
    with pytest.raises(DataError, match="gave 7 images, 0 skipped; adaptation needs at least 8"):
        load_photos(data, **PREPROCESSING, max_images=7)
    for wrong in ({"held_out": 0.0}, {"held_out": 0.6}, {"on_error": "ignore"}):
        with pytest.raises(InvalidInputError, match=r"got"):
            load_photos(data, **PREPROCESSING, **wrong)


def test_a_strip_that_cannot_be_scaled_is_named(folder):
    image_module.new("RGB", (4000, 2)).save(folder / "strip.png")
    photos = load_photos(open_data(folder), **PREPROCESSING)
    assert [file.name for file, _ in photos.skipped] in (["strip.png"], [])


def test_crops_lie_inside_at_every_scale_and_side(photo, rng):
    image = photo(50, 80)
    image[:, :40, 0], image[:, 40:, 0] = 0, 255
    seen = {random_crop(image, (32, 24), 0.4, rng)[:, :, 0].mean() > 127 for _ in range(40)}
    assert seen == {True, False}
    for _ in range(20):
        crop = random_crop(image, (32, 24), 0.4, rng)
        assert crop.shape == (32, 24, 3) and crop.dtype == np.uint8 and crop.flags.c_contiguous


def test_a_crop_of_the_whole_is_the_image_or_its_mirror(photo, rng):
    image = photo(32, 32)
    crops = [random_crop(image, (32, 32), 1.0, rng) for _ in range(20)]
    flips = [np.array_equal(crop, image[:, ::-1]) for crop in crops]
    assert all(flip or np.array_equal(crop, image) for flip, crop in zip(flips, crops, strict=True))
    assert 0 < sum(flips) < 20


def test_a_crop_depends_on_its_generator_alone(photo):
    image = photo(60, 90)
    one, two = (random_crop(image, (32, 32), 0.5, np.random.default_rng([1, 2])) for _ in range(2))
    assert np.array_equal(one, two)
    a, b = np.random.default_rng(5), np.random.default_rng(5)
    random_crop(image, (32, 32), 0.5, a)
    random_crop(photo(32, 32), (32, 32), 1.0, b)
    assert a.random() == b.random()
