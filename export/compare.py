"""The check at the end of an export: ONNX Runtime against PyTorch, and the JPEG layer against NumPy in float64.

Two float32 implementations of the layer differ in a sum's last bit, and a coefficient that lies on a rounding tie then
goes one way here and the other way there: it *flips*. So the layer is held to its float64 reference level by level (a
flip is allowed where the reference lies on a tie, and there alone), its pixels are held to what the reference makes of
the same levels, and the network is held to PyTorch on the same pixels. What remains, the delivered file against
PyTorch end to end, has a wider tolerance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from edgejpeg._optional import require_onnxruntime
from edgejpeg.errors import ExportError, InvalidInputError
from edgejpeg.export.functions import expose_levels
from edgejpeg.export.layer import ExportModule
from edgejpeg.export.reference import Levels, quantizer_ratios, reconstruct
from edgejpeg.jpeg.tables import ijg_tables

MIN_IMAGES = 4

LOGIT_TOLERANCE = {"fp32": 1e-4, "fp16": 0.25, "int8": 3.0}
"""Largest difference of a logit on the same pixels, over the standard deviation of the image's logits.

A correct MobileNetV2 in half precision, rounded after every layer, is .12 away, a broken one several. What INT8 loses
depends on the network: its tolerance finds broken scales, and the agreement says the rest."""

END_TO_END_TOLERANCE = {"fp32": 0.1, "fp16": 0.35, "int8": 3.0}
"""The same for the delivered graph and PyTorch's own JPEG layer, where flipped coefficients move the logits."""

FLIPPED_TOLERANCE = 1e-4
"""Largest fraction of coefficients that flip..."""

FLIPPED_ALLOWANCE = 4
"""...and how many may flip however small the images are."""

TIE_MARGIN = 1e-3
"""A coefficient may flip where coefficient / step is no farther than this from a tie."""

PIXEL_TOLERANCE = 2e-5
"""Largest difference of a decoded pixel, in 0..1, given the same levels."""

_HALF_MAX = float(np.finfo(np.float16).max)


@dataclass
class CheckReport:
    """What the check measured; it passed when ``failures`` is empty.

    Attributes:
        precision: ``"fp32"``, ``"fp16"`` or ``"int8"``.
        batches: the batch sizes that were run.
        providers: of the ONNX Runtime session, as the session itself reports them.
        logit_error: largest difference on the same pixels, in standard deviations of an image's logits.
        end_to_end_error: the same for the delivered graph against PyTorch, flipped coefficients included.
        top1_agreement: images with the same first class, of ``images``.
        coefficients, flipped: of the JPEG layer, both 0 without one.
        pixel_error: largest difference of a decoded pixel, in 0..1.
        largest_activation: of the network in float32, which half precision must hold.
        failures: one line for each tolerance that was missed.
    """

    precision: str
    batches: list[int] = field(default_factory=list)
    providers: list[str] = field(default_factory=list)
    logit_error: float = 0.0
    end_to_end_error: float = 0.0
    top1_agreement: int = 0
    coefficients: int = 0
    flipped: int = 0
    pixel_error: float = 0.0
    largest_activation: float = 0.0
    failures: list[str] = field(default_factory=list)

    @property
    def images(self) -> int:
        """How many images were run."""
        return sum(self.batches)

    @property
    def passed(self) -> bool:
        """Whether every tolerance was kept."""
        return not self.failures

    def to_document(self) -> dict[str, Any]:
        """The figures with their tolerances, as plain values for JSON."""
        document: dict[str, Any] = {
            "passed": self.passed,
            "runtime": "onnxruntime",
            "providers": self.providers,
            "images": self.images,
            "batches": self.batches,
            "top1_agreement": self.top1_agreement,
            "logit_error_in_std": self.logit_error,
            "logit_tolerance_in_std": LOGIT_TOLERANCE[self.precision],
            "end_to_end_error_in_std": self.end_to_end_error,
            "end_to_end_tolerance_in_std": END_TO_END_TOLERANCE[self.precision],
        }
        if self.coefficients:
            document["jpeg_layer"] = {
                "coefficients": self.coefficients,
                "flipped": self.flipped,
                "flipped_tolerance": FLIPPED_TOLERANCE,
                "pixel_error": self.pixel_error,
                "pixel_tolerance": PIXEL_TOLERANCE,
            }
        if self.precision == "fp16":
            document["largest_activation"] = self.largest_activation
        return document


