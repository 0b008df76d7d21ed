"""The JPEG layer against real files, against an independent composition in float64, and in other people's loops."""

from __future__ import annotations

import copy
import importlib.util
import io
import math
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import edgejpeg  # noqa: E402
from edgejpeg.errors import InvalidInputError  # noqa: E402
from edgejpeg.jpeg.reference import encode_reference  # noqa: E402
from edgejpeg.jpeg.tables import QuantTable, ijg_tables  # noqa: E402
from edgejpeg.learn.layer import JpegLayer  # noqa: E402
from edgejpeg.learn.transform import coefficients_from_rgb, rgb_from_coefficients  # noqa: E402

FACTORS = {"444": (1, 1), "422": (1, 2), "420": (2, 2)}


def _tensor(image):
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None].float()


def _pillow(data):
    image_module = pytest.importorskip("PIL.Image")
    return np.asarray(image_module.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("subsampling", FACTORS)
def test_without_the_codecs_integers_it_is_still_close(photo, subsampling):
    image, tables = photo(192, 256), ijg_tables(75)
    expected = _pillow(encode_reference(image, tables, subsampling)).astype(float)
    ours = JpegLayer(*tables, subsampling, "hard", clamp=True)(_tensor(image))[0].detach().permute(1, 2, 0).numpy()
    original = image.astype(float)
    assert np.abs(ours - expected).mean() < 1 < np.abs(original - expected).mean()


def _naive(image, luma, chroma, alpha, subsampling, levels):
    """Coefficients block by block, the whole softmax over 2 L + 1 levels, and back; autograd does the rest."""
    result = []
    for index, blocks in enumerate(coefficients_from_rgb(image, subsampling)):
        q = luma if index == 0 else chroma
        q = q if q.ndim == 2 else q[:, None, None]
        i = torch.arange(-levels, levels + 1, dtype=image.dtype)
        p = torch.softmax(-alpha * (blocks[..., None] - i * q[..., None]) ** 2, dim=-1)
        result.append((p * i).sum(-1) * q)
    return rgb_from_coefficients(result, subsampling, tuple(image.shape[-2:]))


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("subsampling", FACTORS)
def test_values_and_gradients_equal_an_independent_composition(subsampling, per_image):
    generator = torch.Generator().manual_seed(11)
    image = (torch.rand(2, 3, 19, 26, dtype=torch.float64, generator=generator) * 255).requires_grad_()
    shape = (2, 8, 8) if per_image else (8, 8)
    tables = [
        (torch.rand(shape, dtype=torch.float64, generator=generator) * 20 + 12).requires_grad_() for _ in range(2)
    ]
    layer = JpegLayer(np.ones((8, 8)), np.ones((8, 8)), subsampling, bits=8, alpha=1 / 64)
    ours, expected = layer(image, tuple(tables)), _naive(image, *tables, 1 / 64, subsampling, 128)
    torch.testing.assert_close(ours, expected, atol=1e-9, rtol=0)
    weights = torch.randn(ours.shape, dtype=torch.float64, generator=generator)
    for a, b in zip(
        torch.autograd.grad(ours, (image, *tables), weights),
        torch.autograd.grad(expected, (image, *tables), weights),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-7, rtol=1e-7)


def test_per_image_tables_are_one_image_at_a_time():
    generator = torch.Generator().manual_seed(12)
    image = torch.rand(3, 3, 33, 40, generator=generator) * 255
    luma, chroma = (torch.rand(3, 8, 8, generator=generator) * 30 + 1 for _ in range(2))
    for quantizer in ("soft", "hard"):
        layer = JpegLayer(*ijg_tables(50), "420", quantizer)
        whole = layer(image, (luma, chroma))
        single = [layer(image[i : i + 1], (luma[i], chroma[i])) for i in range(3)]
        torch.testing.assert_close(whole, torch.cat(single), atol=2e-4, rtol=0)


@pytest.mark.parametrize("options", [{}, {"hardness": 1.5}, {"quantizer": "hard", "decoder_rounding": True}])
def test_unit_range_is_the_same_divided_by_255(photo, options):
    image = _tensor(photo(40, 56))
    wide = JpegLayer(*ijg_tables(60), "420", **options)
    unit = JpegLayer(*ijg_tables(60), "420", input_range=1, **options)
    torch.testing.assert_close(unit(image / 255) * 255, wide(image), atol=2e-2, rtol=0)


def test_rounds_quantize_again_with_tables_of_their_own(photo):
    image = _tensor(photo(24, 24)).double()
    tables = np.stack([np.full((8, 8), 7.0), np.full((8, 8), 12.0), np.full((8, 8), 4.0)])
    layer = JpegLayer(tables, 2 * tables, "444", rounds=3, alpha=0.05)
    assert [p.shape for p in layer.parameters()] == [(3, 8, 8), (3, 8, 8)]
    expected = image
    for steps in tables:
        expected = JpegLayer(steps, 2 * steps, "444", alpha=0.05)(expected)
    torch.testing.assert_close(layer(image), expected, atol=1e-8, rtol=0)
    layer(image).sum().backward()
    assert all(bool((p.grad.abs().sum((1, 2)) > 0).all()) for p in layer.parameters())
    with pytest.raises(InvalidInputError, match="3 rounds"):
        layer.tables()
    with pytest.raises(InvalidInputError, match="layer of one round"):
        layer(image, (torch.ones(8, 8), torch.ones(8, 8)))


def test_rounds_behind_the_encoder(photo):
    image, tables = _tensor(photo(24, 24)), np.stack([np.full((8, 8), 16.0), np.full((8, 8), 24.0)])
    layer = JpegLayer(tables, tables, quantizer="hard", rounds=2, encoder_rounding="int16")
    first = JpegLayer(tables[0], tables[0], quantizer="hard", encoder_rounding="int16")(image)
    expected = JpegLayer(tables[1], tables[1], quantizer="hard")(first)
    torch.testing.assert_close(layer(image), expected, atol=0.02, rtol=0)


def test_parameters_are_128_or_256():
    tables = ijg_tables(50)
    assert sum(p.numel() for p in JpegLayer(*tables).parameters() if p.requires_grad) == 128
    assert sum(p.numel() for p in JpegLayer(*tables, learn_alpha=True).parameters() if p.requires_grad) == 256
    assert not any(p.requires_grad for p in JpegLayer(*tables, learn_tables=False).parameters())
    layer = JpegLayer(*tables, learn_alpha=True, alpha=0.01)
    layer(torch.rand(1, 3, 16, 16) * 255).square().sum().backward()
    assert float(layer.alpha_luma.grad.abs().min()) > 0 and float(layer.alpha_chroma.grad.abs().max()) > 0


def test_hardness_sets_alpha_without_a_gradient():
    image = torch.rand(1, 3, 16, 24, dtype=torch.float64) * 255
    q = torch.full((8, 8), 9.0, dtype=torch.float64)
    layer = JpegLayer(q, q, hardness=1.0)
    layer.set_hardness(4.0)
    fixed = JpegLayer(q, q, alpha=4.0 / 81)
    torch.testing.assert_close(layer(image), fixed(image), atol=1e-5, rtol=0)
    layer(image).square().sum().backward()
    fixed(image).square().sum().backward()
    torch.testing.assert_close(layer.luma.grad, fixed.luma.grad, rtol=1e-4, atol=1e-2)
    restored = JpegLayer(q, q, hardness=1.0)
    restored.load_state_dict(layer.state_dict())
    assert float(restored.hardness) == 4.0 and "hardness=4" in repr(restored)
    with pytest.raises(InvalidInputError, match="fixed alpha"):
        fixed.set_hardness(2.0)


def test_steps_stay_within_their_bounds_and_can_come_back():
    steps = np.full((8, 8), 20.0)
    steps[0, :4] = 0.2, 1.0, 300.0, 255.0
    layer = JpegLayer(steps, steps, q_min=1, q_max=255, quantizer="hard")
    luma = layer.tables()[0].array
    assert luma[0, :4].tolist() == [1, 1, 255, 255]
    for sign in (1, -1):
        layer.zero_grad()
        bounded = layer._tables(0)[0]
        bounded.backward(torch.full((8, 8), float(sign)))
        outwards = [True, True, False, False] if sign > 0 else [False, False, True, True]
        assert (layer.luma.grad[0, 0, :4] == 0).tolist() == outwards
        assert bool((layer.luma.grad[0, 1:] == sign).all())


def test_integer_tables_are_used_rounded_and_learn_unrounded():
    layer = JpegLayer(np.full((8, 8), 6.4), np.full((8, 8), 2.5), quantizer="hard", integer_tables=True)
    image = torch.rand(1, 3, 16, 16) * 255
    torch.testing.assert_close(layer(image), JpegLayer(np.full((8, 8), 6), np.full((8, 8), 2), quantizer="hard")(image))
    layer(image).square().sum().backward()
    assert float(layer.luma.grad.abs().sum()) > 0 and float(layer.luma.detach()[0, 0, 0]) == pytest.approx(6.4)


def test_clamp_is_straight_through():
    image = (torch.rand(1, 3, 16, 16) > 0.5).float() * 255
    q = np.full((8, 8), 40.0)
    open_layer, clamped = JpegLayer(q, q, quantizer="hard"), JpegLayer(q, q, quantizer="hard", clamp=True)
    free, result = open_layer(image), clamped(image)
    assert float(free.detach().max()) > 260
    torch.testing.assert_close(result, free.clamp(0, 255), atol=1e-4, rtol=0)
    weights = torch.randn(image.shape)
    grads = [torch.autograd.grad(y, layer.luma, weights)[0] for y, layer in ((free, open_layer), (result, clamped))]
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("size", [(1, 1), (7, 9), (8, 8), (224, 224), (30, 17), (2, 65)])
@pytest.mark.parametrize("subsampling", FACTORS)
def test_any_size_comes_back(subsampling, size):
    image = (torch.rand(2, 3, *size) * 255).requires_grad_()
    result = JpegLayer(*ijg_tables(50), subsampling)(image)
    assert result.shape == image.shape
    result.sum().backward()
    assert bool(torch.isfinite(image.grad).all())
    assert JpegLayer(*ijg_tables(50), subsampling)(image[:0]).shape == (0, 3, *size)


def test_memory_layouts_and_dtypes(photo):
    image = _tensor(photo(48, 40))
    layer = JpegLayer(*ijg_tables(50), "420")
    expected = layer(image)
    torch.testing.assert_close(layer(image.contiguous(memory_format=torch.channels_last)), expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(layer(image.double()).float(), expected, atol=2e-3, rtol=0)
    assert layer(image.double()).dtype == torch.float64
    assert layer(image.half()).dtype == torch.float16
    torch.testing.assert_close(layer(image.half()).float(), expected, atol=0.2, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast(photo, dtype):
    image = _tensor(photo(48, 40))
    results = []
    for enabled in (False, True):
        layer = JpegLayer(*ijg_tables(50), "420", alpha=0.01)
        with torch.autocast("cpu", dtype=dtype, enabled=enabled):
            result = layer(image)
            result.square().mean().backward()
        assert result.dtype == torch.float32
        results.append((result.detach(), layer.luma.grad))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=0, rtol=0)


def test_the_learned_tables_are_in_the_file(photo):
    rng = np.random.default_rng(4)
    luma, chroma = rng.uniform(1, 90, (2, 8, 8))
    layer = JpegLayer(luma, chroma, "422")
    np.testing.assert_array_equal(layer.tables()[0].array, np.floor(luma.astype(np.float32) + 0.5))
    profile = layer.profile("learned", provenance={"network": "none"})
    assert (profile.kind, profile.subsampling, profile.provenance["network"]) == ("fixed", "422", "none")
    info = edgejpeg.parse_jpeg(edgejpeg.Encoder(profile, color="rgb").encode(photo(32, 48)))
    assert (QuantTable(info.tables[0]), QuantTable(info.tables[1])) == layer.tables()
    assert info.subsampling == "422"


def test_copies_and_state_dicts(photo):
    image = _tensor(photo(24, 40))
    layer = JpegLayer(*ijg_tables(30), "420", learn_alpha=True)
    other = JpegLayer(*ijg_tables(90), "420", learn_alpha=True)
    other.load_state_dict(layer.state_dict())
    for twin in (copy.deepcopy(layer), other):
        torch.testing.assert_close(twin(image), layer(image), atol=0, rtol=0)


@pytest.mark.parametrize("quantizer", ["soft", "hard"])
def test_compiles_to_one_graph(quantizer):
    image = torch.rand(2, 3, 30, 44) * 255
    gradients = []
    for compiled in (False, True):
        layer = JpegLayer(*ijg_tables(60), "420", quantizer, alpha=0.02)
        run = torch.compile(layer, fullgraph=True, backend="aot_eager") if compiled else layer
        pixels = image.clone().requires_grad_()
        result = run(pixels)
        result.square().mean().backward()
        gradients.append((result.detach(), layer.luma.grad, layer.chroma.grad, pixels.grad))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)
    run(torch.rand(1, 3, 16, 16) * 255)


@pytest.mark.slow
def test_compiles_with_inductor():
    layer = JpegLayer(*ijg_tables(60), "420")
    image = torch.rand(1, 3, 32, 32) * 255
    torch.testing.assert_close(torch.compile(layer, fullgraph=True)(image), layer(image))


@pytest.mark.parametrize(
    ("subsampling", "options"),
    [
        ("444", {"hardness": 1.2}),
        ("422", {"hardness": 0.7, "window": 5}),
        ("420", {"quantizer": "hard"}),
        ("420", {"quantizer": "hard", "encoder_rounding": True, "decoder_rounding": True}),
        pytest.param(
            "422",
            {"quantizer": "hard", "encoder_rounding": "int16", "decoder_rounding": True},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_exports_to_onnx(tmp_path, photo, subsampling, options):
    onnxruntime = pytest.importorskip("onnxruntime")
    if importlib.util.find_spec("onnxscript") is None:
        pytest.skip("onnxscript, which torch.onnx.export needs, is not installed")
    layer = JpegLayer(*ijg_tables(60), subsampling, **options).eval()
    image = _tensor(photo(21, 36)).repeat(2, 1, 1, 1)
    program = torch.onnx.export(
        layer, (image,), dynamo=True, verbose=False, opset_version=18, dynamic_shapes=({0: "batch"},)
    )
    program.save(str(tmp_path / "layer.onnx"))
    session = onnxruntime.InferenceSession(str(tmp_path / "layer.onnx"), providers=["CPUExecutionProvider"])
    other = torch.cat([image, image.flip(3), image.flip(2)])
    (result,) = session.run(None, {session.get_inputs()[0].name: other.numpy()})
    difference = np.abs(result - layer(other).detach().numpy())
    if options.get("encoder_rounding") == "int16":  # integers, whatever the order of sums
        assert difference.max() == 0
    # A coefficient on a threshold may fall either way; it reaches its block.
    assert np.median(difference) < 1e-3 and (difference > 0.01).mean() < 0.02


DDP = """
import os, sys, torch, torch.distributed as dist
from edgejpeg.jpeg.tables import ijg_tables
from edgejpeg.learn.layer import JpegLayer
rank = int(sys.argv[1])
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
torch.manual_seed(0)
network = torch.nn.Sequential(JpegLayer(*ijg_tables(40), "420", alpha=0.02, input_range=1), torch.nn.Conv2d(3, 4, 3))
images = torch.rand(4, 3, 20, 28)
model = torch.nn.parallel.DistributedDataParallel(network)
optimizer = torch.optim.Adam(network.parameters(), lr=0.05)
for _ in range(2):
    optimizer.zero_grad()
    model(images[2 * rank : 2 * rank + 2]).square().mean().backward()
    optimizer.step()
torch.save((images, network.state_dict()), sys.argv[3] + str(rank))
dist.barrier()
dist.destroy_process_group()
"""


def test_in_two_processes_it_learns_as_in_one(tmp_path):
    command = [sys.executable, "-c", DDP]
    arguments = [str(tmp_path / "store"), str(tmp_path / "state")]
    children = [subprocess.Popen([*command, str(rank), *arguments], cwd="/", stderr=subprocess.PIPE) for rank in (0, 1)]
    for child in children:
        _, errors = child.communicate(timeout=300)
        assert child.returncode == 0, errors.decode()[-2000:]
    (images, first), (_, second) = (torch.load(tmp_path / f"state{rank}") for rank in (0, 1))
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        JpegLayer(*ijg_tables(40), "420", alpha=0.02, input_range=1), torch.nn.Conv2d(3, 4, 3)
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=0.05)
    for _ in range(2):
        optimizer.zero_grad()
        network(images).square().mean().backward()
        optimizer.step()
    for name, value in network.state_dict().items():
        torch.testing.assert_close(first[name], second[name], atol=0, rtol=0)
        torch.testing.assert_close(first[name], value, atol=5e-3, rtol=1e-3)
    assert not torch.equal(first["0.luma"], JpegLayer(*ijg_tables(40)).luma.detach())


# --- bad input ---


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), r"floating-point tensor; got torch.uint8: .*\.float\(\)"),
        (np.zeros((1, 3, 8, 8), np.float32), "floating-point tensor; got ndarray"),
        (torch.zeros(1, 1, 8, 8), r"\(N, 3, H, W\).* got \(1, 1, 8, 8\)"),
        (torch.zeros(3, 8, 8), r"got \(3, 8, 8\)"),
        (torch.zeros(1, 8, 8, 3), r"got \(1, 8, 8, 3\)"),
        (torch.zeros(1, 3, 0, 8), r"not empty; got \(1, 3, 0, 8\)"),
        (torch.full((1, 3, 8, 8), 200.0), r"told that pixels are in 0\.\.1 and got 200; make it with input_range=255"),
    ],
)
def test_wrong_images_are_refused(image, message):
    with pytest.raises(InvalidInputError, match=message) as caught:
        JpegLayer(*ijg_tables(50), input_range=1)(image)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [0.0, -1.5, math.nan, math.inf])
