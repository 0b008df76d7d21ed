"""Lowering a PyTorch module to ONNX, with the body of the JPEG layer as a local function."""

from __future__ import annotations

import ast
import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import onnx
import torch
from onnx import helper
from torch import Tensor, nn

from edgejpeg.errors import ExportError, InvalidInputError
from edgejpeg.export.functions import DOMAIN, DOMAIN_VERSION, jpeg_function
from edgejpeg.export.rewrite import check_model

MIN_OPSET, MAX_OPSET = 18, 23

# One protobuf message holds less than 2 GiB.
_MAX_BYTES = 2**31 - 2**26


def check_opset(opset: int) -> None:
    """Refuse an opset that the exporter does not write, with :class:`InvalidInputError`."""
    if not MIN_OPSET <= opset <= MAX_OPSET:
        raise InvalidInputError(f"opset {opset} is not supported; it is {MIN_OPSET} to {MAX_OPSET} (default 18)")


def onnx_from_module(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    *,
    batch_axes: Mapping[str, str],
    output_name: str,
    opset: int = 18,
    subsampling: str | None = None,
) -> onnx.ModelProto:
    """Export a module, and define its ``edgejpeg::JpegLayer`` nodes.

    Args:
        module: in evaluation mode.
        inputs: example inputs by the names that the graph gives them, in the order of the module's ``forward``.
        batch_axes: for inputs whose first axis is dynamic, the name of that axis.
        output_name: of the one output.
        opset: version of the standard operators.
        subsampling: of the JPEG layer in the module; None when it has none.

    Raises:
        InvalidInputError: an unsupported opset.
        ExportError: the module cannot be lowered, or the result is not valid ONNX.
    """
    check_opset(opset)
    size = sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))
    if size > _MAX_BYTES:
        raise ExportError(f"the network has {size / 2**30:.1f} GiB of weights; one ONNX file holds less than 2 GiB")
    shapes = tuple({0: torch.export.Dim(batch_axes[name])} if name in batch_axes else None for name in inputs)
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                module,
                tuple(inputs.values()),
                dynamo=True,
                input_names=list(inputs),
                output_names=[output_name],
                dynamic_shapes=shapes,
                opset_version=opset,
                verbose=False,
            )
    except Exception as error:  # the exporter raises many kinds, all of them about this module
        raise ExportError(
            f"PyTorch cannot export this network to ONNX opset {opset}{_failing_place(error)}: {_root_cause(error)}"
        ) from error
    if program is None:
        raise ExportError(f"PyTorch gave no ONNX program for opset {opset}")
    model: onnx.ModelProto = program.model_proto
    standard = {entry.domain: entry.version for entry in model.opset_import}.get("", 0)
    if standard != opset:
        raise ExportError(f"the network needs ONNX opset {standard}, and {opset} was asked for; try --opset {standard}")
    _name_nodes(model.graph)
    _strip_traces(model)
    if subsampling is not None:
        attach_jpeg_function(model, subsampling, opset)
    check_model(model)
    return model


def attach_jpeg_function(model: onnx.ModelProto, subsampling: str, opset: int) -> None:
    """Define the model's ``edgejpeg::JpegLayer`` nodes by the function of a subsampling."""
    if not any(node.domain == DOMAIN for node in model.graph.node):
        raise ExportError(f"the exported graph has no node of the domain {DOMAIN!r}; the JPEG layer was lost")
    model.functions.append(jpeg_function(subsampling, opset))
    if DOMAIN not in {entry.domain for entry in model.opset_import}:
        model.opset_import.append(helper.make_opsetid(DOMAIN, DOMAIN_VERSION))


def _name_nodes(graph: onnx.GraphProto) -> None:
    """Name every node ``<path of its module>/<operator>``, so that messages and profiles of engines can be read."""
    taken: dict[str, int] = {}
    for node in graph.node:
        scopes = next((e.value for e in node.metadata_props if e.key == "pkg.torch.onnx.name_scopes"), "[]")
        path = [scope for scope in ast.literal_eval(scopes)[:-1] if scope]
        name = f"{path[-1]}/{node.op_type}" if path else node.op_type
        count = taken[name] = taken.get(name, 0) + 1
        node.name = name if count == 1 else f"{name}_{count}"


def _strip_traces(model: onnx.ModelProto) -> None:
    """Drop the exporter's notes, which hold stack traces with the paths of this machine."""
    graph = model.graph
    for entry in (model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del entry.metadata_props[:]
        entry.doc_string = ""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter reports progress on stdout and warns about its own internals; neither helps the user."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)


def _failing_place(error: BaseException) -> str:
    """The operator that could not be lowered and the path of its module, when the exporter was at one."""
    cause: BaseException | None = error
    place = ""
    while cause is not None:
        frame = cause.__traceback__
        while frame is not None:
            node = frame.tb_frame.f_locals.get("node")
            if isinstance(node, torch.fx.Node) and node.op == "call_function":
                stack = node.meta.get("nn_module_stack") or {}
                paths = [str(path) for path, _kind in stack.values() if path]
                place = f" at {node.target} in {paths[-1] if paths else 'the network itself'}"
            frame = frame.tb_next
        cause = cause.__cause__
    return place


def _root_cause(error: BaseException) -> str:
    """The first line of the innermost cause: the exporter wraps it in reports of many pages."""
    seen: Any = error
    while seen.__cause__ is not None:
        seen = seen.__cause__
    lines = [line.strip() for line in str(seen).splitlines() if line.strip()]
    return f"{type(seen).__name__}: {lines[0] if lines else 'no message'}"
