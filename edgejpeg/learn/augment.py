"""Random crops and mixtures that depend on the seed, the epoch and the image's number alone.

Which process reads an image, in which batch, and whether from a cache makes no difference, nor does an interruption.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (torch's own name for it)

from edgejpeg._optional import require
from edgejpeg.learn.data import fit_image
from edgejpeg.learn.recipe import DataRecipe, LossRecipe

_TRIES = 10  # for a rectangle that fits, as torchvision has it
_DRAWS = 4 + 4 * _TRIES + 4
_GREY, _SPREAD = 114.0, 58.0  # of the noise in an erased rectangle: about ImageNet's mean and deviation


def uniforms(seed: int, epoch: int, indices: ArrayLike, count: int = _DRAWS) -> NDArray[np.float64]:
    """(N, count) numbers in [0, 1): a hash (splitmix64) of seed, epoch, index and place."""
    with np.errstate(over="ignore"):
        state = _mixed(np.uint64(seed) + np.uint64(0x9E3779B97F4A7C15))
        state = _mixed(state ^ np.uint64(epoch + 1))
        rows = _mixed(state ^ (np.asarray(indices).astype(np.uint64)[..., None] + np.uint64(1)))
        steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        return (_mixed(rows + steps) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mixed(value: Any) -> Any:
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@dataclass(frozen=True)
class Augmentation:
    """From an image to the network's input, (size, size, 3) uint8.

    Attributes:
        recipe: ``[data]``.
        size: (height, width).
        resize: short side before the centre crop.
        interpolation: of the centre crop; of random ones, when the recipe has none.
        seed: of everything random.
    """

    recipe: DataRecipe
    size: tuple[int, int]
    resize: int
    interpolation: str
    seed: int

    @property
    def uses_whole(self) -> bool:
        """Whether training uses nothing but the centre crop of evaluation, which can be kept in memory."""
        return self.recipe.crop != "random-resized" and not self.recipe.randaugment

    def centre(self, image: Any, name: str) -> NDArray[np.uint8]:
        """What evaluation sees, (H, W, 3)."""
        fitted = fit_image(image, name=name, size=self.size, resize=self.resize, interpolation=self.interpolation)
        return np.asarray(fitted, dtype=np.uint8)

    def train(self, image: Any, name: str, epoch: int, index: int) -> NDArray[np.uint8]:
        """What a step of training sees, (H, W, 3)."""
        draws = uniforms(self.seed, epoch, [index])
        if self.recipe.crop != "random-resized":
            centre = image if not self.recipe.randaugment else self._randaugmented(image, epoch, index)
            pixels = self.centre(centre, name)[None]
            return self.train_cached(torch.from_numpy(pixels.copy()), epoch, np.array([index]))[0].numpy()
        image_module = require("PIL.Image", extra="train", purpose="reading images")
        filters = {"bilinear": image_module.Resampling.BILINEAR, "bicubic": image_module.Resampling.BICUBIC}
        box = random_box(draws[0, 4:], image.height, image.width, self.recipe.scale, self.recipe.ratio)
        chosen = filters[self.recipe.interpolation or self.interpolation]
        cropped = image.resize((self.size[1], self.size[0]), chosen, box=box)
        if draws[0, 2] < self.recipe.flip:
            cropped = cropped.transpose(image_module.Transpose.FLIP_LEFT_RIGHT)
        if self.recipe.randaugment:
            cropped = self._randaugmented(cropped, epoch, index)
        pixels = np.array(cropped, dtype=np.uint8)
        self._erase(pixels, draws[0], epoch, index)
        return pixels

    def train_cached(self, centres: Tensor, epoch: int, indices: NDArray[np.int64]) -> Tensor:
        """The same for a batch of centre crops, (N, H, W, 3) uint8, on any device, without a loop over images."""
        draws = uniforms(self.seed, epoch, indices)
        count, height, width = centres.shape[:3]
        pad = self.recipe.pad if self.recipe.crop == "pad" else 0
        device = centres.device
        offsets = torch.from_numpy(np.floor(draws[:, :2] * (2 * pad + 1)).astype(np.int64)).to(device)
        flips = torch.from_numpy(draws[:, 2] < self.recipe.flip).to(device)
        padded = F.pad(centres, (0, 0, pad, pad, pad, pad)) if pad else centres
        across = torch.arange(width, device=device)
        columns = offsets[:, 1:] + torch.where(flips[:, None], across.flip(0), across)
        rows = offsets[:, :1] + torch.arange(height, device=device)
        which = torch.arange(count, device=device)
        cropped = padded[which[:, None, None], rows[:, :, None], columns[:, None, :]]
        if self.recipe.erase:
            pixels = cropped.cpu().numpy()
            for image, numbers, index in zip(pixels, draws, indices, strict=True):
                self._erase(image, numbers, epoch, int(index))
            cropped = torch.from_numpy(pixels).to(device)
        return cropped

    def _erase(self, pixels: NDArray[np.uint8], draws: NDArray[np.float64], epoch: int, index: int) -> None:
        if draws[3] >= self.recipe.erase:
            return
        height, width = pixels.shape[:2]
        tail = draws[-4:]
        area = (0.02 + tail[0] * (1 / 3 - 0.02)) * height * width
        shape = math.exp(math.log(0.3) + tail[1] * (math.log(1 / 0.3) - math.log(0.3)))
        tall, wide = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if not (0 < tall < height and 0 < wide < width):
            return
        top, left = int(tail[2] * (height - tall + 1)), int(tail[3] * (width - wide + 1))
        noise = np.random.default_rng([self.seed, 5, epoch, index]).normal(_GREY, _SPREAD, (tall, wide, 3))
        pixels[top : top + tall, left : left + wide] = noise.round().clip(0, 255)

    def _randaugmented(self, image: Any, epoch: int, index: int) -> Any:
        from edgejpeg.models.torchvision_compat import import_torchvision

        transforms = import_torchvision("data.randaugment").transforms
        operations = transforms.RandAugment(num_ops=2, magnitude=self.recipe.randaugment)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.SeedSequence([self.seed, 6, epoch, index]).generate_state(1)[0]))
            return operations(image)


def random_box(
    draws: NDArray[np.float64], height: int, width: int, scale: tuple[float, ...], ratio: tuple[float, ...]
) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of a rectangle of random area and shape (Szegedy et al. 2015), else of the centre.

    Args:
        draws: at least 4 x 10 numbers in [0, 1): ten tries.
        scale: least and largest part of the area.
        ratio: least and largest width over height; the shape is drawn uniformly on the logarithm.
    """
    shapes = (math.log(ratio[0]), math.log(ratio[1]))
    for first in range(0, 4 * _TRIES, 4):
        area = height * width * (scale[0] + draws[first] * (scale[1] - scale[0]))
        shape = math.exp(shapes[0] + draws[first + 1] * (shapes[1] - shapes[0]))
        wide, tall = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < wide <= width and 0 < tall <= height:
            left = int(draws[first + 2] * (width - wide + 1))
            top = int(draws[first + 3] * (height - tall + 1))
            return left, top, left + wide, top + tall
    whole = width / height
    wide, tall = width, height
    if whole < ratio[0]:
        tall = max(round(width / ratio[0]), 1)
    elif whole > ratio[1]:
        wide = max(round(height * ratio[1]), 1)
    left, top = (width - wide) // 2, (height - tall) // 2
    return left, top, left + wide, top + tall


