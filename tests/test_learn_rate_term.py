"""The rate term against the bytes of real files: its value, its gradient, and the target it holds."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgejpeg.errors import InvalidInputError  # noqa: E402
from edgejpeg.jpeg.tables import QuantTable, ijg_tables  # noqa: E402
from edgejpeg.learn.layer import JpegLayer  # noqa: E402
from edgejpeg.learn.rate_term import RateTerm  # noqa: E402
from edgejpeg.runtime.once import encode_jpeg  # noqa: E402


@pytest.fixture
def crops(photo):
    whole = photo(384, 576)
    return [whole[y : y + 96, x : x + 96] for y in range(0, 384, 96) for x in range(0, 576, 96)]


def batch_of(crops):
    return torch.from_numpy(np.stack(crops).transpose(0, 3, 1, 2).copy()).float()


def real_bpp(crops, tables, subsampling="420", effort=1):
    tables = tuple(map(QuantTable, tables))
    sizes = [
        len(encode_jpeg(np.ascontiguousarray(c), tables=tables, subsampling=subsampling, effort=effort)) for c in crops
    ]
    return float(np.mean(sizes)) * 8 / (96 * 96)


@pytest.mark.parametrize("subsampling", ["444", "422", "420"])
@pytest.mark.parametrize("effort", [0, 1])
def test_weight_times_the_bytes_of_real_files(crops, subsampling, effort):
    for quality in (30, 75, 95):
        tables = ijg_tables(quality)
        term = RateTerm(weight=0.25, effort=effort)
        value = term(JpegLayer(*tables, subsampling), batch_of(crops))
        expected = real_bpp(crops, tables, subsampling, effort)
        assert float(value.detach()) == pytest.approx(0.25 * expected, rel=0.01)
        assert term.last == {"bpp": pytest.approx(expected, rel=0.01), "weight": 0.25}
        term.step()


def test_the_first_images_of_a_batch(crops):
    layer = JpegLayer(*ijg_tables(60), "420")
    part, whole = RateTerm(weight=1, images=5), RateTerm(weight=1)
    assert float(part(layer, batch_of(crops))) == float(whole(layer, batch_of(crops[:5])))


def test_gradient_by_a_common_factor_is_that_of_real_files(crops):
    layer = JpegLayer(*(np.asarray(t) * 1.0 for t in ijg_tables(80)), "420")
    RateTerm(weight=1)(layer, batch_of(crops)).backward()
    slope = sum(float((p.grad * p.detach()).sum()) for p in (layer.luma, layer.chroma))
    low, high = (
        real_bpp(crops, [np.clip(np.rint(np.asarray(t) * f), 1, 255) for t in ijg_tables(80)]) for f in (0.8, 1.25)
    )
    assert slope == pytest.approx((high - low) / np.log(1.25 / 0.8), rel=0.15)
    assert slope < 0


def test_rounded_steps_pass_the_gradient_straight_through(crops):
    layer = JpegLayer(np.full((8, 8), 7.4), np.full((8, 8), 9.6), "420", integer_tables=True)
    term = RateTerm(weight=1)
    value = term(layer, batch_of(crops))
    value.backward()
    assert float(value.detach()) == pytest.approx(real_bpp(crops, (np.full((8, 8), 7), np.full((8, 8), 10))), rel=0.01)
    assert float(layer.luma.grad.sum()) < 0 and float(layer.chroma.grad.sum()) < 0


def walk(layer, term, crops, optimizer, steps, seed=0, accumulate=1):
    """A loss that wants fine tables: the squared error of the decoded image, weighted by frequency."""
    rng = np.random.default_rng(seed)
    images = batch_of(crops)
    for _ in range(steps):
        optimizer.zero_grad()
        for _ in range(accumulate):
            batch = images[torch.from_numpy(rng.choice(len(crops), 6, replace=False))]
            loss = 0.01 * (layer(batch) - batch).square().mean() + term(layer, batch)
            (loss / accumulate).backward()
        optimizer.step()
        term.step()
    return loss


@pytest.mark.parametrize(
    ("target", "start", "accumulate"), [(1.0, 3.0, 1), (1.0, 60.0, 1), (2.5, 20.0, 2)], ids=("raise", "lower", "twice")
)
@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_the_target_is_met_by_real_files(crops, target, start, accumulate, kind):
    torch.manual_seed(0)
    layer = JpegLayer(np.full((8, 8), start), np.full((8, 8), start), "420", hardness=20)
    term = RateTerm(target_bpp=target)
    make = {
        "adam": lambda p: torch.optim.Adam(p, lr=0.05),
        "sgd": lambda p: torch.optim.SGD(p, lr=0.5, momentum=0.9),
    }[kind]
    walk(layer, term, crops, make(layer.parameters()), 90, accumulate=accumulate)
    assert real_bpp(crops, layer.tables()) == pytest.approx(target, rel=0.05)


def test_at_equal_rate_the_tables_have_less_loss_than_flat_ones(crops):
    """What the multiplier is for: a loss that looks at blueness alone moves the bytes from luma to chroma."""
    images = batch_of(crops[::2])
    weights = torch.tensor([-0.169, -0.331, 0.5])[:, None, None]

    def error(layer):
        return ((layer(images) - images) * weights).sum(1).square().mean()

    def hard(luma, chroma):
        return JpegLayer(luma, chroma, "444", "hard")

    layer = hard(np.full((8, 8), 30.0), np.full((8, 8), 30.0))
    term, optimizer = RateTerm(target_bpp=1.2), torch.optim.Adam(layer.parameters(), lr=0.3)
    for _ in range(150):
        optimizer.zero_grad()
        (0.1 * error(layer) + term(layer, images)).backward()
        optimizer.step()
        term.step()
    rate = real_bpp(crops[::2], layer.tables(), "444")
    assert rate == pytest.approx(1.2, rel=0.05)
    flat = [hard(np.full((8, 8), q), np.full((8, 8), q)) for q in range(15, 60)]
    same = min(flat, key=lambda one: abs(real_bpp(crops[::2], one.tables(), "444") - rate))
    with torch.no_grad():
        assert float(error(hard(*layer.tables()))) < 0.7 * float(error(same))


def test_a_run_that_goes_on_from_its_state_is_the_same(crops):
    def begin():
        layer = JpegLayer(np.full((8, 8), 9.0), np.full((8, 8), 9.0), "420")
        return layer, RateTerm(target_bpp=1.5), torch.optim.SGD(layer.parameters(), lr=0.1)

    layer, term, optimizer = begin()
    walk(layer, term, crops, optimizer, 10, seed=1)
    saved = json.loads(json.dumps(term.state_dict())), copy.deepcopy(layer.state_dict())
    walk(layer, term, crops, optimizer, 10, seed=2)
    other, other_term, other_optimizer = begin()
    other.load_state_dict(saved[1])
    other_term.load_state_dict(saved[0])
    walk(other, other_term, crops, other_optimizer, 10, seed=2)
    assert torch.equal(layer.luma, other.luma) and term.state_dict() == other_term.state_dict()


def test_a_target_out_of_reach_is_said(crops):
    for target, start, bound in ((0.1, 200.0, "255"), (30.0, 2.0, "1")):
        layer = JpegLayer(np.full((8, 8), start), np.full((8, 8), start), "420")
        with pytest.raises(InvalidInputError, match=f"no tables meet a target of .* all steps at {bound} the files"):
            walk(layer, RateTerm(target_bpp=target), crops, torch.optim.SGD(layer.parameters(), lr=0.1), 60)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "one of them"),
        ({"weight": 1, "target_bpp": 1}, "one of them"),
        ({"weight": -1}, "at least 0"),
        ({"weight": float("nan")}, "at least 0"),
        ({"target_bpp": 0}, "above 0"),
        ({"target_bpp": "1"}, "above 0"),
        ({"weight": 1, "effort": 2}, "effort is 0"),
        ({"weight": 1, "images": 0}, "at least 1"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(InvalidInputError, match=message):
        RateTerm(**options)


def test_refused_layers_and_states(crops):
    images = batch_of(crops[:2])
    with pytest.raises(InvalidInputError, match="one round"):
        RateTerm(weight=1)(JpegLayer(*ijg_tables(75), rounds=2), images)
    with pytest.raises(InvalidInputError, match="learn_tables=True"):
        RateTerm(target_bpp=1)(JpegLayer(*ijg_tables(75), learn_tables=False), images)
    with pytest.raises(InvalidInputError, match="at least one image"):
        RateTerm(weight=1)(JpegLayer(*ijg_tables(75)), images[:0])
    with pytest.raises(InvalidInputError, match="state of a rate term"):
        RateTerm(weight=1).load_state_dict({"mu": 1})


TWO = """
import sys
import numpy as np, torch
import torch.distributed as dist
from edgejpeg.learn.layer import JpegLayer
from edgejpeg.learn.rate_term import RateTerm
torch.set_num_threads(1)
folder, rank = sys.argv[1], int(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
images = torch.from_numpy(np.load(f"{folder}/images.npy"))[rank::2]
layer, term = JpegLayer(np.full((8, 8), 4.0), np.full((8, 8), 4.0), "420"), RateTerm(target_bpp=1.5)
for _ in range(25):
    term(layer, images).backward()
    for parameter in (layer.luma, layer.chroma):
        dist.all_reduce(parameter.grad)
        parameter.data -= 0.5 * parameter.grad / 2
        parameter.grad = None
    term.step()
np.savez(f"{folder}/{rank}.npz", luma=layer.luma.detach(), chroma=layer.chroma.detach(), **term.state_dict())
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_hold_one_rate_with_one_pair_of_tables(crops, tmp_path):
    np.save(tmp_path / "images.npy", batch_of(crops).numpy())
    (tmp_path / "two.py").write_text(TWO)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    both = [
        subprocess.Popen(
            [sys.executable, str(tmp_path / "two.py"), str(tmp_path), str(rank)],
            env=environment,
            stderr=subprocess.PIPE,
        )
        for rank in (0, 1)
    ]
    for process in both:
        _, said = process.communicate(timeout=200)
        assert process.returncode == 0, said.decode()[-2000:]
    first, second = (np.load(tmp_path / f"{rank}.npz") for rank in (0, 1))
    assert all(np.array_equal(first[key], second[key]) for key in first.files)
    tables = [np.floor(first[name][0] + 0.5) for name in ("luma", "chroma")]
    assert real_bpp(crops, tables) == pytest.approx(1.5, rel=0.03)
