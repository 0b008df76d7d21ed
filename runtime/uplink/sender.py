"""Send JPEG files to an Open Inference Protocol server, several at a time, with bounded retries.

What this promises: each submitted frame ends as delivered or as failed, and is counted as one of them:
submitted = delivered + failed, once ``close`` has returned. It keeps frames in memory only; a frame may reach the
server more than once, when an answer was lost on the way, with the same id.
"""

from __future__ import annotations

import email.utils
import hashlib
import ipaddress
import platform
import random
import re
import ssl
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from edgejpeg._optional import require
from edgejpeg._version import __version__
from edgejpeg.errors import InvalidInputError, ServerError, TransportError
from edgejpeg.runtime.server.protocol import (
    HEADER_LENGTH,
    LOGITS,
    TOPK,
    OutputRequest,
    RequestError,
    build_infer_request,
    parse_logits_response,
    parse_topk_response,
)

if TYPE_CHECKING:
    import httpx

RETRY_STATUS = (408, 429, 502, 503, 504)
_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,64}")


@dataclass(frozen=True)
class Prediction:
    """One class of an answer: its probability, its index, and its name ("" when the model has none)."""

    probability: float
    index: int
    name: str


@dataclass(frozen=True)
class Result:
    """What became of one submitted frame.

    Attributes:
        id: device/stream/epoch-seq, unique to the frame, equal over its retries.
        classes: the most probable classes, best first; empty when the frame failed.
        latency_s: from the first attempt to the answer, retries and waits included.
        attempts: requests made.
        bytes: the JPEG's length.
        status: the last HTTP status, or None when there was no answer.
        error: one line when the frame failed, else None.
        name: what the caller called the frame.
        logits: what the network says, (classes,) float32, where the sender asks for it.
    """

    id: str
    classes: tuple[Prediction, ...]
    latency_s: float
    attempts: int
    bytes: int
    status: int | None = None
    error: str | None = None
    name: str = ""
    logits: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)

    @property
    def delivered(self) -> bool:
        """The server has answered with classes."""
        return self.error is None


@dataclass(frozen=True)
class _Answer:
    classes: tuple[Prediction, ...] = ()
    logits: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class SenderCounts:
    """submitted = delivered + failed + pending, at every moment."""

    submitted: int
    delivered: int
    failed: int

    @property
    def pending(self) -> int:
        """Frames whose end is not known yet."""
        return self.submitted - self.delivered - self.failed


@dataclass(frozen=True)
class RetryPolicy:
    """When to try again, and how long to wait before.

    The wait before retry n (from 0) is drawn evenly from 0 to min(longest, first * 2**n) seconds ("full jitter", so
    that many devices do not come back together), and is at least what a Retry-After header asks for, up to ``longest``.

    Attributes:
        retries: further attempts after the first, 0 to 100.
        first, longest: seconds.
    """

    retries: int = 5
    first: float = 0.2
    longest: float = 10.0

    def __post_init__(self) -> None:
        if not 0 <= self.retries <= 100:
            raise InvalidInputError(f"retries must be 0 to 100, got {self.retries}")
        if not 0 <= self.first <= self.longest < 3600:
            raise InvalidInputError(f"waits must be 0 <= first <= longest < 3600 s, got {self.first}, {self.longest}")

    def wait(self, retry: int, retry_after: float = 0.0) -> float:
        """Seconds to wait before the given retry."""
        jitter = random.uniform(0.0, min(self.longest, self.first * 2**retry))
        return max(jitter, min(retry_after, self.longest))


