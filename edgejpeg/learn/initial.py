"""Where the tables of a :class:`~edgejpeg.learn.layer.JpegLayer` start: real-valued steps, luma and chroma.

The tables of the IJG at a quality, :func:`edgejpeg.ijg_tables`, are another start, the best known one for a file.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from edgejpeg.errors import InvalidInputError
from edgejpeg.learn.planes import chroma_factors, encode_planes
from edgejpeg.learn.transform import blocks_from_planes

SMALLEST_STEP = 1e-5
"""The smallest step of the papers' code."""

Steps = NDArray[np.float64]


def constant_tables(step: float = 1.0) -> tuple[Steps, Steps]:
    """All steps the same; 1 is the paper's start for transformers.

    Raises:
        InvalidInputError: a step that is not positive and finite.
    """
    if isinstance(step, bool) or not isinstance(step, (int, float)) or not 0 < step < float("inf"):
        raise InvalidInputError(f"a step is positive and finite; got {step!r}")
    return np.full((8, 8), float(step)), np.full((8, 8), float(step))


def tables_from_sensitivity(sensitivity: ArrayLike, q_max: float = 10.0) -> tuple[Steps, Steps]:
    """Steps in inverse proportion to the sensitivities [JPEG-DL]: the largest luma step is ``q_max``.

    q_Y = q_max min(s_Y) / s_Y and q_C = 2 q_max min(s_Y) / (s_Cb + s_Cr): chroma is not bounded by ``q_max``.

    Args:
        sensitivity: (3, 8, 8), Y, Cb, Cr, row-major, as in a profile or
            :class:`~edgejpeg.learn.sensitivity.Sensitivity`.
        q_max: the paper's scripts use 5 to 20.

    Raises:
        InvalidInputError: another shape; a luma sensitivity, or a sum for chroma, that is not positive and finite (with
            its place); ``q_max`` that is not positive and finite.
    """
    values = np.asarray(sensitivity, dtype=np.float64)
    if values.shape != (3, 8, 8):
        raise InvalidInputError(f"sensitivities have shape (3, 8, 8): Y, Cb, Cr, row-major; got {values.shape}")
    if not 0 < q_max < float("inf"):
        raise InvalidInputError(f"q_max is positive and finite; got {q_max!r}")
    luma, chroma = values[0], values[1] + values[2]
    for name, channel in (("luma", luma), ("chroma", chroma)):
        wrong = ~((channel > 0) & np.isfinite(channel))
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise InvalidInputError(
                f"a step is in inverse proportion to its sensitivity, which has to be positive and finite; "
                f"got {channel[row, column]} for {name} at row {row}, column {column}: more images may help"
            )
    return q_max * luma.min() / luma, 2 * q_max * luma.min() / chroma


def tables_from_magnitudes(
    batches: Iterable[Tensor], subsampling: str = "444", *, bits: int = 8, input_range: int = 255
) -> tuple[Steps, Steps]:
    """Steps from the coefficients' mean magnitudes, as LSQ starts: q = 2 mean |z| / sqrt(2^(bits - 1)) [JPEG-DL].

    Cb and Cr are averaged. A frequency that never occurs gets the step 1e-5.

    Args:
        batches: images, (N, 3, H, W) float, in 0..``input_range``; they are read once.
        subsampling: of the layer that is to start with the tables.
        bits: of that layer's alphabet.
        input_range: 255 or 1.

    Raises:
        InvalidInputError: no images, or an option outside what is allowed.
    """
    chroma_factors(subsampling)
    if input_range not in (1, 255):
        raise InvalidInputError(f"input_range is 1 or 255; got {input_range!r}")
    if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= 16:
        raise InvalidInputError(f"the alphabet has 1 to 16 bits; got {bits!r}")
    sums, counts = np.zeros((2, 8, 8)), np.zeros(2)
    for batch in batches:
        if batch.ndim != 4 or batch.shape[1] != 3 or not batch.is_floating_point():
            raise InvalidInputError(f"a batch is (N, 3, H, W), floating point; got {tuple(batch.shape)} {batch.dtype}")
        with torch.no_grad():
            height, width = batch.shape[2:]
            luma, chroma = encode_planes(batch.float() * (255 // input_range), subsampling)
            # Without the blocks that only fill up the last MCUs.
            luma = luma[:, : -(-height // 8) * 8, : -(-width // 8) * 8]
            for index, planes in enumerate((luma, chroma.flatten(0, 1))):
                blocks = blocks_from_planes(planes.abs())
                sums[index] += blocks.sum((0, 1, 2), dtype=torch.float64).cpu().numpy()
                counts[index] += planes.numel() / 64
    if not counts.all():
        raise InvalidInputError("steps from magnitudes need images; got none")
    luma_steps, chroma_steps = np.maximum(2 * sums / counts[:, None, None] / 2 ** ((bits - 1) / 2), SMALLEST_STEP)
    return luma_steps, chroma_steps
