"""The body of ``edgejpeg::JpegLayer``: ONNX local functions of standard operators, one for each subsampling.

The node's operator is always ``edgejpeg::JpegLayer``; the model carries the body for the one subsampling that it uses,
and the node names that subsampling in an attribute. A runtime that has a plugin of that name may take it instead.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import ArrayLike
from onnx import helper, numpy_helper

from edgejpeg.export.kernels import COLOUR, COLOUR_BIAS, component_kernels

DOMAIN, DOMAIN_VERSION, OP_TYPE = "edgejpeg", 1, "JpegLayer"

PLUGIN_ATTRIBUTES = {"plugin_namespace": "edgejpeg", "plugin_version": "1"}
"""Tell TensorRT which plugin the node stands for; other runtimes ignore them."""


def jpeg_function(subsampling: str, opset: int) -> onnx.FunctionProto:
    """The function ``edgejpeg::JpegLayer(image, tables) -> decoded`` for a subsampling.

    ``image`` and ``decoded`` are (N, 3, H, W) float32 RGB in 0..1, H and W multiples of the MCU; ``tables`` is
    (N or 1, 2, 64) float32, the steps of luma and chroma, row-major. Rounding is half to even.

    Args:
        subsampling: ``"444"``, ``"422"``, ``"420"`` or ``"gray"``.
        opset: version of the standard operators, that of the model.
    """
    groups = component_kernels(subsampling)
    fused = len(groups) == 1
    nodes: list[onnx.NodeProto] = []
    for name, kernels in zip(level_names(subsampling), groups, strict=True):
        steps, scaled = f"{name}_steps", f"{name}_scaled"
        nodes += [
            _constant(f"{name}_kernel", kernels.forward),
            _constant(f"{name}_bias", kernels.bias),
            helper.make_node(
                "Conv",
                ["image", f"{name}_kernel", f"{name}_bias"],
                [f"{name}_coefficients"],
                kernel_shape=kernels.stride,
                strides=kernels.stride,
            ),
            _constant(f"{name}_components", np.array(kernels.tables, dtype=np.int64)),
            _constant(f"{name}_shape", np.array([-1, 64 * len(kernels.tables), 1, 1], dtype=np.int64)),
            helper.make_node("Gather", ["tables", f"{name}_components"], [f"{name}_tables"], axis=1),
            helper.make_node("Reshape", [f"{name}_tables", f"{name}_shape"], [steps]),
            helper.make_node("Div", [f"{name}_coefficients", steps], [f"{name}_ratio"]),
            helper.make_node("Round", [f"{name}_ratio"], [name]),
            helper.make_node("Mul", [name, steps], [scaled]),
            _constant(f"{name}_inverse_kernel", kernels.inverse),
        ]
        inverse_inputs = [scaled, f"{name}_inverse_kernel"]
        if kernels.inverse_bias is not None:
            nodes.append(_constant(f"{name}_inverse_bias", kernels.inverse_bias))
            inverse_inputs.append(f"{name}_inverse_bias")
        nodes.append(
            helper.make_node(
                "ConvTranspose",
                inverse_inputs,
                ["rgb" if fused else f"{name}_plane"],
                kernel_shape=(8, 8),
                strides=(8, 8),
                group=kernels.groups,
            )
        )
    if not fused:
        luma, chroma = level_names(subsampling)
        nodes += _interpolated_colour(luma, chroma, groups[1].stride)
    nodes += [
        _constant("zero", np.array(0, dtype=np.float32)),
        _constant("one", np.array(1, dtype=np.float32)),
        helper.make_node("Clip", ["rgb", "zero", "one"], ["decoded"]),
    ]
    for node in nodes:  # so that engines, which inline the function, still tell what belongs to it
        node.name = f"{OP_TYPE}/{node.output[0]}"
    return helper.make_function(
        DOMAIN,
        OP_TYPE,
        ["image", "tables"],
        ["decoded"],
        nodes,
        [helper.make_opsetid("", opset)],
        attributes=[*PLUGIN_ATTRIBUTES, "subsampling"],
    )


def level_names(subsampling: str) -> tuple[str, ...]:
    """Names inside the function of the levels, (N, 64 n, rows, columns) each: of all components, or of two groups."""
    return ("levels",) if subsampling in ("444", "gray") else ("luma_levels", "chroma_levels")


def expose_levels(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """A copy of a model that also gives what its JPEG layer decoded, and the quantized levels behind it.

    Returns:
        The copy, and the names of its new outputs: decoded, then those of :func:`level_names`.
    """
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    function = next(f for f in probe.functions if f.domain == DOMAIN and f.name == OP_TYPE)
    node = next(n for n in probe.graph.node if n.domain == DOMAIN and n.op_type == OP_TYPE)
    produced = {output for inner in function.node for output in inner.output}
    levels = [name for name in ("levels", "luma_levels", "chroma_levels") if name in produced]
    function.output.extend(levels)
    node.output.extend(levels)
    names = list(node.output)
    probe.graph.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    return probe, names


def _interpolated_colour(luma: str, chroma: str, stride: tuple[int, int]) -> list[onnx.NodeProto]:
    # Linear with half-pixel centres at a factor of two is libjpeg's triangle filter, without its rounding.
    scales = np.array([1, 1, stride[0] / 8, stride[1] / 8], dtype=np.float32)
    return [
        _constant("chroma_scales", scales),
        helper.make_node(
            "Resize",
            [f"{chroma}_plane", "", "chroma_scales"],
            ["chroma_full"],
            mode="linear",
            coordinate_transformation_mode="half_pixel",
        ),
        helper.make_node("Concat", [f"{luma}_plane", "chroma_full"], ["ycbcr"], axis=1),
        _constant("colour_kernel", COLOUR),
        _constant("colour_bias", COLOUR_BIAS),
        helper.make_node("Conv", ["ycbcr", "colour_kernel", "colour_bias"], ["rgb"], kernel_shape=(1, 1)),
    ]


def _constant(name: str, value: ArrayLike) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.ascontiguousarray(value), name))