class Sender:
    """A connection to one model on one server.

    Args:
        url: the server, for example ``http://127.0.0.1:8000``; a path before ``/v2`` may follow.
        model: the model's name; None takes the only one that the server lists as ready.
        token: sent as ``Authorization: Bearer``.
        transport: an httpx transport, for tests and special networks.
        ca_file: PEM file of the authority, or of the server's own certificate, for TLS; the usual ones by default.
        timeout: seconds for each step of a request (connecting, sending, answering).
        retry: when and how often to try again.
        in_flight: requests at once; ``submit`` waits while so many are unanswered.
        device, stream: the first two parts of the ids, letters, digits, ``_``, ``-``, ``.``; the host's name and
            "0" by default.
        logits: ask for LOGITS too, 4 bytes a class in every answer, for :attr:`Result.logits`.

    Raises:
        InvalidInputError: an option is outside what is allowed.
        MissingDependencyError: httpx is not installed.

    Use it as a context manager, or call ``close``. ``submit`` may be called from several threads.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        token: str | None = None,
        transport: httpx.BaseTransport | None = None,
        ca_file: str | Path | None = None,
        timeout: float = 10.0,
        retry: RetryPolicy | None = None,
        in_flight: int = 4,
        device: str | None = None,
        stream: str = "0",
        logits: bool = False,
    ) -> None:
        self._httpx = require("httpx", extra="send", purpose="sending frames")
        if not 1 <= in_flight <= 256:
            raise InvalidInputError(f"in_flight must be 1 to 256, got {in_flight}")
        if not 0 < timeout < float("inf"):
            raise InvalidInputError(f"timeout must be above 0 seconds, got {timeout}")
        device = _host_name() if device is None else device
        for what, text in (("device", device), ("stream", stream)):
            if not _NAME.fullmatch(text):
                raise InvalidInputError(
                    f"{what} must be 1 to 64 letters, digits, '_', '-' or '.', as it is part of ids, got {text[:80]!r}"
                )
        self.url = self._check_url(url)
        self._model = model
        self._retry = retry or RetryPolicy()
        self._logits = logits
        self._outputs = (OutputRequest(TOPK, binary=False), *([OutputRequest(LOGITS, binary=True)] if logits else []))
        # Milliseconds since 1970 at the start: a restarted device does not reuse an id.
        self._prefix = f"{device}/{stream}/{time.time_ns() // 1_000_000}"
        self._client: httpx.Client = self._httpx.Client(
            transport=transport,
            verify=True if ca_file is None else _tls_context(ca_file),
            timeout=timeout,
            # A proxy from the environment cannot reach a server on this machine.
            trust_env=not _is_loopback(self._httpx.URL(self.url).host),
            headers={"User-Agent": f"edgejpeg/{__version__}"} | ({} if token is None else _authorization(token)),
            limits=self._httpx.Limits(max_connections=in_flight, max_keepalive_connections=in_flight),
        )
        self._pool = ThreadPoolExecutor(in_flight, thread_name_prefix="edgejpeg-send")
        self._places = threading.BoundedSemaphore(in_flight)
        self._give_up = threading.Event()
        self._closed = False
        self._lock = threading.Lock()
        self._submitted = self._delivered = self._failed = 0

    def __enter__(self) -> Sender:
        return self

    def __exit__(self, kind: type[BaseException] | None, *unused: object) -> None:
        self.close(wait=kind is None)

    @property
    def counts(self) -> SenderCounts:
        """The accounts, consistent among themselves."""
        with self._lock:
            return SenderCounts(self._submitted, self._delivered, self._failed)

    def connect(self) -> str:
        """Make sure that the server is there and has the model; returns the model's name.

        Raises:
            TransportError: the server cannot be reached.
            ServerError: it answers, but not as an Open Inference Protocol server with such a model, or wants a token.
        """
        if self._model is None:
            answer = self._ask("POST", "/v2/repository/index", "list its models (name one with --model)")
            ready = _ready_models(answer)
            if len(ready) != 1:
                raise ServerError(
                    f"{self.url} has {len(ready)} ready models{': ' if ready else ''}{', '.join(ready)[:300]}; "
                    "name one with --model"
                )
            self._model = ready[0]
        self._ask("GET", f"/v2/models/{quote(self._model, safe='')}", f"describe the model {self._model!r}")
        return self._model

    def submit(
        self,
        jpeg: bytes,
        *,
        name: str = "",
        capture_ts_ns: int | None = None,
        parameters: Mapping[str, str | int | float | bool] | None = None,
    ) -> Future[Result]:
        """Send one JPEG; waits while ``in_flight`` requests are unanswered.

        Args:
            jpeg: the file's bytes.
            name: for the result alone, not sent.
            capture_ts_ns: when the frame was taken, nanoseconds since 1970.
            parameters: further parameters of the request, such as ``profile_id``.

        Returns:
            A future of the result. It raises nothing: a frame that failed has ``error``.

        Raises:
            InvalidInputError: the sender is closed, or ``jpeg`` is empty.
            TransportError, ServerError: as :meth:`connect`, at the first submit without a model's name.
        """
        if not jpeg:
            raise InvalidInputError("submit needs the bytes of a JPEG, got none")
        model = self._model or self.connect()
        values: dict[str, Any] = {"sha256": hashlib.sha256(jpeg).hexdigest(), **(parameters or {})}
        if capture_ts_ns is not None:
            values["capture_ts_ns"] = capture_ts_ns
        path = f"/v2/models/{quote(model, safe='')}/infer"
        self._places.acquire()
        with self._lock:
            if self._closed:
                self._places.release()
                raise InvalidInputError("submit after close; make a new Sender")
            request_id = f"{self._prefix}-{self._submitted}"
            body, headers = build_infer_request([jpeg], request_id=request_id, parameters=values, outputs=self._outputs)
            future = self._pool.submit(self._deliver, request_id, path, body, headers, len(jpeg), name)
            self._submitted += 1
            return future

    def close(self, *, wait: bool = True) -> None:
        """End: no more submits. With ``wait`` every pending frame is seen through, else retries are given up."""
        with self._lock:
            self._closed = True
        if not wait:
            self._give_up.set()
        self._pool.shutdown(wait=True)
        self._client.close()

    def _deliver(
        self, request_id: str, path: str, body: bytes, headers: dict[str, str], size: int, name: str
    ) -> Result:
        begin = time.perf_counter()
        answer = _Answer()
        status: int | None = None
        error: str | None = "not sent: the sender was closed"
        attempts = 0
        try:
            while not self._give_up.is_set():
                attempts += 1
                status, error, answer, retry_after = self._attempt(request_id, path, body, headers)
                if error is None or retry_after is None or attempts > self._retry.retries:
                    break
                self._give_up.wait(self._retry.wait(attempts - 1, retry_after))
            seconds = time.perf_counter() - begin
            return Result(request_id, answer.classes, seconds, attempts, size, status, error, name, answer.logits)
        except BaseException as failure:
            error = f"{type(failure).__name__}: {failure}"
            raise
        finally:
            with self._lock:
                if error is None:
                    self._delivered += 1
                else:
                    self._failed += 1
            self._places.release()

    def _attempt(
        self, request_id: str, path: str, body: bytes, headers: dict[str, str]
    ) -> tuple[int | None, str | None, _Answer, float | None]:
        """One request: status, error or None, answer, and seconds to wait if trying again makes sense, else None."""
        nothing = _Answer()
        try:
            response = self._client.post(self.url + path, content=body, headers=headers)
        except self._httpx.TransportError as error:
            return None, f"no answer from {self.url}: {_reason(error)}", nothing, 0.0
        except self._httpx.HTTPError as error:
            return None, f"the exchange with {self.url} failed: {_reason(error)}", nothing, None
        if response.status_code != 200:
            again = _retry_after(response) if response.status_code in RETRY_STATUS else None
            return response.status_code, _answer_text(self.url, response), nothing, again
        length = response.headers.get(HEADER_LENGTH)
        try:
            answered_id, rows = parse_topk_response(response.content, length)
            classes = tuple(_parse_prediction(text) for text in rows[0]) if len(rows) == 1 else ()
            logits = parse_logits_response(response.content, length) if self._logits else None
        except (RequestError, ValueError) as error:
            return 200, f"{self.url} answered 200 with something else than {error}", nothing, None
        if not classes or answered_id not in (None, request_id) or (logits is not None and len(logits) != 1):
            return 200, f"{self.url} answered 200 for another request than {request_id}", nothing, None
        return 200, None, _Answer(classes, None if logits is None else logits[0]), None

    def _ask(self, method: str, path: str, purpose: str) -> Any:
        try:
            response = self._client.request(method, self.url + path)
        except self._httpx.HTTPError as error:
            raise TransportError(
                f"no server answers at {self.url}: {_reason(error)}; start one with: edgejpeg serve --model model.onnx"
            ) from error
        if response.status_code != 200:
            raise ServerError(f"{_answer_text(self.url, response)} (asked to {purpose})")
        try:
            return response.json()
        except ValueError as error:
            raise ServerError(f"{self.url} is no Open Inference Protocol server: it did not {purpose}") from error

    def _check_url(self, url: str) -> str:
        try:
            parsed = self._httpx.URL(url)
        except (self._httpx.InvalidURL, TypeError) as error:
            raise InvalidInputError(f"{url!r} is no URL: {error}; for example http://127.0.0.1:8000") from error
        good_port = parsed.port is None or 0 < parsed.port <= 65535
        if (
            parsed.scheme not in ("http", "https")
            or not parsed.host
            or parsed.query
            or parsed.fragment
            or not good_port
        ):
            raise InvalidInputError(f"the server's URL must be http://HOST:PORT or https://HOST:PORT, got {url!r}")
        return url.rstrip("/")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _authorization(token: str) -> dict[str, str]:
    if not (token and token.isascii() and token.isprintable()):
        raise InvalidInputError("the token must be printable ASCII and not empty")
    return {"Authorization": f"Bearer {token}"}


def _tls_context(ca_file: str | Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(ca_file))
    except OSError as error:
        raise InvalidInputError(f"no certificate can be read from {ca_file}: {error}") from error


def _ready_models(answer: object) -> list[str]:
    entries = answer if isinstance(answer, list) else []
    names = [
        str(entry["name"])
        for entry in entries
        if isinstance(entry, dict) and "name" in entry and entry.get("state", "READY") == "READY"
    ]
    return sorted(set(names))


def _answer_text(url: str, response: httpx.Response) -> str:
    text = response.text[:300]
    try:
        message = response.json()["error"]
        text = message if isinstance(message, str) else text
    except (ValueError, KeyError, TypeError):
        pass
    return f"{url} answered {response.status_code}: {' '.join(text.split()) or response.reason_phrase}"


def _retry_after(response: httpx.Response) -> float:
    """Seconds of a Retry-After header, a number or a date; 0 without one or with nonsense."""
    text = response.headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _parse_prediction(text: str) -> Prediction:
    probability, index, *name = text.split(":", 2)
    return Prediction(float(probability), int(index), name[0] if name else "")


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _host_name() -> str:
    name = re.sub(r"[^A-Za-z0-9_.\-]", "-", platform.node())[:64]
    return name or "device"
