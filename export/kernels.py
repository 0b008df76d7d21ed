"""The convolution kernels of the JPEG layer: colour, chroma averaging and DCT in one, and their inverses.

A JPEG encoder's front end is linear up to the division by the quantization table, so it is one convolution a
component: an 8x8 block of coefficients is 64 channels of one output pixel. All kernels are computed in float64 and
rounded once to float32. The scale is that of a file's coefficients (DC = 8 x mean); pixels are in 0..1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgejpeg.jpeg.colour import RGB_TO_YCBCR, YCBCR_TO_RGB, check_subsampling
from edgejpeg.jpeg.dct import DCT_MATRIX

Kernel = NDArray[np.float32]


@dataclass(frozen=True)
class ComponentKernels:
    """One group of components that share a sampling grid.

    Attributes:
        tables: for each component, which of the two tables quantizes it: 0 luma, 1 chroma.
        forward: (64 n, 3, 8 v, 8 h) float32, stride (8 v, 8 h): RGB in 0..1 to n blocks of 64 coefficients.
        bias: (64 n,) float32, the level shift of the luma's DC.
        inverse: (64 n, n, 8, 8) or, for the fused forms, (64 n, 3, 8, 8) float32, transposed, stride 8.
        inverse_bias: float32, one number per output channel, or None where :data:`COLOUR_BIAS` follows.
        groups: of the inverse.
    """

    tables: tuple[int, ...]
    forward: Kernel
    bias: Kernel
    inverse: Kernel
    inverse_bias: Kernel | None
    groups: int

    @property
    def stride(self) -> tuple[int, int]:
        """Height and width of the pixels behind one block."""
        return self.forward.shape[2], self.forward.shape[3]


_BASIS = np.einsum("ui,vj->uvij", DCT_MATRIX, DCT_MATRIX).reshape(64, 8, 8)
_GREY = np.array([128.0, 0.0, 0.0])

COLOUR: Kernel = (YCBCR_TO_RGB / 255).reshape(3, 3, 1, 1).astype(np.float32)
"""1x1 kernel (3, 3, 1, 1): level-shifted Y, Cb, Cr to RGB in 0..1."""

COLOUR_BIAS: Kernel = (YCBCR_TO_RGB @ _GREY / 255).astype(np.float32)
"""Shape (3,): undoes the luma's level shift."""


def component_kernels(subsampling: str) -> tuple[ComponentKernels, ...]:
    """The kernels of a subsampling.

    ``"444"`` and ``"gray"`` are one group, colour and DCT fused both ways. ``"422"`` and ``"420"`` are luma and chroma;
    their inverses stop at the planes, since the chroma is interpolated before :data:`COLOUR`.

    Raises:
        InvalidInputError: an unknown subsampling.
    """
    vertical, horizontal = check_subsampling(subsampling)
    if subsampling == "444":
        return (_fused((0, 1, 2), (0, 1, 1), YCBCR_TO_RGB),)
    if subsampling == "gray":
        return (_fused((0,), (0,), np.ones((3, 1))),)
    luma = ComponentKernels((0,), _forward((0,), 1, 1), _bias((0,)), _planes(1), None, 1)
    chroma = ComponentKernels((1, 1), _forward((1, 2), vertical, horizontal), _bias((1, 2)), _planes(2), None, groups=2)
    return luma, chroma


def mcu_size(subsampling: str) -> tuple[int, int]:
    """Height and width in pixels of the smallest image that a subsampling codes whole."""
    vertical, horizontal = check_subsampling(subsampling)
    return 8 * vertical, 8 * horizontal


def _forward(components: tuple[int, ...], vertical: int, horizontal: int) -> Kernel:
    cells = np.kron(_BASIS, np.ones((1, vertical, horizontal)) / (vertical * horizontal))
    colour = 255 * RGB_TO_YCBCR[list(components)]
    kernel = np.einsum("cr,khw->ckrhw", colour, cells)
    return kernel.reshape(-1, 3, 8 * vertical, 8 * horizontal).astype(np.float32)


def _bias(components: tuple[int, ...]) -> Kernel:
    bias = np.zeros((len(components), 64), dtype=np.float32)
    for row, component in enumerate(components):
        bias[row, 0] = -8 * _GREY[component]
    return bias.reshape(-1)


def _planes(count: int) -> Kernel:
    return np.tile(_BASIS[:, None], (count, 1, 1, 1)).astype(np.float32)


def _fused(components: tuple[int, ...], tables: tuple[int, ...], to_rgb: NDArray[np.float64]) -> ComponentKernels:
    inverse = np.einsum("rc,khw->ckrhw", to_rgb / 255, _BASIS).reshape(-1, 3, 8, 8).astype(np.float32)
    bias = (to_rgb @ _GREY[: len(components)] / 255).astype(np.float32)
    return ComponentKernels(tables, _forward(components, 1, 1), _bias(components), inverse, bias, groups=1)
