"""The demo's results: from measurements of every file to the document that the table and the page are made of."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgejpeg.errors import DataError, InvalidInputError
from edgejpeg.evaluate.curves import delta_rate_at_points, paired_delta_rate
from edgejpeg.evaluate.metrics import Interval, bootstrap_mean, bootstrap_weights

FORMAT = 1
REFERENCE, OURS = "jpeg", "edgejpeg"


@dataclass(frozen=True)
class Measurements:
    """What one method did to every frame at every setting; arrays are (settings, frames).

    Attributes:
        key: "jpeg" or "edgejpeg".
        label: for people.
        parameter: the name of the setting, for example "quality".
        settings: its values, in order of rising rate.
        bytes: length of the whole file.
        scan_bytes: length of the entropy-coded data alone.
        kl: KL(clean || compressed) in nats.
        top1: index of the most likely class.
        encode_ms, round_trip_ms: milliseconds.
    """

    key: str
    label: str
    parameter: str
    settings: Sequence[float]
    bytes: NDArray[np.int64]
    scan_bytes: NDArray[np.int64]
    kl: NDArray[np.float64]
    top1: NDArray[np.int64]
    encode_ms: NDArray[np.float64]
    round_trip_ms: NDArray[np.float64]


def summarise(
    methods: Sequence[Measurements],
    clean_top1: Sequence[int],
    *,
    pixels: int,
    groups: Sequence[str],
    unit: str,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Any]:
    """Means with paired bootstrap intervals, and the delta rate of edgejpeg against ordinary JPEG.

    Args:
        methods: ordinary JPEG (key "jpeg") and edgejpeg (key "edgejpeg"), on the same frames.
        clean_top1: the top class of each frame without compression.
        pixels: of one frame.
        groups: one key for each frame; frames of one key are resampled together.
        unit: what a group is, in words.
        resamples, seed, level: of the bootstrap.

    Returns:
        The parts "methods", "comparison" and "bootstrap" of the results document.
    """
    clean = np.asarray(clean_top1)
    weights = bootstrap_weights(clean.size, resamples=resamples, seed=seed, groups=groups)
    summaries = {method.key: _summary(method, clean, pixels, weights, level) for method in methods}
    by_key = {method.key: method for method in methods}
    comparison = _compare(by_key[REFERENCE], by_key[OURS], weights, level)
    for point, interval in zip(summaries[REFERENCE]["points"], comparison.pop("at_points"), strict=True):
        point["edgejpeg_change"] = interval
    return {
        "methods": summaries,
        "comparison": comparison,
        "bootstrap": {
            "unit": unit,
            "groups": len(set(groups)),
            "frames": int(clean.size),
            "resamples": resamples,
            "seed": seed,
            "level": level,
        },
    }


def _summary(
    method: Measurements, clean: NDArray[np.int64], pixels: int, weights: NDArray[np.float64], level: float
) -> dict[str, Any]:
    points = []
    for i, setting in enumerate(method.settings):
        size = bootstrap_mean(method.bytes[i], weights, level=level)
        agreement = bootstrap_mean((method.top1[i] == clean).astype(np.float64), weights, level=level)
        points.append(
            {
                "setting": setting,
                "bytes": size.value,
                "bpp": size.value * 8 / pixels,
                "bpp_scan": float(method.scan_bytes[i].mean()) * 8 / pixels,
                "kl": bootstrap_mean(method.kl[i], weights, level=level).to_dict(),
                "agreement": agreement.to_dict(),
                "encode_ms": float(np.median(method.encode_ms[i])),
                "round_trip_ms": float(np.median(method.round_trip_ms[i])),
            }
        )
    return {
        "label": method.label,
        "parameter": method.parameter,
        "points": points,
        "frames": {
            "bytes": method.bytes.tolist(),
            "scan_bytes": method.scan_bytes.tolist(),
            "kl": np.round(method.kl, 9).tolist(),
            "top1": method.top1.tolist(),
            "encode_ms": np.round(method.encode_ms, 3).tolist(),
            "round_trip_ms": np.round(method.round_trip_ms, 3).tolist(),
        },
    }


def _compare(
    reference: Measurements, candidate: Measurements, weights: NDArray[np.float64], level: float
) -> dict[str, Any]:
    """Delta rate over the common range, and the change at each of the reference's points."""
    pair = [(m.bytes.astype(np.float64), m.kl) for m in (reference, candidate)]
    at_points: list[dict[str, float] | None] = [None] * len(reference.settings)
    try:
        at_points = [
            None if interval is None else interval.to_dict()
            for interval in delta_rate_at_points(pair[0], pair[1], weights, level=level)
        ]
        delta = paired_delta_rate(pair[0], pair[1], weights, level=level)
    except InvalidInputError as error:
        # A handful of frames may not give two falling curves: the points still stand, the one figure does not.
        return {"delta_rate": None, "reason": str(error), "at_points": at_points}
    return {
        "delta_rate": delta.change.to_dict(),
        "kl_low": delta.low,
        "kl_high": delta.high,
        "resamples": delta.resamples,
        "failed": delta.failed,
        "at_points": at_points,
    }


def interval_of(entry: Mapping[str, float]) -> Interval:
    """The :class:`~edgejpeg.evaluate.metrics.Interval` that ``to_dict`` wrote."""
    return Interval(entry["value"], entry["low"], entry["high"], entry["level"])


def save_results(results: Mapping[str, Any], path: Path) -> None:
    """Write the document as JSON.

    Raises:
        DataError: the file cannot be written.
    """
    try:
        path.write_text(json.dumps(results, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise DataError(f"the results cannot be written to {path}: {error.strerror or error}") from error


def load_results(path: str | Path) -> dict[str, Any]:
    """Read a document that :func:`save_results` wrote.

    Raises:
        DataError: the file is missing, no JSON, or of another format.
    """
    path = Path(path)
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"the results cannot be read from {path}: {error.strerror}; run: edgejpeg demo") from error
    except ValueError as error:
        raise DataError(f"{path} is no JSON: {error}; run: edgejpeg demo") from error
    found = results.get("format") if isinstance(results, dict) else None
    if found != FORMAT:
        raise DataError(f"{path} has format {found!r}; allowed is {FORMAT}: run edgejpeg demo again with this version")
    document: dict[str, Any] = results
    return document
