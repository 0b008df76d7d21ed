"""Labelled images from every source, the order and the crops: against torchvision, tarfile and plain loops."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
import zipfile

import numpy as np
import pytest

torch = pytest.importorskip("torch")
image_module = pytest.importorskip("PIL.Image")

from edgejpeg.errors import DataError, InvalidInputError  # noqa: E402
from edgejpeg.learn.augment import Augmentation, mix, random_box, uniforms  # noqa: E402
from edgejpeg.learn.data import read_image  # noqa: E402
from edgejpeg.learn.distributed import World  # noqa: E402
from edgejpeg.learn.recipe import DataRecipe, LossRecipe, RunRecipe, load_recipe  # noqa: E402
from edgejpeg.learn.shards import expand_shards  # noqa: E402
from edgejpeg.learn.training_batches import EvaluationBatches, TrainingBatches  # noqa: E402
from edgejpeg.learn.training_data import ArrayImages, hold_out, open_images  # noqa: E402

CPU = torch.device("cpu")


def png(value, size=(12, 10)):
    buffer = io.BytesIO()
    image_module.new("RGB", size, (value, 255 - value, value // 2)).save(buffer, "PNG")
    return buffer.getvalue()


def files(classes=("ant", "bee"), each=4):
    """(class, name, content) with a colour of its own in every file."""
    return [(c, f"{i}.png", png(60 * n + 10 * i)) for n, c in enumerate(classes) for i in range(each)]


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "set"
    for kind, name, content in files():
        (root / kind).mkdir(parents=True, exist_ok=True)
        (root / kind / name).write_bytes(content)
    return root


def as_zip(path, below="a/b/"):
    with zipfile.ZipFile(path, "w") as archive:
        for kind, name, content in files():
            archive.writestr(f"{below}{kind}/{name}", content)
        archive.writestr(f"{below}ant/.hidden.png", b"")
        archive.writestr("readme.txt", "no image")
    return path


def as_shards(folder, suffix="cls", shards=3):
    everything = list(enumerate(files()))
    for shard in range(shards):
        with tarfile.open(folder / f"part-{shard:02}.tar", "w") as archive:
            for number, (kind, _, content) in everything[shard::shards]:
                label = {"ant": 0, "bee": 1}[kind]
                text = str(label) if suffix == "cls" else json.dumps({"label": label, "text": "x"})
                for extension, data in (("png", content), (suffix, text.encode())):
                    info = tarfile.TarInfo(f"{number:04}.{extension}")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
    return str(folder / f"part-{{00..{shards - 1:02}}}.tar")


def colours(images):
    return sorted((int(images.labels[i]), images.read(i).convert("RGB").getpixel((0, 0))) for i in range(len(images)))


def test_all_sources_give_the_same_images(folder, tmp_path):
    expected = colours(open_images(folder))
    assert len(expected) == 8 and expected[0] == (0, (0, 255, 0))
    for source in (as_zip(tmp_path / "one.zip"), as_zip(tmp_path / "two.zip", "")):
        opened = open_images(source)
        assert colours(opened) == expected and opened.class_names == ("ant", "bee") and opened.counts() == [4, 4]
        assert colours(pickle.loads(pickle.dumps(opened))) == expected  # as a worker process gets it
    for suffix in ("cls", "json"):
        opened = open_images(as_shards(tmp_path, suffix))
        assert colours(opened) == expected and opened.class_names is None and opened.num_classes == 2
        assert [int(s) for s in np.bincount(opened.shards)] == [3, 3, 2]
    assert len(open_images(str(tmp_path / "part-*.tar"))) == 8


def test_torchvision_s_sets_by_name(tmp_path):
    from edgejpeg.models.torchvision_compat import import_torchvision

    try:
        torchvision = import_torchvision()
    except Exception as error:
        pytest.skip(f"torchvision does not load: {error}")
    rng = np.random.default_rng(0)
    root = tmp_path / "cifar"
    base = root / torchvision.datasets.CIFAR10.base_folder
    base.mkdir(parents=True)
    written = {}
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        written[name] = {
            "data": rng.integers(0, 256, (20, 3072), dtype=np.uint8),
            "labels": [i % 10 for i in range(20)],
        }
        (base / name).write_bytes(pickle.dumps(written[name]))
    (base / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"c{i}" for i in range(10)]}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torchvision.datasets.CIFAR10, "_check_integrity", lambda self: True)
        patch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
        train, test = open_images(f"cifar10:{root}"), open_images(f"CIFAR10:{root}", test=True)
    assert (len(train), len(test), train.num_classes, train.class_names[3]) == (100, 20, 10, "c3")
    pixels = np.asarray(train.read(3)).transpose(2, 0, 1)
    assert np.array_equal(pixels.ravel(), written["data_batch_1"]["data"][3])
    with pytest.raises(DataError, match=r"cannot open torchvision's CIFAR10 below .*download=True\) may fetch it"):
        open_images(f"cifar10:{tmp_path}")
    with pytest.raises(DataError, match="no data set 'cifar11'; of torchvision's there are cifar10, cifar100"):
        open_images(f"cifar11:{tmp_path}")


def test_data_that_cannot_be_trained_on(folder, tmp_path):
    (folder / "cow").mkdir()
    with pytest.raises(DataError, match=r"set: the class folder 'cow' has no images; remove it, or put images into it"):
        open_images(folder)
    (folder / "cow").rmdir()
    (folder / "bee").rename(folder / "test")
    (folder / "ant").rename(folder / "train")
    with pytest.raises(DataError, match="has the parts test, train, not classes"):
        open_images(folder)
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "a.png").write_bytes(png(1))
    with pytest.raises(DataError, match="has images without labels; training needs a folder for each class"):
        open_images(plain)
    (plain / "labels.csv").write_text("file,class\na.png,2\n")
    with pytest.raises(DataError, match=r"plain: class 0 has no images \(and 1 more\)"):
        open_images(plain)
    (plain / "labels.csv").write_text("file,class\na.png,0\n")
    with pytest.raises(DataError, match="plain has one class"):
        open_images(plain)
    with pytest.raises(DataError, match="no folder"):
        open_images(tmp_path / "nowhere")


def test_archives_that_cannot_be_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "flat.zip", "w") as archive:
        archive.writestr("a.png", png(1))
    with pytest.raises(DataError, match=r"flat.zip' has no two class folders"):
        open_images(tmp_path / "flat.zip")
    (tmp_path / "broken.zip").write_bytes(b"PK nonsense")
    with pytest.raises(DataError, match=r"cannot read .*broken.zip"):
        open_images(tmp_path / "broken.zip")
    damaged = as_zip(tmp_path / "damaged.zip")
    data = bytearray(damaged.read_bytes())
    data[70:90] = b"\0" * 20
    damaged.write_bytes(bytes(data))
    with pytest.raises(DataError, match=r"cannot read .*damaged.zip/a/b/ant/0.png"):
        open_images(damaged).read(0)


def test_shards_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match=r"no shard .*none-00.tar'; shards are local .tar files"):
        open_images(str(tmp_path / "none-{00..03}.tar"))
    with pytest.raises(DataError, match="is no range"):
        expand_shards("a-{5..1}.tar")
    with tarfile.open(tmp_path / "zipped.tar.gz", "w:gz"):
        pass
    with pytest.raises(DataError, match=r"it has to be a plain .tar"):
        open_images(str(tmp_path / "zipped.tar.gz"))
    for name, content, message in (("cls", b"cat", "is no class number: b'cat'"), ("txt", b"1", "has no label")):
        with tarfile.open(tmp_path / "bad.tar", "w") as archive:
            for extension, data in (("png", png(3)), (name, content)):
                info = tarfile.TarInfo(f"s/1.{extension}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        with pytest.raises(DataError, match=message):
            open_images(str(tmp_path / "bad.tar"))
    pattern = as_shards(tmp_path)
    opened = open_images(pattern)
    (tmp_path / "part-01.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"part-01.tar, byte \d+"):
        opened.read(4)


def test_braces():
    with pytest.raises(DataError):
        expand_shards("/nowhere/a{1,2}-{08..10}.tar")
    from edgejpeg.learn.shards import _expand_braces

    assert _expand_braces("a{1,2}-{08..10}.tar") == [f"a{x}-{y}.tar" for x in "12" for y in ("08", "09", "10")]


def test_holding_out_is_by_class_and_seeded():
    data = ArrayImages(np.zeros((50, 8, 8, 3), np.uint8), [0] * 30 + [1] * 20)
    train, held = hold_out(data, 0.1, 0)
    assert sorted([*train, *held]) == list(range(50))
    assert np.bincount(data.labels[held]).tolist() == [3, 2]
    assert np.array_equal(held, hold_out(data, 0.1, 0)[1]) and not np.array_equal(held, hold_out(data, 0.1, 1)[1])
    assert len(hold_out(data, 0.0, 0)[1]) == 0
    with pytest.raises(DataError, match="class 1 has one image"):
        hold_out(ArrayImages(data.images[:3], [0, 0, 1]), 0.1, 0)


def test_uniform_numbers_are_uniform_and_independent():
    scipy_stats = pytest.importorskip("scipy.stats")
    draws = uniforms(3, 1, np.arange(4000), 8)
    assert draws.min() >= 0 and draws.max() < 1
    for other in (uniforms(3, 2, np.arange(4000), 8), uniforms(4, 1, np.arange(4000), 8)):
        assert abs(np.corrcoef(draws.ravel(), other.ravel())[0, 1]) < 0.03
    assert all(scipy_stats.kstest(draws[:, k], "uniform").pvalue > 1e-4 for k in range(8))
    assert abs(np.corrcoef(draws.T) - np.eye(8)).max() < 0.08
    assert np.array_equal(uniforms(3, 1, [17], 8)[0], draws[17])


def _augmentation(size=16, seed=0, **data):
    return Augmentation(DataRecipe(**data), (size, size), size, "bilinear", seed)


def test_padded_crops_and_flips_against_a_loop():
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (30, 16, 16, 3), dtype=np.uint8)
    indices = np.arange(100, 130)
    chosen = _augmentation(crop="pad", pad=3)
    out = chosen.train_cached(torch.from_numpy(images), 2, indices).numpy()
    draws = uniforms(0, 2, indices)
    flipped = 0
    for image, got, numbers in zip(images, out, draws, strict=True):
        padded = np.pad(image, ((3, 3), (3, 3), (0, 0)))
        top, left = int(numbers[0] * 7), int(numbers[1] * 7)
        crop = padded[top : top + 16, left : left + 16]
        flipped += numbers[2] < 0.5
        assert np.array_equal(got, crop[:, ::-1] if numbers[2] < 0.5 else crop)
    assert 5 < flipped < 25
    for image, got, index in zip(images[:5], out, indices, strict=False):  # one at a time, as a worker does
        assert np.array_equal(chosen.train(image_module.fromarray(image), "x", 2, int(index)), got)


def test_random_boxes_have_the_areas_and_shapes_asked_for():
    draws = uniforms(0, 0, np.arange(500))[:, 4:]
    boxes = np.array([random_box(row, 120, 200, (0.2, 0.6), (0.5, 2.0)) for row in draws])
    left, top, right, bottom = boxes.T
    assert left.min() >= 0 and top.min() >= 0 and right.max() <= 200 and bottom.max() <= 120
    area, shape = (right - left) * (bottom - top) / 24000, (right - left) / (bottom - top)
    assert 0.19 < area.min() < 0.22 and 0.55 < area.max() < 0.61
    assert 0.48 < shape.min() < 0.55 and 1.8 < shape.max() < 2.1
    assert random_box(draws[0], 10, 1000, (0.9, 1.0), (0.5, 2.0)) == (490, 0, 510, 10)  # none fits: the centre
    assert random_box(draws[0], 1000, 10, (0.9, 1.0), (0.5, 2.0)) == (0, 490, 10, 510)


def test_random_resized_crops_are_those_of_the_box(photo):
    image = image_module.fromarray(photo(60, 90))
    chosen = _augmentation(size=24, flip=0.0)
    out = chosen.train(image, "x", 1, 7)
    box = random_box(uniforms(0, 1, [7])[0, 4:], 60, 90, (0.08, 1.0), (0.75, 4 / 3))
    expected = image.crop(box).resize((24, 24), image_module.Resampling.BILINEAR)
    assert np.abs(out.astype(int) - np.asarray(expected).astype(int)).max() <= 2
    assert not np.array_equal(out, chosen.train(image, "x", 2, 7))


def test_erasing_fills_a_rectangle():
    image = np.full((40, 32, 32, 3), 7, np.uint8)
    out = _augmentation(size=32, crop="none", flip=0.0, erase=0.5).train_cached(
        torch.from_numpy(image), 0, np.arange(40)
    )
    parts = []
    for erased in (out.numpy() != 7).any(3):
        rows, columns = np.flatnonzero(erased.any(1)), np.flatnonzero(erased.any(0))
        if len(rows):
            parts.append(len(rows) * len(columns) / 1024)
            assert erased[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].mean() > 0.97
    assert 10 < len(parts) < 30 and min(parts) > 0.01 and max(parts) < 0.4


def test_randaugment_is_torchvision_s_and_repeats_itself(photo):
    image = image_module.fromarray(photo(40, 40))
    chosen = _augmentation(size=32, randaugment=9)
    before = torch.random.get_rng_state()
    first = [chosen.train(image, "x", 0, index) for index in range(6)]
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(np.array_equal(a, chosen.train(image, "x", 0, i)) for i, a in enumerate(first))
    plain = _augmentation(size=32)
    assert any(not np.array_equal(a, plain.train(image, "x", 0, i)) for i, a in enumerate(first))


def test_mixtures():
    images = torch.rand(6, 3, 20, 20)
    targets = torch.nn.functional.one_hot(torch.arange(6), 6).float()
    for seed in range(20):
        rng = np.random.default_rng(seed)
        mixed, soft = mix(images, targets, LossRecipe(mixup=1.0), rng)
        keep = float(soft[0, 0])
        assert torch.allclose(mixed, keep * images + (1 - keep) * images.flip(0), atol=1e-6)
        cut, soft = mix(images, targets, LossRecipe(cutmix=1.0), rng)
        same = (cut == images).all(1).float().mean((1, 2))
        assert soft.sum(1).tolist() == pytest.approx([1.0] * 6)
        assert torch.allclose(same, soft.diagonal(), atol=1e-6)


def _orders(world_size, accumulation, batch=8, count=40, **more):
    """The images of every step, by label, of all processes together."""
    data = ArrayImages(np.arange(count).repeat(192).reshape(count, 8, 8, 3).astype(np.uint8), np.arange(count) % 2)
    steps = [[] for _ in range(12)]
    for rank in range(world_size):
        batches = TrainingBatches(
            data, np.arange(count), _augmentation(size=8, crop="none", flip=0.0),
            RunRecipe(batch_size=batch, accumulation=accumulation, workers=0, **more), World(rank, world_size), CPU,
        )  # fmt: skip
        for step, passes in enumerate(batches.steps(0, 12)):
            assert len(passes) == accumulation
            steps[step] += [int(v) for micro in passes for v in micro.images[:, 0, 0, 0]]
    return [sorted(step) for step in steps]


def test_processes_and_accumulation_share_the_same_steps():
    expected = _orders(1, 1)
    assert sorted(label for step in expected[:5] for label in step) == list(range(40))
    assert expected[:5] != expected[5:10]
    assert _orders(2, 1) == _orders(1, 4) == _orders(2, 2) == _orders(1, 1, cache="off") == expected


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(InvalidInputError, match="batch_size 8 cannot be shared by 3 processes"):
        _orders(3, 1)


@pytest.mark.parametrize("workers", [0, 2])
def test_it_can_begin_anywhere(folder, workers):
    data = open_images(folder)
    run = RunRecipe(batch_size=3, workers=workers)
    batches = TrainingBatches(data, np.arange(8), _augmentation(size=8), run, World(), CPU)
    assert not batches.cached
    whole = list(batches.steps(0, 7))
    later = list(batches.steps(3, 7))
    assert len(whole) == 7
    for (a,), (b,) in zip(whole[3:], later, strict=True):
        assert torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)


def test_shards_are_read_in_windows_of_16(tmp_path):
    data = ArrayImages(np.zeros((640, 8, 8, 3), np.uint8), np.arange(640) % 2)
    data.shards = np.arange(640) // 10  # 64 shards of ten
    order = data.shuffled(np.arange(640), np.random.default_rng(0))
    assert sorted(order) == list(range(640))
    for first in range(0, 640, 160):
        window = data.shards[order[first : first + 160]]
        assert len(set(window)) == 16 and (np.diff(window) != 0).mean() > 0.8


@pytest.mark.parametrize("cache", ["on", "off"])
@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_images(folder, cache, workers):
    (folder / "ant" / "2.png").write_bytes(b"no image")
    data = open_images(folder)
    run = RunRecipe(batch_size=4, workers=workers, cache=cache)
    arguments = (data, np.arange(8), _augmentation(size=8, crop="none"), run, World(), CPU)
    with pytest.raises(DataError, match=r"2.png.*--on-error skip leaves such files out") as caught:
        list(TrainingBatches(*arguments, on_error="fail").steps(0, 2))
    assert "\n" not in str(caught.value)
    batches = TrainingBatches(*arguments, on_error="skip")
    seen = [len(micro.labels) for passes in batches.steps(0, 4) for micro in passes]
    assert seen == [4] * 4 and len(batches.skipped) == 1 and "2.png" in next(iter(batches.skipped))
    evaluation = EvaluationBatches(*arguments, on_error="skip")
    assert sum(len(micro.labels) for micro in evaluation) == 7 and len(evaluation.skipped) == 1


def test_evaluation_sees_what_read_image_gives(folder):
    data = open_images(folder)
    for cache in ("on", "off"):
        run = RunRecipe(batch_size=3, workers=0, cache=cache)
        chosen = Augmentation(DataRecipe(), (8, 8), 9, "bicubic", 0)
        parts = [list(EvaluationBatches(data, np.arange(8), chosen, run, World(r, 2), CPU)) for r in range(2)]
        labels = [int(v) for batches in (parts[0], parts[1]) for micro in batches for v in micro.labels]
        assert sorted(labels) == [0] * 4 + [1] * 4
        expected = read_image(data.files[0], size=(8, 8), resize=9, interpolation="bicubic")
        assert np.array_equal(parts[0][0].images[0].numpy(), expected)


def test_real_sets(shared_data):
    cifar = open_images(shared_data / "images" / "cifar10" / "cifar10_test_jpg.zip")
    assert (len(cifar), cifar.num_classes, set(cifar.counts())) == (10000, 10, {1000})
    flowers = open_images(shared_data / "images" / "flowers12" / "train")
    assert flowers.counts() == [60] * 12
    recipe = load_recipe("finegrained", settings=["run.workers=0", "data.size=32"])
    batches = TrainingBatches(
        flowers, np.arange(720), Augmentation(recipe.data, (32, 32), 36, "bilinear", 0), recipe.run, World(), CPU
    )
    (micro,) = next(batches.steps(0, 1))
    assert micro.images.shape == (32, 3, 32, 32) and micro.images.float().std() > 20
