"""The JPEG layer: JPEG coding and decoding in front of a network, with tables that learn [JPEG-DL].

What is trained here is what the device and the server do: the layer's integer tables go into a file's DQT, and with Q_u
and the codec's integers the layer's pixels are those of the decoded file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from edgejpeg.errors import InvalidInputError
from edgejpeg.jpeg.tables import QuantTable
from edgejpeg.learn import fused
from edgejpeg.learn._layer_arguments import Table, check_image, check_learned, is_tracing, one_of, steps_of
from edgejpeg.learn.coded_planes import code_planes
from edgejpeg.learn.planes import chroma_factors, decode_planes, encode_planes
from edgejpeg.learn.quantizer import MAX_BITS, MIN_BITS, check_hardness, check_positive, hard_quantize, soft_quantize

if TYPE_CHECKING:
    from edgejpeg.profile import DeadZone, Profile

QUANTIZERS = ("soft", "hard")
UPSAMPLINGS = ("fancy", "plain")
ENCODER_ROUNDINGS = (False, True, "float64", "int16")


class JpegLayer(nn.Module):
    """JPEG as a differentiable layer: image in, decoded image out, of the same size.

    RGB -> YCbCr -> chroma averaged -> 8x8 DCT -> quantizer (a table for Y, one for Cb and Cr) -> inverse DCT -> chroma
    interpolated -> RGB. In two lines of anyone's training loop:

    >>> layer = JpegLayer(*edgejpeg.ijg_tables(75), subsampling="420", input_range=1)
    >>> logits = network(normalize(layer(images)))

    Args:
        luma, chroma: steps q above 0, real numbers, 8x8, row-major, or (rounds, 8, 8). See
            :mod:`edgejpeg.learn.initial` for starting points.
        subsampling: ``"444"``, ``"422"`` or ``"420"``.
        quantizer: ``"soft"``, Q_d [JPEG-DL eq. 5-7], or ``"hard"``, Q_u with straight-through gradients. The attribute
            can be changed at any time.
        bits: the quantizer's alphabet is -2^(bits-1) .. 2^(bits-1) (3 to 16). 11, the default, holds every coefficient
            of an image for steps from 1; the papers' small-data recipes take 8.
        window: ``"exact"``, or 5 for the truncated sum of the authors' code.
        clip: False for an alphabet without ends.
        alpha: the inverse temperature of Q_d, the same for all frequencies at first.
        hardness: h; if given, alpha = h / q^2 is computed anew in each forward pass, without a gradient, and ``alpha``
            is not used. :meth:`set_hardness` changes it, as on the path of
            :func:`~edgejpeg.learn.quantizer.annealed_hardness`.
        learn_tables: whether q are parameters that want gradients (128, times ``rounds``).
        learn_alpha: whether alpha are, too, one for each step.
        q_min, q_max: the steps stay between them; a gradient that pushes further out stops there. A file holds 1..255;
            the papers' q_min is 1e-5.
        integer_tables: round the steps, straight-through.
        rounds: quantize so many times in a row in the DCT domain, each time with tables of their own.
        input_range: 255 or 1, the largest value of the images in and out.
        upsampling: of chroma: ``"fancy"``, as libjpeg's decoder does by default, or ``"plain"``.
        encoder_rounding: compute as an encoder does, to the bit, gradients straight-through; slower. ``"int16"``:
            the arithmetic of :class:`edgejpeg.Encoder` on every processor, its int16 DCT and divisions, or for very
            fine tables its float64 DCT. ``"float64"`` or True: pixels and samples are integers and the DCT is float64
            in a fixed order, as in :mod:`edgejpeg.jpeg.reference`. Q_d takes float64 coefficients with either.
        dead_zone: zeroing thresholds, as a profile has them; with Q_u and an ``encoder_rounding``. They do not learn.
        decoder_rounding: round and clamp as libjpeg-turbo's decoder does, to the bit; gradients as above. Slower.
        clamp: clamp the result to the range, straight-through.
        fused: compute with the Triton kernels of :mod:`edgejpeg.learn.fused`: ``"auto"`` for where they can run (an
            image on a GPU, Triton installed, not while compiling or exporting), True to insist, False for never.

    Shape:
        (N, 3, H, W) float R, G, B to the same. Any H and W from 1: the image is padded to whole MCUs by replication and
        cropped again. Half precision, by dtype or autocast, is computed in float32.

    Memory for the backward pass: one float32 per coefficient and round, 6 bytes per pixel for 4:2:0 (12 for 4:4:4).

    Raises:
        InvalidInputError: an option outside what is allowed; a table of another shape, or a step that is not positive
            and finite (with its place); later, an image of another shape or type, or out of range.
    """

    alpha_luma: Tensor
    alpha_chroma: Tensor
    hardness: Tensor | None

    def __init__(
        self,
        luma: Table,
        chroma: Table,
        subsampling: str = "444",
        quantizer: Literal["soft", "hard"] = "soft",
        *,
        bits: int = 11,
        window: Literal["exact", 5] = "exact",
        clip: bool = True,
        alpha: float = 5.0,
        hardness: float | None = None,
        learn_tables: bool = True,
        learn_alpha: bool = False,
        q_min: float = 1.0,
        q_max: float = 255.0,
        integer_tables: bool = False,
        rounds: int = 1,
        input_range: Literal[1, 255] = 255,
        upsampling: Literal["fancy", "plain"] = "fancy",
        encoder_rounding: bool | Literal["float64", "int16"] = False,
        dead_zone: DeadZone | None = None,
        decoder_rounding: bool = False,
        clamp: bool = False,
        fused: Literal["auto"] | bool = "auto",
    ) -> None:
        super().__init__()
        chroma_factors(subsampling)
        one_of("quantizer", quantizer, QUANTIZERS)
        one_of("upsampling", upsampling, UPSAMPLINGS)
        one_of("input_range", input_range, (1, 255))
        one_of("window", window, ("exact", 5))
        one_of("fused", fused, ("auto", True, False))
        one_of("encoder_rounding", encoder_rounding, ENCODER_ROUNDINGS)
        one_of("bits", bits, range(MIN_BITS, MAX_BITS + 1))
        one_of("rounds", rounds, range(1, 65))
        if not 0 < q_min <= q_max <= 65535:
            raise InvalidInputError(f"the steps' bounds are 0 < q_min <= q_max <= 65535; got {q_min!r} and {q_max!r}")
        if learn_alpha and hardness is not None:
            raise InvalidInputError("with a hardness, alpha = h / q^2 follows from the steps and cannot be learned")
        self.subsampling, self.quantizer = subsampling, quantizer
        self.bits, self.window, self.clip = bits, window, clip
        self.q_min, self.q_max, self.integer_tables = float(q_min), float(q_max), integer_tables
        self.rounds, self.input_range, self.upsampling = rounds, input_range, upsampling
        self.encoder_rounding = "float64" if encoder_rounding is True else encoder_rounding
        self.decoder_rounding, self.clamp = decoder_rounding, clamp
        self.fused, self.dead_zone = fused, dead_zone
        self._check_dead_zone()
        self.luma = nn.Parameter(steps_of(luma, "luma", rounds), requires_grad=learn_tables)
        self.chroma = nn.Parameter(steps_of(chroma, "chroma", rounds), requires_grad=learn_tables)
        value = check_hardness(alpha, "alpha")
        for name in ("alpha_luma", "alpha_chroma"):
            if learn_alpha:
                self.register_parameter(name, nn.Parameter(torch.full((rounds, 8, 8), value)))
            else:
                self.register_buffer(name, torch.full((rounds, 1, 1), value))
        self.register_buffer("hardness", None if hardness is None else torch.tensor(check_hardness(hardness)))

    @classmethod
    def from_profile(
        cls,
        profile: Profile,
        *,
        input_range: Literal[1, 255] = 255,
        upsampling: Literal["fancy", "plain"] = "fancy",
    ) -> JpegLayer:
        """What :class:`edgejpeg.Encoder` with a fixed profile and libjpeg-turbo's decoder do to an image, bit for bit.

        Raises:
            InvalidInputError: the profile has no tables of its own, or no colour.
        """
        if profile.luma is None or profile.chroma is None:
            raise InvalidInputError(
                f"the layer takes a fixed profile with luma and chroma tables; {profile.name!r} is {profile.kind} in "
                f"{profile.subsampling}: of a ladder, give one level, profile.at_level(index)"
            )
        layer = cls(
            profile.luma,
            profile.chroma,
            profile.subsampling,
            "hard",
            learn_tables=False,
            input_range=input_range,
            upsampling=upsampling,
            encoder_rounding="int16",
            dead_zone=profile.dead_zone,
            decoder_rounding=True,
        )
        return layer.eval()

    def forward(self, image: Tensor, tables: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """The image after coding and decoding.

        Args:
            image: (N, 3, H, W), floating point, in 0..``input_range``.
            tables: luma and chroma steps instead of the layer's own, each (8, 8) or, one for each image, (N, 8, 8);
                gradients go to them. They are taken as they are: neither bounded nor rounded. For one round.
        """
        check_image(image, self.input_range)
        use_kernels = self._use_kernels(image)
        if use_kernels and self._is_one_kernel(image):
            return self._fused_444(image, self._tables(0) if tables is None else self._given(tables, image))
        dtype = torch.float64 if image.dtype == torch.float64 else torch.float32
        with torch.autocast(image.device.type, enabled=False):
            pixels = image.to(dtype) * 255 if self.input_range == 1 else image.to(dtype)
            is_coded = self.quantizer == "hard" and bool(self.encoder_rounding)
            if is_coded:
                luma, chroma = self._code(pixels, self._tables(0) if tables is None else self._given(tables, image))
            else:
                self._check_dead_zone()
                luma, chroma = encode_planes(pixels, self.subsampling, rounding=bool(self.encoder_rounding))
            for index in range(int(is_coded), self.rounds):
                steps = self._tables(index) if tables is None else self._given(tables, image)
                quantize = self._fused_quantize if use_kernels else self._quantize
                luma = quantize(luma, steps[0].to(luma.dtype), self.alpha_luma[index])
                chroma = quantize(chroma, steps[1].to(luma.dtype), self.alpha_chroma[index])
            decoded = decode_planes(
                luma,
                chroma,
                (image.shape[2], image.shape[3]),
                self.subsampling,
                fancy=self.upsampling == "fancy",
                rounding=self.decoder_rounding,
            )
            if self.clamp:
                decoded = _straight_through(decoded, decoded.detach().clamp(0, 255))
            return (decoded / 255 if self.input_range == 1 else decoded).to(image.dtype)

    def set_hardness(self, hardness: float) -> None:
        """Change h of a layer that was made with one."""
        if self.hardness is None:
            raise InvalidInputError("this layer has a fixed alpha; make it with hardness=... to change h")
        self.hardness.fill_(check_hardness(hardness))

    def steps(self) -> tuple[Tensor, Tensor]:
        """The luma and chroma steps, (8, 8), of the forward pass as the layer is now, differentiable in the parameters.

        Within the bounds, and rounded where ``integer_tables`` says so.

        Raises:
            InvalidInputError: several rounds, which have several pairs; NaN.
        """
        if self.rounds > 1:
            raise InvalidInputError(f"one pair of steps belongs to a layer of one round; this one has {self.rounds}")
        luma, chroma = self._tables(0)
        return luma, chroma

    def tables(self) -> tuple[QuantTable, QuantTable]:
        """The learned steps as integer tables, luma and chroma: within the bounds, rounded, 1..255, for a file.

        Raises:
            InvalidInputError: the layer has several rounds, which no single file can hold; NaN.
        """
        if self.rounds > 1:
            raise InvalidInputError(f"a file holds one pair of tables; this layer has {self.rounds} rounds of them")
        tables = []
        for parameter, name in ((self.luma, "luma"), (self.chroma, "chroma")):
            check_learned(parameter.detach()[0], name)
            steps = parameter.detach()[0].clamp(self.q_min, self.q_max).double().cpu().numpy()
            tables.append(QuantTable(np.floor(steps + 0.5).clip(1, 255)))
        return tables[0], tables[1]

    def profile(self, name: str, *, effort: int = 0, provenance: Mapping[str, Any] | None = None) -> Profile:
        """A fixed profile with :meth:`tables`, for :class:`edgejpeg.Encoder` and ``edgejpeg encode``."""
        from edgejpeg.profile import Profile

        luma, chroma = self.tables()
        return Profile.fixed(
            name=name,
            luma=luma,
            chroma=chroma,
            dead_zone=self.dead_zone,
            subsampling=self.subsampling,
            effort=effort,
            provenance=provenance,
        )

    def hardened(self, encoder_rounding: Literal["int16", "float64"] = "int16") -> JpegLayer:
        """What a real file does: a copy with Q_u, :meth:`tables`, and the encoder's and decoder's integers.

        Args:
            encoder_rounding: ``"int16"`` for :class:`edgejpeg.Encoder`, ``"float64"`` for the reference encoder.
        """
        one_of("encoder_rounding", encoder_rounding, ("int16", "float64"))
        layer = JpegLayer(
            *self.tables(),
            self.subsampling,
            "hard",
            learn_tables=False,
            input_range=self.input_range,
            upsampling=self.upsampling,
            encoder_rounding=encoder_rounding,
            dead_zone=self.dead_zone,
            decoder_rounding=True,
        )
        return layer.to(self.luma.device).train(self.training)

    def extra_repr(self) -> str:
        words = [f"subsampling={self.subsampling!r}", f"quantizer={self.quantizer!r}", f"bits={self.bits}"]
        if self.rounds > 1:
            words.append(f"rounds={self.rounds}")
        if self.hardness is not None:
            words.append(f"hardness={float(self.hardness):g}")
        words.append(f"input_range={self.input_range}")
        if self.encoder_rounding:
            words.append(f"encoder_rounding={self.encoder_rounding!r}")
        if self.dead_zone is not None:
            words.append("dead_zone=...")
        if self.decoder_rounding:
            words.append("decoder_rounding=True")
        return ", ".join(words)

    # --- inside ---

    def _tables(self, index: int) -> list[Tensor]:
        steps: list[Tensor] = []
        for parameter, name in ((self.luma, "luma"), (self.chroma, "chroma")):
            if not is_tracing():
                check_learned(parameter.detach()[index], name)
            bounded = _bounded(parameter[index], self.q_min, self.q_max)
            steps.append(_straight_through(bounded, bounded.detach().round()) if self.integer_tables else bounded)
        return steps

    def _given(self, tables: Sequence[Tensor], image: Tensor) -> list[Tensor]:
        if self.rounds > 1:
            raise InvalidInputError(f"tables can be given to a layer of one round; this one has {self.rounds}")
        if len(tables) != 2:
            raise InvalidInputError(f"tables are a pair, luma and chroma; got {len(tables)}")
        for name, steps in zip(("luma", "chroma"), tables, strict=True):
            if not isinstance(steps, Tensor) or steps.shape not in ((8, 8), (image.shape[0], 8, 8)):
                shape = tuple(steps.shape) if isinstance(steps, Tensor) else type(steps).__name__
                raise InvalidInputError(
                    f"a {name} table given to this batch is a tensor of shape (8, 8) or ({image.shape[0]}, 8, 8); "
                    f"got {shape}"
                )
            if not is_tracing():
                check_positive(steps.detach(), f"the {name} table's step")
        return list(tables)

    def _code(self, pixels: Tensor, steps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Planes of K q, with the levels K of a file."""
        thresholds = None
        if self.dead_zone is not None and self.dead_zone.chroma is not None:
            zone = [self.dead_zone.luma.tolist(), self.dead_zone.chroma.tolist()]
            thresholds = torch.tensor(zone, dtype=torch.float64, device=pixels.device)
        return code_planes(
            pixels,
            steps[0].to(pixels.dtype),
            steps[1].to(pixels.dtype),
            self.subsampling,
            int16=self.encoder_rounding == "int16",
            thresholds=thresholds,
            bits=self.bits,
            clip=self.clip,
        )

    def _check_dead_zone(self) -> None:
        if self.dead_zone is None:
            return
        if self.quantizer != "hard" or not self.encoder_rounding:
            raise InvalidInputError(
                "a dead zone is the encoder's: it needs quantizer='hard' and an encoder_rounding; "
                f"got {self.quantizer!r} and {self.encoder_rounding!r}"
            )
        if self.dead_zone.chroma is None:
            raise InvalidInputError("this dead zone has no thresholds for chroma; the layer has Cb and Cr")

    def _quantize(self, planes: Tensor, q: Tensor, alpha: Tensor) -> Tensor:
        """Planes of coefficients (N, [2,] H, W) by a table (8, 8) or (N, 8, 8)."""
        width = planes.shape[-1]
        # Eight rows of a plane hold whole blocks: as one long row, all of them meet the table in the same way.
        rows = planes.reshape(planes.shape[0], math.prod(planes.shape[1:-1]) // 8, 8 * width)
        long_q = _tiled(q, width)
        if self.quantizer == "hard":
            quantized = hard_quantize(rows, long_q, bits=self.bits, clip=self.clip)
        else:
            if self.hardness is not None:
                long_alpha = self.hardness / (long_q.detach() * long_q.detach())
            else:
                long_alpha = _tiled(alpha.to(q.dtype), width) if alpha.numel() > 1 else alpha.to(q.dtype)
            quantized = soft_quantize(rows, long_q, long_alpha, bits=self.bits, window=self.window, clip=self.clip)
        return quantized.reshape(planes.shape)

    # --- the fused kernels ---

    def _use_kernels(self, image: Tensor) -> bool:
        if self.fused is False or is_tracing():
            return False
        available = fused.is_available(image) and not self.encoder_rounding
        if self.fused is True and not available:
            raise InvalidInputError(
                f"fused=True needs Triton, an image on a GPU, no float64 and no encoder_rounding; got {image.dtype} "
                f"on {image.device}: make the layer with fused='auto'"
            )
        return available and (self.fused is True or image.is_cuda)

    def _is_one_kernel(self, image: Tensor) -> bool:
        whole = image.shape[2] % 8 == 0 and image.shape[3] % 8 == 0 and image.shape[0] > 0
        return whole and self.subsampling == "444" and self.rounds == 1 and not self.decoder_rounding

    def _kind(self) -> fused.Quantizer:
        return "hard" if self.quantizer == "hard" else "soft" if self.window == "exact" else "authors"

    def _alpha(self, q: Tensor, alpha: Tensor) -> Tensor:
        """alpha for every step of q (..., 8, 8)."""
        if self.hardness is not None:
            return self.hardness / (q.detach() * q.detach())
        return alpha.to(q.dtype).expand_as(q)

    def _fused_444(self, image: Tensor, steps: Sequence[Tensor]) -> Tensor:
        tables = torch.stack([table.reshape(-1, 8, 8).float() for table in steps], dim=1)
        alphas = [self._alpha(tables[:, i], alpha[0]) for i, alpha in enumerate((self.alpha_luma, self.alpha_chroma))]
        decoded = fused.fused_444(
            image,
            tables,
            torch.stack(alphas, dim=1),
            bits=self.bits,
            quantizer=self._kind(),
            clip=self.clip,
            scale=255.0 / self.input_range,
        )
        return _straight_through(decoded, decoded.detach().clamp(0, self.input_range)) if self.clamp else decoded

    def _fused_quantize(self, planes: Tensor, q: Tensor, alpha: Tensor) -> Tensor:
        tables = q.reshape(-1, 8, 8)
        four = planes.reshape(planes.shape[0], -1, *planes.shape[-2:])
        kind = self._kind()
        quantized = fused.fused_quantize(
            four, tables, self._alpha(tables, alpha), bits=self.bits, quantizer=kind, clip=self.clip
        )
        return quantized.reshape(planes.shape)


class _Bounded(torch.autograd.Function):
    """A clamp whose gradient stops where a step of descent would lead further out, and only there."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward(values)
        ctx.low, ctx.high = low, high
        return values.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (values,) = ctx.saved_tensors
        outwards = ((values <= ctx.low) & (gradient > 0)) | ((values >= ctx.high) & (gradient < 0))
        return gradient.masked_fill(outwards, 0), None, None


def _bounded(values: Tensor, low: float, high: float) -> Tensor:
    if torch.onnx.is_in_onnx_export():
        return values.clamp(low, high)
    result: Tensor = _Bounded.apply(values, low, high)  # type: ignore[no-untyped-call]
    return result


def _straight_through(soft: Tensor, value: Tensor) -> Tensor:
    return value if not soft.requires_grad else soft + (value - soft).detach()


def _tiled(table: Tensor, width: int) -> Tensor:
    """(8, 8) or (N, 8, 8) to (1 or N, 1, 8 width): a table beside itself, row after row."""
    return table.repeat(*[1] * (table.ndim - 2), 1, width // 8).reshape(-1, 1, 8 * width)
