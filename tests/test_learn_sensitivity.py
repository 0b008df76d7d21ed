"""Sensitivities against a float64 NumPy implementation without autograd, and the properties section 2 of OptS needs."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgejpeg.errors import DataError, InvalidInputError, ModelError  # noqa: E402
from edgejpeg.learn import sensitivity as module  # noqa: E402
from edgejpeg.learn.data import Batch  # noqa: E402
from edgejpeg.learn.sensitivity import draw_labels, estimate_sensitivity  # noqa: E402

FACTORS = {"444": (1, 1), "422": (1, 2), "420": (2, 2)}
MEAN, STD = (120.0, 110.0, 100.0), (60.0, 55.0, 50.0)
CLASSES = 5


def tiny_network(size, seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    layers = [torch.nn.Flatten(), torch.nn.Linear(3 * size[0] * size[1], 6), torch.nn.Tanh()]
    return torch.nn.Sequential(*layers, torch.nn.Dropout(0.5), torch.nn.Linear(6, CLASSES)).to(dtype)


def images_and_labels(rng, count, size):
    return rng.integers(0, 256, (count, 3, *size), dtype=np.uint8), rng.integers(0, CLASSES, count)


def in_batches(images, labels, batch_size):
    return [
        (images[i : i + batch_size], None if labels is None else labels[i : i + batch_size])
        for i in range(0, len(images), batch_size)
    ]


def estimate(model, images, truth, batch_size=4, **options):
    return estimate_sensitivity(model, in_batches(images, truth, batch_size), mean=MEAN, std=STD, **options)


class Explicit:
    """The chain without autograd: a matrix from every coefficient to every normalised pixel, built by plain loops."""

    def __init__(self, size, subsampling):
        self.size, (self.v, self.h) = size, FACTORS[subsampling]
        height = -(-size[0] // (8 * self.v)) * 8 * self.v
        width = -(-size[1] // (8 * self.h)) * 8 * self.h
        self.shapes = [(height, width)] + 2 * [(height // self.v, width // self.h)]
        columns, self.channel, self.frequency = [], [], []
        for channel, (rows, cols) in enumerate(self.shapes):
            for y0 in range(0, rows, 8):
                for x0 in range(0, cols, 8):
                    for u in range(8):
                        for w in range(8):
                            plane = np.zeros((rows, cols))
                            plane[y0 : y0 + 8, x0 : x0 + 8] = np.outer(self.cosine(u), self.cosine(w))
                            columns.append(self.decode(plane, channel))
                            self.channel.append(channel)
                            self.frequency.append(8 * u + w)
        self.matrix = np.array(columns).T

    @staticmethod
    def cosine(u):
        scale = math.sqrt(1 / 8) if u == 0 else math.sqrt(2 / 8)
        return np.array([scale * math.cos((2 * x + 1) * u * math.pi / 16) for x in range(8)])

    def decode(self, plane, channel):
        height, width = self.size
        full = plane[:height, :width]
        if channel:
            real = plane[: -(-height // self.v), : -(-width // self.h)]
            full = np.zeros((height, width))
            for y in range(height):
                for x in range(width):
                    for row, a in self.taps(y, self.v, real.shape[0]):
                        for column, b in self.taps(x, self.h, real.shape[1]):
                            full[y, x] += a * b * real[row, column]
        weights = [(1, 1, 1), (0, -0.114 * 1.772 / 0.587, 1.772), (1.402, -0.299 * 1.402 / 0.587, 0)][channel]
        return np.concatenate([(w / s * full).ravel() for w, s in zip(weights, STD, strict=True)])

    @staticmethod
    def taps(position, factor, count):
        if factor == 1:
            return [(position, 1.0)]
        near = position // 2
        far = min(max(near + (1 if position % 2 else -1), 0), count - 1)
        return [(near, 0.75), (far, 0.25)]

    def sensitivities(self, model, images, labels):
        """Per image (N, 3, 8, 8), of cross entropy behind Linear, Tanh, Linear."""
        first, second = model[1], model[4]
        w1, b1 = first.weight.detach().numpy(), first.bias.detach().numpy()
        w2, b2 = second.weight.detach().numpy(), second.bias.detach().numpy()
        results = []
        for image, label in zip(images, labels, strict=True):
            pixels = np.concatenate([((p - m) / s).ravel() for p, m, s in zip(image, MEAN, STD, strict=True)])
            pixels = self.as_decoded(image) if (self.v, self.h) != (1, 1) else pixels
            hidden = np.tanh(w1 @ pixels + b1)
            logits = w2 @ hidden + b2
            p = np.exp(logits - logits.max())
            p /= p.sum()
            p[label] -= 1
            gradient = self.matrix.T @ (w1.T @ ((w2.T @ p) * (1 - hidden**2)))
            result = np.zeros((3, 64))
            np.add.at(result, (self.channel, self.frequency), gradient**2)
            results.append(result.reshape(3, 8, 8))
        return np.array(results)

    def as_decoded(self, image):
        """The image after chroma subsampling, which is what the network sees."""
        red, green, blue = image.astype(float)
        luma = 0.299 * red + 0.587 * green + 0.114 * blue
        total = np.zeros(3 * self.size[0] * self.size[1])
        for channel, plane in enumerate((luma, (blue - luma) / 1.772, (red - luma) / 1.402)):
            rows, cols = self.shapes[0]
            full = np.pad(plane, ((0, rows - plane.shape[0]), (0, cols - plane.shape[1])), mode="edge")
            if channel:
                full = full.reshape(rows // self.v, self.v, cols // self.h, self.h).mean(axis=(1, 3))
            total += self.decode(full, channel)
        offset = np.concatenate([np.full(self.size[0] * self.size[1], m / s) for m, s in zip(MEAN, STD, strict=True)])
        return total - offset


@pytest.mark.parametrize("size", [(16, 16), (18, 21)], ids=["whole MCUs", "padded"])
@pytest.mark.parametrize("subsampling", FACTORS)
def test_against_an_explicit_float64_implementation(rng, subsampling, size):
    model = tiny_network(size)
    images, labels = images_and_labels(rng, 7, size)
    model.eval()
    expected = Explicit(size, subsampling).sensitivities(model, images, labels)
    result = estimate(model, images, labels, subsampling=subsampling)
    assert result.sensitivity.shape == (3, 8, 8) and result.sensitivity.dtype == np.float64
    np.testing.assert_allclose(result.sensitivity, expected.mean(axis=0), rtol=1e-8)
    np.testing.assert_allclose(result.standard_error, expected.std(axis=0, ddof=1) / math.sqrt(7), rtol=1e-6)
    assert (result.images, result.labels, result.subsampling) == (7, "true", subsampling)


def test_against_finite_differences(rng):
    """Perturbing one DCT coefficient of the pixels themselves; 4:4:4, so pixels and coefficients are one to one."""
    model = tiny_network((8, 8)).eval()
    images, labels = images_and_labels(rng, 1, (8, 8))
    result = estimate(model, images, labels, subsampling="444")
    mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (MEAN, STD))
    weights = [(1, 1, 1), (0, -0.114 * 1.772 / 0.587, 1.772), (1.402, -0.299 * 1.402 / 0.587, 0)]
    for channel, u, v in ((0, 0, 0), (0, 3, 5), (1, 0, 2), (2, 7, 7)):
        wave = np.outer(Explicit.cosine(u), Explicit.cosine(v))
        step = torch.tensor(np.array([w * wave for w in weights[channel]]))
        losses = []
        for sign in (1, -1):
            x = (torch.tensor(images.astype(float)) + sign * 1e-3 * step - mean) / std
            losses.append(torch.nn.functional.cross_entropy(model(x), torch.tensor(labels)).item())
        slope = (losses[0] - losses[1]) / 2e-3
        assert result.sensitivity[channel, u, v] == pytest.approx(slope**2, rel=1e-5, abs=1e-14)


@pytest.mark.parametrize("labels_mode", ["true", "self", "fisher"])
def test_the_batch_size_does_not_matter(rng, labels_mode):
    model = tiny_network((16, 16))
    images, labels = images_and_labels(rng, 11, (16, 16))
    results = [
        estimate(model, images, labels, size, labels=labels_mode, fisher_samples=3, subsampling="420")
        for size in (1, 4, 11)  # 4 leaves a ragged last batch
    ]
    for other in results[1:]:
        np.testing.assert_allclose(other.sensitivity, results[0].sensitivity, rtol=1e-10)
        np.testing.assert_allclose(other.standard_error, results[0].standard_error, rtol=1e-7)
        assert other.accuracy == results[0].accuracy


def test_a_float32_network_with_convolutions_does_not_depend_on_the_batch_size_either(rng):
    torch.manual_seed(1)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, 2), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(), torch.nn.Linear(8, CLASSES),
    )  # fmt: skip
    images, labels = images_and_labels(rng, 10, (32, 24))
    one, all_at_once = (estimate(model, images, labels, size) for size in (1, 10))
    np.testing.assert_allclose(one.sensitivity, all_at_once.sensitivity, rtol=1e-4)


def test_self_labels_are_the_own_top_1(rng):
    model = tiny_network((16, 16)).eval()
    images, labels = images_and_labels(rng, 6, (16, 16))
    explicit = Explicit((16, 16), "420")
    with torch.no_grad():
        own = model(torch.tensor(np.array([explicit.as_decoded(i) for i in images]))).argmax(1).numpy()
    result = estimate(model, images, None, labels="self")
    np.testing.assert_allclose(result.sensitivity, explicit.sensitivities(model, images, own).mean(axis=0), rtol=1e-8)
    assert result.accuracy is None
    assert estimate(model, images, labels, labels="self").accuracy == pytest.approx(np.mean(own == labels))


def test_fisher_approaches_the_expectation_over_the_softmax(rng):
    model = tiny_network((8, 8)).eval()
    with torch.no_grad():
        model[4].weight *= 3  # classes of clearly different probability
    images, _ = images_and_labels(rng, 2, (8, 8))
    explicit = Explicit((8, 8), "444")
    per_class = np.array([explicit.sensitivities(model, images, [c, c]) for c in range(CLASSES)])
    mean, std = (np.array(v)[:, None, None] for v in (MEAN, STD))
    with torch.no_grad():
        p = torch.softmax(model(torch.tensor((images - mean) / std)), 1).numpy().T[:, :, None, None, None]
    expected = (p * per_class).sum(axis=0)
    draws = 3000
    spread = np.sqrt(((p * per_class**2).sum(axis=0) - expected**2) / draws)
    tolerance = 5 * np.sqrt((spread**2).sum(axis=0)) / 2
    copies = np.tile(images, (draws // 10, 1, 1, 1))  # each copy stands at its own position, so draws its own labels
    result = estimate(model, copies, None, 100, subsampling="444", labels="fisher", fisher_samples=10)
    assert np.all(np.abs(result.sensitivity - expected.mean(axis=0)) <= tolerance)
    assert np.all(tolerance < 0.3 * expected.mean(axis=0))  # the bound says something


def test_drawn_labels_follow_the_probabilities_and_the_position():
    p = np.array([0.1, 0.0, 0.6, 0.3])
    drawn = draw_labels(p, 20000, seed=1, position=5)
    np.testing.assert_allclose(np.bincount(drawn, minlength=4) / 20000, p, atol=0.015)
    assert not (drawn == 1).any()
    assert np.array_equal(drawn, draw_labels(p, 20000, seed=1, position=5))
    assert not np.array_equal(drawn, draw_labels(p, 20000, seed=1, position=6))
    assert not np.array_equal(drawn, draw_labels(p, 20000, seed=2, position=5))


def test_any_loss(rng):
    """A squared-norm loss without labels, as a sum and per image; half of it has a quarter of the sensitivity."""
    model = tiny_network((16, 16))
    images, _ = images_and_labels(rng, 9, (16, 16))
    per_image = estimate(model, images, None, loss=lambda out, _: out.square().sum(dim=1))
    as_sum = estimate(model, images, None, loss=lambda out, _: out.square().sum())
    half = estimate(model, images, None, loss=lambda out, _: 0.5 * out.square().sum())
    np.testing.assert_allclose(as_sum.sensitivity, per_image.sensitivity, rtol=1e-10)
    np.testing.assert_allclose(half.sensitivity, 0.25 * per_image.sensitivity, rtol=1e-10)


def test_a_loss_on_dictionaries_and_lists_of_targets(rng):
    class Detector(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = tiny_network((16, 16))

        def forward(self, x):
            out = self.network(x)
            return {"boxes": out[:, :4], "scores": out[:, 4]}

    def loss(outputs, targets):
        wanted = torch.stack([t["box"] for t in targets])
        return (outputs["boxes"] - wanted).abs().sum() + outputs["scores"].sum()

    images, _ = images_and_labels(rng, 6, (16, 16))
    targets = [{"box": torch.tensor(rng.normal(size=4))} for _ in images]
    results = [
        estimate_sensitivity(Detector(), in_batches(images, targets, n), mean=MEAN, std=STD, loss=loss) for n in (2, 6)
    ]
    np.testing.assert_allclose(results[0].sensitivity, results[1].sensitivity, rtol=1e-10)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_mean_over_the_batch_is_refused(rng, batch_size):
    images, labels = images_and_labels(rng, 4, (16, 16))
    with pytest.raises(InvalidInputError, match='reduction="sum"'):
        estimate(tiny_network((16, 16)), images, labels, batch_size, loss=torch.nn.CrossEntropyLoss())
    good = estimate(tiny_network((16, 16)), images, labels, batch_size, loss=torch.nn.CrossEntropyLoss(reduction="sum"))
    np.testing.assert_allclose(good.sensitivity, estimate(tiny_network((16, 16)), images, labels).sensitivity)


@pytest.mark.parametrize(
    "loss",
    [lambda out, y: 1.0, lambda out, y: out.detach().sum(), lambda out, y: out, lambda out, y: out[:2].sum(dim=1)],
    ids=["number", "detached", "matrix", "too few"],
)
def test_a_loss_of_another_form_is_refused(rng, loss):
    images, labels = images_and_labels(rng, 4, (16, 16))
    with pytest.raises(InvalidInputError, match="one value per image"):
        estimate(tiny_network((16, 16)), images, labels, loss=loss)


def test_the_network_is_left_as_it_was(rng):
    model = tiny_network((16, 16)).train()
    model[3].eval()
    model[1].weight.requires_grad_(False)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    images, labels = images_and_labels(rng, 3, (16, 16))
    with torch.no_grad():  # the caller's mode does not matter either
        estimate(model, images, labels)
    assert model.training and model[1].training and not model[3].training
    assert not model[1].weight.requires_grad and model[4].weight.requires_grad
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_stopping_by_the_relative_standard_error(rng):
    model = tiny_network((8, 8))
    images, labels = images_and_labels(rng, 400, (8, 8))
    seen = []
    result = estimate(
        model, images, labels, 20, subsampling="444", target_relative_error=0.1,
        progress=lambda n, error: seen.append((n, error)),
    )  # fmt: skip
    assert result.stopped_early and result.images < 400
    used = [estimate(model, images[i : i + 1], labels[i : i + 1], subsampling="444") for i in range(result.images)]
    each = np.array([r.sensitivity for r in used])
    mean, error = each.mean(axis=0), each.std(axis=0, ddof=1) / math.sqrt(len(each))
    matters = mean >= 0.01 * mean.max()
    assert (error / mean)[matters].max() == pytest.approx(result.relative_error, rel=1e-6)
    assert result.relative_error <= 0.1
    assert all(error > 0.1 or n < module.MIN_IMAGES_TO_STOP for n, error in seen[:-1])
    assert seen[-1] == (result.images, result.relative_error)
    never = estimate(model, images[:100], labels[:100], 20, subsampling="444", target_relative_error=1e-9)
    assert not never.stopped_early and never.images == 100


def test_max_images_cuts_inside_a_batch(rng):
    model = tiny_network((16, 16))
    images, labels = images_and_labels(rng, 12, (16, 16))
    cut = estimate(model, images, labels, 5, max_images=7)
    np.testing.assert_allclose(cut.sensitivity, estimate(model, images[:7], labels[:7], 7).sensitivity, rtol=1e-10)
    assert cut.images == 7


class InterruptedRunError(Exception):
    pass


def _until(batches, count):
    yield from batches[:count]
    raise InterruptedRunError


@pytest.mark.parametrize("labels_mode", ["true", "fisher"])
def test_a_resumed_run_equals_an_uninterrupted_one(rng, tmp_path, labels_mode):
    model = tiny_network((16, 16))
    images, labels = images_and_labels(rng, 22, (16, 16))
    batches = in_batches(images, labels, 4)
    options = {"mean": MEAN, "std": STD, "labels": labels_mode, "checkpoint_every": 1}
    whole = estimate_sensitivity(model, batches, **options)
    path = tmp_path / "run.npz"
    with pytest.raises(InterruptedRunError):
        estimate_sensitivity(model, _until(batches, 3), checkpoint=path, **options)
    resumed = estimate_sensitivity(model, batches, checkpoint=path, **options)
    assert np.array_equal(resumed.sensitivity, whole.sensitivity)
    assert np.array_equal(resumed.standard_error, whole.standard_error)
    assert (resumed.images, resumed.accuracy) == (whole.images, whole.accuracy)
    again = estimate_sensitivity(model, batches, checkpoint=path, **options)  # nothing is left to do
    assert np.array_equal(again.sensitivity, whole.sensitivity) and again.images == whole.images


def test_resuming_does_not_decode_what_was_done(rng, tmp_path):
    model = tiny_network((16, 16))
    images, labels = images_and_labels(rng, 12, (16, 16))

    class Source:
        def __init__(self, start=0):
            self.start = start

        def from_position(self, start):
            return Source(start)

        def __iter__(self):
            for i in range(self.start, 12, 4):
                read.append(i)
                yield Batch(images[i : i + 4], labels[i : i + 4], np.arange(i, i + 4), (i, i + 4))

    options = {"mean": MEAN, "std": STD, "checkpoint": tmp_path / "run.npz"}
    read = []
    first = estimate_sensitivity(model, Source(), max_images=8, **options)
    assert first.images == 8
    read.clear()
    result = estimate_sensitivity(model, Source(), **options)
    assert read == [8] and result.images == 12
    read.clear()
    estimate_sensitivity(model, Source(), resume=False, **options)
    assert read == [0, 4, 8]


def test_a_checkpoint_of_another_configuration_is_refused(rng, tmp_path):
    images, labels = images_and_labels(rng, 4, (16, 16))
    path = tmp_path / "run.npz"
    estimate(tiny_network((16, 16)), images, labels, checkpoint=path, subsampling="420")
    with pytest.raises(InvalidInputError, match="subsampling was '420', is '444'"):
        estimate(tiny_network((16, 16)), images, labels, checkpoint=path, subsampling="444")
    with pytest.raises(InvalidInputError, match="weights was"):
        estimate(tiny_network((16, 16), seed=1), images, labels, checkpoint=path)
    with pytest.raises(InvalidInputError, match="data was None, is 'other'"):
        estimate(tiny_network((16, 16)), images, labels, checkpoint=path, configuration={"data": "other"})


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"text"])
def test_a_damaged_checkpoint_is_refused(rng, tmp_path, content):
    path = tmp_path / "run.npz"
    path.write_bytes(content)
    images, labels = images_and_labels(rng, 4, (16, 16))
    with pytest.raises(DataError, match="delete it to start anew"):
        estimate(tiny_network((16, 16)), images, labels, checkpoint=path)


def test_a_checkpoint_that_would_execute_code_is_refused(rng, tmp_path):
    path = tmp_path / "run.npz"
    np.savez(path, sums=np.array([{"a": 1}], dtype=object), configuration=np.array("{}"))
    images, labels = images_and_labels(rng, 4, (16, 16))
    with pytest.raises(DataError):
        estimate(tiny_network((16, 16)), images, labels, checkpoint=path)


def test_batches_whose_files_were_all_skipped(rng):
    model = tiny_network((16, 16))
    images, labels = images_and_labels(rng, 4, (16, 16))
    empty = Batch(images[:0], labels[:0], np.arange(0), (0, 4))
    full = Batch(images, labels, np.arange(4, 8), (4, 8))
    result = estimate_sensitivity(model, [empty, full], mean=MEAN, std=STD)
    np.testing.assert_allclose(result.sensitivity, estimate(model, images, labels).sensitivity)
    with pytest.raises(DataError, match="no images"):
        estimate_sensitivity(model, [empty], mean=MEAN, std=STD)
    with pytest.raises(DataError, match="no images"):
        estimate_sensitivity(model, [], mean=MEAN, std=STD)


def test_one_image_has_no_standard_error(rng):
    images, labels = images_and_labels(rng, 1, (16, 16))
    result = estimate(tiny_network((16, 16)), images, labels)
    assert np.isnan(result.standard_error).all() and result.relative_error == math.inf


def test_bad_input(rng):
    model = tiny_network((16, 16))
    images, labels = images_and_labels(rng, 4, (16, 16))
    with pytest.raises(DataError, match='labels="self"'):
        estimate(model, images, None)
    with pytest.raises(DataError, match=r"label 5 is outside the network's 0\.\.4"):
        estimate(model, images, np.array([0, 1, 5, 2]))
    with pytest.raises(DataError, match="label -1"):
        estimate(model, images, np.array([0, 1, -1, 2]))
    with pytest.raises(InvalidInputError, match="true, self, fisher"):
        estimate(model, images, labels, labels="own")
    with pytest.raises(InvalidInputError, match="444, 422, 420"):
        estimate(model, images, labels, subsampling="gray")
    with pytest.raises(InvalidInputError, match="at least 1"):
        estimate(model, images, labels, fisher_samples=0)
    with pytest.raises(InvalidInputError, match="positive"):
        estimate(model, images, labels, target_relative_error=math.nan)
    with pytest.raises(InvalidInputError, match="float32 or float64"):
        estimate(tiny_network((16, 16), dtype=torch.float16), images, labels)
    with pytest.raises(InvalidInputError, match=r"\(N, 3, H, W\)"):
        estimate(model, images[:, :1], labels)
    with torch.no_grad():
        model[4].bias[0] = math.nan
    with pytest.raises(ModelError, match="NaN"):
        estimate(model, images, labels)
    with pytest.raises(ModelError, match="logits"):
        estimate(torch.nn.Conv2d(3, 4, 3).double(), images, labels)


_TWO_PROCESSES = """
    import sys
    import numpy as np, torch
    from edgejpeg.learn.data import Batch
    from edgejpeg.learn.distributed import open_world
    from edgejpeg.learn.sensitivity import estimate_sensitivity

    def main():
        torch.set_num_threads(1)
        with open_world() as world:
            rng = np.random.default_rng(5)
            images = rng.integers(0, 256, (13, 3, 16, 16), dtype=np.uint8)
            labels = rng.integers(0, 5, 13)
            torch.manual_seed(0)
            model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 5)).double()
            starts = range(3 * world.rank, 13, 3 * world.size)
            batches = [
                Batch(images[i:i + 3], labels[i:i + 3], np.arange(i, min(i + 3, 13)), (i, min(i + 3, 13)))
                for i in starts
            ]
            result = estimate_sensitivity(
                model, batches, mean=(127,) * 3, std=(64,) * 3, labels="fisher", world=world,
                checkpoint=sys.argv[1] + f".{world.size}.checkpoint.npz",
            )
            if world.rank == 0:
                np.savez(
                    sys.argv[1] + f".{world.size}.npz", s=result.sensitivity, e=result.standard_error,
                    images=result.images, accuracy=result.accuracy,
                )
    main()
"""


@pytest.mark.slow
def test_two_processes_give_the_answer_of_one(tmp_path):
    """Five batches over two processes: one has three, the other two."""
    script = tmp_path / "run.py"
    script.write_text(textwrap.dedent(_TWO_PROCESSES))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    for prefix in ([], launcher):
        done = subprocess.run(
            [sys.executable, *prefix, str(script), str(tmp_path / "out")],
            env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    one, two = np.load(tmp_path / "out.1.npz"), np.load(tmp_path / "out.2.npz")
    np.testing.assert_allclose(two["s"], one["s"], rtol=1e-12)
    np.testing.assert_allclose(two["e"], one["e"], rtol=1e-9)
    assert (two["images"], two["accuracy"]) == (one["images"], one["accuracy"]) == (13, one["accuracy"])
    assert (tmp_path / "out.2.checkpoint.npz").exists()
