"""The Triton kernels of :mod:`edgejpeg.learn.fused`, which alone imports them: the import needs Triton.

A program takes one tile of consecutive 8x8 blocks of one image. The two-dimensional DCT of a tile is one matrix product
with the 64x64 matrix of both axes. Pixels and gradients go through memory once: what the backward kernels need of the
forward pass they compute again, and of the tables' gradients they write one partial sum per program, so that results do
not depend on the order in which programs run.

The quantizer's formulas are those of :mod:`edgejpeg.learn.softmax`, which says where they come from.
"""
# mypy: ignore-errors
# (To a type checker Triton's language is not Python.)

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _nearest(c):
    """round(c), halves away from zero."""
    size = tl.floor(tl.abs(c) + 0.5)
    return tl.where(c < 0, -size, size)


@triton.jit
def _window(t, h):
    """r, r_c, r_h from the five levels around the nearest."""
    x = tl.exp(h * (2 * t - 1))
    y = tl.exp(-h * (2 * t + 1))
    far = tl.exp(-2 * h)
    x2 = x * x * far
    y2 = y * y * far
    total = 1 + x + y + x2 + y2
    first = (x - y + 2 * (x2 - y2)) / total
    second = (x + y + 4 * (x2 + y2)) / total
    third = (x - y + 8 * (x2 - y2)) / total
    variance = second - first * first
    return first - t, 2 * h * variance - 1, 2 * t * variance - (third - first * second)


@triton.jit
def _dual(t, h):
    """r, r_c, r_h from two terms of the Poisson dual; h is clamped to where that holds."""
    h = tl.minimum(tl.maximum(h, 0.05), 2.5)
    tau = 6.283185307179586
    wave1 = 2 * tl.exp(-9.869604401089358 / h)  # pi^2
    wave2 = 2 * tl.exp(-39.47841760435743 / h)
    cosine = tl.cos(tau * t)
    sine = tl.sin(tau * t)
    cos1 = cosine * wave1
    cos2 = (2 * cosine * cosine - 1) * wave2
    sin1 = sine * wave1
    sin2 = 2 * sine * cosine * wave2
    total = 1 + cos1 + cos2
    first = -tau * (sin1 + 2 * sin2) / total
    second = -tau * tau * (cos1 + 4 * cos2) / total
    third = tau * tau * tau * (sin1 + 8 * sin2) / total
    r = first / (2 * h)
    return r, (second - first * first) / (2 * h), -r / h - (third - second * first) / (8 * h * h * h)


@triton.jit
def _ends(c, h, at_ends, L: tl.constexpr, AUTHORS: tl.constexpr):
    """E, dQ/dz, dQ/dq, dE/dh level by level, for the coefficients near the ends of the alphabet."""
    last = L - 1 if AUTHORS else L
    nearest = tl.minimum(tl.maximum(_nearest(c), -last), last)
    d = c - nearest
    if AUTHORS:
        middle = tl.minimum(tl.maximum(nearest, 2 - last), last - 2)
        half = 2.0
        reach = 4
    else:
        middle = tl.zeros_like(c)
        half = 1.0 * last
        alive = at_ends & (h * tl.maximum(2 * tl.abs(d) - 1, 0.0) < 20.0)
        softest = tl.min(tl.where(alive, h, 1e30))
        reach = tl.minimum(tl.ceil(tl.sqrt(20.0 / softest)) + 1, 2.0 * last).to(tl.int32)
    total = tl.zeros_like(c)
    first = tl.zeros_like(c)
    second = tl.zeros_like(c)
    third = tl.zeros_like(c)
    for m in range(-reach, reach + 1):
        step = m * 1.0
        weight = tl.exp(tl.minimum(h * (step * (2 * d - step)), 0.0 * h + 80.0))
        weight = tl.where(tl.abs(nearest + step - middle) <= half, weight, 0.0)
        total += weight
        first += weight * step
        second += weight * step * step
        third += weight * step * step * step
    first = first / total
    second = second / total
    third = third / total
    variance = second - first * first
    skew = third - first * second
    mean = nearest + first
    return mean, 2 * h * variance, mean + 2 * h * ((d - nearest) * variance - skew), 2 * d * variance - skew