def check_images(count: int, size: tuple[int, int], seed: int = 0) -> NDArray[np.uint8]:
    """Images with the statistics of photographs: overlapping discs of all sizes ("dead leaves"), shaded, with noise.

    Args:
        count: at least 4.
        size: H, W.
        seed: the same seed gives the same images.

    Returns:
        (count, 3, H, W) uint8 RGB.
    """
    if count < MIN_IMAGES:
        raise InvalidInputError(f"the check needs at least {MIN_IMAGES} images (batches of 1 and 3); got {count}")
    rng = np.random.default_rng(seed)
    height, width = size
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    images = np.empty((count, 3, height, width), dtype=np.uint8)
    for image in images:
        canvas = np.empty((3, height, width), dtype=np.float32)
        canvas[:] = rng.uniform(40, 215, (3, 1, 1))
        largest = max(height, width) / 3
        for _ in range(120):
            radius = largest / (1 + 24 * rng.random())
            dy, dx = y - rng.uniform(0, height), x - rng.uniform(0, width)
            inside = dy * dy + dx * dx < radius * radius
            shading = 1 + rng.uniform(-0.4, 0.4) * dx[inside] / radius
            canvas[:, inside] = rng.uniform(10, 245, (3, 1)) * shading
        canvas += rng.normal(0, 4, canvas.shape)
        image[:] = np.clip(np.rint(canvas), 0, 255)
    return images


def check_export(
    model: onnx.ModelProto,
    module: ExportModule,
    images: NDArray[np.uint8],
    *,
    input_names: Sequence[str],
    precision: str = "fp32",
) -> CheckReport:
    """Run a model and its PyTorch original on the same images and compare.

    A graph whose tables are an input is run with the IJG's tables at several qualities, one for each image.

    Args:
        model: the graph as it will be delivered.
        module: what it was exported from, in float32.
        images: (count, 3, H, W) uint8 RGB, at least 4.
        input_names: of the graph, in the order of the module's ``forward``.
        precision: ``"fp32"``, ``"fp16"`` or ``"int8"``, which sets the tolerances.

    Raises:
        ExportError: ONNX Runtime cannot load or run the model.
    """
    report = CheckReport(precision)
    delivered = session(model)
    report.providers = list(delivered.get_providers())
    probe = session(expose_levels(model)[0]) if module.front_end is not None else None
    sizes = [1] + [min(3, len(images) - start) for start in range(1, len(images), 3)]
    activations = _LargestActivation(module.backbone)
    start = 0
    with torch.no_grad(), activations:
        for size in sizes:
            batch = images[start : start + size]
            inputs = module_inputs(module, batch, shared=start % 2 == 1)
            feed = {name: value.numpy() for name, value in zip(input_names, inputs, strict=True)}
            logits = run(delivered, feed)[0]
            original = module(*inputs).numpy()
            if probe is None:
                report.logit_error = max(report.logit_error, _error(logits, original))
            else:
                exposed, decoded, *levels = run(probe, feed)
                on_same_pixels = module.classify(torch.from_numpy(decoded)).numpy()
                report.logit_error = max(report.logit_error, _error(exposed, on_same_pixels))
                _check_layer(report, module, inputs, decoded, levels)
            report.end_to_end_error = max(report.end_to_end_error, _error(logits, original))
            report.top1_agreement += int((logits.argmax(1) == original.argmax(1)).sum())
            report.batches.append(size)
            start += size
    report.largest_activation = activations.value
    _judge(report, activations.where)
    return report


def _judge(report: CheckReport, where: str) -> None:
    # "not <=" so that NaN fails.
    tolerance, end_to_end = LOGIT_TOLERANCE[report.precision], END_TO_END_TOLERANCE[report.precision]
    if not report.logit_error <= tolerance:
        report.failures.append(f"logits differ by {report.logit_error:.2g} standard deviations, above {tolerance:g}")
    if not report.end_to_end_error <= end_to_end:
        report.failures.append(
            f"end to end, logits differ by {report.end_to_end_error:.2g} standard deviations, above {end_to_end:g}"
        )
    if report.flipped > max(FLIPPED_ALLOWANCE, FLIPPED_TOLERANCE * report.coefficients):
        report.failures.append(
            f"{report.flipped} of {report.coefficients} coefficients flipped, above {FLIPPED_TOLERANCE:g} of them"
        )
    if not report.pixel_error <= PIXEL_TOLERANCE:
        report.failures.append(f"decoded pixels differ by {report.pixel_error:.2g}, above {PIXEL_TOLERANCE:g}")
    if report.precision == "fp16" and not report.largest_activation <= _HALF_MAX:
        report.failures.append(
            f"an activation of {where} reaches {report.largest_activation:.3g}, and half precision ends at "
            f"{_HALF_MAX:g}; export without --fp16"
        )


