"""Training: equal to a plain loop, to its own resumed run to the bit, and to itself in two processes."""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

torch = pytest.importorskip("torch")
for needed in ("PIL", "safetensors", "tqdm"):
    pytest.importorskip(needed)

from edgejpeg.errors import DataError, InvalidInputError, MissingDependencyError, ModelError  # noqa: E402
from edgejpeg.jpeg.tables import ijg_tables  # noqa: E402
from edgejpeg.learn.layer import JpegLayer  # noqa: E402
from edgejpeg.learn.recipe import load_recipe  # noqa: E402
from edgejpeg.learn.train import train  # noqa: E402
from edgejpeg.learn.training_data import ArrayImages  # noqa: E402
from edgejpeg.learn.training_log import TrainingInterrupted  # noqa: E402
from edgejpeg.learn.training_run import load_run  # noqa: E402
from edgejpeg.models import create_model, register_model, registry  # noqa: E402
from edgejpeg.models.state_dict import read_state_dict  # noqa: E402

SIZE, CLASSES = 16, 3

TINY = """
import torch

def tiny(num_classes):
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, 2), torch.nn.GroupNorm(2, 8), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3),
        torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, num_classes),
    )
"""
exec(TINY)


def with_batch_norm(num_classes):
    net = tiny(num_classes)  # noqa: F821
    net[1] = torch.nn.BatchNorm2d(8)
    return torch.nn.Sequential(*net[:7], torch.nn.Dropout(0.2), net[7])


@pytest.fixture(autouse=True)
def _models(monkeypatch, one_thread):
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    register_model("tiny", tiny, input_size=(SIZE, SIZE), num_classes=CLASSES)  # noqa: F821
    register_model("tiny_bn", with_batch_norm, input_size=(SIZE, SIZE), num_classes=CLASSES)


def pictures(count=60, seed=5):
    """Stripes of three directions, noisy: classes that a small network tells apart."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    waves = [np.sin(x), np.sin(y), np.sin(x + y)]
    base = np.stack([waves[label] for label in labels])[..., None] * 60 + 128
    return ArrayImages((base + rng.normal(0, 20, (count, SIZE, SIZE, 3))).clip(0, 255).astype(np.uint8), labels)


RECIPE = [
    "data.crop=pad", "data.pad=2", "schedule.epochs=3", "run.batch_size=12", "optimizer.lr=0.1", "run.log_every=2",
    "run.workers=0", "layer.initial=ijg", "layer.optimizer.lr=0.5", "layer.subsampling=420",
]  # fmt: skip


def recipe(*settings):
    return load_recipe(settings=[*RECIPE, *settings])


def model(name="tiny"):
    return create_model(name, "none", CLASSES)


def files(run):
    return {name: (run / name).read_bytes() for name in ("weights.safetensors", "layer.safetensors")}


def numbers(run):
    """metrics.jsonl without what a clock says."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "images_per_second"} for line in lines]


def test_it_learns_and_the_folder_can_be_read_again(tmp_path):
    run = tmp_path / "run"
    report = train(model(), pictures(), recipe("schedule.epochs=8", "data.validation=0.2"), run, test=pictures(30, 6))
    assert report["results"]["test"]["top1"] > 0.9 and report["results"]["validation"]["images"] == 12
    assert json.loads((run / "run.json").read_text()) == report
    loaded = load_run(run)
    assert loaded.recipe == recipe("schedule.epochs=8", "data.validation=0.2") and loaded.model.pretrained
    network, test = loaded.network(), pictures(30, 6)
    with torch.no_grad():
        images = torch.from_numpy(test.images).permute(0, 3, 1, 2).float()
        top1 = float((network(images).argmax(1).numpy() == test.labels).mean())
        mean, std = (torch.tensor(v)[:, None, None] for v in (loaded.model.mean, loaded.model.std))
        by_hand = loaded.model.module((loaded.layer(images) - mean) / std)
    assert top1 == report["results"]["test"]["top1"]
    assert torch.equal(network(images), by_hand)
    assert isinstance(loaded.layer, JpegLayer) and loaded.layer.subsampling == "420"
    assert np.abs(loaded.layer.luma.detach().numpy() - ijg_tables(75)[0].array).max() > 0.1
    assert report["data"]["train"] == {"name": "array", "images": 60, "used": 48, "per_class": [20, 20, 20]}
    assert report["bounds"]["luma"].keys() == {"q_min", "q_max"}
    assert str(tmp_path) not in (run / "run.json").read_text()