@triton.jit
def _quantize(z, q, alpha, L: tl.constexpr, KIND: tl.constexpr, CLIP: tl.constexpr):
    """Q(z), dQ/dz, dQ/dq, dQ/dalpha. KIND: 0 exact, 5 the authors' window, 1 Q_u straight-through.

    What a kernel does not use of it, the compiler drops.
    """
    c = z / q
    if KIND == 1:
        nearest = _nearest(c)
        by_z = tl.full(c.shape, 1.0, tl.float32)
        by_q = nearest - c
        if CLIP:
            beyond = tl.abs(c) > L + 0.5
            nearest = tl.minimum(tl.maximum(nearest, -L), L)
            by_z = tl.where(beyond, 0.0, by_z)
            by_q = tl.where(beyond, nearest, by_q)
        return q * nearest, by_z, by_q, tl.zeros_like(c)
    h = alpha * q * q + tl.zeros_like(c)
    t = c - _nearest(c)
    r, r_c, r_h = _window(t, h)
    if KIND == 0:
        dual, dual_c, dual_h = _dual(t, h)
        low = h <= 2.5
        r = tl.where(low, dual, r)
        r_c = tl.where(low, dual_c, r_c)
        r_h = tl.where(low, dual_h, r_h)
    mean = c + r
    by_z = r_c + 1
    by_q = r - c * r_c + 2 * h * r_h
    if CLIP:
        if KIND == 5:  # noqa: SIM108
            at_ends = tl.abs(_nearest(c)) > L - 3
        else:
            at_ends = tl.abs(c) > L - tl.maximum(tl.sqrt(20.0 / h) + 1, 3.0)
        if tl.max(at_ends.to(tl.int32)) > 0:
            e, e_z, e_q, e_h = _ends(c, h, at_ends, L, KIND == 5)
            mean = tl.where(at_ends, e, mean)
            by_z = tl.where(at_ends, e_z, by_z)
            by_q = tl.where(at_ends, e_q, by_q)
            r_h = tl.where(at_ends, e_h, r_h)
    return q * mean, by_z, by_q, q * q * q * r_h


@triton.jit
def _dct(samples, matrix, TRANSPOSED: tl.constexpr, PRECISION: tl.constexpr):
    """``samples @ matrix``, or its transpose: (BLOCKS, 64) by (64, 64), float32."""
    row = tl.arange(0, 64)[:, None]
    column = tl.arange(0, 64)[None, :]
    if TRANSPOSED:  # noqa: SIM108  (a branch of the compiler, not a value)
        loaded = tl.load(matrix + column * 64 + row)
    else:
        loaded = tl.load(matrix + row * 64 + column)
    return tl.dot(samples, loaded, input_precision=PRECISION)


