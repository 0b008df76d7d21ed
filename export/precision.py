"""Half precision, written into the graph: the backbone in float16, the JPEG layer, inputs and outputs as they were.

Quantized coefficients do not survive half precision (a coefficient of 1000 has steps of 0.5 there), so the JPEG layer
and all that leads to it stay in float32.
"""

from __future__ import annotations

import warnings

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from edgejpeg._optional import require
from edgejpeg.errors import ExportError
from edgejpeg.export.functions import DOMAIN

_WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
_LARGEST = float(np.finfo(np.float16).max)
_SMALLEST = float(np.finfo(np.float16).smallest_subnormal)


def float16_from_float32(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model with its network in half precision; convert before functions are inlined.

    Kept in float32, with casts around them: the graph's inputs and outputs; ``edgejpeg`` nodes and everything that
    leads to them; operators that half precision does not have or that lose their meaning in it (the converter's list:
    Resize, TopK, Max, ...); nodes that cast to float32 on purpose.

    Raises:
        ExportError: a weight is beyond half precision, or a layer with weights was not converted.
    """
    _check_range(model)
    half = onnx.ModelProto()
    half.CopyFrom(model)
    blocked = float32_nodes(half.graph)
    converter = require("onnxconverter_common.float16", extra="export", purpose="edgejpeg export --fp16")
    with warnings.catch_warnings():
        # It warns about weights below the smallest half, which it rounds away from zero.
        warnings.simplefilter("ignore")
        half = converter.convert_float_to_float16(
            half,
            min_positive_val=_SMALLEST,
            max_finite_val=_LARGEST,
            keep_io_types=True,
            disable_shape_infer=True,
            node_block_list=sorted(blocked),
        )
    _check_halved(half)
    return half


def float32_nodes(graph: onnx.GraphProto) -> set[str]:
    """Names of the nodes that stay in float32: ``edgejpeg`` nodes, their ancestors, and casts to float32."""
    for index, node in enumerate(graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    blocked: set[str] = set()
    needed: set[str] = set()
    for node in reversed(graph.node):
        to_float32 = node.op_type == "Cast" and node.attribute[0].i == TensorProto.FLOAT
        if node.domain == DOMAIN or needed.intersection(node.output):
            needed.update(node.input)
            blocked.add(node.name)
        elif to_float32:
            blocked.add(node.name)
    return blocked


def _check_range(model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor)
            largest = float(np.abs(values).max(initial=0))
            if not largest <= _LARGEST:
                raise ExportError(
                    f"weight {tensor.name!r} reaches {largest:g}, and half precision ends at {_LARGEST:g}; "
                    "export without --fp16"
                )


def _check_halved(model: onnx.ModelProto) -> None:
    """An FP16 request that ends in FP32 is a failure, never a warning."""
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in _WEIGHTED and any(types.get(name) == TensorProto.FLOAT for name in node.input):
            raise ExportError(f"node {node.name!r} ({node.op_type}) is still in float32 after --fp16")
    if TensorProto.FLOAT16 not in types.values():
        raise ExportError("no weight of this network is in half precision after --fp16")
