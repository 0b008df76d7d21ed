"""TensorRT-RTX: engines that are compiled the rest of the way on the user's GPU, and can be built without any GPU.

It is strongly typed like TensorRT 11. Without a GPU an engine cannot be loaded, so what is checked is the parsed
network, whose types are binding, and the builder's own report of what it put into the engine.
"""

from __future__ import annotations

import importlib
import re
from typing import Any

from edgejpeg.errors import ExportError
from edgejpeg.export.engine_build import JPEG_LAYER_NODES, BuildLog, BuildRequest, check_version

LOWEST, BELOW = (1, 7), (2, 0)


class TensorRtRtx:
    """TensorRT-RTX 1.7 and later."""

    name = "TensorRT-RTX"

    def load(self) -> Any:
        """The module ``tensorrt_rtx``, of a version that is supported."""
        trt = importlib.import_module("tensorrt_rtx")
        install = "install one with: pip install 'edgejpeg[rtx]'"
        check_version(self.name, str(trt.__version__), LOWEST, BELOW, install)
        return trt

    def network_flags(self, trt: Any, request: BuildRequest) -> int:
        """Strongly typed, the only kind."""
        return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)

    def configure(self, trt: Any, config: Any, network: Any, request: BuildRequest) -> None:
        """No TF32, details in the engine, and what the request says."""
        config.clear_flag(trt.BuilderFlag.TF32)
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        if request.workspace_mib is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request.workspace_mib << 20)
        if request.optimization_level is not None:
            config.builder_optimization_level = request.optimization_level

    def after_build(self, config: Any, request: BuildRequest) -> None:
        """Nothing: kernels are timed, and cached, on the user's machine."""

    def read_back(self, trt: Any, engine: bytes, log: BuildLog, request: BuildRequest) -> dict[str, Any]:
        """The builder's report: the ONNX nodes in the engine, the bytes of weights."""
        facts = report_facts(log.report)
        if request.jpeg_layer == "operators" and facts["engine_has_jpeg_layer"] is False:
            raise ExportError(
                "the JPEG layer was asked for, and the builder's report names no node of it in the engine"
            )
        return {"facts": facts, "compute_capability": None, "device": None}


def report_facts(report: list[str]) -> dict[str, Any]:
    """What the builder's verbose messages say of the engine: its weights, and whether the JPEG layer is there.

    Returns:
        ``engine_weight_bytes`` and ``engine_has_jpeg_layer``, each None where the builder did not say it, and
        ``read_from``.
    """
    text = "\n".join(report)
    weights = re.search(r"Total Weights Memory: (\d+)", text)
    names_nodes = "[ONNX Layer: " in text
    return {
        "read_from": "the parsed network, whose types are binding, and the builder's report; the engine was not loaded",
        "engine_weight_bytes": int(weights[1]) if weights else None,
        "engine_has_jpeg_layer": JPEG_LAYER_NODES in text if names_nodes else None,
    }
