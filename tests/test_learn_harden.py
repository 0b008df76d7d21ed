"""The rungs against what they stand for: a naive Q_d, plain rounding in NumPy, Pillow's decoder."""

from __future__ import annotations

import io

import numpy as np
import pytest

torch = pytest.importorskip("torch")
image_module = pytest.importorskip("PIL.Image")

from edgejpeg.errors import DataError, InvalidInputError, ModelError  # noqa: E402
from edgejpeg.evaluate.rungs import rung_figures, rung_table, step_notes  # noqa: E402
from edgejpeg.jpeg.colour import rgb_to_ycbcr, ycbcr_to_rgb  # noqa: E402
from edgejpeg.jpeg.dct import block_dct, inverse_block_dct  # noqa: E402
from edgejpeg.jpeg.tables import ijg_tables  # noqa: E402
from edgejpeg.learn.harden import harden  # noqa: E402
from edgejpeg.learn.layer import JpegLayer  # noqa: E402
from edgejpeg.profile import DeadZone, Profile  # noqa: E402
from edgejpeg.runtime.encoder import Encoder  # noqa: E402

MEAN, STD = (120.0, 110.0, 100.0), (60.0, 50.0, 40.0)
SIZE = 32


def encode(image, profile):
    return Encoder(profile, color="rgb").encode(image)


def decode(data):
    return np.asarray(image_module.open(io.BytesIO(data)).convert("RGB"))


@pytest.fixture
def network():
    torch.manual_seed(1)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 5, 2), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(3), torch.nn.Flatten(),
        torch.nn.Linear(72, 4),
    ).eval()  # fmt: skip


@pytest.fixture
def batches(photo, rng):
    whole = photo(256, 320)
    places = [(int(y), int(x)) for y, x in rng.integers(0, 224, (13, 2))]
    images = np.stack([whole[y : y + SIZE, x : x + SIZE] for y, x in places]).transpose(0, 3, 1, 2)
    labels = rng.integers(0, 4, 13)
    return [
        (torch.from_numpy(images[i : i + 5].copy()), torch.from_numpy(labels[i : i + 5].copy())) for i in (0, 5, 10)
    ]


def measure(network, layer, batches, **options):
    profile = options.pop("profile", None) or layer.profile("test", effort=1)
    return harden(
        network, layer, batches, mean=MEAN, std=STD, profile=profile, **{"encode": encode, "decode": decode, **options}
    )


def by_hand(image, luma, chroma, quantize):
    """4:4:4 in float64: (3, H, W) uint8 through a quantizer of (coefficients, steps)."""
    planes = np.moveaxis(rgb_to_ycbcr(image.transpose(1, 2, 0).astype(float)), 2, 0)
    decoded = []
    for plane, steps in zip(planes, (luma, chroma, chroma), strict=True):
        decoded.append(inverse_block_dct(quantize(block_dct(plane), steps)))
    return ycbcr_to_rgb(np.stack(decoded, axis=-1)).transpose(2, 0, 1)


def naive_soft(h):
    def quantize(coefficients, steps):
        levels = np.arange(-1100, 1101)
        result = np.empty_like(coefficients)
        for row, column in np.ndindex(8, 8):
            step = steps[row, column]
            c = coefficients[..., row, column] / step
            nearest = np.rint(c)[..., None] + np.arange(-9, 10)
            weight = np.exp(-h * (c[..., None] - nearest) ** 2) * (abs(nearest) <= levels[-1])
            result[..., row, column] = step * (weight * nearest).sum(-1) / weight.sum(-1)
        return result

    return quantize


def hard(coefficients, steps):
    ratio = coefficients / steps
    return steps * np.sign(ratio) * np.floor(np.abs(ratio) + 0.5)


def logits_of(network, images):
    with torch.no_grad():
        pixels = torch.from_numpy(np.stack(images)).float()
        return network((pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]).numpy()