def test_the_baseline_is_the_same_without_the_layer(tmp_path):
    """A plain loop that knows nothing of this package but the order and the crops gives the same weights."""
    run, data = tmp_path / "run", pictures()
    chosen = recipe("layer.enabled=false", "data.crop=none", "data.flip=0", "optimizer.nesterov=true")
    report = train(model(), data, chosen, run)
    assert report["layer"] is None and report["bounds"] is None and not (run / "layer.safetensors").exists()
    assert load_run(run).layer is None
    by_hand = model()
    net = by_hand.module.train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 15)
    pixels = torch.from_numpy(data.images).permute(0, 3, 1, 2)
    for epoch in range(3):
        order = np.random.default_rng([0, 2, epoch]).permutation(60)
        for first in range(0, 60, 12):
            batch = order[first : first + 12]
            loss = torch.nn.functional.cross_entropy(
                net(by_hand.normalise(pixels[batch])), torch.from_numpy(data.labels[batch])
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    trained = read_state_dict(run / "weights.safetensors")
    for name, value in net.state_dict().items():
        assert torch.allclose(value, trained[name], rtol=1e-4, atol=1e-6), name


RESUMED = [
    "run.checkpoint_every=3", "run.ema=0.9", "data.erase=0.5", "loss.mixup=0.5", "loss.cutmix=1", "run.accumulation=2",
    "layer.schedule.hardness=[2, 20]", "layer.schedule.finish=0.3", "layer.optimizer.schedule=network",
    "loss.label_smoothing=0.1", "data.validation=0.1", "optimizer.decay_norm_and_bias=false", "run.clip_grad=1",
]  # fmt: skip


@pytest.mark.parametrize(
    ("more", "stop"),
    [
        ([], 7),
        (["optimizer.name=adamw", "optimizer.lr=.01", "layer.rate.weight=0.01"], 4),
        (["layer.rate.target_bpp=6", "optimizer.name=rmsprop", "optimizer.lr=.001"], 8),
        (["run.workers=2", "data.crop=random-resized", "layer.optimizer.name=sgd"], 6),
        (["run.precision=bf16", "run.deterministic=true", "run.channels_last=true"], 9),
    ],
)
def test_a_resumed_run_equals_the_uninterrupted_one_to_the_bit(tmp_path, more, stop):
    chosen, data = recipe(*RESUMED, *more), pictures()
    train(model("tiny_bn"), data, chosen, tmp_path / "whole", test=pictures(12, 7))

    sent = []

    def interrupt(step, steps, record):
        if step >= stop and not sent:
            sent.append(step)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(TrainingInterrupted, match=r"step \d+ of 12 is saved in .*checkpoint.pt"):
        train(model("tiny_bn"), data, chosen, tmp_path / "parts", test=pictures(12, 7), progress=interrupt)
    assert not (tmp_path / "parts" / "run.json").exists()
    assert len(numbers(tmp_path / "parts")) < len(numbers(tmp_path / "whole"))
    report = train(model("tiny_bn"), data, chosen, tmp_path / "parts", test=pictures(12, 7), resume=True)
    assert files(tmp_path / "parts") == files(tmp_path / "whole")
    assert numbers(tmp_path / "parts") == numbers(tmp_path / "whole")
    whole = json.loads((tmp_path / "whole" / "run.json").read_text())
    assert {k: v for k, v in report.items() if k != "seconds"} == {k: v for k, v in whole.items() if k != "seconds"}


def test_killed_between_checkpoints_it_goes_on_from_the_last_one(tmp_path):
    chosen, data = recipe("run.checkpoint_every=3"), pictures()
    train(model(), data, chosen, tmp_path / "whole")

    def die(step, steps, record):
        if step == 8:
            raise SystemExit(9)

    with pytest.raises(SystemExit):
        train(model(), data, chosen, tmp_path / "parts", progress=die)
    assert torch.load(tmp_path / "parts" / "checkpoint.pt", weights_only=True)["state"]["step"] == 6
    train(model(), data, chosen, tmp_path / "parts", resume=True)
    assert files(tmp_path / "parts") == files(tmp_path / "whole")
    assert numbers(tmp_path / "parts") == numbers(tmp_path / "whole")


def test_seeds(tmp_path):
    for name, settings in {"a": [], "b": [], "c": ["run.seed=1"], "d": ["run.workers=2", "run.cache=off"]}.items():
        train(model(), pictures(), recipe(*settings), tmp_path / name)
    assert files(tmp_path / "a") == files(tmp_path / "b") == files(tmp_path / "d")  # workers and cache change nothing
    assert files(tmp_path / "a") != files(tmp_path / "c")
    first = [create_model("tiny", "none", CLASSES, seed=seed).module.state_dict()["0.weight"] for seed in (0, 0, 1)]
    assert torch.equal(first[0], first[1]) and not torch.equal(first[0], first[2])


def test_accumulation_is_the_same_step(tmp_path):
    for name, parts in (("one", 1), ("four", 4)):
        settings = ("optimizer.lr=0.02", "layer.rate.weight=0.01", "layer.optimizer.name=sgd", "layer.optimizer.lr=20")
        train(model(), pictures(), recipe(f"run.accumulation={parts}", *settings), tmp_path / name)
    one, four = (read_state_dict(tmp_path / name / "weights.safetensors") for name in ("one", "four"))
    for name, value in one.items():
        # The price of a symbol is that of the pass's images together, so that the tables' gradients differ a little.
        assert torch.allclose(value, four[name], rtol=1e-3, atol=4e-4), (name, (value - four[name]).abs().max())


def test_a_nan_stops_the_run_and_the_last_checkpoint_is_good(tmp_path):
    data = pictures()
    chosen = recipe("run.checkpoint_every=3")
    calls = []

    def poison(step, steps, record):
        calls.append(step)
        if step == 8:
            with torch.no_grad():
                broken.module[0].weight[0, 0, 0, 0] = float("nan")

    broken = model()
    with pytest.raises(ModelError) as caught:
        train(broken, data, chosen, tmp_path / "run", progress=poison)
    message = str(caught.value)
    assert "the loss is nan" in message and "at step 9 of 15 (epoch 2)" in message and "\n" not in message
    assert "checkpoint.pt', of step 6, is good" in message
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["state"]
    assert state["step"] == 6 and all(bool(torch.isfinite(v).all()) for v in state["network"].values())
    assert not (tmp_path / "run" / "weights.safetensors").exists()
    train(model(), data, chosen, tmp_path / "whole")
    train(model(), data, chosen, tmp_path / "run", resume=True)
    assert files(tmp_path / "run") == files(tmp_path / "whole")


def test_a_rate_that_is_far_too_high_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"at step \d+ of 15 .*: none is saved yet; try a lower optimizer.lr"):
        train(model(), pictures(), recipe("optimizer.lr=100", "optimizer.weight_decay=10"), tmp_path / "run")


