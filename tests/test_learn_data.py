"""Folders of images: the three layouts, damaged files, order, sharding, and the resize of torchvision."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

image_module = pytest.importorskip("PIL.Image")

from edgejpeg.errors import DataError, InvalidInputError  # noqa: E402
from edgejpeg.learn.data import open_data, read_image  # noqa: E402


def write_image(path, value=0, size=(20, 16), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((size[1], size[0], 3), value, np.uint8)
    image_module.fromarray(pixels).convert(mode).save(path)


@pytest.fixture
def class_folders(tmp_path):
    for name, count in (("b_dog", 2), ("a_cat", 3), ("C_cow", 1)):
        for i in range(count):
            write_image(tmp_path / name / f"{i}.png", value=10 * len(name) + i)
    (tmp_path / "a_cat" / "notes.txt").write_text("no image")
    write_image(tmp_path / "b_dog" / "more" / "deep.JPG", value=99)
    (tmp_path / ".cache").mkdir()
    return tmp_path


def everything(data, **options):
    return list(data.batches(options.pop("batch_size", 4), size=(8, 8), **options))


def test_class_folders_are_numbered_as_torchvision_does(class_folders):
    data = open_data(class_folders)
    assert data.class_names == ("C_cow", "a_cat", "b_dog")  # sorted by code point
    assert data.labels == (0, 1, 1, 1, 2, 2, 2)
    assert [f.name for f in data.files] == ["0.png", "0.png", "1.png", "2.png", "0.png", "1.png", "deep.JPG"]


def test_agreement_with_torchvision(class_folders):
    pytest.importorskip("torch")
    from edgejpeg.models.torchvision_compat import import_torchvision

    torchvision = import_torchvision()
    (class_folders / ".cache").rmdir()
    theirs = torchvision.datasets.ImageFolder(str(class_folders))
    ours = open_data(class_folders)
    assert [(str(f), label) for f, label in zip(ours.files, ours.labels, strict=True)] == theirs.samples


def test_labels_file(tmp_path):
    write_image(tmp_path / "x.png", 1)
    write_image(tmp_path / "sub" / "y.png", 2)
    (tmp_path / "labels.csv").write_text("class,file,note\n7,sub/y.png,a\n 3 , x.png ,b\n")
    data = open_data(tmp_path)
    assert data.labels == (7, 3) and [f.name for f in data.files] == ["y.png", "x.png"] and data.class_names is None
    batch = everything(data)[0]
    assert batch.labels.tolist() == [7, 3] and batch.images[:, 0, 0, 0].tolist() == [2, 1]
    data.check_labels(8)
    with pytest.raises(DataError, match=r"sub/y\.png is 7, outside the network's 0\.\.6"):
        data.check_labels(7)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name,label\nx.png,1\n", "file,class"),
        ("", "file,class"),
        ("file,class\n", "lists no images"),
        ("file,class\nx.png,cat\n", "line 2.*'cat'"),
        ("file,class\nx.png,-1\n", "'-1'"),
        ("file,class\nx.png,1.5\n", "'1.5'"),
        ("file,class\nx.png\n", "line 2"),
        ("file,class\nx.png,99999999999999999999\n", "no number"),
        ("file,class\n../x.png,1\n", "inside the folder"),
        ("file,class\n/etc/passwd,1\n", "inside the folder"),
    ],
)
def test_damaged_labels_files(tmp_path, content, message):
    write_image(tmp_path / "x.png")
    (tmp_path / "labels.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        open_data(tmp_path)


def test_a_labels_file_that_is_no_text(tmp_path):
    (tmp_path / "labels.csv").write_bytes(b"file,class\n\xff\xfe\x00,1\n")
    with pytest.raises(DataError, match="cannot read"):
        open_data(tmp_path)


def test_images_alone_have_no_labels(tmp_path):
    for name in ("b.png", "a.jpeg", "c.WEBP"):
        write_image(tmp_path / name)
    data = open_data(tmp_path)
    assert [f.name for f in data.files] == ["a.jpeg", "b.png", "c.WEBP"]
    assert data.labels is None and everything(data)[0].labels is None
    data.check_labels(1)


def test_folders_that_cannot_be_used(tmp_path):
    with pytest.raises(DataError, match="no folder"):
        open_data(tmp_path / "absent")
    with pytest.raises(DataError, match="no images in"):
        open_data(tmp_path)
    (tmp_path / "empty_class").mkdir()
    with pytest.raises(DataError, match="no images in"):
        open_data(tmp_path)
    write_image(tmp_path / "file.png")
    with pytest.raises(DataError, match="no folder"):
        open_data(tmp_path / "file.png")
    write_image(tmp_path / "class" / "x.png")
    with pytest.raises(DataError, match="beside class folders"):
        open_data(tmp_path)


@pytest.fixture
def damaged(tmp_path):
    """Positions 0, 2 and 5 are good; there are a truncated JPEG, a text, and a file that does not exist."""
    for name in ("0.jpg", "2.jpg", "5.jpg"):
        write_image(tmp_path / name, int(name[0]), (64, 64))
    data = (tmp_path / "0.jpg").read_bytes()
    (tmp_path / "1.jpg").write_bytes(data[: len(data) // 2])
    (tmp_path / "3.png").write_text("not an image")
    names = ["0.jpg", "1.jpg", "2.jpg", "3.png", "4.png", "5.jpg"]
    (tmp_path / "labels.csv").write_text("file,class\n" + "".join(f"{n},{n[0]}\n" for n in names))
    return open_data(tmp_path)


def test_damaged_images_are_skipped_counted_and_named(damaged):
    batches = damaged.batches(2, size=(8, 8), on_error="skip")
    result = list(batches)
    assert [b.labels.tolist() for b in result] == [[0], [2], [5]]
    assert [b.positions.tolist() for b in result] == [[0], [2], [5]]
    assert [b.span for b in result] == [(0, 2), (2, 4), (4, 6)]
    assert [file.name for file, _ in batches.skipped] == ["1.jpg", "3.png", "4.png"]
    assert "truncated" in batches.skipped[0][1].lower() and "no such file" in batches.skipped[2][1]


def test_damaged_images_are_fatal_otherwise(damaged):
    with pytest.raises(DataError, match=r"1\.jpg.*--on-error skip"):
        list(damaged.batches(2, size=(8, 8)))


def test_a_batch_of_skipped_images_is_empty(damaged):
    batch = list(damaged.batches(1, size=(8, 8), on_error="skip"))[1]
    assert batch.images.shape == (0, 3, 8, 8) and batch.labels.tolist() == [] and batch.span == (1, 2)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize(
    "head", [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"P6\n99999999 99999999\n255\n", b"II*\0", b""]
)
def test_hostile_files_are_data_errors(tmp_path, rng, head):
    for length in (0, 5, 300):
        path = tmp_path / "x.png"
        path.write_bytes(head + rng.bytes(length))
        with pytest.raises(DataError, match="cannot read"):
            read_image(path, size=(8, 8))


def test_png_with_a_damaged_chunk(tmp_path):
    write_image(tmp_path / "x.png", 100, (40, 40))
    data = bytearray((tmp_path / "x.png").read_bytes())
    data[data.index(b"IDAT") + 6] ^= 0xFF
    (tmp_path / "x.png").write_bytes(data)
    with pytest.raises(DataError, match="cannot read"):
        read_image(tmp_path / "x.png", size=(8, 8))


def test_more_than_eight_bits_are_refused_not_clipped(tmp_path):
    image_module.fromarray(np.full((8, 8), 40000, np.uint16)).save(tmp_path / "x.png")
    with pytest.raises(DataError, match="8-bit"):
        read_image(tmp_path / "x.png", size=(8, 8))


def test_an_extremely_narrow_image_does_not_exhaust_the_memory(tmp_path):
    write_image(tmp_path / "x.png", size=(1, 20000))
    with pytest.raises(DataError, match="too narrow"):
        read_image(tmp_path / "x.png", size=(224, 224), resize=256)


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK", "RGBA"])
def test_other_modes_become_rgb(tmp_path, mode):
    path = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
    write_image(path, 255, (8, 8), "RGB")
    image_module.open(path).convert(mode).save(path)
    image = read_image(path, size=(8, 8))
    assert image.shape == (3, 8, 8) and image.dtype == np.uint8 and (image >= 254).all()


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(300, 200), (200, 301), (227, 227), (1000, 64), (33, 500)])
def test_resize_and_crop_are_torchvisions(tmp_path, rng, size, interpolation):
    pytest.importorskip("torch")
    from edgejpeg.models.torchvision_compat import import_torchvision

    import_torchvision()
    from torchvision import transforms

    image = image_module.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    image.save(tmp_path / "x.png")
    mode = transforms.InterpolationMode(interpolation)
    theirs = transforms.Compose([transforms.Resize(128, mode), transforms.CenterCrop((112, 96))])(image)
    ours = read_image(tmp_path / "x.png", size=(112, 96), resize=128, interpolation=interpolation)
    assert np.array_equal(ours, np.asarray(theirs).transpose(2, 0, 1))


@pytest.mark.parametrize("size", [(5, 9), (1, 1), (40, 3), (7, 224)])
def test_small_images_are_enlarged_to_cover_the_crop(tmp_path, size):
    write_image(tmp_path / "x.png", 77, size)
    image = read_image(tmp_path / "x.png", size=(32, 48))
    assert image.shape == (3, 32, 48) and (image == 77).all()  # no border


def test_order_and_sharding(tmp_path):
    for i in range(23):
        write_image(tmp_path / f"{i:02}.png", i, (8, 8))
    data = open_data(tmp_path)

    def values(**options):
        return [b.images[:, 0, 0, 0].tolist() for b in data.batches(4, size=(8, 8), **options)]

    assert list(itertools.chain(*values())) == list(range(23))
    shuffled = values(seed=3)
    assert shuffled == values(seed=3) != values(seed=4) and sorted(itertools.chain(*shuffled)) == list(range(23))
    shares = [values(seed=3, rank=r, world_size=3) for r in range(3)]
    assert [shares[i % 3][i // 3] for i in range(6)] == shuffled
    later = data.batches(4, size=(8, 8), seed=3).from_position(8)
    assert [b.images[:, 0, 0, 0].tolist() for b in later] == shuffled[2:]
    assert [b.span for b in later] == [(8, 12), (12, 16), (16, 20), (20, 23)]


def test_bad_options(class_folders):
    data = open_data(class_folders)
    for options in ({"batch_size": 0}, {"on_error": "ignore"}, {"interpolation": "nearest"}):
        with pytest.raises(InvalidInputError):
            everything(data, **options)