def test_every_rung_is_what_it_says(network, batches, rng):
    luma, chroma = rng.uniform(3, 40, (8, 8)), rng.uniform(5, 60, (8, 8))
    layer = JpegLayer(luma, chroma, "444", hardness=4.0)
    result = measure(network, layer, batches)
    images = torch.cat([one for one, _ in batches]).numpy()
    integers = [np.floor(table + 0.5) for table in (luma, chroma)]
    files = [encode(image.transpose(1, 2, 0).copy(), result.profile) for image in images]
    expected = {
        1: [by_hand(image, luma, chroma, naive_soft(4.0)) for image in images],
        2: [by_hand(image, luma, chroma, hard) for image in images],
        3: [by_hand(image, *integers, hard) for image in images],
        4: [decode(data).transpose(2, 0, 1) for data in files],
    }
    assert [rung.number for rung in result.rungs] == [1, 2, 3, 4]
    for number, pixels in expected.items():
        # A coefficient on a rounding threshold may fall to either side in float32 and in float64.
        off = np.abs(result.rung(number).logits - logits_of(network, pixels)).max(axis=1)
        assert np.median(off) < 2e-4 and off.max() < 0.05, number
    assert np.array_equal(result.labels, torch.cat([one for _, one in batches]).numpy())
    real = [8 * len(data) / SIZE**2 for data in files]
    assert np.array_equal(result.rung(4).bpp, real)
    assert result.rung(3).bpp == pytest.approx(real, rel=0.02)
    assert result.rung(1).bpp is None
    assert (result.identical, result.largest_difference) == (13, 0)


def test_figures_against_numpy(network, batches):
    layer = JpegLayer(*ijg_tables(20), "420")
    result = measure(network, layer, batches)
    rows = rung_figures(result)
    first, last = result.rung(1).logits, result.rung(4).logits
    p, q = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (first, last))
    assert rows[3].kl.value == pytest.approx(float((p * np.log(p / q)).sum(1).mean()), rel=1e-6)
    assert rows[3].agreement == (first.argmax(1) == last.argmax(1)).mean()
    right = [(x.argmax(1) == result.labels).mean() for x in (first, last)]
    assert rows[3].difference.value == pytest.approx(right[1] - right[0])
    assert rows[3].difference.low <= rows[3].difference.value <= rows[3].difference.high
    assert rows[0].accuracy.value == right[0] and rows[0].kl is None and rows[0].difference is None
    assert rows[2].estimated and not rows[3].estimated
    lines = rung_table(rows, SIZE * SIZE)
    assert len(lines) == 5 and f"{rows[3].bpp.value:.3f}" in lines[4] and f"~{rows[2].bpp.value:.3f}" in lines[3]


def test_a_run_that_ended_on_integers_shows_both_ends(network, batches):
    layer = JpegLayer(np.full((8, 8), 12.4), np.full((8, 8), 17.7), "420", hardness=30.0)
    soft = measure(network, layer, batches)
    layer.quantizer, layer.integer_tables, layer.decoder_rounding, layer.encoder_rounding = "hard", True, True, "int16"
    result = measure(network, layer, batches)
    assert [(rung.number, rung.name) for rung in result.rungs[:2]] == [(0, "as trained"), (1, "Q_d")]
    for number in (3, 4):
        assert np.array_equal(result.rung(number).logits, soft.rung(number).logits)
    # Training ended with integer steps: they are those of rungs 1 and 2.
    assert np.array_equal(result.rung(2).logits, result.rung(3).logits)
    integer = JpegLayer(*layer.tables(), "420", hardness=30.0)
    assert np.array_equal(result.rung(1).logits, measure(network, integer, batches).rung(1).logits)
    assert np.array_equal(result.rung(0).logits, result.rung(4).logits)
    assert layer.quantizer == "hard" and layer.integer_tables  # the layer itself is not changed
    assert rung_table(rung_figures(result), 1024)[1].startswith("-  as trained")