def test_interrupted_at_once_from_another_thread_it_only_stops_in_the_main_one(tmp_path):
    """Outside the main thread no signal is taken over, and training works."""
    done = []
    thread = threading.Thread(target=lambda: done.append(train(model(), pictures(), recipe(), tmp_path / "run")))
    thread.start()
    thread.join()
    assert done and done[0]["steps"] == 15


def test_wrong_input_is_refused(tmp_path):
    data = pictures()
    with pytest.raises(InvalidInputError, match=r"array has 3 classes, and tiny was made for 5; give --num-classes 3"):
        train(create_model("tiny", "none", 5), data, recipe(), tmp_path / "a")
    with pytest.raises(InvalidInputError, match=r"array has 3 classes, and the recipe's data.classes is 10"):
        train(model(), data, recipe("data.classes=10"), tmp_path / "a")
    other = ArrayImages(data.images[:4], [0, 1, 0, 1])
    with pytest.raises(InvalidInputError, match="the test images of array have 2 classes, those of array 3"):
        train(model(), data, recipe(), tmp_path / "a", test=other)
    with pytest.raises(DataError, match=r"60 images to train on are fewer than run.batch_size 61"):
        train(model(), data, recipe("run.batch_size=61"), tmp_path / "a")
    with pytest.raises(InvalidInputError, match=r"run.cache = 'on' keeps centre crops"):
        train(model(), data, recipe("run.cache=on", "data.crop=random-resized"), tmp_path / "b")
    with pytest.raises(InvalidInputError, match="a sensitivity is for the layer's first tables"):
        train(model(), data, recipe("layer.enabled=false"), tmp_path / "b", sensitivity=np.ones((3, 8, 8)))
    with pytest.raises(InvalidInputError, match=r"layer.initial is 'ijg'"):
        train(model(), data, recipe(), tmp_path / "c", sensitivity=np.ones((3, 8, 8)))
    register_model("pairs", lambda n: _Pair(n), input_size=(SIZE, SIZE), num_classes=CLASSES)
    with pytest.raises(ModelError, match="pairs gives tuple in training"):
        train(create_model("pairs", "none"), data, recipe(), tmp_path / "d")


