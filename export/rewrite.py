"""The last rewriting of an exported model before an engine's builder sees it: what becomes of ``edgejpeg::JpegLayer``.

A parser that meets a node with both a local function and a plugin chooses by rules that changed between versions, and
one of them aborts the process. So the choice is made here: the function goes and the node stays for a plugin, or the
function is inlined and nothing but standard operators is left.
"""

from __future__ import annotations

import onnx
import onnx.inliner

from edgejpeg.errors import ExportError, InvalidInputError
from edgejpeg.export.functions import DOMAIN, OP_TYPE

OPSET_OF_8_5 = 17
"""The last one that TensorRT 8.5 parses."""

_REDUCTIONS = {"ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare"}


def check_model(model: onnx.ModelProto) -> None:
    """Full check of a model's structure and types, or :class:`ExportError`."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        raise ExportError(f"the graph is not valid ONNX: {' '.join(str(error).split())[:400]}") from error


def rewrite_for(model: onnx.ModelProto, flavour: str, *, plugin: bool = False) -> onnx.ModelProto:
    """A copy of a model as the builder of a flavour is to have it; the model itself is left as it was.

    Args:
        model: as exported, with the layer's body as a local function or without a layer.
        flavour: ``"tensorrt"``, ``"tensorrt-rtx"`` or ``"tensorrt-8.5"``.
        plugin: leave the layer's node to a plugin of that name: its function is dropped. Otherwise every function is
            inlined.

    Raises:
        InvalidInputError: a plugin for a flavour that takes none, or for a model without the layer.
        ExportError: the model is broken, or cannot be lowered to the opset of TensorRT 8.5.
    """
    if plugin:
        if flavour != "tensorrt":
            raise InvalidInputError(f"{flavour} takes no plugin; build with the layer's standard operators")
        return _without_function(model)
    try:
        inlined: onnx.ModelProto = onnx.inliner.inline_local_functions(model)
    except Exception as error:  # onnx's C++ part raises RuntimeError, ValueError and errors of its own
        raise ExportError(f"the model's local functions cannot be inlined: {_first_line(error)}") from error
    if flavour == "tensorrt-8.5":
        return _lowered(inlined, OPSET_OF_8_5)
    return inlined


def _without_function(model: onnx.ModelProto) -> onnx.ModelProto:
    if not any(node.domain == DOMAIN and node.op_type == OP_TYPE for node in model.graph.node):
        raise InvalidInputError("this graph has no JPEG layer for a plugin to take; export it with the layer")
    rest = onnx.ModelProto()
    rest.CopyFrom(model)
    kept = [f for f in rest.functions if (f.domain, f.name) != (DOMAIN, OP_TYPE)]
    del rest.functions[:]
    rest.functions.extend(kept)
    return rest


def _lowered(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """The model in an opset below 18, for the operators that opset 18 changed and exports have: reductions.

    onnx's own converter leaves their axes where opset 17 does not look for them.
    """
    found = {entry.domain: entry.version for entry in model.opset_import}.get("", 0)
    if found <= opset:
        return model
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
        elif node.op_type in _REDUCTIONS:
            kept = [attribute for attribute in node.attribute if attribute.name != "noop_with_empty_axes"]
            del node.attribute[:]
            node.attribute.extend(kept)
            if len(node.input) > 1:
                axes = constants.get(node.input[1])
                if axes is None:
                    raise ExportError(
                        f"node {node.name!r} ({node.op_type}) has axes that change; opset {opset} has none"
                    )
                node.attribute.append(onnx.helper.make_attribute("axes", [int(axis) for axis in axes]))
                del node.input[1:]
    for entry in model.opset_import:
        if entry.domain == "":
            entry.version = opset
    model.ir_version = min(model.ir_version, 8)
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:
        raise ExportError(
            f"the graph cannot be lowered from opset {found} to {opset}, the last one of TensorRT 8.5: "
            f"{_first_line(error)}"
        ) from error
    return model


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
