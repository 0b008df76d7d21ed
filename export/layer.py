"""The JPEG layer in PyTorch, and the module that is exported: input, JPEG layer, normalisation, backbone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from edgejpeg.errors import InvalidInputError
from edgejpeg.export.kernels import COLOUR, COLOUR_BIAS, component_kernels, mcu_size


class JpegFrontEnd(nn.Module):
    """JPEG coding and decoding as a layer: the same arithmetic as ``edgejpeg::JpegLayer``, rounding half to even.

    While ``torch.onnx.export`` traces it, it leaves one node ``edgejpeg::JpegLayer`` in its place.

    Args:
        subsampling: ``"444"``, ``"422"``, ``"420"`` or ``"gray"``.

    Shape:
        image (N, 3, H, W) float32 RGB in 0..1, H and W multiples of the MCU; tables (N or 1, 2, 64) float32, the steps
        of luma and chroma, row-major; the result is like the image.
    """

    def __init__(self, subsampling: str) -> None:
        super().__init__()
        self.subsampling = subsampling
        self._groups = component_kernels(subsampling)

    def forward(self, image: Tensor, tables: Tensor) -> Tensor:
        """Decoded pixels, clamped to 0..1, not rounded."""
        if torch.onnx.is_in_onnx_export():
            from edgejpeg.export.functions import DOMAIN, DOMAIN_VERSION, OP_TYPE, PLUGIN_ATTRIBUTES

            return torch.onnx.ops.symbolic(
                f"{DOMAIN}::{OP_TYPE}",
                (image, tables),
                attrs={**PLUGIN_ATTRIBUTES, "subsampling": self.subsampling},
                dtype=torch.float32,
                shape=image.shape,
                version=DOMAIN_VERSION,
            )
        planes = []
        for kernels, levels in zip(self._groups, self.levels(image, tables), strict=True):
            steps = tables[:, list(kernels.tables)].reshape(-1, 64 * len(kernels.tables), 1, 1)
            bias = None if kernels.inverse_bias is None else torch.from_numpy(kernels.inverse_bias)
            planes.append(
                F.conv_transpose2d(
                    levels * steps,
                    torch.from_numpy(kernels.inverse),
                    bias,
                    stride=8,
                    groups=kernels.groups,
                )
            )
        if len(planes) == 1:
            return planes[0].clamp(0, 1)
        luma, chroma = planes
        chroma = F.interpolate(chroma, size=luma.shape[2:], mode="bilinear", align_corners=False)
        rgb = F.conv2d(torch.cat([luma, chroma], dim=1), torch.from_numpy(COLOUR), torch.from_numpy(COLOUR_BIAS))
        return rgb.clamp(0, 1)

    def levels(self, image: Tensor, tables: Tensor) -> list[Tensor]:
        """The quantized coefficients, (N, 64 or 192 or 128, rows, columns) for each group of components.

        Their order is that of the outputs of :func:`edgejpeg.export.functions.expose_levels`.
        """
        found = []
        for kernels in self._groups:
            coefficients = F.conv2d(
                image, torch.from_numpy(kernels.forward), torch.from_numpy(kernels.bias), stride=kernels.stride
            )
            steps = tables[:, list(kernels.tables)].reshape(-1, 64 * len(kernels.tables), 1, 1)
            found.append(torch.round(coefficients / steps))
        return found


class ExportModule(nn.Module):
    """What is exported: image to logits, in the steps :meth:`unit_image`, the JPEG layer, and :meth:`classify`.

    Args:
        backbone: takes normalised (N, 3, H, W) float32, gives (N, classes).
        size: H, W.
        mean, std: of R, G, B in 0..255, as the network was trained with.
        uint8: the image is uint8 in 0..255 instead of float32 in 0..1.
        subsampling: of the JPEG layer; None leaves the layer out.
        tables: (1, 2, 64) steps as constants; None makes them a second input of :meth:`forward`.
    """

    tables: Tensor | None
    scale: Tensor
    offset: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        *,
        size: tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
        uint8: bool = False,
        subsampling: str | None = None,
        tables: NDArray[np.float32] | None = None,
    ) -> None:
        super().__init__()
        if tables is not None and tables.shape != (1, 2, 64):
            raise InvalidInputError(f"the layer's tables have shape (1, 2, 64), row-major; got {tables.shape}")
        self.backbone = backbone
        self.size, self.uint8 = size, uint8
        self.front_end = None if subsampling is None else JpegFrontEnd(subsampling)
        self.padding = (0, 0)
        if subsampling is not None:
            height, width = mcu_size(subsampling)
            self.padding = (-size[0] % height, -size[1] % width)
        self.register_buffer("tables", None if tables is None else torch.from_numpy(tables.astype(np.float32)))
        scale = 255 / torch.tensor(std, dtype=torch.float64)
        offset = -torch.tensor(mean, dtype=torch.float64) / torch.tensor(std, dtype=torch.float64)
        self.register_buffer("scale", scale.float().reshape(1, 3, 1, 1))
        self.register_buffer("offset", offset.float().reshape(1, 3, 1, 1))

    def forward(self, image: Tensor, tables: Tensor | None = None) -> Tensor:
        """(N, 3, H, W) image to (N, classes) logits."""
        pixels = self.unit_image(image)
        if self.front_end is not None:
            steps = self.tables if tables is None else tables
            if steps is None:
                raise InvalidInputError("the tables are an input of this module: pass (N or 1, 2, 64) steps")
            pixels = self.front_end(pixels, steps)
        return self.classify(pixels)

    def unit_image(self, image: Tensor) -> Tensor:
        """Float32 in 0..1, padded by replication to whole MCUs where the JPEG layer needs it."""
        pixels = image.to(torch.float32) / 255 if self.uint8 else image
        below, right = self.padding
        return F.pad(pixels, (0, right, 0, below), mode="replicate") if below or right else pixels

    def classify(self, pixels: Tensor) -> Tensor:
        """Pixels in 0..1, padded as :meth:`unit_image` left them, to logits."""
        cropped = pixels[:, :, : self.size[0], : self.size[1]] if any(self.padding) else pixels
        logits: Tensor = self.backbone(cropped * self.scale + self.offset)
        return logits