def mix(images: Tensor, targets: Tensor, recipe: LossRecipe, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Mixup (Zhang et al. 2018) or CutMix (Yun et al. 2019) of a batch with itself in reverse order.

    Args:
        images: (N, 3, H, W) float.
        targets: (N, classes) probabilities.
        recipe: which of the two; with both each has half of the batches.
        rng: of the choice, the weight and the place.

    Returns:
        New images and targets.
    """
    cut = recipe.cutmix > 0 and (recipe.mixup == 0 or rng.random() < 0.5)
    alpha = recipe.cutmix if cut else recipe.mixup
    keep = float(rng.beta(alpha, alpha))
    if cut:
        height, width = images.shape[2:]
        side = math.sqrt(1 - keep)
        y, x = rng.integers(height), rng.integers(width)
        tall, wide = int(height * side), int(width * side)
        top, bottom = max(y - tall // 2, 0), min(y + (tall + 1) // 2, height)
        left, right = max(x - wide // 2, 0), min(x + (wide + 1) // 2, width)
        mixed = images.clone()
        mixed[:, :, top:bottom, left:right] = images.flip(0)[:, :, top:bottom, left:right]
        keep = 1 - (bottom - top) * (right - left) / (height * width)
    else:
        mixed = images * keep + images.flip(0) * (1 - keep)
    return mixed, targets * keep + targets.flip(0) * (1 - keep)
