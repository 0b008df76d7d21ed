"""The coefficient front end on disk: its ONNX file and JSON, written only when it agrees with the reference encoder."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgejpeg._version import __version__
from edgejpeg.design.statistics import image_statistics
from edgejpeg.errors import ExportError, InvalidInputError
from edgejpeg.export.bundle import LayerTables
from edgejpeg.export.compare import (
    FLIPPED_ALLOWANCE,
    FLIPPED_TOLERANCE,
    MIN_IMAGES,
    TIE_MARGIN,
    check_images,
    ijg_array,
    run,
    session,
)
from edgejpeg.export.files import writing
from edgejpeg.export.front_end import COMPONENTS, front_end_model
from edgejpeg.export.metadata import FORMAT, embed_metadata
from edgejpeg.export.onnx import check_opset
from edgejpeg.export.rewrite import check_model
from edgejpeg.jpeg.reference import component_blocks
from edgejpeg.jpeg.zigzag import to_zigzag

_UNDECIDED = 1e-9
"""Closer to a tie than this, the reference's own last bits decide: frequencies of multiples of 1/8 often are on one."""

MAX_SIZE = 8192
"""Largest height and width of a frame."""

STATISTICS_TOLERANCE = 2e-5
"""Largest error of a mean or mean absolute value, over 1 + the root mean square of its coefficient; of a variance, over
the square of that."""


@dataclass
class CoefficientsReport:
    """What the check of a front end measured; it passed when ``failures`` is empty.

    Attributes:
        images: how many were run.
        providers: of the ONNX Runtime session.
        coefficients, flipped: how many, and how many levels differ from the reference at a rounding tie.
        statistics_error: the largest, in the units of :data:`STATISTICS_TOLERANCE`.
        failures: one line for each tolerance that was missed.
    """

    images: int = 0
    providers: list[str] = field(default_factory=list)
    coefficients: int = 0
    flipped: int = 0
    statistics_error: float = 0.0
    failures: list[str] = field(default_factory=list)

    def to_document(self) -> dict[str, Any]:
        """The figures with their tolerances, as plain values for JSON."""
        return {
            "passed": not self.failures,
            "runtime": "onnxruntime",
            "providers": self.providers,
            "images": self.images,
            "coefficients": self.coefficients,
            "flipped": self.flipped,
            "flipped_tolerance": FLIPPED_TOLERANCE,
            "statistics_error": self.statistics_error,
            "statistics_tolerance": STATISTICS_TOLERANCE,
        }


@dataclass(frozen=True)
class CoefficientsResult:
    """What :func:`export_coefficients` wrote.

    Attributes:
        onnx_path, json_path: the two files.
        document: what the JSON says, and the ONNX file's metadata under ``edgejpeg``.
        report: of the check.
    """

    onnx_path: Path
    json_path: Path
    document: dict[str, Any]
    report: CoefficientsReport


def export_coefficients(
    folder: str | Path, *, size: tuple[int, int], tables: LayerTables, opset: int = 18
) -> CoefficientsResult:
    """Write an encoder's front end as ``FOLDER/coefficients-<subsampling>-<H>x<W>.onnx``, with a JSON beside it.

    The inputs and outputs are those of :func:`edgejpeg.export.front_end.front_end_model`. With tables as an input, run
    it for the statistics, design the tables (:func:`edgejpeg.design.design_tables`), and run it again for the levels;
    or take the tables of the frame before.

    Args:
        folder: made when it does not exist.
        size: H, W of the frames, 1 to 8192.
        tables: and the subsampling: from :func:`~edgejpeg.export.layer_from_profile` or ``layer_from_quality``.
        opset: of ONNX, 18 to 23.

    Raises:
        InvalidInputError: an option outside what is allowed.
        ExportError: the folder cannot be written, or the check failed.
    """
    check_opset(opset)
    if not all(isinstance(side, int) and 1 <= side <= MAX_SIZE for side in size) or len(size) != 2:
        raise InvalidInputError(f"the size of a frame is H, W of 1 to {MAX_SIZE}; got {size}")
    folder = Path(folder)
    stem = f"coefficients-{tables.subsampling}-{size[0]}x{size[1]}"
    with writing(folder / f"{stem}.onnx", folder / f"{stem}.json") as (onnx_file, json_file):
        graph = front_end_model(
            size, tables.subsampling, tables=tables.array(), dead_zones=tables.dead_zones, opset=opset
        )
        check_model(graph)
        report = check_front_end(graph, size, tables)
        if report.failures:
            raise ExportError(
                f"the check of {stem}.onnx against the reference encoder failed, and nothing was written: "
                + "; ".join(dict.fromkeys(report.failures))
            )
        document = _describe(size, tables, opset, report)
        embed_metadata(graph, document)
        onnx_file.write_bytes(graph.SerializeToString())
        json_file.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return CoefficientsResult(folder / f"{stem}.onnx", folder / f"{stem}.json", document, report)