def test_steps_that_no_file_holds(network, batches):
    """The authors' start on fine-grained data: a DC step far below 1 and an alphabet that cuts brightness off."""
    luma, chroma = np.full((8, 8), 10.0), np.full((8, 8), 10.0)
    luma[0, 0], luma[3, 5], chroma[7, 7] = 0.02, 1e-5, 300.0
    layer = JpegLayer(luma, chroma, "444", bits=8, window=5, q_min=1e-5)
    result = measure(network, layer, batches)
    assert result.luma.below_one == [(0, 0), (3, 5)] and result.luma.at_low == [(3, 5)]
    assert result.chroma.at_high == [(7, 7)] and result.chroma.table.array[7, 7] == 255
    assert result.luma.table.array[0, 0] == 1 and result.luma.values[0, 0] == pytest.approx(0.02)
    images = torch.cat([one for one, _ in batches]).numpy().transpose(0, 2, 3, 1).astype(float)
    dc = np.stack([block_dct(rgb_to_ycbcr(image)[..., 0])[..., 0, 0] for image in images])
    assert result.luma.clipped[0] == pytest.approx((np.abs(dc) > 128 * 0.02).mean())
    assert result.chroma.clipped == (0.0, 0.0)
    notes = step_notes("luma", result.luma, layer.q_min, layer.q_max)
    assert any("below 1 (the least is 1e-05)" in note and "become 1" in note for note in notes)
    assert any("cuts 100.00% of DC" in note or "of DC" in note for note in notes)
    assert "1 of 64 steps are at the highest bound of the training, 255" in " ".join(
        step_notes("chroma", result.chroma, layer.q_min, layer.q_max)
    )
    assert abs(result.rung(1).logits - result.rung(4).logits).max() > 0.05


def test_a_network_without_a_layer(network, batches):
    profile = Profile.fixed(name="ijg", luma=ijg_tables(30)[0], chroma=ijg_tables(30)[1], subsampling="420")
    result = measure(network, None, batches, profile=profile)
    assert [(rung.number, rung.name) for rung in result.rungs] == [
        (1, "no layer"), (3, "Q_u, integer tables"), (4, "JPEG files"),
    ]  # fmt: skip
    clean = logits_of(network, [image.numpy() for one, _ in batches for image in one])
    assert result.rung(1).logits == pytest.approx(clean, abs=1e-5)
    assert result.luma is None
    with pytest.raises(InvalidInputError, match="no rung 2; there are 1, 3, 4"):
        result.rung(2)


def test_refusals(network, batches):
    layer = JpegLayer(*ijg_tables(75), "420")
    other = Profile.fixed(name="other", luma=ijg_tables(30)[0], chroma=ijg_tables(30)[1], subsampling="420")
    with pytest.raises(InvalidInputError, match="has not the layer's tables"):
        measure(network, layer, batches, profile=other)
    thresholds = np.full((8, 8), 0.6)
    thresholds[0, 0] = 0.5
    zones = DeadZone(thresholds, thresholds)
    for bad in (
        Profile.fixed(name="zones", luma=other.luma, chroma=other.chroma, dead_zone=zones),
        Profile.fixed(name="gray", luma=other.luma, subsampling="gray"),
    ):
        with pytest.raises(InvalidInputError, match="two fixed tables with plain rounding"):
            measure(network, None, batches, profile=bad)
    with pytest.raises(InvalidInputError, match="one pair of tables; this layer has 2 rounds"):
        measure(network, JpegLayer(*ijg_tables(75), rounds=2), batches)
    with pytest.raises(DataError, match="got none"):
        measure(network, layer, [])
    with pytest.raises(DataError, match="decoded to an array of shape"):
        measure(network, layer, batches, decode=lambda data: decode(data)[1:])
    with torch.no_grad():
        network[0].weight[0] = float("nan")
    with pytest.raises(ModelError, match="NaN or infinite on the rung 'Q_d'"):
        measure(network, layer, batches)
    with pytest.raises(ModelError, match=r"\(N, classes\) logits"):
        measure(network[:1], layer, batches)