class _Pair(torch.nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.net = tiny(classes)  # noqa: F821

    def forward(self, x):
        return self.net(x), self.net(x)


def test_another_run_is_not_written_over(tmp_path):
    data, run = pictures(), tmp_path / "run"
    train(model(), data, recipe("schedule.epochs=1"), run)
    with pytest.raises(InvalidInputError, match="has a run in it already"):
        train(model(), data, recipe("schedule.epochs=1"), run)
    with pytest.raises(InvalidInputError, match=r"of another run: recipe was .* is .*give another folder"):
        train(model(), data, recipe("schedule.epochs=2"), run, resume=True)
    with pytest.raises(InvalidInputError, match=r"of another run: model was 'tiny', is 'tiny_bn'; weights was"):
        train(model("tiny_bn"), data, recipe("schedule.epochs=1"), run, resume=True)
    report = train(model(), data, recipe("schedule.epochs=1"), run, resume=True)  # finished: nothing left to do
    assert report["steps"] == 5
    (run / "checkpoint.pt").write_bytes(b"damaged")
    with pytest.raises(DataError, match="cannot read the checkpoint"):
        train(model(), data, recipe("schedule.epochs=1"), run, resume=True)


@pytest.mark.parametrize("initial", ["sensitivity", "lsq", "ones"])
def test_where_tables_start(tmp_path, initial):
    settings = (f"layer.initial={initial}", "schedule.epochs=1", "layer.q_min=1e-5", "layer.optimizer.lr=1e-9")
    train(model(), pictures(), recipe(*settings, "layer.initial_images=24"), tmp_path / "run")
    layer = load_run(tmp_path / "run").layer
    if initial == "ones":
        assert torch.allclose(layer.luma, torch.ones(1, 8, 8))
    if initial == "sensitivity":
        assert float(layer.luma.detach().max()) == pytest.approx(10, rel=1e-4)
    given = np.random.default_rng(0).random((3, 8, 8)) + 0.1
    if initial == "sensitivity":
        train(model(), pictures(), recipe(*settings), tmp_path / "given", sensitivity=given)
        expected = 10 * given[0].min() / given[0]
        assert load_run(tmp_path / "given").layer.luma[0].detach().numpy() == pytest.approx(expected, rel=1e-4)


def test_steps_at_their_bounds_are_reported(tmp_path):
    chosen = recipe("layer.q_max=20", "layer.q_min=12", "layer.initial=ones", "layer.optimizer.lr=1e-6")
    report = train(model(), pictures(), chosen, tmp_path / "run")
    luma = load_run(tmp_path / "run").layer.luma.detach()
    assert float(luma.min()) >= 12
    assert report["bounds"]["luma"]["q_min"] == (luma <= 12 * (1 + 1e-6)).nonzero().tolist() != []
    assert report["bounds"]["luma"]["q_max"] == []


def test_fp16_scales_the_loss(tmp_path):
    report = train(model(), pictures(), recipe("run.precision=fp16"), tmp_path / "run")
    assert all(line["loss_scale"] >= 1 for line in numbers(tmp_path / "run") if "loss_scale" in line)
    assert np.isfinite(report["results"]["train"]["loss"])


def test_learned_alpha_has_a_rate_of_its_own(tmp_path):
    chosen = recipe("layer.learn_alpha=true", "layer.optimizer.alpha_lr=0.3", "layer.alpha=0.05")
    train(model(), pictures(), chosen, tmp_path / "run")
    layer = load_run(tmp_path / "run").layer
    assert layer.alpha_luma.shape == (1, 8, 8) and np.abs(layer.alpha_luma.detach().numpy() - 0.05).max() > 1e-3


def test_tensorboard(tmp_path):
    chosen = recipe("schedule.epochs=1", "data.validation=0.1")
    if importlib.util.find_spec("tensorboard") is None:
        with pytest.raises(MissingDependencyError, match=r"pip install 'edgejpeg\[tensorboard\]'"):
            train(model(), pictures(), chosen, tmp_path / "run", tensorboard=True)
        return
    train(model(), pictures(), chosen, tmp_path / "run", tensorboard=True)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    tags = events.Tags()["scalars"]
    assert {"loss", "learning_rate", "train/top1", "validation/top1"} <= set(tags)
    logged = [line["loss"] for line in numbers(tmp_path / "run") if "loss" in line]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx(logged)


# --- a run that is read again ---


@pytest.fixture
def finished(tmp_path):
    run = tmp_path / "finished"
    train(model(), pictures(), recipe("schedule.epochs=1"), run)
    return run


def _edited(run, **changes):
    report = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**report, **changes}))


