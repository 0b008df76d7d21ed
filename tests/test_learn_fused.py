"""The fused kernels, run by Triton's interpreter, against the unfused layer in float64."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)

from torch import Tensor  # noqa: E402

from edgejpeg.errors import InvalidInputError  # noqa: E402
from edgejpeg.learn.fused import fused_444, fused_quantize, is_available  # noqa: E402
from edgejpeg.learn.layer import JpegLayer  # noqa: E402
from edgejpeg.learn.quantizer import hard_quantize, soft_quantize  # noqa: E402
from edgejpeg.learn.transform import coefficients_from_rgb, rgb_from_coefficients  # noqa: E402


def quantizer(kind: str, bits: int, clip: bool, q: Tensor, alpha: Tensor) -> Callable[[Tensor, int], Tensor]:
    def apply(z: Tensor, slot: int) -> Tensor:
        step, inverse = (values[:, slot][:, None, None] for values in (q, alpha))
        if kind == "hard":
            return hard_quantize(z, step, bits=bits, clip=clip)
        return soft_quantize(z, step, inverse, bits=bits, window="exact" if kind == "soft" else 5, clip=clip)

    return apply


def tables(count: int, generator: torch.Generator, steps: tuple[float, float] = (1, 20)) -> tuple[Tensor, Tensor]:
    """Steps, and alphas for a hardness of .05 to 150."""
    low, high = steps
    q = low + (high - low) * torch.rand(count, 2, 8, 8, generator=generator)
    return q, torch.exp(8 * torch.rand(q.shape, generator=generator) - 3) / q**2


def assert_close(ours: Tensor | None, exact: Tensor | None, tolerance: float) -> None:
    assert ours is not None and exact is not None
    assert ours.shape == exact.shape
    assert torch.isfinite(ours).all()
    # A coefficient next to a threshold may fall on its other side in float32: single values may differ more.
    error = (ours.double() - exact).abs()
    scale = exact.abs().max()
    assert error.max() < 20 * tolerance * scale
    assert error.mean() < tolerance * scale


@pytest.mark.parametrize("kind", ["soft", "authors", "hard"])
@pytest.mark.parametrize(("bits", "clip"), [(3, True), (8, True), (8, False), (11, True)])
@pytest.mark.parametrize("per_image", [False, True])
def test_the_444_kernels_equal_the_unfused_layer(kind: str, bits: int, clip: bool, per_image: bool) -> None:
    generator = torch.Generator().manual_seed(bits + per_image)
    images, height, width = 2, 24, 40  # 15 blocks: one whole tile is never there, the last one is cut
    rgb = 255 * torch.rand(images, 3, height, width, generator=generator)
    q, alpha = tables(images if per_image else 1, generator)
    weights = torch.randn(rgb.shape, generator=generator)

    ours = [values.clone().requires_grad_() for values in (rgb, q, alpha)]
    result = fused_444(*ours, bits=bits, quantizer=kind, clip=clip)  # type: ignore[arg-type]
    (result * weights).sum().backward()

    exact = [values.double().requires_grad_() for values in (rgb, q, alpha)]
    quantize = quantizer(kind, bits, clip, exact[1], exact[2])
    y, cb, cr = coefficients_from_rgb(exact[0], "444")
    expected = rgb_from_coefficients([quantize(y, 0), quantize(cb, 1), quantize(cr, 1)], "444", (height, width))
    (expected * weights).sum().backward()

    assert_close(result.detach(), expected.detach(), 1e-6)
    assert_close(ours[0].grad, exact[0].grad, 2e-5)
    assert_close(ours[1].grad, exact[1].grad, 2e-4)
    if kind == "hard":
        assert ours[2].grad is not None and not ours[2].grad.any()
    else:
        assert_close(ours[2].grad, exact[2].grad, 2e-4)


def test_coefficients_at_the_ends_of_the_alphabet() -> None:
    # Steps this fine clip most coefficients, at every hardness: the sum over the last levels is taken.
    generator = torch.Generator().manual_seed(5)
    rgb = 255 * torch.rand(1, 3, 16, 16, generator=generator)
    q = 0.3 + 2 * torch.rand(1, 2, 8, 8, generator=generator)
    alpha = torch.exp(torch.linspace(-4, 4, 128).reshape(q.shape)) / q**2
    weights = torch.randn(rgb.shape, generator=generator)
    ours = [values.clone().requires_grad_() for values in (rgb, q, alpha)]
    (fused_444(*ours, bits=4) * weights).sum().backward()
    exact = [values.double().requires_grad_() for values in (rgb, q, alpha)]
    quantize = quantizer("soft", 4, True, exact[1], exact[2])
    y, cb, cr = coefficients_from_rgb(exact[0], "444")
    expected = rgb_from_coefficients([quantize(y, 0), quantize(cb, 1), quantize(cr, 1)], "444", (16, 16))
    (expected * weights).sum().backward()
    for mine, theirs in zip(ours, exact, strict=True):
        assert_close(mine.grad, theirs.grad, 1e-4)


@pytest.mark.parametrize("kind", ["soft", "authors", "hard"])
@pytest.mark.parametrize("per_image", [False, True])
def test_the_quantizer_on_planes_equals_the_unfused_one(kind: str, per_image: bool) -> None:
    generator = torch.Generator().manual_seed(int(per_image))
    planes = 300 * torch.randn(2, 2, 16, 32, generator=generator)
    q, alpha = (values[:, 0] for values in tables(2 if per_image else 1, generator))
    weights = torch.randn(planes.shape, generator=generator)
    ours = [values.clone().requires_grad_() for values in (planes, q, alpha)]
    result = fused_quantize(*ours, quantizer=kind)  # type: ignore[arg-type]
    (result * weights).sum().backward()
    exact = [values.double().requires_grad_() for values in (planes, q, alpha)]
    tiled_q, tiled_alpha = (values.repeat(1, 2, 4)[:, None] for values in exact[1:])
    if kind == "hard":
        expected = hard_quantize(exact[0], tiled_q)
    else:
        expected = soft_quantize(exact[0], tiled_q, tiled_alpha, window="exact" if kind == "soft" else 5)
    (expected * weights).sum().backward()
    assert_close(result.detach(), expected.detach(), 1e-6)
    for mine, theirs in zip(ours[: 2 if kind == "hard" else 3], exact, strict=False):
        assert_close(mine.grad, theirs.grad, 2e-4)


def test_pixels_of_0_to_1_and_no_gradient_where_none_is_asked() -> None:
    generator = torch.Generator().manual_seed(1)
    rgb = torch.rand(1, 3, 16, 16, generator=generator)
    q, alpha = tables(1, generator)
    q.requires_grad_()
    result = fused_444(rgb, q, alpha, scale=255.0)
    whole = fused_444(255 * rgb, q, alpha)
    assert torch.allclose(255 * result, whole, atol=1e-3)
    (gradient,) = torch.autograd.grad(result.sum(), [q])
    (expected,) = torch.autograd.grad(whole.sum() / 255, [q])
    assert torch.allclose(gradient, expected, rtol=1e-4, atol=1e-5)
    assert not rgb.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_float32_inside(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(2)
    rgb = (255 * torch.rand(1, 3, 16, 16, generator=generator)).to(dtype)
    q, alpha = tables(1, generator)
    result = fused_444(rgb, q, alpha)
    assert result.dtype == dtype
    expected = fused_444(rgb.float(), q, alpha)
    step = 0.25 if dtype == torch.float16 else 2.0  # the spacing of numbers above 256
    assert (result.float() - expected).abs().max() <= step


def test_wrong_input_is_refused() -> None:
    q, alpha = torch.ones(1, 2, 8, 8), torch.ones(1, 2, 8, 8)
    for rgb in (torch.zeros(1, 3, 12, 16), torch.zeros(1, 1, 16, 16), torch.zeros(3, 16, 16), torch.zeros(0, 3, 8, 8)):
        with pytest.raises(InvalidInputError, match="multiples of 8; got"):
            fused_444(rgb, q, alpha)
    with pytest.raises(InvalidInputError, match=r"float32, float16 or bfloat16; got torch\.float64"):
        fused_444(torch.zeros(1, 3, 8, 8, dtype=torch.float64), q, alpha)
    with pytest.raises(InvalidInputError, match=r"q has shape .* got \(2, 2, 8, 8\)"):
        fused_444(torch.zeros(1, 3, 8, 8), torch.ones(2, 2, 8, 8), alpha)
    with pytest.raises(InvalidInputError, match=r"alpha has shape .* got \(8, 8\)"):
        fused_quantize(torch.zeros(1, 1, 8, 8), q[:, 0], torch.ones(8, 8))
    with pytest.raises(InvalidInputError, match="multiples of 8; got"):
        fused_quantize(torch.zeros(1, 1, 9, 8), q[:, 0], alpha[:, 0])
    with pytest.raises(InvalidInputError, match=r"takes float32; got torch\.float16"):
        fused_quantize(torch.zeros(1, 1, 8, 8, dtype=torch.float16), q[:, 0], alpha[:, 0])


@pytest.mark.parametrize(
    ("subsampling", "size", "options"),
    [
        ("444", (16, 24), {}),
        ("444", (8, 24), {"hardness": 2.0}),
        ("444", (16, 8), {"learn_alpha": True, "window": 5}),
        ("444", (13, 17), {"clamp": True, "quantizer": "hard"}),
        ("420", (17, 30), {"learn_alpha": True}),
        ("420", (16, 16), {"quantizer": "hard"}),
        ("422", (16, 16), {"rounds": 2, "hardness": 4.0}),
    ],
)
def test_a_layer_with_the_kernels_equals_one_without(
    subsampling: str, size: tuple[int, int], options: dict[str, Any]
) -> None:
    generator = torch.Generator().manual_seed(3)
    image = torch.rand(2, 3, *size, generator=generator)
    weights = torch.randn(image.shape, generator=generator)
    luma, chroma = (1 + 30 * torch.rand(8, 8, generator=generator) for _ in range(2))
    found = []
    for choice in (True, False):
        layer = JpegLayer(luma, chroma, subsampling, alpha=0.02, input_range=1, fused=choice, **options)
        leaf = image.clone().requires_grad_()
        result = layer(leaf)
        (result * weights).sum().backward()
        found.append([result.detach(), leaf.grad, *(value.grad for value in layer.parameters())])
    for ours, plain in zip(*found, strict=True):
        assert_close(ours, plain.double(), 3e-4)


def test_a_layer_says_when_the_kernels_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = torch.full((2, 8, 8), 16.0)
    with pytest.raises(InvalidInputError, match="fused=True needs Triton"):
        JpegLayer(*tables, fused=True)(torch.zeros(1, 3, 8, 8, dtype=torch.float64))
    with pytest.raises(InvalidInputError, match="fused is 'auto' or True or False"):
        JpegLayer(*tables, fused="yes")  # type: ignore[arg-type]
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(InvalidInputError, match=r"got torch\.float32 on cpu"):
        JpegLayer(*tables, fused=True)(torch.zeros(1, 3, 8, 8))
    assert JpegLayer(*tables)(torch.zeros(1, 3, 8, 8)).shape == (1, 3, 8, 8)


def test_where_the_kernels_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_available(torch.zeros(1))
    assert not is_available(torch.zeros(1, dtype=torch.float64))
    monkeypatch.delenv("TRITON_INTERPRET")
    assert not is_available(torch.zeros(1))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["round_trip_444_backward", "quantize_planes"])
def test_the_kernels_compile_for_a_gpu(name: str) -> None:
    # No GPU is needed to compile for one; in a process of its own, since here the kernels are interpreted.
    script = f"""
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from edgejpeg.learn import _triton_kernels

kernel = getattr(_triton_kernels, {name!r})
constants = dict(L=128, KIND=0, CLIP=True, BLOCKS=16, PRECISION="tf32x3", NEEDS_RGB=True)
integers = ("height", "width", "channels", "per_image")
signature = {{
    name: "constexpr" if name in constants else "i32" if name in integers else "fp32" if name == "scale" else "*fp32"
    for name in kernel.arg_names
}}
given = {{(i,): constants[name] for i, name in enumerate(kernel.arg_names) if name in constants}}
source = ASTSource(fn=kernel, signature=signature, constexprs=given)
compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={{"num_warps": 8}})
assert compiled.asm["cubin"]
"""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    result = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
