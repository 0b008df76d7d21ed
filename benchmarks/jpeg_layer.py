"""Times the JPEG layer's forward and backward pass, and its memory, against its peers: method and results in README.md.

    python benchmarks/jpeg_layer.py [--threads 1] [--batch 32] [--size 224] [--rounds 7] [--device cpu|cuda]
                                    [--output FILE]

Prints a table of ratios and writes the JSON behind it. Peers that are not installed are left out, and said so.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from edgejpeg.jpeg.colour import RGB_TO_YCBCR, YCBCR_TO_RGB
from edgejpeg.jpeg.dct import DCT_MATRIX
from edgejpeg.jpeg.tables import ijg_tables
from edgejpeg.learn.layer import JpegLayer
from edgejpeg.learn.quantizer import soft_quantize

HERE = Path(__file__).resolve().parent
QUALITY = 75
REFERENCE = "kornia"


class PlainLayer(nn.Module):
    """A 4:2:0 JPEG layer as one writes it in an afternoon: blocks cut out, matmul, round straight-through, autograd."""

    def __init__(self) -> None:
        super().__init__()
        luma, chroma = (torch.tensor(table.array.astype("float32")) for table in ijg_tables(QUALITY))
        self.luma, self.chroma = nn.Parameter(luma), nn.Parameter(chroma)
        self.register_buffer("dct", torch.tensor(DCT_MATRIX, dtype=torch.float32))
        self.register_buffer("to_ycbcr", torch.tensor(RGB_TO_YCBCR, dtype=torch.float32))
        self.register_buffer("to_rgb", torch.tensor(YCBCR_TO_RGB, dtype=torch.float32))

    def forward(self, image: Tensor) -> Tensor:
        ycbcr = torch.einsum("ij,njhw->nihw", self.to_ycbcr, image)
        luma = self._code(ycbcr[:, :1] - 128, self.luma) + 128
        chroma = self._code(F.avg_pool2d(ycbcr[:, 1:], 2), self.chroma)
        chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False)
        return torch.einsum("ij,njhw->nihw", self.to_rgb, torch.cat([luma, chroma], 1))

    def _code(self, planes: Tensor, table: Tensor) -> Tensor:
        count, channels, height, width = planes.shape
        blocks = planes.reshape(count, channels, height // 8, 8, width // 8, 8).transpose(3, 4)
        scaled = self.dct @ blocks @ self.dct.T / table
        rounded = (scaled + (scaled.round() - scaled).detach()) * table
        return (self.dct.T @ rounded @ self.dct).transpose(3, 4).reshape(planes.shape)


def kornia_layer() -> Callable[[Tensor], Tensor] | None:
    """kornia's codec with tables that learn; None where it is not installed."""
    if importlib.util.find_spec("kornia") is None:
        return None
    from kornia.enhance import jpeg_codec_differentiable

    tables = [nn.Parameter(torch.tensor(table.array.astype("float32"))) for table in ijg_tables(QUALITY)]

    def run(image: Tensor) -> Tensor:
        # At quality 50 kornia's scale is 1: the tables are taken as they are. Its pixels are in 0..1.
        quality = torch.full((image.shape[0],), 50.0, device=image.device)
        luma, chroma = (table.to(image.device) for table in tables)
        return jpeg_codec_differentiable(image / 255, quality, luma, chroma)

    return run


def layers() -> dict[str, Callable[[Tensor], Tensor]]:
    tables = ijg_tables(QUALITY)
    found: dict[str, Callable[[Tensor], Tensor]] = {
        "Q_d, alpha 5": JpegLayer(*tables, "420"),
        "Q_d, h 0.7": JpegLayer(*tables, "420", hardness=0.7),
        "Q_u": JpegLayer(*tables, "420", "hard"),
        "Q_d, the codec's integers": JpegLayer(*tables, "420", encoder_rounding=True, decoder_rounding=True),
        "plain straight-through": PlainLayer(),
    }
    kornia = kornia_layer()
    if kornia is None:
        print("kornia is not installed (pip install --no-deps kornia kornia_rs): left out", file=sys.stderr)
    else:
        found[REFERENCE] = kornia
    return found


def step(layer: Callable[[Tensor], Tensor], image: Tensor, weights: Tensor) -> None:
    """Forward and backward, with gradients for the image and the tables."""
    image.grad = None
    layer(image).backward(weights)


def timed(layer: Callable[[Tensor], Tensor], image: Tensor, weights: Tensor, clock: str) -> float:
    """Seconds of one step. Processor time does not count what other processes take from a shared core."""
    now = time.process_time if clock == "processor" else time.perf_counter
    if image.is_cuda:
        torch.cuda.synchronize()
    start = now()
    step(layer, image, weights)
    if image.is_cuda:
        torch.cuda.synchronize()
    return now() - start


def clock_for(arguments: argparse.Namespace) -> str:
    return "processor" if arguments.device == "cpu" and arguments.threads == 1 else "wall"


def kept_bytes(run: Callable[[], Tensor], inputs: list[Tensor]) -> int:
    """Bytes that autograd keeps between forward and backward, without the inputs and parameters themselves."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    for tensor in inputs:
        kept.pop(tensor.untyped_storage().data_ptr(), None)
    return sum(kept.values())


def peak_bytes(run: Callable[[], object], device: str) -> int:
    """The most memory at one time beyond what is there before, in the allocator's own count."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run()
    present = most = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            present += event.nbytes()
            most = max(most, present)
    return most


