"""The layer's way from soft to hard: against the geometric path, the hard quantizer, and the decoded file."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import edgejpeg  # noqa: E402
from edgejpeg.errors import InvalidInputError  # noqa: E402
from edgejpeg.learn.layer import JpegLayer  # noqa: E402
from edgejpeg.learn.layer_schedule import LayerSchedule  # noqa: E402


def layer_with(hardness=1.0, **options):
    return JpegLayer(np.full((8, 8), 7.3), np.full((8, 8), 11.6), hardness=hardness, **options)


def state(layer):
    hardness = None if layer.hardness is None else float(layer.hardness)
    return hardness, layer.quantizer, layer.integer_tables, layer.decoder_rounding, layer.encoder_rounding


def test_hardness_rises_by_equal_ratios_until_the_finish():
    layer, schedule = layer_with(), LayerSchedule(hardness=(2, 50), finish=0.2)
    seen = []
    for step in range(11):
        schedule.apply(layer, step / 10)
        seen.append(float(layer.hardness))
        assert layer.quantizer == ("hard" if step >= 8 else "soft")
        assert layer.integer_tables == (step >= 8)
    expected = [2 * 25 ** (step / 8) for step in range(9)] + [50, 50]
    assert seen == pytest.approx(expected, rel=1e-5)


def test_the_state_depends_on_progress_alone():
    schedule = LayerSchedule((1, 30), finish=0.3, decoder_rounding=0.5, encoder_rounding=0.1)
    walked = layer_with()
    for step in range(100):
        schedule.apply(walked, step / 100)
        schedule.apply(walked, step / 100)
        jumped = layer_with()
        schedule.apply(jumped, step / 100)
        assert state(walked) == state(jumped)
    schedule.apply(walked, 0.0)
    assert state(walked) == (1.0, "soft", False, False, False)


@pytest.mark.parametrize("part", [0.1, 0.2, 0.3, 1 / 3, 0.7])
@pytest.mark.parametrize("steps", [10, 30, 77, 1000])
def test_the_last_part_has_its_share_of_the_steps(part, steps):
    layer, schedule = layer_with(), LayerSchedule(decoder_rounding=part)
    rounded = 0
    for step in range(steps):
        schedule.apply(layer, step / steps)
        rounded += layer.decoder_rounding
    assert rounded in (int(np.floor(part * steps + 1e-6)), int(np.ceil(part * steps - 1e-6)))


def test_what_is_not_scheduled_stays():
    layer = layer_with(None, quantizer="hard", integer_tables=True, decoder_rounding=True)
    LayerSchedule().apply(layer, 0.5)
    assert state(layer) == (None, "hard", True, True, False)
    LayerSchedule(finish=1.0).apply(soft := layer_with(None), 0.0)
    assert state(soft) == (None, "hard", True, False, False)


def test_in_the_end_the_layer_gives_the_decoded_file(photo):
    schedule = LayerSchedule((1, 40), finish=0.2, decoder_rounding=0.2, encoder_rounding=0.2)
    layer = layer_with(subsampling="420")
    image = torch.from_numpy(photo(64, 80).transpose(2, 0, 1).copy())[None].float()
    schedule.apply(layer, 1.0)
    hardened = layer.hardened()
    with torch.no_grad():
        assert torch.equal(layer(image), hardened(image))
        schedule.apply(layer, 0.0)
        assert not torch.equal(layer(image), hardened(image))
    assert layer.tables() == (edgejpeg.QuantTable(np.full((8, 8), 7)), edgejpeg.QuantTable(np.full((8, 8), 12)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hardness": (1,)}, "a pair"),
        ({"hardness": (0, 2)}, "first hardness"),
        ({"hardness": (1, float("nan"))}, "last hardness"),
        ({"finish": 1.1}, "finish is the last part"),
        ({"decoder_rounding": -0.1}, "decoder_rounding is the last part"),
        ({"encoder_rounding": True}, "encoder_rounding is the last part"),
        ({"finish": "half"}, "got 'half'"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(InvalidInputError, match=message):
        LayerSchedule(**options)


def test_refused_when_applied():
    with pytest.raises(InvalidInputError, match="fixed alpha"):
        LayerSchedule((1, 2)).apply(layer_with(None), 0.5)
    for progress in (-0.01, 1.01, float("nan")):
        with pytest.raises(InvalidInputError, match="progress"):
            LayerSchedule().apply(layer_with(), progress)