def test_what_is_no_finished_training_is_refused(finished, tmp_path):
    with pytest.raises(DataError, match="no folder"):
        load_run(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no finished training in .*--resume ends one"):
        load_run(tmp_path)
    _edited(finished, kind="adaptation")
    with pytest.raises(InvalidInputError, match="another command's run: 'adaptation'"):
        load_run(finished)
    _edited(finished, kind="training", format=2)
    with pytest.raises(DataError, match="has the format 2; this version reads 1"):
        load_run(finished)
    (finished / "run.json").write_text("{")
    with pytest.raises(DataError, match=r"cannot read .*run.json"):
        load_run(finished)


def test_files_of_a_run_that_do_not_fit_are_refused(finished):
    kept = (finished / "run.json").read_text()
    _edited(finished, model="tiny_bn")
    with pytest.raises(DataError, match=r"cannot load the run .*weights.safetensors' do not fit tiny_bn; keys: "):
        load_run(finished)
    (finished / "run.json").write_text(kept)
    layer = copy.deepcopy(json.loads(kept)["layer"])
    _edited(finished, layer={**layer, "rounds": 2})
    with pytest.raises(DataError, match=r"cannot load the layer from .*layer.safetensors"):
        load_run(finished)
    (finished / "run.json").write_text(kept)
    data = (finished / "layer.safetensors").read_bytes()
    (finished / "layer.safetensors").write_bytes(data[:-1] + b"\x7f")
    with pytest.raises(DataError, match=r"layer.safetensors' is not the file that run.json tells of"):
        load_run(finished)
    (finished / "layer.safetensors").unlink()
    with pytest.raises(DataError, match=r"the run lacks .*layer.safetensors"):
        load_run(finished)


# --- several processes ---

DRIFTING = """
class Drift(torch.nn.Module):  # what batch norm is in several processes: a buffer that is each one's own
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x):
        if self.training:
            self.mean.lerp_(x.detach().mean(0), 0.5)
            return x
        return x + 30 * self.mean

def drifting(num_classes):
    net = tiny(num_classes)
    return torch.nn.Sequential(*net[:7], Drift(), net[7])
"""
exec(DRIFTING)

TWO = (
    TINY
    + DRIFTING
    + textwrap.dedent("""
    import sys
    import numpy as np
    from edgejpeg.learn.recipe import load_recipe
    from edgejpeg.learn.train import train
    from edgejpeg.learn.training_data import ArrayImages
    from edgejpeg.models import create_model, register_model
    torch.set_num_threads(1)
    register_model("drifting", drifting, input_size=(16, 16), num_classes=3)
    stored = np.load(sys.argv[1])
    data = ArrayImages(stored["images"], stored["labels"])
    settings = sys.argv[4:]
    stop = None
    if settings and settings[0].startswith("stop="):
        stop = int(settings.pop(0)[5:])
    def progress(step, steps, record):
        if step == stop:
            import os, signal
            os.kill(os.getpid(), signal.SIGTERM)
    try:
        train(create_model("drifting", "none", 3), data, load_recipe(settings=settings), sys.argv[2], test=data,
              resume=sys.argv[3] == "resume", progress=progress)
    except KeyboardInterrupt as stopped:
        print("STOPPED", stopped)
""")
)


def _torchrun(tmp_path, *arguments):
    script = tmp_path / "two.py"
    script.write_text(TWO)
    data = pictures()
    np.savez(tmp_path / "data.npz", images=data.images, labels=data.labels)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script),
         str(tmp_path / "data.npz"), *map(str, arguments)],
        capture_output=True, text=True, env=environment, timeout=240,
    )  # fmt: skip


