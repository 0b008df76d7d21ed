"""The front end of an encoder as an ONNX graph: RGB to statistics and quantized coefficients, for an encoder on a GPU.

The samples are those that the encoder codes, to the last bit: its 16-bit fixed-point colour is computed in float32 on
whole numbers below 2**24, split into a high and a low part where they would grow larger. What is left to do behind the
graph is the design of tables from the statistics, and entropy coding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import TensorProto, helper, numpy_helper

from edgejpeg.jpeg.colour import check_subsampling
from edgejpeg.jpeg.dct import DCT_MATRIX
from edgejpeg.jpeg.zigzag import RASTER_TO_ZIGZAG, ZIGZAG

COMPONENTS = ("y", "cb", "cr")

_FIXED_POINT = {
    "y": (19595, 38470, 7471),
    "cb": (-11059, -21709, 32768),
    "cr": (32768, -27439, -5329),
}
"""The colour matrix in 16-bit fixed point, that of :func:`edgejpeg.jpeg.colour.sample_planes`."""


def front_end_model(
    size: tuple[int, int],
    subsampling: str,
    *,
    tables: NDArray[np.float32] | None = None,
    dead_zones: Sequence[ArrayLike] | None = None,
    opset: int = 18,
) -> onnx.ModelProto:
    """The graph of an encoder's front end for frames of one size.

    Inputs: ``image`` (N, 3, H, W) uint8 RGB; ``tables`` (N or 1, 2, 64) float32, the steps of luma and chroma,
    row-major, unless they are constants.

    Outputs: ``statistics`` (N, 3, C, 64) float32, row-major: mean, variance and mean absolute value of each frequency
    of each component over the blocks that hold image samples, what
    :class:`~edgejpeg.design.statistics.Statistics` takes as ``mean``, ``variance`` and ``laplace_scale``; then ``y``,
    ``cb``, ``cr`` (N, rows, columns, 32) int32, the blocks of each component, each int32 two int16 levels, low half
    first: ``y.view(np.int16)`` is (N, rows, columns, 64) in zigzag order. TensorRT has no int16.

    Args:
        size: H, W in pixels, at least 1; incomplete MCUs are filled by replication.
        subsampling: ``"444"``, ``"422"``, ``"420"`` or ``"gray"`` (``y`` alone).
        tables: (1, 2, 64) steps as constants; None makes them an input.
        dead_zones: thresholds of luma and chroma, 8x8 in steps (see
            :func:`~edgejpeg.jpeg.tables.dead_zone_thresholds`); None rounds.
        opset: of the standard operators, at least 18.

    Raises:
        InvalidInputError: an unknown subsampling.
    """
    vertical, horizontal = check_subsampling(subsampling)
    names = COMPONENTS[:1] if subsampling == "gray" else COMPONENTS
    graph = _Graph()
    pixels = graph.add("Cast", "image", to=TensorProto.FLOAT)
    below, right = -size[0] % (8 * vertical), -size[1] % (8 * horizontal)
    if below or right:
        pads = graph.constant("pads", np.array([0, 0, 0, 0, 0, 0, below, right], dtype=np.int64))
        pixels = graph.add("Pad", pixels, pads, mode="edge")
    planes = {"y": _samples(graph, pixels, ("y",), 1)}
    if subsampling != "gray":
        cells = pixels
        if vertical * horizontal > 1:
            ones = graph.constant("ones", np.ones((3, 1, vertical, horizontal), dtype=np.float32))
            shape = (vertical, horizontal)
            cells = graph.add("Conv", pixels, ones, group=3, kernel_shape=shape, strides=shape)
        chroma = _samples(graph, cells, ("cb", "cr"), vertical * horizontal)
        planes["cb"], planes["cr"] = (graph.channel(chroma, index) for index in range(2))
    steps = _steps(graph, tables, len(names))
    statistics = []
    # The basis functions in zigzag order, so that the levels need no reordering.
    basis = np.einsum("ui,vj->uvij", DCT_MATRIX, DCT_MATRIX).reshape(64, 1, 8, 8)[ZIGZAG]
    kernel = graph.constant("basis", basis.astype(np.float32))
    for index, name in enumerate(names):
        coefficients = graph.add("Conv", planes[name], kernel, kernel_shape=(8, 8), strides=(8, 8))
        real = (-(-size[0] // 8), -(-size[1] // 8)) if index == 0 else None
        statistics.append(_statistics(graph, coefficients, real))
        dead_zone = None if dead_zones is None else np.asarray(dead_zones[min(index, 1)], dtype=np.float32)
        _levels(graph, coefficients, steps[min(index, 1)], dead_zone, name)
    order = graph.constant("raster", RASTER_TO_ZIGZAG.astype(np.int64))
    graph.add("Gather", graph.add("Concat", *statistics, axis=2), order, axis=3, output="statistics")
    return graph.model(size, names, tables_are_input=tables is None, opset=opset)


class _Graph:
    """Nodes in the order of their making, named ``FrontEnd/<output>``."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def add(self, kind: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        name = output or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=f"FrontEnd/{name}", **attributes))
        return name

    def constant(self, name: str, value: NDArray[Any]) -> str:
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def scalar(self, value: float, dtype: type = np.float32) -> str:
        return self.constant(f"{np.dtype(dtype).name}_{value:g}", np.array(value, dtype=dtype))

    def channel(self, tensor: str, index: int) -> str:
        place = self.constant(f"channel_{index}", np.array([index], dtype=np.int64))
        return self.add("Gather", tensor, place, axis=1)

    def model(
        self, size: tuple[int, int], names: Sequence[str], *, tables_are_input: bool, opset: int
    ) -> onnx.ModelProto:
        inputs = [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 3, *size])]
        if tables_are_input:
            inputs.append(helper.make_tensor_value_info("tables", TensorProto.FLOAT, ["T", 2, 64]))
        outputs = [helper.make_tensor_value_info("statistics", TensorProto.FLOAT, ["N", 3, len(names), 64])]
        for name in names:
            outputs.append(helper.make_tensor_value_info(name, TensorProto.INT32, ["N", None, None, 32]))
        graph = helper.make_graph(self.nodes, "front_end", inputs, outputs, list(self.constants.values()))
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def _samples(graph: _Graph, sums: str, names: tuple[str, ...], pixels: int) -> str:
    """Integer samples of components from sums of R, G, B over cells: floor((matrix sums + half) / (65536 pixels)).

    The matrix is 256 high + low. floor(z / 256) comes first, then the division by 256 pixels: the floor of a floor is
    the floor, and no number on the way needs more than 24 bits.
    """
    matrix = np.array([_FIXED_POINT[name] for name in names])
    high, low = matrix // 256, matrix % 256
    tag = "_".join(names)
    upper = graph.constant(f"{tag}_high", high.reshape(len(names), 3, 1, 1).astype(np.float32))
    lower = graph.constant(f"{tag}_low", (low / 256).reshape(len(names), 3, 1, 1).astype(np.float32))
    half = graph.constant(f"{tag}_half", np.full(len(names), 32768 * pixels / 256, dtype=np.float32))
    carried = graph.add("Floor", graph.add("Conv", sums, lower, half, kernel_shape=(1, 1)))
    whole = graph.add("Add", graph.add("Conv", sums, upper, kernel_shape=(1, 1)), carried)
    samples = graph.add("Floor", graph.add("Mul", whole, graph.scalar(1 / (256 * pixels))))
    if names == ("y",):
        return graph.add("Sub", samples, graph.scalar(128))
    # Pure blue and pure red round up to 128, one above what eight bits hold.
    return graph.add("Min", samples, graph.scalar(127))


