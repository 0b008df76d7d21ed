"""INT8 written into the graph: Q/DQ nodes in front of every layer with weights, scales from calibration images.

Explicit quantization is the one kind that every TensorRT from 10 on builds, and ONNX Runtime runs the same graph. The
scales are symmetric, as TensorRT wants them: one for an activation, one for each output channel of a weight. Outputs
of layers are not quantized, only inputs: the builder fuses what follows (bias, ReLU) and quantizes once. The JPEG layer
and what leads to it stay in float32.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgejpeg._optional import require
from edgejpeg.errors import ExportError, InvalidInputError
from edgejpeg.export.precision import float32_nodes

QUANTIZED = ("Conv", "Gemm", "MatMul", "Add", "GlobalAveragePool", "AveragePool", "ReduceMean")
"""Operators whose inputs are quantized: those with weights, and those that would else force a conversion between two
quantized layers."""

MIN_IMAGES = 8
"""Fewer images than this are refused: a quarter, and at least 4, are held out of the calibration for the check."""

MAX_HELD_OUT = 32


def split_calibration(images: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The images that scales are taken from, and those held out for the check."""
    if len(images) < MIN_IMAGES:
        raise InvalidInputError(
            f"--int8 needs at least {MIN_IMAGES} calibration images, some hundred are better; got {len(images)}"
        )
    held_out = min(MAX_HELD_OUT, max(4, len(images) // 4))
    return images[:-held_out], images[-held_out:]


def int8_from_float32(model: onnx.ModelProto, feeds: Iterable[Mapping[str, NDArray[Any]]]) -> onnx.ModelProto:
    """A copy of a model with Q/DQ nodes.

    Args:
        model: in float32, its JPEG layer still a local function.
        feeds: inputs by name, one batch after another; scales are from the largest magnitudes that they cause.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
        ExportError: its quantizer fails, or leaves every layer in float32.
    """
    quantization = require("onnxruntime.quantization", extra="ort", purpose="edgejpeg export --int8")
    source = onnx.ModelProto()
    source.CopyFrom(model)
    blocked = float32_nodes(source.graph)

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self._feeds: Iterator[Mapping[str, NDArray[Any]]] = iter(feeds)

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            feed = next(self._feeds, None)
            return None if feed is None else dict(feed)

    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it advises a preprocessing that would inline the JPEG layer
    try:
        with tempfile.TemporaryDirectory(prefix="edgejpeg-") as folder:
            target = Path(folder, "int8.onnx")
            quantization.quantize_static(
                source,
                str(target),
                Reader(),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=list(QUANTIZED),
                per_channel=True,
                activation_type=quantization.QuantType.QInt8,
                weight_type=quantization.QuantType.QInt8,
                nodes_to_exclude=sorted(blocked),
                calibrate_method=quantization.CalibrationMethod.MinMax,
                extra_options={
                    "ActivationSymmetric": True,
                    "WeightSymmetric": True,
                    "QuantizeBias": False,
                    "AddQDQPairToWeight": True,
                    "OpTypesToExcludeOutputQuantization": list(QUANTIZED),
                },
            )
            quantized = onnx.load(str(target))
    except Exception as error:  # onnxruntime's quantizer raises whatever it meets
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ExportError(f"ONNX Runtime cannot quantize this network: {first}") from error
    finally:
        logging.disable(disabled)
    if not any(node.op_type == "QuantizeLinear" for node in quantized.graph.node):
        raise ExportError("no layer of this network is quantized after --int8")
    return quantized
