"""What the server does with one request, without HTTP: inflate, parse, decode, run, answer; a bounded queue; counts."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edgejpeg.errors import InvalidInputError
from edgejpeg.runtime.server.decode import MAX_PIXELS, images_to_batch
from edgejpeg.runtime.server.model import ServedModel
from edgejpeg.runtime.server.protocol import (
    LOGITS,
    InferRequest,
    OutputRequest,
    OutputTensor,
    RequestError,
    build_infer_response,
    classification_rows,
    inflate_body,
    parse_infer_request,
)

RETRY_AFTER_S = 1


@dataclass(frozen=True)
class Limits:
    """What one request, and all of them together, may cost.

    Attributes:
        max_body: bytes of a body, as declared, as received and after inflation.
        max_pixels: pixels of all images of a request together.
        max_images: images in a request.
        queue: requests that may wait beside those being worked on; the next is answered 503.
        body_timeout: seconds for a body to arrive.
    """

    max_body: int = 8 << 20
    max_pixels: int = MAX_PIXELS
    max_images: int = 32
    queue: int = 16
    body_timeout: float = 10.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            smallest = 0 if name == "queue" else 1e-3 if name == "body_timeout" else 1
            if not smallest <= value < float("inf"):
                raise InvalidInputError(f"{name} must be at least {smallest}, got {value}")


@dataclass
class _Clock:
    count: int = 0
    ns: int = 0

    def add(self, ns: int, count: int = 1) -> None:
        self.count += count
        self.ns += ns


@dataclass
class Statistics:
    """Counts and times in the shape of the protocol's statistics extension; guarded by the service's lock."""

    inference_count: int = 0
    execution_count: int = 0
    last_inference_ms: int = 0
    clocks: dict[str, _Clock] = field(
        default_factory=lambda: {
            name: _Clock()
            for name in (
                "success",
                "fail",
                "queue",
                "compute_input",
                "compute_infer",
                "compute_output",
                "cache_hit",
                "cache_miss",
            )
        }
    )


class InferenceService:
    """A model, a pool of threads and a bounded queue.

    Args:
        model: the network.
        limits: what requests may cost.
        topk: classes in TOPK, at least 1; at most the network's classes are given.
        threads: requests worked on at once; None for one per core.

    Use it as a context manager, or call ``close``.
    """

    def __init__(
        self, model: ServedModel, *, limits: Limits | None = None, topk: int = 5, threads: int | None = None
    ) -> None:
        threads = (os.cpu_count() or 1) if threads is None else threads
        if threads < 1:
            raise InvalidInputError(f"threads must be at least 1, got {threads}")
        if topk < 1:
            raise InvalidInputError(f"topk must be at least 1, got {topk}")
        self.model = model
        self.limits = limits or Limits()
        self.topk = min(topk, model.num_classes)
        self.threads = threads
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="edgejpeg-infer")
        self._statistics = Statistics()
        self._admitted = 0
        self._lock = threading.Lock()

    def __enter__(self) -> InferenceService:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def close(self) -> None:
        """Wait for the requests being worked on and end the threads."""
        self.pool.shutdown(wait=True, cancel_futures=True)

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Hold a place in the queue, from before the body is read until the answer is made.

        Raises:
            RequestError: 503, the queue is full.
        """
        with self._lock:
            if self._admitted >= self.threads + self.limits.queue:
                raise RequestError(
                    f"busy: {self._admitted} requests are in work or waiting; try again", 503, RETRY_AFTER_S
                )
            self._admitted += 1
        try:
            yield
        finally:
            with self._lock:
                self._admitted -= 1

    def infer(
        self,
        body: bytes,
        header_length: str | None = None,
        encoding: str | None = None,
        bare_outputs: Sequence[str] | None = None,
        received_ns: int | None = None,
    ) -> tuple[bytes, dict[str, str]]:
        """Answer one request's body; runs on the pool's threads.

        Args:
            body: as received.
            header_length, bare_outputs: see :func:`~edgejpeg.runtime.server.protocol.parse_infer_request`.
            encoding: Content-Encoding.
            received_ns: ``time.perf_counter_ns()`` when the body was complete, for the statistics.

        Returns:
            The answer's body and headers.

        Raises:
            RequestError: the request is at fault. ModelError: the network is.
        """
        begin = time.perf_counter_ns()
        marks = [begin if received_ns is None else received_ns, begin]
        images = 0
        try:
            plain = inflate_body(body, encoding, self.limits.max_body)
            request = parse_infer_request(plain, header_length, bare_outputs)
            self._check(request)
            batch = images_to_batch(request.images, self.model.spec, self.limits.max_pixels)
            marks.append(time.perf_counter_ns())
            scores = self.model.predict(batch)
            marks.append(time.perf_counter_ns())
            tensors = [self._tensor(output, scores) for output in request.outputs]
            answer = build_infer_response(self.model.name, self.model.version, tensors, request.id)
            marks.append(time.perf_counter_ns())
            images = len(batch)
            return answer
        finally:
            self._record(images, marks)

    def metadata(self) -> dict[str, Any]:
        """The protocol's model metadata."""
        return {
            "name": self.model.name,
            "versions": [self.model.version],
            "platform": "onnxruntime_onnx",
            "inputs": [{"name": "IMAGE", "datatype": "BYTES", "shape": [-1, 1]}],
            "outputs": [
                {"name": "LOGITS", "datatype": "FP32", "shape": [-1, self.model.num_classes]},
                {"name": "TOPK", "datatype": "BYTES", "shape": [-1, self.topk]},
            ],
        }

    def config(self) -> dict[str, Any]:
        """The model configuration extension, as much of it as perf_analyzer reads."""
        return {
            "name": self.model.name,
            "platform": "onnxruntime_onnx",
            "backend": "onnxruntime",
            "max_batch_size": self.limits.max_images,
            "input": [{"name": "IMAGE", "data_type": "TYPE_STRING", "dims": [1]}],
            "output": [
                {"name": "LOGITS", "data_type": "TYPE_FP32", "dims": [self.model.num_classes]},
                {"name": "TOPK", "data_type": "TYPE_STRING", "dims": [self.topk]},
            ],
        }

    def statistics(self) -> dict[str, Any]:
        """The statistics extension: since the start, times in nanoseconds."""
        with self._lock:
            now = self._statistics
            return {
                "model_stats": [
                    {
                        "name": self.model.name,
                        "version": self.model.version,
                        "last_inference": now.last_inference_ms,
                        "inference_count": now.inference_count,
                        "execution_count": now.execution_count,
                        "inference_stats": {
                            name: {"count": clock.count, "ns": clock.ns} for name, clock in now.clocks.items()
                        },
                        "batch_stats": [],
                    }
                ]
            }

    def _check(self, request: InferRequest) -> None:
        if len(request.images) > self.limits.max_images:
            raise RequestError(
                f"the request has {len(request.images)} images, at most {self.limits.max_images} are allowed", 413
            )
        digest = request.parameters.get("sha256")
        if digest is not None:
            found = hashlib.sha256(b"".join(request.images)).hexdigest()
            if found != digest:
                raise RequestError(
                    f"the images do not have the sha256 {str(digest)[:70]!r} that the request says, but {found}"
                )

    def _tensor(self, output: OutputRequest, scores: npt.NDArray[np.float32]) -> OutputTensor:
        if output.name == LOGITS and not output.classification:
            return OutputTensor(LOGITS, scores, output.binary)
        k = min(output.classification or self.topk, self.model.num_classes)
        values = scores if output.classification else self.model.probabilities(scores)
        return OutputTensor(output.name, classification_rows(values, k, self.model.class_names), output.binary)

    def _record(self, images: int, marks: Sequence[int]) -> None:
        """``marks``: received, begun, decoded, inferred, answered; a failed request has fewer of them."""
        now = time.perf_counter_ns()
        with self._lock:
            clocks = self._statistics.clocks
            if not images:
                clocks["fail"].add(now - marks[0])
                return
            self._statistics.inference_count += images
            self._statistics.execution_count += 1
            self._statistics.last_inference_ms = time.time_ns() // 1_000_000
            clocks["success"].add(now - marks[0])
            for name, start, end in zip(
                ("queue", "compute_input", "compute_infer", "compute_output"), marks, marks[1:], strict=False
            ):
                clocks[name].add(end - start)