def naive_quantize(z: Tensor, q: Tensor, alpha: float, bits: int) -> Tensor:
    """[JPEG-DL eq. 5-7] as it is written: all 2 L + 1 levels in memory."""
    levels = 2 ** (bits - 1)
    values = torch.arange(-levels, levels + 1, dtype=z.dtype, device=z.device) * q[..., None]
    return (torch.softmax(-alpha * (z[..., None] - values) ** 2, dim=-1) * values).sum(-1)


def quantizer_memory(device: str, bits: int) -> dict[str, Any]:
    """Extra memory of one quantization, forward and backward."""
    generator = torch.Generator().manual_seed(2)
    z = (torch.randn(2**19 // 2**bits, 64, generator=generator) * 40).to(device).requires_grad_()
    q = (torch.rand(64, generator=generator) * 20 + 2).to(device).requires_grad_()
    runs: dict[str, Callable[[], Tensor]] = {
        "ours": lambda: soft_quantize(z, q, 0.05, bits=bits),
        "naive": lambda: naive_quantize(z, q, 0.05, bits),
    }
    result: dict[str, Any] = {"bits": bits, "coefficients": z.numel()}
    for name, run in runs.items():
        run().sum().backward()

        def both(run: Callable[[], Tensor] = run) -> None:
            run().sum().backward()

        result[name] = {"kept": kept_bytes(run, [z, q]), "peak": peak_bytes(both, device)}
    result["peak ratio"] = result["naive"]["peak"] / result["ours"]["peak"]
    return result


def spread(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    last = len(ordered) - 1
    return {
        "median": statistics.median(ordered),
        "p10": ordered[round(0.1 * last)],
        "p90": ordered[round(0.9 * last)],
    }


def measure(arguments: argparse.Namespace, image: Tensor, weights: Tensor) -> dict[str, Any]:
    """Every layer once a round, in turn; ratios are taken within a round."""
    found = {
        name: layer.to(arguments.device) if isinstance(layer, nn.Module) else layer for name, layer in layers().items()
    }
    times: dict[str, list[float]] = {name: [] for name in found}
    for layer in found.values():
        step(layer, image, weights)
    for _ in range(arguments.rounds):
        for name, layer in found.items():
            times[name].append(timed(layer, image, weights, clock_for(arguments)))
    results = {}
    for name, layer in found.items():
        inputs = [image, *(layer.parameters() if isinstance(layer, nn.Module) else [])]
        image.grad = None
        results[name] = {
            "milliseconds": spread([1e3 * t for t in times[name]]),
            "kept bytes": kept_bytes(lambda layer=layer: layer(image), inputs),
            "peak bytes": peak_bytes(lambda layer=layer: step(layer, image, weights), arguments.device),
        }
        if REFERENCE in found:
            pairs = zip(times[REFERENCE], times[name], strict=True)
            results[name][f"times as fast as {REFERENCE}"] = spread([theirs / ours for theirs, ours in pairs])
    return results


def versions() -> dict[str, str]:
    names = ("torch", "kornia", "numpy")
    return {name: importlib.metadata.version(name) for name in names if importlib.util.find_spec(name)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--output", type=Path, default=HERE / "results" / "jpeg_layer.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    shape = (arguments.batch, 3, arguments.size, arguments.size)
    # Smooth pictures with noise: coefficients of all sizes, as photographs have.
    coarse = torch.rand(arguments.batch, 3, arguments.size // 16, arguments.size // 16) * 255
    smooth = F.interpolate(coarse, size=shape[2:], mode="bicubic", align_corners=False)
    image = (smooth + 6 * torch.randn(shape)).clamp(0, 255).to(arguments.device).requires_grad_()
    weights = torch.randn(shape, device=arguments.device)
    results = measure(arguments, image, weights)
    memory = [quantizer_memory(arguments.device, bits) for bits in (8, 11)]

    print(f"{'':28} {'ms':>8} {'x ' + REFERENCE:>10} {'p10..p90':>14} {'kept MB':>9} {'peak MB':>9}")
    for name, entry in results.items():
        ratio = entry.get(f"times as fast as {REFERENCE}")
        shown = f"{ratio['median']:10.2f} {ratio['p10']:6.2f}..{ratio['p90']:6.2f}" if ratio else ""
        print(
            f"{name:28} {entry['milliseconds']['median']:8.1f} {shown:25} "
            f"{entry['kept bytes'] / 1e6:9.1f} {entry['peak bytes'] / 1e6:9.1f}"
        )
    for entry in memory:
        ours, naive = entry["ours"], entry["naive"]
        print(
            f"Q_d at b = {entry['bits']}, {entry['coefficients']} coefficients: peak {ours['peak'] / 1e6:.2f} MB, "
            f"of the whole softmax {naive['peak'] / 1e6:.1f} MB (1/{entry['peak ratio']:.0f}); kept for "
            f"the backward pass {ours['kept']} bytes and {naive['kept'] / 1e6:.1f} MB"
        )
    document = {
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "device": arguments.device,
        "threads": arguments.threads,
        "clock": clock_for(arguments),
        "shape": list(shape),
        "subsampling": "420",
        "quality": QUALITY,
        "rounds": arguments.rounds,
        "versions": versions(),
        "layers": results,
        "quantizer": memory,
    }
    arguments.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