def _steps(graph: _Graph, tables: NDArray[np.float32] | None, components: int) -> list[str]:
    """For luma and chroma the steps in zigzag order, (T, 64, 1, 1)."""
    if tables is not None:
        graph.constant("tables", tables)
    order = graph.constant("zigzag", ZIGZAG.astype(np.int64))
    shape = graph.constant("steps_shape", np.array([-1, 64, 1, 1], dtype=np.int64))
    ordered = graph.add("Gather", "tables", order, axis=2)
    return [graph.add("Reshape", graph.channel(ordered, i), shape) for i in range(1 if components == 1 else 2)]


def _statistics(graph: _Graph, coefficients: str, real: tuple[int, int] | None) -> str:
    """Mean, variance and mean absolute value, (N, 3, 1, 64) in zigzag order, two passes as the reference makes them."""
    if real is not None:  # luma blocks that only complete an MCU do not count
        starts = graph.constant("block_starts", np.zeros(2, dtype=np.int64))
        ends = graph.constant("block_ends", np.array(real, dtype=np.int64))
        axes = graph.constant("block_axes", np.array([2, 3], dtype=np.int64))
        coefficients = graph.add("Slice", coefficients, starts, ends, axes)
    over = graph.constant("block_grid", np.array([2, 3], dtype=np.int64))
    mean = graph.add("ReduceMean", coefficients, over, keepdims=1)
    deviation = graph.add("Sub", coefficients, mean)
    variance = graph.add("ReduceMean", graph.add("Mul", deviation, deviation), over, keepdims=1)
    absolute = graph.add("ReduceMean", graph.add("Abs", coefficients), over, keepdims=1)
    shape = graph.constant("statistics_shape", np.array([-1, 3, 1, 64], dtype=np.int64))
    return graph.add("Reshape", graph.add("Concat", mean, variance, absolute, axis=1), shape)


def _levels(graph: _Graph, coefficients: str, steps: str, dead_zone: NDArray[np.float32] | None, name: str) -> None:
    """K = sign(C) floor(|C| / q + 1/2), 0 in the dead zone; two levels packed into an int32."""
    magnitude = graph.add("Abs", coefficients)
    rounded = graph.add("Floor", graph.add("Add", graph.add("Div", magnitude, steps), graph.scalar(0.5)))
    level = graph.add("Mul", graph.add("Sign", coefficients), rounded)
    if dead_zone is not None:
        thresholds = graph.constant(f"{name}_dead_zone", dead_zone.reshape(1, 64, 1, 1)[:, ZIGZAG])
        kept = graph.add("GreaterOrEqual", magnitude, graph.add("Mul", thresholds, steps))
        level = graph.add("Mul", level, graph.add("Cast", kept, to=TensorProto.FLOAT))
    blocks = graph.add("Cast", graph.add("Transpose", level, perm=[0, 2, 3, 1]), to=TensorProto.INT32)
    even, odd = (
        graph.add("Gather", blocks, graph.constant(f"places_{i}", np.arange(i, 64, 2)), axis=3) for i in range(2)
    )
    # In two's complement a negative low half borrows from the high one: low & 0xffff = low + 65536.
    borrow = graph.add("Cast", graph.add("Less", even, graph.scalar(0, np.int32)), to=TensorProto.INT32)
    high = graph.add("Mul", graph.add("Add", odd, borrow), graph.scalar(65536, np.int32))
    graph.add("Add", high, even, output=name)
