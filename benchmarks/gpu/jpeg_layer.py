"""The JPEG layer on a GPU: are the fused kernels right, how near to the copy floor, what share of a training step.

    python benchmarks/gpu/jpeg_layer.py [--output benchmarks/results/gpu_jpeg_layer.json]

Needs a GPU, PyTorch with CUDA, Triton and torchvision. Takes two to three minutes.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgejpeg.learn import fused
from edgejpeg.learn.quantizer import hard_quantize, soft_quantize
from edgejpeg.learn.transform import coefficients_from_rgb, rgb_from_coefficients

BATCH, SIZE = 128, 224
KINDS = ("soft", "authors", "hard")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/gpu_jpeg_layer.json"))
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("no GPU: torch.cuda.is_available() is False; nothing was measured", file=sys.stderr)
        return 1
    report: dict[str, Any] = {
        "date": date.today().isoformat(),
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": __import__("triton").__version__,
        "python": platform.python_version(),
    }
    report["correctness"] = correctness()
    report["configurations"] = configurations()
    report["training_step"] = training_step()
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"written: {arguments.output}")
    return 0


def tables(device: str = "cuda", steps: tuple[float, float] = (1, 40), seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random steps, and alphas for a hardness of .05 to 150; (1, 2, 8, 8)."""
    generator = torch.Generator().manual_seed(seed)
    q = steps[0] + (steps[1] - steps[0]) * torch.rand(1, 2, 8, 8, generator=generator)
    alpha = torch.exp(8 * torch.rand(q.shape, generator=generator) - 3) / q**2
    return q.to(device), alpha.to(device)


def unfused(rgb: Tensor, q: Tensor, alpha: Tensor, kind: str, subsampling: str = "444") -> Tensor:
    """The same layer in PyTorch's operators, in the dtype of its input."""

    def quantize(z: Tensor, slot: int) -> Tensor:
        step, inverse = (values[:, slot][:, None, None] for values in (q, alpha))
        if kind == "hard":
            return hard_quantize(z, step)
        return soft_quantize(z, step, inverse, window="exact" if kind == "soft" else 5)

    y, cb, cr = coefficients_from_rgb(rgb, subsampling)
    height, width = rgb.shape[-2:]
    return rgb_from_coefficients([quantize(y, 0), quantize(cb, 1), quantize(cr, 1)], subsampling, (height, width))


def correctness() -> dict[str, Any]:
    """Largest differences to float64, pixels and gradients, as fractions of the largest value."""
    found: dict[str, Any] = {}
    rgb = 255 * torch.rand(4, 3, 96, 136, device="cuda")
    weights = torch.randn_like(rgb)
    for kind in KINDS:
        q, alpha = tables()
        ours = [values.clone().requires_grad_() for values in (rgb, q, alpha)]
        result = fused.fused_444(*ours, quantizer=kind)  # type: ignore[arg-type]
        (result * weights).sum().backward()
        exact = [values.double().requires_grad_() for values in (rgb, q, alpha)]
        expected = unfused(*exact, kind)
        (expected * weights).sum().backward()
        pairs = {"pixels": (result, expected)}
        pairs |= {name: (a.grad, b.grad) for name, a, b in zip(("d rgb", "d q", "d alpha"), ours, exact, strict=True)}  # type: ignore[dict-item]
        found[kind] = {
            name: float((a.detach().double() - b.detach()).abs().max() / b.detach().abs().max())
            for name, (a, b) in pairs.items()
            if b is not None and bool(b.any())
        }
        print(f"correctness, {kind}: " + ", ".join(f"{name} {error:.1e}" for name, error in found[kind].items()))
    return found


