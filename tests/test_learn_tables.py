"""Learned tables: they meet the rate in real bytes, win where there is much to win, and continue where they stopped."""

from __future__ import annotations

import io

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgejpeg.errors import DataError, InvalidInputError, ModelError  # noqa: E402
from edgejpeg.evaluate.metrics import kl_divergence  # noqa: E402
from edgejpeg.jpeg.tables import ijg_tables  # noqa: E402
from edgejpeg.learn import tables  # noqa: E402
from edgejpeg.learn.tables import learn_tables  # noqa: E402
from edgejpeg.runtime.encoder import Encoder  # noqa: E402
from edgejpeg.runtime.once import encode_jpeg  # noqa: E402

MEAN, STD = (120.0, 110.0, 100.0), (60.0, 60.0, 60.0)


def make_encoder(profile):
    return Encoder(profile, color="rgb").encode


@pytest.fixture
def pictures(photo):
    """Eight crops of a photo, (8, 3, 32, 48)."""
    base = photo(200, 300)
    crops = [base[20 * i : 20 * i + 32, 30 * i : 30 * i + 48] for i in range(8)]
    return np.stack(crops).transpose(0, 3, 1, 2).copy()


def block_means():
    """A network that sees nothing of a block but its mean."""
    torch.manual_seed(1)
    network = torch.nn.Sequential(torch.nn.AvgPool2d(8), torch.nn.Flatten(), torch.nn.Linear(72, 5))
    with torch.no_grad():
        network[2].weight.mul_(4)
    return network


def convolutions():
    torch.manual_seed(2)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, 2), torch.nn.ReLU(), torch.nn.Dropout(0.5), torch.nn.AdaptiveAvgPool2d(3),
        torch.nn.Flatten(), torch.nn.Linear(72, 6),
    )  # fmt: skip


def learn(network, pictures, rates, **options):
    options = {"make_encoder": make_encoder, "steps": 6, "batch_size": 4, "effort": 0, **options}
    return learn_tables(network, pictures, mean=MEAN, std=STD, rates=rates, **options)


def real_rate(profile, pictures):
    encode = make_encoder(profile)
    sizes = [len(encode(np.ascontiguousarray(image.transpose(1, 2, 0)))) for image in pictures]
    return sum(sizes) * 8 / (pictures.size / 3)


def test_a_level_meets_its_rate_in_real_bytes(pictures):
    network = convolutions().train()
    learned = learn(network, pictures, [5.5])
    profile = learned.profile("mine", {"why": "test"})
    assert (profile.kind, profile.name, profile.subsampling, profile.effort) == ("fixed", "mine", "420", 0)
    assert real_rate(profile, pictures) == pytest.approx(5.5, rel=0.02)
    assert learned.levels[0].rate == pytest.approx(real_rate(profile, pictures), rel=1e-12)
    assert profile.provenance == {"why": "test"}
    zone = profile.dead_zone
    for thresholds in (zone.luma, zone.chroma):
        assert thresholds.min() >= 0.5 and thresholds.max() <= 1 and thresholds[0, 0] == 0.5
    assert network.training and all(p.requires_grad for p in network.parameters())


def test_several_levels_are_a_ladder(pictures):
    for subsampling, effort in (("444", 0), ("422", 1)):
        learned = learn(convolutions(), pictures, [5.0, 6.5, 8.0], subsampling=subsampling, effort=effort, steps=3)
        profile = learned.profile("three")
        assert (profile.kind, profile.subsampling, profile.effort) == ("ladder", subsampling, effort)
        for number, target in enumerate((5.0, 6.5, 8.0)):
            assert real_rate(profile.at_level(number), pictures) == pytest.approx(target, rel=0.02)
        assert learned.divergences[0] > learned.divergences[2] > 0


def test_a_network_that_sees_block_means_gets_them(pictures):
    """Such a network needs DC alone: at the rate of the IJG's tables the change of its output is a fraction."""
    image_module = pytest.importorskip("PIL.Image")
    network = block_means()

    def divergence(encode):
        decoded = [
            np.asarray(image_module.open(io.BytesIO(encode(np.ascontiguousarray(image.transpose(1, 2, 0))))))
            for image in pictures
        ]
        with torch.no_grad():
            clean, compressed = (
                network((torch.from_numpy(batch).float() - torch.tensor(MEAN)[:, None, None]) / 60.0)
                for batch in (pictures, np.stack(decoded).transpose(0, 3, 1, 2).copy())
            )
        return kl_divergence(clean.numpy(), compressed.numpy()).mean()

    def ordinary(image):
        return encode_jpeg(image, quality=40, effort=1)

    rate = sum(len(ordinary(np.ascontiguousarray(i.transpose(1, 2, 0)))) for i in pictures) * 8 / (pictures.size / 3)
    learned = learn(network, pictures, [rate], steps=40, effort=1)
    profile = learned.profile("means")
    ours = divergence(make_encoder(profile))
    assert real_rate(profile, pictures) == pytest.approx(rate, rel=0.02)
    assert ours < 0.5 * divergence(ordinary)
    assert profile.luma.array[0, 0] < 0.5 * ijg_tables(40)[0].array[0, 0]
    # What the search reports is the KL of real files, but for the decoder's integer arithmetic.
    assert learned.divergences[0] == pytest.approx(ours, rel=0.3)


