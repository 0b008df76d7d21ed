"""Exports networks with the JPEG layer and says what each became: method in README.md.

    python benchmarks/export_table.py [--networks NAME ...] [--shared DATA] [--images 800] [--output FILE.json]

One row a network: its ONNX file, its FP16 file and its engines of TensorRT-RTX, with the differences to PyTorch.
With --shared, networks that have weights there are also run on its validation images in ONNX Runtime. Prints Markdown,
writes JSON. A network that cannot be exported is a row with its error, and exit code 1; one that half precision cannot
hold has its reason in the FP16 column.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

if TYPE_CHECKING:
    from edgejpeg.models import LoadedModel

HERE = Path(__file__).resolve().parent

LARGE = ("resnet18", "squeezenet1_1", "mobilenet_v2", "efficientnet_lite0")
PATTERNS = ("cifar_*",)
"""The papers' networks for CIFAR, as far as they are registered."""

QUALITY, SUBSAMPLING, BATCH = 75, "420", 20


@dataclass
class Row:
    """What became of a network. Times in seconds, sizes in bytes; None where it was not measured.

    ``onnx_difference`` and ``fp16_difference`` are the largest differences of a logit over the standard deviation of
    its image's logits, on the same decoded pixels, of the check at the end of the export.
    """

    network: str
    weights: str = ""
    error: str | None = None
    onnx_bytes: int | None = None
    onnx_seconds: float | None = None
    onnx_difference: float | None = None
    flipped: float | None = None
    fp16_error: str | None = None
    fp16_bytes: int | None = None
    fp16_difference: float | None = None
    rtx: dict[str, Any] = field(default_factory=dict)
    real_images: dict[str, Any] | None = None


def default_networks() -> list[str]:
    """The large networks, and the registered ones of :data:`PATTERNS`."""
    from edgejpeg.models import list_models

    return [*LARGE, *(name for pattern in PATTERNS for name in list_models(pattern))]


def measure(name: str, shared: Path | None = None, images: int = 0) -> Row:
    """Export a network in both precisions, build both engines, and run it on real images where it has weights."""
    from edgejpeg.errors import EdgeJpegError, ExportError
    from edgejpeg.export import export_engine, export_onnx, layer_from_quality

    row = Row(name)
    try:
        model = _load(name, shared)
        row.weights = model.weights if model.pretrained else "random"
        with tempfile.TemporaryDirectory() as folder:
            layer = layer_from_quality(QUALITY, SUBSAMPLING)
            start = time.perf_counter()
            full = export_onnx(model, folder, layer=layer)
            row.onnx_seconds = time.perf_counter() - start
            results = {"fp32": full}
            row.onnx_bytes, row.onnx_difference = full.onnx_path.stat().st_size, full.report.logit_error
            try:
                half = results["fp16"] = export_onnx(model, folder, layer=layer, precision="fp16")
                row.fp16_bytes, row.fp16_difference = half.onnx_path.stat().st_size, half.report.logit_error
            except ExportError as error:  # deep networks with random weights overflow half precision
                row.fp16_error = str(error)
            row.flipped = full.report.flipped / max(full.report.coefficients, 1)
            if importlib.util.find_spec("tensorrt_rtx") is not None:
                for precision, result in results.items():
                    engine = export_engine(result.onnx_path, "tensorrt-rtx")
                    row.rtx[precision] = {
                        "seconds": engine.seconds,
                        "bytes": engine.info.engine_bytes,
                        "version": engine.info.tensorrt_version,
                        "layers_with_weights": engine.info.facts["layers_with_weights"],
                        "jpeg_layer_operators": engine.info.facts["jpeg_layer_operators"],
                    }
            if (
                shared is not None
                and images
                and row.fp16_error is None
                and model.pretrained
                and model.input_size == (224, 224)
            ):
                files = sorted((shared / "images" / "imagenet-val800").glob("*.JPEG"))[:images]
                row.real_images = on_real_images(model, full.onnx_path, half.onnx_path, files)
    except EdgeJpegError as error:
        row.error = str(error)
    return row


def on_real_images(model: LoadedModel, full: Path, half: Path, files: list[Path]) -> dict[str, Any]:
    """Both ONNX files against PyTorch on centre crops, on the same decoded pixels; the layer against float64."""
    import torch

    from edgejpeg.export.layer import ExportModule
    from edgejpeg.learn.data import read_image

    module = ExportModule(
        model.module, size=model.input_size, mean=model.mean, std=model.std, subsampling=SUBSAMPLING, tables=_tables()
    ).eval()
    probe, delivered = _probe(full), _session(half.read_bytes())
    count: dict[str, Any] = dict.fromkeys(("coefficients", "flipped", "wrong", "fp32_agreement", "fp16_agreement"), 0)
    worst = {"fp32_difference": 0.0, "fp16_difference": 0.0}
    for start in range(0, len(files), BATCH):
        batch = np.stack([read_image(f, size=model.input_size) for f in files[start : start + BATCH]])
        feed = {"image": batch.astype(np.float32) / 255}
        logits, decoded, *levels = probe.run(None, feed)
        (halved,) = delivered.run(None, feed)
        with torch.no_grad():
            expected = module.classify(torch.from_numpy(decoded)).numpy()
        for precision, found in (("fp32", logits), ("fp16", halved)):
            error = float((np.abs(found - expected).max(axis=1) / expected.std(axis=1)).max())
            worst[f"{precision}_difference"] = max(worst[f"{precision}_difference"], error)
            count[f"{precision}_agreement"] += int((found.argmax(1) == expected.argmax(1)).sum())
        for index in range(len(batch)):
            _count_flips(count, feed["image"][index], [group[index] for group in levels])
    for name in ("fp32_agreement", "fp16_agreement"):
        count[name] /= len(files)
    count["flipped"] /= count["coefficients"]
    return {"images": len(files), **count, **worst}


