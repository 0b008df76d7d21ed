"""Adaptation without labels, on a small network and real files."""

from __future__ import annotations

import copy
import io
import json
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")
image_module = pytest.importorskip("PIL.Image")

from edgejpeg.errors import InvalidInputError, ModelError  # noqa: E402
from edgejpeg.evaluate.metrics import kl_divergence, top1_agreement  # noqa: E402
from edgejpeg.learn.adapt import MIXES, AdaptOptions, adapt  # noqa: E402
from edgejpeg.learn.crops import Photos  # noqa: E402
from edgejpeg.learn.rates import ijg_profile, measure_rates  # noqa: E402
from edgejpeg.learn.runs import RunFolder  # noqa: E402
from edgejpeg.runtime.encoder import Encoder  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")  # with so few images the end of a training hangs on the last bits

MEAN, STD = (120.0, 110.0, 100.0), (60.0, 60.0, 60.0)
_encoders = {}


def encode(image, profile):
    if profile not in _encoders:
        _encoders[profile] = Encoder(profile, color="rgb")
    return _encoders[profile].encode(image)


def decode(data):
    return np.asarray(image_module.open(io.BytesIO(data)).convert("RGB"))


@pytest.fixture
def network():
    torch.manual_seed(1)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 12, 5, 2), torch.nn.BatchNorm2d(12), torch.nn.ReLU(), torch.nn.Dropout(0.5),
        torch.nn.Conv2d(12, 12, 3, 2), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(),
        torch.nn.Linear(48, 6),
    )  # fmt: skip
    with torch.no_grad():
        model[0].weight -= model[0].weight.mean(dim=(2, 3), keepdim=True)  # it looks at details, which JPEG changes
        model[1].running_mean.normal_(std=0.1)
        model[-1].weight.mul_(150)
    return model.train()


@pytest.fixture(scope="module")
def photos(photo):
    noise = np.random.default_rng(0).normal(0, 15, (180, 300, 3))  # details, which JPEG takes away
    whole = np.clip(photo(180, 300) + noise, 0, 255).astype(np.uint8)

    def cut(y, x, height, width):
        return np.ascontiguousarray(whole[y : y + height, x : x + width])

    return Photos(
        train=tuple(
            np.ascontiguousarray(whole[y : y + 44, x : x + 50]) for y in (0, 60, 120) for x in range(0, 240, 30)
        ),
        held_out=tuple(
            np.ascontiguousarray(whole[y : y + 32, x : x + 32]) for y in (40, 100) for x in range(0, 240, 40)
        ),
        skipped=(),
    )


@pytest.fixture(scope="module")
def rates(photos):
    return measure_rates(ijg_profile(), photos.held_out[:4], encode, low=2.3, high=2.6)


OPTIONS = AdaptOptions(epochs=6, batch_size=8, learning_rate=3e-3, clean=0.2, clean_limit=0.9)


def train(network, photos, rates, options=OPTIONS, **more):
    arguments = {"encode": encode, "decode": decode, "mean": MEAN, "std": STD, **more}
    return adapt(network, photos, rates, options=options, **arguments)


@pytest.fixture
def store(tmp_path):
    made = RunFolder(tmp_path / "run", {"model": "tiny"})
    made.open(resume=False)
    return made


def test_the_copy_comes_nearer_and_the_original_stays(network, photos, rates):
    kept = copy.deepcopy(network.state_dict())
    options = AdaptOptions(epochs=45, batch_size=8, learning_rate=2e-3, clean=0.1, clean_limit=0.9)
    result = train(network, photos, rates, options)
    assert network.training and all(torch.equal(kept[k], v) for k, v in network.state_dict().items())
    assert result.after.score < result.before.score - 0.2 and result.after.kl[0] < 0.8 * result.before.kl[0]
    assert result.before.clean_kl == 0 and result.before.clean_agreement == 1 and result.before.clean_loss == 0
    assert (result.steps, len(result.history)) == (135, 45)
    for key in ("1.running_mean", "1.running_var", "1.num_batches_tracked"):  # frozen statistics
        assert torch.equal(result.state[key], kept[key])
    assert not torch.equal(result.state["1.weight"], kept["1.weight"])