def test_interrupted_equals_uninterrupted(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "_SAVE_EVERY", 2)
    whole = learn(convolutions(), pictures, [5.0, 7.0], seed=3)
    for stop in (3, 12, 15):  # inside the first level, at its end, inside the second
        path = tmp_path / f"{stop}.npz"
        seen = []

        def interrupt(level, step, divergence, rate, seen=seen, stop=stop):
            seen.append((level, step))
            if len(seen) == stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            learn(convolutions(), pictures, [5.0, 7.0], seed=3, checkpoint=path, progress=interrupt)
        again: list[tuple[int, int]] = []

        def count(level, step, divergence, rate, again=again):
            again.append((level, step))

        resumed = learn(convolutions(), pictures, [5.0, 7.0], seed=3, checkpoint=path, progress=count)
        assert len(again) < 18 and again[-1] == (0, 6)
        assert resumed.divergences == whole.divergences
        for ours, theirs in zip(resumed.levels, whole.levels, strict=True):
            assert ours.to_document() == theirs.to_document()
    finished = learn(convolutions(), pictures, [5.0, 7.0], seed=3, checkpoint=path, progress=lambda *a: pytest.fail())
    assert finished.divergences == whole.divergences


def test_a_checkpoint_of_other_settings_is_refused(pictures, tmp_path):
    path = tmp_path / "state.npz"
    learn(convolutions(), pictures, [6.0], checkpoint=path)
    with pytest.raises(InvalidInputError, match=r"another configuration: rates was \[6.0\], is \[6.5\]"):
        learn(convolutions(), pictures, [6.5], checkpoint=path)
    with pytest.raises(InvalidInputError, match="weights was"):
        learn(torch.nn.Sequential(*convolutions(), torch.nn.Linear(6, 6)), pictures, [6.0], checkpoint=path)
    learn(convolutions(), pictures, [6.5], checkpoint=path, resume=False)


def test_the_seed_is_the_only_chance(pictures):
    first, same, other = (learn(convolutions(), pictures, [6.0], seed=seed) for seed in (1, 1, 2))
    assert first.levels[0].to_document() == same.levels[0].to_document()
    assert first.levels[0].to_document() != other.levels[0].to_document()


def test_bad_input(pictures):
    network = convolutions()
    with pytest.raises(
        InvalidInputError, match=r"0.1 bpp is out of reach.*tables of 255 give [\d.]+ bpp and .* 1 give"
    ):
        learn(network, pictures, [0.1])
    with pytest.raises(InvalidInputError, match="60 bpp is out of reach"):
        learn(network, pictures, [6.0, 60.0])
    for rates, message in (
        ([], "1 to 16 levels; got 0"),
        ([5.0 * 1.1**i for i in range(17)], "1 to 16 levels; got 17"),
        ([7.0, 5.0], "rates rise"),
        ([5.0, 5.1], "rates rise"),
        ([float("nan")], "positive, finite"),
        ([-1.0], "positive, finite"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            learn(network, pictures, rates)
    with pytest.raises(InvalidInputError, match="steps are at least 2"):
        learn(network, pictures, [6.0], steps=1)
    with pytest.raises(InvalidInputError, match="effort is 0"):
        learn(network, pictures, [6.0], effort=3)
    with pytest.raises(InvalidInputError, match="subsampling of colour images"):
        learn(network, pictures, [6.0], subsampling="gray")
    with pytest.raises(InvalidInputError, match=r"images are \(N, 3, H, W\), uint8"):
        learn(network, pictures.astype(np.float32), [6.0])
    with pytest.raises(DataError, match="no images to learn"):
        learn(network, pictures[:0], [6.0])
    broken = convolutions()
    with torch.no_grad():
        broken[0].weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ModelError, match="NaN"):
        learn(broken, pictures, [6.0])
    with pytest.raises(ModelError, match=r"\(N, classes\) logits; it gave \(4, 8, 15, 23\)"):
        learn(convolutions()[:1], pictures, [6.0])
