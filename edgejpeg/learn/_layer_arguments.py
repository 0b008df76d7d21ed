"""What a :class:`~edgejpeg.learn.layer.JpegLayer` takes: options, tables, images. One line says what is wrong."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from edgejpeg.errors import InvalidInputError
from edgejpeg.jpeg.tables import QuantTable
from edgejpeg.learn.quantizer import check_positive

Table = QuantTable | ArrayLike | Tensor
"""8x8 steps, row-major; a leading axis gives each of several rounds its own."""

_TOO_LARGE_FOR_UNIT = 1.5


def one_of(name: str, value: object, allowed: Sequence[object]) -> None:
    """Raise InvalidInputError unless a value is among those allowed, of the same type."""
    if not any(type(value) is type(one) and value == one for one in allowed):
        names = f"{allowed[0]} to {allowed[-1]}" if isinstance(allowed, range) else " or ".join(map(repr, allowed))
        raise InvalidInputError(f"{name} is {names}; got {value!r}")


def steps_of(table: Table, name: str, rounds: int) -> Tensor:
    """A table as (rounds, 8, 8) float32."""
    values = table.detach().cpu().numpy() if isinstance(table, Tensor) else np.asarray(table)
    if values.dtype.kind not in "iuf":
        raise InvalidInputError(f"the {name} table holds real numbers; got dtype {values.dtype}")
    if values.shape not in ((8, 8), (rounds, 8, 8)):
        expected = "(8, 8)" if rounds == 1 else f"(8, 8) or ({rounds}, 8, 8)"
        raise InvalidInputError(f"the {name} table has shape {expected}, row-major; got {values.shape}")
    steps = torch.tensor(np.broadcast_to(values, (rounds, 8, 8)).copy(), dtype=torch.float32)
    check_positive(steps, f"the {name} table's step")
    return steps


def check_learned(steps: Tensor, name: str) -> None:
    """Raise InvalidInputError at NaN: bounds bring everything else back."""
    wrong = torch.isnan(steps)
    if wrong.any():
        row, column = wrong.nonzero()[0].tolist()
        raise InvalidInputError(
            f"the {name} table has become NaN at row {row}, column {column}; a smaller learning rate may help"
        )


def check_image(image: Tensor, input_range: int) -> None:
    """Raise InvalidInputError unless this is a batch of images with pixels in 0..``input_range``."""
    if not isinstance(image, Tensor) or not image.is_floating_point():
        kind = image.dtype if isinstance(image, Tensor) else type(image).__name__
        raise InvalidInputError(
            f"the JPEG layer takes a floating-point tensor; got {kind}: convert it with .float(), pixels in "
            f"0..{input_range}"
        )
    if image.ndim != 4 or image.shape[1] != 3 or 0 in image.shape[2:]:
        raise InvalidInputError(
            f"the JPEG layer takes images (N, 3, H, W), R, G, B, not empty; got {tuple(image.shape)}"
        )
    if input_range == 1 and image.numel() and not is_tracing():
        largest = float(image.detach().amax())
        if largest > _TOO_LARGE_FOR_UNIT:
            raise InvalidInputError(
                f"the JPEG layer was told that pixels are in 0..1 and got {largest:g}; "
                "make it with input_range=255, or divide by 255"
            )


def is_tracing() -> bool:
    """Values cannot be looked at now; the operators look at the tables when they run."""
    return torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export()