def _check_layer(
    report: CheckReport,
    module: ExportModule,
    inputs: Sequence[torch.Tensor],
    decoded: NDArray[np.float32],
    levels: Sequence[NDArray[np.float32]],
) -> None:
    assert module.front_end is not None
    subsampling = module.front_end.subsampling
    pixels = module.unit_image(inputs[0]).numpy()
    tables = np.asarray(inputs[1] if module.tables is None else module.tables)
    tables = np.broadcast_to(tables, (len(pixels), 2, 64))
    for index in range(len(pixels)):
        found = [component for group in levels for component in _components(group[index])]
        ratios = quantizer_ratios(pixels[index], tables[index], subsampling)
        wrong = 0
        for level, ratio in zip(found, ratios, strict=True):
            if level.shape != ratio.shape:
                raise ExportError(f"the JPEG layer gave {level.shape} levels where {ratio.shape} are due")
            report.coefficients += level.size
            report.flipped += int((level != np.rint(ratio)).sum())
            right = (np.abs(level - ratio) <= 0.5 + TIE_MARGIN) & (level == np.rint(level))
            wrong += int((~right).sum())
        if wrong:
            report.failures.append(f"{wrong} quantized coefficients are wrong, off any rounding tie")
        difference = np.abs(decoded[index] - reconstruct(found, tables[index], subsampling))
        report.pixel_error = max(report.pixel_error, _nan_to_inf(float(difference.max())))


def _components(group: NDArray[np.float32]) -> Levels:
    """(64 n, rows, columns) to n arrays (rows, columns, 8, 8)."""
    blocks = group.astype(np.float64).reshape(-1, 8, 8, *group.shape[1:])
    return list(blocks.transpose(0, 3, 4, 1, 2))


def module_inputs(module: ExportModule, batch: NDArray[np.uint8], shared: bool) -> list[torch.Tensor]:
    """What a module takes for uint8 images; tables that are an input are the IJG's, shared or for each image."""
    image = torch.from_numpy(batch.copy())
    inputs = [image if module.uint8 else image.float() / 255]
    if module.front_end is not None and module.tables is None:
        qualities = [75] if shared or len(batch) == 1 else [50 + 20 * (index % 3) for index in range(len(batch))]
        tables = np.stack([ijg_array(quality) for quality in qualities])
        inputs.append(torch.from_numpy(tables))
    return inputs


def ijg_array(quality: int) -> NDArray[np.float32]:
    """The IJG's tables at a quality as the layer takes them: (2, 64) float32, row-major."""
    return np.stack([table.array.reshape(64) for table in ijg_tables(quality)]).astype(np.float32)


def _error(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """The largest difference of a logit, over the standard deviation of its image's logits."""
    if found.shape != expected.shape:
        raise ExportError(f"the graph gives logits of shape {found.shape}, and PyTorch {expected.shape}")
    spread = expected.std(axis=1) if expected.shape[1] > 1 else np.abs(expected[:, 0])
    difference = np.abs(found.astype(np.float64) - expected).max(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return _nan_to_inf(float(np.where(difference == 0, 0, difference / spread).max()))


def _nan_to_inf(value: float) -> float:
    return float("inf") if np.isnan(value) else value


def session(model: onnx.ModelProto) -> Any:
    """ONNX Runtime's session of a graph on the CPU, or :class:`ExportError`."""
    runtime = require_onnxruntime(purpose="the check of edgejpeg export")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    try:
        return runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common base class of their own
        raise ExportError(f"ONNX Runtime cannot load the exported graph: {error}") from error


def run(loaded: Any, feed: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
    """All outputs of a session, or :class:`ExportError`."""
    try:
        return list(loaded.run(None, feed))
    except Exception as error:
        raise ExportError(f"ONNX Runtime cannot run the exported graph: {error}") from error


class _LargestActivation:
    """While entered, notes the largest magnitude that any module without children puts out.

    ONNX Runtime's CPU provider computes much of a half precision graph in float32, so it would not show an overflow.
    """

    def __init__(self, backbone: torch.nn.Module) -> None:
        self.value, self.where = 0.0, ""
        self._backbone = backbone
        self._handles: list[Any] = []

    def __enter__(self) -> None:
        for name, module in self._backbone.named_modules():
            if next(module.children(), None) is None:
                self._handles.append(module.register_forward_hook(self._hook(name or "the network")))

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _hook(self, name: str) -> Any:
        def note(_module: torch.nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor) and output.is_floating_point() and output.numel():
                largest = _nan_to_inf(float(output.abs().max()))
                if largest > self.value:
                    self.value, self.where = largest, name

        return note