def test_the_figures_are_those_of_the_weights_on_real_files(network, photos, rates):
    result = train(network, photos, rates)
    adapted = copy.deepcopy(network).eval()
    adapted.load_state_dict(result.state)

    def logits(model, images):
        x = (np.stack(images).astype(np.float32) - MEAN) / STD
        with torch.no_grad():
            return model(torch.from_numpy(x.astype(np.float32).transpose(0, 3, 1, 2).copy())).numpy()

    clean = logits(network.eval(), photos.held_out)
    for figures, model in ((result.before, network), (result.after, adapted)):
        for i, index in enumerate(rates.points(3)):
            files = [encode(image, rates.settings[index]) for image in photos.held_out]
            answer = logits(model, [decode(data) for data in files])
            assert figures.bpp[i] == pytest.approx(sum(map(len, files)) * 8 / (len(files) * 32 * 32))
            assert figures.kl[i] == pytest.approx(kl_divergence(clean, answer).mean(), rel=1e-3)
            assert figures.agreement[i] == top1_agreement(clean, answer).mean()
    answer = logits(adapted, photos.held_out)
    assert result.after.clean_kl == pytest.approx(kl_divergence(clean, answer).mean(), rel=1e-3)
    soft = np.exp(clean - clean.max(1, keepdims=True))
    soft /= soft.sum(1, keepdims=True)
    lost = soft.max(1) - soft[np.arange(len(soft)), answer.argmax(1)]
    assert result.after.clean_loss == pytest.approx(lost.mean(), abs=1e-5)


def test_the_best_candidate_within_the_limit_is_chosen(network, photos, rates):
    for limit in (0.9, 0.09):
        options = AdaptOptions(epochs=6, batch_size=8, learning_rate=3e-3, clean=0.2, clean_limit=limit)
        result = train(network, photos, rates, options)
        assert [entry["mix"] for entry in result.candidates] == list(MIXES)
        scores = {e["mix"]: sum(map(math.log, e["kl"])) / 3 for e in result.candidates if e["clean_loss"] <= limit}
        assert result.clean_limit_met and result.mix == min(scores, key=scores.get)
        assert result.after.score == pytest.approx(scores[result.mix])


def test_the_weights_lie_on_the_line_to_the_trained_ones(network, photos, rates, store):
    options = AdaptOptions(epochs=6, batch_size=8, learning_rate=3e-3, clean_limit=0.0)
    result = train(network, photos, rates, options, folder=store)
    trained = store.load()["student"]
    for name, value in network.state_dict().items():
        expected = value + result.mix * (trained[name] - value) if value.is_floating_point() else value
        torch.testing.assert_close(result.state[name], expected)
    assert result.history[-1]["kl"] == result.candidates[0]["kl"]  # all the way: the weights after the last epoch


def test_a_limit_that_is_not_kept_is_said(network, photos, rates):
    options = AdaptOptions(epochs=3, batch_size=8, learning_rate=0.3, clean=0.0, clean_limit=0.0)
    result = train(network, photos, rates, options)
    losses = [entry["clean_loss"] for entry in result.candidates]
    assert not result.clean_limit_met and min(losses) > 0
    assert result.mix == MIXES[losses.index(min(losses))]


def interrupting(at):
    def progress(step, steps, numbers):
        if step == at:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize(("at", "begins"), [(2, 1), (5, 5), (12, 13)])  # no checkpoint, one in an epoch, at its end
def test_a_resumed_run_equals_an_uninterrupted_one(network, photos, rates, tmp_path, at, begins):
    options = AdaptOptions(epochs=6, batch_size=8, learning_rate=3e-3, ema=0.9, clean_limit=0.9, checkpoint_every=4)
    folders = [RunFolder(tmp_path / name, {"model": "tiny"}) for name in ("whole", "parts")]
    for folder in folders:
        folder.open(resume=False)
    whole = train(network, photos, rates, options, folder=folders[0])
    with pytest.raises(KeyboardInterrupt):
        train(network, photos, rates, options, folder=folders[1], progress=interrupting(at))
    steps = []
    parts = train(
        network, photos, rates, options, folder=folders[1], resume=True, progress=lambda step, *_: steps.append(step)
    )
    assert steps[0] == begins  # what a checkpoint had is not done again
    assert all(torch.equal(whole.state[k], parts.state[k]) for k in whole.state)
    assert (whole.history, whole.candidates, whole.mix) == (parts.history, parts.candidates, parts.mix)
    metrics = [(folder.path / "metrics.jsonl").read_text() for folder in folders]
    assert metrics[0] == metrics[1]
    again = train(network, photos, rates, options, folder=folders[1], resume=True)  # a finished run has nothing to do
    assert all(torch.equal(whole.state[k], again.state[k]) for k in whole.state)


