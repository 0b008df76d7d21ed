"""Adversarial images: FGSM and PGD in an L-infinity ball, and gradients that reach through a JPEG file.

[JPEG-DL] attacks its networks with FGSM (Goodfellow, Shlens, Szegedy, ICLR 2015) and PGD (Madry et al., ICLR 2018) at
eps = 1 .. 4 of 255, five steps of 2.5 eps / 5. A file's pixels are a staircase of the image: their derivative is zero
almost everywhere, so an attack on a network behind files, by the network's own gradient, goes nowhere, and proves
nothing (Athalye, Carlini, Wagner, "Obfuscated gradients give a false sense of security", ICML 2018). An attack that
knows of the files takes another gradient, and so do the adaptive ones here:

- :func:`straight_through`, their BPDA: the network at the file's own pixels, and JPEG's derivative taken as 1;
- through Q_d: :class:`~edgejpeg.learn.layer.JpegLayer` with the file's tables, :func:`loss_gradient` of it;
- transfer: the gradient of the network without JPEG.

An attack is :func:`fgsm` or :func:`pgd` with one of these gradients. All pixels are in 0..255.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (torch's own name for it)

from edgejpeg.errors import InvalidInputError

Forward = Callable[[Tensor], Tensor]
"""From (N, 3, H, W) float pixels in 0..255 to (N, classes) logits, or to (N, 3, H, W) pixels."""

Gradient = Callable[[Tensor, Tensor], Tensor]
"""From images and (N,) labels to the gradient of the loss, of the images' shape."""

STEPS = 5
"""Of PGD, as in the paper."""

STEP_FACTOR = 2.5
"""A step of PGD is this times eps / steps, as in the paper: the way to the ball's edge and back is walkable."""


def loss_gradient(logits_of: Forward) -> Gradient:
    """The gradient of the cross entropy, summed over the batch, so that no image counts for another one.

    It is zero where the logits do not depend on the image in a differentiable way.
    """

    def gradient(images: Tensor, labels: Tensor) -> Tensor:
        leaf = images.detach().requires_grad_()
        with torch.enable_grad():
            loss = F.cross_entropy(logits_of(leaf), labels, reduction="sum")
            if not loss.requires_grad:
                return torch.zeros_like(images)
            (result,) = torch.autograd.grad(loss, leaf, allow_unused=True)
        return torch.zeros_like(images) if result is None else result

    return gradient


def straight_through(transform: Forward) -> Forward:
    """BPDA: ``transform`` forward, the identity backward. Pixels to pixels, of the same shape."""

    def through(images: Tensor) -> Tensor:
        with torch.no_grad():
            moved = transform(images.detach()) - images.detach()
        return images + moved

    return through


def fgsm(gradient: Gradient, images: Tensor, labels: Tensor, eps: float) -> Tensor:
    """One step of eps along the gradient's sign, clamped to 0..255.

    Args:
        gradient: of the loss that is to grow.
        images: (N, 3, H, W) floating point in 0..255.
        labels: (N,) int64.
        eps: the largest change of a sample, above 0, in 0..255.

    Raises:
        InvalidInputError: images or eps outside what is allowed, or a gradient that is not finite.
    """
    _check(images, labels, eps)
    return (images + eps * _signs(gradient, images, labels)).clamp(0, 255)


def pgd(
    gradient: Gradient,
    images: Tensor,
    labels: Tensor,
    eps: float,
    *,
    steps: int = STEPS,
    step: float | None = None,
    start: Tensor | None = None,
) -> Tensor:
    """Projected gradient ascent: steps along the gradient's sign, each followed by the way back into ball and range.

    Args:
        gradient, images, labels, eps: as in :func:`fgsm`.
        steps: at least 1.
        step: the length of a step; 2.5 eps / steps when None.
        start: where to begin, relative to the images in units of eps, -1 .. 1, as of :func:`random_start`; at the
            images when None.

    Raises:
        InvalidInputError: as in :func:`fgsm`; steps or a step that are not positive, a start of another shape.
    """
    _check(images, labels, eps)
    length = STEP_FACTOR * eps / max(steps, 1) if step is None else step
    if steps < 1 or not 0 < length < math.inf:
        raise InvalidInputError(f"PGD takes at least 1 step of a positive length; got {steps} of {length:g}")
    if start is not None and start.shape != images.shape:
        raise InvalidInputError(f"the start has the images' shape {tuple(images.shape)}; got {tuple(start.shape)}")
    low, high = (images - eps).clamp(min=0), (images + eps).clamp(max=255)
    current = images if start is None else (images + eps * start).clamp(low, high)
    for _ in range(steps):
        signs = _signs(gradient, current, labels)
        if not bool(signs.any()):
            break  # and so it would go on
        current = (current + length * signs).clamp(low, high)
    return current.detach()


def random_start(shape: tuple[int, ...], seeds: list[int]) -> Tensor:
    """Uniform noise in -1 .. 1 for a batch, each image's from a seed of its own: the batch size does not matter.

    Args:
        shape: (3, H, W) of an image.
        seeds: one for each image.
    """
    noise = [torch.rand(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return 2 * torch.stack(noise) - 1 if noise else torch.empty(0, *shape)


def whole_pixels(adversarial: Tensor, images: Tensor, eps: float) -> Tensor:
    """The nearest image of integers that is still in the ball: what a camera sees and a file holds.

    Args:
        adversarial: in the ball around ``images``.
        images: integers.
        eps: as for the attack; only its integer part is of use.
    """
    reach = math.floor(eps)
    return adversarial.round().clamp(images - reach, images + reach).clamp(0, 255)


def _signs(gradient: Gradient, images: Tensor, labels: Tensor) -> Tensor:
    values = gradient(images, labels)
    if not bool(torch.isfinite(values).all()):
        raise InvalidInputError("the gradient of the loss holds NaN or infinity; check the network's weights")
    return values.sign()


def _check(images: Tensor, labels: Tensor, eps: float) -> None:
    if images.ndim != 4 or not images.is_floating_point() or labels.shape != images.shape[:1]:
        raise InvalidInputError(
            f"an attack takes floating-point images (N, 3, H, W) and N labels; got {images.dtype} "
            f"{tuple(images.shape)} and {tuple(labels.shape)}"
        )
    if not 0 < eps <= 255:
        raise InvalidInputError(f"eps is above 0 and at most 255, of 255; got {eps:g}")
    if images.numel() and not (float(images.amin()) >= 0 and float(images.amax()) <= 255):
        raise InvalidInputError("an attack takes pixels in 0..255; got others")