@pytest.mark.slow
def test_two_processes_stop_together_go_on_and_train_what_one_does(tmp_path):
    settings = [
        *RECIPE, "optimizer.lr=0.02", "run.log_every=1", "layer.optimizer.name=sgd", "layer.optimizer.lr=20",
        "layer.rate.weight=0.1", "run.ema=0.9", "layer.schedule.hardness=[2, 9]",
    ]  # fmt: skip
    stopped = _torchrun(tmp_path, tmp_path / "two", "fresh", "stop=7", *settings)
    assert stopped.returncode == 0 and "SIGABRT" not in stopped.stderr, stopped.stderr[-3000:]
    assert stopped.stdout.count("STOPPED step 8 of 15") == 2, stopped.stdout
    assert not (tmp_path / "two" / "run.json").exists()
    done = _torchrun(tmp_path, tmp_path / "two", "resume", *settings)
    assert done.returncode == 0 and "SIGABRT" not in done.stderr, done.stderr[-3000:]
    register_model("drifting", drifting, input_size=(SIZE, SIZE), num_classes=CLASSES)  # noqa: F821
    report = train(model("drifting"), pictures(), load_recipe(settings=settings), tmp_path / "one")
    two = load_run(tmp_path / "two")
    assert two.report["processes"] == 2
    assert np.abs(two.layer.luma.detach().numpy() - ijg_tables(75)[0].array).max() > 0.1
    one, both = (read_state_dict(tmp_path / run / "weights.safetensors") for run in ("one", "two"))
    for key in set(one) - {"7.mean"}:
        assert torch.allclose(one[key], both[key], rtol=1e-3, atol=4e-4), (key, (one[key] - both[key]).abs().max())
    one, both = (read_state_dict(tmp_path / run / "layer.safetensors") for run in ("one", "two"))
    for key, table in zip(("luma", "chroma"), ijg_tables(75), strict=True):
        # The price of a symbol is that of a pass's images together, so that the tables' gradients differ a little.
        moved = (one[key] - torch.from_numpy(table.array.astype(np.float32))).abs().max()
        assert (one[key] - both[key]).abs().max() < 0.1 * moved, key
    for mine, theirs in zip(report["history"], two.report["history"], strict=True):
        assert theirs["train"] == pytest.approx(mine["train"], rel=1e-4)
    data = pictures()
    with torch.no_grad():
        logits = two.network()(torch.from_numpy(data.images).permute(0, 3, 1, 2).float())
        loss = float(torch.nn.functional.cross_entropy(logits, torch.from_numpy(data.labels)))
    assert two.report["results"]["test"]["loss"] == pytest.approx(loss, rel=1e-5)
    steps = [line["step"] for line in numbers(tmp_path / "two")]
    assert steps == [line["step"] for line in numbers(tmp_path / "one")]  # the first process alone has written


def test_a_second_interrupt_ends_at_once():
    from edgejpeg.learn.training_log import StopRequest

    before = signal.getsignal(signal.SIGINT)
    stop = StopRequest(patient=False)
    with pytest.raises(KeyboardInterrupt), stop.listening():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        assert stop.wanted
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
    patient = StopRequest(patient=True)
    with patient.listening():
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
    assert patient.wanted
    assert signal.getsignal(signal.SIGINT) is before
