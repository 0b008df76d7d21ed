"""From Q_d to a file: what a trained JPEG layer becomes on the way to what a device sends, one rung after another.

1. Q_d, with the hardness that training ended with. 2. Q_u with the same steps [JPEG-DL, Table 4]. 3. Q_u with integer
tables in 1..255, all that a baseline file can hold. 4. A file: written by the encoder, read by the server's decoder,
8-bit pixels into the network. Between the third and the fourth lie the integers of encoder and decoder alone; the
hardened layer has them, and its pixels are compared with those of every file.

The encoder and the decoder are handed in.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgejpeg.errors import DataError, InvalidInputError, ModelError
from edgejpeg.jpeg.tables import QuantTable
from edgejpeg.learn.frozen import frozen
from edgejpeg.learn.layer import JpegLayer
from edgejpeg.learn.planes import encode_planes
from edgejpeg.learn.rate_term import bits_per_pixel
from edgejpeg.profile import Profile

Pixels = NDArray[np.uint8]
Encode = Callable[[Pixels, Profile], bytes]
"""From (H, W, 3) uint8 RGB and a fixed profile to a JPEG file."""
Decode = Callable[[bytes], Pixels]
"""From a JPEG file to (H, W, 3) uint8 RGB."""

TRAINED, SOFT, HARD, INTEGER, FILE, CLEAN = (
    "as trained", "Q_d", "Q_u", "Q_u, integer tables", "JPEG files", "no layer",
)  # fmt: skip


@dataclass(frozen=True)
class Rung:
    """What the network answers behind one form of the layer.

    Attributes:
        number: 1 to 4; 0 for the layer as training ended with it, where that is not Q_d.
        name: what quantizes.
        logits: (images, classes) float64.
        bpp: (images,) bits per pixel of whole files, estimated on rung 3, real on rung 4; else None.
    """

    number: int
    name: str
    logits: NDArray[np.float64]
    bpp: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Steps:
    """What hardening does to one of the two tables.

    Attributes:
        values: (8, 8) float64, row-major, as learned, within the bounds of training.
        table: the integers of the file.
        at_low, at_high: (row, column) of the steps that training left at a bound it could not pass.
        below_one: (row, column) of those below 1, which a file cannot hold: they become 1, that is coarser.
        clipped: part of the coefficients of the images beyond the alphabet of training, -L q .. L q: cut there on rungs
            1 and 2, whole in a file; of DC and of the other frequencies.
    """

    values: NDArray[np.float64]
    table: QuantTable
    at_low: list[tuple[int, int]] = field(default_factory=list)
    at_high: list[tuple[int, int]] = field(default_factory=list)
    below_one: list[tuple[int, int]] = field(default_factory=list)
    clipped: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Hardened:
    """The rungs of one network on the same images.

    Attributes:
        rungs: in the order of their numbers.
        labels: (images,) int64 classes.
        profile: the files' tables; what the encoder was given.
        luma, chroma: what became of the tables; None where the profile was given.
        identical: images whose file decodes to the hardened layer's pixels, to the last bit.
        largest_difference: of a pixel of the others, 0 when there are none.
    """

    rungs: list[Rung]
    labels: NDArray[np.int64]
    profile: Profile
    luma: Steps | None
    chroma: Steps | None
    identical: int
    largest_difference: int

    def rung(self, number: int) -> Rung:
        """The rung with a number.

        Raises:
            InvalidInputError: there is none.
        """
        for one in self.rungs:
            if one.number == number:
                return one
        raise InvalidInputError(f"no rung {number}; there are {', '.join(str(one.number) for one in self.rungs)}")


def harden(
    model: nn.Module,
    layer: JpegLayer | None,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    profile: Profile,
    encode: Encode,
    decode: Decode,
) -> Hardened:
    """Measure a network behind every form of its JPEG layer.

    Args:
        model: normalised RGB to (N, classes) logits, with its trained weights.
        layer: as training ended with it, of one round, on the model's device; None for a network that was trained
            without: rungs 1 (no layer), 3 and 4 are measured then, with the profile's tables.
        batches: images (N, 3, H, W) uint8 RGB and their classes (N,), on any device.
        mean, std: of R, G, B in 0..255: the network sees (rgb - mean) / std.
        profile: fixed, without thresholds; with a layer :meth:`~edgejpeg.learn.layer.JpegLayer.profile` of it.
        encode, decode: of the device and the server.

    Raises:
        InvalidInputError: a profile that the layer cannot stand for, several rounds.
        ModelError: logits that are NaN or infinite, or none.
        DataError: no images, or a file that decodes to another size.
    """
    if profile.kind != "fixed" or profile.dead_zone is not None or profile.luma is None or profile.chroma is None:
        raise InvalidInputError(
            f"the rungs are those of two fixed tables with plain rounding; the profile {profile.name!r} is "
            f"{profile.kind}, {profile.subsampling}{', with thresholds' if profile.dead_zone else ''}"
        )
    if layer is not None and (
        (profile.luma, profile.chroma) != layer.tables() or profile.subsampling != layer.subsampling
    ):
        raise InvalidInputError(f"the profile {profile.name!r} has not the layer's tables; take layer.profile()")
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    ladder = _Ladder(model, layer, profile, device, mean, std)
    with frozen(model), torch.no_grad():
        for images, labels in batches:
            if len(images):
                ladder.climb(images, labels, encode, decode)
    return ladder.result()


class _Ladder:
    def __init__(
        self,
        model: nn.Module,
        layer: JpegLayer | None,
        profile: Profile,
        device: torch.device,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        assert profile.luma is not None and profile.chroma is not None
        self.model, self.profile, self.device, self.trained = model, profile, device, layer
        self.mean = torch.tensor(mean, dtype=torch.float32, device=device)[:, None, None]
        self.std = torch.tensor(std, dtype=torch.float32, device=device)[:, None, None]
        tables = (profile.luma, profile.chroma)
        upsampling = "fancy" if layer is None else layer.upsampling
        self.integer = JpegLayer(*tables, profile.subsampling, "hard", learn_tables=False, upsampling=upsampling).to(
            device
        )
        self.hardened = JpegLayer.from_profile(profile).to(device)
        self.forms: list[tuple[int, str, nn.Module | None]] = list(_forms(layer))
        self.forms.append((3, INTEGER, self.integer))
        self.logits: list[list[Tensor]] = [[] for _ in range(len(self.forms) + 1)]
        self.estimated: list[Tensor] = []
        self.real: list[float] = []
        self.labels: list[NDArray[np.int64]] = []
        self.beyond = np.zeros((2, 2))
        self.counted = np.zeros((2, 2))
        self.identical = self.largest = 0

    def climb(self, images: Tensor, labels: Tensor, encode: Encode, decode: Decode) -> None:
        rgb = images.to(self.device, torch.float32)
        size = (images.shape[2], images.shape[3])
        for (_, name, form), found in zip(self.forms, self.logits, strict=False):
            found.append(self._answer(rgb if form is None else form(rgb), name))
        self.estimated.append(bits_per_pixel(self.integer, rgb, effort=min(self.profile.effort, 1))[0].double().cpu())
        files = [encode(image, self.profile) for image in images.permute(0, 2, 3, 1).contiguous().cpu().numpy()]
        self.real += [8 * len(data) / (size[0] * size[1]) for data in files]
        decoded = torch.from_numpy(np.stack([_of_size(decode(data), size) for data in files]))
        pixels = decoded.permute(0, 3, 1, 2).to(self.device, torch.float32)
        self.logits[-1].append(self._answer(pixels, FILE))
        off = (self.hardened(rgb) - pixels).abs().amax((1, 2, 3))
        self.identical += int((off == 0).sum())
        self.largest = max(self.largest, int(off.max()))
        self.labels.append(labels.cpu().numpy())
        if self.trained is not None and self.trained.clip:
            self._count_clipped(rgb, self.trained)

    def result(self) -> Hardened:
        if not self.labels:
            raise DataError("hardening needs images with labels; got none")
        names = [(number, name) for number, name, _ in self.forms] + [(4, FILE)]
        rates = {3: torch.cat(self.estimated).numpy(), 4: np.array(self.real)}
        clipped = self.beyond / np.maximum(self.counted, 1)
        tables = [None, None] if self.trained is None else [_steps(self.trained, i, clipped[i]) for i in (0, 1)]
        return Hardened(
            rungs=[
                Rung(number, name, torch.cat(parts).numpy(), rates.get(number))
                for (number, name), parts in zip(names, self.logits, strict=True)
            ],
            labels=np.concatenate(self.labels),
            profile=self.profile,
            luma=tables[0],
            chroma=tables[1],
            identical=self.identical,
            largest_difference=self.largest,
        )

    def _answer(self, pixels: Tensor, name: str) -> Tensor:
        logits = self.model((pixels.contiguous() - self.mean) / self.std)
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ModelError(f"hardening needs (N, classes) logits; the network gave {shape}")
        if not bool(torch.isfinite(logits).all()):
            raise ModelError(f"the network's logits are NaN or infinite on the rung {name!r}; check its weights")
        return logits.double().cpu()

    def _count_clipped(self, rgb: Tensor, layer: JpegLayer) -> None:
        levels = float(2 ** (layer.bits - 1))
        planes = encode_planes(rgb, layer.subsampling)
        for index, (plane, step) in enumerate(zip(planes, layer.steps(), strict=True)):
            flat = plane.reshape(-1, *plane.shape[-2:])
            count, height, width = flat.shape
            blocks = flat.reshape(count, height // 8, 8, width // 8, 8).abs()
            outside = (blocks > levels * step[:, None]).double().sum((0, 1, 3)).cpu().numpy()
            number = blocks.numel() / 64
            self.beyond[index] += outside[0, 0], outside.sum() - outside[0, 0]
            self.counted[index] += number, 63 * number


def _forms(layer: JpegLayer | None) -> Iterator[tuple[int, str, nn.Module | None]]:
    """Rungs 0 to 2. The steps are those that training ended with: integers, where it ended with integer tables."""
    if layer is None:
        yield 1, CLEAN, None
        return
    layer = copy.deepcopy(layer).eval()
    if layer.quantizer == "hard":
        yield 0, TRAINED, layer
        yield 1, SOFT, _with_quantizer(layer, "soft")
    else:
        yield 1, SOFT, layer
    yield 2, HARD, _with_quantizer(layer, "hard")


def _with_quantizer(layer: JpegLayer, quantizer: Literal["soft", "hard"]) -> JpegLayer:
    """A copy in real-valued arithmetic."""
    changed = copy.deepcopy(layer)
    changed.quantizer = quantizer
    changed.encoder_rounding = changed.decoder_rounding = False
    return changed


def _steps(layer: JpegLayer, index: int, clipped: NDArray[np.float64]) -> Steps:
    parameter = (layer.luma, layer.chroma)[index]
    values = parameter.detach()[0].double().cpu().numpy()
    low, high = values <= layer.q_min, values >= layer.q_max
    bounded = values.clip(layer.q_min, layer.q_max)

    def places(where: NDArray[np.bool_]) -> list[tuple[int, int]]:
        return [(int(row), int(column)) for row, column in np.argwhere(where)]

    return Steps(
        values=bounded,
        table=layer.tables()[index],
        at_low=places(low),
        at_high=places(high),
        below_one=places(bounded < 1),
        clipped=(float(clipped[0]), float(clipped[1])),
    )


def _of_size(image: Pixels, size: tuple[int, int]) -> Pixels:
    if image.shape != (*size, 3):
        raise DataError(f"a file of {size[1]}x{size[0]} pixels was decoded to an array of shape {image.shape}")
    return image