def _count_flips(count: dict[str, Any], image: np.ndarray, levels: list[np.ndarray]) -> None:
    """Levels that are not the float64 reference's, and those of them that are off any tie."""
    from edgejpeg.export.reference import quantizer_ratios

    found = [
        component
        for group in levels
        for component in group.reshape(-1, 8, 8, *group.shape[1:]).transpose(0, 3, 4, 1, 2)
    ]
    for level, ratio in zip(found, quantizer_ratios(image, _tables()[0], SUBSAMPLING), strict=True):
        count["coefficients"] += level.size
        count["flipped"] += int((level != np.rint(ratio)).sum())
        count["wrong"] += int((np.abs(level - ratio) > 0.501).sum())


def _tables() -> np.ndarray:
    from edgejpeg.jpeg.tables import ijg_tables

    return np.stack([table.array.reshape(64) for table in ijg_tables(QUALITY)]).astype(np.float32)[None]


def _probe(path: Path) -> Any:
    import onnx

    from edgejpeg.export.functions import expose_levels

    return _session(expose_levels(onnx.load(path))[0].SerializeToString())


def _session(model: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # a second thread spins where the machine is not idle
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def table(rows: list[Row]) -> str:
    """The rows as Markdown."""
    lines = [
        "| network | ONNX | difference | FP16 | difference | RTX engine fp32 | fp16 |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if row.error is not None:
            lines.append(f"| {row.network} | failed: {row.error} | | | | | |")
            continue
        engines = [row.rtx.get(precision) for precision in ("fp32", "fp16")]
        built = [f"{e['bytes'] / 1e6:.1f} MB, {e['seconds']:.1f} s" if e else "not built" for e in engines]
        half = f"{(row.fp16_bytes or 0) / 1e6:.1f} MB | {row.fp16_difference or 0:.0e}"
        if row.fp16_error is not None:
            half = f"refused: {row.fp16_error.rpartition('nothing was written: ')[2]} | "
        lines.append(
            f"| {row.network} | {row.onnx_bytes / 1e6:.1f} MB, {row.onnx_seconds:.0f} s | {row.onnx_difference:.0e} "
            f"| {half} | {built[0]} | {built[1]} |"
        )
    real = [row for row in rows if row.real_images]
    if real:
        lines += [
            "",
            "| network | images | coefficients flipped | fp32: logits | top-1 agrees | fp16: logits | top-1 agrees |",
            "|---|---|---|---|---|---|---|",
        ]
        for row in real:
            r = row.real_images
            lines.append(
                f"| {row.network} | {r['images']} | {r['flipped']:.1e} of {r['coefficients'] / 1e6:.0f} M | "
                f"{r['fp32_difference']:.1e} | {r['fp32_agreement']:.2%} | {r['fp16_difference']:.1e} | "
                f"{r['fp16_agreement']:.2%} |"
            )
    return "\n".join(lines)


def _load(name: str, shared: Path | None) -> LoadedModel:
    from edgejpeg.models import create_model

    if shared is None:
        return create_model(name)
    from adaptation import load_network

    return load_network(name, shared)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", metavar="NAME", help="(default: the papers' and four large ones)")
    parser.add_argument("--shared", type=Path, metavar="DATA", help="folder with models/ and images/")
    parser.add_argument("--images", type=int, default=800, help="of --shared (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "export_table.json")
    args = parser.parse_args()
    rows = []
    for name in args.networks or default_networks():
        rows.append(measure(name, args.shared, args.images))
        print(f"{name}: {rows[-1].error or 'done'}", file=sys.stderr)
        _write(args.output, rows)
    print(table(rows))
    return int(any(row.error for row in rows))


def _write(output: Path, rows: list[Row]) -> None:
    import onnx
    import onnxruntime
    import torch

    kept = []
    if output.is_file():  # rows of networks that this run does not measure stay
        measured = {row.network for row in rows}
        before = json.loads(output.read_text(encoding="utf-8"))["rows"]
        kept = [row for row in before if row["network"] not in measured]
    document = {
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
        "layer": f"IJG quality {QUALITY}, {SUBSAMPLING}",
        "rows": [*kept, *(vars(row) for row in rows)],
    }
    output.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
