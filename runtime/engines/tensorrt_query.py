"""One inference of a TensorRT engine: stream, execution context, buffers on both sides, events, a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgejpeg.errors import InvalidInputError, ModelError
from edgejpeg.runtime.engines.base import Trace
from edgejpeg.runtime.engines.cuda import DeviceArray, PinnedArray, device_view, is_device_array
from edgejpeg.runtime.engines.driver import Driver

if TYPE_CHECKING:
    from edgejpeg.runtime.engines.tensorrt import TensorRtEngine


class Lane:
    """A stream with an execution context, whose queries run one after the other."""

    def __init__(self, driver: Driver, context: Any, failure: Callable[[str], Exception]) -> None:
        self.driver, self.context, self.failure = driver, context, failure
        self.stream = driver.new_stream()
        # The context is set for one query's shapes and buffers at a time.
        self.holder: TensorRtQuery | None = None

    def close(self) -> None:
        """Wait for the stream, then free the context and it."""
        if self.context is not None:
            self.driver.wait_stream(self.stream)
            self.context = None
            self.driver.destroy_stream(self.stream)


class TensorRtQuery:
    """Buffers, events and perhaps a CUDA graph for one inference at a time.

    Args:
        engine: it belongs to.
        lane: it runs on.
        shapes: of the inputs, inside the engine's profile.
        transfers: copy inputs and outputs at each inference; else inputs once and outputs when they are asked for.
        spin: wait by spinning.
    """

    def __init__(
        self,
        engine: TensorRtEngine,
        lane: Lane,
        shapes: Mapping[str, tuple[int, ...]],
        *,
        transfers: bool = True,
        spin: bool = True,
    ) -> None:
        self.shapes, self._engine, self._lane, self._transfers = dict(shapes), engine, lane, transfers
        self._driver = lane.driver
        self._pinned: dict[str, PinnedArray] = {}
        self._device: dict[str, DeviceArray] = {}
        self._views: dict[str, Any] = {}
        self._events: list[int] = []
        self._graph = 0
        self._closed = False
        self._enqueued = (0.0, 0.0)
        try:
            self._set_shapes()
            for spec in (*engine.inputs, *engine.outputs):
                shape = self.shapes.get(spec.name) or tuple(int(n) for n in lane.context.get_tensor_shape(spec.name))
                if min(shape, default=1) < 0:
                    raise ModelError(
                        f"{engine.path.name}: the shape of output {spec.name!r} depends on the input's values, which "
                        "is not supported"
                    )
                assert spec.dtype is not None  # the engine has refused other types
                self._pinned[spec.name] = PinnedArray(self._driver, shape, spec.dtype)
                self._device[spec.name] = DeviceArray(self._driver, shape, spec.dtype)
            self._events = [self._driver.new_event(spin=spin) for _ in range(4)]
        except BaseException:
            self.close()
            raise

    def bind(self, feeds: Mapping[str, Any]) -> None:
        """Take the inputs: NumPy's are copied to page-locked memory, those on the GPU are used where they are.

        Raises:
            InvalidInputError: another type or shape than the engine's and the query's.
        """
        self._views = {}
        for spec in self._engine.inputs:
            value = feeds[spec.name]
            on_device = is_device_array(value)
            source = device_view(value, self._driver) if on_device else np.asarray(value)
            if source.dtype != spec.dtype or tuple(source.shape) != self.shapes[spec.name]:
                raise InvalidInputError(
                    f"input {spec.name!r} of {self._engine.path.name} is {spec.dtype} of shape "
                    f"{self.shapes[spec.name]}; got {source.dtype} of shape {tuple(source.shape)}"
                )
            if on_device:
                self._views[spec.name] = source
            else:
                assert spec.dtype is not None  # the engine has refused other types
                self._pinned[spec.name].array[...] = source
        self._lane.holder = None
        if not self._transfers:
            self._copy_inputs()
            self._driver.wait_stream(self._lane.stream)

    def _set_shapes(self) -> None:
        for name, shape in self.shapes.items():
            if not self._lane.context.set_input_shape(name, shape):
                raise self._lane.failure(f"refused the shape {shape} of input {name!r}")

    def _hold(self) -> None:
        """Point the lane's context at these buffers."""
        if self._lane.holder is self:
            return
        self._set_shapes()
        for name, array in self._device.items():
            pointer = self._views[name].pointer if name in self._views else array.pointer
            if not self._lane.context.set_tensor_address(name, pointer):
                raise self._lane.failure(f"refused the memory of tensor {name!r}")
        self._lane.holder = self

    def _copy_inputs(self) -> None:
        for spec in self._engine.inputs:
            if spec.name not in self._views:
                pinned, device = self._pinned[spec.name], self._device[spec.name]
                self._driver.to_device(device.pointer, pinned.pointer, pinned.nbytes, self._lane.stream)

    def _copy_outputs(self) -> None:
        for spec in self._engine.outputs:
            pinned, device = self._pinned[spec.name], self._device[spec.name]
            self._driver.to_host(pinned.pointer, device.pointer, pinned.nbytes, self._lane.stream)

    def _execute(self) -> None:
        if not self._lane.context.execute_async_v3(self._lane.stream):
            raise self._lane.failure("failed to run")

    def warm_up(self, *, graph: bool) -> None:
        """Run once, and record the work into a CUDA graph when one is wanted."""
        self.enqueue()
        self.wait()
        if graph:
            self._graph = self._driver.capture(self._lane.stream, self._execute)

    def enqueue(self) -> None:
        """Queue the transfers and the network.

        Raises:
            ModelError: TensorRT refused.
            DeviceError: the driver refused.
        """
        stream, driver = self._lane.stream, self._driver
        copied_in, start, end, copied_out = self._events
        driver.record(copied_in, stream)
        if self._transfers:
            self._copy_inputs()
        driver.record(start, stream)
        before = self._engine.milliseconds()
        if self._graph:
            driver.launch_graph(self._graph, stream)
        else:
            self._hold()
            self._execute()
        self._enqueued = before, self._engine.milliseconds()
        driver.record(end, stream)
        if self._transfers:
            self._copy_outputs()
        driver.record(copied_out, stream)

    def wait(self) -> Trace:
        """Wait until the outputs are there."""
        self._driver.wait_event(self._events[-1])
        h2d, start, end, d2h = (self._engine.event_milliseconds(event) for event in self._events)
        if not self._transfers:
            h2d, d2h = start, end
        return Trace(*self._enqueued, h2d, start, start, end, end, d2h)

    def outputs(self) -> list[npt.NDArray[Any]]:
        """Of the last inference, in memory that the next one overwrites."""
        if not self._transfers:
            self._copy_outputs()
            self._driver.wait_stream(self._lane.stream)
        return [self._pinned[spec.name].array for spec in self._engine.outputs]

    def close(self) -> None:
        """Wait for the stream, then free graph, events and buffers. Closing twice does nothing."""
        if self._closed:
            return
        self._closed = True
        self._driver.wait_stream(self._lane.stream)
        if self._lane.holder is self:
            self._lane.holder = None
        if self._graph:
            self._driver.destroy_graph(self._graph)
        for event in self._events:
            self._driver.destroy_event(event)
        for pinned in self._pinned.values():
            pinned.close()
        for device in self._device.values():
            device.close()