def test_threads_do_not_change_the_result(network, photos, rates):
    results = [
        train(network, photos, rates, AdaptOptions(epochs=1, batch_size=8, workers=workers)) for workers in (1, 3)
    ]
    assert all(torch.equal(results[0].state[k], results[1].state[k]) for k in results[0].state)


def test_the_seed_and_the_metrics(network, photos, rates, store):
    first = train(network, photos, rates, folder=store)
    other = train(network, photos, rates, AdaptOptions(epochs=6, batch_size=8, learning_rate=3e-3, seed=1))
    assert not torch.equal(first.state["8.weight"], other.state["8.weight"])
    lines = [json.loads(line) for line in (store.path / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 19))
    rate = [line["learning_rate"] for line in steps]
    assert rate[0] == pytest.approx(1.5e-3) and rate[1] == pytest.approx(3e-3)  # a tenth of 18 steps warms up
    assert rate[10] == pytest.approx(3e-3 * (1 + math.cos(math.pi * 8 / 16)) / 2)
    assert all(np.diff(rate[2:]) < 0) and rate[-1] < 0.02 * 3e-3
    assert all(2.0 < line["bpp"] < 5.0 for line in steps if "bpp" in line)
    assert [line["epoch"] for line in lines if "epoch" in line] == list(range(1, 7))


def test_only_clean_images_are_not_compressed(network, photos, rates):
    calls = []

    def counting(image, profile):
        calls.append(image.shape)
        return encode(image, profile)

    options = AdaptOptions(epochs=10, batch_size=24, clean=0.5, crop_size=24)
    train(network, photos, rates, options, encode=counting)
    training = calls.count((24, 24, 3))
    assert len(calls) - training == 3 * len(photos.held_out)
    assert 85 < training < 155  # half of 240


def test_the_average_is_a_candidate(network, photos, rates):
    options = AdaptOptions(epochs=2, batch_size=8, learning_rate=3e-3, ema=0.99, clean_limit=0.9)
    result = train(network, photos, rates, options)
    assert [entry["averaged"] for entry in result.candidates] == [False] * len(MIXES) + [True] * len(MIXES)
    assert result.candidates[0]["kl"] != result.candidates[len(MIXES)]["kl"]
    (best,) = (e for e in result.candidates if (e["mix"], e["averaged"]) == (result.mix, result.averaged))
    assert best["kl"] == result.after.kl


def test_a_loss_that_is_nan_stops_and_the_checkpoint_stays(network, photos, rates, store):
    good = AdaptOptions(epochs=2, batch_size=8, checkpoint_every=1)
    with pytest.raises(KeyboardInterrupt):
        train(network, photos, rates, good, folder=store, progress=interrupting(2))
    before = (store.path / "checkpoint.pt").read_bytes()
    with pytest.raises(ModelError, match=r"step 3 of 6; the last checkpoint, if any, is good"):
        broken = AdaptOptions(epochs=2, batch_size=8, learning_rate=1e30, checkpoint_every=100)
        train(network, photos, rates, broken, folder=store, resume=True)
    assert (store.path / "checkpoint.pt").read_bytes() == before
    assert store.load()["step"] == 1


def test_weights_that_no_longer_answer_are_named_after_the_epoch(network, photos, rates):
    with pytest.raises(ModelError, match=r"NaN or infinite after step 1 of 1; the last checkpoint, if any, is good"):
        train(network, photos, rates, AdaptOptions(epochs=1, batch_size=24, learning_rate=1e30))


def test_networks_that_cannot_be_adapted(network, photos, rates):
    with torch.no_grad():
        network[0].weight[0, 0, 0, 0] = math.nan
    with pytest.raises(ModelError, match="NaN or infinite"):
        train(network, photos, rates)
    with pytest.raises(ModelError, match=r"logits; the network gave \(\d+, 48, 1, 1\)"):
        train(torch.nn.Conv2d(3, 48, 32), photos, rates)


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0}, {"batch_size": 0}, {"workers": 0}, {"crop_size": -1}, {"learning_rate": math.nan},
        {"learning_rate": 0.0}, {"clean": 1.0}, {"clean": -0.1}, {"ema": 1.0}, {"clean_limit": math.nan},
        {"min_scale": 0.0}, {"seed": -1}, {"clip_norm": math.inf}, {"warmup": 1.5},
    ],
)  # fmt: skip
def test_options_outside_what_is_allowed(wrong):
    with pytest.raises(InvalidInputError, match=next(iter(wrong))):
        AdaptOptions(**wrong)