def configurations() -> list[dict[str, Any]]:
    """Milliseconds of the fused kernels by blocks and warps, of the unfused layer, and of a copy of the same bytes."""
    rgb = 255 * torch.rand(BATCH, 3, SIZE, SIZE, device="cuda")
    grad = torch.randn_like(rgb)
    q, alpha = tables()
    q.requires_grad_()
    alpha.requires_grad_()
    target = torch.empty_like(rgb)

    def step(make: Callable[[Tensor], Tensor], leaf: Tensor) -> Callable[[], None]:
        def run() -> None:
            make(leaf).backward(grad)

        return run

    rows = []
    copy = milliseconds([lambda: target.copy_(rgb)])[0]
    rows.append({"what": "copy of the batch (read and write once)", "ms": copy})
    chosen = (fused._BLOCKS, fused._WARPS)
    with_pixels = rgb.clone().requires_grad_()
    for blocks in (16, 32, 64):
        for warps in (2, 4, 8):
            fused._BLOCKS, fused._WARPS = blocks, warps
            with torch.no_grad():
                (forward,) = milliseconds([lambda: fused.fused_444(rgb, q, alpha)])
            tables_only, everything = milliseconds(
                [
                    step(lambda leaf: fused.fused_444(leaf, q, alpha), rgb),
                    step(lambda leaf: fused.fused_444(leaf, q, alpha), with_pixels),
                ]
            )
            rows.append(
                {
                    "what": f"fused, {blocks} blocks, {warps} warps",
                    "ms": forward,
                    "over_copy": forward / copy,
                    "forward_backward_tables_ms": tables_only,
                    "forward_backward_all_ms": everything,
                }
            )
    fused._BLOCKS, fused._WARPS = chosen
    with torch.no_grad():
        (forward,) = milliseconds([lambda: unfused(rgb, q, alpha, "soft")])
    (both,) = milliseconds([step(lambda leaf: unfused(leaf, q, alpha, "soft"), rgb)])
    rows.append({"what": "unfused", "ms": forward, "over_copy": forward / copy, "forward_backward_tables_ms": both})
    for row in rows:
        print(", ".join(f"{name} {value:.3f}" if isinstance(value, float) else value for name, value in row.items()))
    return rows


def training_step() -> dict[str, Any]:
    """A ResNet-18 training step in AMP at batch 128, with and without the fused layer in front, interleaved."""
    from edgejpeg.models.torchvision_compat import import_torchvision

    model = import_torchvision().models.resnet18().cuda().to(memory_format=torch.channels_last)
    q, alpha = tables()
    q.requires_grad_()
    optimizer = torch.optim.SGD([*model.parameters(), q], lr=1e-3, momentum=0.9)
    scaler = torch.amp.GradScaler("cuda")
    rgb = 255 * torch.rand(BATCH, 3, SIZE, SIZE, device="cuda")
    labels = torch.randint(1000, (BATCH,), device="cuda")
    loss = nn.CrossEntropyLoss()

    def step(layer: bool) -> None:
        optimizer.zero_grad(set_to_none=True)
        pixels = fused.fused_444(rgb, q, alpha) if layer else rgb
        with torch.autocast("cuda", torch.float16):
            value = loss(model(((pixels - 127.5) / 58).contiguous(memory_format=torch.channels_last)), labels)
        scaler.scale(value).backward()
        scaler.step(optimizer)
        scaler.update()

    without, with_layer = milliseconds([lambda: step(False), lambda: step(True)], rounds=60)
    found = {
        "resnet18_amp_batch128_ms": without,
        "with_layer_ms": with_layer,
        "layer_share": (with_layer - without) / with_layer,
    }
    print(", ".join(f"{name} {value:.4f}" for name, value in found.items()))
    return found


def milliseconds(functions: Sequence[Callable[[], Any]], rounds: int = 30) -> list[float]:
    """Median time of each, interleaved, after a warm-up of half a second."""
    deadline = time.monotonic() + 0.5
    while time.monotonic() < deadline:
        for function in functions:
            function()
        torch.cuda.synchronize()
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(rounds):
        for function, taken in zip(functions, times, strict=True):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            function()
            end.record()
            end.synchronize()
            taken.append(start.elapsed_time(end))
    return [statistics.median(taken) for taken in times]


if __name__ == "__main__":
    sys.exit(main())
