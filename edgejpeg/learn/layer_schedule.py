"""How a JPEG layer changes over a training, so that what is trained in the end is what a file does.

Soft tables learn well and do not fit a file; integer tables fit and learn badly. So h rises from soft to hard, and the
last part of the steps is trained on integer tables with Q_u, gradients passed straight through, if wanted with the
integers of encoder and decoder: the network then sees, to the bit, the pixels that the server will decode.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgejpeg.errors import InvalidInputError
from edgejpeg.learn.layer import JpegLayer
from edgejpeg.learn.quantizer import annealed_hardness, check_hardness


@dataclass(frozen=True)
class LayerSchedule:
    """The state of a layer as a function of progress alone: nothing to store, a resumed run goes on as before.

    Attributes:
        hardness: the first and the last h = alpha q^2 of Q_d, on a geometric path that ends where ``finish`` begins;
            None leaves alpha as the layer has it. The layer is made with ``hardness=``.
        finish: the last part of the steps, 0 to 1, with Q_u on integer tables, straight-through; 0 leaves the layer's
            quantizer alone.
        decoder_rounding: the last part of the steps with the decoder's rounding and clamping, straight-through; 0
            leaves the layer's option alone.
        encoder_rounding: the same for the encoder's integers, ``"int16"``, those of the device.

    Raises:
        InvalidInputError: an h that is not positive and finite, or a part outside 0..1.
    """

    hardness: tuple[float, float] | None = None
    finish: float = 0.0
    decoder_rounding: float = 0.0
    encoder_rounding: float = 0.0

    def __post_init__(self) -> None:
        if self.hardness is not None:
            values = tuple(self.hardness)
            if len(values) != 2:
                raise InvalidInputError(f"hardness is a pair, the first and the last h; got {self.hardness!r}")
            for name, value in zip(("first", "last"), values, strict=True):
                check_hardness(value, f"the {name} hardness h = alpha q^2")
            object.__setattr__(self, "hardness", (float(values[0]), float(values[1])))
        for name in ("finish", "decoder_rounding", "encoder_rounding"):
            part = getattr(self, name)
            if isinstance(part, bool) or not isinstance(part, (int, float)) or not 0 <= part <= 1:
                raise InvalidInputError(f"{name} is the last part of the steps, 0 to 1; got {part!r}")

    def apply(self, layer: JpegLayer, progress: float) -> None:
        """Set the layer for a step.

        Args:
            layer: changed in place; applying twice does what once does.
            progress: step / steps, 0 to 1, before the step's forward pass.

        Raises:
            InvalidInputError: a progress outside 0..1, or a layer with a fixed alpha where h is to change.
        """
        if not 0 <= progress <= 1:
            raise InvalidInputError(f"the progress of training is 0 (begin) to 1 (end); got {progress!r}")
        if self.hardness is not None:
            soft = 1 - self.finish
            done = min(progress / soft, 1.0) if soft > 0 else 1.0
            layer.set_hardness(annealed_hardness(done, *self.hardness))
        if self.finish > 0:
            hard = _in_last(progress, self.finish)
            layer.quantizer = "hard" if hard else "soft"
            layer.integer_tables = hard
        if self.decoder_rounding > 0:
            layer.decoder_rounding = _in_last(progress, self.decoder_rounding)
        if self.encoder_rounding > 0:
            layer.encoder_rounding = "int16" if _in_last(progress, self.encoder_rounding) else False


def _in_last(progress: float, part: float) -> bool:
    """Whether a step lies in the last part; 1 - part is not exact, step / steps neither."""
    begin = 1 - part
    return progress > begin or math.isclose(progress, begin, abs_tol=1e-9)