def check_front_end(graph: onnx.ModelProto, size: tuple[int, int], tables: LayerTables) -> CoefficientsReport:
    """Run a front end in ONNX Runtime, and hold it against the reference encoder and the design's statistics.

    Args:
        graph: as it will be delivered.
        size: H, W of its frames.
        tables: that it was made with; where they are an input, the IJG's of several qualities are given.

    Raises:
        ExportError: ONNX Runtime cannot load or run the graph.
    """
    delivered = session(graph)
    report = CoefficientsReport(providers=list(delivered.get_providers()))
    part = check_images(MIN_IMAGES, (min(size[0], 256), min(size[1], 256)))
    repeats = (1, 1, -(-size[0] // part.shape[2]), -(-size[1] // part.shape[3]))
    images = np.tile(part, repeats)[:, :, : size[0], : size[1]]
    constant = tables.array()
    for start, stop in ((0, 1), (1, MIN_IMAGES)):  # a batch of one, and one of more
        batch = np.ascontiguousarray(images[start:stop])
        steps = np.stack([ijg_array(95 - 30 * index) for index in range(len(batch))])
        feed: dict[str, NDArray[Any]] = {"image": batch}
        if constant is None:
            feed["tables"] = steps
        else:
            steps = np.repeat(constant, len(batch), axis=0)
        statistics, *levels = run(delivered, feed)
        for index, image in enumerate(batch):
            rgb = np.ascontiguousarray(image.transpose(1, 2, 0))
            _compare_statistics(report, statistics[index], rgb, tables.subsampling)
            _compare_levels(report, [group[index] for group in levels], steps[index], rgb, tables)
        report.images += len(batch)
    if report.flipped > max(FLIPPED_ALLOWANCE, FLIPPED_TOLERANCE * report.coefficients):
        report.failures.append(f"{report.flipped} of {report.coefficients} coefficients flipped")
    if not report.statistics_error <= STATISTICS_TOLERANCE:
        report.failures.append(f"statistics differ by {report.statistics_error:.2g}, above {STATISTICS_TOLERANCE:g}")
    return report


def _compare_statistics(
    report: CoefficientsReport, found: NDArray[np.float32], rgb: NDArray[np.uint8], subsampling: str
) -> None:
    expected = image_statistics(rgb, subsampling, center=False)
    mean, variance, scale = found.astype(np.float64).reshape(3, -1, 8, 8)
    unit = 1 + np.sqrt(expected.variance + expected.mean**2)
    errors = (
        np.abs(mean - expected.mean) / unit,
        np.abs(scale - expected.laplace_scale) / unit,
        np.abs(variance - expected.variance) / unit**2,
    )
    worst = max(float(error.max()) for error in errors)
    report.statistics_error = max(report.statistics_error, float("inf") if np.isnan(worst) else worst)


def _compare_levels(
    report: CoefficientsReport,
    found: list[NDArray[np.int32]],
    steps: NDArray[np.float32],
    rgb: NDArray[np.uint8],
    tables: LayerTables,
) -> None:
    blocks = component_blocks(rgb, tables.subsampling)
    wrong = 0
    for index, (packed, coefficients) in enumerate(zip(found, blocks, strict=True)):
        rows, columns = coefficients.shape[:2]
        levels = packed.view(np.int16)[:rows, :columns]
        ratio = to_zigzag(coefficients / steps[min(index, 1)].astype(np.float64).reshape(8, 8))
        magnitude = np.abs(ratio)
        expected = np.sign(ratio) * np.floor(magnitude + 0.5)
        from_tie = np.abs(magnitude - np.floor(magnitude) - 0.5)
        if tables.dead_zones is not None:
            threshold = to_zigzag(np.asarray(tables.dead_zones[min(index, 1)]))
            expected = np.where((threshold > 0.5) & (magnitude < threshold), 0, expected)
            from_tie = np.minimum(from_tie, np.abs(magnitude - threshold))
        different = levels != expected
        different &= ~((from_tie < _UNDECIDED) & (np.abs(levels - ratio) <= 0.5 + TIE_MARGIN))
        report.coefficients += levels.size
        report.flipped += int(different.sum())
        wrong += int((different & (from_tie > TIE_MARGIN)).sum())
    if wrong:
        report.failures.append(f"{wrong} quantized coefficients are wrong, off any rounding tie")


def _describe(size: tuple[int, int], tables: LayerTables, opset: int, report: CoefficientsReport) -> dict[str, Any]:
    names = COMPONENTS[:1] if tables.subsampling == "gray" else COMPONENTS
    dead_zones = None
    if tables.dead_zones is not None:
        dead_zones = dict(zip(("luma", "chroma"), (zone.tolist() for zone in tables.dead_zones), strict=True))
    return {
        "format": FORMAT,
        "tool": "edgejpeg",
        "tool_version": __version__,
        "form": "coefficients",
        "input": {
            "name": "image",
            "dtype": "uint8",
            "layout": "NCHW",
            "color": "RGB",
            "range": [0, 255],
            "size": list(size),
        },
        "outputs": {
            "statistics": {
                "dtype": "float32",
                "shape": ["N", 3, len(names), 64],
                "order": "mean, variance, mean absolute value; components; row-major frequencies",
            },
            **{
                name: {
                    "dtype": "int32",
                    "shape": ["N", "block rows", "block columns", 32],
                    "order": "two int16 levels in each, low half first; 64 levels of a block in zigzag order",
                }
                for name in names
            },
        },
        "front_end": {**tables.to_document(), "dead_zones": dead_zones},
        "jpeg_layer": None,
        "precision": "fp32",
        "opset": opset,
        "weights_sha256": None,
        "notice": None,
        "onnx_version": onnx.__version__,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "check": report.to_document(),
    }