def test_a_wrong_step_is_named(value):
    wrong = np.full((8, 8), 5.0)
    wrong[3, 6] = value
    with pytest.raises(
        InvalidInputError, match=r"chroma table's step is positive and finite; got .* at index \(3, 6\)"
    ):
        JpegLayer(np.ones((8, 8)), wrong)
    layer = JpegLayer(*ijg_tables(50))
    with pytest.raises(InvalidInputError, match=r"luma table's step is positive and finite; got .* at index \(3, 6\)"):
        layer(torch.zeros(2, 3, 8, 8), (torch.from_numpy(wrong), torch.ones(8, 8)))
    if math.isnan(value):
        layer.chroma.data[0, 3, 6] = value
        for use in (layer.tables, lambda: layer(torch.zeros(1, 3, 8, 8))):
            with pytest.raises(InvalidInputError, match="chroma table has become NaN at row 3, column 6"):
                use()


def test_tables_of_a_wrong_shape_are_refused():
    good = np.ones((8, 8))
    for wrong in (np.ones(64), np.ones((2, 8, 8)), np.ones((8, 7))):
        with pytest.raises(InvalidInputError, match=r"the luma table has shape \(8, 8\), row-major; got"):
            JpegLayer(wrong, good)
    with pytest.raises(InvalidInputError, match=r"shape \(8, 8\) or \(5, 8, 8\)"):
        JpegLayer(np.ones((4, 8, 8)), good, rounds=5)
    with pytest.raises(InvalidInputError, match="real numbers; got dtype"):
        JpegLayer(np.full((8, 8), "a"), good)
    layer = JpegLayer(good, good)
    for given, message in (
        ((torch.ones(3, 8, 8), torch.ones(8, 8)), r"luma table .* \(8, 8\) or \(2, 8, 8\); got \(3, 8, 8\)"),
        ((torch.ones(8, 8), good), "chroma table .* got ndarray"),
        ((torch.ones(8, 8),), "a pair, luma and chroma; got 1"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            layer(torch.zeros(2, 3, 8, 8), given)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subsampling": "gray"}, "444, 422, 420; got 'gray'"),
        ({"quantizer": "round"}, "quantizer is 'soft' or 'hard'; got 'round'"),
        ({"upsampling": "bicubic"}, "upsampling is 'fancy' or 'plain'"),
        ({"input_range": 256}, "input_range is 1 or 255; got 256"),
        ({"window": 7}, "window is 'exact' or 5; got 7"),
        ({"bits": 2}, "bits is 3 to 16; got 2"),
        ({"bits": 8.0}, "bits is 3 to 16; got 8.0"),
        ({"rounds": 0}, "rounds is 1 to 64; got 0"),
        ({"alpha": 0.0}, "alpha is a positive, finite number; got 0.0"),
        ({"hardness": math.nan}, "hardness h = alpha q\\^2 is a positive, finite number; got nan"),
        ({"encoder_rounding": "int8"}, "encoder_rounding is False or True or 'float64' or 'int16'; got 'int8'"),
        ({"encoder_rounding": 1}, "encoder_rounding is False or True or .*; got 1"),
        ({"q_min": 5.0, "q_max": 4.0}, "0 < q_min <= q_max"),
        ({"learn_alpha": True, "hardness": 1.0}, "cannot be learned"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(InvalidInputError, match=message):
        JpegLayer(*ijg_tables(50), **options)