@triton.jit
def _offsets(first, count, width, BLOCKS: tl.constexpr):
    """Where in a plane the samples of a tile lie, and which of them exist."""
    columns = width // 8
    block = first + tl.arange(0, BLOCKS)
    sample = tl.arange(0, 64)
    y = (block // columns * 8)[:, None] + (sample // 8)[None, :]
    x = (block % columns * 8)[:, None] + (sample % 8)[None, :]
    inside = (block < count)[:, None] & (sample >= 0)[None, :]
    return y * width + x, inside


@triton.jit
def _table(tables, image, per_image, slot):
    """One image's 64 values of a table, (1, 64). `tables`: (1 or images, 2, 64)."""
    return tl.load(tables + image * per_image * 128 + slot * 64 + tl.arange(0, 64))[None, :]


@triton.jit
def _pixels(pixels, offset, inside, plane, scale):
    """R, G, B of a tile in 0..255, float32."""
    red = tl.load(pixels + offset, mask=inside, other=0).to(tl.float32) * scale
    green = tl.load(pixels + plane + offset, mask=inside, other=0).to(tl.float32) * scale
    blue = tl.load(pixels + 2 * plane + offset, mask=inside, other=0).to(tl.float32) * scale
    return red, green, blue


# BT.601 full range, as JFIF has it.


@triton.jit
def _luma(red, green, blue):
    return 0.299 * red + 0.587 * green + 0.114 * blue


@triton.jit
def _cb(red, green, blue):
    return (blue - _luma(red, green, blue)) / 1.772


@triton.jit
def _cr(red, green, blue):
    return (red - _luma(red, green, blue)) / 1.402


@triton.jit
def _rgb(y, cb, cr):
    return y + 1.402 * cr, y - (0.299 * 1.402 / 0.587) * cr - (0.114 * 1.772 / 0.587) * cb, y + 1.772 * cb


@triton.jit
def _rgb_transposed(red, green, blue):
    """The transpose of :func:`_rgb`: gradients of Y, Cb, Cr."""
    cb = 1.772 * blue - (0.114 * 1.772 / 0.587) * green
    cr = 1.402 * red - (0.299 * 1.402 / 0.587) * green
    return red + green + blue, cb, cr


@triton.jit
def _ycbcr_transposed(y, cb, cr):
    """The transpose of RGB to YCbCr: gradients of R, G, B."""
    luma = y - cb / 1.772 - cr / 1.402
    return 0.299 * luma + cr / 1.402, 0.587 * luma, 0.114 * luma + cb / 1.772


@triton.jit
def round_trip_444(
    rgb,
    out,
    tables,
    alphas,
    matrix,
    height,
    width,
    per_image,
    scale,
    L: tl.constexpr,
    KIND: tl.constexpr,
    CLIP: tl.constexpr,
    BLOCKS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """RGB -> YCbCr -> DCT -> quantizer -> inverse DCT -> RGB. Grid: (images, tiles)."""
    image = tl.program_id(0)
    plane = height * width
    offset, inside = _offsets(tl.program_id(1) * BLOCKS, plane // 64, width, BLOCKS)
    start = image.to(tl.int64) * 3 * plane
    red, green, blue = _pixels(rgb + start, offset, inside, plane, scale)
    q_luma = _table(tables, image, per_image, 0)
    q_chroma = _table(tables, image, per_image, 1)
    a_luma = _table(alphas, image, per_image, 0)
    a_chroma = _table(alphas, image, per_image, 1)
    y, _, _, _ = _quantize(_dct(_luma(red, green, blue) - 128, matrix, False, PRECISION), q_luma, a_luma, L, KIND, CLIP)
    cb, _, _, _ = _quantize(_dct(_cb(red, green, blue), matrix, False, PRECISION), q_chroma, a_chroma, L, KIND, CLIP)
    cr, _, _, _ = _quantize(_dct(_cr(red, green, blue), matrix, False, PRECISION), q_chroma, a_chroma, L, KIND, CLIP)
    red, green, blue = _rgb(
        _dct(y, matrix, True, PRECISION) + 128, _dct(cb, matrix, True, PRECISION), _dct(cr, matrix, True, PRECISION)
    )
    tl.store(out + start + offset, red / scale, mask=inside)
    tl.store(out + start + plane + offset, green / scale, mask=inside)
    tl.store(out + start + 2 * plane + offset, blue / scale, mask=inside)


@triton.jit
def round_trip_444_backward(
    rgb,
    grad,
    grad_rgb,
    tables,
    alphas,
    sums,
    matrix,
    height,
    width,
    per_image,
    scale,
    NEEDS_RGB: tl.constexpr,
    L: tl.constexpr,
    KIND: tl.constexpr,
    CLIP: tl.constexpr,
    BLOCKS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Gradients of the pixels, and of the tables: `sums` (images, tiles, q or alpha, luma or chroma, 64)."""
    image = tl.program_id(0)
    tile = tl.program_id(1)
    plane = height * width
    offset, inside = _offsets(tile * BLOCKS, plane // 64, width, BLOCKS)
    start = image.to(tl.int64) * 3 * plane
    red, green, blue = _pixels(rgb + start, offset, inside, plane, scale)
    g_red, g_green, g_blue = _pixels(grad + start, offset, inside, plane, 1 / scale)
    g_y, g_cb, g_cr = _rgb_transposed(g_red, g_green, g_blue)
    q_luma = _table(tables, image, per_image, 0)
    q_chroma = _table(tables, image, per_image, 1)
    a_luma = _table(alphas, image, per_image, 0)
    a_chroma = _table(alphas, image, per_image, 1)
    g_y = _dct(g_y, matrix, False, PRECISION)
    g_cb = _dct(g_cb, matrix, False, PRECISION)
    g_cr = _dct(g_cr, matrix, False, PRECISION)
    _, y_z, y_q, y_a = _quantize(
        _dct(_luma(red, green, blue) - 128, matrix, False, PRECISION), q_luma, a_luma, L, KIND, CLIP
    )
    _, cb_z, cb_q, cb_a = _quantize(
        _dct(_cb(red, green, blue), matrix, False, PRECISION), q_chroma, a_chroma, L, KIND, CLIP
    )
    _, cr_z, cr_q, cr_a = _quantize(
        _dct(_cr(red, green, blue), matrix, False, PRECISION), q_chroma, a_chroma, L, KIND, CLIP
    )
    # Blocks that are not there have the gradient 0.
    out = sums + (image * tl.num_programs(1) + tile) * 256 + tl.arange(0, 64)
    tl.store(out, tl.sum(g_y * y_q, axis=0))
    tl.store(out + 64, tl.sum(g_cb * cb_q + g_cr * cr_q, axis=0))
    tl.store(out + 128, tl.sum(g_y * y_a, axis=0))
    tl.store(out + 192, tl.sum(g_cb * cb_a + g_cr * cr_a, axis=0))
    if NEEDS_RGB:
        red, green, blue = _ycbcr_transposed(
            _dct(g_y * y_z, matrix, True, PRECISION),
            _dct(g_cb * cb_z, matrix, True, PRECISION),
            _dct(g_cr * cr_z, matrix, True, PRECISION),
        )
        tl.store(grad_rgb + start + offset, red * scale, mask=inside)
        tl.store(grad_rgb + start + plane + offset, green * scale, mask=inside)
        tl.store(grad_rgb + start + 2 * plane + offset, blue * scale, mask=inside)


@triton.jit
def quantize_planes(
    planes,
    out,
    tables,
    alphas,
    height,
    width,
    channels,
    per_image,
    L: tl.constexpr,
    KIND: tl.constexpr,
    CLIP: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """The quantizer alone, on planes of coefficients; `tables`: (1 or images, 64). Grid: (images * channels, tiles)."""
    index = tl.program_id(0)
    plane = height * width
    offset, inside = _offsets(tl.program_id(1) * BLOCKS, plane // 64, width, BLOCKS)
    start = index.to(tl.int64) * plane
    table = index // channels * per_image * 64 + tl.arange(0, 64)
    z = tl.load(planes + start + offset, mask=inside, other=0)
    quantized, _, _, _ = _quantize(z, tl.load(tables + table)[None, :], tl.load(alphas + table)[None, :], L, KIND, CLIP)
    tl.store(out + start + offset, quantized, mask=inside)


@triton.jit
def quantize_planes_backward(
    planes,
    grad,
    grad_planes,
    tables,
    alphas,
    sums,
    height,
    width,
    channels,
    per_image,
    L: tl.constexpr,
    KIND: tl.constexpr,
    CLIP: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """Gradients of the coefficients, and of the table: `sums` (images * channels, tiles, q or alpha, 64)."""
    index = tl.program_id(0)
    tile = tl.program_id(1)
    plane = height * width
    offset, inside = _offsets(tile * BLOCKS, plane // 64, width, BLOCKS)
    start = index.to(tl.int64) * plane
    table = index // channels * per_image * 64 + tl.arange(0, 64)
    z = tl.load(planes + start + offset, mask=inside, other=0)
    incoming = tl.load(grad + start + offset, mask=inside, other=0)
    _, by_z, by_q, by_alpha = _quantize(
        z, tl.load(tables + table)[None, :], tl.load(alphas + table)[None, :], L, KIND, CLIP
    )
    out = sums + (index * tl.num_programs(1) + tile) * 128 + tl.arange(0, 64)
    tl.store(out, tl.sum(incoming * by_q, axis=0))
    tl.store(out + 64, tl.sum(incoming * by_alpha, axis=0))
    tl.store(grad_planes + start + offset, incoming * by_z, mask=inside)
